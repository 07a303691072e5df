"""Quantus's ROAD, IROF and Sufficiency, by our engine: shares of the batch, and superpixels."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from bench.core import HeatproofError
from bench.measure import Explained, Scores
from bench.metrics.evidence import scores
from bench.metrics.parity.rules import (
    attributions,
    baseline,
    clean,
    falling,
    hit,
    parity,
    predicted,
    probability,
)
from bench.metrics.removal import ordered, ranks
from bench.metrics.replacement import interpolated
from bench.metrics.sharing import for_all

SEGMENTATIONS = ("slic", "felzenszwalb")
_EXACT = 1e-9
"""How far the linear system is solved, which Quantus solves directly: to about 1e-8."""


@parity(
    "ROAD", title="ROAD", family="faithfulness", better="lower",
    order=("oracle", "inverse", "noise"),
    params={"percentages": tuple(range(1, 100, 2)), "noise": 0.01, "abs": False,
            "normalise": True},
    about="Share of the percentages of removed pixels, most evidence first, at which the explained "
          "class is still the predicted one; the removed pixels are noisy means of their "
          "neighbours. Quantus averages over samples instead, and over the first batch alone. Grey "
          "images alone: Quantus raises for colour.",
    formula="mean over p of [argmax f(x_p) = y]", range="[0, 1]", units="share of the percentages",
    passes="percentages forwards and as many linear solves",
    paper="Rong et al. 2022, ICML, arXiv:2202.00449")
def road(
    explained: Explained, *, percentages: Sequence[float], noise: float, **maps: bool,
) -> Scores:
    """The share of hits: (N,); the curve is (N, percentages) of 0 and 1."""
    x = _grey(explained, "ROAD")
    found = attributions(explained, **maps)
    order = falling(found.values.flatten(1))
    rank = ranks(order).view_as(x)
    hits = []
    for percentage in percentages:
        cut = int(order.shape[1] * percentage / 100)
        drawn = np.stack([np.random.randn(cut) for _ in x])  # noqa: NPY002
        extra = torch.zeros_like(order, dtype=torch.float64)
        extra.scatter_(1, order[:, :cut], noise * torch.from_numpy(drawn).to(x.device))
        grain = extra.view_as(x)

        def fill(sample: Tensor, removed: Tensor, grain: Tensor = grain) -> Tensor:
            return (interpolated(x[sample], removed, tolerance=_EXACT) + grain[sample]).to(x.dtype)

        hits.append(ordered(explained.network, x, rank, [cut], fill, read=hit(explained)))
    curve = torch.cat(hits, 1).double()
    return scores(curve.mean(1), found.flaw, curve=curve)


@parity(
    "IROF", title="Iterative removal of features", family="faithfulness", better="higher",
    params={"segmentation_method": "slic", "abs": False, "normalise": True,
            "perturb_baseline": "mean"},
    about="Area over the curve of the relative probability while superpixels, most evidence first, "
          "are set to the mean of the whole batch. It grows with the number of superpixels. Grey "
          "images alone: Quantus raises for colour.",
    formula="L − ∫ f(x_k) / f(x) dk, k = 1 … L superpixels", range="(−∞, L]",
    units="superpixels", passes="superpixels + 1 forward",
    paper="Rieger, Hansen 2020, arXiv:2003.08747")
def irof(
    explained: Explained, *, segmentation_method: str, perturb_baseline: str | float, **maps: bool,
) -> Scores:
    """The area over the curve: (N,). An image of fewer superpixels has zeros at the curve's end."""
    x = _grey(explained, "IROF")
    if perturb_baseline == "uniform":
        raise HeatproofError("IROF's perturb_baseline must be black, white, mean or a number")
    found = attributions(explained, **maps)
    segment = for_all(explained, ("superpixels", segmentation_method),
                      lambda: _superpixels(x, segmentation_method))
    count = segment.flatten(1).amax(1) + 1
    place = torch.stack([
        _places(a.flatten(), s.flatten(), int(n))
        for a, s, n in zip(found.values, segment, count.tolist(), strict=True)])
    rank = place.view_as(segment)[:, None]
    most = int(count.max())
    empty = x
    for k in range(most):
        # One value for all images: Quantus takes it of the whole array.
        empty = torch.where(rank == k, baseline(empty.reshape(1, -1), perturb_baseline), empty)
    after = ordered(explained.network, x, rank, range(1, most + 1), empty,
                    read=probability(explained))
    share = after / clean(explained, probability(explained))[:, None]
    curve = torch.where(torch.arange(most, device=x.device) < count[:, None], share, 0.0).double()
    alone = tuple("the image is one superpixel" if n == 1 else None for n in count.tolist())
    return scores(count - torch.trapezoid(curve, dim=1), found.flaw, alone, curve=curve)


@parity(
    "Sufficiency", title="Sufficiency", family="faithfulness", better="higher",
    defect="a sample's score depends on the others in its batch, and in many dimensions hardly two "
           "maps are near, so nearly all score 0",
    params={"threshold": 0.6, "abs": True, "normalise": True},
    about="Among the images whose maps are near, the share with the same predicted class; 0 where "
          "no map is near, as nearly always in many dimensions. Distances are Euclidean in units "
          "of each feature's deviation over the batch, as shares of the largest.",
    formula="|{j ∈ N(i): ŷ_j = ŷ_i}| / |N(i)|, N(i) = {j ≠ i: d_ij ≤ t · max d}", range="[0, 1]",
    units="share", passes="1 forward",
    paper="Dasgupta, Frost, Moshkovitz 2022, ICML, arXiv:2202.00734")
def sufficiency(explained: Explained, *, threshold: float, **maps: bool) -> Scores:
    """The share of neighbours of the same predicted class: (N,)."""
    found = attributions(explained, **maps)
    a = found.values.flatten(1)
    # SciPy takes the variance of both sides of the comparison, which are the same maps.
    scaled = a / torch.cat([a, a]).var(0).sqrt()
    distance = torch.stack([(scaled - row).square().sum(1).sqrt() for row in scaled])
    near = distance / distance.max() <= threshold
    near.fill_diagonal_(False)
    said = clean(explained, predicted())
    same = near & (said[:, None] == said)
    return scores(same.double().sum(1) / near.sum(1).clamp(min=1), found.flaw)


def _grey(explained: Explained, name: str) -> Tensor:
    x = explained.batch.x
    if x.shape[1] != 1:
        raise HeatproofError(f"Quantus's {name} cannot take images of {x.shape[1]} channels, so "
                             f"parity/{name} takes grey ones alone; use the proven track")
    return x


def _superpixels(x: Tensor, method: str) -> Tensor:
    """The superpixel of each pixel of grey images (N, 1, H, W), numbered from 0: (N, H, W)."""
    if method not in SEGMENTATIONS:
        raise HeatproofError(f"segmentation_method must be one of {', '.join(SEGMENTATIONS)}, "
                             f"not {method!r}")
    # Not at the top: the import is slow, and the names of the metrics are wanted without it.
    segmentation = importlib.import_module("skimage.segmentation")
    images = x.permute(0, 2, 3, 1).cpu().numpy().astype(np.float64)
    found = [segmentation.slic(image, start_label=0) if method == "slic"
             else segmentation.felzenszwalb(image) for image in images]
    return torch.from_numpy(np.stack(found)).to(x.device)


def _places(values: Tensor, segment: Tensor, count: int) -> Tensor:
    """The place of each pixel's superpixel, the largest mean value first: (P,)."""
    mean = torch.zeros(count, dtype=values.dtype, device=values.device)
    mean.scatter_add_(0, segment, values)
    mean /= torch.bincount(segment, minlength=count)
    place = torch.empty(count, dtype=torch.int64, device=values.device)
    order = falling(mean[None])[0]
    place[order] = torch.arange(count, device=values.device)
    return place[segment]
