"""Complexity: over how much of the image the evidence is spread. No network and no truth is asked.

A map without any evidence has no shares to compare, so it has no complexity: NaN, not 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from bench.measure import Explained, Scores
from bench.metrics.evidence import INTERPOLATION, evidence, grid, scores
from bench.plugins import metric

if TYPE_CHECKING:
    from torch import Tensor


def gini(values: Tensor) -> Tensor:
    """The Gini index of values (N, P) >= 0: (N,), 0 where all are equal, 1 - 1/P for one alone.

    NaN where all are 0. Chalasani et al. 2020, arXiv:1810.06583.
    """
    rising = values.sort(dim=1).values
    p = values.shape[1]
    place = torch.arange(1, p + 1, dtype=values.dtype, device=values.device)
    return ((2 * place - p - 1) * rising).sum(1) / (p * rising.sum(1))


def entropy(values: Tensor) -> Tensor:
    """The entropy in nats of the shares of values (N, P) >= 0: (N,), from 0 to log P.

    NaN where all are 0. Bhatt et al. 2020, arXiv:2005.00631.
    """
    share = values / values.sum(1, keepdim=True)
    return torch.special.entr(share).sum(1)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Measure:
    """What the tracks share of one measure: its arithmetic and the words of its card."""

    title: str
    better: Literal["higher", "lower"]
    score: Callable[[Tensor], Tensor]
    about: str
    formula: str
    range: str
    units: str
    paper: str
    departures: tuple[str, ...]


_CONSTANT = "a constant map is NaN, because it is no explanation, although the formula has a value"

MEASURES = {
    "sparseness": Measure(
        title="Sparseness", better="higher", score=gini,
        about="The Gini index of the absolute evidence: how few units hold most of it.",
        formula="Σ_k (2k − P − 1) |e|_(k) / (P Σ |e|), |e|_(k) the k-th smallest",
        range="[0, 1)", units="Gini index",
        paper="Chalasani et al. 2020, ICML, arXiv:1810.06583",
        departures=("no 1e-7 is added to every pixel, because it makes the score depend on the "
                    "scale of the map", _CONSTANT)),
    "complexity": Measure(
        title="Complexity", better="lower", score=entropy,
        about="The entropy of the shares that the units have in the absolute evidence; its "
              "exponential is how many equal units would be as complex.",
        formula="−Σ p log p, p = |e| / Σ |e|",
        range="[0, log P]", units="nats",
        paper="Bhatt, Weller, Moura 2020, IJCAI, arXiv:2005.00631",
        departures=("no 1e-12 is added to the shares; 0 log 0 is 0", _CONSTANT)),
}
"""The two measures of complexity, by name."""


def _register(name: str, measure: Measure) -> None:
    @metric(name, title=measure.title, family="complexity", better=measure.better,
            version=f"1, {INTERPOLATION}", paper=measure.paper,
            about=f"{measure.about} Compare it within one native resolution alone; elsewhere see "
                  f"`fair/{name}`.",
            formula=measure.formula, range=measure.range, units=measure.units, passes="none",
            departures=measure.departures, holds=("batch", "scale"))
    def score(explained: Explained) -> Scores:
        found = evidence(explained.maps, grid(explained), "absolute")
        return scores(measure.score(found.values.flatten(1)), found.flaw)


for _name, _measure in MEASURES.items():
    _register(_name, _measure)
