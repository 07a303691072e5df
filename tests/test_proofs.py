"""A proof is made once, says what failed, and is another one when what it proves is."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bench import cli, plugins, proofs
from bench.measure import Explained, Metric, Scores
from bench.proofs import findings, proof
from bench.store import Cache

plugins.load()
METRIC = plugins.metrics["sparseness"]


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path)


def test_a_sound_metric_is_proven_with_all_findings_and_fits_json(cache: Cache) -> None:
    found = proof(METRIC, cache=cache)
    assert found["badge"] == "proven"
    assert found["passed"] == found["of"] == len(found["findings"]) == len(list(findings(METRIC)))
    assert found["failed"] == []
    assert json.loads(json.dumps(found)) == found


def test_a_proof_is_made_once_and_is_the_same_from_the_cache(cache: Cache) -> None:
    calls = []

    def score(explained: Explained, **params: object) -> Scores:
        calls.append(len(explained.batch))
        return METRIC.score(explained, **params)

    metric = replace(METRIC, score=score)
    first = proof(metric, cache=cache)
    made = len(calls)
    assert made
    assert proof(metric, cache=cache) == first
    assert len(calls) == made


def test_a_wrong_direction_fails_with_a_line_for_each_finding(cache: Cache) -> None:
    found = proof(replace(METRIC, better="lower"), cache=cache)
    assert found["badge"] == "failed"
    assert found["of"] - found["passed"] == len(found["failed"]) == 2
    assert found["failed"][0].startswith("point against noise, batch of 64 (grey): point better")


def test_a_refused_metric_shows_its_defect_and_is_not_run(cache: Cache) -> None:
    def score(explained: Explained, **params: object) -> Scores:
        raise AssertionError("it was run")

    found = proof(replace(METRIC, score=score, defect="drops samples"), cache=cache)
    assert (found["badge"], found["failed"]) == ("refused", ["drops samples"])


def test_a_proof_has_another_key_for_other_parameters_versions_and_claims() -> None:
    metric = plugins.metrics["pixel-flipping"]
    others: list[Metric] = [
        metric.with_params({"steps": 8}), replace(metric, version="99"), replace(metric, holds=()),
        replace(metric, name="other")]
    assert len({proofs._key(m) for m in (metric, *others)}) == 5
    assert proofs._key(metric) == proofs._key(replace(metric))


def test_the_table_of_badges_fails_for_a_metric_that_fails(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> None:
    monkeypatch.setenv("HEATPROOF_CACHE", str(tmp_path))
    monkeypatch.setattr(plugins.metrics, "things", {
        "sparseness": METRIC, "broken": replace(METRIC, name="broken", better="lower"),
        "refused": replace(METRIC, name="refused", defect="drops samples")})
    run = CliRunner().invoke(cli.app, ["check", "metrics"])
    assert run.exit_code == 1
    assert "3 metrics: 1 proven, 1 failed, 1 refused" in run.output
    assert "drops samples" in run.output
    monkeypatch.setattr(plugins.metrics, "things", {"sparseness": METRIC})
    run = CliRunner().invoke(cli.app, ["check", "metrics", "--track", "proven"])
    assert run.exit_code == 0
    assert "1 metrics: 1 proven" in run.output


def test_one_metric_is_checked_with_its_card() -> None:
    run = CliRunner().invoke(cli.app, ["check", "sparseness"])
    assert run.exit_code == 0, run.output
    assert "".join(METRIC.formula.split()) in "".join(run.output.split())
    assert "point against noise, batch of 64 (colour)" in run.output


def test_the_table_of_mutants_fails_for_a_bug_that_is_missed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(plugins.metrics, "things", {"mass-inside": plugins.metrics["mass-inside"]})
    run = CliRunner().invoke(cli.app, ["check", "mutants"])
    assert run.exit_code == 0, run.output
    assert "7 bugs in 1 metrics, 0 missed" in run.output
