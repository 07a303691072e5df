"""The fused engine: what depends on no map is made once, and every number stays what it was."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from contextlib import ExitStack
from dataclasses import replace
from functools import lru_cache
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from torch import Tensor, nn

from bench import plugins
from bench.chunks import at_most
from bench.core import Batch
from bench.measure import Explained, Metric, Scores
from bench.metrics import known, removal, robustness, score
from bench.metrics.sharing import answers, for_all
from bench.passes import counted
from bench.shared import Shared, nbytes, shared_by
from bench.stages import randomised, stages

plugins.load()
torch.set_num_threads(1)

N = 4
PARAMS: dict[str, dict[str, Any]] = {
    "symmetric-gain": {"steps": 6}, "pixel-flipping": {"steps": 6},
    "pixel-flipping-lerf": {"steps": 6, "operator": "blur"}, "region-aopc": {"grid": 3},
    "road": {"percentages": (20, 50, 100)}, "faithfulness-correlation": {"runs": 8},
    "mass-inside": {}, "auc": {}, "sparseness": {}, "complexity": {},
    "mprt": {"draws": 2, "stages": 3}, "mprt-top-down": {"draws": 2, "stages": 3},
    "efficient-mprt": {"draws": 2}, "random-logit": {"draws": 2},
    "max-sensitivity": {"draws": 3}, "avg-sensitivity": {"draws": 3}, "class-flips": {"draws": 3},
    "ood/mean": {"percentages": (10, 60)}, "ood/linear": {"percentages": (10, 60)},
    "paper/insertion": {"steps": 5}, "paper/deletion": {"steps": 5},
    "fair/region-aopc": {"grid": 3}, "data-processing/region-aopc": {"grid": 3, "sigmas": (0.1,)},
    "accuracy": {}, "f1": {}}


def broken(net: nn.Module, x: Tensor, target: Tensor, batch: Batch) -> Tensor:
    """The gradient's maps, but for a constant one and one with a NaN."""
    maps = known.gradient(net, x, target, batch)
    place = [batch.key.index(key) for key in batch.key if key in ("planted-1", "planted-2")]
    for i in place:
        maps[i] = 1.0 if batch.key[i] == "planted-1" else torch.nan
    return maps


def doubled(net: nn.Module, x: Tensor, target: Tensor, batch: Batch) -> Tensor:
    """Another map that orders everything as the gradient's does."""
    return 2 * known.gradient(net, x, target, batch)


CONTESTANTS = {"gradient": known.gradient, "noise": known.noise, "broken": broken,
               "doubled": doubled}


def seen(name: str, shared: Shared | None = None, channels: int = 1) -> Explained:
    found = known.explained(
        known.Convolutional(channels), known.planted(N, channels), CONTESTANTS[name])
    return replace(found, shared=shared or Shared())


def metric(name: str) -> Metric:
    return plugins.metrics[name].with_params(PARAMS[name])


@lru_cache
def alone(contestant: str, name: str) -> Scores:
    """One metric at a time, with nothing from before, on the network itself."""
    return score(metric(name), seen(contestant).apart())


def equal(found: Scores, wanted: Scores) -> None:
    assert found.reason == wanted.reason
    np.testing.assert_allclose(found.value, wanted.value, rtol=1e-6, atol=1e-6)
    if wanted.curve is not None:
        np.testing.assert_allclose(found.curve, wanted.curve, rtol=1e-6, atol=1e-6)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    order=some.permutations(sorted(CONTESTANTS)), count=some.integers(2, 3),
    names=some.lists(some.sampled_from(sorted(PARAMS)), min_size=2, max_size=8, unique=True),
    chunk=some.integers(1, 70), rows=some.integers(1, 70),
    most=some.sampled_from([0, 2_000, 100_000, 2**30]))
def test_any_plan_gives_the_numbers_of_one_metric_at_a_time(
    order: list[str], count: int, names: list[str], chunk: int, rows: int, most: int,
) -> None:
    wanted = {(one, name): alone(one, name) for one in order[:count] for name in names}
    shared = Shared(most)
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(removal, "CHUNK", chunk))
        stack.enter_context(mock.patch.object(robustness, "CHUNK", max(2, chunk % 5)))
        stack.enter_context(at_most(rows))
        for contestant in order[:count]:
            sample = seen(contestant, shared)
            for name in names:
                equal(score(metric(name), sample), wanted[contestant, name])


def test_apart_asks_the_network_itself_and_makes_everything_anew() -> None:
    sample = seen("noise")
    assert answers(sample)._both[1] is not sample.network
    assert answers(sample.apart())._both[1] is sample.network
    with counted(sample.network) as passes:
        for fresh in (sample, sample, sample.apart(), sample.apart()):
            score(metric("pixel-flipping"), fresh)
    assert passes.forward == (1 + 2) * (5 + 1) * N


@pytest.mark.parametrize(("name", "first", "second"), [
    ("faithfulness-correlation", 8 * N, 0),
    ("ood/mean", 3 * N, 0), ("ood/linear", 3 * N, 0),
    ("max-sensitivity", 3 * N, 0), ("class-flips", 3 * N, 0),
    ("pixel-flipping", (5 + 1) * N, 5 * N), ("fair/region-aopc", (8 + 1) * N, 8 * N),
    ("paper/insertion", (4 + 1) * N, 4 * N), ("road", (2 + 1) * N, 2 * N)])
def test_the_second_contestant_of_a_network_spares_what_depends_on_no_map(
    name: str, first: int, second: int,
) -> None:
    # A map of noise costs no pass, so each that is counted is the metric's own.
    sample = seen("noise")
    with counted(sample.network) as passes:
        for maps in (sample.maps, sample.maps.flip(1)):
            score(metric(name), replace(sample, maps=maps))
    assert passes.forward == first + second


@pytest.mark.parametrize("name", ["pixel-flipping", "pixel-flipping-lerf", "region-aopc", "road",
                                  "fair/region-aopc", "paper/insertion", "paper/deletion"])
def test_maps_of_one_order_share_their_runs_and_those_of_another_do_not(name: str) -> None:
    sample = seen("noise")
    wanted = score(metric(name), sample)
    with counted(sample.network) as passes:
        equal(score(metric(name), replace(sample, maps=2 * sample.maps)), wanted)
    assert passes.forward == 0
    swapped = sample.maps.clone()
    swapped[0, :4, :4] = sample.maps[0, -4:, -4:]
    with counted(sample.network) as passes:
        found = score(metric(name), replace(sample, maps=swapped))
    assert passes.forward > 0
    equal(found, score(metric(name), replace(sample, maps=swapped, shared=Shared())))


@pytest.mark.parametrize("name", ["faithfulness-correlation", "ood/blur", "max-sensitivity", "mprt",
                                  "pixel-flipping"])
def test_other_images_another_network_or_target_share_nothing_by_mistake(name: str) -> None:
    own = plugins.metrics[name].with_params(PARAMS.get(name, {}))
    sample = seen("gradient")
    score(own, sample)
    x, net = sample.batch.x.flip(3).contiguous(), known.Convolutional(1).eval()
    with torch.no_grad():
        net.body[0].weight.mul_(1.5)
    mirrored = known.explained(sample.network, replace(sample.batch, x=x), known.gradient)
    louder = known.explained(net, sample.batch, known.gradient)
    aimed = replace(sample, target=(sample.target + 1) % known.CLASSES)
    for other in (mirrored, louder, aimed):
        equal(score(own, replace(other, shared=sample.shared)),
              score(own, replace(other, shared=Shared())))


def test_other_maps_keep_what_is_shared_and_nothing_that_was_made_of_the_maps() -> None:
    sample = seen("gradient")
    score(metric("faithfulness-correlation"), sample)
    blank = replace(sample, maps=sample.maps.flip(1))
    with counted(sample.network) as passes:
        found = score(metric("faithfulness-correlation"), blank)
    assert passes.forward == 0
    equal(found, score(metric("faithfulness-correlation"), replace(blank, shared=Shared())))


@pytest.mark.parametrize("tied", [False, True])
def test_networks_whose_weights_are_shared_are_those_that_are_drawn_one_by_one(tied: bool) -> None:
    from bench.metrics.randomisation import _networks

    sample = seen("gradient")
    if tied:
        sample.network.body[2].bias = sample.network.body[0].bias
    before = {k: v.clone() for k, v in sample.network.state_dict().items()}
    parts = stages(sample.network, sample.batch.x[:1], 3)
    for order in (parts, parts[::-1]):
        for draw in (0, 1):
            for one, other in zip(_networks(sample, order, draw),
                                  randomised(sample.network, order, draw), strict=True):
                state = other.state_dict()
                assert all(torch.equal(v, state[k]) for k, v in one.state_dict().items())
    assert all(torch.equal(v, before[k]) for k, v in sample.network.state_dict().items())


def test_an_explainer_that_spoils_its_network_spoils_it_for_nobody_else() -> None:
    def vandal(net: nn.Module) -> Tensor:
        maps = usual.explain(net=net)
        for weight in net.parameters():
            weight.data.zero_()
        return maps

    usual = seen("gradient")
    for name in ("mprt", "mprt-top-down", "efficient-mprt"):
        shared = Shared()
        score(metric(name), replace(usual, explain=vandal, shared=shared))
        equal(score(metric(name), seen("gradient", shared)), alone("gradient", name))


def keeper(most: int) -> tuple[Shared, Callable[[Hashable, int], None], list[Hashable]]:
    shared, made = Shared(most), list[Hashable]()

    def ask(key: Hashable, size: int) -> None:
        assert shared.once(key, lambda: made.append(key) or torch.zeros(size // 4)).nbytes == size

    return shared, ask, made


def test_what_was_asked_for_longest_ago_makes_room() -> None:
    shared, ask, made = keeper(100)
    for key in ("a", "b", "a", "c", "a", "b"):
        ask(key, 40)
    assert made == ["a", "b", "c", "b"]
    ask("huge", 400)
    ask("a", 40)
    assert made == ["a", "b", "c", "b", "huge"]
    ask("huge", 400)
    assert made[-1] == "huge"
    assert shared.fits(25)
    assert not shared.fits(26)


def test_the_bytes_of_networks_and_of_what_a_metric_keeps_are_counted() -> None:
    outputs = removal.Outputs(*torch.zeros(3, 2, 5, dtype=torch.float64))
    assert nbytes(outputs) == 3 * 2 * 5 * 8
    assert nbytes([torch.zeros(2), {"a": (np.zeros(3),)}, "word", None]) == 8 + 24
    assert nbytes(nn.BatchNorm2d(3)) == 4 * 3 * 4 + 8


def test_a_process_keeps_what_contestants_of_one_network_share_until_another_comes() -> None:
    one = shared_by("one")
    assert shared_by("one") is one
    assert shared_by("other") is not one
    assert shared_by("one") is not one


def test_networks_that_differ_in_one_number_or_one_setting_share_nothing() -> None:
    sample, made = seen("noise"), list[int]()
    for change in (lambda net: None, lambda net: net.body[5].bias.data.add_(1e-3),
                   lambda net: setattr(net.body[0], "padding", (2, 2))):
        change(sample.network)
        for_all(replace(sample), "what", lambda: made.append(1))
    for_all(replace(sample), "what", lambda: made.append(1))
    assert len(made) == 3
