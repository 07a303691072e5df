"""SoftCAM's own measures: whether the evidence lies on annotated lesions, and what deletion costs.

Follows Djoumessi and Berens, arXiv:2505.17748, and the authors' repository kdjoumessi/SoftCAM (its
evaluation helpers, `topK_patches`, `get_precision`, `calculate_mass_within`, `extract_patch` and
`get_multi_deletion_analysis`). All of them bring the native map to their grid bicubically.

The authors' sizes are in pixels of an image of `side` pixels: 33-pixel patches at a stride of 8
give 60 cells a side at 512 pixels and 58 at 496. For an image whose shorter side is S every size is
multiplied by S / side and rounded, to at least one pixel (ours); set `side` to the images' own size
to keep the pixels as they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn.functional import interpolate, max_pool2d, pad

from bench.core import HeatproofError, unknown
from bench.measure import Explained, Scores
from bench.metrics.evidence import IGNORE, evidence, grained, grid, order, scores
from bench.metrics.localisation import areas, masks
from bench.metrics.removal import ordered, ranks, whole
from bench.metrics.sharing import answers
from bench.plugins import metric

if TYPE_CHECKING:
    from torch import Tensor

INTERPOLATION = "bicubic"
CONFIDENCES = ("target", "top-1", "decision")

_PAPER = "Djoumessi et al. 2025, arXiv:2505.17748"
_SCALED = "Sizes in pixels are for images of `side` pixels and are scaled to others. "
_IGNORED = "where the truth is unknown (255) nothing counts, because the authors' masks know all"


def bicubic(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps (N, h, w) bicubically on another grid (corners not aligned): (N, *size) float64."""
    values = maps.detach().double()
    if tuple(values.shape[1:]) == size:
        return values
    return interpolate(values[:, None], size, mode=INTERPOLATION, align_corners=False)[:, 0]


def scaled(pixels: object, size: tuple[int, int], side: object, name: str) -> int:
    """A length meant for images of `side` pixels, for an image of this size: at least 1.

    Raises HeatproofError where a length is no number above 0.
    """
    for what, value in ((name, pixels), ("side", side)):
        if not isinstance(value, int | float) or isinstance(value, bool) or value <= 0:
            raise HeatproofError(f"{what} must be a number of pixels above 0, not {value!r}")
    assert isinstance(pixels, int | float)
    assert isinstance(side, int | float)
    return min(min(size), max(1, round(pixels * min(size) / side)))


def spared(rank: Tensor, neighbourhood: int) -> Tensor:
    """Which cells lie in no neighbourhood of a cell of lower rank: (N, h, w) bool from (N, h, w).

    The authors' neighbourhood of 4: two rows up to one down, one column left to two right. So a
    cell is spared that has the lowest rank of one row up to two down, two columns left to one
    right.
    """
    less, more = neighbourhood // 2, (neighbourhood - 1) // 2
    around = pad(-rank.double()[:, None], (less, more, more, less), value=-float("inf"))
    return max_pool2d(around, neighbourhood, 1)[:, 0] == -rank


def precisions(hit: Tensor, taken: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The share of hits among all that is taken (N,), and among the first 1, 2, ... k (N, k).

    hit, taken: (N, P) bool, in the order of their visit. Where fewer than k are taken, all of them
    count; NaN where none is.
    """
    first = (~taken).to(torch.uint8).argsort(dim=1, stable=True)
    found = (hit & taken).gather(1, first).double().cumsum(1)
    count = taken.sum(1, keepdim=True)
    wanted = torch.arange(1, k + 1, device=hit.device)
    reached = torch.minimum(wanted, count)
    curve = found.gather(1, (reached - 1).clamp(min=0)) / reached
    return found[:, -1] / count[:, 0], curve


def activation(values: Tensor, inside: Tensor, outside: Tensor) -> tuple[Tensor, Tensor]:
    """Mass inside by mass, and mass inside by the object's area: (N,) each, in [0, 1].

    values: (N, P); its positive part is stretched to [0, 1] first. inside, outside: (N, P) areas;
    NaN without positive evidence or without an object.
    """
    area = inside + outside
    positive = values.clamp(min=0)
    low = positive.masked_fill(area <= 0, float("inf")).amin(1, keepdim=True)
    high = positive.masked_fill(area <= 0, -float("inf")).amax(1, keepdim=True)
    stretched = (positive - low) / (high - low)
    within = (stretched * inside).sum(1)
    return within / (stretched * area).sum(1), within / inside.sum(1)


def tiled(values: Tensor, patch: int) -> Tensor:
    """The largest value in each of the tiles that cover a map: (N, ⌈H/patch⌉, ⌈W/patch⌉)."""
    return max_pool2d(values[:, None], patch, patch, ceil_mode=True)[:, 0]


def spread(tiles: Tensor, patch: int, size: tuple[int, int]) -> Tensor:
    """What stands in each tile, at each of its pixels: (N, H, W) from (N, rows, columns)."""
    wide = tiles.repeat_interleave(patch, 1).repeat_interleave(patch, 2)
    return wide[:, :size[0], :size[1]]


@metric("paper/patch-precision", title="Patch precision", family="localisation", better="higher",
        needs=("mask",), track="paper", paper=_PAPER, version=f"1, {INTERPOLATION}",
        params={"threshold": 1.0, "k": 29, "patch": 33, "stride": 8, "neighbourhood": 4,
                "side": 512},
        about="Of the patches at the cells with evidence above the threshold, the share that has "
              "an annotated pixel. Cells are visited from the most evidence to the least, and one "
              "in the neighbourhood of a cell visited before is skipped. The threshold is in the "
              "raw map's own unit, for SoftCAM a contribution to the logit: it has that meaning "
              "for no other map. The curve: among the first 1, 2, ... k patches. " + _SCALED,
        formula="|{patches with e > t that touch M}| / |{patches with e > t}|", range="[0, 1]",
        units="share", passes="none", holds=("batch",),
        order=("oracle in logits", "noise in logits", "inverse in logits"),
        departures=(
            "the authors pool the patches of all images; here every image has its own share",
            "a neighbourhood ends at the image's edge, because theirs runs on into the next row",
            "masks are read [row, column]; theirs are transposed for fundus and OCT",
            "ties are visited in an order drawn from the sample's seed", _IGNORED))
def patch_precision(
    explained: Explained, *, threshold: float, k: int, patch: int, stride: int, neighbourhood: int,
    side: int,
) -> Scores:
    """The precision of all patches of each image: (N,); curve (N, k) of the first ones."""
    assert explained.batch.mask is not None
    size = grid(explained)
    for name, count in (("k", k), ("neighbourhood", neighbourhood)):
        whole(name, count, size[0] * size[1])
    window = scaled(patch, size, side, "patch")
    step = scaled(stride, size, side, "stride")
    mask = explained.batch.mask.to(explained.maps.device)
    inside, outside = areas(mask)
    hit = max_pool2d(inside[:, None], window, step)[:, 0] > 0
    unknown_ = max_pool2d((mask == IGNORE).double()[:, None], window, step)[:, 0] > 0
    cells = (hit.shape[1], hit.shape[2])
    found = evidence(bicubic(explained.maps, cells), cells, "raw")
    visit = order(grained(found.values).flatten(1), explained.batch.seed)
    chosen = spared(ranks(visit).view_as(hit), neighbourhood) & (found.values > threshold)
    chosen &= hit | ~unknown_
    value, curve = precisions(
        hit.flatten(1).gather(1, visit), chosen.flatten(1).gather(1, visit), k)
    return scores(value, masks(inside, outside, background=False), found.flaw, curve=curve,
                  undefined="no evidence above the threshold")


@metric("paper/activation-precision", title="Activation precision", family="localisation",
        better="higher", needs=("mask",), track="paper", paper=_PAPER,
        version=f"1, {INTERPOLATION}",
        about="The share of the positive evidence that lies on the object, after the evidence was "
              "stretched to [0, 1].",
        formula="Σ_M v / Σ v, v = max(e, 0) stretched to [0, 1]", range="[0, 1]", units="share",
        passes="none", holds=("batch", "scale"),
        departures=("a map without positive evidence is NaN, not 0", _IGNORED))
def activation_precision(explained: Explained) -> Scores:
    """The mass inside the object by all mass of each image: (N,)."""
    return _activation(explained, 0)


@metric("paper/activation-sensitivity", title="Activation sensitivity", family="localisation",
        better="higher", needs=("mask",), track="paper", paper=_PAPER,
        version=f"1, {INTERPOLATION}",
        about="The mean over the object of the positive evidence, after it was stretched to "
              "[0, 1]: how much of the object is marked. Marking everything evenly scores high.",
        formula="Σ_M v / |M|, v = max(e, 0) stretched to [0, 1]", range="[0, 1]", units="share",
        passes="none", holds=("batch", "scale"),
        departures=("a map without positive evidence is NaN, not 0", _IGNORED))
def activation_sensitivity(explained: Explained) -> Scores:
    """The mass inside the object by its area of each image: (N,)."""
    return _activation(explained, 1)


@metric("paper/patch-deletion", title="Patch deletion", family="faithfulness", better="lower",
        track="paper", paper=_PAPER, version=f"1, {INTERPOLATION}",
        params={"patch": 33, "tiles": 14, "side": 512, "confidence": "target"},
        about="The image is cut into tiles, and one after the other is set to the mean colour, "
              "those with the largest evidence first. The area under the explained class's "
              "probability as a share of the untouched image's, at most 1. Confidence 'top-1' "
              "takes the largest probability, whatever its class, as the authors' code for many "
              "classes does, which counts a flip to another class as no drop; 'decision' takes "
              "whether the explained class is still on top, as theirs for two classes does. "
              "The curve: after 0, 1, ... `tiles`. " + _SCALED,
        formula="∫₀¹ min(p_k, p_0) / p_0 dk, by trapezoids", range="[0, 1]", units="share of p_0",
        passes="tiles + 1 forward", holds=("batch", "scale"),
        departures=(
            "the explained class is followed, because the authors' code follows the top one",
            "all rows are tiled; theirs leave out the dark rows above and below a retina",
            "tiles with the same evidence come in an order drawn from the sample's seed"))
def patch_deletion(
    explained: Explained, *, patch: int, tiles: int, side: int, confidence: str,
) -> Scores:
    """The area under the deletion curve of each image: (N,); curve (N, tiles + 1)."""
    if confidence not in CONFIDENCES:
        raise unknown("confidence", confidence, CONFIDENCES)
    size = grid(explained)
    whole("tiles", tiles, size[0] * size[1])
    tile = scaled(patch, size, side, "patch")
    found = evidence(bicubic(explained.maps, size), size, "signed")
    energy = tiled(found.values, tile)
    rank = ranks(order(energy.flatten(1), explained.batch.seed)).view_as(energy)
    target = explained.target.to(explained.batch.x.device)

    def read(logits: Tensor, sample: Tensor) -> Tensor:
        probability = logits.double().softmax(1)
        if confidence == "top-1":
            return probability.amax(1)
        if confidence == "decision":
            return (probability.argmax(1) == target[sample]).double()
        return probability.gather(1, target[sample][:, None])[:, 0]

    x = explained.batch.x
    kept = ordered(answers(explained), x, spread(rank, tile, size)[:, None].to(x.device),
                   range(tiles + 1), torch.zeros_like(x), read=read)
    curve = kept.clamp(max=kept[:, :1]) / kept[:, :1]
    return scores(torch.trapezoid(curve, dim=1) / tiles, found.flaw, curve=curve,
                  undefined="the untouched image is not taken for the explained class")


def _activation(explained: Explained, which: int) -> Scores:
    assert explained.batch.mask is not None
    size = grid(explained)
    inside, outside = areas(explained.batch.mask.to(explained.maps.device))
    found = evidence(
        bicubic(explained.maps, size), size, "positive", counted=(inside + outside) > 0)
    value = activation(*(x.flatten(1) for x in (found.values, inside, outside)))[which]
    return scores(value, masks(inside, outside, background=False), found.flaw)
