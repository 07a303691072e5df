"""Randomisation: whether a map is about this network, and about this class.

Re-initialised networks are made stage by stage (`stages`). Maps are compared on their own grid,
since both come from one method: nothing is blown up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from bench.core import HeatproofError, unknown
from bench.measure import Explained, Scores
from bench.metrics.draws import counted, each
from bench.metrics.evidence import INTERPOLATION, Part, evidence, grid, scores
from bench.metrics.sharing import for_all
from bench.metrics.similarity import pearson, ranks, ssim
from bench.plugins import metric
from bench.shared import nbytes
from bench.stages import copied, randomised, redrawn, resets, stages

if TYPE_CHECKING:
    from torch import Tensor, nn

    from bench.stages import Stage

CHUNK = 64
"""Maps on the image's grid at a time."""

Order = Literal["bottom-up", "top-down"]

_ADEBAYO = "Adebayo et al. 2018, NeurIPS, arXiv:1810.03292"
_OUT = "explained again: constant map or NaN"
_BINS = 100
_FRESH = (
    "Layers are drawn anew by stage, at most eight, and not one by one: Quantus counts each of a "
    "ResNet's batch norms as a step.",
    "Each layer has a seed of its own: Quantus resets all under one seed, so that layers of one "
    "shape become equal.",
    "Parameters without a reset_parameters (prototypes, tokens, temperatures) are drawn anew too: "
    "Quantus leaves them trained.",
    "The mean of several draws of all weights, not one draw.")


def similarities(explained: Explained, order: Order, draws: int, most: int) -> Tensor:
    """Rank correlation of |map| with itself after each stage was drawn anew: (N, draws, K).

    NaN where the map of a re-initialised network is constant or not finite.
    """
    parts = _stages(explained, most)
    if order == "top-down":
        parts = parts[::-1]

    def alike(again: Tensor) -> Tensor:
        return compared(explained, again, "absolute", SPEARMAN)

    found = []
    for draw in range(draws):
        steps = _networks(explained, parts[:-1], draw)
        found.append(torch.stack([
            *(alike(explained.explain(net=network)) for network in steps),
            alike(whole(explained, draw))], 1))
    return torch.stack(found, 1)


def whole(explained: Explained, draw: int) -> Tensor:
    """The native maps (N, h, w) when all of the network is drawn anew, by whatever order."""
    def make() -> Tensor:
        if (drawn := _redrawn(explained, draw)) is None:
            (own,) = randomised(explained.network, _stages(explained, 1), draw)
        else:
            own = copied(drawn)
            own._forward_hooks = explained.network._forward_hooks.copy()  # of today
        return explained.explain(net=own)

    return explained.once(("maps of a new network", draw), make)


def _stages(explained: Explained, most: int) -> tuple[Stage, ...]:
    return for_all(explained, ("stages", most),
                   lambda: stages(explained.network, explained.batch.x[:1], most))


def _networks(explained: Explained, order: Sequence[Stage], draw: int) -> Iterator[nn.Module]:
    """As `randomised` of the network, whose new weights are drawn once for all maps and orders."""
    if (drawn := _redrawn(explained, draw)) is None:
        yield from randomised(explained.network, order, draw)
    elif order:
        changed = copied(explained.network)
        for stage in order:
            for name in stage.modules:
                _renew(changed.get_submodule(name), drawn.get_submodule(name))
            yield changed


def _redrawn(explained: Explained, draw: int) -> nn.Module | None:
    """The network drawn anew for all maps, or None where each stage must be drawn by itself."""
    network = explained.network
    held = [id(p) for _, p in network.named_parameters(remove_duplicate=False)]
    # Of weights that two modules tie, each draw overwrites the other's, so their order matters.
    if len(set(held)) < len(held) or not explained.shared.fits(nbytes(network)):
        return None
    return for_all(explained, ("redrawn", draw), lambda: redrawn(network, draw))


def _renew(module: nn.Module, drawn: nn.Module) -> None:
    """Gives a module what drawing it anew changed: its parameters, and buffers that it resets."""
    pairs = [*zip(module.parameters(recurse=False), drawn.parameters(recurse=False), strict=True)]
    if resets(module):
        pairs += zip(module.buffers(), drawn.buffers(), strict=True)  # type: ignore[arg-type]
    for own, new in pairs:
        own.data.copy_(new)


@dataclass(frozen=True)
class Measure:
    """Of two maps (n, H, W) float64: `prepared` of either by itself, and then `of` both: (n,)."""

    name: str
    prepared: Callable[[Tensor], Tensor]
    of: Callable[[Tensor, Tensor], Tensor]


def compared(
    explained: Explained, again: Tensor, part: Part, measure: Measure,
    size: tuple[int, int] | None = None,
) -> Tensor:
    """A measure of each map (N, h, w) and the same one made again: (N,), a few at a time.

    part, size: as in `evidence`; by default the native grid. NaN where the map made again is
    constant or not finite.
    """
    maps, found = explained.maps, []
    height, width = size or (maps.shape[1], maps.shape[2])
    kept = explained.shared.fits(8 * len(maps) * height * width)
    for start in range(0, len(maps), CHUNK):
        few = slice(start, start + CHUNK)

        def own(few: slice = few) -> Tensor:
            return measure.prepared(evidence(maps[few], (height, width), part).values)

        key = ("compared", measure.name, part, height, width, start)
        other = evidence(again[few], (height, width), part)
        value = measure.of(explained.once(key, own) if kept else own(),
                           measure.prepared(other.values))
        found.append(torch.where(other.sound, value, torch.nan))
    return torch.cat(found)


def _flaw(maps: Tensor, part: Part) -> tuple[str | None, ...]:
    return tuple(why for few in torch.split(maps, CHUNK)
                 for why in evidence(few, (few.shape[1], few.shape[2]), part).flaw)


def _joint_ssim(one: Tensor, other: Tensor) -> Tensor:
    both = torch.cat([one, other], 1).flatten(1)
    return ssim(one, other, both.amax(1) - both.amin(1))


SPEARMAN = Measure("spearman", lambda values: ranks(values.flatten(1)), pearson)
SIMILARITIES = {one.name: one for one in (
    SPEARMAN, Measure("ssim", lambda values: values, _joint_ssim))}


def entropy(values: Tensor, bins: int = _BINS) -> Tensor:
    """The entropy of each map's (N, H, W) histogram between its own extremes, in nats: (N,).

    The last bin holds its upper edge too, as in `numpy.histogram`. 0 for a constant map.
    """
    flat = values.flatten(1).double()
    low, high = flat.amin(1, keepdim=True), flat.amax(1, keepdim=True)
    steps = torch.arange(bins + 1, dtype=flat.dtype, device=flat.device)
    edges = low + steps * ((high - low) / bins)
    place = torch.searchsorted(edges[:, :-1].contiguous(), flat.contiguous(), right=True) - 1
    count = torch.zeros(len(flat), bins, dtype=flat.dtype, device=flat.device)
    count.scatter_add_(1, place.clamp(0, bins - 1), torch.ones_like(flat))
    share = count / flat.shape[1]
    return -torch.xlogy(share, share).sum(1)


RISE = Measure("entropy", entropy, lambda before, after: after / before - 1)


def off_classes(target: Tensor, classes: int, draws: int, seed: Tensor) -> Tensor:
    """Other classes than the target (N,), drawn for each sample without repetition: (N, k).

    k is `draws`, or as many as there are. Raises HeatproofError for fewer than two classes.
    """
    if classes < 2:
        raise HeatproofError("random-logit needs a second class; leave it out of this suite")
    drawn = each(seed, "random-logit", lambda rng: rng.permutation(classes - 1)[:draws])
    drawn = drawn.to(target.device, non_blocking=True)
    return torch.where(drawn >= target[:, None], drawn + 1, drawn)


def _mprt(explained: Explained, order: Order, draws: int, most: int) -> Scores:
    counted(draws)
    found = explained.once(("mprt", order, draws, most),
                           lambda: similarities(explained, order, draws, most))
    curve = found.nanmean(1)
    return scores(curve.nanmean(1), _flaw(explained.maps, "absolute"), curve=curve,
                  undefined=_OUT)


def _register(name: str, order: Order, title: str, first: str) -> None:
    def score(explained: Explained, *, draws: int, stages: int) -> Scores:
        return _mprt(explained, order, draws, stages)

    metric(
        name, title=title, family="randomisation", better="lower",
        needs=("explain", "randomise"), params={"draws": 3, "stages": 8}, version="1",
        paper=_ADEBAYO,
        about=f"How alike the map stays while the network is drawn anew, stage by stage, {first} "
              "first, and what was drawn stays so. The curve has a point after each stage; the "
              "last is the wholly new network. A map that does not look at the network scores "
              "exactly 1. Batch norms become as new too, running statistics and all. Stages whose "
              "map is constant or NaN are left out of the sample's mean.",
        formula="1/K Σₖ 1/R Σᵣ ρ(|a|, |a after k stages, draw r|), ρ: Spearman, native grid",
        range="[−1, 1]", units="rank correlation", passes="stages · draws explanations",
        departures=(
            *_FRESH,
            "The untouched network is no step of the mean: Quantus averages its 1.0 in.",
            "On the method's own grid, each map by itself, and a constant map is NaN for its "
            "sample alone."),
        holds=("batch", "scale"))(score)


_register("mprt", "bottom-up", "Model randomisation, bottom up", "the layers next to the image")
_register("mprt-top-down", "top-down", "Model randomisation, top down", "the head")


@metric(
    "efficient-mprt", title="Efficient model randomisation", family="randomisation",
    better="higher", needs=("explain", "randomise"), params={"draws": 3},
    version=f"1, {INTERPOLATION}",
    paper="Hedström et al. 2024, arXiv:2401.06465 and arXiv:2405.02383",
    about="How much more complex the map becomes when the whole network is drawn anew: the "
          "relative rise of the entropy of the map's values in 100 bins between its extremes. A "
          "map that does not look at the network scores exactly 0.",
    formula="1/R Σᵣ (H(aᵣ) − H(a)) / H(a), H: entropy of a histogram of 100 bins",
    range="[−1, ∞)", units="relative change of entropy", passes="draws explanations",
    departures=(*_FRESH[1:], "A constant map is NaN: Quantus divides by its entropy of 0."),
    order=("oracle", "image"),
    holds=("batch", "scale"))
def efficient_mprt(explained: Explained, *, draws: int) -> Scores:
    """The mean relative rise of entropy over the draws; the curve holds each draw's."""
    counted(draws)
    curve = torch.stack([
        compared(explained, whole(explained, draw), "signed", RISE, grid(explained))
        for draw in range(draws)], 1)
    return scores(curve.nanmean(1), _flaw(explained.maps, "signed"), curve=curve, undefined=_OUT)


@metric(
    "random-logit", title="Random logit", family="randomisation", better="lower",
    needs=("explain",), params={"draws": 3, "similarity": "spearman"}, version="1",
    paper="Sixt, Granz, Landgraf 2020, ICML, arXiv:1912.09818",
    about="How alike the map of the class is to the maps of a few other classes, drawn for each "
          "sample (all others, where there are no more). A class-blind map scores exactly 1. "
          "similarity: \"spearman\", or \"ssim\" (Gaussian window, maps in units of their peak).",
    formula="1/R Σᵣ ρ(a_t, a_cᵣ), cᵣ ≠ t, ρ: Spearman, native grid",
    range="[−1, 1]", units="rank correlation", passes="draws explanations",
    departures=(
        "Three other classes a sample: Quantus takes one.",
        "Drawn from the sample's own seed: Quantus's draws restart with every batch.",
        "Rank correlation, or SSIM in two dimensions: Quantus flattens the map and slides a "
        "window of seven along the rows.",
        "The number of classes is the network's: Quantus's default of 1000 crashes on fewer.",
        "On the method's own grid, each map scaled by itself: Quantus scales the batch together."),
    holds=("batch", "scale"))
def random_logit(explained: Explained, *, draws: int, similarity: str) -> Scores:
    """The mean similarity to the off-classes' maps; the curve holds each one's."""
    counted(draws)
    if similarity not in SIMILARITIES:
        raise unknown("similarity", similarity, SIMILARITIES)
    classes = off_classes(explained.target, explained.classes, draws, explained.batch.seed)
    curve = torch.stack([
        compared(explained, explained.explain(target=target), "signed",
                 SIMILARITIES[similarity])
        for target in classes.T], 1)
    return scores(curve.nanmean(1), _flaw(explained.maps, "signed"), curve=curve, undefined=_OUT)
