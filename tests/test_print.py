"""The page on paper, on a phone, in the dark, and without a network: in a real Chromium."""

from __future__ import annotations

import base64
import json
import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image

from bench import board, page, results

browser = runpy.run_path(str(Path(__file__).with_name("test_browser.py")))
pytestmark = browser["pytestmark"]
WIDE = 2000
"""Milliseconds that a first paint may take here, on a busy machine."""


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a small synthetic suite."""
    home = tmp_path_factory.mktemp("page")
    build = runpy.run_path(str(Path(__file__).with_name("synthetic.py")))["build"]
    found = results.read(build(home / "results", images=6, seeds=2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page.plots, "write", lambda *_: [])
        return page.write(board.rank(found), found, home / "leaderboard")


@pytest.fixture(scope="module")
def window(index: Path) -> Iterator[Any]:
    """A desk's window, whose storage and network the tests look at."""
    found = browser["Page"](index, 1400)
    found.driver.execute_cdp_cmd("Network.enable", {})
    yield found
    found.driver.quit()


THEME = "return document.documentElement.style.colorScheme"


def test_the_theme_is_remembered(window: Any) -> None:
    window.open()
    window.run("localStorage.clear()")
    window.open()
    assert window.run(THEME) == ""  # as the system has it
    window.click("#theme")
    chosen = window.run(THEME)
    window.open()
    assert window.run(THEME) == chosen == "dark"
    assert window.run("return getComputedStyle(document.body).backgroundColor") == (
        "rgb(20, 22, 26)")
    window.click("#theme")
    window.open()
    assert window.run(THEME) == "light"
    window.run("localStorage.clear()")


def test_a_browser_that_stores_nothing_does_no_harm(window: Any) -> None:
    forbidden = window.driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {
        "source": "Object.defineProperty(window, 'localStorage', {get() {"
                  "throw new DOMException('no', 'SecurityError'); }});"})
    try:
        window.open()
        window.click("#theme")
        window.one("#find").send_keys("softcam")
        assert window.texts(".switches output") == ["4 of 11"]
        window.open("open=shapes/softcam/dice")
        window.wait("#again")
        assert not [line for line in window.driver.get_log("browser") if line["level"] != "INFO"]
    finally:
        window.driver.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", forbidden)


def test_no_request_of_any_page_leaves_the_folder(window: Any) -> None:
    pages = [window.index, *(next(iter(sorted(window.index.parent.glob(f"pages/{kind}/*.html"))))
                             for kind in ("metrics", "methods", "data"))]
    window.driver.get_log("performance")
    window.driver.get_log("browser")
    for path in pages:
        window.driver.get(path.as_uri())
        window.run("document.querySelectorAll('details').forEach(d => { d.open = true; });"
                   "scrollTo(0, document.body.scrollHeight)")
    window.open("open=shapes/softcam/pixel-flipping")
    window.wait("#again")
    asked = [event["params"]["request"]["url"] for line in window.driver.get_log("performance")
             if (event := json.loads(line["message"])["message"])["method"]
             == "Network.requestWillBeSent"]
    assert len(asked) > len(pages) + 5
    home = unquote(window.index.parent.as_uri())
    assert not [url for url in asked if not unquote(url).startswith((f"{home}/", "data:", "blob:"))
                and url != "about:blank"]
    assert not [line for line in window.driver.get_log("browser") if line["level"] != "INFO"]


def test_paper_shows_the_tables_whole_and_dark_on_white(window: Any) -> None:
    window.open()
    window.run("localStorage.setItem('heatproof-theme', 'dark')")
    window.open()
    try:
        # A4 at 96 pixels an inch, less margins of 1 cm.
        window.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
        window.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {
            "width": 1047, "height": 718, "deviceScaleFactor": 1, "mobile": False})
        shown = window.run("return ['nav', '.switches', '.weights', '.skip', 'dialog', '#theme']"
                           ".filter(s => [...document.querySelectorAll(s)].some("
                           "e => e.checkVisibility()))")
        assert shown == []
        assert window.run("return document.documentElement.scrollWidth") <= 1047
        ink, paper = window.run("const s = getComputedStyle(document.body);"
                                "return [s.color, s.backgroundColor]")
        assert max(map(int, re.findall(r"\d+", ink)[:3])) < 60
        assert paper == "rgb(255, 255, 255)"
        # All tracks and all images are there, since paper has no switch.
        assert {text.split(" track")[0] for text in window.texts("h3.of-track")} == {
            "Proven", "Quantus", "Resolution-fair"}
    finally:
        window.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
        window.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        window.run("localStorage.clear()")


def test_the_page_prints(window: Any) -> None:
    window.open()
    made = base64.b64decode(window.driver.execute_cdp_cmd("Page.printToPDF", {
        "landscape": True, "printBackground": True, "paperWidth": 8.27, "paperHeight": 11.7})[
        "data"])
    assert made.startswith(b"%PDF")
    assert 3 < len(re.findall(rb"/Type\s*/Page\b", made)) < 60


def test_the_first_paint_is_quick(window: Any) -> None:
    window.open()
    painted = window.run("return performance.getEntriesByName('first-contentful-paint')[0]"
                         ".startTime")
    assert 0 < painted < WIDE


@pytest.mark.parametrize("width", [390, 1400])
def test_the_page_shows_itself_on_a_phone_and_on_a_desk(
    index: Path, tmp_path: Path, width: int,
) -> None:
    phone = browser["Page"](index, width, 1600)
    try:
        phone.open()
        assert phone.run("return [innerWidth, document.documentElement.scrollWidth]") == [
            width, width]
        shot = tmp_path / "shot.png"
        phone.driver.save_screenshot(str(shot))
        picture = np.asarray(Image.open(shot).convert("L"), float)[:, :width]
        assert (picture.std(1) > 1).mean() > 0.4, "most of the page is blank"
        # Nothing runs out of the page: its right margin is empty from top to bottom.
        assert np.ptp(picture[:, -6:]) < 40 or width == 390  # a phone's switches go on sideways
        phone.open("open=shapes/softcam/pixel-flipping")
        phone.wait("#again")
        box = phone.run("const r = document.querySelector('dialog').getBoundingClientRect();"
                        "return [r.width, r.height, document.querySelector('dialog').scrollWidth]")
        assert box[2] <= box[0]
        assert width > 390 or box[:2] == [390, 1600]
    finally:
        phone.driver.quit()
