"""Curves: what a metric finds along its axis, for every contestant, with its band."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from bench.board import Board
from bench.checks import OOD
from bench.measure import GAUGE
from bench.page.gauges import network_labels
from bench.page.plots.sheet import (
    KINDS,
    MARGIN,
    MARKERS,
    PALETTE,
    SOFT,
    Plot,
    Scale,
    Sheet,
    span,
    spread,
    tall,
    ticks,
    widest,
    wrapped,
)
from bench.page.tables import Grid, slug, track_title

RUNGS = "cells per side"
"""The axis along which each step doubles."""

_PANEL, _LEFT, _KEY, _PITCH = 4.3, 0.78, 0.52, 0.165

Row = dict[str, Any]


def planned(board: Board, grids: Sequence[Grid]) -> Iterator[Plot]:
    """A plot a metric that has curves."""
    for metric in board.metrics:
        frame = board.curves[board.curves["metric"] == metric["name"]]
        shown = [table for table in grids if table.dataset in set(frame["dataset"])]
        if shown:
            gauge = metric["family"] == GAUGE
            of = "" if gauge else f" · {track_title(metric['track'])} track"
            names = list(frame["contestant"].unique())
            labels = (network_labels(board, names) if metric["name"].startswith(OOD)
                      else {name: name for name in names})
            yield Plot(
                "" if gauge else slug(metric["track"]), f"{metric['title']}: curve{of}", "curves",
                f"curve-{slug(metric['name'])}", [table.dataset for table in shown],
                partial(draw, shown, metric, frame, labels), cost=1.5 * len(shown))


def draw(
    tables: Sequence[Grid], metric: Row, frame: pd.DataFrame, labels: dict[str, str],
) -> Figure:
    """A panel a data set; in each a line a contestant, with its 95 % interval as a band.

    Controls are grey and dashed, ceilings black and dotted. Each line is named beside its end.
    """
    frames = [frame[frame["dataset"] == table.dataset] for table in tables]
    heads = [wrapped(f"{table.dataset} · {metric['title']}", _LEFT + _PANEL, 9.5, bold=True)
             for table in tables]
    heights = [max(2.3, _PITCH * found["contestant"].nunique()) for found in frames]
    shown = {name: wrapped(label, 1.9, 7.5, most=1) for name, label in labels.items()}
    beside = _KEY + max(widest(label, 7.5) for label in shown.values())
    sheet = Sheet(2 * MARGIN + _LEFT + _PANEL + beside, MARGIN + sum(
        tall(head, 9.5) + height + 0.62 for head, height in zip(heads, heights, strict=True)))
    top = MARGIN
    for table, found, head, height in zip(tables, frames, heads, heights, strict=True):
        sheet.say(MARGIN, top, head, size=9.5, weight="bold", va="top", color="0.1")
        top += tall(head, 9.5) + 0.08
        _panel(sheet, table, metric, found, shown, top, height)
        top += height + 0.54
    return sheet.figure()


def _panel(
    sheet: Sheet, table: Grid, metric: Row, frame: pd.DataFrame, labels: dict[str, str],
    top: float, height: float,
) -> None:
    along, left, bottom = frame["axis"].iloc[0], MARGIN + _LEFT, top + height
    right = left + _PANEL
    frame = frame.assign(at=frame["at"].map(math.log2)) if along == RUNGS else frame
    across = Scale(*span(frame["at"], 0.02), left, right)
    low, high = span(pd.concat([frame[key] for key in ("mean", "low", "high")]), 0.03)
    up = Scale(low, high, bottom, top)
    sheet.rule(across, {at: f"{2 ** at:g}" for at in sorted(set(frame["at"]))} if along == RUNGS
               else ticks(across.low, across.high, 6), start=top, end=bottom, title=along)
    sheet.rise(up, ticks(low, high, 6), start=left, end=right)
    said = "" if metric["family"] == GAUGE else f"{metric['better']} is better"
    sheet.say(MARGIN + 0.12, top + height / 2, "\n".join(
        wrapped(part, height, 8) for part in (metric["units"], said) if part),
        rotation=90, ha="center", color=SOFT)
    drawn = dict(iter(frame.groupby("contestant", sort=False)))
    order = [(kind, name) for kind in KINDS for name in table.rows[kind] if name in drawn]
    ends = []
    for i, (kind, name) in enumerate(order):
        points, (stroke, sign) = drawn[name].dropna(subset=["mean"]), _style(kind, i)
        x = [across(at) for at in points["at"]]
        middle, lower, upper = ([up(at) for at in points[key]] for key in ("mean", "low", "high"))
        sheet.area([*zip(x, lower, strict=True), *zip(x[::-1], upper[::-1], strict=True)],
                   color=stroke["color"], zorder=1,
                   # Controls are many and much alike: their bands would cover all others.
                   alpha=0.13 if kind == "contestant" else 0.05)
        sheet.line(zip(x, middle, strict=True), linewidth=1.4, zorder=2, **stroke)
        # Some signs a line are enough to tell it from others, and shifted they hide none.
        every = max(1, math.ceil(len(x) / 6))
        sheet.mark([*zip(x, middle, strict=True)][i % every::every], **sign)
        ends.append((x[-1], middle[-1]))
    for i, ((kind, name), end, y) in enumerate(zip(order, ends, spread(
            [y for _, y in ends], _PITCH, top + 0.05, bottom - 0.05), strict=True)):
        stroke, sign = _style(kind, i)
        # A line that ends early is followed to its name.
        sheet.line([end, (right + 0.02, end[1]), (right + 0.14, y)], linewidth=0.6, alpha=0.5,
                   color=stroke["color"], zorder=1.5)
        sheet.line([(right + 0.14, y), (right + 0.46, y)], linewidth=1.4, zorder=2, **stroke)
        sheet.mark([(right + 0.3, y)], **sign)
        sheet.say(right + _KEY, y, labels[name], size=7.5, color="0.1")


def _style(kind: str, i: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Colour and stroke of the i-th line of a panel, and its sign."""
    colour, stroke, marker = {
        "contestant": (PALETTE[i % len(PALETTE)], "-",
                       MARKERS[(i + i // len(PALETTE)) % len(MARKERS)]),
        "control": (str(0.35 + 0.1 * (i % 4)), (0, (3.5, 2)), MARKERS[i % len(MARKERS)]),
        "ceiling": ("black", (0, (1, 1.6)), "D")}[kind]
    return ({"color": colour, "linestyle": stroke},
            {"color": colour, "marker": marker, "markersize": 4, "markeredgewidth": 0})
