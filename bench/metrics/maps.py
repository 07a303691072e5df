"""What Quantus is given: the evidence as NumPy arrays, in the kinds that its metrics ask for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from bench.core import unknown
from bench.metrics.evidence import IGNORE, evidence, order

if TYPE_CHECKING:
    from torch import Tensor

Array = np.ndarray[Any, np.dtype[Any]]
Kind = Literal["signed", "positive", "absolute", "ranks", "raw"]
KINDS: tuple[Kind, ...] = ("signed", "positive", "absolute", "ranks", "raw")


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

    kind: a part of `evidence`, each map in units of its own peak so that Quantus's whole-array
    normalisation does nothing and no score depends on who else is in the batch; or "ranks",
    distinct ranks in (0, 1], the largest evidence at 1 (Quantus sorts unstably: else the CPU's
    instruction set would break the ties). ignore: (N, H, W) bool, pixels that get the lowest ranks
    or no evidence. constant: whether a constant map is sound. Raises HeatproofError for maps finer
    than the image.
    """
    if kind not in KINDS:
        raise unknown("kind of map", kind, KINDS)
    counted = None if ignore is None else torch.from_numpy(~ignore)
    found = evidence(maps.cpu(), size, "signed" if kind == "ranks" else kind, counted=counted,
                     constant=constant)
    values = found.values
    if kind == "ranks":
        if counted is not None:
            values = torch.where(counted, values, -torch.inf)
        values = _ranks(values, seed)
    return Converted(values[:, None].numpy().copy(), found.flaw)


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


def spread(ranks: Array, channels: int) -> Array:
    """Pixel ranks (N, 1, H, W) as ranks of features (N, 1, H, W·C), still distinct in (0, 1].

    All channels of a pixel follow one another, so a step of whole pixels flips whole pixels.
    """
    n, _, height, width = ranks.shape
    pixels = height * width
    place = np.rint(ranks * pixels)[..., None] * channels - np.arange(channels)
    return np.asarray(place.reshape(n, 1, height, width * channels) / (pixels * channels))


def _ranks(values: Tensor, seed: Tensor) -> Tensor:
    pixels = values[0].numel()
    rank = torch.empty_like(values).flatten(1)
    falling = torch.arange(pixels, 0, -1, dtype=rank.dtype) / pixels
    rank.scatter_(1, order(values.flatten(1), seed), falling.expand_as(rank))
    return rank.view_as(values)
