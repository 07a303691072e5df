"""Heatmap to segmentation, and its overlap with the object: Dice and IoU, as GP nets are scored.

Follows Chatterjee et al., arXiv:2206.05148, and the authors' repository soumickmj/GPModels (its
`Local_Post-Processing.py` and `utils.py`): negative evidence is set to 0, the map is cut at the
upper threshold of a three-class multi-Otsu less an offset, and the smoothed Dice and IoU are taken.

The authors sweep the offset, in units of the map, on the very masks that are scored. Here it is
chosen on validation images, and by default it is a share of the threshold (ours), so that maps of
every scale have the same choice; `unit = "map"` is the authors' form.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from skimage.filters import threshold_multiotsu, threshold_otsu
from skimage.measure import label
from skimage.morphology import closing, disk
from torch import Tensor

from bench.core import HeatproofError, unknown
from bench.measure import Explained, Scores
from bench.metrics.evidence import IGNORE, INTERPOLATION, flaws, upsampled
from bench.metrics.maps import Array
from bench.plugins import metric

VALIDATION = "validation"
CHANNELS = ("target", "predicted", "sum")
UNITS = ("otsu", "map")

_PAPER = "Chatterjee et al. 2026, Neurocomputing 682:133460, arXiv:2206.05148"
_PARAMS: dict[str, Any] = {
    "offsets": tuple(k / 10 for k in range(11)), "unit": "otsu", "channel": "target",
    "clean": False, "min_object": 64, "min_hole": 128, "closing_radius": 2}
_CUT = (
    "the map, upsampled and without its negative values, cut above the upper threshold of a "
    "three-class multi-Otsu less an offset, and the mask of the object. ")
_CHOICE = (
    "Of offsets, the one with the best mean Dice; they are shares of the threshold, or with unit "
    "'map' of the map's own unit. Channel 'predicted' or 'sum' takes the predicted class's map "
    "or the sum over classes in place of the explained one's. With clean, objects below "
    "min_object pixels go, holes below min_hole are filled, the rest is closed with a disc of "
    "radius closing_radius, and the largest object stays. The curve: the offset, the threshold.")
_ABOUT = (
    _CUT + "The offset is chosen on validation images, never on those that are scored, unless "
    "offset is a number. " + _CHOICE)
_LEAKS = (
    "It leaks the truth: the offset is chosen on the very masks that are scored, as the authors' "
    "script does; so it is an upper bound of what the map could give, not what it gives. ")


@dataclass(frozen=True)
class Overlaps:
    """N images, each segmented at K thresholds. dice, iou, threshold: (N, K), NaN with a reason."""

    dice: Array
    iou: Array
    threshold: Array
    reason: tuple[str | None, ...]


def thresholds(heatmap: Array, offsets: Sequence[float], unit: str = "otsu") -> Array:
    """Where a heatmap (H, W) >= 0 is cut: a threshold (K,) for each offset, none below 0.

    The upper of the two thresholds of a three-class multi-Otsu on 256 bins, less the offset: in
    units of that threshold ("otsu") or of the heatmap ("map"). Where fewer than three bins are
    filled it is Otsu's threshold, which no offset moves; a constant heatmap is cut at its value, so
    nothing is left of it. Raises HeatproofError for another unit.
    """
    if unit not in UNITS:
        raise unknown("unit", unit, UNITS)
    if flaws(torch.from_numpy(heatmap)[None], "raw") == ("constant map",):
        return np.full(len(offsets), heatmap.max())
    try:
        upper = float(threshold_multiotsu(heatmap, classes=3)[-1])
    except ValueError:
        return np.full(len(offsets), float(threshold_otsu(heatmap)))
    step = upper if unit == "otsu" else 1.0
    return np.maximum(0.0, upper - step * np.asarray(offsets, np.float64))


def cleaned(mask: Array, *, min_object: int = 64, min_hole: int = 128, radius: int = 2) -> Array:
    """A mask (H, W) bool without specks: the authors' steps, in their order, sizes in pixels.

    Objects below `min_object` are dropped and holes below `min_hole` filled (neighbours share an
    edge), then comes a closing with a disc, and the largest object stays (neighbours share an edge
    or a corner; the first of equals).
    """
    mask = _large(mask, min_object)
    mask = ~_large(~mask, min_hole)
    # What lies outside the image is neither object nor background.
    mask = closing(mask, disk(radius), mode="ignore")
    part = label(mask, connectivity=2)
    size = np.bincount(part.ravel())
    size[0] = 0
    return np.asarray(mask & (part == size.argmax()))


def overlap(found: Array, truth: Array) -> tuple[float, float]:
    """Dice (2I + 1) / (|A| + |B| + 1) and IoU (I + 1) / (|A ∪ B| + 1) of two bool masks."""
    both, all_ = int((found & truth).sum()), int(found.sum()) + int(truth.sum())
    return (2 * both + 1) / (all_ + 1), (both + 1) / (all_ - both + 1)


def overlaps(
    explained: Explained, offsets: Sequence[float], *, unit: str, channel: str, clean: bool,
    min_object: int, min_hole: int, closing_radius: int,
) -> Overlaps:
    """Every image that has an object, segmented at each offset and compared with its mask.

    The segmentation never sees the mask: where the truth is unknown (255) the map still takes part
    in its threshold, but those pixels count on neither side. An empty segmentation is scored.
    """
    assert explained.batch.mask is not None
    truth = explained.batch.mask.cpu().numpy()
    maps = _chosen(explained, channel)
    dice, iou, cut = np.full((3, len(truth), len(offsets)), np.nan)
    reason: list[str | None] = []
    for i, mask in enumerate(truth):
        heatmap = upsampled(maps[i:i + 1].cpu(), mask.shape)[0].numpy()
        known = mask != IGNORE
        inside = known & (mask > 0)
        reason.append(_reason(heatmap, inside))
        if reason[i]:
            continue
        heatmap = heatmap.clip(min=0)
        cut[i] = thresholds(heatmap, offsets, unit)
        for k, threshold in enumerate(cut[i]):
            found = heatmap > threshold
            if clean:
                found = cleaned(
                    found, min_object=min_object, min_hole=min_hole, radius=closing_radius)
            dice[i, k], iou[i, k] = overlap(found & known, inside)
    return Overlaps(dice, iou, cut, tuple(reason))


def best_offset(
    explained: Explained | None, offsets: Sequence[float], **how: Any,
) -> float | None:
    """The offset with the best mean Dice, the smallest of equals; None where no image has one."""
    if not isinstance(offsets, Sequence) or not offsets or not all(map(_is_number, offsets)):
        raise HeatproofError(f"offsets must be a list of numbers, not {offsets!r}")
    if explained is None or explained.batch.mask is None:
        return None
    rising = sorted(offsets)
    dice = overlaps(explained, rising, **how).dice
    dice = dice[np.isfinite(dice).all(1)]
    return rising[int(dice.mean(0).argmax())] if len(dice) else None


@metric("segmentation/dice", title="Dice", family="segmentation", better="higher",
        needs=("mask",), params={"offset": VALIDATION, **_PARAMS}, version=f"1, {INTERPOLATION}",
        range="(0, 1]", paper=_PAPER, about="Smoothed Dice of " + _ABOUT)
def dice(explained: Explained, **params: Any) -> Scores:
    """Dice in (0, 1] of each image that has an object; curve: (N, 2), offset and threshold."""
    return _by_validation("dice", explained, **params)


@metric("segmentation/iou", title="IoU", family="segmentation", better="higher",
        needs=("mask",), params={"offset": VALIDATION, **_PARAMS}, version=f"1, {INTERPOLATION}",
        range="(0, 1]", paper=_PAPER, about="Smoothed intersection over union of " + _ABOUT)
def iou(explained: Explained, **params: Any) -> Scores:
    """IoU in (0, 1] of the masks that Dice is taken of; curve: (N, 2), offset and threshold."""
    return _by_validation("iou", explained, **params)


@metric("segmentation/dice-tuned-on-truth", title="Dice, tuned on the truth",
        family="segmentation", better="higher", needs=("mask",), params=_PARAMS,
        version=f"1, {INTERPOLATION}", range="(0, 1]", paper=_PAPER, track="tuned-on-truth",
        about=_LEAKS + "Smoothed Dice of " + _CUT + _CHOICE)
def dice_tuned_on_truth(explained: Explained, **params: Any) -> Scores:
    """Dice with the offset that is best on these very images; curve: offset and threshold."""
    return _by_truth("dice", explained, **params)


@metric("segmentation/iou-tuned-on-truth", title="IoU, tuned on the truth",
        family="segmentation", better="higher", needs=("mask",), params=_PARAMS,
        version=f"1, {INTERPOLATION}", range="(0, 1]", paper=_PAPER, track="tuned-on-truth",
        about=_LEAKS + "Smoothed intersection over union of " + _CUT + _CHOICE)
def iou_tuned_on_truth(explained: Explained, **params: Any) -> Scores:
    """IoU with the offset of the best Dice on these very images; curve: offset and threshold."""
    return _by_truth("iou", explained, **params)


def _by_validation(
    measure: str, explained: Explained, *, offset: object, offsets: Sequence[float], **how: Any,
) -> Scores:
    if offset == VALIDATION:
        held = explained.validation() if explained.validation else None
        offset = best_offset(held, offsets, **how)
        if offset is None:
            own = overlaps(explained, [0.0], **how).reason
            return Scores(np.full(len(own), np.nan), tuple(
                why or "no validation images with masks; set offset" for why in own))
    if not _is_number(offset):
        raise HeatproofError(f"offset must be {VALIDATION!r} or a number, not {offset!r}")
    return _scores(measure, explained, offset, **how)


def _by_truth(
    measure: str, explained: Explained, *, offsets: Sequence[float], **how: Any,
) -> Scores:
    # Without any best one each sample still has its own reason.
    return _scores(measure, explained, best_offset(explained, offsets, **how) or 0.0, **how)


def _scores(measure: str, explained: Explained, offset: Any, **how: Any) -> Scores:
    found = overlaps(explained, [offset], **how)
    curve = np.concatenate([np.full_like(found.threshold, offset), found.threshold], 1)
    return Scores(getattr(found, measure)[:, 0], found.reason, curve)


def _chosen(explained: Explained, channel: str) -> Tensor:
    """The native maps (N, h, w) of the class that is meant.

    "target" is the explained class; "predicted", the authors' own choice, differs where the
    classifier errs; "sum" is the sum of the signed maps over all classes.
    """
    if channel not in CHANNELS:
        raise unknown("channel", channel, CHANNELS)
    if channel == "target":
        return explained.maps
    if channel == "sum":
        maps = [explained.explain(target=torch.full_like(explained.target, c))
                for c in range(explained.classes)]
        return torch.stack(maps).sum(0)
    predicted = explained.logits.argmax(1)
    other = (predicted != explained.target).nonzero()[:, 0].tolist()
    chosen = explained.maps.clone()
    if other:
        chosen[other] = explained.explain(target=predicted[other], index=other)
    return chosen


def _reason(heatmap: Array, inside: Array) -> str | None:
    if not inside.any():
        return "no object in the mask"
    return None if np.isfinite(heatmap).all() else "NaN in the map"


def _large(mask: Array, least: int) -> Array:
    """The parts of a bool mask (H, W) that have at least so many pixels."""
    part = label(mask, connectivity=1)
    size = np.bincount(part.ravel())
    size[0] = 0
    return np.asarray((size >= least)[part] & mask)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
