"""Localisation: the exact answers, of ties and of areas too, and what cannot be scored."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise, permutations
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import mannwhitneyu
from sklearn.metrics import roc_auc_score

from bench import plugins
from bench.core import Batch
from bench.measure import Explained, Scores
from bench.metrics import localisation, score
from bench.metrics.known import Additive, explained, known_answer, noise, oracle, planted
from bench.metrics.lab import inverse

NAMES = tuple(localisation.MEASURES)
plugins.load()


def scored(name: str, sample: Explained) -> Scores:
    return score(plugins.metrics[name], sample)


def toy(maps: Any, mask: Any) -> Explained:
    """One sample of a map and a mask of the same size."""
    maps, mask = torch.as_tensor(maps)[None], torch.as_tensor(mask)[None].to(torch.uint8)
    batch = Batch(x=torch.zeros(1, 1, *mask.shape[1:]), y=torch.zeros(1).long(), key=("a",),
                  seed=torch.tensor([1]), group=("",), mask=mask)
    return Explained(network=torch.nn.Identity().eval(), batch=batch, logits=torch.zeros(1, 2),
                     target=batch.y, maps=maps, explain=lambda **_: maps, classes=2)


def one(values: list[float]) -> torch.Tensor:
    return torch.tensor([values], dtype=torch.float64)


def broken(measure: Any, values: torch.Tensor, inside: torch.Tensor) -> float:
    """The mean score over every way to break the ties of whole pixels."""
    falling = [order for order in permutations(range(values.shape[1]))
               if all(values[0, a] >= values[0, b] for a, b in pairwise(order))]
    total = 0.0
    for order in falling:
        distinct = torch.zeros_like(values)
        distinct[0, list(order)] = torch.arange(values.shape[1], 0, -1).to(values)
        total += float(measure(distinct, inside, 1 - inside))
    return total / len(falling)


def test_hand_made_maps_have_their_exact_scores() -> None:
    sample = toy([[4.0, 3.0], [-1.0, 1.0]], [[1, 0], [0, 1]])
    found = {name: float(scored(name, sample).value[0]) for name in NAMES}
    assert found == {"pointing-game": 1.0, "mass-inside": 5 / 8, "rank-accuracy": 0.5, "auc": 0.75}


def test_negative_evidence_on_the_object_is_no_hit() -> None:
    sample = toy([[-9.0, 1.0], [0.0, 2.0]], [[1, 0], [0, 0]])
    assert [scored(name, sample).value[0] for name in NAMES] == [0, 0, 0, 0]
    inside = one([1, 0, 1])
    assert float(localisation.mass_inside(one([-9, 1, 3]), inside, 1 - inside)) == 0.75


@pytest.mark.parametrize("name", ["pointing-game", "rank-accuracy", "auc"])
def test_ties_count_by_the_mean_over_all_ways_to_break_them(name: str) -> None:
    measure = localisation.MEASURES[name].score
    for values, inside in (([2, 2, 2, 1, 0], [1, 0, 1, 1, 0]), ([1, 1, 1, 1], [1, 0, 0, 0]),
                           ([0, 1, 1, 2, 1, 0], [1, 1, 0, 0, 1, 0]), ([3, 2, 1], [0, 1, 1])):
        found = float(measure(one(values), one(inside), 1 - one(inside)))
        assert found == pytest.approx(broken(measure, one(values), one(inside)), abs=1e-15)


@pytest.mark.parametrize("levels", [3, 40, 10**6])
def test_auc_is_that_of_scikit_learn_and_of_mann_and_whitney(levels: int) -> None:
    draw = np.random.default_rng(levels)
    for _ in range(5):
        values = draw.integers(0, levels, 300).astype(float)
        inside = draw.random(300) < 0.2
        found = float(localisation.auc(one(list(values)), one(list(inside)), one(list(~inside))))
        assert found == pytest.approx(roc_auc_score(inside, values), abs=1e-12)
        u = mannwhitneyu(values[inside], values[~inside]).statistic
        assert found == pytest.approx(u / (inside.sum() * (~inside).sum()), abs=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_a_unit_of_area_scores_as_that_many_tied_pixels(name: str) -> None:
    measure = localisation.MEASURES[name].score
    inside, outside = one([2, 0, 1, 1]), one([0, 2, 1, 1])
    values = one([1, 4, 3, 2])
    pixels = values.repeat_interleave(2, 1)
    within = one([1, 1, 0, 0, 1, 0, 0, 1])
    assert float(measure(values, inside, outside)) == pytest.approx(
        float(measure(pixels, within, 1 - within)), abs=1e-15)


def test_the_last_unit_counts_by_the_fraction_that_still_fits() -> None:
    inside, outside = one([0.5, 1.0, 0.0]), one([0.5, 0.0, 1.0])
    # 1.5 of area are taken: the first cell whole and half of the second.
    assert float(localisation.rank_accuracy(one([3, 2, 1]), inside, outside)) == (0.5 + 0.5) / 1.5


@pytest.mark.parametrize("name", NAMES)
def test_pixels_of_unknown_truth_count_neither_way(name: str) -> None:
    draw = np.random.default_rng(4)
    # Below 0 where that is evidence too, so that nothing at all would be the peak.
    maps = draw.random((6, 6)) - (0 if name == "mass-inside" else 2)
    mask = (draw.random((6, 6)) < 0.3).astype(np.uint8)
    mask[:, 3] = 255
    known = scored(name, toy(np.delete(maps, 3, 1), np.delete(mask, 3, 1))).value
    maps[:, 3] = 99.0
    assert scored(name, toy(maps, mask)).value == pytest.approx(known, abs=1e-11)
    maps[:, 3] = np.nan
    assert scored(name, toy(maps, mask)).value == pytest.approx(known, abs=1e-11)


def test_every_part_of_the_mask_is_the_object() -> None:
    maps, mask = torch.rand(4, 4), torch.zeros(4, 4)
    mask[:2] = 1
    parts = mask.clone()
    parts[0] = 7
    for name in (*NAMES, "mask-area"):
        assert scored(name, toy(maps, mask)).value == scored(name, toy(maps, parts)).value


@pytest.mark.parametrize("name", NAMES)
def test_degenerate_maps_and_masks_are_nan_with_a_reason(name: str) -> None:
    sound, object_ = torch.rand(4, 4), torch.eye(4)
    nan = sound.clone()
    nan[1, 2] = torch.nan
    cases = {"constant map": (torch.ones(4, 4), object_), "NaN in the map": (nan, object_),
             "empty mask": (sound, torch.zeros(4, 4))}
    for reason, case in cases.items():
        found = scored(name, toy(*case))
        assert np.isnan(found.value[0])
        assert found.reason == (reason,)
    assert scored(name, toy(torch.zeros(4, 4), object_)).reason == ("constant map",)
    assert scored(name, toy(sound, torch.full((4, 4), 255))).reason == ("empty mask",)


def test_a_mask_that_covers_all_leaves_no_auc() -> None:
    sample = toy(torch.rand(4, 4), torch.ones(4, 4))
    assert scored("auc", sample).reason == ("the mask leaves no background",)
    for name in ("pointing-game", "mass-inside", "rank-accuracy", "mask-area"):
        assert scored(name, sample).value[0] == 1


def test_a_map_without_positive_evidence_has_no_mass() -> None:
    sample = toy(-torch.rand(4, 4), torch.eye(4))
    assert scored("mass-inside", sample).reason == ("no positive evidence",)
    assert scored("auc", sample).reason == (None,)


def test_an_even_map_would_get_the_area_of_the_object_as_mass() -> None:
    sample = toy(torch.ones(4, 4), torch.eye(4))
    assert scored("mask-area", sample).value[0] == 0.25
    inside, outside = localisation.areas(sample.batch.mask)  # type: ignore[arg-type]
    even = torch.ones(1, 16).double()
    for name in ("mass-inside", "pointing-game", "rank-accuracy"):
        measure = localisation.MEASURES[name].score
        assert float(measure(even, inside.flatten(1), outside.flatten(1))) == 0.25


@pytest.mark.parametrize("name", NAMES)
def test_a_score_depends_neither_on_its_batch_nor_on_scale_or_colour(name: str) -> None:
    batch = planted(7, 1)
    sample = explained(Additive(), batch, noise)
    whole = scored(name, sample).value
    for i in range(7):
        alone = explained(Additive(), batch[[i]], noise)
        assert np.array_equal(scored(name, alone).value, whole[[i]])
    scale = torch.tensor([1e-6, 1.0, 3.0, 7.0, 1e3, 1e6, 0.1])[:, None, None].double()
    larger = replace(sample, maps=sample.maps.double() * scale)
    assert np.allclose(scored(name, larger).value, whole, atol=1e-9, rtol=0)
    colour = replace(sample, batch=replace(batch, x=batch.x.expand(-1, 3, -1, -1)))
    assert np.array_equal(scored(name, colour).value, whole)


@pytest.mark.parametrize("name", NAMES)
def test_a_flawed_map_touches_no_other_sample(name: str) -> None:
    sample = explained(Additive(), planted(4, 1), noise)
    flawed = sample.maps.clone()
    flawed[1] = torch.nan
    flawed[2] = 0
    found = scored(name, replace(sample, maps=flawed))
    assert np.array_equal(found.value[[0, 3]], scored(name, sample).value[[0, 3]])
    assert found.reason == (None, "NaN in the map", "constant map", None)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("n", [3, 64])
def test_the_known_answer_holds_for_grey_and_colour(name: str, n: int) -> None:
    for channels in (1, 3):
        found = list(known_answer(plugins.metrics[name], channels=channels, n=n))
        # Three noise maps may all miss the object; the order wants a mean over many.
        wanted = [f for f in found if n == 64 or "noise" not in f.name]
        assert wanted
        assert all(f.ok for f in wanted), [f for f in wanted if not f.ok]


@pytest.mark.parametrize("name", NAMES)
def test_the_oracle_beats_its_inverse_alone_too(name: str) -> None:
    batch = planted(1, 3)
    right, wrong = (scored(name, explained(Additive(), batch, who)).value
                    for who in (oracle, inverse))
    assert right[0] == 1
    assert wrong[0] < 0.05
