"""Batch-CAM's coherence: how alike the maps of one class are (Ignesti, Moroni, Martinelli 2025).

The abstracts (arXiv:2510.00664) name the distances, L1, L2 and SSIM, and what maps are drawn
towards: the average of their class, and one another within a batch. Scale, window, and that a map
is a part of its own average, are ours.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import torch

from bench.core import HeatproofError
from bench.measure import Explained, Scores
from bench.metrics.evidence import INTERPOLATION, evidence, grid, scores
from bench.metrics.similarity import ssim
from bench.plugins import metric

if TYPE_CHECKING:
    from torch import Tensor

    Compared = Callable[[Tensor, Tensor], Tensor]

CHUNK = 64
"""Maps on the image's grid at a time; those of a whole evaluation set would fill the memory."""


def l1(a: Tensor, b: Tensor) -> Tensor:
    """The mean absolute difference (N,) of maps (N, H, W)."""
    return (a - b).abs().mean((1, 2))


def l2(a: Tensor, b: Tensor) -> Tensor:
    """The mean squared difference (N,) of maps (N, H, W)."""
    return (a - b).square().mean((1, 2))


def normalised(maps: Tensor, size: tuple[int, int]) -> tuple[Tensor, tuple[str | None, ...]]:
    """Native maps (N, h, w) on the image's grid, each from 0 to 1: (N, H, W), and their flaws."""
    found = evidence(maps, size, "raw")
    low, high = (pick(found.values, dim=(1, 2), keepdim=True) for pick in (torch.amin, torch.amax))
    return (found.values - low) / (high - low), found.flaw


def coherence(
    maps: Tensor, group: Tensor, size: tuple[int, int], compared: Compared,
) -> tuple[Tensor, tuple[str | None, ...]]:
    """Each map against the mean map of its group, and why some have none: (N,), N reasons.

    maps: (N, h, w), native; each is compared on the grid `size`, scaled from 0 to 1. group: (N,)
    int64. A flawed map counts in no mean; one whose group has no other is "alone in its class".
    """
    own = torch.unique(group, return_inverse=True)[1]
    groups = int(own.max()) + 1
    total = torch.zeros(groups, *size, dtype=torch.float64, device=maps.device)
    count = torch.zeros(groups, dtype=torch.float64, device=maps.device)
    flaw: list[str | None] = []
    parts = list(zip(torch.split(maps, CHUNK), torch.split(own, CHUNK), strict=True))
    for part, place in parts:
        shown, why = normalised(part, size)
        sound = torch.tensor([reason is None for reason in why], device=maps.device)
        total.index_add_(0, place[sound], shown[sound])
        count.index_add_(0, place[sound], torch.ones_like(place[sound], dtype=count.dtype))
        flaw += why
    mean = total / count.clamp(min=1)[:, None, None]
    value = torch.cat([
        compared(normalised(part, size)[0], mean[place]) for part, place in parts])
    alone = (count[own] < 2).tolist()
    return value, tuple(
        why or ("alone in its class" if single else None)
        for why, single in zip(flaw, alone, strict=True))


def _of_class(explained: Explained, compared: Compared) -> Scores:
    return scores(*coherence(explained.maps, explained.target, grid(explained), compared))


def _in_batch(explained: Explained, compared: Compared, batch_size: int) -> Scores:
    if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 2:
        raise HeatproofError(f"batch_size must be a whole number above 1, not {batch_size!r}")
    batch = torch.arange(len(explained.batch), device=explained.target.device) // batch_size
    group = batch * explained.classes + explained.target
    # A batch at a time: its means alone are kept.
    parts = zip(torch.split(explained.maps, batch_size), torch.split(group, batch_size),
                strict=True)
    found = [coherence(maps, of, grid(explained), compared) for maps, of in parts]
    return scores(torch.cat([value for value, _ in found]),
                  tuple(why for _, reasons in found for why in reasons))


def _register(
    name: str, title: str, better: Literal["higher", "lower"], compared: Compared, *, what: str,
    formula: str, range: str, units: str,  # noqa: A002
) -> None:
    def whole(explained: Explained) -> Scores:
        return _of_class(explained, compared)

    def within(explained: Explained, *, batch_size: int) -> Scores:
        return _in_batch(explained, compared, batch_size)

    every = (f"{what} of a map to the mean map of its class (the class that is explained), on the "
             "image's grid, each map scaled from 0 to 1. ")
    card = {
        "family": "coherence", "better": better, "track": "paper", "range": range, "units": units,
        "passes": "none", "version": f"1, {INTERPOLATION}",
        "holds": ("scale",), "paper": "Ignesti, Moroni, Martinelli 2025, arXiv:2510.00664",
        "departures": ("Quantus has no such metric.",)}
    caution = (" It looks across images by definition, so a sample's score depends on the others, "
               "and it says nothing of faithfulness: a map that is always the same is perfectly "
               "coherent. NaN for the only image of a class.")
    metric(f"paper/coherence-{name}", title=f"Coherence in the class, {title}",
           about=f"{every}The mean is over all images that are evaluated.{caution}",
           formula=formula.replace("M", "S̄_c"), **card)(whole)  # type: ignore[arg-type]
    metric(f"paper/batch-coherence-{name}", title=f"Coherence in the batch, {title}",
           about=f"{every}The mean is over the images of the class in one batch of batch_size, in "
                 f"the order of evaluation: Batch-CAM's loss within a batch.{caution}",
           formula=formula.replace("M", "S̄_c of the batch"), params={"batch_size": 64},
           **card)(within)  # type: ignore[arg-type]


_register("l1", "L1", "lower", l1, what="Mean absolute difference", formula="mean |S − M|",
          range="[0, 1]", units="share of the map's range")
_register("l2", "L2", "lower", l2, what="Mean squared difference", formula="mean (S − M)²",
          range="[0, 1]", units="squared share of the map's range")
_register("ssim", "SSIM", "higher", ssim, what="Structural similarity (Gaussian window of 11, "
          "sigma 1.5)", formula="SSIM(S, M)", range="[−1, 1]", units="structural similarity")
