"""The board of a results folder with known truth says what the truth is."""

from __future__ import annotations

import runpy
import shutil
from pathlib import Path

import numpy as np
import pytest

from bench import board, results, store

synthetic = runpy.run_path(str(Path(__file__).with_name("synthetic.py")))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return synthetic["build"](tmp_path_factory.mktemp("results"))


@pytest.fixture(scope="module")
def ranked(folder):
    return board.rank(results.read(folder))


def cell(frame, **where):
    for column, value in where.items():
        frame = frame[frame[column] == value]
    assert len(frame) == 1, f"{len(frame)} rows for {where}"
    return frame.iloc[0]


def test_every_frame_has_the_columns_that_the_board_promises(ranked):
    for name, columns in board.COLUMNS.items():
        assert tuple(getattr(ranked, name).columns) == columns


@pytest.mark.parametrize("metric", ["pixel-flipping", "correlation", "pointing"])
def test_intervals_hold_the_truth_and_ranks_follow_the_direction(ranked, metric):
    truth = {name: facts[2] for name, facts in synthetic["CONTESTANTS"].items()}
    for name in ("softcam", "gradcam@softcam", "gradcam", "noise"):
        row = cell(ranked.estimates, dataset="shapes", contestant=name, metric=metric)
        expected = 1 - truth[name] if row["better"] == "lower" else truth[name]
        assert row["low"] < expected < row["high"]
        assert row["n_images"] == (21 if (name, metric) == ("gradcam", "pointing") else 24)
        assert row["n_seeds"] == 3
    order = [cell(ranked.estimates, dataset="shapes", contestant=name, metric=metric)["rank"]
             for name in ("softcam", "gradcam@softcam", "gradcam", "noise")]
    assert order == [1, 2, 3, 6]


def test_what_cannot_be_told_apart_has_overlapping_rank_intervals(ranked):
    for name in ("twin", "edges"):
        row = cell(ranked.families, dataset="shapes", contestant=name, family="faithfulness")
        assert (row["rank_low"], row["rank_high"]) == (4, 5)


def test_verdicts_say_who_beats_the_controls(ranked):
    def verdict(name, family="faithfulness"):
        return cell(ranked.verdicts, dataset="shapes", contestant=name, family=family)["verdict"]

    assert verdict("softcam") == verdict("gradcam", "localisation") == "beats every control"
    assert verdict("twin") == "not told apart from edges"
    judged = set(ranked.verdicts["contestant"])
    assert judged == {"softcam", "gradcam", "gradcam@softcam", "twin"}
    assert "classifier" not in set(ranked.verdicts["family"])


def test_whoever_is_worse_than_a_control_is_told_so(folder, tmp_path):
    """A control that is better than its contestants: the same numbers with other facts."""
    moved = Path(shutil.copytree(folder, tmp_path / "synthetic"))
    for path in moved.glob("*/gradcam/*/run.json"):
        run = store.read_json(path)
        run["contestant"]["control"] = True
        store.write_json(path, run)
    verdicts = board.rank(results.read(moved)).verdicts
    row = cell(verdicts, dataset="letters", contestant="twin", family="faithfulness")
    assert row["verdict"] == "worse than gradcam"
    assert "not told apart from edges" in row["detail"]
    row = cell(verdicts, dataset="letters", contestant="softcam", family="faithfulness")
    assert row["verdict"] == "beats every control"


@pytest.mark.parametrize("name", ["partial", "foreign"])
def test_what_is_incomplete_is_shown_and_never_ranked(ranked, name):
    rows = ranked.estimates[ranked.estimates["contestant"] == name]
    assert len(rows) == 7
    assert not rows["complete"].any()
    assert rows["rank"].isna().all()
    for frame in (ranked.families, ranked.verdicts, ranked.differences):
        assert name not in set(frame["contestant"])


def test_the_ceiling_is_estimated_and_never_ranked(ranked):
    rows = ranked.estimates[(ranked.estimates["contestant"] == "oracle")
                            & (ranked.estimates["dataset"] == "shapes")]
    assert rows["complete"].all()
    assert rows["mean"].notna().all()
    assert rows["rank"].isna().all()
    assert "oracle" not in set(ranked.families["contestant"])
    assert "oracle" not in set(ranked.differences["control"])


def test_missing_results_come_with_their_reason(ranked):
    gaps = ranked.missing
    assert cell(gaps, dataset="letters", metric="pointing")["kind"] == "skipped"
    assert "no masks" in cell(gaps, dataset="letters", metric="pointing")["reason"]
    assert cell(gaps, dataset="shapes", contestant="partial")["reason"] == "not run yet"
    unsupported = gaps[gaps["kind"] == "unsupported"]
    assert set(unsupported["contestant"]) == {"foreign"}
    assert set(unsupported["reason"]) == {"the network has no feature map"}


def test_a_skipped_metric_makes_nobody_incomplete(ranked):
    rows = ranked.estimates[ranked.estimates["dataset"] == "letters"]
    assert "pointing" not in set(rows["metric"])
    assert rows[rows["contestant"] == "softcam"]["complete"].all()


def test_a_missing_score_file_makes_a_contestant_incomplete(folder, tmp_path):
    moved = Path(shutil.copytree(folder, tmp_path / "synthetic"))
    next(moved.glob("letters/softcam/*/scores/correlation.parquet")).unlink()
    again = board.rank(results.read(moved))
    rows = again.estimates[(again.estimates["contestant"] == "softcam")]
    assert not rows[rows["dataset"] == "letters"]["complete"].any()
    assert rows[rows["dataset"] == "shapes"]["complete"].all()
    assert cell(again.missing, dataset="letters", contestant="softcam")["reason"] == (
        "not scored yet")


def test_a_run_that_the_plan_no_longer_names_is_left_out_and_noted(folder, tmp_path):
    moved = Path(shutil.copytree(folder, tmp_path / "synthetic"))
    plan = store.read_json(moved / "plan.json")
    plan["runs"] = [run for run in plan["runs"] if run["contestant"] != "twin"]
    store.write_json(moved / "plan.json", plan)
    again = board.rank(results.read(moved))
    assert "twin" not in set(again.estimates["contestant"])
    assert sum("twin" in note for note in again.notes) == 6


def test_nan_is_counted_with_its_reason(ranked):
    row = cell(ranked.nans, contestant="gradcam")
    assert (row["metric"], row["reason"], row["n"]) == ("pointing", "constant map", 9)
    assert cell(ranked.estimates, contestant="gradcam", metric="pointing")["n_nan"] == 9


def test_networks_are_ranked_once_however_many_contestants_explain_them(ranked):
    ranks = {name: cell(ranked.estimates, dataset="shapes", contestant=name,
                        metric="accuracy")["rank"]
             for name in ("softcam", "gradcam@softcam", "gradcam", "twin", "edges")}
    assert ranks["softcam"] == ranks["gradcam@softcam"]
    assert ranks["gradcam"] == ranks["twin"] == ranks["edges"]
    assert set(ranks.values()) == {1, 2}


def test_the_two_effects_are_paired_differences_with_the_right_sign(ranked):
    effects = ranked.effects[ranked.effects["dataset"] == "shapes"]
    model = cell(effects, effect="model", metric="correlation")
    assert (model["minuend"], model["subtrahend"]) == ("gradcam@softcam", "gradcam")
    assert model["low"] < 0.10 < model["high"]
    own = cell(effects, effect="explanation", metric="pixel-flipping")
    assert (own["minuend"], own["subtrahend"]) == ("softcam", "gradcam@softcam")
    assert own["low"] < -0.10 < own["high"] < 0
    assert own["reads"] == "better"
    alone = cell(ranked.estimates, dataset="shapes", contestant="softcam", metric="pixel-flipping")
    assert own["high"] - own["low"] < alone["high"] - alone["low"]


def test_few_seeds_and_one_seed_are_noted(ranked, tmp_path):
    assert any("3 seeds are few" in note for note in ranked.notes)
    single = board.rank(results.read(synthetic["build"](tmp_path, seeds=1, images=8)))
    assert single.resampled == {"shapes": ("images",), "letters": ("images",)}
    assert any("one seed" in note for note in single.notes)


def test_the_same_results_give_the_same_board(folder, ranked):
    again = board.rank(results.read(folder))
    for name in board.COLUMNS:
        first, second = getattr(ranked, name), getattr(again, name)
        assert first.equals(second), name
    assert np.array_equal(list(ranked.contestants), list(again.contestants))
