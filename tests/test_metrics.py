"""The one way to run a metric, and the metrics of the classifier itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from bench import plugins
from bench.measure import Explained, Scores
from bench.metrics import known, score

plugins.load()
torch.set_num_threads(1)


def sample(n: int) -> Explained:
    return known.explained(known.Convolutional(1), known.planted(n, 1), known.gradient)


def scored(name: str, explained: Explained) -> Scores:
    return score(plugins.metrics[name], explained)


def test_a_network_in_training_mode_is_refused() -> None:
    explained = sample(2)
    explained.network.train()
    with pytest.raises(ValueError, match="training mode"):
        scored("quantus/PixelFlipping", explained)


def test_every_metric_says_what_range_its_values_have() -> None:
    """Else an interval may reach further than any value can."""
    assert [name for name, one in plugins.metrics.things.items() if not one.range] == []


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
