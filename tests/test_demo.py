"""The embedded suite, run as `make demo` runs it: as large and as good as it says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bench import board, results


@pytest.mark.slow
def test_the_demo_is_what_it_says(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench", "run", "demo", "--out", str(tmp_path)],
        capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    found = results.read(tmp_path / "demo")
    assert len(found.runs) == 52
    for info in found.runs["info"]:
        assert info["classifier"]["accuracy"] >= 0.9, info["spec"]
        assert min(info["classifier"]["grid"]) >= 7
        assert info["additivity"]["holds"] in (True, None)
    families = {"softcam", "cape", "batchcam", "gp-reconresnet"}
    assert families <= set(found.runs["contestant"])
    counts = found.samples.groupby(["dataset", "contestant", "seed"]).size()
    assert counts.min() >= 32
    ranked = board.rank(found)
    assert ranked.missing.empty
    proofs = found.plan["proofs"]
    assert {proof["badge"] for proof in proofs.values()} == {"proven"}
    assert set(proofs) == {metric["name"] for metric in found.plan["metrics"]}
    carried = {m["family"] for m in found.plan["metrics"] if m["track"] == "quantus"}
    assert carried == {"faithfulness", "localisation", "complexity", "randomisation",
                       "robustness", "axiomatic"}
    mean = ranked.estimates.set_index(["dataset", "contestant", "metric"])["mean"]
    for dataset in ("digits", "phantom"):
        for metric in ("PointingGame", "RelevanceRankAccuracy", "AttributionLocalisation"):
            assert mean[dataset, "oracle", f"quantus/{metric}"] == pytest.approx(1)
        # What is blind to the trained network is found out, and so is what is blind to the class.
        blind = ("noise", "centre", "edges", "magnitude")
        for control in (*blind, "class-mean", "reinitialised"):
            assert mean[dataset, control, "mprt"] == 1
        for control in blind:
            assert mean[dataset, control, "quantus/RandomLogit"] == pytest.approx(1)
        for control in ("class-mean", "reinitialised"):
            assert mean[dataset, control, "quantus/RandomLogit"] < 0.999
        assert mean[dataset, "gradcam", "mprt"] < 0.5
    # Grad-CAM on SoftCAM is SoftCAM's evidence less its bias: the same order of pixels.
    for metric in ("quantus/PixelFlipping", "quantus/PointingGame", "pixel-flipping", "auc"):
        assert mean["phantom", "softcam", metric] == pytest.approx(
            mean["phantom", "gradcam@softcam", metric], abs=0.02)
