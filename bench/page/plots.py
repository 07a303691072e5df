"""A board as plots: a forest plot a family, and curves; SVG for papers and PNG for slides."""

from __future__ import annotations

import math
import multiprocessing
import os
import textwrap
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.board import Board
from bench.checks import OOD
from bench.measure import GAUGE
from bench.page.gauges import network_labels
from bench.page.tables import Grid, grid, slug, track_title, tracks
from bench.verdicts import CLASSIFIER

_PALETTE = sns.color_palette("colorblind")
STYLE: dict[str, dict[str, Any]] = {
    "contestant": {"color": _PALETTE[0], "marker": "o"},
    "control": {"color": "0.45", "marker": "s"},
    "ceiling": {"color": _PALETTE[1], "marker": "D"},
}
"""Colour and shape both say what a row is, so that neither is needed."""

ACROSS = 4
"""Panels side by side in a forest plot; of more, the rest stand below."""

_SETTINGS: dict[Any, Any] = {
    # A fixed salt gives the same ids, and so the same bytes, at every publication.
    "svg.hashsalt": "heatproof", "font.family": "DejaVu Sans", "font.size": 8.5,
    "axes.titlesize": 9.5, "axes.labelsize": 8.5, "xtick.labelsize": 8, "ytick.labelsize": 8.5,
    "axes.edgecolor": "0.8", "axes.titlelocation": "left", "axes.titleweight": "bold",
    "axes.formatter.useoffset": False, "text.parse_math": False}


def write(board: Board, folder: Path) -> list[dict[str, Any]]:
    """The plots written: track, title, what, file (no suffix) and datasets.

    track is its slug, empty for what belongs to none: gauges and the networks' own.
    """
    folder.mkdir(parents=True)
    planned = [*_forests(board), *_curves(board)]
    # A drawing takes longer than all that went before it, and none needs another.
    workers = max(1, min(os.cpu_count() or 1, 4, len(planned)))
    if workers == 1 or "fork" not in multiprocessing.get_all_start_methods():
        _paint(board, folder, planned)
    else:
        with ProcessPoolExecutor(workers, multiprocessing.get_context("fork")) as pool:
            for done in [pool.submit(_paint, board, folder, planned[i::workers])
                         for i in range(workers)]:
                done.result()
    return [plot for plot, _, _ in planned]


Planned = tuple[dict[str, Any], list[Grid], list[dict[str, Any]]]
"""What `write` tells of a plot, the boards on it, and its metrics."""


def _forests(board: Board) -> Iterator[Planned]:
    grids = [grid(board, dataset) for dataset in dict.fromkeys(board.estimates["dataset"])]
    groups = dict.fromkeys((m["track"], m["family"]) for track in tracks(board)
                           for m in board.metrics if m["track"] == track
                           and m["family"] not in (GAUGE, CLASSIFIER))
    networks = dict.fromkeys((m["track"], m["family"]) for m in board.metrics
                             if m["family"] == CLASSIFIER)
    for track, family in [*groups, *networks]:
        metrics = [m for m in board.metrics if (m["track"], m["family"]) == (track, family)]
        shown = [table for table in grids if any(_rows(table, metric) for metric in metrics)]
        if shown:
            of = "" if family == CLASSIFIER else f" · {track_title(track)} track"
            yield {
                "track": "" if family == CLASSIFIER else slug(track),
                "file": slug(family) if family == CLASSIFIER else f"{slug(track)}-{slug(family)}",
                "what": "forest plot", "title": f"{family.capitalize()}{of}",
                "datasets": [table.dataset for table in shown]}, shown, metrics


def _curves(board: Board) -> Iterator[Planned]:
    grids = [grid(board, dataset) for dataset in dict.fromkeys(board.estimates["dataset"])]
    for metric in board.metrics:
        frame = board.curves[board.curves["metric"] == metric["name"]]
        shown = [table for table in grids if table.dataset in set(frame["dataset"])]
        if shown:
            gauge = metric["family"] == GAUGE
            of = "" if gauge else f" · {track_title(metric['track'])} track"
            yield {
                "track": "" if gauge else slug(metric["track"]),
                "file": f"curve-{slug(metric['name'])}", "what": "curves",
                "title": f"{metric['title']}: curve{of}",
                "datasets": [table.dataset for table in shown]}, shown, [metric]


def _paint(board: Board, folder: Path, planned: Sequence[Planned]) -> None:
    for plot, grids, metrics in planned:
        with _style():
            figure = (forest(grids, metrics) if plot["what"] == "forest plot"
                      else curves(board, grids, metrics[0]))
            _save(figure, folder / plot["file"])


@contextmanager
def _style() -> Iterator[None]:
    with sns.axes_style("whitegrid", {"grid.color": "0.92"}), mpl.rc_context(_SETTINGS):
        yield


def _save(figure: Figure, path: Path) -> None:
    figure.draw_without_rendering()
    figure.set_layout_engine()  # laid out once, not again for each format
    figure.savefig(path.with_name(f"{path.name}.svg"), metadata={"Date": None, "Creator": None})
    figure.savefig(path.with_name(f"{path.name}.png"), dpi=160, metadata={"Software": None})


def forest(grids: list[Grid], metrics: list[dict[str, Any]]) -> Figure:
    """Data sets down, metrics across; in each panel a contestant a line: mean and 95 % interval.

    Right is better in every panel: the axis of a metric whose low values are better runs backwards.
    The dashed line is the best control, which an explanation has to pass.
    """
    # Balanced, so that no metric stands alone in the last row.
    across = math.ceil(len(metrics) / math.ceil(len(metrics) / ACROSS))
    lines = [(table, metrics[i:i + across]) for table in grids
             for i in range(0, len(metrics), across)]
    heights = [0.95 + 0.23 * sum(len(table.rows[kind]) for kind in STYLE) for table, _ in lines]
    figure = Figure(figsize=(1.5 + 2.4 * across, sum(heights)), layout="constrained")
    axes = figure.subplots(len(lines), across, squeeze=False, height_ratios=heights)
    for row, (table, here) in zip(axes, lines, strict=True):
        names = [name for kind in STYLE for name in table.rows[kind]]
        for ax in row[len(here):]:
            ax.set_axis_off()
        for place, (ax, metric) in enumerate(zip(row, here, strict=False)):
            _panel(ax, table, metric, names)
            said = f"{table.dataset} · {metric['title']}"
            ax.set_title(textwrap.fill(
                f"{said} (defect, not ranked)" if metric["defect"] else said, 32))
            if place:
                ax.set_yticklabels([])
    return figure


def curves(board: Board, grids: list[Grid], metric: dict[str, Any]) -> Figure:
    """A panel a data set; in each a line a contestant, with its 95 % interval as a band.

    Controls are grey and dashed, ceilings black and dotted. The legend stands in the order of the
    lines' ends.
    """
    found = board.curves[board.curves["metric"] == metric["name"]]
    frames = [found[found["dataset"] == table.dataset] for table in grids]
    figure = Figure(figsize=(6.4, sum(max(2.6, 0.9 + 0.19 * frame["contestant"].nunique())
                                      for frame in frames)), layout="constrained")
    axes = figure.subplots(len(grids), 1, squeeze=False)[:, 0]
    for ax, table, frame in zip(axes, grids, frames, strict=True):
        _lines(ax, board, table, frame, networks=metric["name"].startswith(OOD))
        said = "" if metric["family"] == GAUGE else f"{metric['better']} is better"
        ax.set_ylabel("\n".join(part for part in (metric["units"], said) if part))
        ax.set_title(textwrap.fill(f"{table.dataset} · {metric['title']}", 60))
        sns.despine(ax=ax)
    return figure


def _lines(
    ax: Axes, board: Board, table: Grid, frame: pd.DataFrame, *, networks: bool,
) -> None:
    drawn = {str(name): points for name, points in frame.groupby("contestant")}
    labels = network_labels(board, list(drawn)) if networks else {name: name for name in drawn}
    order = [(kind, name) for kind in STYLE for name in table.rows[kind] if name in drawn]
    ends = {}
    for i, (kind, name) in enumerate(order):
        style: dict[str, Any] = {
            "contestant": {"color": _PALETTE[i % len(_PALETTE)], "linestyle": "-",
                           "marker": "osD^v"[i // len(_PALETTE) % 5]},
            "control": {"color": str(0.35 + 0.1 * (i % 4)), "linestyle": "--", "marker": "s"},
            "ceiling": {"color": "black", "linestyle": ":", "marker": "D"}}[kind]
        points = drawn[name]
        (line,) = ax.plot(points["at"], points["mean"], label=labels[name], linewidth=1.5,
                          markersize=3.5 if len(points) < 16 else 0, **style)
        ax.fill_between(points["at"], points["low"], points["high"], color=style["color"],
                        alpha=0.13, linewidth=0)
        ends[line] = points["mean"].iloc[-1]
    ax.legend(handles=sorted(ends, key=lambda line: -ends[line]), frameon=False,
              loc="center left", bbox_to_anchor=(1.01, 0.5), handlelength=2.6)
    ax.set_xlabel(axis := frame["axis"].iloc[0])
    if axis == "cells per side":
        rungs = sorted(set(frame["at"]))
        ax.set_xscale("log", base=2)
        ax.set_xticks(rungs, [f"{rung:g}" for rung in rungs])
        ax.minorticks_off()


def _rows(table: Grid, metric: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    """Kind, name and estimate of each contestant that has a number."""
    found = ((kind, name, table.cells.get((name, metric["name"])))
             for kind in STYLE for name in table.rows[kind])
    return [(kind, name, cell.row) for kind, name, cell in found if cell is not None]


def _panel(ax: Axes, table: Grid, metric: dict[str, Any], names: list[str]) -> None:
    rows = _rows(table, metric)
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.grid(visible=False, axis="y")
    if not rows:
        ax.text(0.5, 0.5, "not measured here", transform=ax.transAxes, ha="center", color="0.5")
        ax.set_xticks([])
        return
    sign = 1 if metric["better"] == "higher" else -1
    # Controls explain the plain network: theirs is no accuracy to beat.
    control = max((row["mean"] * sign for kind, _, row in rows
                   if kind == "control" and metric["family"] != CLASSIFIER), default=math.nan)
    if math.isfinite(control):
        ax.axvline(control * sign, color="0.45", linestyle=(0, (4, 3)), linewidth=1, zorder=1)
    for kind, style in STYLE.items():
        here = [(names.index(name), row) for of, name, row in rows if of == kind]
        if here:
            at, estimates = zip(*here, strict=True)
            ax.hlines(at, [row["low"] for row in estimates], [row["high"] for row in estimates],
                      color=style["color"], linewidth=2.2, alpha=0.55, zorder=2)
            ax.scatter([row["mean"] for row in estimates], at, s=34, zorder=3, edgecolor="white",
                       linewidth=0.6, **style)
    for tick, name in zip(ax.get_yticklabels(), names, strict=True):
        if name in table.rows["control"]:
            tick.set_color("0.45")
    if sign < 0:
        ax.invert_xaxis()
    ax.margins(x=0.08)
    ax.set_xlabel(f"{metric['better']} is better →")
    ax.set_ylabel("")
    sns.despine(ax=ax, left=True)
