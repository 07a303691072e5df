"""The one audited converter: native signed maps in, what Quantus is given out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from torch.nn.functional import interpolate

from bench.core import HeatproofError, unknown

if TYPE_CHECKING:
    from torch import Tensor

Array = np.ndarray[Any, np.dtype[Any]]
Kind = Literal["signed", "positive", "absolute", "ranks", "raw"]
KINDS: tuple[Kind, ...] = ("signed", "positive", "absolute", "ranks", "raw")

IGNORE = 255
"""The value of a mask where the truth is unknown; such pixels count neither way."""

INTERPOLATION = "bilinear"
_GRAIN = 2.0**40
"""Values nearer than 1/_GRAIN of a map's peak are one value: interpolation alone separates them."""


@dataclass(frozen=True)
class Converted:
    """Maps as Quantus takes them. array: (N, 1, H, W) float64; flaw: N reasons, or None if sound.

    A flawed map is stood in for by a ramp. So Quantus, which asserts on the whole batch and crashes
    on one constant map, never sees it, yet every other sample keeps its place and so its draws.
    The score of a stand-in is worth nothing: whoever converts turns it into NaN with the flaw.
    """

    array: Array
    flaw: tuple[str | None, ...]


def converted(
    maps: Tensor, size: tuple[int, int], kind: Kind, seed: Tensor, *,
    ignore: Array | None = None, constant: bool = False,
) -> Converted:
    """The maps on the image's grid, of one kind; (N, 1, H, W).

    maps: (N, h, w), native; upsampled bilinearly (corners not aligned) to `size` (H, W), in
    float64. kind: "signed", each map divided by its own largest absolute value, so that Quantus's
    whole-array normalisation does nothing and no score depends on who else is in the batch;
    "positive", clipped at zero, then divided by its own maximum; "absolute", the same of |map|;
    "ranks", distinct ranks in (0, 1], the largest evidence at 1 and ties in an order drawn from the
    sample's own seed (Quantus sorts unstably: else the CPU's instruction set would break the ties);
    "raw", upsampled alone. seed: (N,). ignore: (N, H, W) bool, pixels that get the lowest ranks or
    no evidence. constant: whether a constant map is sound. Raises HeatproofError for maps finer
    than the image.
    """
    if kind not in KINDS:
        raise unknown("kind of map", kind, KINDS)
    values = upsampled(maps, size)
    if kind == "absolute":
        values = np.abs(values)
    counted = np.ones_like(values, bool) if ignore is None else ~ignore
    flaw = flaws(values, kind, counted=counted, constant=constant)
    values[[reason is not None for reason in flaw]] = ramp(size)
    values = np.where(counted, values, 0.0)
    if kind == "positive":
        values = values.clip(min=0)
    if kind != "raw":
        values = _grained(values)
    if kind == "ranks":
        values = _ranks(np.where(counted, values, -np.inf), seed)
    return Converted(values[:, None], flaw)


def upsampled(maps: Tensor, size: tuple[int, int]) -> Array:
    """Native maps (N, h, w) bilinearly on the image's grid: (N, H, W) float64, a fresh array."""
    grid = tuple(maps.shape[1:])
    if maps.ndim != 3 or grid[0] > size[0] or grid[1] > size[1]:
        raise HeatproofError(
            f"maps must be (N, h, w) and no finer than the image {size}, not {tuple(maps.shape)}; "
            "return them at the network's native grid")
    values = maps.detach().cpu().double()
    if grid != size:
        values = interpolate(values[:, None], size, mode=INTERPOLATION, align_corners=False)[:, 0]
    return np.array(values.numpy())


def flaws(
    values: Array, kind: Kind, *, counted: Array | None = None, constant: bool = False,
) -> tuple[str | None, ...]:
    """Why each map (N, H, W) cannot be scored as `kind`, or None where it can.

    "NaN in the map" (infinity too), "constant map" (unless `constant` is allowed), "no positive
    evidence" (kind "positive"); only the pixels that are `counted` (N, H, W) matter.
    """
    counted = np.ones_like(values, bool) if counted is None else counted
    return tuple(_flaw(v[c], kind, constant) for v, c in zip(values, counted, strict=True))


def _flaw(values: Array, kind: Kind, constant: bool) -> str | None:
    if not np.isfinite(values).all():
        return "NaN in the map"
    if not values.size:
        return "no pixel counts"
    if not constant and np.ptp(_grained(values[None])) == 0:
        return "constant map"
    if kind == "positive" and values.max() <= 0:
        return "no positive evidence"
    return None


def objects(mask: Tensor | None, n: int, size: tuple[int, int]) -> tuple[Array, Array, Converted]:
    """The truth as Quantus takes it: the object, what to ignore, and each mask's flaw.

    object: (N, 1, H, W) of 0 and 1, any part of the mask; ignore: (N, H, W) bool, where the mask is
    255: neither object nor background. The last holds the object again with "no mask" (none was
    given) or "empty mask" as flaw; an empty one is stood in for by the first pixel.
    """
    if mask is None:
        inside, ignore = np.zeros((n, *size), bool), np.zeros((n, *size), bool)
    else:
        truth = mask.cpu().numpy()
        ignore = truth == IGNORE
        inside = (truth > 0) & ~ignore
    empty = inside.reshape(n, -1).sum(1) == 0
    inside[empty, 0, 0] = True
    why = "no mask" if mask is None else "empty mask"
    array = inside[:, None].astype(np.int64)
    return array, ignore, Converted(array, tuple(why if e else None for e in empty))


def ramp(size: tuple[int, int]) -> Array:
    """A sound map (H, W): distinct values that rise from nearly 0 to 1."""
    pixels = size[0] * size[1]
    return (np.arange(1, pixels + 1) / pixels).reshape(size)


def spread(ranks: Array, channels: int) -> Array:
    """Pixel ranks (N, 1, H, W) as ranks of features (N, 1, H, W·C), still distinct in (0, 1].

    All channels of a pixel follow one another, so a step of whole pixels flips whole pixels.
    """
    n, _, height, width = ranks.shape
    pixels = height * width
    place = np.rint(ranks * pixels)[..., None] * channels - np.arange(channels)
    return np.asarray(place.reshape(n, 1, height, width * channels) / (pixels * channels))


def _peak(values: Array) -> Array:
    """The largest absolute value of each map, (N, 1, 1); 1 for a map of zeros."""
    peak = np.abs(values).max(tuple(range(1, values.ndim)), keepdims=True)
    return np.where(peak > 0, peak, 1.0)


def _grained(values: Array) -> Array:
    """The maps, each divided by its peak, without the last bits that interpolation invents."""
    return np.asarray(np.rint(values / _peak(values) * _GRAIN) / _GRAIN)


def _ranks(values: Array, seed: Tensor) -> Array:
    ranks = np.empty_like(values)
    pixels = values[0].size
    for i, (flat, number) in enumerate(zip(values, seed.tolist(), strict=True)):
        ties = np.random.default_rng(number).permutation(pixels)
        order = np.lexsort((ties, flat.ravel()))
        rank = np.empty(pixels)
        rank[order] = np.arange(1, pixels + 1) / pixels
        ranks[i] = rank.reshape(flat.shape)
    return ranks
