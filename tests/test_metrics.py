"""Quantus behind our metrics: what goes in, what comes back, and what must stay as it was."""

from __future__ import annotations

import copy
import gc
import importlib.metadata
import random
import subprocess
import sys
import weakref
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import bench.metrics.classifier
import bench.metrics.quantus_track  # noqa: F401
from bench import plugins
from bench.core import Batch, HeatproofError
from bench.measure import Explained, Scores
from bench.metrics import evidence, known, quantus_run, score
from bench.metrics.quantus_track import whole_steps

plugins.load()
torch.set_num_threads(1)

QUANTUS = [name for name in plugins.metrics if name.startswith("quantus/")]
LOCALISATION = [name for name in QUANTUS if plugins.metrics[name].family == "localisation"]
ALONE = [*LOCALISATION, "quantus/PixelFlipping", "quantus/Sparseness", "quantus/Complexity"]
"""Metrics whose value of a sample does not depend on who else is in the batch."""
AGAIN = [name for name in QUANTUS if plugins.metrics[name].needs
         and "mask" not in plugins.metrics[name].needs]
QUICK = {"quantus/FaithfulnessCorrelation": {"runs": 12}, "quantus/MaxSensitivity": {"draws": 3}}


def metric(name: str) -> Any:
    return plugins.metrics[name].with_params(QUICK.get(name, {}))


def sample(n: int = 4, channels: int = 1) -> Explained:
    """A convolutional network under gradient times input: signed maps that differ everywhere."""
    return known.explained(known.Convolutional(channels), known.planted(n, channels),
                           known.gradient)


def scored(name: str, explained: Explained) -> Scores:
    return score(metric(name), explained)


def same(one: Scores, other: Scores) -> bool:
    curves = (one.curve is None and other.curve is None) or np.array_equal(
        one.curve, other.curve, equal_nan=True)  # type: ignore[arg-type]
    return (np.array_equal(one.value, other.value, equal_nan=True) and curves
            and one.reason == other.reason)


def test_quantus_is_the_release_that_the_track_names() -> None:
    assert importlib.metadata.version("quantus") == quantus_run.QUANTUS == "0.6.0"
    assert all("quantus 0.6.0" in plugins.metrics[name].version for name in QUANTUS)
    assert all(plugins.metrics[name].track == "quantus" for name in QUANTUS)


def test_naming_the_metrics_does_not_import_quantus() -> None:
    code = "import sys, bench.metrics.quantus_track; sys.exit('quantus' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_another_release_of_quantus_is_refused_with_the_cure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda _: "0.5.3")
    with pytest.raises(HeatproofError, match=r"pip install quantus==0\.6\.0"):
        scored("quantus/Sparseness", sample())


@pytest.mark.parametrize("name", QUANTUS)
@pytest.mark.parametrize("channels", [1, 3])
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
    one = scored(name, explained)
    assert random.getstate() == states[0]
    assert all(np.array_equal(a, b) for a, b in zip(np.random.get_state(), states[1], strict=True))
    assert torch.equal(torch.get_rng_state(), states[2])
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


@pytest.mark.parametrize("name", ["quantus/PixelFlipping", "quantus/MPRT", "quantus/RandomLogit"])
def test_the_network_is_let_go_of(name: str) -> None:
    explained = sample(2)
    watch = weakref.ref(explained.network)
    scored(name, explained)
    del explained
    gc.collect()
    assert watch() is None


@pytest.mark.parametrize("name", ALONE)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_sample_scores_the_same_in_every_batch(name: str, channels: int) -> None:
    whole = sample(64, channels)
    parts = [replace(whole, batch=whole.batch[:n], maps=whole.maps[:n], target=whole.target[:n],
                     logits=whole.logits[:n]) for n in (1, 3, 64)]
    values = [scored(name, part).value[0] for part in parts]
    if name == "quantus/PixelFlipping":   # the network's own rounding depends on the batch
        np.testing.assert_allclose(values, values[0], atol=1e-6)
    else:
        assert len(set(values)) == 1


@pytest.mark.parametrize("name", QUANTUS)
@pytest.mark.parametrize("flaw", ["zero", "constant", "nan", "infinite"])
@pytest.mark.parametrize("index", [0, 2])
def test_a_degenerate_map_is_nan_with_a_reason_and_touches_nobody(
    name: str, flaw: str, index: int,
) -> None:
    explained = sample(3)
    bad = explained.maps.clone()
    bad[index] = {"zero": 0.0, "constant": 0.7, "nan": bad[index], "infinite": bad[index]}[flaw]
    if flaw in ("nan", "infinite"):
        bad[index, 3, 4] = float(flaw.replace("infinite", "inf"))
    sound, found = scored(name, explained), scored(name, replace(explained, maps=bad))
    others = [i for i in range(3) if i != index]
    assert np.array_equal(found.value[others], sound.value[others])
    assert np.isnan(found.value[index])
    expected = "constant map" if flaw in ("zero", "constant") else "NaN in the map"
    assert found.reason[index] == expected
    assert [found.reason[i] for i in others] == [None, None]


@pytest.mark.parametrize("name", QUANTUS)
@pytest.mark.parametrize("n", [1, 3])
def test_maps_without_any_positive_value_are_scored_by_what_is_signed(name: str, n: int) -> None:
    def dark(net: Any, x: Any, target: Any, batch: Batch) -> torch.Tensor:
        right = known.gradient(net, x, target, batch)
        return right - right.amax((1, 2), keepdim=True) - 0.1

    explained = known.explained(known.Convolutional(1), known.planted(n, 1), dark)
    found = scored(name, explained)
    if name == "quantus/AttributionLocalisation":
        assert found.reason == ("no positive evidence",) * n
    else:
        assert np.isfinite(found.value).all()


@pytest.mark.parametrize("name", QUANTUS)
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


@pytest.mark.parametrize("name", QUANTUS)
def test_the_scale_of_one_map_changes_no_score(name: str) -> None:
    explained = sample(3)
    loud = explained.maps.clone()
    loud[0] *= 2.0**20
    one, other = scored(name, explained), scored(name, replace(explained, maps=loud))
    kept = slice(1, 3) if name == "quantus/MaxSensitivity" else slice(0, 3)
    assert np.array_equal(one.value[kept], other.value[kept])


@pytest.mark.parametrize("name", [*LOCALISATION, "quantus/PixelFlipping"])
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
    assert same(one, scored(name, tied))


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


def test_a_map_that_turns_constant_under_noise_has_a_sensitivity() -> None:
    spoilt = known.explained(known.Convolutional(1), known.planted(1, 1), Later(0.0, 1))
    assert scored("quantus/MaxSensitivity", spoilt).value[0] == pytest.approx(1.0)


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
    found = scored("quantus/FaithfulnessCorrelation", explained)
    assert found.reason == ("the correlation is undefined: no removal changed the logit",) * 2


def test_a_network_that_ends_in_softmax_modules_is_neither_copied_nor_kept() -> None:
    net = torch.nn.Sequential(known.Additive(), torch.nn.Softmax(dim=1))
    explained = known.explained(net, known.planted(2, 1), known.image)
    watch = weakref.ref(net[0])
    scored("quantus/FaithfulnessCorrelation", explained)
    assert explained.network is net
    del net, explained
    gc.collect()
    assert watch() is None


@pytest.mark.parametrize(("pixels", "steps", "size"), [
    (1024, 32, 32), (784, 32, 28), (4096, 32, 128), (50176, 32, 1568), (961, 32, 31), (9, 9, 1)])
def test_steps_are_equal_and_near_what_was_asked(pixels: int, steps: int, size: int) -> None:
    assert whole_steps(pixels, steps) == size
    assert pixels % size == 0


def test_steps_that_cannot_be_equal_are_refused_with_those_that_can() -> None:
    with pytest.raises(HeatproofError, match="set steps to one of 1, 97"):
        whole_steps(97, 32)
    with pytest.raises(HeatproofError, match="above 0"):
        whole_steps(97, 0)


@pytest.mark.parametrize(("name", "params", "message"), [
    ("PixelFlipping", {"baseline": "grey"}, "baseline must be one of black"),
    ("FaithfulnessCorrelation", {"share": 5}, "share must lie between 0 and 1")])
def test_a_wrong_parameter_names_the_cure(name: str, params: Any, message: str) -> None:
    chosen = plugins.metrics[f"quantus/{name}"].with_params(params)
    with pytest.raises(HeatproofError, match=message):
        score(chosen, sample(2))


def test_a_network_in_training_mode_is_refused() -> None:
    explained = sample(2)
    explained.network.train()
    with pytest.raises(ValueError, match="training mode"):
        scored("quantus/PixelFlipping", explained)


def test_the_classifier_metrics_say_what_they_are() -> None:
    explained = sample(3)
    logits = torch.tensor([[3.0, 0, 0, 0], [0, 0, 0, 2.0], [0, np.nan, 0, 0]])
    found = replace(explained, logits=logits)
    hit, sure = scored("accuracy", found), scored("confidence", found)
    assert hit.value[:2].tolist() == [1.0, 0.0]
    assert sure.value[0] == pytest.approx(np.exp(3) / (np.exp(3) + 3))
    assert hit.reason == sure.reason == (None, None, "the logits are not finite")


def test_an_answer_of_the_wrong_length_is_refused_and_a_bare_nan_is_given_a_reason() -> None:
    def short(explained: Explained) -> Scores:
        return Scores(np.zeros(1), (None,))

    def bare(explained: Explained) -> Scores:
        return Scores(np.array([1.0, np.inf]), (None, None), np.ones((2, 3)))

    explained, base = sample(2), replace(plugins.metrics["accuracy"], params={})
    with pytest.raises(ValueError, match="it must give one each"):
        score(replace(base, score=short), explained)
    found = score(replace(base, score=bare), explained)
    assert found.reason == (None, "not finite")
    assert found.curve is not None
    assert np.isnan(found.curve[1]).all()


def test_what_a_metric_raises_is_let_through_and_the_random_state_restored() -> None:
    def broken(explained: Explained) -> Scores:
        np.random.seed(1)
        raise RuntimeError("no")

    state = np.random.get_state()[1].copy()  # type: ignore[index,union-attr]
    with pytest.raises(RuntimeError, match="no"):
        score(replace(plugins.metrics["accuracy"], params={}, score=broken), sample(2))
    assert np.array_equal(np.random.get_state()[1], state)  # type: ignore[index]
