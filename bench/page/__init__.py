"""The page: a board to one folder that opens from disk, with all that its numbers stand on."""

from __future__ import annotations

import shutil
from pathlib import Path

from bench.board import Board
from bench.core import HeatproofError
from bench.page import chunks, exports, gallery, pages, plots, tables, view
from bench.results import Results
from bench.store import told

GENERATOR = '<meta name="generator" content="heatproof">'
"""What a page of ours says of itself; a folder without it is never replaced."""

SCRIPTS = "page.js", "number.js"
"""What makes the page answer, in order; without it all can still be read."""


def write(board: Board, results: Results, out: Path) -> Path:
    """The path of out/SUITE/index.html, with its script, tables, plots, media and data.

    The same results give the same bytes. The page is built beside the old one and takes its place
    when it is whole, so a publication that is killed leaves the old page as it was. Raises
    HeatproofError if `out` cannot be written or holds something else in the page's place.
    """
    target = out / board.suite
    if target.exists() and not _is_ours(target):
        raise HeatproofError(
            f"{target} exists and is no page of ours, so it is not replaced; give another --out")
    fresh, old = out / f".{board.suite}.new", out / f".{board.suite}.old"
    with told(out):
        _settle(target, old)
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        try:
            _fill(board, results, fresh)
            if target.exists():
                target.rename(old)
            fresh.rename(target)
        finally:
            _settle(target, old)
            shutil.rmtree(fresh, ignore_errors=True)
    return target / "index.html"


def _settle(target: Path, old: Path) -> None:
    """Puts the old page back if a publication was killed just before the new one was there."""
    if old.exists() and not target.exists():
        old.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def _is_ours(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    page = folder / "index.html"
    if not page.is_file():
        return not any(folder.iterdir())
    return GENERATOR in page.read_text(encoding="utf-8", errors="replace")[:2000]


def _fill(board: Board, results: Results, folder: Path) -> None:
    written = [*exports.write(board, results, folder), *tables.write(board, folder / "tables")]
    pictures = gallery.write(board, results, folder / "media")
    figures = plots.write(board, folder / "plots", pictures, results.plan["datasets"])
    chunks.write(board, results, pictures, folder / "data")
    pages.write(board, results, pictures, folder)
    for script in SCRIPTS:
        shutil.copyfile(Path(__file__).with_name(script), folder / script)
    page = pages.environment().get_template("index.html.j2").render(
        view.context(board, results, pictures), generator=GENERATOR, scripts=SCRIPTS, plots=figures,
        downloads=[path.relative_to(folder).as_posix() for path in written])
    (folder / "index.html").write_text(page, encoding="utf-8", newline="\n")
