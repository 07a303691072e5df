"""Faithfulness correlation: whether random parts of an image matter as much as a map says."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from bench.core import HeatproofError
from bench.metrics.draws import each
from bench.metrics.evidence import INTERPOLATION, grid, scores
from bench.metrics.faithfulness import signed
from bench.metrics.removal import OUTPUTS, Outputs, forwards, rows, whole
from bench.metrics.replacement import OPERATORS, replacement
from bench.metrics.sharing import answers, content_of, for_all
from bench.metrics.similarity import pearson
from bench.plugins import metric

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from bench.measure import Explained, Scores

PARAMS: dict[str, Any] = {"runs": 100, "share": 0.05, "operator": "mean", "output": "logit"}

_BLOCK = 16
"""Samples whose subsets are drawn at a time, so that memory does not grow with their number."""


@metric("faithfulness-correlation", title="Faithfulness correlation", family="faithfulness",
        better="higher", params=PARAMS, version=f"1, {INTERPOLATION}", holds=("batch", "scale"),
        range="[−1, 1]", units="Pearson's r",
        passes="runs forwards a network, none a map",
        formula="Pearson over runs of (Σ of e over S, f(x) − f(x without S)), S random pixels",
        paper="Bhatt et al. 2020, doi:10.24963/ijcai.2020/417, arXiv:2005.00631",
        about="Correlation, over runs random sets of a share of the pixels, of the signed evidence "
              "in the set with the fall of the explained class's output when the set is replaced. "
              f"operator is one of {', '.join(OPERATORS)}; output one of {', '.join(OUTPUTS)}.",
        departures=(
            "A set holds pixels with all their channels: Quantus draws (channel, pixel) features.",
            "A set is a share of the image: Quantus's 224 features are 7 % of a 56×56 image and "
            "0.15 % of an RGB image of 224×224.",
            "Sets come from the sample's own seed: Quantus draws them from the global generator "
            "in the order of the batch.",
            "The fill is the image's own per-channel mean: Quantus's default \"black\" is the "
            "image's minimum.",
            "One value a sample: Quantus averages over samples by default."))
def faithfulness_correlation(
    explained: Explained, *, runs: int, share: float, operator: str, output: str,
) -> Scores:
    """Pearson's r (N,), NaN where no set changes the output or all sets hold the same evidence."""
    pixels = math.prod(grid(explained))
    whole("runs", runs, 2**31)
    if runs < 2:
        raise HeatproofError("runs must be at least 2; one set has no correlation")
    if not 0 < share <= 1:
        raise HeatproofError(f"share must be a share of the pixels above 0, up to 1, not {share!r}")
    size = max(1, round(share * pixels))
    found = for_all(
        explained, ("subsets", runs, size, operator, content_of(explained.target)),
        lambda: subset_outputs(explained, runs=runs, size=size, operator=operator))
    # What the untouched image gives is the same for every set, so it moves no correlation.
    fall = -found.followed(output, explained.unit)
    maps = signed(explained)
    held = subset_sums(explained, maps.values, runs=runs, size=size)
    return scores(pearson(held, fall), maps.flaw, undefined="the correlation is undefined")


def subsets(seed: Tensor, pixels: int, *, runs: int, size: int) -> Tensor:
    """Random sets of `size` pixels from each sample's own seed: (n, runs, size) int64, indices."""
    return each(seed, "faithfulness-correlation", lambda draw: np.stack([
        draw.choice(pixels, size, replace=False, shuffle=False) for _ in range(runs)]))


def subset_outputs(explained: Explained, *, runs: int, size: int, operator: str) -> Outputs:
    """The outputs (N, runs) of the images without each set; they do not depend on any map."""
    return Outputs.of(torch.cat([
        _block(explained, block, chosen, operator)
        for block, chosen in _drawn(explained, runs, size)]))


def subset_sums(explained: Explained, values: Tensor, *, runs: int, size: int) -> Tensor:
    """The evidence of maps (N, H, W) in each of the same sets: (N, runs) float64."""
    flat = values.flatten(1)
    return torch.cat([
        flat[block].gather(1, chosen.flatten(1)).view(chosen.shape).sum(2)
        for block, chosen in _drawn(explained, runs, size)])


def _drawn(explained: Explained, runs: int, size: int) -> Iterator[tuple[slice, Tensor]]:
    """Some samples with their sets (n, runs, size) on their device, kept where all of them fit."""
    batch, pixels = explained.batch, math.prod(grid(explained))
    whole_run = len(batch) * runs * size * torch.int64.itemsize
    for start in range(0, len(batch), _BLOCK):
        block = slice(start, start + _BLOCK)

        def draw(seed: Tensor = batch.seed[block]) -> Tensor:
            return subsets(seed, pixels, runs=runs, size=size).to(batch.x.device, non_blocking=True)

        yield block, for_all(explained, ("sets", start, runs, size), draw, size=whole_run)


def _block(explained: Explained, block: slice, chosen: Tensor, operator: str) -> Tensor:
    x = explained.batch.x[block]
    fill = replacement(operator, x, explained.batch.seed[block])

    def images(sample: Tensor, run: Tensor) -> Tensor:
        removed = torch.zeros(len(sample), x[0, 0].numel(), dtype=torch.bool, device=x.device)
        removed.scatter_(1, chosen[sample, run], True)
        removed = removed.view(-1, 1, *x.shape[2:])
        return torch.where(removed, fill(sample, removed), x[sample])

    return forwards(answers(explained), images, len(x), chosen.shape[1], device=x.device,
                    read=Outputs.read(explained.target[block]), chunk=rows(x))
