"""A board as plots, for papers (SVG) and slides (PNG); they show its numbers and add none."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.board import Board
from bench.page.gallery import Gallery
from bench.page.plots import critical, curves, forest, montage, pareto, ranks
from bench.page.plots.sheet import Plot, save, style
from bench.page.tables import grid


def write(
    board: Board, folder: Path, galleries: Mapping[str, Gallery] | None = None,
    cards: Mapping[str, dict[str, Any]] | None = None,
) -> list[dict[str, Any]]:
    """The plots written: track, title, what, file (no suffix) and datasets.

    track is its slug, empty for what belongs to none: gauges, galleries and the networks' own.
    galleries: as `gallery.write` gives them, in a folder beside; cards: of the data sets, by name.
    """
    folder.mkdir(parents=True)
    grids = [grid(board, dataset) for dataset in dict.fromkeys(board.estimates["dataset"])]
    planned = _apart([
        *ranks.planned(board, grids), *pareto.planned(board, grids),
        *forest.planned(board, grids),
        *critical.planned(board), *ranks.agreements(board), *curves.planned(board, grids),
        *montage.planned(galleries or {}, cards or {}, folder.parent)])
    # A drawing takes longer than all that went before it, and none needs another.
    workers = max(1, min(os.cpu_count() or 1, 4, len(planned)))
    if workers == 1 or "fork" not in multiprocessing.get_all_start_methods():
        _paint(folder, planned)
    else:
        dear = sorted(planned, key=lambda plot: -plot.cost)
        with ProcessPoolExecutor(workers, multiprocessing.get_context("fork")) as pool:
            for done in [pool.submit(_paint, folder, dear[i::workers]) for i in range(workers)]:
                done.result()
    return [plot.facts() for plot in planned]


def _apart(planned: Sequence[Plot]) -> list[Plot]:
    """The same plots, each with a file of its own: two names can be alike as files."""
    taken: set[str] = set()
    found = []
    for plot in planned:
        file, n = plot.file, 2
        while file.casefold() in taken:
            file, n = f"{plot.file}-{n}", n + 1
        taken.add(file.casefold())
        found.append(replace(plot, file=file))
    return found


def _paint(folder: Path, planned: Sequence[Plot]) -> None:
    with style():
        for plot in planned:
            save(plot.draw(), folder / plot.file)
