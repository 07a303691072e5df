"""The parity table: Quantus 0.6.0 and our engine by its rules, on one batch under one seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from bench import plugins
from bench.core import Batch, number_from
from bench.measure import Explained, Scores
from bench.metrics import lab
from bench.metrics.maps import Array
from bench.metrics.parity.departures import DEPARTURES, Departure
from bench.metrics.parity.reference import SEED, reference
from bench.metrics.quantus_run import QUANTUS
from bench.plugins import metrics
from bench.randomness import seeded

SAMPLES = 5
TOLERANCE = 1e-5
CURVES = ("PixelFlipping", "RegionPerturbation", "Selectivity", "ROAD")
"""What Quantus answers with a curve a sample, ROAD with one of all samples."""
STABILITY = ("RelativeInputStability", "RelativeOutputStability", "RelativeRepresentationStability")


@dataclass(frozen=True)
class Case:
    """One setting of one metric that both compute.

    params: constructor keywords, the same for both; ties: whether the maps have many.
    """

    metric: str
    params: Mapping[str, Any] = field(default_factory=dict)
    channels: tuple[int, ...] = (1, 3)
    ties: bool = False

    @property
    def setting(self) -> str:
        """What differs from the defaults."""
        words = [f"{key}={value}" for key, value in self.params.items()]
        return " ".join([*words, *["ties"] * self.ties]) or "defaults"


CASES = (
    Case("FaithfulnessCorrelation", {"nr_runs": 20, "subset_size": 40}),
    Case("FaithfulnessCorrelation", {"nr_runs": 10, "perturb_baseline": "uniform", "abs": True}),
    Case("FaithfulnessEstimate", {"features_in_step": 16}),
    Case("FaithfulnessEstimate", {"features_in_step": 8, "perturb_baseline": "mean"}, ties=True),
    Case("MonotonicityCorrelation", {"features_in_step": 16, "nr_samples": 4}),
    Case("MonotonicityCorrelation", {"features_in_step": 32, "nr_samples": 2, "abs": False}),
    Case("PixelFlipping", {"features_in_step": 16}),
    Case("PixelFlipping", {"features_in_step": 8, "perturb_baseline": "mean"}, ties=True),
    Case("PixelFlipping", {"features_in_step": 32, "perturb_baseline": "uniform", "abs": True}),
    Case("RegionPerturbation", {"patch_size": 4}),
    Case("RegionPerturbation", {"patch_size": 5, "order": "lerf", "regions_evaluation": 6,
                                "perturb_baseline": "mean"}),
    Case("RegionPerturbation", {"patch_size": 4, "order": "random", "perturb_baseline": "uniform"}),
    Case("Selectivity", {"patch_size": 4}),
    Case("Selectivity", {"patch_size": 3, "perturb_baseline": "white"}),
    Case("Infidelity"),
    Case("Infidelity", {"perturb_patch_sizes": [2, 8], "n_perturb_samples": 2,
                        "perturb_baseline": "uniform", "normalise": True}),
    Case("IROF", channels=(1,)),
    Case("IROF", {"perturb_baseline": "black", "abs": True}, channels=(1,)),
    Case("ROAD", {"percentages": [10, 30, 50, 70, 90]}, channels=(1,)),
    Case("ROAD", {"percentages": [25, 75], "noise": 0.5}, channels=(1,)),
    Case("Sufficiency"),
    Case("Sufficiency", {"threshold": 0.98, "abs": False}),
    *(Case(name) for name in ("PointingGame", "AttributionLocalisation", "RelevanceRankAccuracy",
                              "RelevanceMassAccuracy", "AUC", "Focus", "Sparseness",
                              "Complexity")),
    Case("PointingGame", {"abs": True}, ties=True),
    Case("AttributionLocalisation", {"positive_attributions": True, "abs": False}),
    Case("AttributionLocalisation", {"abs": False}),
    Case("TopKIntersection", {"k": 100}),
    Case("TopKIntersection", {"k": 37, "concept_influence": True, "abs": True}, ties=True),
    Case("RelevanceRankAccuracy", {"abs": True}, ties=True),
    Case("RelevanceMassAccuracy", {"abs": True, "normalise": False}),
    Case("AUC", {"abs": True}, ties=True),
    Case("EffectiveComplexity", ties=True),
    Case("EffectiveComplexity", {"eps": 0.3}),
    Case("NonSensitivity"),
    Case("NonSensitivity", {"eps": 0.01, "perturb_baseline": "mean"}),
    *(Case(name) for name in ("MPRT", "EfficientMPRT", "RandomLogit", "Consistency", "Continuity")),
    Case("MPRT", {"layer_order": "bottom_up", "return_last_correlation": True}),
    Case("SmoothMPRT", {"nr_samples": 3}),
    *(Case(name, {"nr_samples": 4}) for name in (
        "MaxSensitivity", "AvgSensitivity", "LocalLipschitzEstimate", *STABILITY)),
)


@dataclass(frozen=True)
class Row:
    """One line of the table. grey, rgb: the largest difference; None where there is no parity."""

    metric: str
    setting: str
    grey: float | None
    rgb: float | None
    verdict: str


def rows() -> list[Row]:
    """First every setting that both compute, then every departure with both values."""
    equal = []
    for case in CASES:
        gaps = {c: gap(ours(case, explained), theirs(case, explained))
                for c, explained in ((c, sample(case, c)) for c in case.channels)}
        same = max(gaps.values()) <= TOLERANCE
        equal.append(Row(case.metric, case.setting, gaps.get(1), gaps.get(3),
                         "equal" if same else "DIFFERS"))
    return equal + [_departed(one) for one in DEPARTURES]


def _departed(one: Departure) -> Row:
    quantus, own = one.values()
    said = "raises" if one.quantus is not None and np.isnan(one.quantus) else f"{quantus:.4g}"
    right = np.isclose(own, one.exact, atol=1e-6, equal_nan=True)
    return Row(one.metric, one.about, None, None,
               f"Quantus {said}, {one.ours} {own:.4g}{'' if right else f', not {one.exact:.4g}'}")


def sample(case: Case, channels: int) -> Explained:
    """Five random images and a small network; the maps are of its decisions.

    They are random and signed, or, where a metric explains again, gradient times input.
    """
    net = network(channels)
    batch = lab.planted(SAMPLES, channels, "parity")
    batch = replace(batch, x=_drawn(batch.x.shape, "images", channels))
    batch = replace(batch, y=net(batch.x).argmax(1))
    again = "explain" in metrics[f"parity/{case.metric}"].needs
    return lab.explained(net, batch, lab.gradient if again else partial(_signed, case.ties))


def _signed(ties: bool, net: nn.Module, x: Tensor, target: Tensor, batch: Batch) -> Tensor:
    """Noise that is brighter on the object, so that what localises has something to find."""
    assert batch.mask is not None
    drawn = 2 * lab.noise(net, x, target, batch) - 1 + 0.3 * (batch.mask > 0)
    return (4 * drawn).round() / 4 if ties else drawn


def network(channels: int) -> nn.Module:
    """Two convolutions without a border and a linear layer; its decisions differ."""
    net = nn.Sequential(
        nn.Conv2d(channels, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(4 * 12 * 12, lab.CLASSES))
    for name, weight in net.named_parameters():
        weight.data = 2 * _drawn(weight.shape, name, channels) / weight[0].numel() ** 0.5
    net.requires_grad_(False)
    last = net[5]
    assert isinstance(last, nn.Linear)
    last.weight.data *= 3
    last.bias.data -= net(_drawn((64, channels, lab.SIZE, lab.SIZE), "centre")).mean(0)
    return net.eval()


def _drawn(shape: Sequence[int], *name: object) -> Tensor:
    """Numbers of U[-1, 1) from a name alone."""
    draw = torch.Generator().manual_seed(number_from("parity", *name) % 2**63)
    return 2 * torch.rand(tuple(shape), generator=draw) - 1


def ours(case: Case, explained: Explained) -> Array:
    """Our answer in the shape of Quantus's: (N,) or curves."""
    metric = metrics[f"parity/{case.metric}"].with_params(case.params)
    with seeded(SEED):
        answer: Scores = metric.score(explained, **metric.params)
    curve: Array = answer.value if answer.curve is None else answer.curve
    if case.metric == "ROAD":
        curve = curve.mean(0)
    return curve if case.metric in CURVES else answer.value


def theirs(case: Case, explained: Explained) -> Array:
    """Quantus's answer of the same shape."""
    answer = reference(case.metric, explained, **_keywords(case, explained))
    if case.metric == "ROAD":
        answer = list(answer.values())
    values: Array = np.array(answer, np.float64)
    return values


def gap(one: Array, other: Array) -> float:
    """The largest difference, by the value where that is above 1; infinite for NaN and a number."""
    if one.shape != other.shape or not np.array_equal(np.isnan(one), np.isnan(other)):
        return float("inf")
    return float(np.nanmax(np.abs(one - other) / np.maximum(1, np.abs(other)), initial=0))


def _keywords(case: Case, explained: Explained) -> dict[str, Any]:
    """Our parameters as Quantus takes them."""
    given = dict(metrics[f"parity/{case.metric}"].with_params(case.params).params)
    if case.metric in ("FaithfulnessCorrelation", "IROF"):
        given["return_aggregate"] = False
    elif case.metric in ("MPRT", "SmoothMPRT"):
        given["return_average_correlation"] = not given["return_last_correlation"]
    elif case.metric == "EfficientMPRT":
        given["complexity_func_kwargs"] = {"n_bins": given.pop("n_bins")}
    elif case.metric == "RandomLogit":
        given["num_classes"] = explained.classes
    elif case.metric in STABILITY:
        given["perturb_func_kwargs"] = {
            key: given.pop(key) for key in ("lower_bound", "upper_bound")}
    elif case.metric == "Focus":
        assert explained.batch.mask is not None
        inside = (explained.batch.mask > 0).numpy()
        halves = inside.reshape(len(inside), 2, inside.shape[1] // 2, 2, -1)
        given["custom_batch"] = halves.any((2, 4)).reshape(-1, 4).astype(int)
    return given


def main() -> None:
    """Prints the table."""
    plugins.load()
    torch.set_num_threads(1)
    found = rows()
    alike = Table("metric of Quantus", "setting", "grey", "rgb", "verdict",
                  title=f"Parity with Quantus {QUANTUS}: the largest difference")
    apart = Table("metric of Quantus", "what it does", "both values",
                  title=f"Departures from Quantus {QUANTUS}, on toys with a known answer")
    for row in found:
        if row.grey is None:
            apart.add_row(row.metric, row.setting, row.verdict)
        else:
            rgb = "raises" if row.rgb is None else f"{row.rgb:.1e}"
            alike.add_row(row.metric, row.setting, f"{row.grey:.1e}", rgb, row.verdict)
    console = Console()
    console.print(alike)
    console.print(apart)


if __name__ == "__main__":
    main()
