"""The page in a real Chromium: it opens from disk, shows itself, and asks for nothing else."""

from __future__ import annotations

import runpy
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench import board, page, results

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.browser, pytest.mark.skipif(not CHROMIUM, reason="Chromium is not installed")]


def chromium(profile: Path, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
         "--no-first-run", "--disable-background-networking", "--disable-component-update",
         "--disable-sync", "--hide-scrollbars", f"--user-data-dir={profile}",
         "--enable-logging=stderr", *args],
        capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of the synthetic suite, with its hostile names."""
    home = tmp_path_factory.mktemp("page")
    build = runpy.run_path(str(Path(__file__).with_name("synthetic.py")))["build"]
    found = results.read(build(home / "results"))
    return page.write(board.rank(found), found, home / "leaderboard")


def test_the_page_opens_from_disk_without_a_complaint(index: Path, tmp_path: Path) -> None:
    done = chromium(tmp_path, "--dump-dom", index.as_uri())
    assert done.returncode == 0, done.stderr
    assert "Which explanations beat the controls?" in done.stdout
    complaints = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert not complaints


@pytest.mark.parametrize("width", [390, 1400])
def test_the_page_shows_itself_on_a_phone_and_on_a_desk(
    index: Path, tmp_path: Path, width: int,
) -> None:
    # Chromium has no window narrower than about 500 pixels; a frame has.
    frame = tmp_path / "frame.html"
    frame.write_text(f'<body style="margin:0"><iframe src="{index.as_uri()}" '
                     f'style="width:{width}px;height:1600px;border:0"></iframe>')
    shot = tmp_path / "shot.png"
    done = chromium(tmp_path / "profile", f"--window-size={max(width, 500)},1600",
                    f"--screenshot={shot}", frame.as_uri())
    assert done.returncode == 0, done.stderr
    picture = np.asarray(Image.open(shot).convert("L"), float)[:, :width]
    rows = picture.std(1) > 1
    assert rows.mean() > 0.4, "most of the page is blank"
    # Nothing runs out of the page: its right margin is empty from top to bottom.
    assert np.ptp(picture[:, -6:]) < 40
