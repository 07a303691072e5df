"""Maps that a network bought with its accuracy or calibration are shown, and not ranked."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from synthetic import build

from bench import board, gates, results, stats
from bench.comparisons import calibration_error
from bench.panel import Panel
from bench.verdicts import BOUGHT, CLASSIFIER

SOLD = ("softcam", "gradcam@softcam")
"""The contestants of one network."""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> results.Results:
    return results.read(build(tmp_path_factory.mktemp("gates"), images=24, seeds=2))


def answered(found: results.Results, **columns: object) -> results.Results:
    """The results after SOLD's network answered otherwise; values from its label and prediction."""
    samples = found.samples.copy()
    here = samples["contestant"].isin(SOLD)
    for name, value in columns.items():
        samples.loc[here, name] = value(samples[here]) if callable(value) else value
    return replace(found, samples=samples)


def gated(found: results.Results, dataset: str = "shapes") -> pd.DataFrame:
    panel = Panel.of(found, dataset)
    facts = {row["contestant"]: row["info"]["contestant"] for row in found.runs.to_dict("records")}
    rows = gates.gates(found, panel, panel.names, facts)
    return pd.DataFrame(rows, columns=list(board.COLUMNS["gates"])).set_index("contestant")


@pytest.fixture(scope="module")
def ruined(found: results.Results) -> board.Board:
    return board.rank(answered(found, prediction=lambda rows: rows["label"] + 1))


def test_accuracy_and_its_gap_are_what_one_counts(found):
    rows = gated(found)
    samples = found.samples[found.samples["dataset"] == "shapes"]
    right = (samples["prediction"] == samples["label"]).groupby(samples["contestant"]).mean()
    assert rows.loc["softcam", "accuracy"] == pytest.approx(right["softcam"])
    assert rows.loc["softcam", "twin"] == "gradcam"
    assert rows.loc["softcam", "accuracy_gap"] == pytest.approx(right["softcam"] - right["gradcam"])
    assert rows.loc["softcam", "gap_low"] < rows.loc["softcam", "gap_high"]
    assert rows.loc["gradcam@softcam", "twin"] == "gradcam"


def test_what_explains_the_twin_itself_passes_without_a_gap(found):
    rows = gated(answered(found, prediction=lambda rows: rows["label"] + 1))
    for name in ("gradcam", "twin", "noise", "edges", "oracle"):
        assert rows.loc[name, "passes"]
        assert rows.loc[name, "twin"] == ""
        assert np.isnan(rows.loc[name, "accuracy_gap"])


def test_a_network_that_lost_its_accuracy_does_not_pass(found):
    rows = gated(answered(found, prediction=lambda rows: rows["label"] + 1))
    for name in SOLD:
        assert not rows.loc[name, "passes"]
        assert rows.loc[name, "gap_high"] < -gates.MARGIN
        assert "points below that of its twin" in rows.loc[name, "detail"]
    assert rows.loc["softcam-lasso", "passes"]


def test_a_loss_that_images_do_not_prove_bars_nobody(found):
    def one_wrong_more(rows):
        plain = found.samples[(found.samples["contestant"] == "gradcam")
                              & (found.samples["dataset"].isin(rows["dataset"]))]
        answers = plain.set_index(["dataset", "seed", "key"])["prediction"]
        keys = pd.MultiIndex.from_frame(rows[["dataset", "seed", "key"]])
        same = answers.reindex(keys).to_numpy()
        return np.where(rows["key"].str.endswith("-003"), rows["label"] + 1, same)

    rows = gated(answered(found, prediction=one_wrong_more))
    assert -0.05 < rows.loc["softcam", "accuracy_gap"] < -gates.MARGIN
    assert rows.loc["softcam", "gap_high"] > -gates.MARGIN
    assert rows.loc["softcam", "passes"]


def test_calibration_bars_only_where_accuracy_is_not_higher(found):
    def as_sure_as_right(samples):
        return (samples["prediction"] == samples["label"]).astype(float)

    calibrated = replace(found, samples=found.samples.assign(
        confidence=as_sure_as_right(found.samples)))
    better = gated(answered(calibrated, confidence=0.5))
    assert better.loc["softcam", "ece_gap"] > 0.3
    assert better.loc["softcam", "accuracy_gap"] > 0
    assert better.loc["softcam", "passes"]
    plain = calibrated.samples["contestant"].isin(("gradcam", "softcam", "gradcam@softcam"))
    alike = replace(calibrated, samples=calibrated.samples.assign(
        prediction=calibrated.samples["prediction"].where(~plain, calibrated.samples["label"]),
        confidence=calibrated.samples["confidence"].where(~plain, 1.0)))
    worse = gated(answered(alike, confidence=0.5))
    assert worse.loc["softcam", "accuracy_gap"] == 0
    assert worse.loc["softcam", "ece"] == pytest.approx(0.5)
    assert not worse.loc["softcam", "passes"]
    assert "calibration error" in worse.loc["softcam", "detail"]


def test_the_calibration_of_a_draw_of_everything_is_that_of_the_images():
    generator = np.random.default_rng(3)
    confidence, right = generator.random((2, 40)), (generator.random((2, 40)) < 0.7) * 1.0
    confidence[0, :5], confidence[1, :3] = 1 / 15, (0.0, 1.0, np.nan)
    once = stats.Draws(np.ones((1, 2)), np.ones((1, 40)), ("images",))
    (found,) = gates._drawn(once, confidence, right)
    assert found == pytest.approx(np.mean(
        [calibration_error(confidence[i], right[i], bins=gates.BINS) for i in range(2)]))


def test_a_barred_contestant_is_shown_and_ranked_by_accuracy_alone(ruined):
    rows = ruined.estimates[(ruined.estimates["contestant"] == "softcam")
                            & (ruined.estimates["dataset"] == "shapes")]
    assert rows["complete"].all()
    assert rows["mean"].notna().all()
    ranked = rows[rows["rank"].notna()]
    assert set(ranked["family"]) == {CLASSIFIER}
    explaining = ruined.families[ruined.families["family"] != CLASSIFIER]
    assert "softcam" not in set(explaining["contestant"])
    assert "softcam" not in set(ruined.differences["contestant"])
    said = ruined.verdicts[ruined.verdicts["contestant"] == "softcam"]
    assert set(said["verdict"]) == {BOUGHT}
    assert set(ruined.sanity[ruined.sanity["contestant"] == "softcam"]["verdict"]) == {BOUGHT}


def test_a_barred_network_decides_neither_the_common_images_nor_a_reference(ruined):
    assert (ruined.subset["n_right"] > 0).all()
    assert "gradcam@softcam" not in set(ruined.differences["control"])


def test_notes_name_the_barred_and_why(ruined):
    (note,) = [note for note in ruined.notes if note.startswith("shapes: softcam ")]
    assert "shown and not ranked: accuracy" in note
    assert "points below that of its twin, which gradcam explains" in note


def test_gates_are_told_of_all_that_answered(ruined):
    frame = ruined.gates[ruined.gates["dataset"] == "shapes"]
    assert "partial" in set(frame["contestant"])
    assert "foreign" not in set(frame["contestant"])
    assert set(frame[~frame["passes"]]["contestant"]) == set(SOLD)
