"""The house stands as it is drawn, in a checkout and in a wheel."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def python(*args: str, cwd: Path = ROOT, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *args], cwd=cwd, env={**os.environ, **env},
                          capture_output=True, text=True, timeout=300)


def test_hugging_faces_datasets_is_found_in_the_root() -> None:
    done = python("-c", "import datasets; datasets.load_dataset; print(datasets.__file__)")
    assert done.returncode == 0, done.stderr
    assert "site-packages" in done.stdout


def test_the_folder_of_cards_holds_no_python() -> None:
    assert not [p for p in (ROOT / "datasets").rglob("*") if p.suffix not in (".toml", "")]


def test_no_file_is_long_and_none_is_called_utils() -> None:
    for folder in ("bench", "methods", "tests"):
        for path in (ROOT / folder).rglob("*.py"):
            assert path.stem not in ("utils", "helpers", "common"), path
            assert len(path.read_text().splitlines()) <= 400, path


def test_the_top_level_is_what_users_expect() -> None:
    for name in ("pyproject.toml", "bench", "methods", "datasets", "results", "tests",
                 "leaderboard", "README.md", "Makefile", "LICENSE", "CITATION.cff"):
        assert (ROOT / name).exists(), name


def test_help_needs_no_torch() -> None:
    done = python("-X", "importtime", "-m", "bench", "--help")
    assert done.returncode == 0, done.stderr
    assert "publish" in done.stdout
    for heavy in ("torch", "numpy", "pandas", "quantus"):
        assert f"| {heavy}\n" not in done.stderr, f"heatproof --help imports {heavy}"


@pytest.mark.slow
def test_the_wheel_runs_a_suite_from_another_folder(tmp_path: Path, tiny: Path) -> None:
    built = python("-m", "build", "--wheel", "--no-isolation", "-o", str(tmp_path / "dist"), ".")
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    site = tmp_path / "site"
    done = python("-m", "pip", "install", "--no-deps", "--quiet", "--target", str(site), str(wheel))
    assert done.returncode == 0, done.stderr
    where = python("-c", "import bench; print(bench.__file__)", cwd=tmp_path, PYTHONPATH=str(site))
    assert where.stdout.startswith(str(site)), where.stdout
    command = str(site / "bin" / "heatproof")
    for args, says in [
        (("list",), "softcam"),
        (("run", str(tiny), "--out", "out", "--jobs", "1"), "5 done"),
        (("publish", "out/tiny", "--out", "board"), "index.html"),
    ]:
        done = python(command, *args, cwd=tmp_path, PYTHONPATH=str(site), COLUMNS="200")
        assert done.returncode == 0, done.stdout + done.stderr
        assert says in done.stdout
    assert (tmp_path / "board" / "tiny" / "index.html").is_file()
