"""Ranks at a glance: contestants down and metrics across; and how alike two metrics rank."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import matplotlib as mpl
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from bench.board import Board
from bench.page.plots.sheet import (
    GREY,
    MARGIN,
    PALETTE,
    SOFT,
    Plot,
    Sheet,
    ink,
    number,
    tall,
    widest,
    wrapped,
)
from bench.page.tables import Grid, slug, track_title, tracks
from bench.verdicts import CLASSIFIER

_CELL, _ROW, _APART = 0.37, 0.235, 0.1
_SQUARE = 0.42
_SLANT = math.sqrt(0.5)
_HATCH: dict[str, Any] = {"facecolor": "none", "edgecolor": "0.8", "hatch": "////", "linewidth": 0}

Row = dict[str, Any]


def planned(board: Board, grids: Sequence[Grid]) -> Iterator[Plot]:
    """A heatmap of ranks a track and data set."""
    for track in tracks(board):
        for table in grids:
            metrics = [m for m in table.metrics if m["track"] == track
                       and m["family"] != CLASSIFIER and any(
                           cell and math.isfinite(cell.row["rank"])
                           for (_, name), cell in table.cells.items() if name == m["name"])]
            # Of one metric the forest plot says more.
            if len(metrics) > 1:
                yield Plot(
                    slug(track), f"Ranks on {table.dataset} · {track_title(track)} track",
                    "rank heatmap", f"ranks-{slug(track)}-{slug(table.dataset)}", [table.dataset],
                    partial(draw, table, metrics, track), cost=1 + len(metrics) / 8)


def draw(table: Grid, metrics: Sequence[Row], track: str) -> Figure:
    """A rank a cell, the best darkest; families side by side; what has no rank is hatched."""
    kinds = {kind: names for kind, names in table.rows.items() if names and kind != "ceiling"}
    names = [name for members in kinds.values() for name in members]
    labels = {name: wrapped(name, 1.9, 8, most=1) for name in names}
    heads, lean, drop = _slanted([m["title"] for m in metrics], 1.7)
    places = _places([m["family"] for m in metrics], _CELL)
    families = {m["family"]: wrapped(m["family"], 2, 7.5, most=1) for m in metrics}
    gutter = max(widest(label, 8) for label in labels.values()) + 0.08
    left, across = MARGIN + gutter, places[-1] + _CELL
    said = wrapped(f"{table.dataset} · {track_title(track)} track", 6, 10, bold=True, most=1)
    top = MARGIN + 0.3 + drop
    down, at = {}, top
    for members in kinds.values():
        for name in members:
            down[name], at = at, at + _ROW
        at += _APART
    bottom = at - _APART
    foot = (max(widest(text, 7.5) for text in families.values()) + 0.1) * _SLANT
    sheet = Sheet(max(left + across + max(lean, foot) + MARGIN,
                      2 * MARGIN + widest(said, 10, bold=True), 3.6), bottom + foot + 0.5)
    sheet.say(MARGIN, MARGIN + 0.08, said, size=10, weight="bold", color="0.1")
    for name in names:
        sheet.say(left - 0.07, down[name] + _ROW / 2, labels[name], ha="right",
                  color=GREY if name in table.rows["control"] else "0.1")
    colours = sns.light_palette(PALETTE[0], as_cmap=True)
    for metric, place, head in zip(metrics, places, heads, strict=True):
        x = left + place
        sheet.say(x + 0.45 * _CELL, top - 0.05, head, rotation=45, rotation_mode="anchor",
                  ha="left", va="bottom", size=7.5, color="0.1")
        ranks = {name: cell.row["rank"] for name in names
                 if (cell := table.cells.get((name, metric["name"])))
                 and math.isfinite(cell.row["rank"])}
        last = max(ranks.values())
        for name in names:
            box = (x + 0.012, down[name] + 0.012, _CELL - 0.024, _ROW - 0.024)
            if name not in ranks:
                sheet.box(*box, **_HATCH)
                continue
            colour = colours(0.06 + 0.82 * (1 - (ranks[name] - 1) / (max(last, 2) - 1)))
            sheet.box(*box, color=colour)
            sheet.say(x + _CELL / 2, down[name] + _ROW / 2, number(ranks[name]), ha="center",
                      size=7.5, color=ink(colour))
    for family, text in families.items():
        here = [place for place, m in zip(places, metrics, strict=True) if m["family"] == family]
        ends = left + here[0] + 0.02, left + here[-1] + _CELL - 0.02
        sheet.line([(ends[0], bottom + 0.05), (ends[1], bottom + 0.05)], color=GREY, linewidth=1)
        sheet.say(sum(ends) / 2 - 0.03, bottom + 0.08, text, rotation=-45, rotation_mode="anchor",
                  ha="left", va="top", size=7.5, color=SOFT)
    note = "1 is the best; ties share their mean rank"
    sheet.say(MARGIN, sheet.height - 0.2, note, size=7.5, color=SOFT)
    x = MARGIN + widest(note, 7.5) + 0.18
    sheet.box(x, sheet.height - 0.27, 0.24, 0.14, **_HATCH)
    sheet.say(x + 0.3, sheet.height - 0.2, "not ranked", size=7.5, color=SOFT)
    return sheet.figure()


def agreements(board: Board) -> Iterator[Plot]:
    """A matrix of Kendall's tau a track and data set."""
    if board.agreement.empty:
        return
    for (dataset, track), pairs in board.agreement.groupby(["dataset", "track"], sort=False):
        named = set(pairs["first"]) | set(pairs["second"])
        metrics = [m for m in board.metrics if m["name"] in named]
        if len(metrics) > 1:
            yield Plot(
                slug(track), f"Agreement of metrics on {dataset} · {track_title(track)} track",
                "agreement matrix", f"agreement-{slug(track)}-{slug(dataset)}", [dataset],
                partial(matrix, f"{dataset} · {track_title(track)} track", metrics, pairs),
                cost=1 + len(metrics) ** 2 / 150)


def matrix(title: str, metrics: Sequence[Row], pairs: pd.DataFrame) -> Figure:
    """Kendall's tau of each two metrics: 1 is the same order of contestants, −1 the reverse."""
    found = {frozenset(pair): tau for *pair, tau in zip(
        pairs["first"], pairs["second"], pairs["tau"], strict=True)}
    labels = [wrapped(m["title"], 2.1, 8, most=2) for m in metrics]
    heads, lean, drop = _slanted([m["title"] for m in metrics[:-1]], 1.9)
    places = _places([m["family"] for m in metrics], _SQUARE)
    left = MARGIN + max(max(widest(label, 8) for label in labels[1:]) + 0.08, lean - 0.3)
    first = places[1]
    top, size = MARGIN + 0.32 - first, places[-1] + _SQUARE
    said = wrapped(title, 4, 10, bold=True, most=1)
    least, most = pairs["n_contestants"].min(), pairs["n_contestants"].max()
    note = wrapped(f"Kendall’s τ-b over {least:g}{f' to {most:g}' if most > least else ''} "
                   "contestants: 1 is the same order, −1 the reverse", 60, 7.5)
    width = max(left + places[-2] + _SQUARE, MARGIN + widest(note, 7.5),
                MARGIN + widest(said, 10, bold=True)) + MARGIN
    sheet = Sheet(width, top + size + drop + 0.42)
    sheet.say(MARGIN, MARGIN + 0.08, said, size=10, weight="bold", color="0.1")
    colours = mpl.colormaps["RdBu"]
    for i, metric in enumerate(metrics):
        y = top + places[i]
        if i:
            sheet.say(left - 0.07, y + _SQUARE / 2, labels[i], ha="right", color="0.1")
        if i < len(heads):
            sheet.say(left + places[i] + 0.6 * _SQUARE, top + size + 0.06, heads[i], rotation=45,
                      rotation_mode="anchor", ha="right", va="top", size=7.5, color="0.1")
        for j, other in enumerate(metrics[:i]):
            box = (left + places[j] + 0.012, y + 0.012, _SQUARE - 0.024, _SQUARE - 0.024)
            tau = found.get(frozenset((metric["name"], other["name"])), math.nan)
            if not math.isfinite(tau):
                sheet.box(*box, **_HATCH)
                continue
            colour = colours(0.5 + 0.42 * tau)
            sheet.box(*box, color=colour)
            sheet.say(box[0] + box[2] / 2, y + _SQUARE / 2, f"{tau:.2f}".replace("-", "−"),
                      ha="center", size=7.5, color=ink(colour))
    sheet.say(MARGIN, sheet.height - 0.2, note, size=7.5, color=SOFT)
    return sheet.figure()


def _places(families: Sequence[str], size: float) -> list[float]:
    """Where columns begin: side by side, with a gap between families."""
    places, at = [0.0], 0.0
    for before, family in pairwise(families):
        at += size + _APART * (family != before)
        places.append(at)
    return places


def _slanted(titles: Sequence[str], inches: float) -> tuple[list[str], float, float]:
    """Heads to be set at 45°, how far they lean out, and how high they stand."""
    heads = [wrapped(title, inches, 7.5, most=2) for title in titles]
    reach = max((widest(head, 7.5) + tall(head, 7.5)) * _SLANT for head in heads)
    return heads, reach, reach + 0.05
