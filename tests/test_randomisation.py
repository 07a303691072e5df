"""Randomisation: what sees neither network nor class is found out, whatever the batch."""

from __future__ import annotations

import copy
import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from skimage.metrics import structural_similarity
from torch import Tensor, nn

from bench import plugins
from bench.core import Batch, HeatproofError
from bench.explain import explainer
from bench.measure import Explained
from bench.metrics import known, score
from bench.metrics.randomisation import entropy, off_classes, similarities
from bench.metrics.similarity import pearson, ranks, spearman, ssim
from bench.nets import maker
from bench.randomness import seeded
from bench.stages import randomised, stages
from bench.testing import TINY, tiny_batch

plugins.load()
torch.set_num_threads(1)

RANDOMISE = ("mprt", "mprt-top-down", "efficient-mprt")
NAMES = (*RANDOMISE, "random-logit")
BLIND = {"mprt": 1.0, "mprt-top-down": 1.0, "efficient-mprt": 0.0, "random-logit": 1.0}
CHANNELS = pytest.mark.parametrize("channels", [1, 3], ids=["grey", "rgb"])


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def sample(n: int = 3, channels: int = 1, how: Any = known.gradient) -> Explained:
    return known.explained(known.Convolutional(channels), known.planted(n, channels), how)


def metric(name: str, **params: Any) -> Any:
    return plugins.metrics[name].with_params({"draws": 2, **params})


def hushed(net: nn.Module, x: Tensor, target: Tensor, batch: Batch) -> Tensor:
    """The gradient, and a constant map where the network is not the lab's own."""
    own = all(map(torch.equal, net.parameters(), known.Convolutional(x.shape[1]).parameters()))
    maps = known.gradient(net, x, target, batch)
    return maps if own else torch.full_like(maps, 0.5)


@pytest.mark.parametrize("name", NAMES)
@CHANNELS
def test_a_map_that_ignores_network_and_class_scores_exactly_what_blindness_scores(
    name: str, channels: int,
) -> None:
    assert score(metric(name), sample(3, channels, known.image)).value.tolist() == [BLIND[name]] * 3


@pytest.mark.parametrize("control", ["noise", "edges", "centre"])
@pytest.mark.parametrize("name", RANDOMISE)
def test_the_controls_of_a_board_score_exactly_what_blindness_scores(
    name: str, control: str,
) -> None:
    card, batch = tiny_batch(3)
    net = maker(TINY, card, 0)().eval()
    method = plugins.methods[control](card, maker(TINY, card, 0))
    explain = explainer(method, net, batch, batch.y)
    found = score(metric(name), Explained(net, batch, net(batch.x).detach(), batch.y, explain(),
                                          explain, classes=3))
    assert found.value.tolist() == [BLIND[name]] * len(batch)


@pytest.mark.parametrize("name", NAMES)
@CHANNELS
@pytest.mark.parametrize("n", [1, 3])
def test_a_sample_scores_the_same_in_every_batch(name: str, channels: int, n: int) -> None:
    whole, part = (score(metric(name), sample(k, channels)) for k in (8, n))
    np.testing.assert_allclose(part.value, whole.value[:n], atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
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
        again = score(metric(name), sample())
    assert np.array_equal(one.value, again.value)
    assert np.array_equal(one.curve, again.curve)


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
    assert np.isnan(found.value[1])
    assert np.array_equal(found.value[[0, 2]], sound.value[[0, 2]])


@pytest.mark.parametrize("name", RANDOMISE)
def test_a_method_whose_new_maps_are_all_constant_has_a_reason(name: str) -> None:
    found = score(metric(name), sample(2, 1, hushed))
    assert np.isnan(found.value).all()
    assert found.reason == ("explained again: constant map or NaN",) * 2


def test_a_step_whose_map_is_constant_is_left_out_of_the_mean() -> None:
    def dies_last(net: nn.Module, x: Tensor, target: Tensor, batch: Batch) -> Tensor:
        same = torch.equal([*net.parameters()][-1], [*known.Convolutional(1).parameters()][-1])
        maps = known.gradient(net, x, target, batch)
        return maps if same else torch.zeros_like(maps)

    explained = sample(2, 1, dies_last)
    found, steps = score(metric("mprt"), explained), similarities(explained, "bottom-up", 2, 8)
    assert found.reason == (None, None)
    assert np.isnan(found.curve).tolist() == [[False, False, True]] * 2
    np.testing.assert_allclose(found.value, steps[:, :, :-1].mean((1, 2)).numpy())


def test_mprt_is_the_mean_rank_correlation_after_each_stage_by_the_definition() -> None:
    explained = sample(2, 3)
    found = score(metric("mprt", draws=1), explained)
    net = copy.deepcopy(explained.network)
    parts = stages(net, explained.batch.x[:1])
    expected = [[
        stats.spearmanr(explained.maps[i].abs().flatten(),
                        known.gradient(changed, explained.batch.x, explained.target,
                                       explained.batch)[i].abs().flatten())[0] for i in range(2)]
        for changed in randomised(net, parts, 0)]
    np.testing.assert_allclose(found.curve, np.array(expected).T, atol=1e-12)
    np.testing.assert_allclose(found.value, np.array(expected).mean(0), atol=1e-12)
    assert len(parts) == 3


def test_both_orders_end_in_the_same_network_and_explain_it_once() -> None:
    calls = []

    def counted(net: nn.Module, x: Tensor, target: Tensor, batch: Batch) -> Tensor:
        calls.append(net)
        return known.gradient(net, x, target, batch)

    explained = sample(2, 1, counted)
    up, down = (score(metric(name), explained).curve for name in ("mprt", "mprt-top-down"))
    assert up is not None and down is not None
    assert up.shape == down.shape == (2, 3)
    assert np.array_equal(up[:, -1], down[:, -1])
    assert not np.allclose(up[:, 0], down[:, 0])
    score(metric("efficient-mprt"), explained)
    # The clean map, and for each of two draws two steps each way and the whole network.
    assert len(calls) == 1 + 2 * (2 + 2 + 1)


def test_efficient_mprt_is_the_relative_rise_of_the_entropy_of_a_histogram() -> None:
    maps = drawn(4, 9, 11)
    expected = [stats.entropy(np.histogram(one, bins=100)[0]) for one in maps.numpy()]
    np.testing.assert_allclose(entropy(maps).numpy(), expected, rtol=1e-12)
    assert entropy(torch.ones(1, 3, 3)).tolist() == [0.0]
    tied = (maps * 4).round()
    expected = [stats.entropy(np.histogram(one, bins=8)[0]) for one in tied.numpy()]
    np.testing.assert_allclose(entropy(tied, 8).numpy(), expected, rtol=1e-12)


def test_off_classes_are_others_each_once_and_each_as_likely() -> None:
    target = torch.arange(4000) % 5
    found = off_classes(target, 5, 3, torch.arange(4000))
    assert found.shape == (4000, 3)
    assert not (found == target[:, None]).any()
    assert all(len(set(row)) == 3 for row in found[:50].tolist())
    counts = torch.bincount(found[target == 2].flatten(), minlength=5)
    assert counts[2] == 0
    assert (counts[[0, 1, 3, 4]] / counts.sum()).sub(0.25).abs().max() < 0.03
    assert off_classes(target, 2, 3, torch.arange(4000)).shape == (4000, 1)


def test_random_logit_needs_a_second_class() -> None:
    with pytest.raises(HeatproofError, match="second class"):
        score(metric("random-logit"), replace(sample(), classes=1))


@pytest.mark.parametrize("similarity", ["spearman", "ssim"])
def test_a_map_that_sees_the_class_is_less_alike_than_one_that_does_not(similarity: str) -> None:
    batch = known.planted(4, 1)
    seen, blind = (
        score(metric("random-logit", similarity=similarity),
              known.explained(known.Additive(), batch, how)).value
        for how in (known.oracle, known.image))
    assert (seen < 0.9).all()
    assert blind.tolist() == [1.0] * 4


@pytest.mark.parametrize(("name", "params", "message"), [
    ("mprt", {"draws": 0}, "draws must be a whole number above 0"),
    ("mprt", {"stages": 0}, "stages must be a whole number above 0"),
    ("efficient-mprt", {"draws": 1.5}, "draws must be a whole number"),
    ("random-logit", {"similarity": "spearmen"}, "did you mean 'spearman'")])
def test_a_wrong_parameter_names_the_cure(name: str, params: Any, message: str) -> None:
    with pytest.raises(HeatproofError, match=message):
        score(metric(name, **params), sample(2))


@pytest.mark.parametrize("name", NAMES)
def test_the_scale_of_a_map_changes_no_score(name: str) -> None:
    def loud(net: nn.Module, x: Tensor, target: Tensor, batch: Batch) -> Tensor:
        return 2.0**-30 * known.gradient(net, x, target, batch)

    np.testing.assert_allclose(score(metric(name), sample()).value,
                               score(metric(name), sample(how=loud)).value, rtol=1e-9)


def test_ranks_and_correlations_are_scipys() -> None:
    a, b = (drawn(4, 60, seed=3) * 4).round(), drawn(4, 60, seed=4)
    b[2] = a[2] * 3 + 1
    assert np.array_equal(ranks(a).numpy(), stats.rankdata(a.numpy(), axis=1))
    expected = [stats.spearmanr(x, y)[0] for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(spearman(a, b).numpy(), expected, atol=1e-12)
    expected = [stats.pearsonr(x, y)[0] for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(pearson(a * 1e-160, b * 1e160).numpy(), expected, atol=1e-12)
    assert pearson(b, b).tolist() == [1.0] * 4
    a[1] = 0.1
    assert spearman(a, b).isnan().tolist() == [False, True, False, False]


@pytest.mark.parametrize("shape", [(16, 16), (13, 21), (11, 11)])
def test_ssim_is_scikit_images(shape: tuple[int, int]) -> None:
    a, b = drawn(3, *shape), drawn(3, *shape, seed=1)
    span = torch.tensor([1.0, 4.0, 7.5], dtype=torch.float64)
    expected = [structural_similarity(
        a[i].numpy(), b[i].numpy(), data_range=float(span[i]), gaussian_weights=True, sigma=1.5,
        use_sample_covariance=False) for i in range(3)]
    np.testing.assert_allclose(ssim(a, b, span).numpy(), expected, atol=1e-12)
    assert ssim(a, a).tolist() == [1.0] * 3


def test_ssim_of_maps_smaller_than_its_window_takes_the_largest_odd_one() -> None:
    assert ssim(drawn(2, 4, 7), drawn(2, 4, 7, seed=1)).isfinite().all()
    assert ssim(drawn(2, 1, 1), drawn(2, 1, 1)).tolist() == [1.0, 1.0]
