"""Quantus behind our metrics: what goes in, what comes back, and what must stay as it was."""

from __future__ import annotations

import copy
import gc
import random
import weakref
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from quantus_rows import SOUND, same, sample, scored

from bench import plugins
from bench.core import Batch
from bench.measure import Explained
from bench.metrics import evidence, known, quantus_run

LOCALISATION = [name for name in SOUND if plugins.metrics[name].family == "localisation"]
ALONE = [name for name in SOUND if "batch" in plugins.metrics[name].holds]
AGAIN = [name for name in SOUND if "explain" in plugins.metrics[name].needs]
SORTED = [f"quantus/{name}" for name in (
    "PixelFlipping", "FaithfulnessEstimate", "RegionPerturbation", "Selectivity", "ROAD", "IROF",
    "MonotonicityCorrelation", "PointingGame", "TopKIntersection", "RelevanceRankAccuracy")]
COLOURS = [(name, channels) for name in SOUND for channels in (1, 3)
           if (name, channels) != ("quantus/NonSensitivity", 3)]   # a pass for each value
POSITIVE = ("quantus/AttributionLocalisation", "quantus/Focus")


@pytest.mark.parametrize(("name", "channels"), COLOURS)
def test_scoring_changes_nothing_in_the_world(
    name: str, channels: int, capsys: pytest.CaptureFixture[str],
) -> None:
    explained = sample(3, channels)
    weights = copy.deepcopy(explained.network.state_dict())
    before = copy.deepcopy((explained.batch.x, explained.maps, explained.batch.mask))
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    borrowed = {key: hasattr(np, key) for key in ("trapz", "NaN")}
    one = scored(name, explained)
    assert random.getstate() == states[0]
    assert all(np.array_equal(a, b) for a, b in zip(np.random.get_state(), states[1], strict=True))
    assert torch.equal(torch.get_rng_state(), states[2])
    assert borrowed == {key: hasattr(np, key) for key in borrowed}
    for old, new in zip(before, (explained.batch.x, explained.maps, explained.batch.mask),
                        strict=True):
        assert torch.equal(old, new)
    for key, tensor in explained.network.state_dict().items():
        assert torch.equal(tensor, weights[key])
    assert not any(module.training for module in explained.network.modules())
    assert capsys.readouterr().out == ""
    assert np.isfinite(one.value).all()
    assert one.value.shape == (3,)
    assert one.reason == (None,) * 3
    np.random.seed(6)
    torch.manual_seed(6)
    assert same(one, scored(name, explained))


@pytest.mark.parametrize("name", [f"quantus/{name}" for name in (
    "PixelFlipping", "MPRT", "RandomLogit", "ROAD", "RelativeRepresentationStability",
    "EfficientMPRT")])
def test_the_network_is_let_go_of(name: str) -> None:
    explained = sample(2)
    watch = weakref.ref(explained.network)
    scored(name, explained)
    del explained
    gc.collect()
    assert watch() is None


@pytest.mark.parametrize("name", ALONE)
def test_a_sample_scores_the_same_in_every_batch(name: str) -> None:
    whole = sample(5, 1 if name == "quantus/NonSensitivity" else 3)

    def part(index: list[int]) -> Explained:
        few = whole.batch[index]
        return replace(
            whole, batch=few, maps=whole.maps[index], target=whole.target[index],
            logits=whole.logits[index],
            explain=lambda **given: whole.explain(**given, index=index))

    one, other = (scored(name, part(index)).value[index.index(2)] for index in ([2], [0, 4, 2]))
    # The network's own rounding depends on the batch.
    assert one == pytest.approx(other, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("name", SOUND)
def test_a_degenerate_map_is_nan_with_a_reason_and_touches_nobody(name: str) -> None:
    explained = sample(6)
    bad = explained.maps.clone()
    bad[0], bad[2] = 0.0, 0.7
    bad[3, 3, 4], bad[5, 3, 4] = float("nan"), float("inf")
    sound, found = scored(name, explained), scored(name, replace(explained, maps=bad))
    assert np.array_equal(found.value[[1, 4]], sound.value[[1, 4]])
    assert np.isnan(found.value[[0, 2, 3, 5]]).all()
    assert found.reason == ("constant map", None, "constant map", "NaN in the map", None,
                            "NaN in the map")


@pytest.mark.parametrize("name", SOUND)
@pytest.mark.parametrize("n", [1, 3])
def test_maps_without_any_positive_value_are_scored_by_what_is_signed(name: str, n: int) -> None:
    def dark(net: Any, x: Any, target: Any, batch: Batch) -> torch.Tensor:
        right = known.gradient(net, x, target, batch)
        return right - right.amax((1, 2), keepdim=True) - 0.1

    explained = known.explained(known.Convolutional(1), known.planted(n, 1), dark)
    found = scored(name, explained)
    if name in POSITIVE:
        assert found.reason == ("no positive evidence",) * n
    else:
        assert np.isfinite(found.value).all()


@pytest.mark.parametrize("name", SOUND)
def test_quantus_is_not_called_when_every_map_is_degenerate(
    name: str, monkeypatch: pytest.MonkeyPatch,
) -> None:
    explained = sample(3)
    monkeypatch.setattr(quantus_run, "_quantus", lambda: pytest.fail("Quantus was called"))
    found = scored(name, replace(explained, maps=torch.zeros_like(explained.maps)))
    assert found.reason == ("constant map",) * 3


@pytest.mark.parametrize("name", LOCALISATION)
def test_a_sample_without_an_object_is_nan_with_a_reason(name: str) -> None:
    explained = sample(3)
    mask = explained.batch.mask.clone()
    mask[1] = 0
    found = scored(name, replace(explained, batch=replace(explained.batch, mask=mask)))
    assert found.reason == (None, "empty mask", None)
    assert np.array_equal(found.value[[0, 2]], scored(name, explained).value[[0, 2]])
    bare = scored(name, replace(explained, batch=replace(explained.batch, mask=None)))
    assert bare.reason == ("no mask",) * 3


@pytest.mark.parametrize("name", LOCALISATION)
def test_pixels_of_unknown_truth_count_neither_way(name: str) -> None:
    explained = sample(3)
    mask = explained.batch.mask.clone()
    mask[:, :4] = evidence.IGNORE
    other = explained.maps.clone()
    other[:, :4] = 100 * torch.rand(3, 4, 16, generator=torch.Generator().manual_seed(1))
    one = replace(explained, batch=replace(explained.batch, mask=mask))
    assert same(scored(name, one), scored(name, replace(one, maps=other)))


@pytest.mark.parametrize("name", SOUND)
def test_the_scale_of_one_map_changes_no_other_score(name: str) -> None:
    explained = sample(3)
    loud = explained.maps.clone()
    loud[0] *= 2.0**20
    one, other = scored(name, explained), scored(name, replace(explained, maps=loud))
    raw = not plugins.metrics[name].params["normalise"] and name != "quantus/EfficientMPRT"
    kept = slice(1, 3) if raw else slice(0, 3)
    assert np.array_equal(one.value[kept], other.value[kept])


@pytest.mark.parametrize("name", SORTED)
@pytest.mark.parametrize("channels", [1, 3])
def test_the_sorting_of_ties_decides_nothing(
    name: str, channels: int, monkeypatch: pytest.MonkeyPatch,
) -> None:
    explained = sample(3, channels)
    blocks = (explained.maps > explained.maps.median()).float()
    tied = replace(explained, maps=blocks)
    one = scored(name, tied)
    argsort = np.argsort

    def backwards(a: Any, axis: int = -1, **_: Any) -> Any:
        return a.shape[axis] - 1 - argsort(np.flip(a, axis), axis=axis, kind="stable")

    monkeypatch.setattr(np, "argsort", backwards)
    found = scored(name, tied)
    np.testing.assert_allclose(found.value, one.value, rtol=1e-6)


class Later:
    """Explains well at first, and from the `first` call on gives a flawed map of sample 0."""

    def __init__(self, flaw: float, first: int) -> None:
        self.flaw, self.first, self.calls = flaw, first, 0

    def __call__(self, net: Any, x: Any, target: Any, batch: Batch) -> torch.Tensor:
        self.calls += 1
        found = known.gradient(net, x, target, batch)
        if self.calls > self.first:
            found[0] = self.flaw
        return found


@pytest.mark.parametrize("name", AGAIN)
@pytest.mark.parametrize("n", [1, 3])
def test_a_map_that_is_nan_when_explained_again_costs_one_sample_its_score(
    name: str, n: int,
) -> None:
    spoilt = known.explained(known.Convolutional(1), known.planted(n, 1), Later(np.nan, 1))
    found, sound = scored(name, spoilt), scored(name, sample(n))
    assert np.isnan(found.value[0])
    assert found.reason[0] == "explained again: NaN in the map"
    assert np.array_equal(found.value[1:], sound.value[1:])


@pytest.mark.parametrize("n", [1, 3])
def test_a_layer_that_kills_a_map_is_left_out_of_the_mean(n: int) -> None:
    # Calls: the maps, the original again, then three layers; the last two give a constant map.
    dying = known.explained(known.Convolutional(1), known.planted(n, 1), Later(0.0, 3))
    found, sound = scored("quantus/MPRT", dying), scored("quantus/MPRT", sample(n))
    assert found.curve is not None
    assert sound.curve is not None
    assert np.isnan(found.curve[0, 1:]).all()
    assert found.value[0] == sound.curve[0, 0]
    assert np.array_equal(found.value[1:], sound.value[1:])
    dead = known.explained(known.Convolutional(1), known.planted(n, 1), Later(0.0, 1))
    assert scored("quantus/MPRT", dead).reason[0] == "explained again: constant map"


@pytest.mark.parametrize(("name", "value"), [
    ("MaxSensitivity", 1.0), ("AvgSensitivity", 1.0), ("EfficientMPRT", -1.0),
    ("LocalLipschitzEstimate", None), ("Continuity", None)])
def test_a_map_that_turns_constant_has_moved(name: str, value: float | None) -> None:
    spoilt = known.explained(known.Convolutional(1), known.planted(1, 1), Later(0.0, 1 + (
        name in ("EfficientMPRT", "Continuity"))))   # these explain the image itself again first
    found = scored(f"quantus/{name}", spoilt).value[0]
    assert found == pytest.approx(value) if value else found > 0


def test_a_network_without_a_layer_to_randomise_says_so() -> None:
    class Bare(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean(1).flatten(1)[:, :4]

    explained = known.explained(Bare(), known.planted(2, 1), known.image)
    found = scored("quantus/MPRT", explained)
    assert all("no layer could be randomised" in str(reason) for reason in found.reason)


def test_a_network_that_no_pixel_moves_has_no_faithfulness_correlation() -> None:
    class Deaf(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.zeros(len(x), 4)

    explained = known.explained(Deaf(), known.planted(2, 1), known.image)
    for name in ("FaithfulnessCorrelation", "FaithfulnessEstimate", "MonotonicityCorrelation"):
        found = scored(f"quantus/{name}", explained)
        assert all("the correlation is undefined" in str(reason) for reason in found.reason)


def test_a_network_that_ends_in_softmax_modules_is_neither_copied_nor_kept() -> None:
    net = torch.nn.Sequential(known.Additive(), torch.nn.Softmax(dim=1))
    explained = known.explained(net, known.planted(2, 1), known.image)
    watch = weakref.ref(net[0])
    scored("quantus/FaithfulnessCorrelation", explained)
    assert explained.network is net
    del net, explained
    gc.collect()
    assert watch() is None


def test_a_probability_near_zero_costs_no_monotonicity_correlation() -> None:
    explained = known.explained(known.Additive(40.0), known.planted(4, 1), known.noise)
    wrong = replace(explained, target=(explained.target + 1) % 4)
    logits = wrong.logits.softmax(1).gather(1, wrong.target[:, None])
    assert float(logits.max()) < 1e-5
    assert np.isfinite(scored("quantus/MonotonicityCorrelation", wrong).value).all()


def test_all_hidden_values_are_taken_in_one_pass_however_many_the_samples() -> None:
    explained = sample(quantus_run._PASS + 6)
    found = scored("quantus/RelativeRepresentationStability", explained)
    assert np.isfinite(found.value).all()


@pytest.mark.parametrize("name", ["ROAD", "PixelFlipping", "FaithfulnessEstimate", "Infidelity"])
def test_a_grey_image_in_three_channels_scores_as_in_one(name: str) -> None:
    grey = known.explained(known.Additive(), known.planted(3, 1), known.noise)
    colour = replace(grey, batch=replace(grey.batch, x=grey.batch.x.expand(-1, 3, -1, -1).clone()))
    params: dict[str, Any] = {"noise": 0.0} if name == "ROAD" else {}
    one, three = (scored(f"quantus/{name}", e, **params).value for e in (grey, colour))
    if name == "Infidelity":   # it sums over the channels
        assert not np.allclose(one, three)
    else:
        np.testing.assert_allclose(three, one, rtol=1e-4, atol=1e-6)


def test_a_superpixel_is_filled_in_every_channel() -> None:
    seen: list[torch.Tensor] = []

    class Spy(known.Additive):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(x.clone())
            return super().forward(x)

    explained = known.explained(Spy(), known.planted(1, 3), known.noise)
    seen.clear()
    scored("quantus/IROF", explained)
    last = seen[-1][0]
    assert torch.unique(last.flatten(1), dim=1).shape[1] < 256
    assert torch.equal(last[0] == explained.batch.x[0, 0], last[2] == explained.batch.x[0, 2])
