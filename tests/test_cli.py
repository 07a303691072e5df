"""The verbs, as a person types them: what they print, how they end."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


def heatproof(*args: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    if args[0] == "run":  # by itself: what is wrong is told before any worker is needed
        args = (*args, "--jobs", "1")
    return subprocess.run(
        [sys.executable, "-m", "bench", *args], cwd=cwd, capture_output=True, text=True,
        timeout=300, env={**os.environ, "COLUMNS": "160", **env})


def test_list_shows_all_kinds(tmp_path: Path) -> None:
    done = heatproof("list", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for name in ("softcam", "gradcam", "oracle", "fashion-mnist", "phantom",
                 "quantus/PixelFlipping", "accuracy", "proven-1", "demo"):
        assert name in done.stdout


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
    tmp_path: Path, tiny: Path, args: tuple[str, ...], says: str,
) -> None:
    (tmp_path / "backbone.toml").write_text(
        tiny.read_text().replace('name = "resnet18"', 'name = "resnet_18"'))
    done = heatproof(*args, cwd=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    told = [line for line in done.stderr.splitlines() if line.startswith("heatproof:")]
    assert len(told) == 1
    assert says in done.stderr.replace("\n", " ")
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.rglob("*.parquet"))


def test_missing_data_stop_a_run_before_anything_is_written(tmp_path: Path, tiny: Path) -> None:
    tiny.write_text(tiny.read_text().replace("[dataset.digits", "[dataset.mnist"))
    folder = tmp_path / "data" / "mnist"
    folder.mkdir(parents=True)
    done = heatproof("run", str(tiny), cwd=tmp_path, HEATPROOF_DATA=str(tmp_path / "data"))
    assert done.returncode == 2
    assert "cannot read" in done.stderr
    (folder / "train-images-idx3-ubyte.gz").write_bytes(b"something else")
    done = heatproof("run", str(tiny), cwd=tmp_path, HEATPROOF_DATA=str(tmp_path / "data"))
    assert done.returncode == 2
    assert "has checksum" in done.stderr
    assert not (tmp_path / "results").exists()


def test_plan_shows_what_is_to_do(tmp_path: Path, tiny: Path) -> None:
    done = heatproof("plan", str(tiny), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "5 runs on 2 networks, 4 metrics" in done.stdout
    assert "to train" in done.stdout


def test_check_passes_a_method_and_fails_a_broken_one(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text(
        "import torch, bench\n\n\n@bench.method('bad')\nclass Bad(bench.Method):\n"
        "    def explain(self, net, batch, target):\n"
        "        return batch.x[:, 0] * float('nan')\n")
    done = heatproof("check", "bad", "--plugin", "bad.py", cwd=tmp_path)
    assert done.returncode == 1
    assert "FAIL bad, 1 channels: maps are finite" in done.stdout
    assert heatproof("check", "accuracy", cwd=tmp_path).returncode == 0
    assert heatproof("check", "demo", cwd=tmp_path).returncode == 0


def test_debug_shows_the_traceback_wherever_it_stands(tmp_path: Path) -> None:
    for args in (("--debug", "list", "method"), ("list", "method", "--debug")):
        done = heatproof(*args, cwd=tmp_path)
        assert done.returncode == 2
        assert "Traceback" in done.stderr
        assert "did you mean 'methods'" in done.stderr
