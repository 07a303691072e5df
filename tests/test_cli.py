"""The verbs, as a person types them: what they print, how they end."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever types a command stands in a folder of their own."""
    monkeypatch.chdir(tmp_path)


def test_list_shows_all_kinds(heatproof) -> None:
    done = heatproof("list")
    assert done.code == 0, done.err
    for name in ("softcam", "gradcam", "oracle", "fashion-mnist", "phantom",
                 "quantus/PixelFlipping", "accuracy", "proven-1", "demo"):
        assert name in done.out


@pytest.mark.parametrize(("args", "says"), [
    (("run", "demmo"), "unknown suite 'demmo'; did you mean 'demo'"),
    (("run", "tiny.toml", "--only", "gradcan"), "did you mean 'gradcam'"),
    (("run", "tiny.toml", "--device", "cuda:9"), "try --device cpu"),
    (("run", "tiny.toml", "--plugin", "absent.py"), "there is no plugin file absent.py"),
    (("run", "tiny.toml", "--out", "/sys/x"), "give another folder"),
    (("run", "backbone.toml"), "did you mean 'resnet18'"),
    (("list", "method"), "did you mean 'methods'"),
    (("publish", "nowhere"), "holds no results"),
    (("check", "grad-cam"), "did you mean 'gradcam'"),
])
def test_bad_input_is_one_line_and_exit_code_2(
    heatproof, tmp_path: Path, tiny: Path, args: tuple[str, ...], says: str,
) -> None:
    (tmp_path / "backbone.toml").write_text(
        tiny.read_text().replace('name = "resnet18"', 'name = "resnet_18"'))
    # By itself: what is wrong is told before any worker is needed.
    done = heatproof(*args, *(("--jobs", "1") if args[0] == "run" else ()))
    assert done.code == 2, done.out + done.err
    told = [line for line in done.err.splitlines() if line.startswith("heatproof:")]
    assert len(told) == 1
    assert says in done.err.replace("\n", " ")
    assert "Traceback" not in done.err
    assert not list(tmp_path.rglob("*.parquet"))


def test_the_process_itself_ends_bad_input_with_one_line_and_exit_code_2(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "bench", "publish", "nowhere"], cwd=tmp_path,
                          capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    assert done.stderr.startswith("heatproof:")
    assert "holds no results" in done.stderr
    assert "Traceback" not in done.stderr
    assert not done.stdout


def test_missing_data_stop_a_run_before_anything_is_written(
    heatproof, tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    tiny.write_text(tiny.read_text().replace("[dataset.digits", "[dataset.mnist"))
    folder = tmp_path / "data" / "mnist"
    folder.mkdir(parents=True)
    monkeypatch.setenv("HEATPROOF_DATA", str(tmp_path / "data"))
    done = heatproof("run", tiny, "--jobs", "1")
    assert done.code == 2
    assert "cannot read" in done.err
    (folder / "train-images-idx3-ubyte.gz").write_bytes(b"something else")
    done = heatproof("run", tiny, "--jobs", "1")
    assert done.code == 2
    assert "has checksum" in done.err
    assert not (tmp_path / "results").exists()


def test_plan_shows_what_is_to_do(heatproof, tiny: Path) -> None:
    done = heatproof("plan", tiny)
    assert done.code == 0, done.err
    assert "5 runs on 2 networks, 4 metrics" in done.out
    assert "to train" in done.out


def test_check_passes_a_method_and_fails_a_broken_one(heatproof, tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text(
        "import torch, bench\n\n\n@bench.method('bad')\nclass Bad(bench.Method):\n"
        "    def explain(self, net, batch, target):\n"
        "        return batch.x[:, 0] * float('nan')\n")
    done = heatproof("check", "bad", "--plugin", "bad.py")
    assert done.code == 1
    assert "FAIL bad, 1 channels: maps are finite" in done.out
    assert heatproof("check", "accuracy").code == 0
    assert heatproof("check", "demo").code == 0


def test_debug_shows_the_traceback_wherever_it_stands(heatproof) -> None:
    for args in (("--debug", "list", "method"), ("list", "method", "--debug")):
        done = heatproof(*args)
        assert done.code == 2
        assert "Traceback" in done.err
        assert "did you mean 'methods'" in done.err
