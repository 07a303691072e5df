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


@pytest.fixture
def judged(planted_board: board.Board) -> board.Board:
    return planted_board


def localised(frame, **where):
    rows = frame[(frame["dataset"] == "shapes") & frame["metric"].isin(MASKED)]
    for key, value in where.items():
        rows = rows[rows[key] == value]
    assert len(rows)
    return rows


def test_only_a_certified_network_is_ranked_by_where_its_map_points(judged: board.Board) -> None:
    for contestant, certified in (("softcam", True), ("gradcam", False)):
        rows = localised(judged.estimates, contestant=contestant)
        assert np.isfinite(rows["mean"]).all()
        assert (np.isfinite(rows["rank"]) == certified).all()
    said = judged.verdicts[(judged.verdicts["dataset"] == "shapes")
                           & (judged.verdicts["family"] == "localisation")]
    verdict = dict(zip(said["contestant"], said["verdict"], strict=True))
    assert verdict["gradcam"] == UNCERTIFIED
    assert verdict["softcam"] != UNCERTIFIED


def test_controls_stay_though_the_plain_network_is_not_certified(judged: board.Board) -> None:
    controls = [name for name, facts in judged.contestants.items() if facts["control"]]
    assert np.isfinite(localised(judged.estimates, contestant=controls[0])["rank"]).all()
    against = localised(judged.differences, contestant="softcam", kind="control")
    assert set(against["control"]) == set(controls)
    assert localised(judged.differences, contestant=controls[0]).shape[0]
    rows = judged.differences[(judged.differences["dataset"] == "shapes")
                              & judged.differences["metric"].isin(MASKED)]
    assert "gradcam" not in set(rows["contestant"])


def test_metrics_that_need_no_mask_rank_all(judged: board.Board) -> None:
    rows = judged.estimates[(judged.estimates["dataset"] == "shapes")
                            & (judged.estimates["contestant"] == "gradcam")
                            & (judged.estimates["metric"] == "pixel-flipping")]
    assert np.isfinite(rows["rank"]).all()


def test_the_certificate_is_told_of_the_worst_run(judged: board.Board) -> None:
    rows = judged.certificates[judged.certificates["dataset"] == "shapes"].set_index("contestant")
    assert rows.loc["softcam", "certified"]
    assert "region flipped: 75 % of the answers change (at least 95 %)" in rows.loc[
        "gradcam", "detail"]
    letters = judged.certificates[judged.certificates["dataset"] == "letters"]
    assert letters["certified"].isna().all()


def test_page_and_terminal_say_what_is_not_certified(
    planted: results.Results, judged: board.Board, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(page.plots, "write", lambda *_: [])
    html = page.write(judged, planted, tmp_path).read_text()
    assert "2 of 3 networks certified" in html
    assert "✗ not certified" in html
    assert "uncertified truth" not in html  # letters has no truth
    from rich.console import Console

    console = Console(width=200, record=True, file=(tmp_path / "told").open("w"))
    for table in terminal.tables(judged):
        console.print(table)
    assert UNCERTIFIED in console.export_text()


def test_truth_that_nobody_proved_is_called_uncertified(index: Path) -> None:
    assert "uncertified truth" in index.read_text()


def test_runs_on_different_images_of_a_set_make_no_board(tmp_path: Path) -> None:
    folder = build(tmp_path, images=8, seeds=1)
    for n, path in enumerate(sorted(folder.glob("shapes/*/*/run.json"))):
        run = json.loads(path.read_text())
        run["dataset"]["content"] = "ab" if n else "cd"
        path.write_text(json.dumps(run))
    with pytest.raises(HeatproofError, match="different images of shapes") as error:
        results.read(folder)
    assert "\n" not in str(error.value)
