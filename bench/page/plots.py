"""A board as plots: one forest plot a family of metrics, SVG for papers and PNG for slides."""

from __future__ import annotations

import math
import textwrap
from pathlib import Path
from typing import Any

import matplotlib as mpl
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.board import CLASSIFIER, Board
from bench.page.tables import Grid, grid, slug

_PALETTE = sns.color_palette("colorblind")
STYLE: dict[str, dict[str, Any]] = {
    "contestant": {"color": _PALETTE[0], "marker": "o"},
    "control": {"color": "0.45", "marker": "s"},
    "ceiling": {"color": _PALETTE[1], "marker": "D"},
}
"""Colour and shape both say what a row is, so that neither is needed."""

_SETTINGS: dict[Any, Any] = {
    # A fixed salt gives the same ids, and so the same bytes, at every publication.
    "svg.hashsalt": "heatproof", "font.family": "DejaVu Sans", "font.size": 8.5,
    "axes.titlesize": 9.5, "axes.labelsize": 8.5, "xtick.labelsize": 8, "ytick.labelsize": 8.5,
    "axes.edgecolor": "0.8", "axes.titlelocation": "left", "axes.titleweight": "bold",
    "axes.formatter.useoffset": False, "text.parse_math": False}


def write(board: Board, folder: Path) -> list[dict[str, Any]]:
    """The plots written, one a track and family: its track, family, file (no suffix), datasets."""
    folder.mkdir(parents=True)
    grids = [grid(board, dataset) for dataset in dict.fromkeys(board.estimates["dataset"])]
    written = []
    for track, family in dict.fromkeys((m["track"], m["family"]) for m in board.metrics):
        metrics = [m for m in board.metrics if (m["track"], m["family"]) == (track, family)]
        shown = [table for table in grids if any(_rows(table, metric) for metric in metrics)]
        if not shown:
            continue
        file = f"{slug(track)}-{slug(family)}"
        with sns.axes_style("whitegrid", {"grid.color": "0.92"}), mpl.rc_context(_SETTINGS):
            figure = forest(shown, metrics)
            figure.draw_without_rendering()
            figure.set_layout_engine("none")  # laid out once, not again for each format
            figure.savefig(folder / f"{file}.svg", metadata={"Date": None, "Creator": None})
            figure.savefig(folder / f"{file}.png", dpi=160, metadata={"Software": None})
        written.append({"track": track, "family": family, "file": file,
                        "datasets": [table.dataset for table in shown]})
    return written


def forest(grids: list[Grid], metrics: list[dict[str, Any]]) -> Figure:
    """Data sets down, metrics across; in each panel a contestant a line: mean and 95 % interval.

    Right is better in every panel: the axis of a metric whose low values are better runs backwards.
    The dashed line is the best control, which an explanation has to pass.
    """
    lines = [sum(len(table.rows[kind]) for kind in STYLE) for table in grids]
    figure = Figure(figsize=(1.5 + 2.4 * len(metrics), sum(0.95 + 0.23 * n for n in lines)),
                    layout="constrained")
    axes = figure.subplots(
        len(grids), len(metrics), squeeze=False, height_ratios=[0.95 + 0.23 * n for n in lines])
    for row, table in zip(axes, grids, strict=True):
        names = [name for kind in STYLE for name in table.rows[kind]]
        for place, (ax, metric) in enumerate(zip(row, metrics, strict=True)):
            _panel(ax, table, metric, names)
            ax.set_title(textwrap.fill(f"{table.dataset} · {metric['title']}", 32))
            if place:
                ax.set_yticklabels([])
    return figure


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
            sns.scatterplot(
                x=[row["mean"] for row in estimates], y=list(at), ax=ax, s=34, zorder=3,
                color=style["color"], marker=style["marker"], edgecolor="white", linewidth=0.6)
    for tick, name in zip(ax.get_yticklabels(), names, strict=True):
        if name in table.rows["control"]:
            tick.set_color("0.45")
    if sign < 0:
        ax.invert_xaxis()
    ax.margins(x=0.08)
    ax.set_xlabel(f"{metric['better']} is better →")
    ax.set_ylabel("")
    sns.despine(ax=ax, left=True)
