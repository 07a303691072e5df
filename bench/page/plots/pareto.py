"""What an explanation costs: the network's accuracy against the ranks of its maps."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

from matplotlib.figure import Figure

from bench.board import Board
from bench.measure import ends as reach
from bench.page.plots.sheet import (
    GLYPHS,
    GREY,
    KINDS,
    MARGIN,
    PALETTE,
    SOFT,
    Plot,
    Point,
    Scale,
    Sheet,
    measured,
    span,
    ticks,
    wrapped,
)
from bench.page.tables import Grid, slug, track_title, tracks
from bench.verdicts import CLASSIFIER

_WIDE, _HIGH, _LEFT, _BELOW = 4.0, 3.0, 0.62, 0.75
_BESIDE, _TALL = 0.7, 0.13

Row = dict[str, Any]


@dataclass(frozen=True)
class Place:
    """Where a contestant stands: accuracy, with its interval, and the mean of its family ranks."""

    name: str
    kind: str
    x: float
    low: float
    high: float
    rank: float


def planned(board: Board, grids: Sequence[Grid]) -> Iterator[Plot]:
    """A plot a track, with a panel a data set."""
    measures = [m for m in board.metrics if m["family"] == CLASSIFIER]
    if not measures:
        return
    metric = next((m for m in measures if m["name"] == "accuracy"), measures[0])
    for track in tracks(board):
        panels = {table.dataset: places for table in grids
                  if len(places := _places(board, table, metric, track)) > 1}
        if panels:
            yield Plot(
                slug(track), f"{metric['title']} against explanation · {track_title(track)} track",
                "Pareto front", f"pareto-{slug(track)}", list(panels),
                partial(draw, panels, metric), cost=1.5 * len(panels))


def _places(board: Board, table: Grid, metric: Row, track: str) -> list[Place]:
    """Of those that have a rank in every family, since a mean of fewer is another number."""
    families = board.families[(board.families["dataset"] == table.dataset)
                              & (board.families["track"] == track)
                              & (board.families["family"] != CLASSIFIER)]
    ranks = families.groupby("contestant")["rank"].agg(["mean", "count"])
    ranks = ranks[ranks["count"] == families["family"].nunique()]["mean"].to_dict()
    return [
        Place(name, kind, cell.row["mean"], cell.row["low"], cell.row["high"], ranks[name])
        for kind in KINDS for name in table.rows[kind]
        if name in ranks and (cell := table.cells.get((name, metric["name"])))]


def front(places: Sequence[Place], better: str) -> list[Place]:
    """Those whom nobody beats in one thing without losing in the other, the most accurate last."""
    sign = 1 if better == "higher" else -1
    return sorted(
        (one for one in places if not any(
            other.x * sign >= one.x * sign and other.rank <= one.rank
            and (other.x, other.rank) != (one.x, one.rank) for other in places)),
        key=lambda place: (place.x * sign, place.rank))


def draw(panels: dict[str, list[Place]], metric: Row) -> Figure:
    """Right and up is better. Controls are no part of the front: they explain nothing."""
    across = min(2, len(panels))
    down = math.ceil(len(panels) / across)
    sheet = Sheet(2 * MARGIN + across * (_LEFT + _WIDE + _BESIDE),
                  MARGIN + down * (0.28 + _HIGH + _BELOW) + 0.05)
    for i, (dataset, places) in enumerate(panels.items()):
        left = MARGIN + (i % across) * (_LEFT + _WIDE + _BESIDE)
        top = MARGIN + (i // across) * (0.28 + _HIGH + _BELOW)
        sheet.say(left, top + 0.1, wrapped(dataset, _WIDE, 10, bold=True, most=1), size=10,
                  weight="bold", color="0.1")
        _panel(sheet, places, metric, left + _LEFT, top + 0.28)
    sheet.key(MARGIN, sheet.height - 0.16, [
        *((GLYPHS[style["marker"]], style["color"], kind) for kind, style in KINDS.items()
          if any(place.kind == kind for places in panels.values() for place in places)),
        ("━", PALETTE[4], "Pareto front"), ("━", "0.75", "95 % interval of the accuracy")])
    return sheet.figure()


def _panel(sheet: Sheet, places: list[Place], metric: Row, left: float, top: float) -> None:
    bottom, right = top + _HIGH, left + _WIDE
    # Few seeds make long intervals, beside which all accuracies were one: these are cut off.
    ends = span([place.x for place in places], 0.3)
    floor, ceiling = reach(str(metric["range"]))
    ends = max(ends[0], floor), min(ends[1], ceiling)
    least, most = ends if metric["better"] == "higher" else ends[::-1]
    across = Scale(least, most, left, right)
    low, high = span([place.rank for place in places], 0.09)
    down = Scale(low, high, top, bottom)
    sheet.rule(across, ticks(*ends, 6), start=top, end=bottom,
               title=wrapped(f"{metric['title']} of the network →", _WIDE, 8, most=1))
    sheet.rise(down, {rank: text for rank, text in ticks(low, high, 7).items() if rank >= 1},
               start=left, end=right)
    sheet.say(left - _LEFT + 0.14, top + _HIGH / 2, "mean rank of the families →", rotation=90,
              ha="center", color=SOFT)
    best = front([place for place in places if place.kind == "contestant"], metric["better"])
    corners = [(across(place.x), down(place.rank)) for place in best]
    steps = [point for one, other in pairwise(corners)
             for point in (one, (one[0], other[1]) if other[1] > one[1] else (other[0], one[1]))]
    sheet.line([(left, corners[0][1]), *steps, corners[-1], (corners[-1][0], bottom)]
               if corners else [], color=PALETTE[4], linewidth=1.3, zorder=1.5)
    for place in places:
        style, y = KINDS[place.kind], down(place.rank)
        # Controls explain one network, and its interval stands at those who explain it too.
        if place.kind == "contestant":
            sheet.line([(across(min(max(end, ends[0]), ends[1])), y)
                        for end in (place.low, place.high)], color="0.82", linewidth=1.2,
                       zorder=1.2)
        sheet.mark([(across(place.x), y)], markersize=6 if place.kind == "contestant" else 5,
                   markeredgecolor="white", markeredgewidth=0.6, **style)
    points = [(across(place.x), down(place.rank)) for place in places]
    texts = [wrapped(place.name, 1.5, 7.5, most=1) for place in places]
    found = beside(points, [measured(text, 7.5, bold=place in best) for text, place in zip(
        texts, places, strict=True)], (left + 0.02, top, right + _BESIDE, bottom - 0.02))
    for place, text, point, (x, y, width) in zip(places, texts, points, found, strict=True):
        near = min(max(point[0], x), x + width), min(max(point[1], y - _TALL / 2), y + _TALL / 2)
        if math.dist(near, point) > 0.12:
            sheet.line([point, near], color="0.6", linewidth=0.6, zorder=1.1)
        sheet.box(x - 0.01, y - _TALL / 2, width + 0.02, _TALL, color="white", alpha=0.7,
                  zorder=2.2)
        sheet.say(x, y, text, size=7.5, weight="bold" if place in best else "normal",
                  color=GREY if place.kind == "control" else "0.1")


def beside(
    points: Sequence[Point], widths: Sequence[float], room: tuple[float, float, float, float],
) -> list[tuple[float, float, float]]:
    """A place for the label of each point: (left, middle, width) in inches.

    The nearest in the room (left, top, right, bottom) that covers no point and no label before it;
    where there is none, to the right.
    """
    taken = [(x - 0.05, y - 0.05, x + 0.05, y + 0.05) for x, y in points]
    found = []
    for (x, y), width in zip(points, widths, strict=True):
        for left, middle in _around(x, y, width):
            box = left, middle - _TALL / 2, left + width, middle + _TALL / 2
            if (box[0] >= room[0] and box[1] >= room[1] and box[2] <= room[2] and box[3] <= room[3]
                    and not any(box[0] < other[2] and other[0] < box[2] and box[1] < other[3]
                                and other[1] < box[3] for other in taken)):
                break
        else:
            left, middle = x + 0.08, y
        taken.append((left, middle - _TALL / 2, left + width, middle + _TALL / 2))
        found.append((left, middle, width))
    return found


def _around(x: float, y: float, width: float) -> Iterator[tuple[float, float]]:
    """Left ends and middles of labels around a point, the nearest first, the right side before."""
    for ring in range(14):
        reach = 0.08 + 0.09 * ring
        for turn in range(16):
            # 0°, 22°, −22°, 45°, ...: what is read first is to the right.
            angle = math.pi / 8 * ((turn + 1) // 2) * (1 if turn % 2 else -1)
            yield (x + (reach + width / 2) * math.cos(angle) - width / 2,
                   y + (reach + _TALL / 2) * math.sin(angle))
