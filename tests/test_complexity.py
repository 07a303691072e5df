"""Complexity: Gini index and entropy by their formulas, and no score for no evidence."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import entropy

from bench import plugins
from bench.metrics import complexity, score
from bench.metrics.known import Additive, explained, known_answer, noise, planted

NAMES = tuple(complexity.MEASURES)
plugins.load()


def test_one_unit_is_the_sparsest_and_even_shares_are_the_least_sparse() -> None:
    alone = torch.tensor([[0.0, 0.0, 5.0, 0.0]]).double()
    even = torch.full((1, 4), 0.3).double()
    assert float(complexity.gini(alone)) == 1 - 1 / 4
    assert float(complexity.gini(even)) == pytest.approx(0, abs=1e-15)
    assert float(complexity.entropy(alone)) == 0
    assert float(complexity.entropy(even)) == pytest.approx(math.log(4), abs=1e-15)


def test_gini_is_half_the_relative_mean_difference() -> None:
    values = np.random.default_rng(1).random(50)
    expected = np.abs(values[:, None] - values).mean() / (2 * values.mean())
    assert float(complexity.gini(torch.from_numpy(values)[None])) == pytest.approx(
        expected, abs=1e-14)


def test_entropy_is_that_of_scipy() -> None:
    values = np.random.default_rng(2).random((3, 50))
    values[:, 7] = 0
    assert np.allclose(complexity.entropy(torch.from_numpy(values)), entropy(values, axis=1),
                       atol=1e-13, rtol=0)


def test_no_evidence_has_no_complexity() -> None:
    assert complexity.gini(torch.zeros(1, 4)).isnan()
    assert complexity.entropy(torch.zeros(1, 4)).isnan()
    sample = explained(Additive(), planted(3, 1), noise)
    maps = sample.maps.clone()
    maps[0], maps[1] = 0, -0.5
    for name in NAMES:
        found = score(plugins.metrics[name], replace(sample, maps=maps))
        assert found.reason == ("constant map", "constant map", None)
        assert np.isnan(found.value[:2]).all()
        whole = score(plugins.metrics[name], sample)
        assert found.value[2] == whole.value[2]


@pytest.mark.parametrize("name", NAMES)
def test_the_sign_does_not_count_nor_do_scale_batch_or_colour(name: str) -> None:
    sample = explained(Additive(), planted(5, 1), noise)
    whole = score(plugins.metrics[name], sample).value
    checkers = (-1.0) ** torch.arange(16)
    for maps in (sample.maps * checkers, sample.maps * 1e6, sample.maps * 1e-6):
        other = score(plugins.metrics[name], replace(sample, maps=maps)).value
        assert np.allclose(other, whole, atol=1e-6, rtol=0)
    alone = explained(Additive(), planted(5, 1)[[4]], noise)
    assert np.array_equal(score(plugins.metrics[name], alone).value, whole[[4]])
    x = sample.batch.x.expand(-1, 3, -1, -1)
    colour = replace(sample, batch=replace(sample.batch, x=x))
    assert np.array_equal(score(plugins.metrics[name], colour).value, whole)


@pytest.mark.parametrize("name", NAMES)
def test_the_known_answer_holds(name: str) -> None:
    for channels in (1, 3):
        found = list(known_answer(plugins.metrics[name], channels=channels, n=64))
        assert found
        assert all(f.ok for f in found), [f for f in found if not f.ok]
