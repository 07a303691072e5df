"""The CAM literature's measures of confidence, against their definitions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bench import plugins
from bench.core import Batch, HeatproofError
from bench.measure import Explained, Scores
from bench.metrics import score
from bench.metrics.confidence import area
from bench.metrics.known import explained, known_answer
from bench.metrics.replacement import blurred

plugins.load()
torch.set_num_threads(1)

CHANNELS = pytest.mark.parametrize("channels", [1, 3], ids=["grey", "rgb"])
NAMES = ("paper/deletion", "paper/insertion", "paper/average-drop",
         "paper/increase-in-confidence")
METRICS = pytest.mark.parametrize("name", NAMES)
SIZE = 8


def measured(name: str, sample: Explained, **params: Any) -> Scores:
    return score(plugins.metrics[name].with_params(params), sample)


def sample_of(n: int, channels: int) -> Explained:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        net = nn.Sequential(
            nn.Conv2d(channels, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2),
            nn.Flatten(), nn.Linear(16, 3)).requires_grad_(False)
    draw = torch.Generator().manual_seed(9)
    batch = Batch(
        x=3 * torch.randn(n, channels, SIZE, SIZE, generator=draw), y=torch.arange(n) % 3,
        key=tuple(map(str, range(n))), seed=torch.arange(n) + 5, group=("",) * n)
    maps = torch.randn(n, SIZE, SIZE, generator=draw)
    return explained(net, batch, lambda net, x, target, batch: maps[batch.seed - 5])


def probability(sample: Explained, x: Tensor) -> Tensor:
    with torch.no_grad():
        return sample.network(x).double().softmax(1).gather(1, sample.target[:, None])[:, 0]


def shown(sample: Explained, count: int, empty: Tensor, *, first: bool) -> Tensor:
    """The images with their most relevant `count` pixels from `empty`, or the others from it."""
    order = sample.maps.flatten(1).argsort(1, descending=True)
    most = torch.zeros(len(order), SIZE * SIZE, dtype=torch.bool)
    most.scatter_(1, order[:, :count], True)
    gone = (most if first else ~most).view(-1, 1, SIZE, SIZE)
    return torch.where(gone, empty, sample.batch.x)


@CHANNELS
def test_deletion_turns_the_most_relevant_pixels_to_the_mean_colour(channels: int) -> None:
    sample = sample_of(3, channels)
    found = measured("paper/deletion", sample, steps=4)
    empty = torch.zeros_like(sample.batch.x)
    wanted = [probability(sample, shown(sample, count, empty, first=True))
              for count in (0, 16, 32, 48, 64)]
    np.testing.assert_allclose(found.curve, torch.stack(wanted, 1), atol=1e-6)
    np.testing.assert_allclose(found.value, np.trapezoid(found.curve, dx=1 / 4), atol=1e-12)


@CHANNELS
def test_insertion_puts_the_most_relevant_pixels_back_into_a_blurred_image(channels: int) -> None:
    sample = sample_of(3, channels)
    found = measured("paper/insertion", sample, steps=4, sigma=0.2)
    canvas = blurred(sample.batch.x, 0.2)
    wanted = [probability(sample, shown(sample, count, canvas, first=False))
              for count in (0, 16, 32, 48, 64)]
    np.testing.assert_allclose(found.curve, torch.stack(wanted, 1), atol=1e-6)
    np.testing.assert_allclose(found.value, np.trapezoid(found.curve, dx=1 / 4), atol=1e-12)


def test_the_area_of_a_curve_is_that_of_the_authors_script() -> None:
    curve = torch.tensor([[1.0, 0.5, 0.25, 0.0], [0.3, 0.3, 0.3, 0.3]])
    np.testing.assert_allclose(area(curve), [(1.75 - 0.5) / 3, 0.3], rtol=1e-6)


@CHANNELS
def test_average_drop_and_increase_compare_the_image_with_the_image_times_its_map(
    channels: int,
) -> None:
    sample = sample_of(12, channels)
    cut = sample.maps.clamp(min=0)
    mask = cut / cut.amax((1, 2), keepdim=True)
    clean = probability(sample, sample.batch.x)
    masked = probability(sample, sample.batch.x * mask[:, None])
    drop = measured("paper/average-drop", sample)
    more = measured("paper/increase-in-confidence", sample)
    np.testing.assert_allclose(drop.value, ((clean - masked) / clean).clamp(min=0), atol=1e-6)
    np.testing.assert_array_equal(more.value, (masked > clean).double())
    assert 0 < more.value.mean() < 1
    assert ((drop.value > 0) == (more.value == 0)).all()


def test_a_map_is_brought_to_the_unit_interval_by_its_minimum_and_maximum() -> None:
    sample = sample_of(4, 1)
    lifted = replace(sample, maps=(sample.maps - sample.maps.amin((1, 2), keepdim=True)) + 5)
    dropped = replace(sample, maps=lifted.maps - 5)
    np.testing.assert_allclose(measured("paper/average-drop", lifted).value,
                               measured("paper/average-drop", dropped).value, atol=1e-6)


def test_both_confidence_measures_share_two_forwards_an_image() -> None:
    sample, seen = sample_of(3, 1), []
    sample.network.register_forward_hook(lambda module, args, output: seen.append(len(output)))
    measured("paper/average-drop", sample)
    measured("paper/increase-in-confidence", sample)
    assert sum(seen) == 6


def test_a_map_without_positive_evidence_masks_nothing_that_could_be_scored() -> None:
    sample = sample_of(2, 1)
    maps = sample.maps.clone()
    maps[0] = -maps[0].abs() - 1
    for name in ("paper/average-drop", "paper/increase-in-confidence"):
        assert measured(name, replace(sample, maps=maps)).reason == (
            "no positive evidence", None)


@METRICS
@CHANNELS
def test_a_sample_scores_the_same_in_every_batch(name: str, channels: int) -> None:
    sample = sample_of(8, channels)
    together = measured(name, sample).value
    for part in ([2], [1, 2, 6]):
        alone = replace(sample, batch=sample.batch[part], logits=sample.logits[part],
                        target=sample.target[part], maps=sample.maps[part])
        np.testing.assert_allclose(measured(name, alone).value, together[part], atol=2e-6)


@METRICS
def test_a_map_that_cannot_be_scored_is_nan_with_a_reason_and_harms_no_other(name: str) -> None:
    sample = sample_of(4, 1)
    maps = sample.maps.clone()
    maps[0], maps[1], maps[2, 0, 0] = 0, 2.5, torch.inf
    usual, found = measured(name, sample), measured(name, replace(sample, maps=maps))
    assert found.reason == ("constant map", "constant map", "NaN in the map", None)
    np.testing.assert_allclose(found.value[3], usual.value[3], atol=2e-6)


@pytest.mark.parametrize(("name", "parameter", "value"), [
    ("paper/deletion", "steps", 0), ("paper/deletion", "operator", "black"),
    ("paper/insertion", "steps", 65), ("paper/insertion", "sigma", 0),
    ("paper/insertion", "sigma", "wide")], ids=str)
def test_wrong_parameters_are_told(name: str, parameter: str, value: object) -> None:
    with pytest.raises(HeatproofError, match=parameter):
        measured(name, sample_of(1, 1), **{parameter: value})


@METRICS
@CHANNELS
def test_the_lab_of_known_answers_holds(name: str, channels: int) -> None:
    findings = list(known_answer(plugins.metrics[name], channels=channels, n=3))
    assert findings
    assert all(finding.ok for finding in findings), [f for f in findings if not f.ok]
