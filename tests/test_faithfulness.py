"""The proven faithfulness measures, against exact answers on additive networks."""

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
from bench.measure import Explained, Scores
from bench.metrics import score
from bench.metrics.known import Additive, explained, known_answer, oracle, planted
from bench.metrics.removal import even_cuts
from bench.metrics.replacement import OPERATORS
from bench.metrics.similarity import pearson
from bench.metrics.subsets import subsets

plugins.load()
torch.set_num_threads(1)

CHANNELS = pytest.mark.parametrize("channels", [1, 3], ids=["grey", "rgb"])
NAMES = ("pixel-flipping", "pixel-flipping-lerf", "symmetric-gain", "region-aopc", "road",
         "faithfulness-correlation")
METRICS = pytest.mark.parametrize("name", NAMES)
WRONG = [("operator", "blurr"), ("output", "logits"), ("steps", 0), ("steps", 65), ("steps", 2.5),
         ("grid", 9), ("grid", 0), ("percentages", ()), ("percentages", (0, 10)), ("runs", 1),
         ("share", 0), ("share", 1.5)]


def measured(name: str, sample: Explained, **params: Any) -> Scores:
    return score(plugins.metrics[name].with_params(params), sample)


def linear(channels: int, size: tuple[int, int], classes: int = 3, seed: int = 0) -> nn.Module:
    net = nn.Sequential(nn.Flatten(), nn.Linear(channels * size[0] * size[1], classes))
    draw = torch.Generator().manual_seed(seed)
    for weight in net.parameters():
        weight.data = torch.randn(weight.shape, generator=draw) / 10
    return net.requires_grad_(False)


def convolutional(channels: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(
            nn.Conv2d(channels, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2),
            nn.Flatten(), nn.Linear(16, 3)).requires_grad_(False)


def sample_of(
    net: nn.Module, n: int, channels: int, size: tuple[int, int],
    maps: Callable[[Tensor, Tensor], Tensor] | None = None, predicted: bool = True,
) -> Explained:
    """Random images whose explained class is the predicted one; maps of images and classes."""
    draw = torch.Generator().manual_seed(9)
    x = torch.randn(n, channels, *size, generator=draw)
    logits = net(x)
    y = logits.argmax(1) if predicted else logits.argmin(1)
    batch = Batch(x=x, y=y, key=tuple(map(str, range(n))), seed=torch.arange(n) + 5,
                  group=("",) * n)
    drawn = torch.randn(n, *size, generator=draw)
    return explained(net, batch, lambda net, x, target, batch: (
        drawn[batch.seed - 5] if maps is None else maps(x, target)))


def gains(net: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
    """What each pixel adds to a linear network's logit beyond its image's mean colour."""
    def maps(x: Tensor, target: Tensor) -> Tensor:
        weight = net[1].weight[target].view_as(x)
        return (weight * (x - x.mean((2, 3), keepdim=True))).sum(1)

    return maps


@CHANNELS
@pytest.mark.parametrize("steps", [1, 7, 16, 63])
def test_pixel_flipping_is_exact_on_a_linear_network(channels: int, steps: int) -> None:
    net = linear(channels, (7, 9))
    sample = sample_of(net, 3, channels, (7, 9), gains(net))
    flat = sample.maps.double().flatten(1).sort(1, descending=True).values
    clean = sample.logits.double().gather(1, sample.target[:, None])
    lost = torch.cat([torch.zeros(3, 1), flat.cumsum(1)], 1)[:, even_cuts(63, steps)]
    gained = torch.cat([torch.zeros(3, 1), flat.flip(1).cumsum(1)], 1)[:, even_cuts(63, steps)]
    settings = {"steps": steps, "output": "logit"}
    most = measured("pixel-flipping", sample, **settings)
    least = measured("pixel-flipping-lerf", sample, **settings)
    gain = measured("symmetric-gain", sample, **settings)
    np.testing.assert_allclose(most.curve, clean - lost, atol=1e-5)
    np.testing.assert_allclose(least.curve, clean - gained, atol=1e-5)
    np.testing.assert_allclose(most.value, (clean - lost).mean(1), atol=1e-5)
    np.testing.assert_allclose(gain.value, (lost - gained).mean(1), atol=1e-5)
    assert most.curve.shape == (3, steps + 1)


@CHANNELS
def test_curves_start_at_the_untouched_image_and_end_where_all_is_replaced(channels: int) -> None:
    net = convolutional(channels)
    sample = sample_of(net, 4, channels, (8, 8))
    own = sample.target[:, None]
    clean = sample.logits.softmax(1).gather(1, own)[:, 0]
    empty = sample.batch.x.mean((2, 3), keepdim=True).expand_as(sample.batch.x)
    bare = net(empty).softmax(1).gather(1, own)[:, 0]
    for name in ("pixel-flipping", "pixel-flipping-lerf"):
        curve = measured(name, sample, steps=10).curve
        np.testing.assert_allclose(curve[:, 0], clean, atol=1e-6)
        np.testing.assert_allclose(curve[:, -1], bare, atol=1e-6)
    fall = measured("region-aopc", sample, grid=3).curve
    np.testing.assert_allclose(fall[:, 0], 0, atol=1e-7)
    np.testing.assert_allclose(fall[:, -1], clean - bare, atol=1e-6)


@CHANNELS
@pytest.mark.parametrize("grid", [1, 2, 5])
def test_region_aopc_is_exact_on_a_linear_network(channels: int, grid: int) -> None:
    net = linear(channels, (10, 20))
    sample = sample_of(net, 2, channels, (10, 20), gains(net))
    cells = sample.maps.double().view(2, grid, 10 // grid, grid, 20 // grid).sum((2, 4))
    falling = cells.flatten(1).sort(1, descending=True).values
    wanted = torch.cat([torch.zeros(2, 1), falling.cumsum(1)], 1)
    found = measured("region-aopc", sample, grid=grid, output="logit")
    np.testing.assert_allclose(found.curve, wanted, atol=1e-5)
    np.testing.assert_allclose(found.value, wanted.mean(1), atol=1e-5)


def test_region_aopc_takes_a_grid_that_does_not_divide_the_image() -> None:
    net = linear(1, (7, 10))
    sample = sample_of(net, 2, 1, (7, 10), gains(net))
    found = measured("region-aopc", sample, grid=3, output="logit")
    total = sample.maps.double().sum((1, 2))
    assert found.curve.shape == (2, 10)
    np.testing.assert_allclose(found.curve[:, -1], total, atol=1e-5)
    steps = np.diff(found.curve, axis=1)
    assert (np.diff(steps, axis=1) <= 1e-6).all()


@CHANNELS
def test_road_counts_the_percentages_at_which_the_decision_stands(channels: int) -> None:
    net = linear(channels, (8, 8))
    sample = sample_of(net, 5, channels, (8, 8), gains(net))
    shares = (5, 20, 60)
    found = measured("road", sample, percentages=shares, operator="mean")
    order = sample.maps.flatten(1).argsort(1, descending=True)
    for i in range(5):
        for k, share in enumerate(shares):
            x = sample.batch.x[i].flatten(1).clone()
            x[:, order[i, :round(64 * share / 100)]] = x.mean(1, keepdim=True)
            stands = int(net(x.view(1, channels, 8, 8)).argmax()) == int(sample.target[i])
            assert found.curve[i, k] == stands
    np.testing.assert_array_equal(found.value, found.curve.mean(1))


def test_road_is_silent_where_the_explained_class_is_not_the_decision() -> None:
    net = linear(1, (8, 8))
    found = measured("road", sample_of(net, 2, 1, (8, 8), predicted=False))
    assert np.isnan(found.value).all()
    assert set(found.reason) == {"the network does not predict the explained class"}


@CHANNELS
@pytest.mark.parametrize("output", ["logit", "standardised"])
def test_faithfulness_correlation_is_one_for_the_exact_evidence(
    channels: int, output: str,
) -> None:
    net = linear(channels, (8, 8))
    right = sample_of(net, 3, channels, (8, 8), gains(net))
    wrong = replace(right, maps=-right.maps)
    np.testing.assert_allclose(
        measured("faithfulness-correlation", right, output=output).value, 1, atol=1e-6)
    np.testing.assert_allclose(
        measured("faithfulness-correlation", wrong, output=output).value, -1, atol=1e-6)


def test_faithfulness_correlation_is_pearsons_over_the_subsets_drawn() -> None:
    net = convolutional(3)
    sample = sample_of(net, 2, 3, (8, 8))
    found = measured("faithfulness-correlation", sample, runs=12, share=0.1)
    chosen = subsets(sample.batch.seed, 64, runs=12, size=6)
    assert all(len(set(one.tolist())) == 6 for one in chosen.flatten(0, 1))
    for i in range(2):
        x = sample.batch.x[i]
        held, fall = [], []
        for one in chosen[i]:
            empty = x.flatten(1).clone()
            empty[:, one] = x.mean((1, 2))[:, None]
            logits = net(empty.view(1, 3, 8, 8))[0]
            fall.append(float(sample.logits[i][sample.target[i]] - logits[sample.target[i]]))
            held.append(float(sample.maps[i].flatten()[one].sum()))
        np.testing.assert_allclose(found.value[i], np.corrcoef(held, fall)[0, 1], atol=1e-4)


def test_subsets_are_each_samples_own_however_many_samples_there_are() -> None:
    sample = sample_of(convolutional(1), 20, 1, (8, 8))
    together = measured("faithfulness-correlation", sample, runs=8).value
    for i in (3, 15, 16, 19):
        alone = replace(sample, batch=sample.batch[[i]], logits=sample.logits[[i]],
                        target=sample.target[[i]], maps=sample.maps[[i]])
        found = measured("faithfulness-correlation", alone, runs=8).value
        np.testing.assert_allclose(found[0], together[i], atol=2e-6)


def test_a_network_that_answers_nothing_has_no_correlation() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).requires_grad_(False)
    net[1].weight.zero_()
    found = measured("faithfulness-correlation", sample_of(net, 2, 1, (8, 8)))
    assert found.reason == ("the correlation is undefined",) * 2


def test_pearson_is_nan_where_nothing_varies_and_exact_for_tiny_values() -> None:
    one = torch.tensor([[1.0, 2.0, 4.0], [3.0, 3.0, 3.0], [1e-200, 2e-200, 4e-200]]).double()
    one[2] = torch.tensor([1e-200, 2e-200, 4e-200], dtype=torch.float64)
    other = torch.tensor([[2.0, 1.0, 0.0]] * 3, dtype=torch.float64)
    found = pearson(one, other)
    wanted = np.corrcoef([1, 2, 4], [2, 1, 0])[0, 1]
    np.testing.assert_allclose(found[[0, 2]], wanted, rtol=1e-12)
    assert found[1].isnan()


@METRICS
@CHANNELS
@pytest.mark.parametrize("operator", OPERATORS)
def test_a_sample_scores_the_same_in_every_batch(
    name: str, channels: int, operator: str,
) -> None:
    sample = sample_of(convolutional(channels), 8, channels, (8, 8))
    small = {"steps": 9, "grid": 4, "runs": 10, "percentages": (20, 60), "operator": operator}
    settings = {k: v for k, v in small.items() if k in plugins.metrics[name].params}
    together = measured(name, sample, **settings).value
    for part in ([2], [1, 2, 6]):
        alone = replace(sample, batch=sample.batch[part], logits=sample.logits[part],
                        target=sample.target[part], maps=sample.maps[part])
        np.testing.assert_allclose(
            measured(name, alone, **settings).value, together[part], atol=2e-6)


@METRICS
def test_a_map_that_cannot_be_scored_is_nan_with_a_reason_and_harms_no_other(name: str) -> None:
    sample = sample_of(convolutional(1), 4, 1, (8, 8))
    maps = sample.maps.clone()
    maps[0], maps[1], maps[2, 0, 0] = 0, 2.5, torch.nan
    usual, found = measured(name, sample), measured(name, replace(sample, maps=maps))
    assert found.reason == ("constant map", "constant map", "NaN in the map", None)
    assert np.isnan(found.value[:3]).all()
    np.testing.assert_allclose(found.value[3], usual.value[3], atol=2e-6)


@pytest.mark.parametrize(("name", "parameter", "value"), [
    (name, parameter, value) for name in NAMES for parameter, value in WRONG
    if parameter in plugins.metrics[name].params], ids=str)
def test_wrong_parameters_are_told(name: str, parameter: str, value: object) -> None:
    with pytest.raises(HeatproofError, match=parameter):
        measured(name, sample_of(convolutional(1), 1, 1, (8, 8)), **{parameter: value})


def test_measures_that_share_a_run_make_it_once() -> None:
    seen: list[int] = []
    net = convolutional(1)
    net.register_forward_hook(lambda module, args, output: seen.append(len(output)))
    sample = sample_of(net, 2, 1, (8, 8))
    counts = []
    for name, params in (
            ("pixel-flipping", {"steps": 16}), ("pixel-flipping-lerf", {"steps": 16}),
            ("symmetric-gain", {"steps": 16}),
            ("pixel-flipping", {"steps": 16, "output": "logit"}),
            ("pixel-flipping", {"steps": 16, "operator": "blur"}),
            ("faithfulness-correlation", {"runs": 10}),
            ("faithfulness-correlation", {"runs": 10, "output": "probability"})):
        seen.clear()
        measured(name, sample, **params)
        counts.append(sum(seen))
    # Of 17 steps the first is known, and the last is the same in either order.
    assert counts == [32, 30, 0, 0, 32, 20, 0]


@pytest.mark.parametrize("name", [n for n in NAMES if "output" in plugins.metrics[n].params])
def test_networks_that_differ_by_the_scale_of_their_logits_agree_in_standard_units(
    name: str,
) -> None:
    net, loud = linear(1, (8, 8)), linear(1, (8, 8))
    for weight in loud.parameters():
        weight.mul_(4)
    one = sample_of(net, 4, 1, (8, 8), gains(net))
    other = sample_of(loud, 4, 1, (8, 8), gains(loud))
    spread = [float(s.logits.double().gather(1, s.target[:, None]).std(correction=0))
              for s in (one, other)]
    found = [measured(name, replace(s, unit=unit), output="standardised").value
             for s, unit in zip((one, other), spread, strict=True)]
    np.testing.assert_allclose(found[0], found[1], rtol=1e-5)
    if name != "faithfulness-correlation":
        raw = [measured(name, s, output="logit").value for s in (one, other)]
        np.testing.assert_allclose(4 * raw[0], raw[1], rtol=1e-5)


@METRICS
@CHANNELS
def test_the_lab_of_known_answers_holds(name: str, channels: int) -> None:
    findings = list(known_answer(plugins.metrics[name], channels=channels, n=3))
    assert findings
    assert all(finding.ok for finding in findings), [f for f in findings if not f.ok]


@METRICS
def test_every_card_is_complete(name: str) -> None:
    card = plugins.metrics[name]
    for fact in ("about", "formula", "range", "units", "passes", "paper", "departures", "holds"):
        assert getattr(card, fact) or (fact, name) == ("departures", "symmetric-gain")


def test_the_evidence_beats_its_opposite_by_every_operator() -> None:
    sample = explained(Additive(), planted(4, 1), oracle)
    opposite = replace(sample, maps=sample.maps.mean((1, 2), keepdim=True) - sample.maps)
    for operator in OPERATORS:
        right = measured("symmetric-gain", sample, operator=operator).value
        wrong = measured("symmetric-gain", opposite, operator=operator).value
        assert (right > wrong).all()
