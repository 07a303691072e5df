"""Two contestants, paired: the board's numbers, and what may be said of them."""

from __future__ import annotations

import numpy as np
import pytest
import synthetic

from bench import results
from bench.compare import paired
from bench.core import HeatproofError


def pick(rows, **where):
    (row,) = [row for row in rows if all(row[key] == value for key, value in where.items())]
    return row


def test_the_differences_are_the_boards(found, ranked) -> None:
    rows = paired(found, "softcam", "edges").rows
    theirs = ranked.differences
    theirs = theirs[(theirs["contestant"] == "softcam") & (theirs["control"] == "edges")]
    seen = 0
    for want in theirs.to_dict("records"):
        row = pick(rows, dataset=want["dataset"], metric=want["metric"])
        for key in ("mean", "low", "high", "superiority"):
            assert row[key] == pytest.approx(want[key], abs=1e-12), (want["metric"], key)
        if row["family"] != "randomisation":
            assert row["reads"] == want["reads"]
        seen += 1
    assert seen >= 8


def test_the_means_are_the_boards(found, ranked) -> None:
    for row in paired(found, "softcam", "gradcam").rows:
        for place, name in (("first", "softcam"), ("second", "gradcam")):
            want = pick(ranked.estimates.to_dict("records"), dataset=row["dataset"],
                        contestant=name, metric=row["metric"])
            assert row[place] == pytest.approx(want["mean"], abs=1e-12)


def test_turned_round_everything_turns_round(found) -> None:
    ahead = paired(found, "softcam", "gradcam").rows
    back = paired(found, "gradcam", "softcam").rows
    turned = {"better": "worse", "worse": "better"}
    assert {row["reads"] for row in ahead} >= {"better", "not told apart"}
    for one, two in zip(ahead, back, strict=True):
        assert one["metric"] == two["metric"]
        assert one["mean"] == pytest.approx(-two["mean"], abs=1e-12)
        assert one["superiority"] == pytest.approx(1 - two["superiority"])
        assert two["reads"] == turned.get(one["reads"], one["reads"])


def test_a_lower_value_is_better_where_lower_is_better(found) -> None:
    row = pick(paired(found, "softcam", "noise", "shapes").rows, metric="pixel-flipping")
    assert row["better"] == "lower"
    assert row["high"] < 0
    assert row["reads"] == "better"
    assert row["superiority"] > 0.9


def test_only_samples_that_both_have_are_counted(found) -> None:
    row = pick(paired(found, "softcam", "gradcam", "shapes").rows, metric="pointing")
    assert (row["n_images"], row["n_seeds"]) == (21, 3)


def test_different_networks_are_told_in_one_line_and_one_network_has_no_accuracy_row(found) -> None:
    two = paired(found, "softcam", "gradcam", "shapes")
    assert [note for note in two.notes if "different networks" in note]
    assert "classifier" in {row["family"] for row in two.rows}
    one = paired(found, "softcam", "gradcam@softcam", "shapes")
    assert not one.notes
    assert "classifier" not in {row["family"] for row in one.rows}


def test_neither_gauges_nor_a_refused_metric_compare_and_randomisation_ranks_nobody(found) -> None:
    answer = paired(found, "softcam", "gradcam@softcam")
    assert not {row["metric"] for row in answer.rows} & {
        "quantus/Completeness", "ceiling/pointing", "ood/mean"}
    assert pick(answer.rows, dataset="shapes", metric="mprt")["reads"] == "told apart"
    (sentence,) = [line for line in answer.sentences() if "randomisation" in line]
    assert "which rank nobody" in sentence


def test_the_sentences_count_what_the_rows_read(found) -> None:
    answer = paired(found, "softcam", "noise", "shapes")
    assert ("proven: softcam is better than noise in 2 of 2 faithfulness metrics"
            in answer.sentences())
    both = paired(found, "softcam", "noise").sentences()
    assert ("proven: softcam is better than noise in 4 of 4 faithfulness comparisons "
            "(2 metrics on 2 data sets)" in both)
    equal = paired(found, "twin", "edges", "shapes").sentences()
    assert "proven: twin and edges are not told apart in 2 of 2 faithfulness metrics" in equal


def test_what_is_barred_on_the_board_is_not_judged_here(tmp_path) -> None:
    planted = results.read(synthetic.build(tmp_path, planted=("shapes",)))
    rows = paired(planted, "softcam", "gradcam", "shapes").rows
    assert pick(rows, metric="pointing")["reads"] == "not certified"
    assert pick(rows, metric="correlation")["reads"] in ("better", "not told apart")


def test_an_incomplete_contestant_is_compared_on_what_there_is_and_told(found) -> None:
    answer = paired(found, "partial", "noise", "shapes")
    assert "shapes: 1 of 3 planned runs of partial is missing" in answer.notes[0]
    assert pick(answer.rows, metric="correlation")["n_seeds"] == 2


def test_a_data_set_that_one_of_the_two_lacks_is_left_out_and_told(found) -> None:
    answer = paired(found, "softcam", "oracle")
    assert {row["dataset"] for row in answer.rows} == {"shapes"}
    assert any(note.startswith("letters: oracle has no scores") for note in answer.notes)
    with pytest.raises(HeatproofError, match="share no metric"):
        paired(found, "softcam", "foreign")


@pytest.mark.parametrize(("names", "says"), [
    (("softcan", "gradcam"), "unknown contestant 'softcan'; did you mean 'softcam'"),
    (("softcam", "gradcan"), "did you mean 'gradcam'"),
    (("softcam", "gradcam", "shape"), "unknown data set 'shape'; did you mean 'shapes'"),
    (("softcam", "softcam"), "named twice"),
])
def test_a_name_that_is_not_there_names_the_nearest(found, names, says) -> None:
    with pytest.raises(HeatproofError, match=says):
        paired(found, *names)


def test_the_numbers_are_finite(found) -> None:
    for row in paired(found, "softcam", "gradcam").rows:
        assert np.isfinite([row[key] for key in ("first", "second", "mean", "low", "high")]).all()
