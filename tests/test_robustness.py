"""Robustness: noise in the image's own units, class by class, sample by sample."""

from __future__ import annotations

import copy
import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bench import plugins
from bench.core import Batch, HeatproofError
from bench.measure import GAUGE, Explained
from bench.metrics import known, score
from bench.metrics.robustness import noisy, noisy_run
from bench.randomness import seeded

plugins.load()
torch.set_num_threads(1)

NAMES = ("max-sensitivity", "avg-sensitivity")
CHANNELS = pytest.mark.parametrize("channels", [1, 3], ids=["grey", "rgb"])


def sample(n: int = 3, channels: int = 1, how: Any = known.gradient) -> Explained:
    return known.explained(known.Convolutional(channels), known.planted(n, channels), how)


def metric(name: str, **params: Any) -> Any:
    return plugins.metrics[name].with_params({"draws": 4, **params})


class Timid(nn.Module):
    """A network whose class hangs on the sign of one pixel."""

    def forward(self, x: Tensor) -> Tensor:
        """Images (n, C, H, W) to two logits."""
        return torch.stack([x[:, 0, 0, 0], -x[:, 0, 0, 0]], 1)


@pytest.mark.parametrize("name", NAMES)
@CHANNELS
@pytest.mark.parametrize("n", [1, 3])
def test_a_sample_scores_the_same_in_every_batch(name: str, channels: int, n: int) -> None:
    whole, part = (score(metric(name), sample(k, channels)) for k in (8, n))
    np.testing.assert_allclose(part.value, whole.value[:n], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", [*NAMES, "class-flips"])
def test_scoring_leaves_network_images_maps_and_chance_alone(name: str) -> None:
    explained = sample()
    weights = copy.deepcopy(explained.network.state_dict())
    before = copy.deepcopy((explained.batch.x, explained.maps))
    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    one = score(metric(name), explained)
    assert random.getstate() == states[0]
    assert np.array_equal(np.random.get_state()[1], states[1])
    assert torch.equal(torch.get_rng_state(), states[2])
    assert all(torch.equal(v, weights[k]) for k, v in explained.network.state_dict().items())
    assert torch.equal(explained.batch.x, before[0])
    assert torch.equal(explained.maps, before[1])
    with seeded(99):
        assert np.array_equal(one.value, score(metric(name), sample()).value)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("flaw", ["zero", "constant", "nan", "infinite"])
def test_a_degenerate_map_is_nan_with_a_reason_and_touches_nobody(name: str, flaw: str) -> None:
    explained = sample()
    bad = explained.maps.clone()
    bad[1] = {"zero": 0.0, "constant": 0.7}.get(flaw, 0.0)
    if flaw in ("nan", "infinite"):
        bad[1, 2, 3] = float(flaw.replace("infinite", "inf"))
    found, sound = (score(metric(name), one)
                    for one in (replace(explained, maps=bad), explained))
    expected = "constant map" if flaw in ("zero", "constant") else "NaN in the map"
    assert found.reason == (None, expected, None)
    assert np.array_equal(found.value[[0, 2]], sound.value[[0, 2]])


@CHANNELS
def test_the_noise_is_uniform_within_a_share_of_each_channels_deviation(channels: int) -> None:
    batch = known.planted(4, channels)
    x = batch.x * torch.tensor([1.0, 5.0, 0.2])[:channels, None, None]
    change = (noisy(x, batch.seed, 0, 0.3) - x).double()
    unit = change / x.double().std((2, 3), correction=0, keepdim=True)
    assert float(unit.abs().max()) <= 0.3 + 1e-5
    assert float(unit.std()) == pytest.approx(0.3 / 3**0.5, rel=0.05)
    assert float(unit.mean()) == pytest.approx(0, abs=0.02)
    assert not torch.equal(noisy(x, batch.seed, 1, 0.3), noisy(x, batch.seed, 0, 0.3))


@pytest.mark.parametrize("name", NAMES)
def test_the_score_does_not_depend_on_how_inputs_are_normalised(name: str) -> None:
    scale, shift = torch.tensor([2.0, 0.25, 8.0])[:, None, None], torch.tensor(3.0)

    class Undone(nn.Module):
        def __init__(self, net: nn.Module) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor) -> Tensor:
            return self.net((x - shift) / scale)

    def saliency(net: nn.Module, x: Tensor, target: Tensor, batch: Batch) -> Tensor:
        undone = (x - shift) / scale if isinstance(net, Undone) else x
        return known.gradient(net.net if isinstance(net, Undone) else net, undone, target, batch)

    batch = known.planted(3, 3)
    plain = known.explained(known.Convolutional(3), batch, saliency)
    other = known.explained(Undone(known.Convolutional(3)), replace(
        batch, x=batch.x * scale + shift), saliency)
    np.testing.assert_allclose(score(metric(name), plain).value, score(metric(name), other).value,
                               rtol=1e-3)


def test_both_scores_and_the_gauge_are_of_one_run() -> None:
    calls = []

    def counted(net: nn.Module, x: Tensor, target: Tensor, batch: Batch) -> Tensor:
        calls.append(1)
        return known.gradient(net, x, target, batch)

    explained = sample(3, 1, counted)
    largest, mean, share = (score(metric(name), explained) for name in (*NAMES, "class-flips"))
    assert len(calls) == 1 + 4
    assert np.array_equal(largest.curve, mean.curve, equal_nan=True)
    np.testing.assert_allclose(largest.value, np.nanmax(largest.curve, 1))
    np.testing.assert_allclose(mean.value, np.nanmean(largest.curve, 1))
    np.testing.assert_allclose(share.value, np.isnan(largest.curve).mean(1))
    assert share.curve.shape == (3, 4)


def test_a_change_is_measured_relative_to_the_map_by_the_definition() -> None:
    explained = sample(2, 3)
    x = noisy(explained.batch.x, explained.batch.seed, 0, 0.1)
    again = known.gradient(explained.network, x, explained.target, explained.batch)
    expected = [float(torch.linalg.norm(a.double() - b.double()) / torch.linalg.norm(b.double()))
                for a, b in zip(again, explained.maps, strict=True)]
    np.testing.assert_allclose(score(metric("max-sensitivity", draws=1), explained).value, expected,
                               rtol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_draws_that_change_the_class_are_left_out_and_counted(name: str) -> None:
    batch = known.planted(3, 1)
    x = batch.x.clone()
    x[:, 0, 0, 0] = torch.tensor([5.0, 1e-3, -1e-3])  # no noise turns the first one's sign
    explained = known.explained(Timid(), replace(batch, x=x, y=batch.y % 2), known.image)
    found = score(metric(name, draws=10), explained)
    share = score(metric("class-flips", draws=10), explained)
    assert share.value[0] == 0
    assert ((share.value[1:] > 0) & (share.value[1:] < 1)).all()
    assert np.isnan(found.curve).sum(1).tolist() == (share.value * 10).tolist()
    assert np.isfinite(found.value).all()


@pytest.mark.parametrize("name", NAMES)
def test_a_sample_whose_every_draw_changes_the_class_has_a_reason(name: str) -> None:
    explained = known.explained(Timid(), known.planted(2, 1), known.image)
    wrong = replace(explained, logits=explained.logits.flip(1))
    found = score(metric(name, radius=1e-6), wrong)
    assert found.reason == ("every draw changes the predicted class",) * 2
    assert score(metric("class-flips", radius=1e-6), wrong).value.tolist() == [1.0, 1.0]
    assert noisy_run(wrong, 4, 1e-6).flips.all()


def test_a_constant_image_has_a_reason() -> None:
    explained = sample()
    x = explained.batch.x.clone()
    x[1] = 0.5
    flat = replace(explained, batch=replace(explained.batch, x=x))
    for name in (*NAMES, "class-flips"):
        assert score(metric(name), flat).reason == (None, "constant image", None)


def test_a_map_that_turns_nan_has_a_reason() -> None:
    batch = known.planted(2, 1)

    def brittle(net: nn.Module, x: Tensor, target: Tensor, _: Batch) -> Tensor:
        return known.image(net, x, target, batch) + (0.0 if torch.equal(x, batch.x) else torch.nan)

    found = score(metric("avg-sensitivity"), known.explained(known.Additive(), batch, brittle))
    assert found.reason == ("explained again: NaN in the map",) * 2


@pytest.mark.parametrize("name", NAMES)
def test_the_scale_of_a_map_changes_no_score(name: str) -> None:
    def loud(net: nn.Module, x: Tensor, target: Tensor, batch: Batch) -> Tensor:
        return 2.0**-30 * known.gradient(net, x, target, batch)

    np.testing.assert_allclose(score(metric(name), sample()).value,
                               score(metric(name), sample(how=loud)).value, rtol=1e-9)


@pytest.mark.parametrize(("params", "message"), [
    ({"draws": 0}, "draws must be a whole number above 0"),
    ({"radius": 0.0}, "radius must be a number above 0"),
    ({"radius": "big"}, "radius must be a number above 0")])
@pytest.mark.parametrize("name", [*NAMES, "class-flips"])
def test_a_wrong_parameter_names_the_cure(name: str, params: Any, message: str) -> None:
    with pytest.raises(HeatproofError, match=message):
        score(metric(name, **params), sample(2))


def test_the_share_of_flips_is_a_gauge() -> None:
    assert plugins.metrics["class-flips"].family == GAUGE
