"""What the board tells beside the numbers is what one computes by hand."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench import board, checks, results, run, store, verdicts
from bench.page import terminal
from bench.panel import Panel

RANKED = ("softcam", "gradcam", "gradcam@softcam", "softcam-lasso", "gradcam@softcam-lasso", "twin",
          "noise", "edges")


def rows(frame, **where):
    for column, value in where.items():
        frame = frame[frame[column] == value]
    return frame


def cell(frame, **where):
    assert len(rows(frame, **where)) == 1, where
    return rows(frame, **where).iloc[0]


def right_by_hand(found, dataset, names):
    """seed -> the images that all the named get right."""
    samples = rows(found.samples, dataset=dataset)
    samples = samples[samples["contestant"].isin(names)]
    right = samples["prediction"] == samples["label"]
    alike = right.groupby([samples["seed"], samples["key"]]).all()
    return {seed: set(alike[seed][alike[seed]].index) for seed in alike.index.levels[0]}


def test_the_common_images_are_those_that_every_ranked_network_gets_right(found, ranked):
    right = right_by_hand(found, "shapes", RANKED)
    for seed, keys in right.items():
        row = cell(ranked.subset, dataset="shapes", seed=seed)
        assert (row["n_right"], row["n_images"]) == (len(keys), 24)
        assert 0 < len(keys) < 24
    for name in ("softcam", "noise", "oracle"):  # a ceiling is shown, its network is no other
        scores = rows(found.scores, dataset="shapes", contestant=name, metric="correlation")
        means = [rows(scores, seed=seed)[rows(scores, seed=seed)["key"].isin(keys)]["value"].mean()
                 for seed, keys in right.items()]
        row = cell(ranked.common, dataset="shapes", contestant=name, metric="correlation")
        assert row["mean"] == pytest.approx(np.mean(means), abs=1e-12)
        assert row["n_images"] == len(set.union(*right.values()))
        assert np.isnan(row["rank"]) == (name == "oracle")
    assert not rows(ranked.common, family="classifier").size
    assert cell(ranked.common, dataset="shapes", contestant="softcam", metric="dice")["rank"] == 1


def test_without_a_common_image_nothing_is_estimated_on_them(found):
    wrong = found.samples.assign(prediction=found.samples["label"] + 1)
    made = board.rank(replace(found, samples=wrong))
    assert (made.subset["n_right"] == 0).all()
    assert made.common["mean"].isna().all()
    assert made.common["rank"].isna().all()
    assert (made.common["n_images"] == 0).all()
    assert made.estimates["rank"].notna().any()


def test_common_images_of_no_contestant_are_none(found):
    common, subset = checks.right_by_all(found, Panel.of(found, "shapes"), [])
    assert not common.any()
    assert {row["n_right"] for row in subset} == {0}


@pytest.mark.parametrize(("name", "verdict", "against"), [
    ("softcam", "passes", None), ("gradcam", "passes", None),
    ("gradcam@softcam", "not told apart from noise", "noise"),
    ("twin", "fails: equal to noise", "noise")])
def test_randomisation_is_passed_or_failed_beside_its_number(ranked, name, verdict, against):
    for frame, where in ((ranked.verdicts, {"family": "randomisation"}),
                         (ranked.sanity, {"metric": "mprt"})):
        row = cell(frame, dataset="shapes", contestant=name, **where)
        assert row["verdict"] == verdict
        assert (row["against"] if against else None) == against
    assert np.isnan(cell(ranked.estimates, dataset="shapes", contestant=name,
                         metric="mprt")["rank"])


def test_randomisation_ranks_nobody(ranked):
    assert "randomisation" not in set(ranked.families["family"])
    assert rows(ranked.estimates, family="randomisation")["rank"].isna().all()
    assert rows(ranked.common, family="randomisation")["rank"].isna().all()
    assert "randomisation" not in set(ranked.tracks["family"])


@pytest.mark.parametrize(("low", "high", "reads", "verdict"), [
    (-0.5, -0.1, "better", "passes"), (0.1, 0.2, "worse", "fails: worse than noise"),
    (0.0, 0.0, "not told apart", "fails: equal to noise"),
    (-0.1, 0.0, "not told apart", "not told apart from noise")])
def test_a_sanity_check_reads_its_interval(low, high, reads, verdict):
    metric = {"name": "mprt", "title": "MPRT", "track": "proven", "family": "randomisation",
              "better": "lower", "needs": ["explain", "randomise"]}
    difference = {"metric": "mprt", "contestant": "a", "control": "noise", "low": low,
                  "high": high, "mean": (low + high) / 2, "reads": reads}
    (row,) = verdicts.sanity("d", [metric], ["a"], {"noise": {}}, [difference])
    assert row["verdict"] == verdict
    (row,) = verdicts.verdicts("d", [metric], ["a"], {"noise": {}}, [difference])
    assert row["verdict"] == verdict


def test_the_worst_check_decides_the_family(ranked):
    metrics = [{"name": name, "title": name, "track": "proven", "family": "randomisation",
                "better": "lower", "needs": ["explain", "randomise"]} for name in "xy"]
    unsure = {"metric": "x", "contestant": "a", "control": "noise", "low": -1.0, "high": 0.1,
              "mean": -0.4, "reads": "not told apart"}
    equal = {**unsure, "metric": "y", "low": 0.0, "high": 0.0, "mean": 0.0}
    (row,) = verdicts.verdicts("d", metrics, ["a"], {"noise": {}}, [unsure, equal])
    assert (row["verdict"], row["metric"]) == ("fails: equal to noise", "y")
    assert row["detail"] == "x: not told apart from noise; y: equal to noise"


def test_a_check_of_the_class_counts_only_the_controls_that_ignore_it():
    controls = {"noise": {"classwise": False}, "random-network": {"classwise": True}, "old": {}}
    for family, needs, against in (
            ("randomisation", ["explain"], ["noise", "old"]),
            ("randomisation", ["explain", "randomise"], list(controls)),
            ("localisation", ["mask"], list(controls))):
        assert verdicts.opponents({"family": family, "needs": needs}, controls) == against


def test_last_digits_tell_no_two_maps_apart(found):
    panel = Panel.of(found, "shapes")
    value = panel.value["mprt"].copy()
    value[panel.names.index("twin")] += 1e-15 * np.arange(24)
    (row,) = replace(panel, value={"mprt": value}).differences(
        {"name": "mprt", "better": "lower"}, [("twin", "noise")])
    assert row["low"] == row["high"] == 0
    assert row["reads"] == "not told apart"


def test_a_metric_with_a_defect_is_shown_and_judges_nobody(ranked):
    broken = rows(ranked.estimates, metric="quantus/Completeness")
    assert rows(broken, contestant="softcam")["mean"].notna().all()
    assert broken["rank"].isna().all()
    assert "axiomatic" not in {*ranked.families["family"], *ranked.verdicts["family"]}
    for frame in (ranked.differences, ranked.effects):
        assert "quantus/Completeness" not in set(frame["metric"])


def test_gauges_are_in_no_frame_that_compares(ranked):
    gauges = {"ceiling/pointing", "ood/mean", "data-processing/pixel-flipping"}
    assert set(ranked.gauges["metric"]) == gauges
    for name in ("estimates", "common", "differences", "effects"):
        assert not gauges & set(getattr(ranked, name)["metric"]), name
    for name in ("families", "verdicts", "tracks"):
        assert "gauge" not in set(getattr(ranked, name)["family"]), name


def test_tracks_that_swap_two_of_six_have_the_tau_of_one_swap(ranked):
    row = cell(ranked.tracks, dataset="shapes", family="faithfulness")
    assert row["tau"] == pytest.approx(1 - 2 * 1 / 15)  # one of fifteen pairs is discordant
    assert (row["n_contestants"], row["n_swaps"]) == (6, 1)
    swap = cell(ranked.swaps, dataset="shapes", family="faithfulness")
    assert (swap["above"], swap["below"], swap["sure"]) == ("gradcam@softcam", "gradcam", True)


def placed(track, **ranks):
    return [{"track": track, "family": "f", "contestant": name, "rank": rank,
             "rank_low": low, "rank_high": high} for name, (rank, low, high) in ranks.items()]


def test_tracks_are_compared_by_hand():
    one = placed("proven", a=(1, 1, 1), b=(2, 2, 2), c=(3, 3, 4), noise=(4, 3, 4))
    two = placed("quantus", a=(2, 2, 2), b=(1, 1, 1), c=(3, 3, 3), noise=(4, 4, 4))
    (row,), (swap,) = checks.tracks("d", one + two, ["a", "b", "c"], "proven", "quantus")
    assert row == {"dataset": "d", "family": "f", "tau": pytest.approx(1 / 3),
                   "n_contestants": 3, "n_swaps": 1}
    assert swap == {"dataset": "d", "family": "f", "above": "a", "below": "b", "sure": True}
    two = placed("quantus", a=(2, 1, 2), b=(1, 1, 2), c=(3, 3, 3))
    _, (swap,) = checks.tracks("d", one + two, ["a", "b", "c"], "proven", "quantus")
    assert not swap["sure"]
    tied = placed("quantus", a=(2, 1, 3), b=(2, 1, 3), c=(2, 1, 3))
    (row,), swaps = checks.tracks("d", one + tied, ["a", "b", "c"], "proven", "quantus")
    assert np.isnan(row["tau"])
    assert not swaps
    assert checks.tracks("d", one, ["a", "b", "c"], "proven", "quantus") == ([], [])


def test_a_blurred_copy_that_scores_better_is_flagged(found, ranked):
    flagged = rows(ranked.processing, dataset="shapes", metric="pixel-flipping", flagged=True)
    assert {*flagged["contestant"]} == {"softcam", "softcam-lasso", "gradcam", "twin"}
    assert set(flagged["kernel"]) == {"σ = 0.125"}
    row = cell(ranked.processing, dataset="shapes", contestant="softcam", kernel="σ = 0.125")
    scores = rows(found.scores, dataset="shapes", contestant="softcam",
                  metric="data-processing/pixel-flipping")
    by_hand = np.mean([np.stack(rows(scores, seed=seed)["curve"])[:, 3].mean()
                       for seed in range(3)])
    assert row["mean"] == pytest.approx(by_hand, abs=1e-12)
    assert 0 < row["low"] < row["mean"] < row["high"]
    lost = rows(ranked.processing, contestant="softcam", kernel="σ = 0.0312")
    assert (lost["high"] < 0).all()
    assert not lost["flagged"].any()


def test_the_gauge_of_an_operator_has_a_row_a_network(ranked):
    gauge = rows(ranked.gauges, dataset="shapes", metric="ood/mean")
    assert list(gauge["contestant"]) == ["softcam", "gradcam", "softcam-lasso"]
    curve = rows(ranked.curves, dataset="shapes", metric="ood/mean", contestant="gradcam")
    assert list(curve["at"]) == [25, 50, 75, 100]
    assert set(curve["axis"]) == {"% of the image removed"}
    np.testing.assert_allclose(curve["mean"] / curve["mean"].iloc[-1], [0.25, 0.5, 0.75, 1])
    assert rows(gauge, contestant="gradcam")["mean"].item() == pytest.approx(curve["mean"].mean())


def test_a_ceiling_stands_at_the_grid_of_its_contestant(ranked):
    row = cell(ranked.gauges, dataset="shapes", metric="ceiling/pointing", contestant="softcam")
    assert list(row[["mean", "low", "high"]]) == pytest.approx([0.9, 0.9, 0.9])
    assert row["grid"] == "8 × 8"
    assert "ceiling/pointing" not in set(rows(ranked.gauges, dataset="letters")["metric"])


def test_a_curve_ends_where_the_map_is_coarser_than_the_rung(ranked):
    curve = rows(ranked.curves, dataset="shapes", metric="fair/pointing", contestant="softcam")
    assert list(curve["at"]) == [2, 4, 8]
    whole = cell(ranked.estimates, dataset="shapes", metric="fair/pointing", contestant="softcam")
    np.testing.assert_allclose(curve["mean"], whole["mean"] * np.array([1.5, 1.25, 1]))
    np.testing.assert_allclose(curve["low"].iloc[-1], whole["low"])
    steps = rows(ranked.curves, metric="pixel-flipping", dataset="letters", contestant="noise")
    assert list(steps["at"]) == [0, 25, 50, 75, 100]


@pytest.mark.parametrize(("track", "name", "params", "expected"), [
    ("fair", "fair/x", {"ladder": [4, 7], "steps": 3}, ("cells per side", [4, 7])),
    ("proven", "road", {"percentages": [10, 90]}, ("% of the image removed", [10, 90])),
    ("proven", "flipping", {"steps": 2}, ("% of the image removed", [0, 50, 100])),
    ("quantus", "quantus/PixelFlipping", {"steps": 2}, None),
    ("proven", "data-processing/road", {"percentages": [10, 90], "sigmas": [1, 2]}, None),
    ("proven", "mprt", {"draws": 3, "stages": 2}, ("stages drawn anew", [1, 2])),
    ("proven", "dice", {}, None)])
def test_a_curve_has_the_axis_that_its_parameters_tell(track, name, params, expected):
    assert checks.axis({"track": track, "name": name, "params": params}) == expected


def test_a_curve_of_another_length_than_its_axis_is_left_out(found):
    panel = Panel.of(found, "shapes")
    assert set(panel.curves(found, {"pixel-flipping": 5, "ood/mean": 4})) == {
        "pixel-flipping", "ood/mean"}
    assert set(panel.curves(found, {"pixel-flipping": 4, "dice": 3})) == set()


def test_a_curve_of_a_network_with_fewer_stages_ends_sooner(found):
    panel = Panel.of(found, "shapes")
    whole = panel.curves(found, {"pixel-flipping": 5})["pixel-flipping"]
    padded = panel.curves(found, {"pixel-flipping": 7}, {"pixel-flipping"})["pixel-flipping"]
    np.testing.assert_array_equal(padded[..., :5], whole)
    assert np.isnan(padded[..., 5:]).all()
    assert panel.curves(found, {"pixel-flipping": 4}, {"pixel-flipping"}) == {}


def test_proofs_and_batteries_are_on_the_board_and_may_lack(found, ranked):
    assert ranked.proofs["pixel-flipping"]["badge"] == "proven"
    assert "dice" not in ranked.proofs
    assert ranked.batteries[0]["changed"] == ["pixel-flipping"]
    plan = {key: value for key, value in found.plan.items() if key not in ("proofs", "batteries")}
    bare = board.rank(replace(found, plan=plan))
    assert bare.proofs == {}
    assert bare.batteries == ()


def test_a_proof_of_other_parameters_is_none(found, tmp_path):
    moved = Path(shutil.copytree(found.folder, tmp_path / "synthetic"))
    plan = store.read_json(moved / "plan.json")
    next(m for m in plan["metrics"] if m["name"] == "pixel-flipping")["params"]["steps"] = 5
    store.write_json(moved / "plan.json", plan)
    assert "pixel-flipping" not in results.read(moved).plan["proofs"]


A100 = {"device": "cuda (A100)", "versions": {"python": "3.11.9", "torch": "2.8.0", "driver": "1"}}


def made(found, change):
    """The results with other facts of some runs: `change` gives them by contestant and seed."""
    info = [{**run["info"], **change(run["contestant"], run["seed"])}
            for run in found.runs.to_dict("records")]
    return replace(found, runs=found.runs.assign(info=info))


def test_what_was_made_on_one_machine_is_one_row_and_no_warning(found):
    (row,) = checks.makings(found, "shapes", RANKED)
    assert (row["device"], row["versions"]) == ("cpu", "")
    assert row["contestants"] == ", ".join(RANKED)
    assert row["n_runs"] == 3 * len(RANKED)
    assert checks.mixed([row]) == checks.mixed([]) == []
    assert checks.makings(found, "shapes", ["foreign"]) == []  # it never ran


def test_a_comparison_that_mixes_devices_and_versions_is_told(found):
    other = made(found, lambda name, seed: A100 if name == "softcam" else {})
    one, two = checks.makings(other, "shapes", RANKED)
    assert one["contestants"] == ", ".join(RANKED[1:])
    assert one["versions"] == "quantus 0.6.0"
    assert two == {"dataset": "shapes", "device": "cuda (A100)", "versions": "driver 1",
                   "contestants": "softcam", "n_runs": 3}
    (line,) = checks.mixed([one, two])
    assert "different devices or library versions" in line
    assert line.endswith("; cuda (A100), driver 1: softcam.")
    assert len(checks.makings(other, "shapes", ["softcam"])) == 1
    assert len(checks.makings(other, "shapes", ["softcam", "noise"])) == 2


def test_a_contestant_whose_seeds_were_made_apart_is_told_with_them(found):
    newer = {"versions": {"python": "3.11.9", "torch": "2.9.0", "quantus": "0.6.0"}}
    other = made(found, lambda name, seed: newer if seed and name == "noise" else {})
    one, two = checks.makings(other, "shapes", ["softcam", "noise"])
    assert (one["contestants"], one["versions"]) == ("softcam, noise (seed 0)", "torch 2.8.0")
    assert (two["contestants"], two["versions"]) == ("noise (seed 1, 2)", "torch 2.9.0")
    assert two["device"] == one["device"] == "cpu"


@pytest.mark.parametrize(("script", "driver"), [
    ("echo 570.86.15; echo 570.86.15", "570.86.15"), ("echo no GPU; exit 9", "")])
def test_a_run_on_a_gpu_tells_its_driver_and_libraries(tmp_path, monkeypatch, script, driver):
    (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    told = run._versions.__wrapped__
    assert told("cuda")["driver"] == driver
    assert set(told("cuda")) - set(told("cpu")) == {"cuda", "cudnn", "driver"}
    assert all(isinstance(text, str) for text in told("cuda").values())


def test_the_board_the_page_and_the_terminal_warn_of_mixed_devices(found):
    ranked = board.rank(made(found, lambda name, seed: A100 if name == "softcam" else {}))
    notes = [note for note in ranked.notes if "cuda (A100)" in note]
    assert [note.partition(" made")[0] for note in notes] == [
        f"{dataset}: runs were" for dataset in ("shapes", "letters")]
    assert len(rows(ranked.makings, dataset="shapes")) == 2
    captions = [str(table.caption) for table in terminal.tables(ranked)]
    assert ["cuda (A100)" in caption for caption in captions] == [True, True]
