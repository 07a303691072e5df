"""The gauges of the removal measures: operators out of distribution, and gains by blur."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bench import plugins
from bench.core import Batch, HeatproofError
from bench.measure import GAUGE, Explained, Scores
from bench.metrics import score
from bench.metrics.gauges import SIGMAS
from bench.metrics.known import explained
from bench.metrics.replacement import blurred

plugins.load()
torch.set_num_threads(1)

CHANNELS = pytest.mark.parametrize("channels", [1, 3], ids=["grey", "rgb"])
OOD = ("ood/mean", "ood/blur", "ood/linear")
CHECKS = {"data-processing/pixel-flipping": ("pixel-flipping", -1, {"steps": 8}),
          "data-processing/region-aopc": ("region-aopc", 1, {"grid": 8}),
          "data-processing/road": ("road", -1, {"percentages": (10, 20, 30)})}
SIZE = 16


def measured(name: str, sample: Explained, **params: Any) -> Scores:
    return score(plugins.metrics[name].with_params(params), sample)


def sample_of(
    n: int, channels: int, maps: Callable[[Tensor], Tensor] | None = None,
) -> Explained:
    """Random images under a small network; maps of images, else noise."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        net = nn.Sequential(
            nn.Conv2d(channels, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2),
            nn.Flatten(), nn.Linear(16, 3)).requires_grad_(False)
    draw = torch.Generator().manual_seed(9)
    x = 3 * torch.randn(n, channels, SIZE, SIZE, generator=draw)
    batch = Batch(x=x, y=net(x).argmax(1), key=tuple(map(str, range(n))),
                  seed=torch.arange(n) + 5, group=("",) * n)
    drawn = torch.randn(n, SIZE, SIZE, generator=draw)
    return explained(net, batch, lambda net, x, target, batch: (
        drawn[batch.seed - 5] if maps is None else maps(x)))


@pytest.mark.parametrize("name", [*OOD, *CHECKS])
def test_a_gauge_is_shown_and_never_ranked(name: str) -> None:
    card = plugins.metrics[name]
    assert (card.family, card.track, card.better) == (GAUGE, "proven", "lower")
    for fact in ("about", "formula", "range", "units", "passes", "paper", "holds"):
        assert getattr(card, fact)


@CHANNELS
def test_an_operator_that_puts_back_what_it_took_is_in_distribution(channels: int) -> None:
    sample = sample_of(4, channels)
    flat = sample.batch.x[..., :1, :1].expand_as(sample.batch.x).contiguous()
    flat = replace(sample, batch=replace(sample.batch, x=flat))
    for name in ("ood/mean", "ood/blur"):
        np.testing.assert_allclose(measured(name, flat).curve, 0, atol=1e-6)
        assert np.abs(measured(name, sample).curve).max() > 1e-3
    # What "linear" adds to a constant image is its noise alone.
    assert np.abs(measured("ood/linear", flat).curve).max() < 0.05


def test_the_gauge_is_the_fall_of_the_largest_probability_when_random_pixels_go() -> None:
    sample = sample_of(3, 1)
    found = measured("ood/mean", sample, percentages=(100,))
    with torch.no_grad():
        empty = sample.batch.x.mean((2, 3), keepdim=True).expand_as(sample.batch.x)
        before, after = (sample.network(x).softmax(1).amax(1) for x in (sample.batch.x, empty))
    np.testing.assert_allclose(found.value, before - after, atol=1e-6)
    assert measured("ood/mean", sample).curve.shape == (3, 9)
    np.testing.assert_allclose(measured("ood/mean", sample).curve.mean(1),
                               measured("ood/mean", sample).value)


@pytest.mark.parametrize("name", OOD)
def test_an_operators_gauge_depends_on_no_map_and_on_no_neighbour(name: str) -> None:
    sample = sample_of(6, 3)
    usual = measured(name, sample)
    blank = measured(name, replace(sample, maps=torch.zeros_like(sample.maps)))
    np.testing.assert_array_equal(usual.value, blank.value)
    part = [4, 1]
    alone = replace(sample, batch=sample.batch[part], logits=sample.logits[part],
                    target=sample.target[part], maps=sample.maps[part])
    np.testing.assert_allclose(measured(name, alone).value, usual.value[part], atol=2e-6)
    with pytest.raises(HeatproofError, match="percentages"):
        measured(name, sample, percentages=(0,))


@pytest.mark.parametrize("name", CHECKS)
@CHANNELS
def test_the_gain_is_that_of_the_blurred_copy_over_the_original(name: str, channels: int) -> None:
    base, sign, params = CHECKS[name]
    sample = sample_of(3, channels)
    found = measured(name, sample, **params)
    own = measured(base, sample, **params).value
    copies = [measured(base, replace(sample, maps=blurred(sample.maps.double(), sigma)), **params)
              for sigma in SIGMAS]
    wanted = np.stack([sign * (copy.value - own) for copy in copies], 1)
    np.testing.assert_allclose(found.curve, wanted, atol=1e-6)
    np.testing.assert_allclose(found.value, wanted.mean(1), atol=1e-6)


@pytest.mark.parametrize("name", CHECKS)
def test_a_right_map_gains_nothing_by_blur_and_a_grainy_one_gains_where_the_object_is_smooth(
    name: str,
) -> None:
    bump = torch.zeros(SIZE, SIZE)
    bump[3:9, 5:11] = 1
    net = nn.Sequential(nn.Flatten(), nn.Linear(SIZE * SIZE, 2, bias=False)).requires_grad_(False)
    net[1].weight.copy_(torch.stack([bump, 0.5 * (1 - bump)]).flatten(1) / 4)
    draw = torch.Generator().manual_seed(2)
    x = 0.2 * torch.rand(6, 1, SIZE, SIZE, generator=draw) + bump
    batch = Batch(x=x, y=torch.zeros(6, dtype=torch.int64), key=tuple("abcdef"),
                  seed=torch.arange(6), group=("",) * 6)
    grain = 3 * torch.rand(6, SIZE, SIZE, generator=draw)
    _, _, params = CHECKS[name]
    sharp = explained(net, batch, lambda net, x, target, batch: bump * x[:, 0])
    noisy = explained(net, batch, lambda net, x, target, batch: bump * x[:, 0] + grain)
    assert measured(name, sharp, **params).curve.mean(0).max() < 0.001
    assert measured(name, noisy, **params).curve.mean(0).max() > 0.05


@pytest.mark.parametrize("name", CHECKS)
def test_a_map_that_cannot_be_scored_is_nan_with_its_reason(name: str) -> None:
    sample = sample_of(3, 1)
    maps = sample.maps.clone()
    maps[0], maps[1, 0, 0] = 1.5, torch.nan
    found = measured(name, replace(sample, maps=maps), **CHECKS[name][2])
    assert found.reason == ("constant map", "NaN in the map", None)


def test_the_check_takes_its_measures_parameters_and_refuses_wrong_blurs() -> None:
    sample = sample_of(1, 1)
    name = "data-processing/pixel-flipping"
    curve = measured(name, sample, sigmas=(0.1, 0.2), steps=3, operator="blur").curve
    assert curve.shape == (1, 2)
    for sigmas in ((), (0,), 0.1):
        with pytest.raises(HeatproofError, match="sigmas"):
            measured(name, sample, sigmas=sigmas)
    with pytest.raises(HeatproofError, match="steps"):
        measured(name, sample, steps=0)
