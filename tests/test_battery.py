"""A suite asks for metrics by name, by battery, and as variants of one another."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import battery, plugins, suite
from bench.core import HeatproofError
from bench.plugins import metric
from bench.proofs import proof
from bench.store import Cache
from bench.suite_file import SuiteFile

plugins.load()


def file(**keys: object) -> SuiteFile:
    return SuiteFile(title="t", protocol="p", contestants=("noise",), seeds=(0,), dataset={},
                     **keys)  # type: ignore[arg-type]


@pytest.fixture
def batteries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "pair-1.toml").write_text("""
title = "A pair"
about = "Two metrics."
metrics = ["accuracy", "pixel-flipping", "flipping-blur"]
[metric."pixel-flipping"]
steps = 16
[metric."flipping-blur"]
metric = "pixel-flipping"
operator = "blur"
""")
    monkeypatch.setattr(battery, "FOLDER", tmp_path)
    return tmp_path


def test_a_battery_brings_its_metrics_and_their_parameters(batteries: Path) -> None:
    found = [ask.metric() for ask in battery.asked(file(batteries=("pair-1",)), "here")]
    assert [one.name for one in found] == ["accuracy", "pixel-flipping", "flipping-blur"]
    assert [one.params.get("steps") for one in found] == [None, 16, 64]


def test_a_variant_is_the_same_metric_under_a_name_and_a_title_of_its_own(batteries: Path) -> None:
    base = plugins.metrics["pixel-flipping"]
    found = battery.asked(file(batteries=("pair-1",)), "here")[2].metric()
    assert found.score is base.score
    assert found.params == {**base.params, "operator": "blur"}
    assert found.title == f"{base.title} (operator blur)"


def test_a_suite_overrides_one_parameter_of_a_battery_and_the_board_is_told(
    batteries: Path,
) -> None:
    same = file(batteries=("pair-1",))
    other = file(batteries=("pair-1",), metric={"pixel-flipping": {"steps": 8}})
    facts = [battery.facts(one, [ask.metric() for ask in battery.asked(one, "here")])[0]
             for one in (same, other)]
    assert [one["changed"] for one in facts] == [[], ["pixel-flipping"]]
    assert facts[0]["digest"] == facts[1]["digest"]


def test_a_metric_that_a_suite_and_a_battery_name_is_asked_for_once(batteries: Path) -> None:
    asked = battery.asked(file(metrics=("accuracy",), batteries=("pair-1",)), "here")
    assert [ask.name for ask in asked].count("accuracy") == 1


def test_an_unknown_battery_is_told(batteries: Path) -> None:
    with pytest.raises(HeatproofError, match="did you mean 'pair-1'"):
        battery.asked(file(batteries=("pair-2",)), "here")


def test_a_refused_metric_is_told_with_its_defect_and_runs_only_by_force(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(plugins.metrics, "things", dict(plugins.metrics.things))
    monkeypatch.setattr(plugins.metrics, "origins", dict(plugins.metrics.origins))
    metric("vacuous", title="Vacuous", family="complexity", better="higher",
           defect="it says 1 of everything.")(lambda explained: None)  # type: ignore[arg-type,return-value]
    with pytest.raises(HeatproofError, match=r"it says 1 of everything\..*force = true"):
        battery.asked(file(metrics=("vacuous",)), "here")
    (ask,) = battery.asked(
        file(metrics=("vacuous",), metric={"vacuous": {"force": True}}), "here")
    assert ask.metric().defect


def test_a_suite_without_a_metric_is_refused(tiny: Path) -> None:
    lines = tiny.read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("metrics"))
    end = next(i for i, line in enumerate(lines[start:], start) if line.rstrip().endswith("]"))
    text = "\n".join([*lines[:start], *lines[end + 1:]])
    tiny.write_text(text[:text.index("[metric")] + text[text.index("[dataset"):])
    with pytest.raises(HeatproofError, match="neither metrics nor batteries"):
        suite.read(str(tiny))


@pytest.mark.parametrize("name", list(battery.batteries()))
def test_every_battery_names_metrics_that_exist(name: str) -> None:
    found = [ask.metric() for ask in battery.asked(file(batteries=(name,)), name)]
    assert found
    assert not [one.name for one in found if one.defect]


RELEASED = {
    "cross-model-1": "12dc175071ee04bd5f23", "fair-7-1": "82460fd489a5fafa4e12",
    "fair-8-1": "d6991c32f0340efb48df", "gauges-1": "4b1e62f2584b86fa8fd8",
    "gauges-quick-1": "9833dd0073f0777254dc", "papers-1": "1f237e78070fafd7e4bc",
    "proven-1": "6e7c38a2775138f89a3d", "proven-quick-1": "3aa64c39f4436ec5fbf8",
    "quantus-1": "b09d30b8ac074ddcbd6d", "quantus-quick-1": "766a06b2c3639b84c854",
    "removal-1": "c959a5ede3d6a1558bae",
}
"""What each battery measures, by a hash of its metrics' versions and parameters."""


@pytest.mark.parametrize("name", list(battery.batteries()))
def test_a_battery_never_changes_what_it_measures(name: str) -> None:
    # It failed? Then a number would mean something else under an old name: add a new version.
    asked = file(batteries=(name,))
    metrics = [ask.metric() for ask in battery.asked(asked, name)]
    assert battery.facts(asked, metrics)[0]["digest"] == RELEASED[name]


def test_the_removal_measures_are_taken_with_three_operators_at_least() -> None:
    asked = file(batteries=("proven-1", "removal-1"))
    metrics = [ask.metric() for ask in battery.asked(asked, "here")]
    for base in ("symmetric-gain", "region-aopc"):
        operators = {one.params["operator"] for one in metrics
                     if one.name.partition("/")[0] == base}
        assert operators >= {"mean", "blur", "linear"}, base


LINEAR = ("symmetric-gain/linear", "region-aopc/linear")
"""Their operator solves a system for each step: ten seconds and more, so the slow lane's."""


@pytest.mark.parametrize("name", ["removal-1", "cross-model-1", "proven-quick-1"])
def test_what_a_battery_asks_for_is_proven_with_its_parameters(name: str, tmp_path: Path) -> None:
    found = {ask.name: proof(ask.metric(), cache=Cache(tmp_path))["failed"]
             for ask in battery.asked(file(batteries=(name,)), name) if ask.name not in LINEAR}
    assert found
    assert not {name: failed for name, failed in found.items() if failed}


@pytest.mark.slow
@pytest.mark.parametrize("name", LINEAR)
def test_what_is_removed_by_a_linear_system_is_proven_too(name: str, tmp_path: Path) -> None:
    (metric,) = (ask.metric() for ask in battery.asked(file(batteries=("removal-1",)), "removal-1")
                 if ask.name == name)
    assert not proof(metric, cache=Cache(tmp_path))["failed"]
