"""What is compared with Quantus is fixed by a file, counted exactly, and told as it is."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn

from bench import contest, plugins, speed
from bench.contest import Contest, Plan
from bench.core import HeatproofError
from bench.measure import Metric, Scores
from bench.metrics import score
from bench.passes import Passes

TINY = {"contestants": {"saliency": {}, "noise": {}}, "one": "saliency"}


@pytest.fixture(scope="module")
def plan() -> Plan:
    return Plan.read()


@pytest.fixture(scope="module")
def small(plan: Plan) -> Contest:
    return Contest.of(replace(plan, **TINY), plan.case["small"], 3)


def written(tmp_path, old: str, new: str):
    text = contest.FILE.read_text()
    assert old in text
    path = tmp_path / "speed.toml"
    path.write_text(text.replace(old, new))
    return path


def test_the_file_names_eight_contestants_and_one_operator(plan) -> None:
    assert len(plan.contestants) == 8
    for case in plan.case:
        for ours, theirs in plan.matches(case):
            if ours.params.get("operator", "linear") != "linear":
                assert ours.params["operator"] == plan.operator
                assert theirs.params["perturb_baseline"] == plan.operator
        assert {m.name for m in plan.lacking(case)} <= set(plugins.metrics)


@pytest.mark.parametrize(("old", "new", "says"), [
    ("[pair.road]", "[pair.raod]", "did you mean 'road'"),
    ('"quantus/ROAD"', '"quantus/Road"', "did you mean 'quantus/ROAD'"),
    ("nr_runs =", "nr_run =", "did you mean 'nr_runs'"),
    ('"$steps"', '"$stops"', "did you mean 'steps'"),
    ("saliency = {}", "salience = {}", "did you mean 'saliency'"),
    ("target = 4.0", "targets = 4.0", "did you mean 'target'"),
    ('one = "ig"', 'one = "lrp"', "contestant `one`"),
])
def test_a_wrong_name_in_the_file_is_told_in_one_line(tmp_path, old, new, says) -> None:
    with pytest.raises(HeatproofError, match=says) as raised:
        Plan.read(written(tmp_path, old, new))
    assert "\n" not in str(raised.value)


def test_both_sides_of_a_pair_get_the_same_numbers(plan) -> None:
    same = {"steps": "steps", "runs": "nr_runs", "share": "share", "draws": "nr_samples",
            "percentages": "percentages"}
    compared = set()
    for name, case in plan.case.items():
        side = case.image[1]
        for ours, theirs in plan.matches(name):
            for mine, its in same.items():
                if mine in ours.params and its in theirs.params:
                    assert ours.params[mine] == theirs.params[its] == case.numbers[mine]
                    compared.add(mine)
            if ours.name == "region-aopc":
                assert ours.params["grid"] * theirs.params["patch_size"] == side
            if ours.name.startswith("mprt"):
                assert theirs.params["skip_layers"] == (ours.params["stages"] == 1)
    assert compared == set(same)


def test_both_sides_of_a_pair_take_the_same_steps(plan, small) -> None:
    numbers = plan.case["small"].numbers
    for ours, theirs in plan.matches("small"):
        steps = {"pixel-flipping": (1, numbers["steps"]), "region-aopc": (1, numbers["grid"]**2),
                 "mprt": (0, numbers["stages"]), "mprt-top-down": (0, numbers["stages"])}
        if ours.name in steps:
            start, k = steps[ours.name]
            widths = [score(metric, small.seen("saliency")).curve.shape
                      for metric in (ours, theirs)]
            assert widths == [(3, k + start), (3, k)], ours.name


def test_road_is_called_once_with_the_whole_batch(plan, small, monkeypatch) -> None:
    import quantus

    sizes, call = [], quantus.ROAD.__call__

    def noted(self, **given):
        sizes.append(len(given["x_batch"]))
        return call(self, **given)

    monkeypatch.setattr(quantus.ROAD, "__call__", noted)
    road = next(theirs for ours, theirs in plan.matches("small") if ours.name == "road")
    value = score(road, small.seen("noise")).value
    assert sizes == [3]
    assert np.isfinite(value).all()


def test_a_repeated_pass_counts_once() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).requires_grad_(False)
    x = torch.arange(12.0).view(3, 1, 2, 2)
    with speed.distinct(net) as found:
        net(x)
        net(x[:2])                                          # both again
        net(torch.cat([x[2:], x[2:] + 1]))                  # one again, one new
        for k in (0, 0, 1):
            again = x.clone().requires_grad_()
            net(again)[:, k].sum().backward()               # two classes of three images
    assert (len(found.forward), len(found.backward)) == (4, 6)


def test_other_weights_are_another_pass_and_so_is_another_explainer() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).requires_grad_(False)
    x = torch.ones(1, 1, 2, 2)
    with speed.distinct(net) as found:
        net(x)
        net[1].weight += 1
        net(x)
        found.asked = "saliency"
        net(x)
    assert len(found.forward) == 3
    net(x + 1)
    assert len(found.forward) == 3


def test_the_floor_is_the_distinct_passes_at_the_models_own_time(small) -> None:
    def scored(explained):
        for x in (explained.batch.x, explained.batch.x, explained.batch.x + 1):
            explained.network(x)
        return Scores(np.zeros(3), (None,) * 3)

    metric = Metric("two", title="", family="faithfulness", better="lower", score=scored)
    assert speed.needed(small, [metric]) == (Passes(18, 0), Passes(6, 0))
    found = replace(MADE_UP, distinct=Passes(100, 10), forward=(0.01, 64), backward=(0.02, 16))
    assert found.floor == pytest.approx(1.2)


def test_the_battery_shares_and_a_single_metric_does_not(small) -> None:
    seen = []

    def scored(explained):
        seen.append(explained.shared)
        return Scores(np.zeros(3), (None,) * 3)

    metric = Metric("one", title="", family="faithfulness", better="lower", score=scored)
    small.battery([metric])
    score(metric, small.seen("noise"))
    assert seen[0] is seen[1] is not seen[2]


def test_a_contestants_explanations_are_counted_under_its_name(plan, small) -> None:
    again = plugins.metrics["random-logit"].with_params({"draws": 1})
    _, needs = speed.needed(small, [again])
    assert needs == Passes(3, 3)                            # saliency, another class; noise: none
    twice = replace(small, maps={**small.maps, "copy": small.maps["saliency"]},
                    explain={**small.explain, "copy": small.explain["saliency"]})
    assert speed.needed(twice, [again])[1] == Passes(6, 6)


CASE = contest.Case(title="made up", backbone="cnn", image=(1, 8, 8), device="cpu", n=10, rounds=3,
                    target=2.5, numbers={})
MADE_UP = speed.Measured(
    CASE, 10, 3, single={"road": (1.0, 2.0), "auc": (1.0, 1.5)}, battery=10.0, ready=0.1,
    quantus=30.0, apart={"symmetric-gain": 0.5}, made=Passes(1000, 10),
    distinct=Passes(900, 10), forward=(0.01, 64), backward=(0.02, 16),
    peak={"ours": (2**30, 2**29), "quantus": (2**30, 0)})


def met(found: speed.Measured) -> list[bool]:
    return [verdict.met for verdict in speed.verdicts(found, 1.15)]


def test_a_target_is_missed_when_it_is() -> None:
    assert met(MADE_UP) == [True, True, True]
    assert met(replace(MADE_UP, quantus=24.9)) == [False, True, True]
    assert met(replace(MADE_UP, single={"road": (1.0, 2.0), "auc": (2.0, 1.5)})) == [
        True, False, True]
    assert met(replace(MADE_UP, forward=(0.009, 64))) == [True, True, False]


def test_a_missed_target_is_printed() -> None:
    out = StringIO()
    slow = replace(MADE_UP, quantus=5.0, single={"auc": (2.0, 1.5)})
    speed.told(slow, Plan.read(), Console(file=out, width=200))
    lines = [line.strip() for line in out.getvalue().splitlines()]
    assert "MISSED: battery at least 2.5 times as fast as Quantus: 0.50 times" in lines
    assert "MISSED: no metric slower than Quantus's: auc 0.75 times" in lines
    assert "met: battery within 1.15 times the floor: 1.09 times" in lines


def test_a_case_is_measured_from_end_to_end(plan, monkeypatch) -> None:
    monkeypatch.setattr(speed, "peaks", lambda name, n, device: {"ours": (2, 1), "quantus": (2, 1)})
    tiny = replace(plan, **TINY, batch_sizes=(2, 4), apart={}, pair={
        name: plan.pair[name] for name in ("random-logit", "complexity")})
    found = speed.measured(tiny, "small", n=2, rounds=1)
    assert set(found.single) == {"random-logit", "complexity"}
    assert found.distinct == Passes(2, 2)
    assert min(found.battery, found.quantus, found.forward[0]) > 0
    assert found.forward[1] in (2, 4)


def test_an_unknown_case_names_the_known_ones(plan) -> None:
    with pytest.raises(HeatproofError, match="did you mean 'small'"):
        speed.report(Console(file=StringIO()), case="smal", plan=plan)
