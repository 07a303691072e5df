"""The lab is proven too: it finds planted bugs in every metric that they can spoil."""

from __future__ import annotations

import pytest
import torch

from bench import plugins
from bench.measure import Scores
from bench.metrics import lab, score
from bench.metrics.mutants import MUTANTS, Mutant

plugins.load()
torch.set_num_threads(1)

METRICS = {name: metric for name, metric in plugins.metrics.items() if not metric.defect}
COSTLY = {name for name in METRICS if name.endswith("/MonotonicityCorrelation")}
QUICK = (
    "accuracy", "auc", "complexity", "fair/mass-inside", "mask-area", "mass-inside",
    "paper/average-drop", "paper/coherence-l1", "pixel-flipping", "pointing-game",
    "region-aopc", "max-sensitivity", "random-logit", "parity/Sparseness",
    "parity/Selectivity", "quantus/Sparseness",
    "segmentation/dice")
"""At least one of every track and family."""
PLANTED = pytest.mark.parametrize("mutant", MUTANTS, ids=[m.name for m in MUTANTS])


def judged(mutant: Mutant, name: str) -> None:
    """A bug is found, or the table says why it is none; never both."""
    caught, spared = mutant.caught(METRICS[name]), mutant.spared(METRICS[name])
    assert bool(caught) != bool(spared), f"caught by {caught!r}, spared since {spared!r}"


@PLANTED
@pytest.mark.parametrize("name", QUICK)
def test_a_planted_bug_is_found_or_is_none(mutant: Mutant, name: str) -> None:
    judged(mutant, name)


@pytest.mark.slow
@PLANTED
@pytest.mark.parametrize("name", sorted(set(METRICS) - set(QUICK) - COSTLY))
def test_a_planted_bug_is_found_or_is_none_in_all_others(mutant: Mutant, name: str) -> None:
    judged(mutant, name)


def test_the_quick_ones_are_of_every_track_and_family_that_is_not_slow() -> None:
    tracks = {metric.track for metric in METRICS.values()}
    assert {METRICS[name].track for name in QUICK} >= tracks - {"tuned-on-truth"}
    families = {metric.family for metric in METRICS.values()}
    assert {METRICS[name].family for name in QUICK} >= families - {"axiomatic"}


def test_the_planted_bugs_that_the_issue_names_are_all_there() -> None:
    assert [mutant.name for mutant in MUTANTS] == [
        "direction flipped", "map flipped", "constant", "first half", "dropped channel",
        "one normalisation", "mask off by one"]


def test_a_planted_bug_goes_when_its_metric_has_scored() -> None:
    metric = plugins.metrics["sparseness"]
    batch = lab.planted(6, 1)
    sample = lab.explained(lab.Additive(), batch, lab.scaled(lab.oracle))
    before: Scores = score(metric, sample)
    whole = next(mutant for mutant in MUTANTS if mutant.name == "one normalisation")
    spoilt = score(whole.plant(metric), sample)
    assert (spoilt.value != before.value).any()
    assert (score(metric, sample).value == before.value).all()
