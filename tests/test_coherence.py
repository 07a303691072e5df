"""Coherence: distances of maps to the mean map of their class, counted by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bench import plugins
from bench.core import HeatproofError
from bench.measure import Explained
from bench.metrics import coherence, known, score
from bench.metrics.similarity import ssim

plugins.load()
torch.set_num_threads(1)

DISTANCES = ("l1", "l2", "ssim")
NAMES = tuple(f"paper/{batch}coherence-{distance}" for batch in ("", "batch-")
              for distance in DISTANCES)
BEST = {"l1": 0.0, "l2": 0.0, "ssim": 1.0}


def sample(n: int = 12, how: Any = known.oracle) -> Explained:
    return known.explained(known.Additive(), known.planted(n, 1), how)


def scaled(maps: Tensor) -> Tensor:
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return ((maps - low) / (high - low)).double()


@pytest.mark.parametrize("name", NAMES)
def test_maps_that_are_always_the_same_are_perfectly_coherent_and_noise_is_not(name: str) -> None:
    best = BEST[name.rpartition("-")[2]]
    same = score(plugins.metrics[name], sample(how=known.pattern)).value
    np.testing.assert_allclose(same, best, atol=1e-6)
    noise = score(plugins.metrics[name], sample(how=known.noise)).value
    assert (np.abs(noise - best) > 0.02).all()


@pytest.mark.parametrize("distance", DISTANCES)
def test_a_map_is_compared_with_the_mean_of_its_class_by_the_definition(distance: str) -> None:
    explained = sample()
    maps = scaled(explained.maps)
    expected = []
    for i in range(12):
        mean = maps[explained.target == explained.target[i]].mean(0)
        gap = maps[i] - mean
        expected.append(float({"l1": gap.abs().mean(), "l2": gap.square().mean(),
                               "ssim": ssim(maps[[i]], mean[None])[0]}[distance]))
    found = score(plugins.metrics[f"paper/coherence-{distance}"], explained)
    np.testing.assert_allclose(found.value, expected, rtol=1e-6)
    assert found.reason == (None,) * 12


@pytest.mark.parametrize("distance", DISTANCES)
def test_within_a_batch_the_mean_is_of_that_batch_alone(distance: str) -> None:
    explained = sample(16)
    found = score(plugins.metrics[f"paper/batch-coherence-{distance}"].with_params(
        {"batch_size": 8}), explained)
    for part in (slice(0, 8), slice(8, 16)):
        alone = replace(explained, batch=explained.batch[part], maps=explained.maps[part],
                        target=explained.target[part], logits=explained.logits[part])
        other = score(plugins.metrics[f"paper/coherence-{distance}"], alone)
        np.testing.assert_allclose(found.value[part], other.value)
    whole = score(plugins.metrics[f"paper/batch-coherence-{distance}"], explained)
    np.testing.assert_allclose(
        whole.value, score(plugins.metrics[f"paper/coherence-{distance}"], explained).value)


@pytest.mark.parametrize("name", NAMES)
def test_the_only_image_of_a_class_has_a_reason(name: str) -> None:
    found = score(plugins.metrics[name], sample(5))
    lonely = "alone in its class"
    assert found.reason == (None, lonely, lonely, lonely, None)
    assert score(plugins.metrics[name], sample(1)).reason == (lonely,)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("flaw", ["zero", "constant", "nan"])
def test_a_degenerate_map_is_nan_with_a_reason_and_counts_in_no_mean(name: str, flaw: str) -> None:
    explained = sample()
    bad = explained.maps.clone()
    bad[4] = {"zero": 0.0, "constant": 0.7, "nan": torch.nan}[flaw]
    found = score(plugins.metrics[name], replace(explained, maps=bad))
    kept = [i for i in range(12) if i != 4]
    without = replace(explained, batch=explained.batch[kept], maps=explained.maps[kept],
                      target=explained.target[kept], logits=explained.logits[kept])
    expected = score(plugins.metrics[name], without)
    assert found.reason[4] == ("NaN in the map" if flaw == "nan" else "constant map")
    np.testing.assert_allclose(found.value[kept], expected.value, rtol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_scale_and_offset_of_a_map_change_no_score(name: str) -> None:
    explained = sample()
    unit = torch.linspace(1, 4, 12)[:, None, None]
    moved = replace(explained, maps=explained.maps * unit + 2)
    np.testing.assert_allclose(score(plugins.metrics[name], explained).value,
                               score(plugins.metrics[name], moved).value, rtol=1e-3, atol=1e-6)


def test_maps_are_compared_on_the_image_s_grid_however_many_there_are() -> None:
    explained = sample(140, known.noise)
    coarse = explained.maps[:, :4, :4]
    value, reason = coherence.coherence(coarse, explained.target, (16, 16), coherence.l1)
    shown, _ = coherence.normalised(coarse, (16, 16))
    mean = torch.stack([shown[explained.target == k].mean(0) for k in range(4)])
    torch.testing.assert_close(value, coherence.l1(shown, mean[explained.target]))
    assert reason == (None,) * 140


@pytest.mark.parametrize("size", [1, 0, 2.5])
def test_a_wrong_batch_size_names_the_cure(size: Any) -> None:
    metric = plugins.metrics["paper/batch-coherence-l1"].with_params({"batch_size": size})
    with pytest.raises(HeatproofError, match="batch_size must be a whole number above 1"):
        score(metric, sample())


def test_no_card_claims_that_a_sample_stands_alone() -> None:
    assert not any("batch" in plugins.metrics[name].holds for name in NAMES)
    assert all(plugins.metrics[name].track == "paper" for name in NAMES)
