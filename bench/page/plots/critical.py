"""Critical-difference diagrams: mean ranks over data sets and backbones, and who is told apart.

Demšar 2006, JMLR 7; cliques after pairwise tests, Benavoli et al. 2016, JMLR 17.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from bench.board import Board
from bench.page.plots.sheet import (
    GLYPHS,
    GREY,
    KINDS,
    MARGIN,
    SOFT,
    Plot,
    Scale,
    Sheet,
    measured,
    tall,
    wrapped,
)
from bench.page.tables import records, slug, track_title, tracks
from bench.verdicts import CLASSIFIER

_AXIS, _LEVEL, _BAR = 3.4, 0.17, 0.085

Row = dict[str, Any]


def planned(board: Board) -> Iterator[Plot]:
    """A plot a family of each track, with a diagram a metric."""
    if board.placings.empty:
        return
    kinds = {name: "ceiling" if facts["ceiling"] else "control" if facts["control"]
             else "contestant" for name, facts in board.contestants.items()}
    tests = {(row["track"], row["metric"]): row for row in records(board.omnibus)}
    for track in tracks(board):
        for family in dict.fromkeys(m["family"] for m in board.metrics if m["track"] == track):
            # The ranks of one block are no mean, and stand in the heatmap.
            diagrams = [
                (metric["title"], ranks, test, _cliques(board.cliques, track, metric["name"]))
                for metric in board.metrics
                if (metric["track"], metric["family"]) == (track, family) != (track, CLASSIFIER)
                and (test := tests.get((track, metric["name"]))) and test["n_blocks"] > 1
                and len(ranks := _ranks(board.placings, track, metric["name"])) > 1]
            if diagrams:
                yield Plot(
                    slug(track), f"{family.capitalize()}: mean ranks · {track_title(track)} track",
                    "critical-difference diagram", f"critical-{slug(track)}-{slug(family)}",
                    list(dict.fromkeys(board.estimates["dataset"])),
                    partial(draw, diagrams, kinds), cost=0.6 * len(diagrams))


def _ranks(placings: pd.DataFrame, track: str, metric: str) -> dict[str, float]:
    here = placings[(placings["track"] == track) & (placings["metric"] == metric)]
    return dict(sorted(zip(here["contestant"], here["mean_rank"], strict=True),
                       key=lambda item: item[1]))


def _cliques(cliques: pd.DataFrame, track: str, metric: str) -> list[list[str]]:
    if cliques.empty:
        return []
    here = cliques[(cliques["track"] == track) & (cliques["metric"] == metric)]
    return [list(members) for _, members in here.groupby("clique")["contestant"]
            if len(members) > 1]


def draw(
    diagrams: Sequence[tuple[str, dict[str, float], Row, list[list[str]]]],
    kinds: dict[str, str],
) -> Figure:
    """The best stand on the left. Who shares a bar is not told apart.

    Too few blocks tell nobody apart, whatever the ranks: then the diagram says so and has no bars.
    """
    beside = max(measured(_label(name, rank), 7.5) for _, ranks, _, _ in diagrams
                 for name, rank in ranks.items()) + 0.3
    width = 2 * MARGIN + 2 * beside + _AXIS
    laid = []
    for title, ranks, test, cliques in diagrams:
        bars = _bars([[ranks[name] for name in members if name in ranks]
                      for members in cliques] if test["powered"] else [])
        heads = (wrapped(title, width - 2 * MARGIN, 9, bold=True, most=2),
                 wrapped(_told(test), width - 2 * MARGIN, 7.5, most=2))
        above = tall(heads[0], 9) + tall(heads[1], 7.5) + 0.28
        below = 0.12 + _BAR * len(bars) + _LEVEL * math.ceil(len(ranks) / 2) + 0.2
        laid.append((ranks, bars, heads, above, below))
    sheet = Sheet(width, MARGIN + sum(above + below for *_, above, below in laid) + 0.16)
    top = MARGIN
    for ranks, bars, heads, above, below in laid:
        sheet.say(MARGIN, top, heads[0], size=9, weight="bold", va="top", color="0.1")
        sheet.say(MARGIN, top + tall(heads[0], 9) + 0.02, heads[1], size=7.5, va="top", color=SOFT)
        _diagram(sheet, ranks, bars, kinds, MARGIN + beside, top + above)
        top += above + below
    sheet.key(MARGIN, sheet.height - 0.16, [
        *((GLYPHS[style["marker"]], style["color"], kind)
          for kind, style in KINDS.items()
          if any(kinds.get(name) == kind for ranks, *_ in laid for name in ranks)),
        *([("━", "0.1", "not told apart")] if any(bars for _, bars, *_ in laid) else [])])
    return sheet.figure()


def _diagram(
    sheet: Sheet, ranks: dict[str, float], bars: list[list[tuple[float, float]]],
    kinds: dict[str, str], left: float, y: float,
) -> None:
    scale = Scale(1, max(len(ranks), 2), left, left + _AXIS)
    sheet.line([(scale.start, y), (scale.end, y)], color=SOFT, linewidth=0.9)
    step = math.ceil(len(ranks) / 12)
    for rank in range(1, len(ranks) + 1):
        sheet.line([(scale(rank), y - 0.05), (scale(rank), y)], color=SOFT, linewidth=0.9)
        if (rank - 1) % step == 0:
            sheet.say(scale(rank), y - 0.07, f"{rank}", ha="center", va="bottom", size=7.5,
                      color=SOFT)
    for level, row in enumerate(bars):
        for best, worst in row:
            at = y + 0.1 + level * _BAR
            sheet.line([(scale(best) - 0.05, at), (scale(worst) + 0.05, at)], color="0.1",
                       linewidth=2.6, capstyle="butt", zorder=2.5)
    start, names = y + 0.14 + len(bars) * _BAR, list(ranks)
    half = math.ceil(len(names) / 2)
    for side, members in ((-1, names[:half]), (1, names[half:][::-1])):
        end = scale.start - 0.12 if side < 0 else scale.end + 0.12
        for level, name in enumerate(members):
            x, at = scale(ranks[name]), start + level * _LEVEL
            style = KINDS[kinds.get(name, "contestant")]
            sheet.line([(x, y), (x, at), (end, at)], color=style["color"], linewidth=0.8,
                       alpha=0.7, zorder=2)
            sheet.mark([(x, y)], markersize=4.6, markeredgecolor="white", markeredgewidth=0.5,
                       **style)
            sheet.say(end + side * 0.05, at, _label(name, ranks[name]), size=7.5,
                      ha="right" if side < 0 else "left",
                      color=GREY if style is KINDS["control"] else "0.1")


def _label(name: str, rank: float) -> str:
    return f"{wrapped(name, 1.6, 7.5, most=1)}  {rank:.2f}"


def _told(test: Row) -> str:
    """What the test over all contestants found, and whether it may find anything."""
    blocks = f"{test['n_blocks']:g} blocks"
    p = "" if not math.isfinite(test["p"]) else (
        "p < 0.001" if test["p"] < 0.001 else f"p = {test['p']:.2g}")
    if not test["powered"]:
        return f"underpowered: {blocks} of data set × backbone tell nobody apart"
    return ", ".join(part for part in (str(test["method"]), p, blocks) if part)


def _bars(cliques: Sequence[Sequence[float]]) -> list[list[tuple[float, float]]]:
    """The ends of each clique in ranks, in as few rows as keep them apart."""
    rows: list[list[tuple[float, float]]] = []
    for ends in sorted((min(ranks), max(ranks)) for ranks in cliques if ranks):
        for row in rows:
            if row[-1][1] + 0.3 < ends[0]:
                row.append(ends)
                break
        else:
            rows.append([ends])
    return rows
