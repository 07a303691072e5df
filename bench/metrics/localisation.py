"""Localisation: how well the evidence finds the object. No network is asked.

Every measure is a function of weighted units: `values` (N, P), the evidence of P equal units of
the image, and of each unit the area of the object, `inside` (N, P), and of the background,
`outside` (N, P). A unit is a pixel here, with areas of 0 and 1, or a larger cell in `fair`; what
the truth does not know (255 in the mask) has no area. Ties count by their exact expectation under
a random order, so no score hangs on the raster, on a draw or on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import pad

from bench.measure import GAUGE, Explained, Scores
from bench.metrics.evidence import IGNORE, INTERPOLATION, Part, evidence, grid, scores
from bench.plugins import metric

if TYPE_CHECKING:
    from torch import Tensor

    Weighted = Callable[[Tensor, Tensor, Tensor], Tensor]


def pointing_game(values: Tensor, inside: Tensor, outside: Tensor) -> Tensor:
    """The share of the object in the unit with the most evidence: (N,) in [0, 1].

    Of several such units each is as likely. All arguments (N, P); NaN where nothing has an area.
    """
    area = inside + outside
    known = values.masked_fill(area <= 0, -float("inf"))
    best = (known == known.amax(1, keepdim=True)).to(area.dtype)
    return (best * inside).sum(1) / (best * area).sum(1)


def mass_inside(values: Tensor, inside: Tensor, outside: Tensor) -> Tensor:
    """The share of the positive evidence that lies on the object: (N,) in [0, 1].

    A unit's evidence lies evenly on it; what falls where the truth is unknown is left out. All
    arguments (N, P); NaN without positive evidence.
    """
    positive = values.clamp(min=0)
    return (positive * inside).sum(1) / (positive * (inside + outside)).sum(1)


def rank_accuracy(values: Tensor, inside: Tensor, outside: Tensor) -> Tensor:
    """The share of the object that the units with the most evidence cover: (N,) in [0, 1].

    As much area as the object has is taken, in falling order of evidence; of the last unit, and of
    those tied with it, the fraction that still fits. All arguments (N, P); NaN without an object.
    """
    area = inside + outside
    size = inside.sum(1, keepdim=True)
    below, level = _levels(values, area)
    above = area.sum(1, keepdim=True) - below - level
    # A unit of no area may have an empty level; it carries no object either.
    taken = ((size - above) / level.where(level > 0, 1.0)).clamp(0, 1)
    return (inside * taken).sum(1) / size[:, 0]


def auc(values: Tensor, inside: Tensor, outside: Tensor) -> Tensor:
    """The area under the ROC curve of the evidence as a classifier of area: (N,) in [0, 1].

    The chance that a point of the object has more evidence than one of the background, ties one
    half (Mann and Whitney). All arguments (N, P); NaN without an object or without a background.
    """
    below, level = _levels(values, outside)
    pairs = inside.sum(1) * outside.sum(1)
    return (inside * (below + level / 2)).sum(1) / pairs


def _levels(values: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Of each unit, the weight of all units with less evidence, and of all with as much: (N, P)."""
    rising, index = values.sort(dim=1)
    total = pad(weight.gather(1, index).cumsum(1), (1, 0))
    values = values.contiguous()
    below = total.gather(1, torch.searchsorted(rising, values))
    return below, total.gather(1, torch.searchsorted(rising, values, right=True)) - below


def areas(mask: Tensor) -> tuple[Tensor, Tensor]:
    """The area of the object, any part of it, and of the background in each pixel of (N, H, W).

    Both are (N, H, W) float64 of 0 and 1; an ignored pixel has neither.
    """
    known = mask != IGNORE
    return ((mask > 0) & known).double(), (mask == 0).double()


def masks(inside: Tensor, outside: Tensor, *, background: bool) -> tuple[str | None, ...]:
    """Why a truth cannot be scored on: "empty mask" or, where a background is needed, none."""
    found = zip(inside.flatten(1).any(1).tolist(), outside.flatten(1).any(1).tolist(), strict=True)
    return tuple("empty mask" if not some else
                 "the mask leaves no background" if background and not rest else None
                 for some, rest in found)


@dataclass(frozen=True)
class Measure:
    """What the tracks share of one measure: its arithmetic and the words of its card."""

    title: str
    score: Weighted
    part: Part
    about: str
    formula: str
    paper: str
    background: bool = False
    departures: tuple[str, ...] = ()


_TIES = "ties count by their expectation, because the sort of Quantus breaks them by the CPU"

MEASURES = {
    "pointing-game": Measure(
        title="Pointing Game", score=pointing_game, part="signed",
        about="Whether the most evidence lies on the object; tied maxima count by their share.",
        formula="|M ∩ argmax e| / |argmax e|",
        paper="Zhang et al. 2018, IJCV 126:1084, doi:10.1007/s11263-017-1059-x",
        departures=(
            "tied maxima count by the share that lies on the object, because Quantus scores a hit "
            "if any of them does, so that a constant map always hits",
            "an empty mask is NaN, because Quantus answers True")),
    "mass-inside": Measure(
        title="Mass inside", score=mass_inside, part="positive",
        about="The share of the positive evidence that lies on the object; an even map gets the "
              "object's share of the area (`mask-area`).",
        formula="Σ_M max(e, 0) / Σ max(e, 0)",
        paper="Kohlbrenner et al. 2020, IJCNN, doi:10.1109/IJCNN48605.2020.9206975",
        departures=(
            "negative evidence is clipped, because AttributionLocalisation takes its absolute "
            "value, which turns evidence against the class into a hit, and RelevanceMassAccuracy "
            "keeps its sign, which leaves [0, 1]",
            "nothing is added to the denominator; a map without positive evidence is NaN")),
    "rank-accuracy": Measure(
        title="Rank accuracy", score=rank_accuracy, part="signed",
        about="The share of the object among as much area as the object has, taken where the "
              "evidence is highest.",
        formula="|M ∩ top_{|M|}(e)| / |M|",
        paper="Arras, Osman, Samek 2022, Information Fusion 81:14, "
              "doi:10.1016/j.inffus.2021.11.008",
        departures=(_TIES,)),
    "auc": Measure(
        title="AUC", score=auc, part="signed", background=True,
        about="The chance that a point of the object has more evidence than one of the background.",
        formula="P(e_M > e_¬M) + ½ P(e_M = e_¬M)",
        paper="Fawcett 2006, Pattern Recognition Letters 27:861, doi:10.1016/j.patrec.2005.10.010",
        departures=("a constant map is NaN, because Quantus's 0.5 hides that it says nothing",
                    "a mask without object or without background is NaN for its sample alone")),
}
"""The four measures of localisation, by name."""

_IGNORED = "unknown truth (255) counts neither way, because Quantus takes masks of 0 and 1 alone"


def on_pixels(measure: Measure, explained: Explained, maps: Tensor) -> Scores:
    """A measure of native maps (N, h, w), upsampled to the image's pixels."""
    assert explained.batch.mask is not None
    inside, outside = areas(explained.batch.mask.to(maps.device))
    found = evidence(maps, grid(explained), measure.part, counted=(inside + outside) > 0)
    value = measure.score(found.values.flatten(1), inside.flatten(1), outside.flatten(1))
    return scores(value, masks(inside, outside, background=measure.background), found.flaw)


def _register(name: str, measure: Measure) -> None:
    @metric(name, title=measure.title, family="localisation", better="higher", needs=("mask",),
            version=f"1, {INTERPOLATION}", paper=measure.paper, about=measure.about,
            formula=measure.formula, range="[0, 1]", units="share", passes="none",
            departures=(*measure.departures, _IGNORED), holds=("batch", "scale"))
    def score(explained: Explained) -> Scores:
        return on_pixels(measure, explained, explained.maps)


for _name, _measure in MEASURES.items():
    _register(_name, _measure)


@metric("mask-area", title="Area of the object", family=GAUGE, better="higher", needs=("mask",),
        about="The object's share of the area: what an even map gets on `mass-inside`, and by "
              "expectation a random one on every measure of localisation but AUC (one half).",
        formula="|M| / |image|", range="(0, 1]", units="share", passes="none", holds=("batch",))
def mask_area(explained: Explained) -> Scores:
    """The object's share of each image, of what the truth knows: (N,)."""
    assert explained.batch.mask is not None
    inside, outside = areas(explained.batch.mask)
    known = inside.sum((1, 2)) + outside.sum((1, 2))
    return scores(inside.sum((1, 2)) / known, masks(inside, outside, background=False))
