"""Results in bulk: what is read is what was written, and a big suite publishes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import synthetic

from bench import board, ratios, results, scale
from bench.core import HeatproofError
from bench.results import Results

KEYS = ("run", "dataset", "contestant", "metric")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scale.write(tmp_path_factory.mktemp("scale"), contestants=7, metrics=9, samples=12)


@pytest.fixture(scope="module")
def found(folder: Path) -> Results:
    return results.read(folder)


def test_every_row_of_every_file_is_read_into_its_place(found, folder) -> None:
    assert len(found.runs) == 2 * 7 * scale.SEEDS
    assert len(found.scores) == len(found.runs) * 9 * 12
    assert len(found.samples) == len(found.runs) * 12
    place = found.scores.set_index(["run", "metric"]).sort_index()
    for run in found.runs.iloc[::17].to_dict("records"):
        for path in (run["path"] / "scores").rglob("*.parquet"):
            metric = path.relative_to(run["path"] / "scores").with_suffix("").as_posix()
            want, rows = pq.read_table(path).to_pandas(), place.loc[(run["run"], metric)]
            assert list(rows["key"]) == list(want["key"])
            np.testing.assert_array_equal(rows["value"], want["value"])
            assert list(rows["reason"].fillna("")) == list(want["reason"].fillna(""))
            for one, two in zip(rows["curve"], want["curve"], strict=True):
                assert (one is None) == (two is None)
                assert one is None or np.array_equal(one, two)
            for name in ("dataset", "contestant", "seed"):
                assert set(rows[name]) == {run[name]}


def test_names_are_categories_in_the_order_of_the_alphabet(found) -> None:
    for frame in (found.scores, found.samples):
        for name in set(KEYS) & set(frame.columns):
            known = frame[name].cat.categories
            assert list(known) == sorted(set(frame[name]))
        assert pd.api.types.is_integer_dtype(frame["seed"])
    assert pd.api.types.is_string_dtype(found.scores["key"])


def test_a_board_does_not_depend_on_how_the_names_are_stored(tmp_path) -> None:
    read = results.read(synthetic.build(tmp_path, images=6, seeds=2))
    plain = Results(read.folder, read.plan, read.runs, *(
        frame.astype({name: object for name in KEYS if name in frame})
        for frame in (read.samples, read.scores)), read.stale)
    one, two = board.rank(read), board.rank(plain)
    for name in board.COLUMNS:
        pd.testing.assert_frame_equal(getattr(one, name), getattr(two, name), check_dtype=False)


def test_the_first_damaged_file_is_named(tmp_path) -> None:
    copied = scale.write(tmp_path, contestants=6, metrics=3, samples=2)
    torn = sorted(copied.glob("*/*/*/scores/accuracy.parquet"))[1::2]
    for path in torn:
        path.write_bytes(b"no parquet")
    with pytest.raises(HeatproofError) as told:
        results.read(copied)
    assert str(torn[0]) in str(told.value)
    assert "is damaged" in str(told.value)


def test_a_run_without_its_samples_names_the_cure(tmp_path) -> None:
    copied = scale.write(tmp_path, contestants=6, metrics=3, samples=2)
    lost = sorted(copied.glob("*/*/*/samples.parquet"))[0]
    lost.unlink()
    with pytest.raises(HeatproofError, match=r"there is no file .*samples.parquet; run the suite"):
        results.read(copied)


def test_one_run_is_read_as_among_all(found) -> None:
    run = found.runs.iloc[3]
    info, samples, scores = results.read_run(run["path"])
    assert info == run["info"]
    for alone, among in ((samples, found.samples), (scores, found.scores)):
        among = among[among["run"] == run["run"]].reset_index(drop=True)
        order = [name for name in ("metric", "key") if name in among]
        pd.testing.assert_frame_equal(
            alone.astype(object).sort_values(order, ignore_index=True),
            among.astype(object).sort_values(order, ignore_index=True))


def test_the_big_suite_looks_like_a_real_one(found) -> None:
    ranked = board.rank(found)
    kinds = ranked.contestants.values()
    assert sum(facts["ceiling"] for facts in kinds) == 1
    assert sum(facts["control"] for facts in kinds) == 1
    assert set(ranked.effects["effect"]) == {"model", "explanation"}
    assert not ranked.missing.size
    assert len(ranked.nans)
    assert len(ranked.curves)
    assert {metric["track"] for metric in ranked.metrics} == {"proven", "quantus"}
    assert ranked.families["rank"].notna().all()


def test_the_same_arguments_give_the_same_scores(found, tmp_path) -> None:
    again = results.read(scale.write(tmp_path, contestants=7, metrics=9, samples=12))
    pd.testing.assert_frame_equal(again.scores, found.scores)


@pytest.mark.slow
def test_make_bench_times_each_part_of_a_publication(folder, tmp_path) -> None:
    spent = ratios.publication(folder, tmp_path)
    assert list(spent) == ["read", "rank", "page"]
    assert min(spent.values()) > 0
    assert (tmp_path / scale.SUITE / "index.html").is_file()
