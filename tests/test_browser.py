"""The page in a real Chromium: it opens from disk, answers, and asks for nothing else."""

from __future__ import annotations

import re
import runpy
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench import board, page, results

webdriver = pytest.importorskip("selenium.webdriver")
waiting = pytest.importorskip("selenium.webdriver.support.ui")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")
pytestmark = [pytest.mark.browser, pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="Chromium and chromium-driver are not installed")]

FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync",
         "--hide-scrollbars")


class Page:
    """One window of Chromium, and what a reader does in it."""

    def __init__(self, index: Path, width: int, height: int = 900) -> None:
        options = webdriver.ChromeOptions()
        options.binary_location = str(CHROMIUM)
        for flag in (*FLAGS, f"--window-size={width},{height}"):
            options.add_argument(flag)
        if width < 500:  # Chromium has no narrower window, but a phone to imitate.
            options.add_experimental_option("mobileEmulation", {
                "deviceMetrics": {"width": width, "height": height, "pixelRatio": 1}})
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        service = webdriver.ChromeService(str(DRIVER))
        self.index, self.driver = index, webdriver.Chrome(options=options, service=service)
        self.driver.set_script_timeout(20)

    def open(self, state: str = "") -> None:
        self.driver.get("about:blank")
        self.driver.get(self.index.as_uri() + (f"#{state}" if state else ""))

    def run(self, code: str, *args: object) -> Any:
        return self.driver.execute_script(code, *args)

    def one(self, selector: str) -> Any:
        found = self.driver.find_element("css selector", selector)
        self.run("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", found)
        return found

    def click(self, selector: str) -> None:
        self.one(selector).click()

    def texts(self, selector: str) -> list[str]:
        return self.run("return [...document.querySelectorAll(arguments[0])]"
                        ".filter(e => e.checkVisibility()).map(e => e.textContent.trim())",
                        selector)

    def key(self, *keys: str) -> None:
        self.driver.switch_to.active_element.send_keys(*keys)

    def wait(self, selector: str) -> Any:
        until = waiting.WebDriverWait(self.driver, 20)
        return until.until(lambda driver: driver.find_element("css selector", selector))

    @property
    def state(self) -> str:
        return str(self.driver.current_url).partition("#")[2]


@pytest.fixture(scope="module")
def ranked_and_index(tmp_path_factory: pytest.TempPathFactory) -> tuple[board.Board, Path]:
    """The board and the page of the synthetic suite, with its hostile names."""
    home = tmp_path_factory.mktemp("page")
    build = runpy.run_path(str(Path(__file__).with_name("synthetic.py")))["build"]
    found = results.read(build(home / "results"))
    ranked = board.rank(found)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page.plots, "write", lambda *_: [])
        return ranked, page.write(ranked, found, home / "leaderboard")


@pytest.fixture(scope="module")
def index(ranked_and_index: tuple[board.Board, Path]) -> Path:
    return ranked_and_index[1]


@pytest.fixture(scope="module")
def window(index: Path) -> Iterator[Page]:
    """A desk's window, shared: a test opens the page anew."""
    found = Page(index, 1400)
    yield found
    found.driver.quit()


@pytest.fixture
def desk(window: Page) -> Iterator[Page]:
    """The page, newly opened; a complaint of the console, or a request that leaves the folder, is
    an error of whichever test it happens in."""
    window.open()
    yield window
    assert not [line for line in window.driver.get_log("browser") if line["level"] != "INFO"]
    asked = window.run("return performance.getEntries().map(e => e.name)"
                       ".filter(name => name.includes(':'))")
    assert all(name.startswith(window.index.parent.as_uri()) for name in asked), asked


PROVEN = 'table[data-key="shapes.proven.0"]'


SANITY = PROVEN.replace("n.0", "n.1")


def means(page: Page, column: int, table: str = PROVEN) -> list[float]:
    return page.run(
        "return [...document.querySelectorAll(arguments[0])].map(row => row.cells[arguments[1]])"
        ".map(cell => cell.dataset.v === undefined ? NaN : Number(cell.dataset.v))",
        f"{table} tbody.contestant tr", column)


def test_the_page_opens_from_disk_and_shows_one_track(desk: Page) -> None:
    assert desk.texts("h2")[0] == "Which explanations beat the controls?"
    assert desk.texts("h3.of-track") and all("Proven" in t for t in desk.texts("h3.of-track"))
    assert not desk.run("return document.querySelector('dialog').open")


def test_hostile_names_are_shown_as_text_also_by_the_script(desk: Page) -> None:
    desk.open("open=shapes/gradcam/pixel-flipping")
    desk.wait("#again")
    assert '<script>alert("x")</script>' in desk.texts("dialog h2")[0]
    assert "Shapes <b>& squares</b>" in desk.texts("dialog h2")[0]
    assert "tri<i>angle" in desk.texts("dialog .samples td")
    assert desk.run("return document.querySelectorAll('main em, dialog em, dialog b').length") == 0


def test_a_column_sorts_best_first_then_worst_first_then_as_published(desk: Page) -> None:
    before = means(desk, 2, SANITY)
    head = f"{SANITY} thead tr:last-child th:nth-child(2)"
    assert sorted(before) != before
    desk.click(f"{head} button.by")  # randomisation: lower is better
    assert means(desk, 2, SANITY) == sorted(before)
    assert desk.one(head).get_attribute("aria-sort") == "ascending"
    state = desk.state
    desk.one(f"{head} button.by").send_keys("\ue007")  # Enter
    assert means(desk, 2, SANITY) == sorted(before, reverse=True)
    assert desk.one(head).get_attribute("aria-sort") == "descending"
    desk.click(f"{head} button.by")
    assert means(desk, 2, SANITY) == before
    assert desk.one(head).get_attribute("aria-sort") is None
    desk.open(state)
    assert means(desk, 2, SANITY) == sorted(before)


def test_what_has_no_number_stays_last_and_the_groups_stay_apart(desk: Page) -> None:
    kinds = "return [...document.querySelectorAll(arguments[0])].map(b => b.className)"
    order = desk.run(kinds, f"{PROVEN} tbody")
    desk.open("s.verdicts.proven=1r&s.shapes.proven.0=1r")
    assert desk.run(kinds, f"{PROVEN} tbody") == order
    ranks = means(desk, 1)
    assert ranks == sorted(ranks, reverse=True)
    verdicts = desk.run("return [...document.querySelectorAll('[data-key=\"verdicts.proven\"] tbody"
                        " tr')].map(row => row.cells[1].dataset.v ?? null)")
    assert verdicts[-2:] == [None, None]  # the incomplete
    assert None not in verdicts[:-2]


def test_rows_are_found_by_text_kind_and_family(desk: Page) -> None:
    rows = f"{PROVEN} tbody tr:not(.kind) th .name"
    everyone = desk.texts(rows)
    desk.one("#find").send_keys("soft lasso")
    assert desk.texts(rows) == ["softcam-lasso", "gradcam@softcam-lasso"]
    assert desk.texts(f"{PROVEN} tr.kind") == []
    assert desk.texts(".switches output") == ["2 of 11"]
    desk.one("#find").clear()
    desk.run("const s = document.querySelector('#of-family'); s.value = 'cam';"
             "s.dispatchEvent(new Event('input', {bubbles: true}))")
    assert set(desk.texts(rows)) == {"gradcam", "gradcam@softcam", "gradcam@softcam-lasso"}
    desk.open("kind=control")
    assert set(desk.texts(rows)) == {"noise", "edges"}
    desk.open("")
    assert desk.texts(rows) == everyone


def test_a_link_brings_back_what_was_shown(desk: Page) -> None:
    desk.click('label[for="show-quantus"]')
    desk.click('label[for="show-common"]')
    desk.run("const s = document.querySelector('#show-data'); s.value = 'shapes';"
             "s.dispatchEvent(new Event('input', {bubbles: true}))")
    shown = desk.texts("h3.of-track"), desk.texts("caption")
    assert desk.state == "track=quantus&images=common&data=shapes"
    assert all("Quantus" in text for text in shown[0])
    assert len(shown[0]) == 1
    desk.open(desk.state)
    assert (desk.texts("h3.of-track"), desk.texts("caption")) == shown
    desk.click('nav a[href="#metrics"]')
    assert desk.state == "metrics&track=quantus&images=common&data=shapes"
    assert desk.texts("h3.of-track") == shown[0]


def test_at_equal_weights_the_order_is_the_published_one_and_sliders_change_it(desk: Page) -> None:
    def order() -> list[str]:
        """Name, place and combined rank on the first data set, as they stand."""
        return desk.run("return document.querySelectorAll('.in-quantus .weighed')[1]"
                        ".tBodies[0].innerText.trim().split('\\n').filter(t => t.trim())")

    desk.open("track=quantus")
    desk.run("document.querySelector('.in-quantus .weighing').open = true")
    before = order()
    written = desk.index.read_text(encoding="utf-8")
    quantus = written.split('data-key="w.quantus"')[1]
    table = quantus.split('<table class="weighed">')[2].split("</tbody>")[0]
    names = [name.replace("<wbr>", "") for name in re.findall(
        r'<tr data-name="[^"]*".*?class="name">(.*?)</span>', table)]
    assert [line for line in before if line in names] == names
    for combined in re.findall(r'class="combined">([^<]*)<', table):
        assert any(combined in line for line in before)
    assert desk.texts(".weights output") == ["50 %", "50 %"]
    desk.one(".in-quantus .weights input").send_keys("\ue010")  # End: the most
    after = order()
    assert after != before
    assert desk.state == "track=quantus&w.quantus=4,1"
    desk.open(desk.state)
    assert desk.run("return document.querySelector('.in-quantus .weighing').open")
    assert order() == after
    desk.click(".in-quantus .weights button")
    assert order() == before
    assert desk.state == "track=quantus"


@pytest.mark.parametrize("number", [
    ("shapes", "softcam", "pixel-flipping", "estimates"),
    ("letters", "edges", "correlation", "estimates"), ("shapes", "softcam", "dice", "common"),
    ("shapes", "gradcam", "pointing", "estimates"), ("shapes", "softcam", "accuracy", "estimates")])
def test_a_number_aggregated_again_is_the_published_one_to_six_digits(
    desk: Page, ranked_and_index: tuple[board.Board, Path], number: tuple[str, str, str, str],
) -> None:
    dataset, name, metric, frame = number
    rows = getattr(ranked_and_index[0], frame)
    mean = rows[(rows["dataset"] == dataset) & (rows["contestant"] == name)
                & (rows["metric"] == metric)]["mean"].item()
    desk.open(f"open={dataset}/{name}/{metric}" + ("/common" if frame == "common" else ""))
    again = float(desk.wait("#again").get_attribute("data-mean"))
    assert again == pytest.approx(mean, rel=1e-6)
    assert float(desk.one("dialog strong").text) == pytest.approx(mean, abs=.0006)
    assert (" networks" in desk.one("dialog dl").text) == (metric == "accuracy")


def test_a_number_opens_by_keyboard_and_escape_gives_the_focus_back(desk: Page) -> None:
    focused = ("const c = document.activeElement.closest('td');"
               "return [c.parentNode.dataset.name, c.cellIndex]")
    desk.run("document.querySelector(arguments[0]).focus()", f"{PROVEN} td:nth-child(3) button")
    name, column = desk.run(focused)
    desk.key("\ue014")  # right
    assert desk.run(focused) == [name, column + 1]
    desk.key("\ue015")  # down
    desk.key("\ue012")  # left
    below, same = desk.run(focused)
    assert (below != name, same) == (True, column)
    desk.key("\ue012")  # further left is the family's rank
    assert desk.run(focused) == [below, column - 1]
    desk.key("\ue014")
    assert desk.run("return document.querySelectorAll(arguments[0]).length",
                    f"{PROVEN} button.mean[tabindex='0']") == 1
    desk.key("\ue007")
    desk.wait("#again")
    assert desk.state == f"open=shapes/{below}/pixel-flipping"
    desk.key("\ue00c")  # Escape
    assert not desk.run("return document.querySelector('dialog').open")
    assert desk.run(focused) == [below, column]
    assert desk.state == ""


def cell(row: str, head: str) -> str:
    """A script that finds the button of a row and a column, by what the two say of themselves."""
    return ("return [...document.querySelectorAll('main table')].filter(t => t.checkVisibility())"
            f".flatMap(t => [...t.querySelectorAll('tr{row}')].map(r => r.cells["
            f"heads(t).findIndex(h => h.matches('{head}'))])).find(c => c).querySelector('button')")


OPENING = [
    ("ood", '[data-name="gradcam"]', '[data-metric="ood/mean"]', "gradcam/ood%252Fmean"),
    ("processing", '[data-name="twin"]', '[data-metric="data-processing/pixel-flipping"]',
     "twin/data-processing%252Fpixel-flipping"),
    ("effect", '[data-metric="dice"]', '[data-name="softcam"][data-minus="gradcam@softcam"]',
     "softcam/dice/minus/gradcam%2540softcam"),
    ("family", '[data-name="softcam"]', '[data-judges="proven.faithfulness"]',
     "softcam//family/proven.faithfulness"),
    ("verdict", '[data-name="twin"]', '[data-judges="proven.randomisation"]',
     "twin//family/proven.randomisation")]


@pytest.mark.parametrize(("row", "head", "address"), [one[1:] for one in OPENING],
                         ids=[one[0] for one in OPENING])
def test_every_number_opens_by_keyboard(desk: Page, row: str, head: str, address: str) -> None:
    desk.run("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    found = desk.run(cell(row, head))
    desk.run("arguments[0].focus()", found)
    desk.key("\ue007")  # Enter
    desk.wait("dialog[open] tbody tr")
    assert desk.state == f"open=shapes/{address}"
    desk.key("\ue00c")  # Escape
    assert desk.run("return document.activeElement === arguments[0]", found)


def test_every_number_that_looks_as_if_it_opens_does(desk: Page) -> None:
    places = desk.run("return [...new Set([...document.querySelectorAll('td.number')].map("
                      "c => address(c).map(encodeURIComponent).join('/')))]")
    assert len(places) > 250
    desk.driver.set_script_timeout(120)
    broken = desk.driver.execute_async_script("""
        const [places, done] = arguments, broken = [];
        (async () => {
          for (const place of places) {
            const [set, name, metric, kind, other] = place.split("/").map(decodeURIComponent);
            await (kind === "minus" ? difference(set, name, metric, other, 3)
              : kind === "family" ? family(set, name, other)
                : number(set, name, metric, kind === "common", 3))
              .catch((error) => broken.push(`${place}: ${error.message}`));
          }
        })().then(() => done(broken));""", places)
    assert not broken


@pytest.mark.parametrize(("first", "second", "metric"), [
    ("softcam", "gradcam@softcam", "pixel-flipping"), ("gradcam@softcam", "gradcam", "pointing"),
    ("gradcam@softcam-lasso", "gradcam", "accuracy")])
def test_an_effect_aggregated_again_is_the_published_one_to_six_digits(
    desk: Page, ranked_and_index: tuple[board.Board, Path], first: str, second: str, metric: str,
) -> None:
    rows = ranked_and_index[0].effects
    found = rows[(rows["dataset"] == "shapes") & (rows["minuend"] == first)
                 & (rows["subtrahend"] == second) & (rows["metric"] == metric)]
    desk.open(f"open=shapes/{first}/{metric}/minus/{second}")
    again = float(desk.wait("#again").get_attribute("data-mean"))
    assert again == pytest.approx(found["mean"].item(), rel=1e-6, abs=1e-8)
    assert f"{found['mean'].item():.3f}".replace("-", "−") in desk.texts(".facts-of dd strong")
    # Both of its contestants open in turn, and so does what is behind it.
    desk.click(".facts-of button.see")
    desk.wait("#again[data-mean]")
    assert desk.state == f"open=shapes/{first.replace('@', '%2540')}/{metric}"
    desk.click("dialog .back")
    desk.wait(".facts-of .chip")


def test_a_family_rank_shows_the_ranks_that_it_is_made_of(
    desk: Page, ranked_and_index: tuple[board.Board, Path],
) -> None:
    ranked = ranked_and_index[0]
    rows = ranked.families[(ranked.families["dataset"] == "shapes")
                           & (ranked.families["contestant"] == "gradcam")
                           & (ranked.families["family"] == "faithfulness")]
    published = rows[rows["track"] == "proven"].iloc[0]
    desk.open("open=shapes/gradcam//family/proven.faithfulness")
    assert float(desk.wait("#again").get_attribute("data-mean")) == pytest.approx(
        published["mean_rank"])
    assert desk.texts(".facts-of strong") == [f"#{published['rank']:g}"]
    assert desk.texts("dialog tbody button") == ["Pixel Flipping", "Faithfulness Correlation"]
    desk.click("dialog tbody button")
    desk.wait("#again[data-mean]")
    assert desk.state == "open=shapes/gradcam/pixel-flipping"


def test_an_image_shows_its_mask_its_map_and_its_curve_beside_the_controls(desk: Page) -> None:
    desk.open("open=shapes/softcam/pixel-flipping")
    desk.wait(".pictures")
    assert desk.run("return [...document.querySelectorAll('.pictures img')].map(i => i.alt)") == [
        "Image shapes-000", "Map for shapes-000"]
    assert len(desk.texts(".strip button")) == 4
    desk.click(".strip button:nth-child(3)")
    assert desk.run("return [...document.querySelectorAll('.pictures img')].every("
                    "i => i.complete && i.naturalWidth)") is True
    assert "shapes-002" in desk.texts(".pictures p")[0]
    assert desk.texts("tr.chosen th") == ["shapes-002"]
    kinds = desk.run("return [...document.querySelectorAll('.pictures path')].map("
                     "p => p.getAttribute('class'))")
    assert kinds == ["axis", "own", "control"]
    said = desk.run("return document.querySelector('.pictures svg').getAttribute('aria-label')")
    assert "SoftCAM (softcam): from 1.000 to" in said and "the best control" in said


def test_the_table_of_images_sorts_and_says_why_a_value_is_missing(desk: Page) -> None:
    desk.open("open=shapes/gradcam/pointing")
    desk.wait("#again")
    assert desk.texts(".samples td:last-child")[:3] == ["constant map"] * 3
    desk.click(".samples th:nth-child(4) button")
    shown = desk.texts(".samples tbody td:nth-child(4)")
    assert shown[-3:] == ["–"] * 3
    assert [float(t) for t in shown[:-3]] == sorted(float(t) for t in shown[:-3])


def test_a_number_that_is_not_there_is_said_to_be_missing(desk: Page) -> None:
    desk.open("open=shapes/nobody/pointing")
    desk.wait("dialog[open]")
    waiting.WebDriverWait(desk.driver, 20).until(
        lambda _: "no such number" in desk.texts("dialog [role=status]")[0])
