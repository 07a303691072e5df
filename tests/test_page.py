"""The page: whole, safe with any name, the same bytes each time, and made without torch."""

from __future__ import annotations

import csv
import html.parser
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image
from synthetic import HOSTILE, build

from bench import board, page, results, store
from bench.core import HeatproofError
from bench.page import cards, gallery, tables, terminal

VOID = {"meta", "link", "img", "br", "wbr", "hr", "input", "line", "circle", "polyline"}


class Reader(html.parser.HTMLParser):
    """Collects tags, text and addresses, and checks that every tag is closed."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.words, self.local, self.ids = [], [], [], [], set()
        self.feed(text)
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.ids.add(dict(attributes).get("id"))
        self.local += [value for name, value in attributes if name in ("href", "src")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture(scope="module")
def index(found, ranked, tmp_path_factory):
    """The page with its plots."""
    return page.write(ranked, found, tmp_path_factory.mktemp("leaderboard"))


@pytest.fixture(scope="module")
def read(index):
    return Reader(index.read_text(encoding="utf-8"))


@pytest.fixture
def undrawn(monkeypatch):
    """Publishing without its slowest part."""
    monkeypatch.setattr(page.plots, "write", lambda *_: [])


def content(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes()
            for path in sorted(folder.rglob("*")) if path.is_file()}


def test_every_local_address_exists_and_no_other_is_fetched(index, read):
    for address in read.local:
        if address.startswith("#"):
            assert address[1:] in read.ids
        elif not address.startswith("https://"):
            assert (index.parent / unquote(address)).is_file(), address
    fetched = [facts["src"] for tag, facts in read.tags if "src" in facts]
    assert fetched
    assert not [address for address in fetched if "//" in address]
    assert not [tag for tag, _ in read.tags if tag in ("link", "iframe")]
    assert [facts for tag, facts in read.tags if tag == "script"] == [
        {"src": name, "defer": None} for name in page.SCRIPTS]
    (policy,) = (facts["content"] for _, facts in read.tags if "http-equiv" in facts)
    assert "default-src 'none'; script-src 'self' file:;" in policy


def test_hostile_names_are_shown_as_text(read):
    words = "".join(read.words)
    assert HOSTILE in words
    assert "<em>suite</em>" in words
    assert not [tag for tag, facts in read.tags if tag in ("em", "i", "b")
                or (tag == "script" and facts.get("src") not in page.SCRIPTS)]
    assert not [a for a in read.local if a.startswith("javascript")]


def test_tables_can_be_read_aloud(read):
    count = [tag for tag, _ in read.tags]
    assert count.count("table") == count.count("caption") >= 5
    assert all("scope" in facts for tag, facts in read.tags if tag == "th")
    assert all(facts.get("alt") for tag, facts in read.tags if tag == "img")
    assert ("html", {"lang": "en"}) in read.tags


def test_the_page_says_who_beats_the_controls_and_why_others_are_not_ranked(read):
    words = re.sub(r"\s+", " ", "".join(read.words))
    assert ("SoftCAM (softcam), SoftCAM (softcam-lasso), Grad-CAM on SoftCAM (gradcam@softcam), "
            "Grad<script>") in words
    assert "Twin of edges does so in no family" in words
    assert "not told apart from edges" in words
    assert "the network has no feature map" in words
    assert "lower is better" in words


def test_two_contestants_of_one_title_are_told_apart_by_their_names(ranked, index, read):
    assert tables.title(ranked, "softcam-lasso") == tables.title(ranked, "softcam") == "SoftCAM"
    labels = [tables.label(ranked, name) for name in ranked.contestants]
    assert len(set(labels)) == len(labels)
    assert "SoftCAM (softcam-lasso)" in labels
    assert "Twin of edges" in labels
    assert {"SoftCAM (softcam)", "SoftCAM (softcam-lasso)"} <= set(read.words)
    assert {"lasso = 0.0", "lasso = 0.01", "relu = False"} <= set(read.words)
    latex, markdown = (
        (index.parent / "tables" / f"shapes-proven.{suffix}").read_text(encoding="utf-8")
        for suffix in ("tex", "md"))
    assert "SoftCAM (softcam-lasso) &" in latex
    assert "| SoftCAM (softcam-lasso) |" in markdown


def test_a_parameter_that_differs_between_data_sets_is_shown_for_each(found, ranked):
    runs = tables.records(found.runs)
    assert cards.params(ranked, runs, "softcam") == {"train": ["lasso = 0.0"], "explain": []}
    other = [{"contestant": "softcam", "dataset": dataset,
              "info": {"contestant": {"train": {"lasso": lasso}, "explain": {}}}}
             for dataset, lasso in (("a", 1), ("b", 1), ("c", 2))]
    assert cards.params(ranked, other, "softcam")["train"] == ["lasso = 1 (a, b)", "lasso = 2 (c)"]


def test_families_stand_in_the_order_of_the_suite(ranked, index, read):
    families = ["faithfulness", "localisation", "segmentation", "randomisation"]
    heads = [word.strip() for word in read.words if word.strip() in families]
    assert heads[:4] == families
    assert (index.parent / "plots" / "proven-segmentation.svg").is_file()
    shapes, letters = terminal.tables(ranked)
    assert [column.header for column in shapes.columns] == ["contestant", "accuracy", *families]
    assert [column.header for column in letters.columns] == [
        "contestant", "accuracy", "faithfulness", "randomisation"]


def section(text, start, end):
    """The words of a page between two headings."""
    words = re.sub(r"\s+", " ", " ".join(Reader(text).words))
    return words[words.rindex(start):words.index(end, words.rindex(start))]


def test_the_page_shows_how_each_map_adds_up(index):
    shown = section(index.read_text(encoding="utf-8"), "Do the maps add up", " Name softcam ")
    assert "softcam mean = logit ✓ 3.6e−7 , holds ✓ 3.6e−7" in shown
    assert "partial sum = probability ✓ 2.4e−7" in shown
    assert "5 others – – –" in shown
    assert "Does not add up" not in index.read_text(encoding="utf-8")
    text = (index.parent / "tables" / "letters-proven.md").read_text(encoding="utf-8")
    assert "softcam-lasso (mean = logit, off by at most 3.6e−7)" in text
    assert "Warning" not in text
    with (index.parent / "tables" / "additivity.csv").open(encoding="utf-8", newline="") as file:
        rows = {(row["dataset"], row["contestant"]): row for row in csv.DictReader(file)}
    assert rows["shapes", "softcam"] == {
        "dataset": "shapes", "contestant": "softcam", "declared": "mean", "largest": "3.6e-07",
        "tolerance": "0.0001", "holds": "True", "n_runs": "3"}
    assert rows["shapes", "gradcam"]["holds"] == rows["shapes", "gradcam"]["largest"] == ""


def test_a_map_that_does_not_add_up_as_declared_is_a_visible_warning(tmp_path, undrawn):
    folder = build(tmp_path / "results", images=4, seeds=1)
    for dataset, largest in (("shapes", 0.213), ("letters", None)):
        (path,) = folder.glob(f"{dataset}/softcam/*/run.json")
        run = store.read_json(path)
        run["additivity"] |= {"largest": largest, "holds": False}
        store.write_json(path, run)
    found = results.read(folder)
    ranked = board.rank(found)
    index = page.write(ranked, found, tmp_path / "out")
    text = index.read_text(encoding="utf-8")
    says = "SoftCAM (softcam) on shapes: the mean of its map is declared to be the logit; the "
    assert says + "largest deviation is 0.21, the tolerance 0.0001." in text
    assert text.count("Does not add up.") == 2
    shown = section(text, "Do the maps add up", " Name softcam ")
    assert "logit ≠ 0.21 , does not hold ≠ not finite" in shown
    assert "**Warning**: SoftCAM (softcam) on shapes" in (
        index.parent / "tables" / "shapes-proven.md").read_text(encoding="utf-8")
    captions = [table.caption for table in terminal.tables(ranked)]
    assert "deviation is 0.21" in captions[0]
    assert "deviation is not finite" in captions[1]


def test_a_suite_without_additive_maps_has_no_table_of_them(tmp_path, undrawn):
    folder = build(tmp_path / "results", images=4, seeds=1)
    plan = store.read_json(folder / "plan.json")
    plan["contestants"]["partial"]["additivity"] = "none"  # it has no run to say so
    store.write_json(folder / "plan.json", plan)
    for path in folder.glob("*/*/*/run.json"):
        run = store.read_json(path)
        run["contestant"]["additivity"] = "none"
        if run["additivity"]:
            run["additivity"] |= {"declared": "none", "largest": None, "holds": None}
        store.write_json(path, run)
    found = results.read(folder)
    text = page.write(board.rank(found), found, tmp_path / "out").read_text(encoding="utf-8")
    assert "add up to the output" not in text
    Reader(text)


@pytest.mark.parametrize(("value", "text"), [
    (0.0, "0"), (3.6e-7, "3.6e−7"), (1e-4, "0.0001"), (0.213, "0.21"), (12345.0, "1.2e4"),
    (float("nan"), "not finite")])
def test_a_deviation_is_short(value, text):
    assert tables.deviation(value) == text


def test_two_publications_are_equal_byte_for_byte(found, index, tmp_path):
    second = page.write(board.rank(found), found, tmp_path)
    assert content(index.parent) == content(second.parent)


def test_publishing_again_replaces_the_old_page_and_leaves_nothing_behind(
        planted, planted_board, tmp_path, undrawn):
    first = page.write(planted_board, planted, tmp_path)
    (first.parent / "tables" / "old.csv").write_text("old")
    page.write(planted_board, planted, tmp_path)
    assert not (first.parent / "tables" / "old.csv").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["synthetic"]


def test_a_publication_that_fails_leaves_the_old_page_whole(
        found, ranked, tmp_path, undrawn, monkeypatch):
    before = content(page.write(ranked, found, tmp_path).parent)
    monkeypatch.setattr(page.plots, "write", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        page.write(ranked, found, tmp_path)
    assert content(tmp_path / "synthetic") == before
    assert [path.name for path in tmp_path.iterdir()] == ["synthetic"]


def test_a_publication_killed_between_the_renames_is_mended_by_the_next(
        planted, planted_board, tmp_path, undrawn):
    target = page.write(planted_board, planted, tmp_path).parent
    target.rename(tmp_path / ".synthetic.old")
    (tmp_path / ".synthetic.new").mkdir()
    page.write(planted_board, planted, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["synthetic"]


def test_a_folder_that_is_no_page_is_never_replaced(found, ranked):
    with pytest.raises(HeatproofError, match=r"no page of ours.*--out"):
        page.write(ranked, found, found.folder.parent)
    assert (found.folder / "plan.json").is_file()


def test_an_out_that_cannot_be_written_is_one_line_with_the_cure(found, ranked, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    with pytest.raises(HeatproofError, match=r"cannot write .*--out"):
        page.write(ranked, found, blocked)


def test_a_suite_of_which_hardly_anything_ran_has_a_page(tmp_path):
    folder = build(tmp_path / "results", images=4, seeds=1)
    for path in folder.glob("shapes/*/*/run.json"):
        if "foreign" not in path.as_posix():
            path.unlink()
    for path in folder.glob("letters/*/*/scores/*.parquet"):
        if "softcam" not in path.as_posix():
            path.unlink()
    found = results.read(folder)
    text = page.write(board.rank(found), found, tmp_path / "out").read_text(encoding="utf-8")
    words = "".join(Reader(text).words)
    assert "No contestant beats every control" in words
    assert "not scored yet" in words


def test_a_suite_of_which_nothing_could_be_explained_has_a_page(tmp_path, undrawn):
    folder = build(tmp_path / "results", images=4, seeds=1)
    for path in folder.glob("*/*/*/run.json"):
        if "foreign" not in path.as_posix():
            path.unlink()
    found = results.read(folder)
    text = page.write(board.rank(found), found, tmp_path / "out").read_text(encoding="utf-8")
    assert "<strong>No contestant</strong> beats every control" in text
    assert "add up to the output" not in text


def test_latex_has_booktabs_bold_and_escaped_names(index):
    text = (index.parent / "tables" / "shapes-proven.tex").read_text(encoding="utf-8")
    for command in ("\\toprule", "\\midrule", "\\bottomrule", "\\textbf{0.", "\\uparrow"):
        assert command in text
    assert "\\_CAM \\& 100\\% | é \\#1 \\$m\\_i\\$ \\textbackslash{}evil\\{\\}" in text
    assert "<script>" not in text
    body = re.sub(r"\\.", "", text)
    assert body.count("{") == body.count("}")
    rows = [line for line in text.splitlines() if line.endswith("\\\\") and "multicol" not in line]
    assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {5}


def test_markdown_rows_have_as_many_cells_as_the_head(index):
    lines = (index.parent / "tables" / "shapes-proven.md").read_text(encoding="utf-8").splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in table} == {8}  # 5 metrics
    assert "<script>" not in "".join(lines)


def test_csv_holds_the_board_to_ten_digits(index, ranked):
    with (index.parent / "tables" / "estimates.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(ranked.estimates)
    for row, mean in zip(rows, ranked.estimates["mean"], strict=True):
        assert (row["mean"] == "") == np.isnan(mean)
        if row["mean"]:
            assert float(row["mean"]) == pytest.approx(mean, rel=1e-9)


def test_pictures_come_only_from_data_that_may_be_passed_on(index):
    assert [path.name for path in (index.parent / "media").iterdir()] == ["shapes"]
    with Image.open(index.parent / "media" / "shapes" / "00-softcam.png") as image:
        assert image.size == (112, 112)


def test_a_signed_map_is_white_at_zero_and_an_unsigned_one_dark():
    values = np.array([[-2, 0], [1, np.nan]], np.float32)
    signed = gallery.heatmap(values, None, (28, 28), signed=True)
    assert signed.shape == (112, 112, 3)
    blue, white, red, grey = (
        signed[y, x].astype(int) for y, x in ((0, 0), (0, -1), (-1, 0), (-1, -1)))
    assert blue[2] > blue[0] + 30
    assert red[0] > red[2] + 30
    assert white.min() > 240
    assert len(set(grey)) == 1
    assert (signed[:56, :56] == signed[0, 0]).all()
    dark = gallery.heatmap(np.array([[0, 1]], np.float32), None, (28, 28), signed=False)
    assert dark[0, 0].max() < 10


def test_large_images_are_reduced_and_the_outline_follows_the_mask():
    mask = np.zeros((448, 448), np.uint8)
    mask[100:200, 100:200], mask[300:, 300:] = 1, 255
    picture = gallery.photograph(np.zeros((1, 448, 448), np.uint8), mask)
    assert picture.shape == (224, 224, 3)
    lit = picture.any(axis=2)
    assert lit[50, 50:100].all()
    assert lit.sum() == 4 * 50 - 4


@pytest.mark.parametrize(("text", "address"), [
    ("javascript:alert(1)", ""), ("Nobody 2020", ""),
    ("arXiv:1610.02391", "https://arxiv.org/abs/1610.02391"),
    ("Bach et al., https://doi.org/10.1371/x.", "https://doi.org/10.1371/x")])
def test_only_web_addresses_become_links(text, address):
    assert cards.link(text) == address


def test_names_become_safe_file_names():
    assert tables.slug("../a b/ö@c") == "a-b-@c"
    assert tables.slug("gradcam@softcam") == "gradcam@softcam"


def test_publishing_imports_no_torch():
    heavy = ("torch", "quantus", "captum", "timm", "datasets", "torchvision")
    code = ("import sys; import bench.board, bench.page; "
            f"print([name for name in {heavy!r} if name in sys.modules])")
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                            cwd=Path(__file__).parents[1], check=True)
    assert answer.stdout.strip() == "[]"
