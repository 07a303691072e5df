"""Forest plots: the mean of every contestant in every metric, with its interval."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from matplotlib.figure import Figure

from bench.board import Board
from bench.measure import GAUGE
from bench.page.plots.sheet import (
    GLYPHS,
    GREY,
    KINDS,
    MARGIN,
    Plot,
    Scale,
    Sheet,
    span,
    tall,
    ticks,
    widest,
    wrapped,
)
from bench.page.tables import Grid, slug, track_title, tracks
from bench.verdicts import CLASSIFIER

ACROSS = 4
"""Panels side by side; of more, the rest stand below."""

_PANEL, _GAP, _APART = 2.05, 0.2, 0.45
_BAND = "0.955"

Row = dict[str, Any]


def planned(board: Board, grids: Sequence[Grid]) -> Iterator[Plot]:
    """A plot a family of each track, and one of the networks themselves."""
    groups = dict.fromkeys((m["track"], m["family"]) for track in tracks(board)
                           for m in board.metrics if m["track"] == track
                           and m["family"] not in (GAUGE, CLASSIFIER))
    networks = dict.fromkeys((m["track"], m["family"]) for m in board.metrics
                             if m["family"] == CLASSIFIER)
    for track, family in [*groups, *networks]:
        metrics = [m for m in board.metrics if (m["track"], m["family"]) == (track, family)]
        shown = [table for table in grids if any(_rows(table, metric) for metric in metrics)]
        if shown:
            own = family == CLASSIFIER
            yield Plot(
                "" if own else slug(track),
                f"{family.capitalize()}{'' if own else f' · {track_title(track)} track'}",
                "forest plot", slug(family) if own else f"{slug(track)}-{slug(family)}",
                [table.dataset for table in shown], partial(draw, shown, metrics),
                cost=len(shown) * len(metrics))


@dataclass(frozen=True)
class _Strip:
    """Panels side by side: one data set, some metrics. places: name -> row; pitch: inches a row."""

    table: Grid
    metrics: list[Row]
    heads: list[str]
    labels: dict[str, str]
    places: dict[str, float]
    pitch: float

    @property
    def above(self) -> float:
        return 0.24 + max(tall(head, 8.5) for head in self.heads) + 0.06

    @property
    def inner(self) -> float:
        return (max(self.places.values()) + 1) * self.pitch

    @property
    def height(self) -> float:
        return self.above + self.inner + 0.4


def draw(tables: Sequence[Grid], metrics: Sequence[Row]) -> Figure:
    """Data sets down, metrics across; in each panel a contestant a line: mean and 95 % interval.

    Right is better in every panel: the axis of a metric whose low values are better runs backwards.
    The dashed line is the best control, which an explanation has to pass.
    """
    # Balanced, so that no metric stands alone in the last row.
    across = math.ceil(len(metrics) / math.ceil(len(metrics) / ACROSS))
    panel = _PANEL if across > 1 else 1.6 * _PANEL
    strips = [_strip(table, list(metrics[i:i + across]), panel)
              for table in tables for i in range(0, len(metrics), across)]
    gutter = max(widest(label, 8) for strip in strips for label in strip.labels.values()) + 0.1
    width = 2 * MARGIN + gutter + across * (panel + _GAP) - _GAP
    sheet = Sheet(width, MARGIN + sum(strip.height + _GAP for strip in strips) + 0.2)
    top = MARGIN
    for strip in strips:
        _paint(sheet, strip, MARGIN + gutter, top, panel)
        top += strip.height + _GAP
    signs = [(GLYPHS[style["marker"]], style["color"], kind) for kind, style in KINDS.items()
             if any(table.rows[kind] for table in tables)]
    controls = metrics[0]["family"] != CLASSIFIER and any(t.rows["control"] for t in tables)
    sheet.key(MARGIN, top + 0.02, [
        *signs, *([("┆", GREY, "best control")] if controls else []),
        ("━", "0.6", "95 % interval")])
    return sheet.figure()


def _strip(table: Grid, metrics: list[Row], panel: float) -> _Strip:
    labels, places, at = {}, {}, 0.0
    for kind in KINDS:
        for name in table.rows[kind]:
            labels[name], places[name] = wrapped(name, 1.75, 8), at
            at += 1
        at += _APART * bool(table.rows[kind])
    most = max(label.count("\n") for label in labels.values()) + 1
    heads = [wrapped(f"{m['title']} (defect, not ranked)" if m["defect"] else m["title"],
                     panel - 0.05, 8.5, bold=True) for m in metrics]
    return _Strip(table, metrics, heads, labels, places, 0.205 if most == 1 else 0.14 * most + 0.03)


def _paint(sheet: Sheet, strip: _Strip, left: float, top: float, panel: float) -> None:
    dataset = wrapped(strip.table.dataset, sheet.width - 2 * MARGIN, 10, bold=True, most=1)
    sheet.say(MARGIN, top + 0.1, dataset, size=10, weight="bold", color="0.1")
    start = top + strip.above
    for name, place in strip.places.items():
        sheet.say(left - 0.07, start + (place + 0.5) * strip.pitch, strip.labels[name], ha="right",
                  color=GREY if name in strip.table.rows["control"] else "0.1")
    for i, (metric, head) in enumerate(zip(strip.metrics, strip.heads, strict=True)):
        x = left + i * (panel + _GAP)
        sheet.say(x, start - 0.06, head, size=8.5, weight="bold", va="bottom", color="0.1")
        _panel(sheet, strip, metric, x, start, panel)


def _panel(
    sheet: Sheet, strip: _Strip, metric: Row, left: float, top: float, panel: float,
) -> None:
    rows = _rows(strip.table, metric)
    if not rows:
        sheet.say(left + panel / 2, top + strip.inner / 2, "not measured here", ha="center",
                  color="0.5")
        return
    sign = 1 if metric["better"] == "higher" else -1
    low, high = span([row[key] for _, _, row in rows for key in ("mean", "low", "high")])
    near, far = (low, high) if sign > 0 else (high, low)
    scale = Scale(near, far, left, left + panel)
    end = top + strip.inner
    sheet.rule(scale, ticks(low, high, 4), start=top, end=end,
               title=f"{metric['better']} is better →")
    # Every other row is shaded, so that the eye finds back to the names.
    for place in list(strip.places.values())[::2]:
        sheet.box(left, top + place * strip.pitch, panel, strip.pitch, color=_BAND, zorder=0)
    # Controls explain the plain network: theirs is no accuracy to beat.
    control = max((row["mean"] * sign for kind, _, row in rows
                   if kind == "control" and metric["family"] != CLASSIFIER), default=math.nan)
    sheet.line([(scale(control * sign), top), (scale(control * sign), end)], color=GREY,
               linestyle=(0, (4, 3)), linewidth=1, zorder=1)
    for kind, name, row in rows:
        style, y = KINDS[kind], top + (strip.places[name] + 0.5) * strip.pitch
        sheet.line([(scale(row["low"]), y), (scale(row["high"]), y)], color=style["color"],
                   linewidth=2.2, alpha=0.5, zorder=2)
        sheet.mark([(scale(row["mean"]), y)], markeredgecolor="white", markeredgewidth=0.6,
                   markersize=5.6 if style["marker"] == "o" else 4.8, **style)


def _rows(table: Grid, metric: Row) -> list[tuple[str, str, Row]]:
    """Kind, name and estimate of each contestant that has a number."""
    found = ((kind, name, table.cells.get((name, metric["name"])))
             for kind in KINDS for name in table.rows[kind])
    return [(kind, name, cell.row) for kind, name, cell in found if cell is not None]
