"""Planted bugs: the lab is proven by finding each of them in every metric that it can spoil."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

import bench.metrics.evidence
from bench.measure import GAUGE, Explained, Metric, Scores
from bench.metrics.known import known_answer

Change = Callable[[Explained], Explained]


@dataclass(frozen=True)
class Mutant:
    """A bug, and where it is none.

    about: what goes wrong; plant: the metric with the bug; spares: by metric, head of its name or
    family, why it is as good with the bug as without; empty if it is not, but its family is.
    """

    name: str
    about: str
    plant: Callable[[Metric], Metric]
    spares: Mapping[str, str]

    def spared(self, metric: Metric) -> str:
        """Why the bug is none in this metric; empty where it is one."""
        if self.name == "mask off by one" and "mask" not in metric.needs:
            return "it reads no mask"
        keys = (metric.name, metric.name.partition("/")[0], metric.family)
        return next((self.spares[key] for key in keys if key in self.spares), "")

    def caught(self, metric: Metric) -> str:
        """The first thing that the lab finds wrong with the mutant; empty for none."""
        planted = self.plant(metric)
        return next((finding.name for channels in (3, 1)
                     for finding in known_answer(planted, channels=channels) if not finding.ok), "")


def _other_way(metric: Metric) -> Metric:
    return replace(metric, better="lower" if metric.better == "higher" else "higher")


def _dull(metric: Metric) -> Metric:
    def score(explained: Explained, **params: Any) -> Scores:  # noqa: ARG001
        n = len(explained.batch)
        return Scores(np.full(n, 0.5), (None,) * n)
    return replace(metric, score=score)


def _half(metric: Metric) -> Metric:
    """Scores the first half of the batch, and repeats what it found for the rest."""
    def score(explained: Explained, **params: Any) -> Scores:
        found = metric.score(explained, **params)
        n = len(found.value)
        place = np.arange(n) % max(1, n // 2)
        return Scores(found.value[place], tuple(found.reason[i] for i in place))
    return replace(metric, score=score)


def _seeing(change: Change) -> Callable[[Metric], Metric]:
    """The metric that is shown something else than it is given."""
    def plant(metric: Metric) -> Metric:
        return replace(metric, score=lambda explained, **params: metric.score(
            change(explained), **params))
    return plant


def _upside_down(explained: Explained) -> Explained:
    return replace(explained, maps=-explained.maps,
                   explain=lambda **asked: -explained.explain(**asked))


def _one_channel(explained: Explained) -> Explained:
    x = explained.batch.x.clone()
    x[:, 1:] = 0
    return replace(explained, batch=replace(explained.batch, x=x))


def _moved_mask(explained: Explained) -> Explained:
    mask = explained.batch.mask
    assert mask is not None
    return replace(explained, batch=replace(explained.batch, mask=mask.roll(1, 2)))


def _one_array(metric: Metric) -> Metric:
    """Divides all maps by the batch's peak, where each has to be divided by its own."""
    def score(explained: Explained, **params: Any) -> Scores:
        right = bench.metrics.evidence.grained
        finite = torch.where(explained.maps.isfinite(), explained.maps, 0.0)
        peak = finite.abs().max().clamp(min=torch.finfo(torch.float32).tiny)
        bench.metrics.evidence.grained = _grained_as_one
        try:
            return metric.score(replace(explained, maps=explained.maps / peak), **params)
        finally:
            bench.metrics.evidence.grained = right
    return replace(metric, score=score)


def _grained_as_one(values: Tensor) -> Tensor:
    """As evidence.grained, but by the peak of the whole array."""
    peak = values.abs().max()
    return torch.round(values / torch.where(peak > 0, peak, 1.0) * 2.0**40) / 2.0**40


_RANKS_NOTHING = "it ranks nothing"
_NO_MAP = "it reads no map"
_NO_IMAGE = "it shows the network no image"
_BOTH = "it compares maps with maps, and both are turned over"
_ZEROS = "it asks where the map is zero"
_IDLE = "its order does not tell a blind pixel from an idle one"
_FAR = "noise of an image's size is further off than a map upside down"
_SMALL = "the smaller map errs less of a network that sees nothing"
_CHAOS = "from a pattern to chaos is no further than from chaos to chaos"
_GREY = "it takes grey images alone"
_ALIKE = "no planted sample differs from another in it"

MUTANTS = (
    Mutant("direction flipped", "better is the other way round", _other_way,
           {GAUGE: _RANKS_NOTHING, "data-processing": ""}),
    Mutant("map flipped", "evidence for counts as evidence against", _seeing(_upside_down),
           {GAUGE: _RANKS_NOTHING, "classifier": _NO_MAP,
            "data-processing": "blur helps noise more than a right map upside down",
            "complexity": "it reads |map|", "robustness": _BOTH, "randomisation": _BOTH,
            "coherence": _BOTH, "parity/AttributionLocalisation": "it reads |map|",
            "parity/RelevanceMassAccuracy": "both sums of its ratio change sign",
            "parity/NonSensitivity": _ZEROS, "quantus/NonSensitivity": _ZEROS,
            "quantus/RelevanceMassAccuracy": "both sums of its ratio change sign",
            "quantus/MonotonicityCorrelation": "it reads |map|",
            "quantus/InputInvariance": _BOTH,
            "quantus/Infidelity": _FAR, "parity/Infidelity": _FAR}),
    Mutant("constant", "every sample scores 0.5", _dull,
           {"class-flips": _ALIKE,
            "ood": "any drop is possible; the exact ones stand in tests/test_gauges.py"}),
    Mutant("first half", "half of the batch is scored, and repeated for the rest", _half,
           {"class-flips": _ALIKE}),
    Mutant("dropped channel", "only the first channel of the images is kept",
           _seeing(_one_channel),
           {**dict.fromkeys(("localisation", "segmentation", "complexity", "coherence",
                             "classifier", "randomisation"), _NO_IMAGE),
            # These hand the explainer their images again, the others ask for the sample's own.
            **dict.fromkeys(("parity/SmoothMPRT", "quantus/EfficientMPRT", "quantus/MPRT",
                             "quantus/RandomLogit"), ""),
            GAUGE: _RANKS_NOTHING, "data-processing": "",
            "data-processing/road": "no decision changes with what is left",
            "parity/NonSensitivity": _IDLE, "quantus/NonSensitivity": _IDLE,
            "quantus/InputInvariance": "a pattern that ignores the image is as invariant in one",
            "quantus/LocalLipschitzEstimate": _CHAOS, "parity/LocalLipschitzEstimate": _CHAOS,
            "parity/IROF": _GREY, "parity/ROAD": _GREY, "parity/Infidelity": _SMALL,
            "quantus/MonotonicityCorrelation": "the planted evidence keeps its order in one",
            "quantus/Infidelity": _SMALL}),
    Mutant("one normalisation", "all maps are divided by the peak of the batch", _one_array,
           {**dict.fromkeys(("classifier", "ceiling", "ood", "mask-area", "class-flips"), _NO_MAP),
            "parity/Infidelity": "",
            "segmentation": "its threshold is in the map's own unit",
            "quantus/EfficientMPRT": "its histogram is as wide as each map",
            "quantus/ROAD": "Quantus is called once a sample",
            **dict.fromkeys(("quantus/RelativeInputStability", "quantus/RelativeOutputStability",
                             "quantus/RelativeRepresentationStability"),
                            "it divides by the map itself, value by value"),
            "parity": "Quantus divides by the peak of the batch, and parity is as Quantus is"}),
    Mutant("mask off by one", "the mask lies one pixel further right", _seeing(_moved_mask),
           {GAUGE: _RANKS_NOTHING, "classifier": "where the object lies changes nothing"}))
"""The bugs that the lab has to find."""
