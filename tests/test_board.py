"""The board of a results folder with known truth says what the truth is."""

from __future__ import annotations

import math
import runpy
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench import board, comparisons, results, stats, store
from bench.core import HeatproofError
from bench.measure import ends
from bench.panel import Panel

synthetic = runpy.run_path(str(Path(__file__).with_name("synthetic.py")))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return synthetic["build"](tmp_path_factory.mktemp("results"))


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return synthetic["build"](tmp_path_factory.mktemp("small"), seeds=2, images=4)


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
    assert order == [1, 3, 4, 8]


def test_the_folds_of_a_seed_are_one_and_their_patients_are_what_is_drawn(folder):
    found = results.read(folder)
    here = found.runs["dataset"] == "shapes"
    fold = dict(zip(found.runs["run"], found.runs["seed"], strict=True))

    def folded(frame):
        # Three seeds become three folds of one: every run has images of its own.
        return frame.assign(seed=0, key=frame["key"] + frame["run"].map(fold).map("-{}".format))

    patient = found.samples["run"].map(fold).map("patient {}".format)
    changed = replace(
        found, scores=folded(found.scores), samples=folded(found.samples).assign(group=patient),
        runs=found.runs.assign(fold=found.runs["seed"], seed=0))
    assert here.any()
    made = Panel.of(changed, "shapes")
    values = made.value["pixel-flipping"]
    assert values.shape[1] == 1
    assert values.shape[2] == 3 * Panel.of(found, "shapes").value["pixel-flipping"].shape[2]
    assert np.isfinite(values[made.names.index("softcam")]).all()
    assert made.groups == 3
    assert len({tuple(row) for row in made.drawn.images.T}) == 3  # a patient is drawn whole
    assert any("3 patients" in note for note in board.rank(changed).notes)


def test_what_cannot_be_told_apart_has_overlapping_rank_intervals(ranked):
    for name in ("twin", "edges"):
        row = cell(ranked.families, dataset="shapes", contestant=name, family="faithfulness",
                   track="proven")
        assert (row["rank_low"], row["rank_high"]) == (6, 7)


def test_verdicts_say_who_beats_the_controls(ranked):
    def verdict(name, family="faithfulness"):
        return cell(ranked.verdicts, dataset="shapes", contestant=name, family=family,
                    track="proven")["verdict"]

    assert verdict("softcam") == verdict("gradcam", "localisation") == "beats every control"
    assert verdict("twin") == "not told apart from edges"
    judged = set(ranked.verdicts["contestant"])
    assert judged == {"softcam", "softcam-lasso", "gradcam", "gradcam@softcam",
                      "gradcam@softcam-lasso", "twin"}
    assert set(ranked.verdicts["family"]) == {
        "faithfulness", "localisation", "segmentation", "randomisation"}


def test_whoever_is_worse_than_a_control_is_told_so(folder, tmp_path):
    """A control that is better than its contestants: the same numbers with other facts."""
    moved = Path(shutil.copytree(folder, tmp_path / "synthetic"))
    for path in moved.glob("*/gradcam/*/run.json"):
        run = store.read_json(path)
        run["contestant"]["control"] = True
        store.write_json(path, run)
    verdicts = board.rank(results.read(moved)).verdicts
    verdicts = verdicts[verdicts["track"] == "proven"]
    row = cell(verdicts, dataset="letters", contestant="twin", family="faithfulness")
    assert row["verdict"] == "worse than gradcam"
    assert "not told apart from edges" in row["detail"]
    row = cell(verdicts, dataset="letters", contestant="softcam", family="faithfulness")
    assert row["verdict"] == "beats every control"


@pytest.mark.parametrize("name", ["partial", "foreign"])
def test_what_is_incomplete_is_shown_and_never_ranked(ranked, name):
    rows = ranked.estimates[ranked.estimates["contestant"] == name]
    assert len(rows) == 18  # 11 metrics, of which 4 need a mask; a gauge is no estimate
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
             for name in ("softcam", "gradcam@softcam", "softcam-lasso", "gradcam@softcam-lasso",
                          "gradcam", "twin", "edges")}
    assert ranks["softcam"] == ranks["gradcam@softcam"]
    assert ranks["softcam-lasso"] == ranks["gradcam@softcam-lasso"]
    assert ranks["gradcam"] == ranks["twin"] == ranks["edges"]
    assert set(ranks.values()) == {1, 2, 3}


def test_the_two_effects_are_paired_differences_with_the_right_sign(ranked):
    effects = ranked.effects[ranked.effects["dataset"] == "shapes"]
    model = cell(effects, effect="model", metric="correlation", minuend="gradcam@softcam")
    assert model["subtrahend"] == "gradcam"
    assert model["low"] < 0.10 < model["high"]
    own = cell(effects, effect="explanation", metric="pixel-flipping", minuend="softcam")
    assert own["subtrahend"] == "gradcam@softcam"
    assert own["low"] < -0.10 < own["high"] < 0
    assert own["reads"] == "better"


def test_a_difference_does_not_care_how_hard_the_images_are(folder):
    panel = Panel.of(results.read(folder), "shapes")
    metric, pair = {"name": "correlation", "better": "higher"}, [("softcam", "noise")]
    (before,) = panel.differences(metric, pair)
    hard = panel.value["correlation"] + 10 * np.arange(24)
    (after,) = replace(panel, value={"correlation": hard}).differences(metric, pair)
    for key in ("mean", "low", "high", "superiority"):
        assert after[key] == pytest.approx(before[key], abs=1e-6)


def test_a_difference_is_of_the_samples_that_both_have(folder):
    panel = Panel.of(results.read(folder), "shapes")
    metric, pair = {"name": "correlation", "better": "higher"}, [("softcam", "noise")]
    lost = panel.value["correlation"].copy()
    for name, column in (("softcam", 0), ("noise", 1)):
        lost[panel.names.index(name), :, column] = np.nan
    lost[:, :, 2:4] = np.nan
    (row,) = replace(panel, value={"correlation": lost}).differences(metric, pair)
    gap = lost[panel.names.index("softcam")] - lost[panel.names.index("noise")]
    assert row["mean"] == pytest.approx(np.nanmean(gap))
    assert row["low"] < row["mean"] < row["high"] < 1
    assert row["superiority"] == (gap[np.isfinite(gap)] > 0).mean()


def effects_of(folder, tmp_path, **facts):
    """The effects on letters after the facts of some contestants were changed."""
    moved = Path(shutil.copytree(folder, tmp_path / "synthetic"))
    for path in moved.glob("*/*/*/run.json"):
        run = store.read_json(path)
        run["contestant"] |= facts.get(run["contestant"]["name"].replace("@", "_"), {})
        store.write_json(path, run)
    found = board.rank(results.read(moved)).effects
    rows = found[(found["dataset"] == "letters") & (found["metric"] == "correlation")]
    return set(zip(rows["effect"], rows["minuend"], rows["subtrahend"], strict=True))


MODEL = ("model", "gradcam@softcam", "gradcam")
LASSO = ("model", "gradcam@softcam-lasso", "gradcam")
OWN = ("explanation", "softcam", "gradcam@softcam")
OWN_LASSO = ("explanation", "softcam-lasso", "gradcam@softcam-lasso")


def test_effects_tell_the_variants_of_one_method_apart(small, tmp_path):
    assert effects_of(small, tmp_path) == {MODEL, LASSO, OWN, OWN_LASSO}


def test_a_network_without_a_twin_shows_no_model_effect(small, tmp_path):
    found = effects_of(small, tmp_path, gradcam_softcam={"twin": ""})
    assert found == {LASSO, OWN, OWN_LASSO}


def test_a_model_effect_needs_the_same_explainer_with_the_same_parameters(small, tmp_path):
    found = effects_of(small, tmp_path, gradcam={"explain": {"relu": True}})
    assert found == {OWN, OWN_LASSO}


def test_a_twin_may_be_another_network_than_the_plain_one(small, tmp_path):
    other = {"trainer": "encoder", "train": {"lasso": 0.01, "depth": 2}}
    twin = {"twin": "encoder"}
    found = effects_of(small, tmp_path, gradcam=other, gradcam_softcam=twin,
                       **{"gradcam_softcam-lasso": twin})
    # A parameter that both trainings have must agree, or more than the method would differ.
    assert found == {LASSO, OWN, OWN_LASSO}


def test_two_maps_of_one_network_that_are_both_its_own_are_no_effect(small, tmp_path):
    found = effects_of(small, tmp_path, gradcam_softcam={"family": "inherent"})
    assert found == {LASSO, OWN_LASSO}


def test_the_board_shows_how_far_each_map_is_from_adding_up(ranked):
    row = cell(ranked.additivity, dataset="shapes", contestant="softcam")
    assert (row["declared"], row["holds"], row["n_runs"]) == ("mean", True, 3)
    assert row["largest"] == pytest.approx(3.6e-7)
    assert row["tolerance"] == 1e-4
    row = cell(ranked.additivity, dataset="letters", contestant="partial")
    assert (row["declared"], row["holds"], row["n_runs"]) == ("sum", True, 2)
    row = cell(ranked.additivity, dataset="shapes", contestant="gradcam")
    assert (row["declared"], row["holds"]) == ("none", None)
    assert np.isnan(row["largest"])
    assert "foreign" not in set(ranked.additivity["contestant"])


@pytest.mark.parametrize(("largest", "shown"), [(0.2, 0.2), (None, np.nan)])
def test_one_run_whose_map_does_not_add_up_is_enough(small, tmp_path, largest, shown):
    moved = Path(shutil.copytree(small, tmp_path / "synthetic"))
    path = sorted(moved.glob("shapes/softcam/*/run.json"))[1]
    run = store.read_json(path)
    run["additivity"] |= {"largest": largest, "holds": False}
    store.write_json(path, run)
    found = board.rank(results.read(moved)).additivity
    row = cell(found, dataset="shapes", contestant="softcam")
    assert row["holds"] is False
    assert np.array_equal(row["largest"], shown, equal_nan=True)
    assert cell(found, dataset="letters", contestant="softcam")["holds"] is True


def test_a_run_of_another_version_is_made_again(small, tmp_path):
    moved = Path(shutil.copytree(small, tmp_path / "synthetic"))
    path = next(moved.glob("shapes/softcam/*/run.json"))
    whole = results.Folder(path.parent)
    assert whole.is_whole(synthetic["METRICS"])
    run = store.read_json(path)
    del run["additivity"]
    store.write_json(path, run)
    assert not whole.is_whole(synthetic["METRICS"])
    with pytest.raises(HeatproofError, match=r"lacks additivity.*another version"):
        results.read(moved)


def test_where_intervals_cover_too_little_the_board_says_so(folder, monkeypatch):
    found = results.read(folder)
    monkeypatch.setattr(board.coverage, "expected", lambda seeds, units: seeds / 100 + units / 30)
    made = board.rank(found)
    row = cell(made.coverage, dataset="shapes")
    assert (row["n_seeds"], row["n_units"], row["enough"]) == (3, 24, False)
    assert any("3 seeds and 24 images are few" in note and "83 %" in note for note in made.notes)
    monkeypatch.setattr(board.coverage, "expected", lambda *_: 0.94)
    made = board.rank(found)
    assert made.coverage["enough"].all()
    assert not any("few" in note for note in made.notes)


def test_where_ranks_are_covered_too_little_the_board_says_so(small, monkeypatch):
    found = results.read(small)
    for share, said in ((0.91, True), (0.93, False)):
        monkeypatch.setattr(board.coverage, "expected_of_ranks", lambda *_, share=share: share)
        notes = " ".join(board.rank(found).notes)
        assert ("covers as little as 91 % of a rank and 91 % of a family's rank" in notes) is said


def test_rank_intervals_and_first_places_are_of_the_same_widened_draws(ranked):
    panel = ranked.panels["shapes"]
    rows = ranked.estimates[(ranked.estimates["dataset"] == "shapes")
                            & (ranked.estimates["metric"] == "correlation")].dropna(subset="rank")
    at = [panel.names.index(name) for name in rows["contestant"]]
    each = stats.ranks(panel.ranking("correlation", at), "higher")
    low, high = stats.interval(each, attained=True)
    assert (rows["rank_low"].to_numpy() == low).all()
    assert (rows["rank_high"].to_numpy() == high).all()
    np.testing.assert_allclose(rows["p_first"], comparisons.first_shares(each))
    plain = stats.interval(stats.ranks(panel.estimated("correlation").drawn[:, at], "higher"),
                           attained=True)
    assert np.sum(high - low) > np.sum(plain[1] - plain[0])


def test_one_seed_is_noted(tmp_path):
    single = board.rank(results.read(synthetic["build"](tmp_path, seeds=1, images=8)))
    assert single.resampled == {"shapes": ("images",), "letters": ("images",)}
    assert any("one seed" in note for note in single.notes)


def test_the_same_results_give_the_same_board(folder, ranked):
    again = board.rank(results.read(folder))
    for name in board.COLUMNS:
        first, second = getattr(ranked, name), getattr(again, name)
        assert first.equals(second), name
    assert np.array_equal(list(ranked.contestants), list(again.contestants))


def test_no_interval_reaches_further_than_its_metric_can(tmp_path: Path) -> None:
    made = synthetic["build"](tmp_path, images=6, seeds=2)
    free = board.rank(results.read(made)).estimates["high"]
    plan = store.read_json(made / "plan.json")
    for metric in plan["metrics"]:
        metric["range"] = "[0, 1]"
    store.write_json(made / "plan.json", plan)
    bound = board.rank(results.read(made)).estimates
    assert (free > 1).any()
    assert bound["high"].max() == 1
    assert (bound["low"].dropna() >= 0).all()


@pytest.mark.parametrize(("told", "found"), [
    ("[0, 1]", (0.0, 1.0)), ("[−1, 1] for probabilities", (-1.0, 1.0)),
    ("[0, ∞)", (0.0, math.inf)), ("(−∞, ∞)", (-math.inf, math.inf)),
    ("[0, log P]", (-math.inf, math.inf)), ("", (-math.inf, math.inf))])
def test_the_ends_of_a_metric_are_read_from_its_range(told: str, found: tuple) -> None:
    assert ends(told) == found
