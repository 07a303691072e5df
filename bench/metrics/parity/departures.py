"""Where the proven track departs from Quantus 0.6.0: both on one toy whose answer is known.

Each toy is small enough to work out by hand. Its function gives what Quantus says and what we say.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bench.core import Batch
from bench.measure import Explained
from bench.metrics import score
from bench.metrics.lab import gradient
from bench.metrics.maps import Array
from bench.metrics.parity.reference import reference
from bench.metrics.parity.toys import Linear, one_hot, toy
from bench.metrics.quantus_run import _quantus
from bench.metrics.removal import ordered, ranks
from bench.plugins import metrics

RAISES = math.nan
"""What stands for Quantus's answer where it raises."""
BY_DEFINITION = "by definition"
"""Whose value ours is where no metric of ours measures it."""


@dataclass(frozen=True)
class Departure:
    """One defect of Quantus, or difference of definition, on a toy.

    metric: Quantus's class; ours: our metric; exact: the known answer, NaN for none; quantus: what
    it says instead, None where it hangs on the CPU or on draws. values: both answers, Quantus's and
    ours.
    """

    metric: str
    ours: str
    about: str
    exact: float
    quantus: float | None
    values: Callable[[], tuple[float, float]]


DEPARTURES: list[Departure] = []


def departure(
    metric: str, ours: str, about: str, *, exact: float, quantus: float | None,
) -> Callable[[Callable[[], tuple[float, float]]], Callable[[], tuple[float, float]]]:
    """Lists a function as a departure."""
    def add(values: Callable[[], tuple[float, float]]) -> Callable[[], tuple[float, float]]:
        DEPARTURES.append(Departure(metric, ours, about, exact, quantus, values))
        return values
    return add


def ours(name: str, explained: Explained, **params: Any) -> Array:
    """What our metric says: (n,)."""
    return score(metrics[name].with_params(params), explained).value


def refused(error: type[Exception], name: str, explained: Explained, **keywords: Any) -> float:
    """NaN where Quantus raises that error, else 0."""
    try:
        reference(name, explained, **keywords)
    except error:
        return RAISES
    return 0.0


@departure(
    "PixelFlipping", "pixel-flipping", "a step takes one of the pixel's three channels, which tie",
    exact=0.5, quantus=0.8)
def _units() -> tuple[float, float]:
    """The probability without the only pixel that matters: σ(0); Quantus leaves σ(2 ln 2)."""
    pixel = one_hot(5)
    explained = toy(Linear(math.log(2) * pixel.expand(3, -1, -1)),
                    pixel.expand(1, 3, -1, -1).clone(), pixel[None])
    found = score(metrics["pixel-flipping"].with_params({"steps": 16, "operator": "zero"}),
                  explained)
    assert found.curve is not None
    return reference("PixelFlipping", explained)[0][0], found.curve[0, 1]


@departure(
    "PixelFlipping", "pixel-flipping", "the curve lacks the untouched image",
    exact=0.625, quantus=0.5)
def _step_zero() -> tuple[float, float]:
    """One step from the probability 3/4 to 1/2."""
    pixel = one_hot(5)
    explained = toy(Linear(math.log(3) * pixel), pixel[None, None], pixel[None])
    quantus = reference("PixelFlipping", explained, features_in_step=16)
    return quantus[0][0], ours("pixel-flipping", explained, steps=1, operator="zero")[0]


@departure(
    "Sparseness", "sparseness", "maps are scaled together: another map's scale changes the score",
    exact=15 / 16, quantus=15e-9 / (16 * 1.601e-6))
def _scaled_together() -> tuple[float, float]:
    """One pixel of sixteen, beside the same map times 10⁹."""
    maps = torch.stack([one_hot(5), 1e9 * one_hot(5)])
    explained = toy(Linear(one_hot(5)), maps[:, None], maps)
    return reference("Sparseness", explained)[0], ours("sparseness", explained)[0]


@departure(
    "RelevanceRankAccuracy", "rank-accuracy", "ties fall by the raster and by the CPU",
    exact=0.5, quantus=None)
def _ties() -> tuple[float, float]:
    """Two pixels tie for the one place that the object has; it is one of them."""
    explained = toy(Linear(one_hot(5)), one_hot(5)[None, None], one_hot(5, 9)[None],
                    one_hot(9)[None])
    return reference("RelevanceRankAccuracy", explained)[0], ours("rank-accuracy", explained)[0]


@departure(
    "FaithfulnessCorrelation", "faithfulness-correlation",
    "the draws depend on the batch: a sample scores otherwise beside others", exact=0, quantus=None)
def _draws() -> tuple[float, float]:
    """How far the last of three equal samples' scores moves when it is scored alone."""
    x = torch.arange(16.0).view(1, 1, 4, 4).expand(3, -1, -1, -1) / 16
    maps = torch.cos(torch.arange(16.0)).view(1, 4, 4).expand(3, -1, -1)
    explained = toy(Linear(torch.sin(torch.arange(16.0)).view(4, 4)), x, maps)
    alone = toy(explained.network, x[:1], maps[:1])
    given = {"nr_runs": 8, "subset_size": 4, "return_aggregate": False}
    moved = [abs(reference("FaithfulnessCorrelation", explained, **given)[2]
                 - reference("FaithfulnessCorrelation", alone, **given)[0])]
    alone.batch.seed[0] = explained.batch.seed[2]
    name, own = "faithfulness-correlation", {"runs": 8, "share": 0.25}
    moved.append(abs(ours(name, explained, **own)[2] - ours(name, alone, **own)[0]))
    return moved[0], moved[1]


@departure(
    "AttributionLocalisation", "mass-inside", "evidence against the class counts for it",
    exact=0, quantus=0.5)
def _absolute() -> tuple[float, float]:
    """-1 on the object, +1 elsewhere."""
    explained = toy(Linear(one_hot(5)), one_hot(5)[None, None], (one_hot(9) - one_hot(5))[None],
                    one_hot(5)[None])
    return reference("AttributionLocalisation", explained)[0], ours("mass-inside", explained)[0]


@departure(
    "AttributionLocalisation", "mass-inside", "`weighted` divides by a slice of the batch",
    exact=1 / 32, quantus=1 / 64)
def _weighted() -> tuple[float, float]:
    """Half of the evidence, weighted with one pixel of sixteen, four samples."""
    explained = toy(Linear(one_hot(5)), one_hot(5).expand(4, 1, -1, -1).clone(),
                    one_hot(5, 9).expand(4, -1, -1), one_hot(5).expand(4, -1, -1))
    quantus = reference("AttributionLocalisation", explained, weighted=True, max_size=math.inf)
    return quantus[0], (ours("mass-inside", explained) * ours("mask-area", explained))[0]


@departure(
    "RelevanceMassAccuracy", "mass-inside", "negative evidence makes the share leave [0, 1]",
    exact=1, quantus=2)
def _signed_mass() -> tuple[float, float]:
    """+2 on the object, -1 elsewhere: all evidence for the class is inside."""
    explained = toy(Linear(one_hot(5)), one_hot(5)[None, None],
                    (2 * one_hot(5) - one_hot(9))[None], one_hot(5)[None])
    return reference("RelevanceMassAccuracy", explained)[0], ours("mass-inside", explained)[0]


@departure(
    "PointingGame", "pointing-game", "an empty mask is a hit", exact=math.nan, quantus=1)
def _empty_mask() -> tuple[float, float]:
    explained = toy(Linear(one_hot(5)), one_hot(5).expand(2, 1, -1, -1).clone(),
                    one_hot(5).expand(2, -1, -1), torch.stack([torch.zeros(4, 4), one_hot(5)]))
    return reference("PointingGame", explained)[0], ours("pointing-game", explained)[0]


@departure(
    "PointingGame", "pointing-game", "of tied maxima any one may hit", exact=0.5, quantus=1)
def _tied_maxima() -> tuple[float, float]:
    """Two maxima, one on the object."""
    explained = toy(Linear(one_hot(5)), one_hot(5)[None, None], one_hot(5, 9)[None],
                    one_hot(9)[None])
    return reference("PointingGame", explained)[0], ours("pointing-game", explained)[0]


@departure(
    "RegionPerturbation", "region-aopc", "its flag prefers the inverse map to the oracle",
    exact=1, quantus=0)
def _direction() -> tuple[float, float]:
    """Whether the right quadrant first is better than last."""
    quadrant = torch.kron(one_hot(0, size=2), torch.ones(8, 8))
    explained = toy(Linear(quadrant / 64), quadrant.expand(2, 1, -1, -1).clone(),
                    torch.stack([quadrant, 1 - quadrant]))
    first, last = np.mean(reference("RegionPerturbation", explained), axis=1)
    lower = _quantus().RegionPerturbation.score_direction.value == "lower"
    right, wrong = ours("region-aopc", explained, grid=2, operator="zero")
    higher = metrics["region-aopc"].better == "higher"
    return float((first > last) != lower), float((right > wrong) == higher)


def _road(channels: int) -> Explained:
    """Four images decided by one pixel, which two of the maps name last and two first."""
    pixel = one_hot(85, size=16)
    x = pixel.expand(4, channels, -1, -1).clone()
    weight = 10 * pixel.expand(channels, -1, -1) / channels
    return toy(Linear(weight, -5.0), x, torch.stack([1 - pixel] * 2 + [pixel] * 2))


@departure(
    "ROAD", "road", "the first batch alone counts (batch_size=2 of 4 samples)",
    exact=0.5, quantus=1)
def _first_batch() -> tuple[float, float]:
    """Two of four images keep their class at 10 %."""
    explained = _road(1)
    quantus = reference("ROAD", explained, batch_size=2, percentages=[10])
    return quantus[10], ours("road", explained, percentages=(10,)).mean()


@departure("ROAD", "road", "three channels raise IndexError", exact=0.5, quantus=RAISES)
def _road_rgb() -> tuple[float, float]:
    explained = _road(3)
    return (refused(IndexError, "ROAD", explained, percentages=[10]),
            ours("road", explained, percentages=(10,)).mean())


@departure("IROF", "region-aopc", "three channels raise AssertionError", exact=0.2, quantus=RAISES)
def _irof_rgb() -> tuple[float, float]:
    """The area over the curve 3/4, 1/2, 1/2, 1/2, 1/2."""
    quadrant = torch.kron(one_hot(0, size=2), torch.ones(8, 8))
    explained = toy(Linear(math.log(3) * quadrant.expand(3, -1, -1) / 192),
                    quadrant.expand(1, 3, -1, -1).clone(), quadrant[None])
    return (refused(AssertionError, "IROF", explained),
            ours("region-aopc", explained, grid=2, operator="zero")[0])


@departure(
    "Infidelity", "faithfulness-correlation",
    "the right map in another unit is wrong (ours: 1 - correlation)", exact=0, quantus=81)
def _scale() -> tuple[float, float]:
    """Ten times the exact attribution: the error is (1 - 10)² at every step."""
    patch = torch.kron(one_hot(0, size=2), torch.ones(4, 4))
    explained = toy(Linear(patch / 16), torch.ones(1, 1, 8, 8), 10 * patch[None] / 16)
    quantus = reference("Infidelity", explained, perturb_baseline=0.0)
    return quantus[0], 1 - ours("faithfulness-correlation", explained, operator="zero")[0]


@departure(
    "SensitivityN", "faithfulness-correlation",
    "the drop of all steps so far is correlated, across samples, with one step's evidence",
    exact=1, quantus=0)
def _across_samples() -> tuple[float, float]:
    """Exact attributions: 1 by definition; across samples the steps give 1 and -1."""
    x = torch.tensor([[4.0, 1, 0, 0], [6, 0, 0, 0]]).view(2, 1, 2, 2)
    explained = toy(Linear(torch.ones(2, 2)), x, x[:, 0])
    quantus = reference("SensitivityN", explained, softmax=False, n_max_percentage=0.5)
    own = ours("faithfulness-correlation", explained, share=0.5, operator="zero")
    return quantus[0], own.mean()


@departure(
    "MonotonicityCorrelation", "parity/MonotonicityCorrelation",
    "a probability below eps raises ValueError", exact=1, quantus=RAISES)
def _unsure() -> tuple[float, float]:
    """The change grows with the evidence."""
    weight = torch.tensor([[0.5, 2.0], [6.0, 12.0]])
    explained = toy(Linear(weight, -20.0), torch.zeros(2, 1, 2, 2), weight.expand(2, -1, -1))
    return (refused(ValueError, "MonotonicityCorrelation", explained),
            ours("parity/MonotonicityCorrelation", explained)[0])


@departure(
    "Monotonicity", BY_DEFINITION, "the baseline is replaced by the baseline: all is monotone",
    exact=0, quantus=1)
def _vacuous() -> tuple[float, float]:
    """A pixel that speaks against the class comes in: the probability falls."""
    weight = one_hot(5) - 2 * one_hot(9)
    x = one_hot(5, 9)[None, None]
    explained = toy(Linear(weight), x, weight[None])
    order = weight.abs().flatten()[None].argsort(stable=True)
    curve = ordered(explained.network, torch.zeros_like(x), ranks(order).view_as(x), range(17), x,
                    read=lambda logits, sample: logits.softmax(1)[:, 0])  # noqa: ARG005
    return float(reference("Monotonicity", explained)[0]), float((curve.diff() >= 0).all())


@departure(
    "Completeness", BY_DEFINITION, "two floating-point sums are compared for equality",
    exact=1, quantus=0)
def _equality() -> tuple[float, float]:
    """The exact attributions of a linear network, which add up to the logit."""
    weight = torch.arange(1.0, 17.0).view(4, 4) / 10
    x = (weight / 7)[None, None]
    explained = toy(Linear(weight), x, weight * x[:, 0])
    quantus = reference("Completeness", explained, normalise=False, perturb_baseline=0.0)
    total = explained.maps.double().sum()
    return float(quantus[0]), float((total - explained.logits[0, 0]).abs() < 1e-5 * total.abs())


@departure(
    "InputInvariance", BY_DEFINITION, "the first pixel is not shifted with the others",
    exact=1, quantus=0)
def _unshifted() -> tuple[float, float]:
    """The gradient, which is the same when all pixels and the first bias are shifted."""
    net = nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))
    net.load_state_dict({"0.weight": torch.ones(1, 1, 1, 1), "0.bias": torch.zeros(1),
                         "3.weight": 1 + torch.arange(32.0).view(2, 16),
                         "3.bias": torch.zeros(2)})

    def slope(net: nn.Module, x: Tensor, target: Tensor, batch: Batch) -> Tensor:
        return gradient(net, x, target, batch) / x[:, 0]

    x = (2 - 2.5 * one_hot(0))[None, None]
    explained = toy(net, x, torch.empty(0), explainer=slope)
    quantus = reference("InputInvariance", explained)
    shifted = copy.deepcopy(net)
    shifted.load_state_dict({**net.state_dict(), "0.bias": torch.ones(1)})
    again = explained.explain(net=shifted, x=x - 1)
    return float(quantus[0]), float(torch.allclose(again, explained.maps))


@departure(
    "MPRT", "mprt", "the untouched network's 1.0 is in the average", exact=-1, quantus=0)
def _untouched() -> tuple[float, float]:
    """A map that turns over whenever the only layer is drawn anew."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    weight = net.state_dict()["1.weight"].clone()
    up = torch.arange(1.0, 17.0).view(1, 4, 4)

    def turning(net: nn.Module, x: Tensor, target: Tensor, batch: Batch) -> Tensor:  # noqa: ARG001
        same = any(torch.equal(p, weight) for p in net.parameters())
        return up if same else 17 - up

    explained = toy(net, torch.rand(1, 1, 4, 4), up, explainer=turning)
    quantus = reference("MPRT", explained, return_average_correlation=True)
    return quantus[0], ours("mprt", explained, draws=1)[0]


def _drawn_anew(net: nn.Module, look: Callable[[nn.Module], bool]) -> tuple[float, float]:
    """What `look` sees of the last network of Quantus's MPRT, and of ours: 1 or 0."""
    seen: list[bool] = []

    def watching(net: nn.Module, x: Tensor, target: Tensor, batch: Batch) -> Tensor:  # noqa: ARG001
        seen.append(look(net))
        return x[:, 0]

    explained = toy(net, torch.rand(1, 1, 4, 4, generator=torch.Generator().manual_seed(0)),
                    torch.empty(0), explainer=watching)
    reference("MPRT", explained)
    quantus = seen[-1]
    ours("mprt", explained, draws=1)
    return float(quantus), float(seen[-1])


@departure(
    "MPRT", "mprt", "one seed for all: layers of one shape become equal", exact=1, quantus=0)
def _one_seed() -> tuple[float, float]:
    """Whether two layers of one shape differ when they are drawn anew."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 16), nn.Linear(16, 16))
    return _drawn_anew(net, lambda net: not torch.equal(
        *(p for p in net.parameters() if p.ndim == 2)))


@departure(
    "MPRT", "mprt", "parameters without reset_parameters stay trained", exact=1, quantus=0)
def _prototypes() -> tuple[float, float]:
    """Whether a prototype is drawn anew with the layers."""
    class Prototypes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Linear(16, 4)
            self.prototypes = nn.Parameter(torch.ones(2, 4))

        def forward(self, x: Tensor) -> Tensor:
            scores: Tensor = self.body(x.flatten(1)) @ self.prototypes.T
            return scores

    return _drawn_anew(
        Prototypes(), lambda net: not bool((net.state_dict()["prototypes"] == 1).all()))
