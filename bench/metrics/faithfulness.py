"""Faithfulness: what the network loses with the evidence that a map names.

Each measure reads curves off a run of `removal_outputs`, which removes a map's units in order.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch.nn.functional import one_hot

from bench.metrics.evidence import (
    INTERPOLATION,
    Evidence,
    evidence,
    grained,
    grid,
    order,
    scores,
    ties,
)
from bench.metrics.removal import (
    OUTPUTS,
    Outputs,
    even_cuts,
    ordered,
    percent_cuts,
    ranks,
    whole,
)
from bench.metrics.replacement import OPERATORS, replacement_for
from bench.metrics.sharing import answers, fingerprint, for_all
from bench.plugins import metric

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping, Sequence

    from torch import Tensor

    from bench.measure import Explained, Scores
    from bench.metrics.removal import Fill

First = Literal["most", "least"]

FLIPPING: dict[str, Any] = {"steps": 64, "operator": "mean", "output": "probability"}
REGIONS: dict[str, Any] = {"grid": 8, "operator": "mean", "output": "probability"}
ROAD: dict[str, Any] = {
    "percentages": (10, 20, 30, 40, 50, 60, 70, 80, 90), "operator": "linear"}

_SAMEK = "Samek et al. 2017, doi:10.1109/TNNLS.2016.2599820, arXiv:1509.06321"
_HOLDS = ("batch", "scale")
_VERSION = f"1, {INTERPOLATION}"
_UNIT = ("A unit is a pixel with all its channels: Quantus removes (channel, pixel) features, so "
         "an RGB pixel is three tied features.")
_START = "The curve starts at the untouched image: Quantus leaves step 0 out."
_TIES = ("Ties fall by a draw from the sample's own seed: Quantus sorts unstably, so they fall by "
         "the CPU's instruction set.")
_FILL = ("The fill is the image's own per-channel mean: Quantus's default \"black\" is the minimum "
         "of the perturbed image, an arbitrary colour for a standardised input.")
_MEAN = ("The value is the curve's mean over any number of steps: Quantus gives a curve, or an "
         "area that grows with the number of steps.")
_OPERATOR = f"operator is one of {', '.join(OPERATORS)}; output one of {', '.join(OUTPUTS)}."


@metric("pixel-flipping", title="Pixel flipping", family="faithfulness", better="lower",
        params=FLIPPING, version=_VERSION, holds=_HOLDS, range="[0, 1] for a probability",
        units="the output's", passes="steps + 1 forward",
        formula="1/(K+1) Σₖ f(x without its nₖ most relevant pixels), k = 0..K, nₖ = round(kP/K)",
        paper=f"Bach et al. 2015, doi:10.1371/journal.pone.0130140; {_SAMEK}",
        about="Mean output of the explained class while pixels are replaced in steps equal parts, "
              f"the most relevant first. {_OPERATOR}",
        departures=(_UNIT, _START, _TIES, _FILL, _MEAN))
def pixel_flipping(
    explained: Explained, *, steps: int, operator: str, output: str,
) -> Scores:
    """The curve's mean (N,); curve: (N, steps + 1), most relevant pixels first."""
    curve = _flipping(explained, "most", steps, operator, output)
    return scores(curve.mean(1), signed(explained).flaw, curve=curve)


@metric("pixel-flipping-lerf", title="Pixel flipping, least relevant first",
        family="faithfulness", better="higher", params=FLIPPING, version=_VERSION, holds=_HOLDS,
        range="[0, 1] for a probability", units="the output's", passes="steps + 1 forward",
        formula="1/(K+1) Σₖ f(x without its nₖ least relevant pixels), k = 0..K, nₖ = round(kP/K)",
        paper=f"Ancona et al. 2018, arXiv:1711.06104; {_SAMEK}",
        about="Mean output of the explained class while pixels are replaced in steps equal parts, "
              f"the least relevant first. {_OPERATOR}",
        departures=("Quantus flips the most relevant first only.", _UNIT, _START, _TIES, _FILL,
                    _MEAN))
def pixel_flipping_lerf(
    explained: Explained, *, steps: int, operator: str, output: str,
) -> Scores:
    """The curve's mean (N,); curve: (N, steps + 1), least relevant pixels first."""
    curve = _flipping(explained, "least", steps, operator, output)
    return scores(curve.mean(1), signed(explained).flaw, curve=curve)


@metric("symmetric-gain", title="Symmetric relevance gain", family="faithfulness",
        better="higher", params=FLIPPING, version=_VERSION, holds=_HOLDS,
        range="[−1, 1] for probabilities", units="the output's",
        passes="2 · (steps + 1) forwards, shared with both pixel flippings",
        formula="LeRF − MoRF, the means of both pixel-flipping curves",
        paper="Blücher et al. 2024, arXiv:2401.06654",
        about="What pixel flipping keeps with the least relevant first, less what it keeps with "
              "the most relevant first. The choice of operator matters less to it than to either "
              f"alone. {_OPERATOR}")
def symmetric_gain(
    explained: Explained, *, steps: int, operator: str, output: str,
) -> Scores:
    """LeRF less MoRF (N,); curve: (N, steps + 1), the difference at each step."""
    curve = (_flipping(explained, "least", steps, operator, output)
             - _flipping(explained, "most", steps, operator, output))
    return scores(curve.mean(1), signed(explained).flaw, curve=curve)


@metric("region-aopc", title="Region AOPC", family="faithfulness", better="higher",
        params=REGIONS, version=_VERSION, holds=_HOLDS, range="[−1, 1] for probabilities",
        units="the output's", passes="grid² + 1 forward",
        formula="1/(L+1) Σₖ [f(x) − f(x without its k most relevant cells)], k = 0..L, L = grid²",
        paper=_SAMEK,
        about="Mean fall of the explained class's output while the cells of a grid × grid tiling "
              "are replaced, the one with the largest sum of signed evidence first, so that a "
              f"coarse map is not punished for its resolution. {_OPERATOR}",
        departures=(
            "Higher is better: Quantus declares RegionPerturbation \"lower\", which is wrong for "
            "the fall under most relevant first.",
            "The tiling is grid × grid for every image size, and each pixel belongs to the cell "
            "that covers most of it: Quantus takes patches of 8 pixels that must divide the side.",
            "All cells are removed: Quantus stops at 100 regions.", _START, _TIES, _FILL, _MEAN))
def region_aopc(
    explained: Explained, *, grid: int, operator: str, output: str,
) -> Scores:
    """The mean fall (N,); curve: (N, grid² + 1), f(x) − f(x_k)."""
    cells = whole("grid", grid, min(explained.batch.x.shape[2:]))
    found = removal_outputs(
        explained, first="most", cuts=range(cells**2 + 1), operator=operator, cells=cells)
    curve = found.followed(output, explained.unit)
    curve = curve[:, :1] - curve
    return scores(curve.mean(1), signed(explained).flaw, curve=curve)


@metric("road", title="ROAD", family="faithfulness", better="lower", params=ROAD,
        version=_VERSION, holds=_HOLDS, order=("oracle", "inverse", "noise"), range="[0, 1]",
        units="share of the percentages",
        passes="percentages forwards and as many linear solves",
        formula="mean over p of [argmax f(x without its p % most relevant pixels) = y], "
                "y = argmax f(x)",
        paper="Rong et al. 2022, arXiv:2202.00449",
        about="Share of percentages of removed pixels, the most relevant first, at which the image "
              "is still classified as the untouched one is. Only where that class is the explained "
              "one: of another class the map says nothing about this decision, so there the score "
              "is NaN. Linear imputation restores scattered pixels, so noise scores worst, worse "
              f"than a map upside down. operator is one of {', '.join(OPERATORS)}.",
        departures=(
            "One value a sample, of all samples: Quantus averages over samples and keeps the "
            "first batch alone.",
            "RGB works: Quantus 0.6.0 raises an IndexError.",
            "The decision is the network's own on the untouched image: Quantus takes the label, "
            "which a wrongly classified image loses before anything is removed.",
            "Nine percentages: Quantus solves for fifty.", _UNIT, _TIES,
            "Of an image that is removed wholly its channels' means are left: there the system "
            "has no solution."))
def road(
    explained: Explained, *, percentages: Sequence[float], operator: str,
) -> Scores:
    """Share of percentages at which the decision stands (N,); curve: (N, percentages) of 0, 1."""
    cuts = percent_cuts(math.prod(grid(explained)), percentages)
    found = removal_outputs(explained, first="most", cuts=cuts, operator=operator)
    decided = explained.logits.argmax(1)
    curve = (found.predicted == decided[:, None]).double()
    other = tuple(None if same else "the network does not predict the explained class"
                  for same in (decided == explained.target).tolist())
    return scores(curve.mean(1), signed(explained).flaw, other, curve=curve)


def removal_outputs(
    explained: Explained, *, first: First, cuts: Sequence[int], operator: str,
    cells: int | None = None,
) -> Outputs:
    """The outputs (N, K) while cuts[k] pixels, or cells of a square grid, are replaced.

    first: whether those with the most or the least signed evidence go first; the one order is the
    other's reverse. Run once for all that ask for the same.
    """
    units = cells**2 if cells else math.prod(grid(explained))

    def run() -> Outputs:
        rank = explained.once(("ranks", cells), lambda: pixel_ranks(
            signed(explained).values, explained.batch.seed, cells=cells,
            shuffled=shuffled(explained, units)))
        return without(explained, rank if first == "most" else units - 1 - rank, cuts,
                       units=units, operator=operator)

    return explained.once(("removal", first, tuple(cuts), operator, cells), run)


def without(
    explained: Explained, rank: Tensor, cuts: Sequence[int], *, units: int, operator: str,
) -> Outputs:
    """The outputs (N, K) while the units of rank (N, 1, H, W) below cuts[k] are replaced.

    rank: from 0 to `units` - 1. The image without all of them is classified once for all maps.
    """
    x, fill = explained.batch.x, replacement_for(explained, operator)

    def emptied() -> Tensor:
        return ordered(answers(explained), x, torch.zeros_like(x[:, :1]), [1], fill)[:, 0]

    return along(explained, rank, cuts, what=("removed", operator), canvas=x, fill=fill, known={
        0: lambda: explained.logits,
        units: lambda: for_all(explained, ("without everything", operator), emptied)})


def along(
    explained: Explained, rank: Tensor, cuts: Sequence[int], *, what: Hashable, canvas: Tensor,
    fill: Tensor | Fill, known: Mapping[int, Callable[[], Tensor]],
) -> Outputs:
    """The outputs (N, K) of a run like `ordered`, without the images whose logits are known.

    what: names canvas and fill, which depend on no map. known: cuts at which no order matters ->
    the logits (N, classes) there, made if need be. They are in no run, asked for or not, so that
    what the others share a forward pass with is the same. Maps that part the units alike at every
    cut share one run: so do many of one network, say Grad-CAM and HiResCAM where nothing but a
    linear layer follows the mean.
    """
    read = Outputs.read(explained.target)
    left = sorted(set(cuts) - set(known))

    def run() -> Tensor:
        return ordered(answers(explained), canvas, rank, left, fill, read=read)

    every = torch.arange(len(canvas), device=canvas.device)
    found = {cut: read(known[cut](), every) for cut in set(cuts) & set(known)}
    if left:
        steps = torch.as_tensor(left, dtype=rank.dtype).to(rank.device, non_blocking=True)
        parted = torch.bucketize(rank, steps, out_int32=True, right=True)
        shared = for_all(
            explained, (what, tuple(left), fingerprint(parted, explained.target)), run)
        found |= zip(left, shared.unbind(1), strict=True)
    return Outputs.of(torch.stack([found[cut] for cut in cuts], 1))


def shuffled(explained: Explained, units: int) -> Tensor:
    """The order that ties of `units` fall in, (N, units); drawn once for all maps where it fits."""
    batch = explained.batch

    def draw() -> Tensor:
        return ties(batch.seed, units).to(batch.x.device, non_blocking=True)

    return for_all(explained, ("ties", units), draw,
                   size=len(batch) * units * torch.int64.itemsize)


def pixel_ranks(
    values: Tensor, seed: Tensor, *, cells: int | None = None, shuffled: Tensor | None = None,
) -> Tensor:
    """When each pixel's unit is removed, the most evidence first: (N, 1, H, W) int32 from 0.

    values: (N, H, W), signed evidence. Without `cells` a unit is a pixel; with them it is a cell of
    a square tiling, whose evidence is the sum over its pixels. shuffled: as in `order`.
    """
    n, height, width = values.shape
    if cells is None:
        visit = order(values.flatten(1), seed, shuffled=shuffled)
        return ranks(visit).view(n, 1, height, width).int()
    rows, columns = cell_of(height, cells, values.device), cell_of(width, cells, values.device)
    spread = [one_hot(of, cells).double() for of in (rows, columns)]
    # Sums of equal evidence must tie, whatever the order they were added in.
    sums = grained(spread[0].mT @ values @ spread[1])
    places = ranks(order(sums.flatten(1), seed, shuffled=shuffled)).view(n, cells, cells)
    return places[:, rows][:, :, columns][:, None].int()


def signed(explained: Explained) -> Evidence:
    """The signed evidence on the image's grid, made once."""
    return explained.once(
        ("evidence", "signed"), lambda: evidence(explained.maps, grid(explained), "signed"))


def _flipping(
    explained: Explained, first: First, steps: int, operator: str, output: str,
) -> Tensor:
    cuts = even_cuts(math.prod(grid(explained)), steps)
    found = removal_outputs(explained, first=first, cuts=cuts, operator=operator)
    return found.followed(output, explained.unit)


def cell_of(size: int, cells: int, device: torch.device) -> Tensor:
    """The cell that covers most of each of `size` pixels along one side: (size,)."""
    return (2 * torch.arange(size, device=device) + 1) * cells // (2 * size)
