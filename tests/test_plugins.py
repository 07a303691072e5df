"""The door: a stranger's method in one file or one package, and what goes wrong with it."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bench import plugins, testing
from bench.core import HeatproofError, Method

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def example() -> str:
    """The README's plugin, to the letter."""
    found = re.search(r"<!-- example: greyout.py -->\n```python\n(.*?)```", README, re.DOTALL)
    assert found
    return found.group(1)


def heatproof(*args: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bench", *args], cwd=cwd, capture_output=True, text=True,
        timeout=300, env={**os.environ, "COLUMNS": "200", **env})


def asked(suite: Path, contestants: str) -> None:
    """Has the tiny suite ask for other contestants, and for one metric that explains once."""
    text = suite.read_text().replace('"noise"', contestants)
    metrics = '"accuracy", "quantus/PixelFlipping", "quantus/PointingGame", "quantus/MPRT"'
    dropped = '[metric."quantus/MPRT"]\nskip_layers = true\n'
    assert metrics in text
    assert dropped in text
    suite.write_text(text.replace(metrics, '"quantus/PixelFlipping"').replace(dropped, ""))


def test_the_readmes_example_is_under_30_lines() -> None:
    assert len(example().splitlines()) < 30


@pytest.mark.usefixtures("door")
def test_the_readmes_example_keeps_the_contract(tmp_path: Path) -> None:
    (tmp_path / "greyout.py").write_text(example())
    plugins.load([tmp_path / "greyout.py"])
    failed = [f for f in testing.check_method(plugins.methods["greyout"]) if not f.ok]
    assert not failed


def test_the_example_runs_as_a_file_from_another_folder(tmp_path: Path, tiny: Path) -> None:
    (tmp_path / "greyout.py").write_text(example())
    asked(tiny, '"greyout", "greyout@softcam"')
    done = heatproof("run", str(tiny), "--plugin", "greyout.py", "--jobs", "2",
                     "--only", "greyout", "--only", "greyout@softcam", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for name in ("greyout", "greyout@softcam"):
        (run,) = (tmp_path / "results" / "tiny" / "digits" / name).iterdir()
        assert (run / "scores" / "quantus" / "PixelFlipping.parquet").is_file()


@pytest.mark.slow
def test_the_example_runs_as_an_installed_package_from_another_folder(
    tmp_path: Path, tiny: Path,
) -> None:
    site = tmp_path / "site"
    info = site / "greyout-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "greyout.py").write_text(example())
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: greyout\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[bench.plugins]\ngreyout = greyout\n")
    asked(tiny, '"greyout"')
    done = heatproof("run", str(tiny), "--only", "greyout", "--jobs", "1", cwd=tmp_path,
                     PYTHONPATH=str(site))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "results" / "tiny" / "digits" / "greyout").is_dir()


@pytest.mark.usefixtures("door")
def test_a_name_taken_twice_raises_and_names_both(tmp_path: Path) -> None:
    (tmp_path / "again.py").write_text(example().replace('"greyout"', '"gradcam"'))
    with pytest.raises(HeatproofError, match=r"bench\.methods\.cams and again by heatproof_plugin"):
        plugins.load([tmp_path / "again.py"])
    assert plugins.methods.origins["gradcam"] == "bench.methods.cams"


@pytest.mark.usefixtures("door")
def test_a_broken_file_raises_and_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text(example() + "\nraise RuntimeError('late trouble')\n")
    with pytest.raises(HeatproofError, match=r"broken\.py failed: RuntimeError: late trouble"):
        plugins.load([tmp_path / "broken.py"])
    assert "greyout" not in plugins.methods
    with pytest.raises(HeatproofError, match="there is no plugin file"):
        plugins.load([tmp_path / "absent.py"])


def test_a_broken_package_is_listed_and_harms_nothing_else(tmp_path: Path) -> None:
    info = tmp_path / "site" / "broken-1.0.dist-info"
    info.mkdir(parents=True)
    (tmp_path / "site" / "broken_plugin.py").write_text("import no_such_library\n")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[bench.plugins]\nbroken = broken_plugin\n")
    done = heatproof("list", "methods", cwd=tmp_path, PYTHONPATH=str(tmp_path / "site"))
    assert done.returncode == 0
    assert "no_such_library" in done.stderr
    assert "softcam" in done.stdout


@pytest.mark.parametrize("name", ["plain", "", "a@b", "a b", "../a"])
def test_a_name_that_would_confuse_is_refused(name: str) -> None:
    with pytest.raises(HeatproofError, match="must not be empty"):
        plugins.Registry[int]("method").add(name, 1, "here")


@pytest.mark.usefixtures("door")
def test_a_method_without_a_version_is_known_by_its_source(tmp_path: Path) -> None:
    path = tmp_path / "greyout.py"
    path.write_text(example())
    plugins.load([path])
    source = hashlib.sha256(example().encode()).hexdigest()[:12]
    assert plugins.version_of(plugins.methods["greyout"]) == source
    assert plugins.version_of(plugins.methods["gradcam"]) == plugins.methods["gradcam"].version


def test_only_a_method_is_registered_as_one() -> None:
    with pytest.raises(HeatproofError, match=r"derived from bench\.Method"):
        plugins.method("thing")(int)  # type: ignore[type-var]
    with pytest.raises(HeatproofError, match="no network of its own"):
        plugins.trainer("gradcam")
    assert issubclass(plugins.trainer("softcam"), Method)
