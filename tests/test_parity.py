"""Parity mode equals Quantus 0.6.0: called directly under the same seed, and as stored.

`python tests/test_parity.py` stores anew what Quantus answers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench import plugins
from bench.core import HeatproofError
from bench.metrics import lab, score
from bench.metrics.parity import rules, table
from bench.metrics.parity.departures import DEPARTURES
from bench.metrics.parity.table import CASES, TOLERANCE, Case, gap, ours, sample, theirs
from bench.metrics.replacement import interpolated

STORE = Path(__file__).parent / "fixtures" / "parity.npz"
EVERY = [(case, channels) for case in CASES for channels in case.channels]
# NumPy's sort breaks ties by the CPU, so what depends on them is not stored.
STORED = [(case, channels) for case, channels in EVERY if not case.ties]
ABSENT = {"Monotonicity", "SensitivityN", "Completeness", "InputInvariance"}


def name(case: Case, channels: int) -> str:
    return f"{case.metric} {case.setting}, {'grey' if channels == 1 else 'rgb'}"


def names(pairs: list[tuple[Case, int]]) -> Any:
    return pytest.mark.parametrize("case, channels", pairs, ids=[name(*pair) for pair in pairs])


@pytest.fixture(scope="module")
def quantus() -> Callable[[Case, int], Any]:
    """Quantus's answer, asked for once."""
    said: dict[str, Any] = {}

    def answer(case: Case, channels: int) -> Any:
        key = name(case, channels)
        if key not in said:
            said[key] = theirs(case, sample(case, channels))
        return said[key]

    return answer


@pytest.fixture(scope="module")
def store() -> dict[str, Any]:
    with np.load(STORE) as found:
        return dict(found)


@names(EVERY)
def test_our_engine_equals_quantus_under_the_same_seed(
    case: Case, channels: int, quantus: Callable[[Case, int], Any],
) -> None:
    assert gap(ours(case, sample(case, channels)), quantus(case, channels)) <= TOLERANCE


@names(STORED)
def test_our_engine_gives_the_stored_numbers_of_quantus(
    case: Case, channels: int, store: dict[str, Any],
) -> None:
    assert gap(ours(case, sample(case, channels)), store[name(case, channels)]) <= TOLERANCE


@names(STORED)
def test_quantus_still_gives_its_stored_numbers(
    case: Case, channels: int, store: dict[str, Any], quantus: Callable[[Case, int], Any],
) -> None:
    assert gap(quantus(case, channels), store[name(case, channels)]) <= TOLERANCE


@pytest.mark.parametrize("channels", [1, 3])
def test_the_inputs_are_those_of_the_stored_numbers(channels: int, store: dict[str, Any]) -> None:
    np.testing.assert_allclose(inputs(channels), store[f"inputs {channels}"], rtol=1e-5)


def inputs(channels: int) -> np.ndarray[Any, Any]:
    explained = sample(CASES[0], channels)
    return np.concatenate([values.flatten(1).double().sum(1) for values in (
        explained.batch.x, explained.maps, explained.logits.abs())])


def test_a_difference_is_found_where_there_is_one() -> None:
    case = Case("PixelFlipping", {"features_in_step": 16})
    explained = sample(case, 3)
    other = replace(explained, maps=-explained.maps)
    assert gap(ours(case, explained), theirs(case, other)) > 0.01
    assert gap(np.array([1.0, np.nan]), np.array([1.0, 2.0])) == float("inf")


def test_every_metric_of_quantus_has_parity_or_a_known_defect() -> None:
    known = {n.removeprefix("quantus/") for n in plugins.metrics if n.startswith("quantus/")}
    same = {n.removeprefix("parity/") for n in plugins.metrics if n.startswith("parity/")}
    assert known - same == ABSENT
    assert same <= known
    assert {one.metric for one in DEPARTURES} >= ABSENT
    assert {case.metric for case in CASES} == same


def test_parity_and_quantus_tracks_agree_on_family_and_direction() -> None:
    for full, metric in plugins.metrics.items():
        if metric.track == "parity":
            twin = plugins.metrics[full.replace("parity/", "quantus/")]
            assert (metric.family, metric.better) == (twin.family, twin.better), full


def test_a_nan_map_is_nan_alone_and_does_not_scale_the_others() -> None:
    explained = sample(CASES[0], 1)
    maps = explained.maps.clone()
    maps[1, 3, 3] = torch.nan
    metric = plugins.metrics["parity/EffectiveComplexity"].with_params({"eps": 0.3})
    before, after = (score(metric, replace(explained, maps=m)) for m in (explained.maps, maps))
    assert after.reason == (None, "NaN in the map", None, None, None)
    assert np.array_equal(np.delete(before.value, 1), np.delete(after.value, 1))


def test_an_empty_mask_is_nan_alone() -> None:
    explained = sample(CASES[0], 1)
    assert explained.batch.mask is not None
    mask = explained.batch.mask.clone()
    mask[2] = 0
    batch = replace(explained.batch, mask=mask)
    for metric in ("PointingGame", "AUC", "RelevanceRankAccuracy", "TopKIntersection", "Focus"):
        found = score(plugins.metrics[f"parity/{metric}"], replace(explained, batch=batch))
        assert found.reason == (None, None, "empty mask", None, None)


def test_a_constant_map_has_no_correlation() -> None:
    explained = sample(CASES[0], 1)
    maps = explained.maps.clone()
    maps[0] = 0.1
    metric = plugins.metrics["parity/FaithfulnessCorrelation"].with_params({"nr_runs": 10})
    found = score(metric, replace(explained, maps=maps))
    assert np.isnan(found.value).tolist() == [True, False, False, False, False]
    assert "undefined" in str(found.reason[0])


def test_maps_are_upsampled_before_they_are_scaled_together() -> None:
    explained = sample(CASES[0], 1)
    coarse = replace(explained, maps=explained.maps[:, ::4, ::4])
    found = rules.attributions(coarse, abs=False, normalise=True)
    assert found.values.shape == (5, 16, 16)
    assert found.values.abs().max() == 1
    assert (found.values.abs().amax((1, 2)) < 1).sum() == 4
    case = Case("Sparseness")
    assert gap(ours(case, coarse), theirs(case, coarse)) <= TOLERANCE


def test_a_named_baseline_draws_a_number_a_sample_whether_it_needs_it_or_not() -> None:
    np.random.seed(3)
    x = torch.arange(8.0).view(2, 4)
    first, second = rules.baseline(x, "black"), rules.baseline(x, "uniform")
    np.random.seed(3)
    np.random.uniform(size=2)
    assert first.tolist() == [0, 4]
    np.testing.assert_allclose(second, np.random.uniform(size=2), rtol=1e-6)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_roads_removed_pixels_are_those_of_quantus(share: float) -> None:
    from quantus.functions.perturb_func import noisy_linear_imputation

    explained = sample(CASES[0], 1)
    order = rules.falling(explained.maps.double().flatten(1))[:, :int(share * 256)]
    removed = torch.zeros(5, 256, dtype=torch.bool).scatter(1, order, True).view(5, 1, 16, 16)
    x = explained.batch.x
    theirs = [noisy_linear_imputation(image.double().numpy(), index.numpy(), noise=0.0)
              for image, index in zip(x, order, strict=True)]
    ours = interpolated(x, removed, tolerance=1e-9)
    assert np.abs(ours.numpy() - np.stack(theirs)).max() < 1e-7


@pytest.mark.parametrize("metric, params, cure", [
    ("PixelFlipping", {"features_in_step": 7}, "divide the 256 pixels"),
    ("FaithfulnessCorrelation", {"subset_size": 1000}, "subset_size"),
    ("FaithfulnessEstimate", {"perturb_baseline": "blackk"}, "black"),
    ("RegionPerturbation", {"order": "most"}, "morf"),
    ("Infidelity", {"perturb_patch_sizes": (5,)}, "divide"),
    ("TopKIntersection", {"k": 256}, "between 0 and the 256 pixels"),
    ("ROAD", {}, "proven track"), ("IROF", {}, "proven track"),
])
def test_a_wrong_parameter_is_refused_with_its_cure(
    metric: str, params: dict[str, Any], cure: str,
) -> None:
    with pytest.raises(HeatproofError, match=cure):
        score(plugins.metrics[f"parity/{metric}"].with_params(params), sample(CASES[0], 3))


@pytest.mark.parametrize("params, cure", [
    ({"segmentation_method": "slick"}, "slic"), ({"perturb_baseline": "uniform"}, "black")])
def test_irof_refuses_what_it_does_not_know(params: dict[str, Any], cure: str) -> None:
    with pytest.raises(HeatproofError, match=cure):
        score(plugins.metrics["parity/IROF"].with_params(params), sample(CASES[0], 1))


def test_an_image_of_one_superpixel_has_no_irof() -> None:
    explained = sample(CASES[0], 1)
    x = explained.batch.x.clone()
    x[0] = 0.5
    found = score(plugins.metrics["parity/IROF"],
                  replace(explained, batch=replace(explained.batch, x=x)))
    assert found.reason[1] is None
    assert (found.reason[0] == "the image is one superpixel") == bool(np.isnan(found.value[0]))


def test_the_same_call_gives_the_same_bits_and_leaves_the_generators_alone() -> None:
    metric = plugins.metrics["parity/FaithfulnessCorrelation"].with_params({"nr_runs": 5})
    explained = sample(CASES[0], 1)
    first = score(metric, explained)
    state = np.random.get_state()[1].copy()
    np.random.seed(1)
    again = np.random.get_state()[1].copy()
    assert np.array_equal(first.value, score(metric, explained).value)
    assert np.array_equal(np.random.get_state()[1], again)
    assert not np.array_equal(state, again)


def test_the_toy_network_decides_differently_for_different_images() -> None:
    for channels in (1, 3):
        explained = sample(CASES[0], channels)
        assert len(set(explained.target.tolist())) > 1
        assert explained.classes == lab.CLASSES


def test_the_table_holds_settings_and_departures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "CASES", (Case("AUC"), Case("IROF", channels=(1,))))
    monkeypatch.setattr(table, "DEPARTURES", DEPARTURES[:2])
    auc, irof, first, second = table.rows()
    assert (auc.metric, auc.setting, auc.verdict) == ("AUC", "defaults", "equal")
    assert irof.rgb is None
    assert irof.grey is not None
    assert irof.grey <= TOLERANCE
    assert first.verdict == "Quantus 0.8, pixel-flipping 0.5"
    assert second.grey is None


def test_the_table_says_where_something_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "CASES", (Case("AUC"),))
    monkeypatch.setattr(table, "theirs", lambda case, explained: np.zeros(5))
    monkeypatch.setattr(table, "DEPARTURES", [replace(DEPARTURES[0], exact=7.0)])
    auc, departed = table.rows()
    assert auc.verdict == "DIFFERS"
    assert departed.verdict.endswith("pixel-flipping 0.5, not 7")


if __name__ == "__main__":
    plugins.load()
    torch.set_num_threads(1)
    answers = {name(*pair): theirs(pair[0], sample(*pair)) for pair in STORED}
    sums = {f"inputs {channels}": inputs(channels) for channels in (1, 3)}
    np.savez_compressed(STORE, **answers, **sums)
