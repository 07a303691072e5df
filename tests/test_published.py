"""The boards that are kept beside the code are what their results give, byte for byte."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.core import HOME
from bench.store import read_json

KEPT = sorted(path.parent.name for path in (HOME / "results").glob("*/plan.json"))

ALIKE = {
    "OPENBLAS_CORETYPE": "Haswell",
    "NPY_DISABLE_CPU_FEATURES": "AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL"}
"""Every processor of the last ten years adds in the same order under these."""


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes()
            for path in sorted(folder.rglob("*")) if path.is_file()}


def test_two_suites_on_real_data_are_kept() -> None:
    assert {"digits", "fashion-mnist-small"} <= set(KEPT)


@pytest.mark.slow
@pytest.mark.parametrize("suite", KEPT)
def test_a_kept_board_is_made_of_its_results_alone(suite: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench", "publish", str(HOME / "results" / suite), "--out",
         str(tmp_path)], env={**os.environ, **ALIKE}, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    made, kept = content(tmp_path / suite), content(HOME / "leaderboard" / suite)
    assert sorted(made) == sorted(kept)
    other = [name for name in kept if made[name] != kept[name]]
    assert not other, f"publish results/{suite} again; {len(other)} files differ: {other[:5]}"


@pytest.mark.parametrize("suite", KEPT)
def test_pictures_are_kept_only_of_data_that_may_be_passed_on(suite: str) -> None:
    cards = read_json(HOME / "results" / suite / "plan.json")["datasets"]
    for media in (HOME / "results" / suite).rglob("images.safetensors"):
        card = cards[media.relative_to(HOME / "results" / suite).parts[0]]
        assert card["redistributable"]
        assert card["licence"]
        page = (HOME / "leaderboard" / suite / "index.html").read_text(encoding="utf-8")
        assert card["licence"].split()[0] in page
