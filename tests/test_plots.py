"""The plots say what the board says, for any name, and are the same at every publication."""

from __future__ import annotations

import itertools
import math
import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from synthetic import HOSTILE, build

from bench import board, results
from bench.page import gallery, plots
from bench.page.plots import critical, pareto, ranks, sheet
from bench.page.tables import grid


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return results.read(build(tmp_path_factory.mktemp("results"), images=8, seeds=2))


@pytest.fixture(scope="module")
def ranked(found):
    return board.rank(found)


@pytest.fixture(scope="module")
def shapes(ranked):
    return grid(ranked, "shapes")


def words(figure, path):
    """The texts of a figure as they stand in its SVG, which is read as XML."""
    sheet.save(figure, path)
    root = ET.parse(path.with_name(f"{path.name}.svg")).getroot()
    texts = root.iter("{http://www.w3.org/2000/svg}text")
    return ["".join(node.itertext()).strip() for node in texts]


def drawn(plot, folder):
    with sheet.style():
        return words(plot.draw(), folder / plot.file)


def named(planned, file):
    return {plot.file: plot for plot in planned}[file]


def test_every_plot_is_told_to_the_page_and_written_twice(ranked, tmp_path):
    few = replace(ranked, metrics=tuple(
        m for m in ranked.metrics if m["family"] in ("faithfulness", "classifier")))
    told = plots.write(few, tmp_path / "plots")
    assert {tuple(plot) for plot in told} == {("track", "title", "what", "file", "datasets")}
    assert {"ranks-proven-shapes", "ranks-quantus-letters", "pareto-proven", "proven-faithfulness",
            "classifier", "curve-pixel-flipping"} <= {plot["file"] for plot in told}
    assert {path.name for path in (tmp_path / "plots").iterdir()} == {
        f"{plot['file']}.{suffix}" for plot in told for suffix in ("svg", "png")}


def test_a_figure_has_the_same_bytes_whenever_it_is_drawn(ranked, shapes, tmp_path):
    for name in ("one", "two"):
        plot = next(iter(ranks.planned(ranked, [shapes])))
        drawn(replace(plot, file=name), tmp_path)
    for suffix in ("svg", "png"):
        one, two = ((tmp_path / f"{name}.{suffix}").read_bytes() for name in ("one", "two"))
        assert one == two


def test_a_heatmap_shows_each_rank_and_hatches_what_has_none(ranked, shapes, tmp_path):
    plot = named(ranks.planned(ranked, [shapes]), "ranks-proven-shapes")
    texts = drawn(plot, tmp_path)
    metrics = [m["name"] for m in ranked.metrics if m["track"] == "proven"
               and m["family"] in ("faithfulness", "localisation", "segmentation")]
    rows = ranked.estimates[(ranked.estimates["dataset"] == "shapes")
                            & ranked.estimates["metric"].isin(metrics)]
    shown = rows["rank"].dropna().map(sheet.number).tolist()
    assert sorted(text for text in texts if re.fullmatch(r"[\d.]+", text)) == sorted(shown)
    # The incomplete are there, and the ceiling, which never ranks, is not.
    assert {"softcam", "twin", "noise", "partial"} <= set(texts)
    assert "oracle" not in texts
    assert "Model Parameter Randomisation" not in texts


def test_names_are_text_and_no_formula(ranked, shapes, tmp_path):
    for title, start in ((HOSTILE, "Grad<script>alert"), ("$m_i$ & <b>é</b>", "$m_i$ & <b>")):
        metrics = tuple({**m, "title": title} for m in ranked.metrics)
        table = replace(shapes, metrics=metrics)
        texts = drawn(named(ranks.planned(replace(ranked, metrics=metrics), [table]),
                            "ranks-proven-shapes"), tmp_path)
        assert any(text.startswith(start) for text in texts)
    assert sheet.plain("a\x00b\u202ec\nd") == "a b c d"


def test_a_long_name_is_broken_at_its_joints_and_fits():
    for text in ("gradcam@softcam-with-a-very-long-name_indeed", "W" * 80, "one two three " * 9):
        lines = sheet.wrapped(text, 1.2, 8, most=3).split("\n")
        assert len(lines) <= 3
        assert all(sheet.measured(line, 8) <= 1.2 for line in lines)
    assert sheet.wrapped("gradcam@softcam", 0.8, 8) == "gradcam@\nsoftcam"
    assert sheet.wrapped("W" * 80, 1.2, 8, most=2).endswith("…")
    assert sheet.wrapped("", 1, 8) == ""


@pytest.mark.parametrize(("wanted", "gap"), [([0.5] * 5, 0.1), ([0, 0.01, 0.9, 1], 0.2), ([], 1)])
def test_labels_beside_curves_stand_apart_in_their_order(wanted, gap):
    found = sheet.spread(wanted, gap, 0, 1)
    assert sorted(found) == found
    assert all(b - a >= gap - 1e-12 for a, b in itertools.pairwise(found))
    assert all(-1e-12 <= place <= 1 + 1e-12 for place in found)
    assert sheet.spread([0.2, 0.8], 0.1, 0, 1) == [0.2, 0.8]


def test_labels_of_points_cover_neither_a_point_nor_each_other():
    rng = np.random.default_rng(0)
    points = [(1.5, y) for y in rng.uniform(0.5, 2.5, 12)] + [(2, 1), (2.02, 1), (2, 1.02)]
    placed = pareto.beside(points, [0.6] * len(points), (0, 0, 4, 3))
    boxes = [(x, y - 0.065, x + width, y + 0.065) for x, y, width in placed]
    for a, b in itertools.combinations(boxes, 2):
        assert a[0] >= b[2] or b[0] >= a[2] or a[1] >= b[3] or b[1] >= a[3]
    assert not [1 for x, y in points for box in boxes
                if box[0] < x < box[2] and box[1] < y < box[3]]


def test_the_front_is_what_nobody_beats_in_both():
    def place(name, x, rank):
        return pareto.Place(name, "contestant", x, x, x, rank)

    places = [place("best maps", 0.8, 1), place("both", 0.9, 2), place("beaten", 0.85, 3),
              place("best network", 0.95, 9), place("its worse twin", 0.95, 10)]
    def names(found, better="higher"):
        return [one.name for one in pareto.front(found, better)]

    assert names(places) == ["best maps", "both", "best network"]
    assert names(places, "lower") == ["best maps"]
    assert names([place("a", 1, 2), place("b", 1, 2)]) == ["a", "b"]


def test_who_lacks_a_family_is_not_on_the_accuracy_plot(ranked, shapes):
    (plot, *_) = pareto.planned(ranked, [shapes])
    assert "softcam" in {place.name for place in plot.draw.args[0]["shapes"]}
    gone = ranked.families[~((ranked.families["contestant"] == "softcam")
                             & (ranked.families["family"] == "segmentation"))]
    (plot, *_) = pareto.planned(replace(ranked, families=gone), [shapes])
    assert "softcam" not in {place.name for place in plot.draw.args[0]["shapes"]}


@pytest.fixture
def tested():
    """Placings, cliques and tests: told apart in one metric, and too few blocks in another."""
    names, both = ["softcam", "gradcam", "twin", "edges"], ("pixel-flipping", "correlation")
    rows = {
        "placings": [("proven", metric, name, 1 + i) for metric in both
                     for i, name in enumerate(names)],
        "cliques": [("proven", metric, 0, name) for metric in both for name in names[:2]],
        "omnibus": [("proven", "pixel-flipping", 12, 9.0, 1e-5, True, "Friedman"),
                    ("proven", "correlation", 2, 1.0, 0.4, False, "Friedman")]}
    return {name: pd.DataFrame(found, columns=board.COLUMNS[name])
            for name, found in rows.items()}


def test_an_underpowered_diagram_says_so_and_groups_nobody(ranked, tested, tmp_path):
    (plot,) = critical.planned(replace(ranked, **tested))
    assert plot.file == "critical-proven-faithfulness"
    (_, _, sure, bars), (_, _, unsure, _) = plot.draw.args[0]
    assert (sure["powered"], unsure["powered"]) == (True, False)
    assert bars == [["softcam", "gradcam"]]
    texts = " ".join(drawn(plot, tmp_path))
    assert "Friedman, p < 0.001, 12 blocks" in texts
    assert "underpowered: 2 blocks" in texts
    assert "not told apart" in texts
    alone = {name: frame[frame["metric"] == "correlation"] for name, frame in tested.items()}
    (plot,) = critical.planned(replace(ranked, **alone))
    texts = " ".join(drawn(plot, tmp_path))
    assert "not told apart" not in texts
    assert "twin  3.00" in texts


def test_bars_that_meet_stand_in_rows_of_their_own():
    assert critical._bars([[1, 3], [2, 4], [5, 6]]) == [[(1, 3), (5, 6)], [(2, 4)]]


def test_agreement_is_shown_as_found_and_absent_where_it_is_unknown(ranked, tmp_path):
    frame = pd.DataFrame(
        [("shapes", "proven", "pixel-flipping", "correlation", 0.5, 4),
         ("shapes", "proven", "pointing", "pixel-flipping", -1.0, 5),
         ("shapes", "proven", "pointing", "correlation", math.nan, 5)],
        columns=board.COLUMNS["agreement"])
    (plot,) = ranks.agreements(replace(ranked, agreement=frame))
    texts = drawn(plot, tmp_path)
    assert [text for text in texts if re.fullmatch(r"[−\d.]+", text)] == ["0.50", "−1.00"]
    assert any("4 to 5 contestants" in text for text in texts)
    assert not list(ranks.agreements(replace(ranked, agreement=frame[:0])))


def test_without_placings_there_is_no_diagram(ranked):
    assert not list(critical.planned(replace(ranked, placings=ranked.placings[:0])))


def test_ranks_on_one_data_set_are_no_mean_and_have_no_diagram(ranked, tested):
    omnibus = tested["omnibus"].assign(n_blocks=[2, 1])
    (plot,) = critical.planned(replace(ranked, **tested | {"omnibus": omnibus}))
    assert len(plot.draw.args[0]) == 1


def test_a_gallery_is_one_figure_that_names_the_source_of_its_images(found, ranked, tmp_path):
    made = gallery.write(ranked, found, tmp_path / "media")
    assert set(made) == {"shapes"}
    few = replace(ranked, metrics=tuple(m for m in ranked.metrics if m["name"] == "dice"))
    told = plots.write(few, tmp_path / "plots", made, found.plan["datasets"])
    (plot,) = (plot for plot in told if plot["what"] == "gallery")
    text = " ".join("".join(ET.parse(
        tmp_path / "plots" / f"{plot['file']}.svg").getroot().itertext()).split())
    # A long name is broken at a joint, which leaves no space behind.
    for said in ("Nobody", "CC0-1.0", "gradcam@softcam", "tri<i>angle"):
        assert said in text.replace(" ", "")
    pixels = np.asarray(Image.open(tmp_path / "plots" / f"{plot['file']}.png").convert("RGB"))
    assert (pixels.std(axis=2) > 20).mean() > 0.05, "no map has a colour"


def test_two_names_alike_as_files_are_two_files():
    def plot(file):
        return sheet.Plot("", "", "", file, [], lambda: None, 0)

    assert [p.file for p in plots._apart([plot("a"), plot("A"), plot("a")])] == ["a", "A-2", "a-3"]
