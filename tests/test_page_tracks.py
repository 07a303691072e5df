"""The page tells its tracks, badges, flags and gauges apart, and cannot be misread."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from bench import board, page
from bench.page import cards, plots, sections, tables, terminal


@pytest.fixture(scope="module")
def text(index):
    return index.read_text(encoding="utf-8")


def plain(html):
    """The words of a piece of the page."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html))


def parts(text, start, end="</table>"):
    """The pieces of the page that begin with `start`."""
    return [piece.split(end)[0] for piece in text.split(start)[1:]]


def row(table, name):
    """The words of a contestant's row."""
    lines = re.findall(r"<tr.*?</tr>", table.replace("<wbr>", ""), re.DOTALL)
    (found,) = (line for line in lines if f'<span class="name">{name}</span>' in line)
    return plain(found)


def test_the_proven_track_comes_first_and_all_are_there_without_a_script(text):
    switch = re.search(r'<form class="switches".*?</form>', text, re.DOTALL)[0]
    assert re.findall(r'id="show-([\w-]+)" value="[\w-]+"( checked)?', switch) == [
        ("proven", " checked"), ("quantus", ""), ("fair", ""), ("all", " checked"), ("common", "")]
    shapes = "Shapes &lt;b&gt;&amp; squares&lt;/b&gt;"
    assert f'<option value="shapes">{shapes}</option>' in switch
    for track in ("proven", "quantus", "fair"):
        assert f'<div class="in-track in-{track}">' in text
        assert f"body:has(#show-{track}:checked) .in-track:not(.in-{track})" in text
    # A browser that cannot hide them shows all, and so does paper.
    assert "@supports selector(:has(*)) { @media screen {" in text


def test_a_column_is_headed_by_its_badge_which_leads_to_its_card(text):
    heads = re.findall(r'<th scope="col".*?</th>', text, re.DOTALL)
    flipping = next(head for head in heads if '#metric-pixel-flipping"' in head)
    assert "⚑ rewards blur" in flipping
    assert '<a class="proof" href="#metric-pixel-flipping">' in flipping
    assert "✓ 24/24" in flipping
    assert "scores better for 4 of 6 contestants" in flipping
    correlation = next(head for head in heads if '#metric-correlation"' in head)
    assert "✗ 22/24" in correlation
    assert "blur" not in correlation
    assert "not checked" in next(head for head in heads if '#metric-dice"' in head)


def test_a_card_says_all_that_is_known_of_a_metric(text):
    (card,) = parts(text, 'id="metric-pixel-flipping"', "</article>")
    words = plain(card)
    for said in ("✓ 24/24", "1/(K+1) · Σₖ pₖ", "lower is better", "Range 0 to 1",
                 "Units probability", "Cost steps + 1 forward", "operator = mean", "steps = 4",
                 "Pinned in synthetic-1, with other parameters", "shapes: 0.25; letters: 0.25",
                 "gave every known answer: 24/24",
                 "Departs from Quantus The curve starts at the untouched image &lt;b&gt;."):
        assert said in words, said
    assert 'href="https://arxiv.org/abs/1509.06321"' in card
    (card,) = parts(text, 'id="metric-correlation"', "</article>")
    assert "RGB: oracle 0.20, random 0.31" in plain(card)
    assert "a sample depends on its &lt;batch&gt;" in card
    (card,) = parts(text, 'id="metric-dice"', "</article>")
    assert "was not checked against known answers" in plain(card)


def test_a_forced_metric_shows_its_defect_and_has_no_place(text):
    (card,) = parts(text, 'id="metric-quantus-Completeness"', "</article>")
    assert 'class="broken"' in card
    assert "Defect : asks for exact equality of floats: &lt;i&gt;every&lt;/i&gt;" in plain(card)
    assert "Completeness was run by force in spite of a defect, and is not ranked" in plain(text)
    (table,) = (piece for piece in parts(text, "<table") if "all images" in piece
                and "quantus-Completeness" in piece and "#metric-quantus-PointingGame" in piece)
    assert "⚠ defect, not ranked" in table
    assert "✗ refused" in table
    assert len(re.findall(r"#\d", row(table, "softcam"))) == 2 + 3  # 2 families, 3 other metrics


def test_randomisation_passes_or_fails_beside_its_number(text):
    table = next(piece for piece in parts(text, "<table") if "sanity check, no ranking" in piece)
    assert "passes or fails" in table
    for name, said in (("softcam", "✓ passes"), ("twin", "✗ fails"),
                       ("gradcam@softcam", "≈ noise")):
        assert said in row(table, name)
        assert "#" not in row(table, name)
    assert "fails: equal to noise" in table


def test_the_images_that_all_networks_get_right_are_beside_the_full_set(ranked, text):
    counts = ranked.subset[ranked.subset["dataset"] == "shapes"]["n_right"]
    said = "{}, {} and {} of 24 in seeds 0, 1 and 2".format(*counts)
    assert text.count(f"only images that all networks get right: {said}") == 2 + 1 + 1
    table = next(piece for piece in parts(text, "<table") if "only images that all" in piece)
    shown = row(table, "softcam")
    mean = ranked.common[(ranked.common["dataset"] == "shapes")
                         & (ranked.common["metric"] == "pixel-flipping")
                         & (ranked.common["contestant"] == "softcam")]["mean"].item()
    assert f"{mean:.3f} #1" in shown
    assert "beats all" not in shown


def test_a_page_without_common_images_has_no_switch_for_them(found, tmp_path, monkeypatch):
    monkeypatch.setattr(page.plots, "write", lambda *_: [])
    wrong = replace(found, samples=found.samples.assign(prediction=found.samples["label"] + 1))
    text = page.write(board.rank(wrong), wrong, tmp_path).read_text(encoding="utf-8")
    assert 'id="show-common"' not in text
    assert "only images that all" not in text


def test_a_map_that_blurring_improves_is_flagged_in_its_cell(text):
    table = next(piece for piece in parts(text, "<table") if "rewards blur" in piece)
    assert re.search(r"a blurred copy of this map \(σ = 0\.125\) scores better, by 0\.0(49|50)",
                     row(table, "softcam"))
    assert "blurred" not in row(table, "gradcam@softcam")


def test_localisation_stands_beside_what_its_grid_allows(text):
    table = next(piece for piece in parts(text, "<table") if "metric-pointing" in piece)
    assert "of at most 0.900 at 8 × 8" in row(table, "softcam")
    assert "of at most" not in row(table, "oracle")


def test_each_network_has_one_row_of_its_own_measures_and_of_the_operators(text):
    table = next(piece for piece in parts(text, "<table") if "explained by" in piece)
    assert re.findall(r"explained by ([^<]*)<", table.replace("<wbr>", "")) == [
        "softcam, gradcam@softcam", "softcam-lasso, gradcam@softcam-lasso",
        "gradcam, twin, edges, noise, oracle"]
    table = next(piece for piece in parts(text, "<table") if "Mean drop of confidence" in piece)
    assert table.count("<polyline") == 3
    assert "0.25" in plain(table)


def test_the_page_says_where_the_two_tracks_disagree(text):
    (piece,) = parts(text, 'aria-labelledby="tracks"', "</section>")
    words = plain(piece)
    assert "Not everywhere" in words
    assert "Faithfulness shapes 0.87 6" in words
    assert "Grad-CAM on SoftCAM (gradcam@softcam) ahead of Grad&lt;script&gt;" in words
    assert "(sure)" in words


def test_tracks_that_agree_are_said_to(ranked):
    alike = replace(ranked, swaps=ranked.swaps.iloc[:0])
    assert page.view._disagreement(alike)["same"]
    assert page.view._disagreement(replace(ranked, tracks=ranked.tracks.iloc[:0])) is None


def test_the_head_tells_the_battery_and_what_the_suite_changed_in_it(text):
    assert "battery synthetic-1 , changed: pixel-flipping" in plain(text)


def test_there_is_a_printed_table_a_track_and_one_of_the_networks(index):
    written = {path.name for path in (index.parent / "tables").glob("*.md")}
    assert written == {
        "shapes-proven.md", "shapes-quantus.md", "shapes-fair.md", "shapes-networks.md",
        "letters-proven.md", "letters-quantus.md", "letters-networks.md"}
    proven = (index.parent / "tables" / "shapes-proven.md").read_text(encoding="utf-8")
    assert re.search(r"\| 1\.000 \[1\.000, 1\.000\] fails \|", proven)
    assert re.search(r"\| 0\.(19|2)\d* \[[^]]*\] passes \|", proven)
    quantus = (index.parent / "tables" / "shapes-quantus.tex").read_text(encoding="utf-8")
    assert "Quantus track." in quantus
    assert "Completeness (has a defect, not ranked)" in quantus
    assert "\\label{tab:synthetic-shapes-quantus}" in quantus


def many(ranked, n):
    """The board with `n` copies of its correlation in the proven track."""
    def copies(frame):
        column = frame[frame["metric"] == "correlation"]
        return board.pd.concat([frame, *(column.assign(metric=f"c{i}") for i in range(n))])

    metric = next(m for m in ranked.metrics if m["name"] == "correlation")
    return replace(ranked, estimates=copies(ranked.estimates), common=copies(ranked.common),
                   metrics=(*ranked.metrics, *({**metric, "name": f"c{i}"} for i in range(n))))


def test_a_track_of_many_metrics_is_printed_a_family_at_a_time(ranked):
    wide = tables.parts(ranked, tables.grid(many(ranked, 8), "shapes"))
    assert [part.slug for part in wide][:5] == [
        "shapes-proven-faithfulness", "shapes-proven-localisation", "shapes-proven-segmentation",
        "shapes-proven-randomisation", "shapes-quantus"]
    assert [len(part.metrics) for part in wide][:5] == [10, 1, 1, 1, 4]


def test_a_wide_family_stands_in_balanced_tables_below_each_other(ranked, found):
    wide = many(ranked, 8)
    (first, *rest), *_ = (track["tables"] for track in sections.section(
        wide, found, tables.grid(wide, "shapes"), None)["tracks"])
    (block,) = first["blocks"]
    assert (block["part"], len(block["heads"]), block["judged"]) == ("1 of 2", 5, True)
    assert [group["kind"] for group in first["groups"]][-1] == "incomplete"
    second = rest[0]["blocks"][0]
    assert (second["part"], len(second["heads"]), second["judged"]) == ("2 of 2", 5, False)
    assert [group["kind"] for group in rest[0]["groups"]][-1] == "ceiling"
    assert all(table["width"] <= 1 + sections.ACROSS for table in (first, *rest))


def test_the_terminal_shows_the_track_that_ranks(ranked):
    shapes, _ = terminal.tables(ranked)
    assert "Proven track" in str(shapes.title)
    cells = dict(zip((str(cell) for cell in shapes.columns[0].cells),
                     shapes.columns[5].cells, strict=True))
    assert cells["Twin of edges"] == "[red]fails[/]"
    assert cells["SoftCAM (softcam)"] == "[green]passes[/]"
    assert cells["Grad-CAM on SoftCAM (gradcam@softcam)"] == "≈ noise"


def test_curves_are_plotted_a_metric_and_gauges_belong_to_no_track(ranked, tmp_path):
    shown = {"fair/pointing", "ood/mean"}
    few = replace(ranked, metrics=tuple(m for m in ranked.metrics if m["name"] in shown))
    written = {plot["file"]: plot for plot in plots.write(few, tmp_path / "plots")}
    assert set(written) == {"fair-localisation", "curve-fair-pointing", "curve-ood-mean"}
    assert written["curve-fair-pointing"]["track"] == "fair"
    assert written["curve-ood-mean"]["track"] == ""
    assert (tmp_path / "plots" / "curve-fair-pointing.svg").stat().st_size > 10_000


def test_every_address_in_a_paper_is_a_link():
    text = "A 2019, arXiv:1806.10758, as B does, doi:10.1109/X.2016.1 (https://b.org/c)."
    assert [address for _, address in cards.sources(text) if address] == [
        "https://arxiv.org/abs/1806.10758", "https://doi.org/10.1109/X.2016.1", "https://b.org/c"]
    assert "".join(piece for piece, _ in cards.sources(text)) == text
