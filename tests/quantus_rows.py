"""What the tests of the Quantus track share: its rows, made quick, and something to score."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from bench import plugins
from bench.measure import Explained, Scores
from bench.metrics import known, score

plugins.load()
torch.set_num_threads(1)

TRACK = [name for name in plugins.metrics if plugins.metrics[name].track == "quantus"]
SOUND = [name for name in TRACK if not plugins.metrics[name].defect]
QUICK: dict[str, dict[str, Any]] = {
    "FaithfulnessCorrelation": {"nr_runs": 12},
    "MonotonicityCorrelation": {"nr_samples": 2, "steps": 8}, "ROAD": {"percentages": [20, 60]},
    "RegionPerturbation": {"patch_size": 4}, "Selectivity": {"patch_size": 4},
    "Continuity": {"nr_steps": 4},
    **{f"{kind}Sensitivity": {"nr_samples": 3} for kind in ("Max", "Avg")},
    "LocalLipschitzEstimate": {"nr_samples": 3},
    **{f"Relative{of}Stability": {"nr_samples": 2, "return_nan_when_prediction_changes": False}
       for of in ("Input", "Output", "Representation")}}
"""Parameters that make a metric quick, and a number of every sample."""


def metric(name: str) -> Any:
    return plugins.metrics[name].with_params(QUICK.get(name.removeprefix("quantus/"), {}))


def sample(n: int = 4, channels: int = 1) -> Explained:
    """A convolutional network under gradient times input: signed maps that differ everywhere."""
    return known.explained(known.Convolutional(channels), known.planted(n, channels),
                           known.gradient)


def scored(name: str, explained: Explained, **params: Any) -> Scores:
    return score(metric(name).with_params(params), explained)


def same(one: Scores, other: Scores) -> bool:
    curves = (one.curve is None and other.curve is None) or np.array_equal(
        one.curve, other.curve, equal_nan=True)  # type: ignore[arg-type]
    return (np.array_equal(one.value, other.value, equal_nan=True) and curves
            and one.reason == other.reason)
