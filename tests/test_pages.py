"""Cards as pages: whole, safe with any name, without a script, and around the board."""

from __future__ import annotations

import html.parser
import re
import shutil
import subprocess
from dataclasses import replace
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image
from synthetic import HOSTILE

from bench import page
from bench.page import cards, gallery, pages, tables

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
VOID = {"meta", "link", "img", "br", "wbr", "line", "circle"}


class Reader(html.parser.HTMLParser):
    """The tags, words, addresses and ids of a page whose every tag is closed."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.pieces, self.addresses, self.ids = [], [], [], [], set()
        self.feed(text)
        assert not self.open, f"never closed: {self.open}"
        self.words = re.sub(r"\s+", " ", " ".join(self.pieces))

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.ids.add(dict(attributes).get("id"))
        self.addresses += [value for name, value in attributes if name in ("href", "src")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.pieces.append(data)


@pytest.fixture(scope="module")
def found(planted):
    return planted


@pytest.fixture(scope="module")
def ranked(planted_board):
    return planted_board


@pytest.fixture(scope="module")
def folder(found, ranked, tmp_path_factory):
    """A folder with the board's page and the pages of its cards."""
    home = tmp_path_factory.mktemp("page")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page.plots, "write", lambda *_: [])
        index = page.write(ranked, found, tmp_path_factory.mktemp("leaderboard"))
    (home / "index.html").write_bytes(index.read_bytes())
    pages.write(ranked, found, gallery.write(ranked, found, home / "media"), home)
    return home


@pytest.fixture(scope="module")
def read(folder):
    """The page of a place and name, read."""
    return lambda place, name: Reader(
        (folder / "pages" / place / f"{tables.slug(name)}.html").read_text(encoding="utf-8"))


def test_there_is_a_page_for_every_metric_contestant_and_data_set(folder, ranked, found):
    for place, names in {"metrics": [m["name"] for m in ranked.metrics],
                         "methods": ranked.contestants, "data": found.plan["datasets"]}.items():
        written = {path.name for path in (folder / "pages" / place).iterdir()}
        assert written == {f"{tables.slug(name)}.html" for name in names}


def test_every_local_address_leads_somewhere_and_nothing_is_fetched_from_elsewhere(folder):
    ids = re.findall(r'id="([^"]+)"', (folder / "index.html").read_text(encoding="utf-8"))
    for path in folder.glob("pages/*/*.html"):
        card = Reader(path.read_text(encoding="utf-8"))
        for address in card.addresses:
            if address.startswith(("https://", "http://")):
                continue
            file, _, fragment = address.partition("#")
            assert (path.parent / unquote(file)).exists(), (path.name, address)
            if fragment:
                assert fragment in (ids if "index.html" in file else card.ids), address
        fetched = [facts.get("src") or facts["href"] for tag, facts in card.tags
                   if tag in ("img", "link")]
        assert fetched
        assert not [address for address in fetched if "//" in address]


def test_hostile_names_are_shown_as_text_and_no_page_has_a_script(folder, read):
    for path in folder.glob("pages/*/*.html"):
        text = path.read_text(encoding="utf-8")
        card = Reader(text)
        assert not {tag for tag, _ in card.tags} & {"script", "em", "i", "b", "style", "form"}
        assert not [facts for _, facts in card.tags
                    if any(name == "style" or name.startswith("on") for name in facts)]
        (policy,) = [facts["content"] for tag, facts in card.tags if tag == "meta"
                     and "http-equiv" in facts]
        assert policy.startswith("default-src 'none'; style-src 'self' file:; img-src")
        assert "unsafe" not in policy
        assert not [address for address in card.addresses if address.startswith("javascript")]
    assert HOSTILE in "".join(read("methods", "gradcam").pieces)
    assert 'Nobody, "Shapes" (2024) <script>' in read("data", "shapes").words


def test_cards_can_be_read_aloud(folder):
    for path in folder.glob("pages/*/*.html"):
        card = Reader(path.read_text(encoding="utf-8"))
        count = [tag for tag, _ in card.tags]
        assert count.count("table") == count.count("caption")
        assert count.count("h1") == count.count("main") == 1
        assert all("scope" in facts for tag, facts in card.tags if tag == "th")
        assert all(facts.get("alt") for tag, facts in card.tags if tag == "img")
        assert ("html", {"lang": "en"}) in card.tags


def test_a_metric_is_told_with_its_known_answers_and_its_leaders(read):
    card = read("metrics", "pixel-flipping")
    for said in ("Synthetic <em>suite</em> Metrics Pixel Flipping", "✓ 24/24", "1/(K+1) · Σₖ pₖ",
                 "↓ lower is better", "0 to 1", "probability", "steps + 1 forward",
                 "operator = mean", "synthetic-1, with other parameters", "12 ms a sample on cpu",
                 "it gave every known answer: 24/24", "order, answer 23",
                 "The curve starts at the untouched image <b>."):
        assert said in card.words, said
    assert "https://arxiv.org/abs/1509.06321" in card.addresses
    assert re.search(r"Letters : SoftCAM \(softcam\) leads with 0\.\d+ \[\S+, \S+\], first in "
                     r"\d+ % of the draws; the best control, (Sobel|Uniform) \w+, has 0\.\d+",
                     card.words)
    assert "RGB: oracle 0.20, random 0.31" in read("metrics", "correlation").words


def test_a_metric_that_a_data_set_cannot_have_says_why(read):
    assert "Letters : letters has no masks." in read("metrics", "dice").words


def test_what_ranks_nothing_says_so_and_names_no_leader(read):
    for name, said in (("ood/mean", "A gauge measures operators"), ("mprt", "passed or failed"),
                       ("quantus/Completeness", "Defect : asks for exact equality of floats")):
        words = read("metrics", name).words
        assert said in words
        assert "leads with" not in words
        assert "shown, not ranked" in words


def test_a_contestant_is_told_with_its_cost_its_numbers_and_its_certificates(read):
    card = read("methods", "softcam")
    for said in ("contestant inherent", "SoftCAM; its twin is plain", "signed: evidence for",
                 "1 forward, 1 backward", "25 ms a map on cpu", "lasso = 0.0",
                 "✓ holds largest deviation 3.6e−7", "✓ certified", "4,900,000", "beats all",
                 "passes", "Proven track: mean, 95 % interval and rank"):
        assert said in card.words, said
    assert "../../index.html#data-shapes" in card.addresses
    assert "../metrics/quantus-PointingGame.html" in card.addresses
    other = read("methods", "gradcam")
    assert "✗ not certified" in other.words
    assert "https://arxiv.org/abs/1610.02391" in other.addresses
    assert "its twin" not in other.words


def test_a_contestant_that_could_not_run_says_why(read):
    card = read("methods", "foreign")
    assert "unsupported: the network has no feature map" in card.words
    assert "Incomplete, not ranked" in card.words
    assert "beats all" not in card.words


def test_a_control_is_called_one(read):
    assert "control" in read("methods", "edges").words
    assert "Does it beat the controls?" not in read("methods", "edges").words
    assert "ceiling" in read("methods", "oracle").words


def test_a_data_set_is_told_with_its_truth_its_licence_and_its_images(read):
    card = read("data", "shapes")
    for said in ("square, disc, tri<i>angle", "a mask for every image, planted", "CC0-1.0",
                 "8 images, seeds 0, 1, 2", "train: train; test: test", "✗ not certified",
                 "region flipped: 75 % of the answers change"):
        assert said in card.words, said
    assert sum(tag == "img" for tag, _ in card.tags) == 4
    other = read("data", "letters")
    assert "https://example.org/letters" in other.addresses
    assert "its images are not shown" in other.words
    assert not [tag for tag, _ in other.tags if tag == "img"]


def test_of_many_classes_thirty_are_named(found, ranked):
    card = {**found.plan["datasets"]["letters"], "classes": [f"c{i}" for i in range(1000)]}
    plan = {**found.plan, "datasets": {**found.plan["datasets"], "letters": card}}
    shared = cards.Cards.of(ranked, replace(found, plan=plan))
    told = pages.dataset_card(shared, "letters", None)
    assert (len(told["classes"]), told["more"]) == (30, 970)


@pytest.mark.parametrize(("seconds", "text"), [
    (0.00028, "280 µs"), (0.0012, "1.2 ms"), (0.5, "500 ms"), (3.42, "3.4 s"), (250, "250 s")])
def test_a_duration_is_short(seconds, text):
    assert cards.duration(seconds) == text


def test_the_same_board_gives_the_same_pages(folder, found, ranked, tmp_path):
    pages.write(ranked, found, gallery.write(ranked, found, tmp_path / "media"), tmp_path)
    for path in (folder / "pages").rglob("*.*"):
        assert path.read_bytes() == (tmp_path / path.relative_to(folder)).read_bytes()


@pytest.mark.browser
@pytest.mark.skipif(not CHROMIUM, reason="Chromium is not installed")
@pytest.mark.parametrize("card", [
    "metrics/pixel-flipping", "methods/gradcam@softcam", "data/shapes"])
def test_a_card_has_its_style_and_fits_a_phone(folder, tmp_path, card):
    # Chromium has no window narrower than about 500 pixels; a frame has.
    frame, shot = tmp_path / "frame.html", tmp_path / "shot.png"
    frame.write_text(f'<body style="margin:0"><iframe src="{folder.as_uri()}/pages/{card}.html" '
                     'style="width:390px;height:1200px;border:0"></iframe>')
    done = subprocess.run(
        [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
         "--no-first-run", "--disable-background-networking", "--disable-component-update",
         "--disable-sync", "--hide-scrollbars", "--enable-logging=stderr",
         f"--user-data-dir={tmp_path / 'profile'}", "--window-size=500,1200",
         f"--screenshot={shot}", frame.as_uri()], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "CONSOLE" not in done.stderr
    picture = np.asarray(Image.open(shot).convert("RGB"), int)[:, :390]
    assert (picture.std(1).max(-1) > 1).mean() > 0.4, "most of the page is blank"
    assert np.ptp(picture[:, -6:].mean(-1)) < 40, "something runs out of the page"
    # The paper of our style, which no page has without it.
    assert (picture[2, 2] == (0xfb, 0xfa, 0xf8)).all()
