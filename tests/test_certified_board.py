"""On planted data, where a map points ranks it only if its network goes by what was planted."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from synthetic import MASKED, build

from bench import board, page, results
from bench.core import HeatproofError
from bench.page import terminal
from bench.verdicts import UNCERTIFIED


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> results.Results:
    out = tmp_path_factory.mktemp("planted")
    return results.read(build(out, images=12, seeds=2, planted=("shapes",)))


@pytest.fixture(scope="module")
def ranked(found: results.Results) -> board.Board:
    return board.rank(found)


def localised(frame, **where):
    rows = frame[(frame["dataset"] == "shapes") & frame["metric"].isin(MASKED)]
    for key, value in where.items():
        rows = rows[rows[key] == value]
    assert len(rows)
    return rows


def test_only_a_certified_network_is_ranked_by_where_its_map_points(ranked: board.Board) -> None:
    for contestant, certified in (("softcam", True), ("gradcam", False)):
        rows = localised(ranked.estimates, contestant=contestant)
        assert np.isfinite(rows["mean"]).all()
        assert (np.isfinite(rows["rank"]) == certified).all()
    said = ranked.verdicts[(ranked.verdicts["dataset"] == "shapes")
                           & (ranked.verdicts["family"] == "localisation")]
    verdict = dict(zip(said["contestant"], said["verdict"], strict=True))
    assert verdict["gradcam"] == UNCERTIFIED
    assert verdict["softcam"] != UNCERTIFIED


def test_controls_stay_though_the_plain_network_is_not_certified(ranked: board.Board) -> None:
    controls = [name for name, facts in ranked.contestants.items() if facts["control"]]
    assert np.isfinite(localised(ranked.estimates, contestant=controls[0])["rank"]).all()
    against = localised(ranked.differences, contestant="softcam", kind="control")
    assert set(against["control"]) == set(controls)
    assert localised(ranked.differences, contestant=controls[0]).shape[0]
    rows = ranked.differences[(ranked.differences["dataset"] == "shapes")
                              & ranked.differences["metric"].isin(MASKED)]
    assert "gradcam" not in set(rows["contestant"])


def test_metrics_that_need_no_mask_rank_all(ranked: board.Board) -> None:
    rows = ranked.estimates[(ranked.estimates["dataset"] == "shapes")
                            & (ranked.estimates["contestant"] == "gradcam")
                            & (ranked.estimates["metric"] == "pixel-flipping")]
    assert np.isfinite(rows["rank"]).all()


def test_the_certificate_is_told_of_the_worst_run(ranked: board.Board) -> None:
    rows = ranked.certificates[ranked.certificates["dataset"] == "shapes"].set_index("contestant")
    assert rows.loc["softcam", "certified"]
    assert "region flipped: 75 % of the answers change (at least 95 %)" in rows.loc[
        "gradcam", "detail"]
    letters = ranked.certificates[ranked.certificates["dataset"] == "letters"]
    assert letters["certified"].isna().all()


def test_page_and_terminal_say_what_is_not_certified(
    found: results.Results, ranked: board.Board, tmp_path: Path,
) -> None:
    html = page.write(ranked, found, tmp_path).read_text()
    assert "2 of 3 networks certified" in html
    assert "✗ not certified" in html
    assert "uncertified truth" not in html  # letters has no truth
    from rich.console import Console

    console = Console(width=200, record=True, file=(tmp_path / "told").open("w"))
    for table in terminal.tables(ranked):
        console.print(table)
    assert UNCERTIFIED in console.export_text()


def test_truth_that_nobody_proved_is_called_uncertified(tmp_path: Path) -> None:
    found = results.read(build(tmp_path / "out", images=8, seeds=1))
    html = page.write(board.rank(found), found, tmp_path / "board").read_text()
    assert "uncertified truth" in html


def test_runs_on_different_images_of_a_set_make_no_board(tmp_path: Path) -> None:
    folder = build(tmp_path, images=8, seeds=1)
    for n, path in enumerate(sorted(folder.glob("shapes/*/*/run.json"))):
        run = json.loads(path.read_text())
        run["dataset"]["content"] = "ab" if n else "cd"
        path.write_text(json.dumps(run))
    with pytest.raises(HeatproofError, match="different images of shapes") as error:
        results.read(folder)
    assert "\n" not in str(error.value)
