"""Gauges of the removal measures: how far each operator leads a network from its data, and whether
a map gains by losing information.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from bench.core import HeatproofError
from bench.measure import GAUGE
from bench.metrics.draws import permutations
from bench.metrics.evidence import INTERPOLATION, grid, scores, upsampled
from bench.metrics.faithfulness import FLIPPING, REGIONS, ROAD, pixel_flipping, region_aopc, road
from bench.metrics.removal import ordered, percent_cuts, ranks
from bench.metrics.replacement import blurred, replacement_for
from bench.metrics.sharing import answers, for_all
from bench.plugins import metric

if TYPE_CHECKING:
    from torch import Tensor

    from bench.measure import Explained, Scores

SIGMAS = (1 / 64, 1 / 32, 1 / 16, 1 / 8)
"""The blurs of the data-processing check as shares of the image's shorter side; ours."""


def confidence_drop(
    explained: Explained, *, operator: str, percentages: Sequence[float],
) -> Scores:
    """The mean drop (N,); curve: (N, percentages), the drop at each share that is removed.

    Confidence is the largest softmax probability, whichever class has it.
    """
    pixels = math.prod(grid(explained))
    cuts = [0, *percent_cuts(pixels, percentages)]
    batch = explained.batch

    def run() -> Tensor:
        visit = permutations(batch.seed, pixels, "out of distribution")
        visit = visit.to(batch.x.device, non_blocking=True)
        rank = ranks(visit).view(-1, 1, *grid(explained))
        fill = replacement_for(explained, operator)
        return ordered(answers(explained), batch.x, rank, cuts, fill, read=_confidence)

    found = for_all(explained, ("out of distribution", operator, tuple(cuts)), run)
    curve = found[:, :1] - found[:, 1:]
    return scores(curve.mean(1), curve=curve)


def data_processing(
    explained: Explained, measure: Callable[..., Scores], sign: int, *,
    sigmas: Sequence[float], params: Mapping[str, Any],
) -> Scores:
    """What blurred copies of the maps gain: the mean over kernels (N,); curve: (N, kernels).

    sign: 1 if the measure's higher is better, else -1, so that a positive gain is the copy's.
    sigmas: shares of the shorter side of the image, on whose grid the maps are blurred.
    """
    if not isinstance(sigmas, list | tuple) or not sigmas or not all(
            isinstance(sigma, int | float) and sigma > 0 for sigma in sigmas):
        raise HeatproofError(
            f"sigmas must be a list of shares of the shorter side above 0, not {sigmas!r}")
    own = measure(explained, **params)
    maps = upsampled(explained.maps, grid(explained))
    copies = [measure(replace(explained, maps=blurred(maps, sigma)), **params) for sigma in sigmas]
    curve = torch.stack([
        sign * (torch.from_numpy(copy.value) - torch.from_numpy(own.value)) for copy in copies], 1)
    return scores(curve.mean(1), own.reason, *(copy.reason for copy in copies), curve=curve)


def _confidence(logits: Tensor, sample: Tensor) -> Tensor:  # noqa: ARG001
    return logits.double().softmax(1).amax(1)


def _add_confidence_drop(operator: str, title: str) -> None:
    @metric(f"ood/{operator}", title=f"Out-of-distribution gauge: {title}", family=GAUGE,
            better="lower", params={"percentages": ROAD["percentages"]}, holds=("batch", "scale"),
            range="[−1, 1]", units="probability",
            passes="percentages + 1 forward a network, none a map",
            formula="mean over p of max_c f_c(x) − max_c f_c(x without p % of its pixels at "
                    "random)",
            paper="Hooker et al. 2019, arXiv:1806.10758, for the question; the largest softmax "
                  "probability as the answer: Hendrycks & Gimpel 2017, arXiv:1610.02136",
            about="How much confidence, the largest softmax probability of any class, a network "
                  f"loses when random pixels are replaced by the operator \"{operator}\", at the "
                  "percentages of the removal measures. Lower is more in distribution. It does not "
                  "depend on any map. A network that is sure of nonsense escapes it.",
            departures=())
    def gauge(explained: Explained, *, percentages: Sequence[float]) -> Scores:
        """The mean drop of confidence (N,); curve: (N, percentages)."""
        return confidence_drop(explained, operator=operator, percentages=percentages)


def _add_data_processing(
    name: str, title: str, measure: Callable[..., Scores], sign: int, params: Mapping[str, Any],
    passes: str,
) -> None:
    @metric(f"data-processing/{name}", title=f"Data-processing check: {title}", family=GAUGE,
            better="lower", params={"sigmas": SIGMAS, **params}, version=f"1, {INTERPOLATION}",
            holds=("batch", "scale"), order=("oracle", "noise"),
            range="[−1, 1] for probabilities", units="the measure's",
            passes=f"5 × ({passes})",
            formula=f"mean over σ of {'' if sign > 0 else '−'}[score(map ∗ Gσ) − score(map)]",
            paper="Song et al. 2023, arXiv:2304.13836",
            about=f"How much a blurred copy of the map gains in {title}, over four Gaussians whose "
                  "sigmas are shares of the shorter side. A copy holds no more information about "
                  "the network than its original; where one gains for certain, the measure rewards "
                  "blur. Positive: the copy is better. The curve: the gain at each sigma.")
    def gauge(explained: Explained, *, sigmas: Sequence[float], **given: Any) -> Scores:
        """The mean gain of the blurred copies (N,); curve: (N, sigmas)."""
        return data_processing(explained, measure, sign, sigmas=sigmas, params=given)


for _operator, _title in (("mean", "channel mean"), ("blur", "blur"), ("linear", "noisy linear")):
    _add_confidence_drop(_operator, _title)
_add_data_processing("pixel-flipping", "pixel flipping", pixel_flipping, -1, FLIPPING,
                     "steps + 1 forward")
_add_data_processing("region-aopc", "region AOPC", region_aopc, 1, REGIONS, "grid² + 1 forward")
_add_data_processing("road", "ROAD", road, -1, ROAD, "percentages forwards")
