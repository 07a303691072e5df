"""The one audited way from native signed maps to the evidence that is scored."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch.nn.functional import interpolate

from bench.core import HeatproofError, unknown
from bench.measure import Explained, Scores
from bench.metrics.draws import permutations

if TYPE_CHECKING:
    from torch import Tensor

Part = Literal["signed", "positive", "absolute", "raw"]
PARTS: tuple[Part, ...] = ("signed", "positive", "absolute", "raw")

IGNORE = 255
"""The value of a mask where the truth is unknown; such pixels count neither way."""

INTERPOLATION = "bilinear"
"""How a native map comes to the image's grid; it stands in the version of every metric that asks
for it."""

_FLAWS = ("NaN in the map", "no pixel counts", "constant map", "no positive evidence")
"""What a map may lack; where there are several, the first is told."""

_GRAIN = 2.0**40
"""Values nearer than 1/_GRAIN of a map's peak are one value: interpolation alone separates them."""


@dataclass(frozen=True)
class Evidence:
    """Maps made ready for arithmetic. values: (N, H, W) float64 on the maps' device; flags: (N, 4)
    bool there, which flaws a map has: a GPU is waited for only if they are asked for in words.

    A flawed map is stood in for by a ramp, so that no arithmetic meets a NaN or divides by zero
    and every other sample keeps its place; `scores` turns its score into NaN with the flaw.
    """

    values: Tensor
    flags: Tensor

    @property
    def sound(self) -> Tensor:
        """Whether each map can be scored, (N,) bool on the maps' device."""
        return ~self.flags.any(1)

    @cached_property
    def flaw(self) -> tuple[str | None, ...]:
        """Why each map cannot be scored, or None if it is sound."""
        return _told(self.flags)


def evidence(
    maps: Tensor, size: tuple[int, int], part: Part, *, counted: Tensor | None = None,
    constant: bool = False,
) -> Evidence:
    """The maps on a grid, one part of them, each in units of its own peak.

    maps: (N, h, w), native; upsampled bilinearly (corners not aligned) to `size` (H, W); give the
    native size itself for the native grid. part: "signed", each map divided by its own largest
    absolute value; "positive", clipped at zero, then divided by its maximum; "absolute", the same
    of |map|; "raw", upsampled alone. counted: (N, H, W) bool, the pixels that count; the others
    become 0. constant: whether a constant map is sound. Raises HeatproofError for maps finer than
    the image.
    """
    if part not in PARTS:
        raise unknown("part of a map", part, PARTS)
    values = upsampled(maps, size)
    if part == "absolute":
        values = values.abs()
    if counted is None:
        counted = torch.ones_like(values, dtype=torch.bool)
    flags = _flags(values, part, counted, constant=constant)
    flawed = flags.any(1)[:, None, None]
    values = torch.where(flawed, ramp(size, values.device), values)
    values = torch.where(counted, values, 0.0)
    if part == "positive":
        values = values.clamp(min=0)
    return Evidence(values if part == "raw" else grained(values), flags)


def upsampled(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Native maps (N, h, w) bilinearly on the image's grid: (N, H, W) float64."""
    grid = tuple(maps.shape[1:])
    if maps.ndim != 3 or grid[0] > size[0] or grid[1] > size[1]:
        raise HeatproofError(
            f"maps must be (N, h, w) and no finer than the image {size}, not {tuple(maps.shape)}; "
            "return them at the network's native grid")
    values = maps.detach().double()
    if grid != size:
        values = interpolate(values[:, None], size, mode=INTERPOLATION, align_corners=False)[:, 0]
    return values


def flaws(
    values: Tensor, part: Part, *, counted: Tensor | None = None, constant: bool = False,
) -> tuple[str | None, ...]:
    """Why each map (N, H, W) cannot be scored as that part, or None where it can.

    "NaN in the map" (infinity too), "constant map" (unless `constant` is allowed), "no positive
    evidence" (part "positive"); only the pixels that are `counted` (N, H, W) matter.
    """
    if counted is None:
        counted = torch.ones_like(values, dtype=torch.bool)
    return _told(_flags(values, part, counted, constant=constant))


def _flags(values: Tensor, part: Part, counted: Tensor, *, constant: bool) -> Tensor:
    """Which of _FLAWS each map (N, H, W) has: (N, 4) bool, on its device."""
    flat, here = values.flatten(1), counted.flatten(1)
    empty = ~here.any(1)
    bad = (~flat.isfinite() & here).any(1)
    sound = torch.where(flat.isfinite() & here, flat, 0.0)
    fine = grained(sound)
    low = torch.where(here, fine, torch.inf).amin(1)
    high = torch.where(here, fine, -torch.inf).amax(1)
    return torch.stack([bad, empty, (low == high) & (not constant),
                        (high <= 0) & (part == "positive")], 1)


def _told(flags: Tensor) -> tuple[str | None, ...]:
    return tuple(next((why for why, flag in zip(_FLAWS, row, strict=True) if flag), None)
                 for row in flags.tolist())


def grained(values: Tensor) -> Tensor:
    """Maps (N, ...) divided each by its peak, without the last bits that interpolation invents."""
    peak = values.abs().flatten(1).amax(1).view(-1, *[1] * (values.ndim - 1))
    return torch.round(values / torch.where(peak > 0, peak, 1.0) * _GRAIN) / _GRAIN


def ramp(size: tuple[int, int], device: torch.device | str = "cpu") -> Tensor:
    """A sound map (H, W): distinct values that rise from nearly 0 to 1."""
    pixels = size[0] * size[1]
    return (torch.arange(1, pixels + 1, dtype=torch.float64, device=device) / pixels).reshape(size)


def order(values: Tensor, seed: Tensor, *, shuffled: Tensor | None = None) -> Tensor:
    """Which unit has the most evidence, which comes next: (N, P) int64 indices from values (N, P).

    The sort is stable over units laid out in an order drawn from the sample's own seed (N,), so
    ties fall neither by the image's raster nor by the CPU's instruction set. shuffled: that order,
    (N, P), where it is there already.
    """
    if shuffled is None:
        shuffled = ties(seed, values.shape[1]).to(values.device, non_blocking=True)
    ranked = values.gather(1, shuffled).argsort(dim=1, descending=True, stable=True)
    return shuffled.gather(1, ranked)


def ties(seed: Tensor, units: int) -> Tensor:
    """The order that equal evidence falls in: (N, units) int64 on the CPU."""
    return permutations(seed, units, "ties")


def scores(
    value: Tensor, *flaw: tuple[str | None, ...], curve: Tensor | None = None,
    undefined: str = "the score is undefined",
) -> Scores:
    """Scores from values (N,): NaN with the first flaw that a sample has.

    A value that is not finite by itself is `undefined`.
    """
    found = value.detach().double().cpu().numpy().copy()
    reason = []
    for i, reasons in enumerate(zip(*flaw, strict=True) if flaw else [()] * len(found)):
        why = next((one for one in reasons if one), None)
        reason.append(why or (None if np.isfinite(found[i]) else undefined))
        if reason[i]:
            found[i] = np.nan
    return Scores(found, tuple(reason),
                  None if curve is None else curve.detach().double().cpu().numpy())


def grid(explained: Explained) -> tuple[int, int]:
    """The size (H, W) of the images."""
    return explained.batch.x.shape[2], explained.batch.x.shape[3]
