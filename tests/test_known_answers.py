"""Every metric in the registry proves its direction on networks whose right answer is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import bench.metrics.classifier
import bench.metrics.quantus_track  # noqa: F401
from bench import plugins
from bench.core import HeatproofError
from bench.measure import Explained, Scores
from bench.metrics import known
from bench.metrics.known import known_answer

plugins.load()
torch.set_num_threads(1)

CHANNELS = pytest.mark.parametrize("channels", [1, 3], ids=["grey", "rgb"])
METRICS = pytest.mark.parametrize("name", list(plugins.metrics))
QUALITY = [name for name, metric in plugins.metrics.items()
           if metric.family in ("faithfulness", "localisation", "segmentation")]


@METRICS
@CHANNELS
@pytest.mark.parametrize("n", [1, 3, 64], ids=lambda n: f"batch{n}")
def test_known_answer(name: str, channels: int, n: int) -> None:
    findings = known_answer(plugins.metrics[name], channels=channels, n=n)
    assert findings
    assert all(finding.ok for finding in findings), findings


@METRICS
@CHANNELS
def test_known_answer_catches_a_direction_that_is_flipped(name: str, channels: int) -> None:
    metric = plugins.metrics[name]
    flipped = replace(metric, better="lower" if metric.better == "higher" else "higher")
    assert not any(finding.ok for finding in known_answer(flipped, channels=channels, n=3))


@pytest.mark.parametrize("name", QUALITY)
@CHANNELS
def test_known_answer_catches_maps_whose_sign_is_flipped(name: str, channels: int) -> None:
    metric = plugins.metrics[name]

    def upside_down(explained: Explained, **params: object) -> Scores:
        # Without a negative value, so that a metric of positive evidence has something to score.
        peak = explained.maps.amax((1, 2), keepdim=True)
        return metric.score(replace(explained, maps=peak - explained.maps), **params)

    found = known_answer(replace(metric, score=upside_down), channels=channels, n=3)
    assert not all(finding.ok for finding in found)


@METRICS
def test_known_answer_catches_a_metric_that_says_the_same_of_everything(name: str) -> None:
    metric = plugins.metrics[name]

    def dull(explained: Explained, **params: object) -> Scores:
        n = len(explained.batch)
        return Scores(np.full(n, 0.5), (None,) * n)

    assert not any(finding.ok for finding in known_answer(replace(metric, score=dull), n=3))


def test_known_answer_catches_a_metric_that_is_nan() -> None:
    def lost(explained: Explained) -> Scores:
        n = len(explained.batch)
        return Scores(np.full(n, np.nan), ("lost",) * n)

    metric = replace(plugins.metrics["accuracy"], score=lost, params={})
    assert not known_answer(metric, n=3)[0].ok


def test_a_family_without_a_known_answer_names_those_that_exist() -> None:
    with pytest.raises(HeatproofError, match="complexity"):
        known_answer(replace(plugins.metrics["accuracy"], family="complex"), n=3)


@CHANNELS
def test_the_planted_network_is_right_and_its_oracle_adds_up_to_the_logit(channels: int) -> None:
    batch = known.planted(8, channels)
    sample = known.explained(known.Additive(), batch, known.oracle)
    assert sample.logits.argmax(1).tolist() == batch.y.tolist()
    logit = sample.logits.gather(1, batch.y[:, None])[:, 0]
    torch.testing.assert_close(sample.maps.sum((1, 2)), logit)


def test_a_planted_sample_is_the_same_in_every_batch_and_draws_from_no_global_generator() -> None:
    state = torch.get_rng_state()
    small, large = known.planted(2, 3), known.planted(5, 3)
    known.Convolutional(3)
    assert torch.equal(small.x, large.x[:2])
    assert small.key == large.key[:2]
    assert torch.equal(state, torch.get_rng_state())
