"""Scales, comparisons across data sets and their firmness are what one computes by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import friedmanchisquare, kendalltau
from synthetic import build

from bench import board, results, standings
from bench.panel import Panel

METRICS = [
    {"name": "x", "track": "proven", "family": "faithfulness", "better": "higher", "defect": "",
     "needs": []},
    {"name": "y", "track": "proven", "family": "faithfulness", "better": "lower", "defect": "",
     "needs": []},
    {"name": "z", "track": "proven", "family": "localisation", "better": "higher", "defect": "",
     "needs": []},
]


def estimates(means, metric="x", dataset="d", better="higher", family="faithfulness"):
    """Rows of one metric; who has no mean has no rank."""
    order = sorted((m for m in means.values() if m is not None), reverse=better == "higher")
    return [{"dataset": dataset, "contestant": name, "metric": metric, "better": better,
             "family": family, "track": "proven",
             "mean": math.nan if mean is None else mean,
             "rank": math.nan if mean is None else order.index(mean) + 1.0}
            for name, mean in means.items()]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return results.read(build(tmp_path_factory.mktemp("standings"), images=16))


@pytest.fixture(scope="module")
def ranked(found):
    return board.rank(found)


def cell(frame, **where):
    for column, value in where.items():
        frame = frame[frame[column] == value]
    assert len(frame) == 1, f"{len(frame)} rows for {where}"
    return frame.iloc[0]


@pytest.mark.parametrize(("better", "means"), [
    ("higher", [0.2, 0.4, 0.6, 0.9]), ("lower", [0.8, 0.6, 0.4, 0.1])])
def test_the_scale_runs_from_the_best_control_to_the_ceiling(better, means):
    found = standings.scaled(np.array(means), [0, 1], [3], [0, 1, 2], better)
    assert found == pytest.approx([-0.4, 0, 0.4, 1])


def test_without_a_ceiling_that_is_better_the_best_found_is_the_top():
    means = np.array([0.2, 0.4, 0.6, 0.3, np.nan])
    for ceilings in ([], [3], [4]):
        found = standings.scaled(means, [0, 1], ceilings, [0, 1, 2], "higher")
        assert found[:4] == pytest.approx([-1, 0, 1, -0.5])


def test_no_scale_without_a_control_or_anything_better_than_it():
    means = np.array([0.4, 0.2])
    assert np.isnan(standings.scaled(means, [], [], [0, 1], "higher")).all()
    assert np.isnan(standings.scaled(means, [0], [], [0, 1], "higher")).all()


def test_the_board_scales_explanations_alone(ranked):
    rows = ranked.estimates[ranked.estimates["dataset"] == "shapes"]
    oracle = rows[(rows["contestant"] == "oracle") & (rows["family"] == "localisation")]
    assert (oracle["scaled"] == 1).all()
    assert rows[rows["family"].isin(("classifier", "randomisation"))]["scaled"].isna().all()
    assert rows[rows["metric"] == "quantus/Completeness"]["scaled"].isna().all()
    row = cell(rows, contestant="softcam", metric="correlation")
    control = max(cell(rows, contestant=name, metric="correlation")["mean"]
                  for name in ("noise", "edges"))
    top = cell(rows, contestant="oracle", metric="correlation")["mean"]
    assert row["scaled"] == pytest.approx((row["mean"] - control) / (top - control))


def test_shares_of_the_first_rank_sum_to_one_network_by_network(ranked):
    rows = ranked.estimates[ranked.estimates["dataset"] == "shapes"]
    shares = rows[rows["metric"] == "correlation"]["p_first"]
    assert shares.sum() == pytest.approx(1)
    assert cell(rows, contestant="softcam", metric="correlation")["p_first"] > 0.5
    assert math.isnan(cell(rows, contestant="oracle", metric="correlation")["p_first"])
    classifier = rows[rows["metric"] == "accuracy"].set_index("contestant")["p_first"]
    assert classifier["softcam"] == classifier["gradcam@softcam"]
    assert classifier[["softcam", "softcam-lasso", "gradcam"]].sum() == pytest.approx(1)


def test_friedman_is_over_data_sets_and_over_who_is_ranked_in_all():
    blocks = np.random.default_rng(0).normal(size=(12, 4)) + np.arange(4)
    rows = [row for i, block in enumerate(blocks) for row in estimates(
        {**dict(zip("abcd", block, strict=True)), "absent": None if i == 5 else 9.0},
        dataset=f"set {i}")]
    (omnibus,), placings, cliques = standings.across(rows, METRICS[:1])
    expected = friedmanchisquare(*blocks.T)
    assert (omnibus["statistic"], omnibus["p"]) == pytest.approx(
        (expected.statistic, expected.pvalue))
    assert (omnibus["n_blocks"], omnibus["powered"]) == (12, True)
    assert omnibus["method"] == (
        "Friedman over 12 blocks and 4 contestants; Wilcoxon signed-rank with Holm")
    assert {row["contestant"] for row in placings} == set("abcd")
    assert min(placings, key=lambda row: row["mean_rank"])["contestant"] == "d"
    assert not any({"a", "d"} <= {row["contestant"] for row in cliques if row["clique"] == n}
                   for n in range(5))


def test_few_blocks_are_underpowered_and_grouped_into_nothing(ranked):
    row = cell(ranked.omnibus, metric="correlation")
    assert (row["n_blocks"], row["powered"]) == (2, False)
    assert "underpowered: 2 blocks, fewer than 10" in row["method"]
    single = cell(ranked.omnibus, metric="pointing")
    assert single["n_blocks"] == 1
    assert math.isnan(single["p"])
    assert ranked.cliques.empty
    assert {"accuracy", "mprt", "quantus/Completeness"}.isdisjoint(ranked.omnibus["metric"])
    assert any("Underpowered across data sets: 1 to 2 of at least 10" in n for n in ranked.notes)


def test_agreement_aligns_directions():
    x, y = {"a": 1.0, "b": 2.0, "c": 3.0}, {"a": 0.9, "b": 0.5, "c": 0.6, "d": 0.1}
    (row,) = standings.agreement(
        [*estimates(x), *estimates(y, "y", better="lower")], METRICS[:2])
    expected = kendalltau([1, 2, 3], [-0.9, -0.5, -0.6]).statistic
    assert (row["first"], row["second"], row["n_contestants"]) == ("x", "y", 3)
    assert row["tau"] == pytest.approx(expected)


def test_tracks_are_not_compared_by_agreement(ranked):
    tracks = {metric["name"]: metric["track"] for metric in ranked.metrics}
    assert len(ranked.agreement)
    for row in ranked.agreement.to_dict("records"):
        assert tracks[row["first"]] == tracks[row["second"]] == row["track"]


def test_leaving_a_metric_out_moves_who_lived_on_it():
    rows = [*estimates({"a": 3, "b": 2, "c": 1}),
            *estimates({"a": 3, "b": 2, "c": 1}, "y", better="lower"),
            *estimates({"a": 3, "b": 1, "c": 2}, "z", family="localisation")]
    found = standings.stability(rows, METRICS)
    # a: ((1 + 3) / 2 + 1) / 2 = 1.5; b: (2 + 3) / 2 = 2.5; c: ((3 + 1) / 2 + 2) / 2 = 2.
    assert {row["contestant"]: row["rank"] for row in found} == {"a": 1, "b": 3, "c": 2}
    without = {row["contestant"]: (row["rank_without"], row["change"]) for row in found
               if row["left_out"] == "x"}
    # a: (3 + 1) / 2 = 2; b: (2 + 3) / 2 = 2.5; c: (1 + 2) / 2 = 1.5.
    assert without == {"a": (2, 1), "b": (3, 0), "c": (1, -1)}
    assert {row["left_out_kind"] for row in found} == {"metric"}


def test_leaving_a_data_set_out_is_told_of_all_together():
    rows = [*estimates({"a": 2, "b": 1}, dataset="one"),
            *estimates({"a": 2, "b": 1}, dataset="two"),
            *estimates({"a": 1, "b": 9, "c": 5}, dataset="three")]
    found = [row for row in standings.stability(rows, METRICS) if row["dataset"] == ""
             and row["left_out_kind"] == "dataset"]
    assert {row["contestant"] for row in found} == {"a", "b"}
    moved = {row["left_out"]: row["change"] for row in found if row["contestant"] == "a"}
    # Of all: a (1 + 1 + 3) / 3, b (2 + 2 + 1) / 3, which is a tie.
    assert moved == {"one": 0.5, "two": 0.5, "three": -0.5}


def test_variance_shares_sum_to_one_and_find_what_varies(found):
    panel = Panel.of(found, "shapes")
    generator = np.random.default_rng(0)
    shape = panel.value["correlation"].shape
    value = generator.normal(0, 3, (shape[0], 1, 1)) + generator.normal(0, 0.1, shape)
    panel.value["correlation"] = value
    metric = {**METRICS[0], "name": "correlation"}
    rows = standings.components(panel, [metric], panel.names)
    assert sum(row["share"] for row in rows) == pytest.approx(1)
    assert max(rows, key=lambda row: row["share"])["source"] == "contestant"
    assert standings.components(panel, [metric], []) == []


def test_neighbours_follow_the_ranks_and_equals_never_part(ranked):
    rows = ranked.neighbours[(ranked.neighbours["dataset"] == "shapes")
                             & (ranked.neighbours["metric"] == "pixel-flipping")]
    assert list(rows["below"])[:-1] == list(rows["above"])[1:]
    assert rows.iloc[0]["above"] == "softcam"
    assert (rows["gap"] >= 0).all()
    assert (rows["n_images"] == 16).all()


def test_equal_neighbours_need_images_without_end(found):
    panel = Panel.of(found, "shapes")
    value = panel.value["correlation"]
    value[panel.names.index("twin")] = value[panel.names.index("edges")]
    rows = [{"metric": "correlation", "contestant": name, "rank": rank}
            for name, rank in (("softcam", 1.0), ("twin", 2.5), ("edges", 2.5))]
    metric = {**METRICS[0], "name": "correlation"}
    first, second = standings.neighbours(panel, [metric], rows)
    assert (first["above"], first["below"]) == ("softcam", "twin")
    assert 2 <= first["needed"] < math.inf
    assert (second["gap"], second["needed"]) == (0, math.inf)


def test_differences_from_the_reference_stand_beside_those_from_controls(ranked):
    rows = ranked.differences[(ranked.differences["dataset"] == "shapes")
                              & (ranked.differences["metric"] == "correlation")]
    pairs = rows[rows["kind"] == "reference"]
    assert set(zip(pairs["contestant"], pairs["control"], strict=True)) == {
        ("softcam", "gradcam@softcam"), ("softcam-lasso", "gradcam@softcam-lasso"),
        ("twin", "gradcam")}
    row = cell(rows, contestant="softcam", control="noise")
    assert row["kind"] == "control"
    assert row["superiority"] == 1
    assert 0 < row["p"] <= row["p_holm"] < 0.05
    assert (rows[rows["contestant"] == "noise"]["p_holm"].isna()).all()


def test_holm_counts_the_pairs_of_a_family_with_controls_alone(ranked):
    rows = ranked.differences[
        (ranked.differences["dataset"] == "shapes") & (ranked.differences["kind"] == "control")
        & ranked.differences["metric"].isin(("pixel-flipping", "correlation"))
        & ~ranked.differences["contestant"].isin(("noise", "edges"))]
    assert len(rows) == 2 * 6 * 2
    least = rows.sort_values("p").iloc[0]
    assert least["p_holm"] == pytest.approx(min(1, len(rows) * least["p"]))
