"""What gauges say of operators, of truths and of measures, beside the numbers that they concern."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pandas as pd

from bench.board import Board
from bench.checks import CEILING, OOD, PROCESSING
from bench.core import canonical
from bench.measure import GAUGE
from bench.page.tables import Grid, decimals, records, title

SPARK = 64, 18
"""Width and height of a little curve in the page, in pixels."""

Row = dict[str, Any]


def signed(value: float) -> str:
    """A difference with its sign; what rounds to nothing has none."""
    rounded = round(value, 3)
    return f"{rounded:+.3f}".replace("-", "−") if rounded else "0.000"


@dataclass(frozen=True)
class Told:
    """What gauges say of one data set's numbers, by metric and contestant.

    ceilings: the mask's score at the grid of the contestant's maps, and that grid. copies: the
    blurred copy that gains most, one that is told apart before others.
    """

    ceilings: dict[str, dict[str, Row]]
    copies: dict[str, dict[str, Row]]

    @classmethod
    def of(cls, board: Board, dataset: str) -> Told:
        """Read once for all tables of a data set."""
        ceilings: dict[str, dict[str, Row]] = {}
        for row in records(board.gauges[board.gauges["dataset"] == dataset]):
            if row["metric"].startswith(CEILING) and math.isfinite(row["mean"]):
                ceilings.setdefault(row["metric"].removeprefix(CEILING), {})[
                    row["contestant"]] = row
        copies: dict[str, dict[str, Row]] = {}
        for row in records(board.processing[board.processing["dataset"] == dataset]):
            best = copies.setdefault(row["metric"], {}).get(row["contestant"])
            if best is None or (row["flagged"], row["mean"]) > (best["flagged"], best["mean"]):
                copies[row["metric"]][row["contestant"]] = row
        return cls(ceilings, copies)

    def ceiling(self, metric: str, name: str, places: int) -> str:
        """What a perfect map could reach on the contestant's grid; empty if nobody measured it."""
        row = self.ceilings.get(metric, {}).get(name)
        return f"of at most {row['mean']:.{places}f} at {row['grid']}" if row else ""

    def blur(self, metric: str, name: str) -> str:
        """That a blurred copy of the contestant's map scores better; empty if none does."""
        row = self.copies.get(metric, {}).get(name)
        return "" if row is None or not row["flagged"] else (
            f"a blurred copy of this map ({row['kernel']}) scores better, by "
            f"{row['mean']:.3g} ({row['low']:.3g} to {row['high']:.3g})")

    def prefers_blur(self, board: Board, metric: str) -> str:
        """That most contestants' blurred copies score better; empty if not."""
        judged = [row["flagged"] for name, row in self.copies.get(metric, {}).items()
                  if not board.contestants[name]["control"]
                  and not board.contestants[name]["ceiling"]]
        return (f"a blurred copy of the map scores better for {sum(judged)} of {len(judged)} "
                "contestants") if 2 * sum(judged) > len(judged) else ""


def processing(board: Board, table: Grid, told: Told) -> Row | None:
    """The gain of the best blurred copy: contestants down, metrics across."""
    rows = [{"name": name, "title": title(board, name),
             "cells": [(row := copies.get(name)) and {
                 **{key: signed(row[key]) for key in ("mean", "low", "high")},
                 "kernel": row["kernel"], "flagged": row["flagged"]}
                 for copies in told.copies.values()]}
            for members in table.rows.values() for name in members
            if any(name in copies for copies in told.copies.values())]
    titles = {m["name"]: m["title"] for m in board.metrics}
    return {"metrics": [{"name": PROCESSING + name, "title": titles.get(name, name)}
                        for name in told.copies], "rows": rows} if rows else None


def ood(board: Board, dataset: str) -> Row | None:
    """How far each operator takes each network: networks down, operators across."""
    metrics = [m for m in board.metrics if m["name"].startswith(OOD)]
    cells: dict[str, dict[str, Row]] = {}
    for metric in metrics:
        frame = _of(board.gauges, dataset, metric["name"])
        places = min(decimals(records(frame)), 3)
        curve = _of(board.curves, dataset, metric["name"])
        for row in records(frame):
            if math.isfinite(row["mean"]):
                along = records(curve[curve["contestant"] == row["contestant"]])
                cells.setdefault(row["contestant"], {})[metric["name"]] = {
                    **{key: f"{row[key]:.{places}f}" for key in ("mean", "low", "high")},
                    "line": _spark(along), "told": ", ".join(
                        f"{point['mean']:.2f} at {point['at']:g} %" for point in along)}
    labels = network_labels(board, list(cells))
    shown = [m for m in metrics if any(m["name"] in row for row in cells.values())]
    return {"operators": [{"name": m["name"], "title": m["name"].removeprefix(OOD)}
                          for m in shown], "rows": [
        {"name": name, "label": labels[name], "cells": [row.get(m["name"]) for m in shown]}
        for name, row in cells.items()]} if shown else None


def operator(board: Board, metric: Row) -> list[str]:
    """What the gauge of a metric's operator says, a line a data set."""
    name = OOD + str(metric["params"].get("operator", ""))
    lines = []
    for dataset in dict.fromkeys(board.gauges["dataset"]):
        means = [row["mean"] for row in records(_of(board.gauges, dataset, name))
                 if math.isfinite(row["mean"])]
        if means:
            ends = dict.fromkeys(f"{end:.2f}" for end in (min(means), max(means)))
            lines.append(f"{dataset}: {' to '.join(ends)}")
    return lines


def others(board: Board, table: Grid) -> Row | None:
    """Gauges without a place of their own; contestants of whom they say the same share a row."""
    metrics = [m for m in board.metrics if m["family"] == GAUGE and not m["name"].startswith(
        (OOD, CEILING, PROCESSING))]
    found = {(row["contestant"], row["metric"]): row for row in records(
        board.gauges[board.gauges["dataset"] == table.dataset]) if math.isfinite(row["mean"])}
    shown = [m for m in metrics if any(name == m["name"] for _, name in found)]
    # What depends on the network, or on the images alone, is said once.
    alike: dict[str, list[str]] = {}
    cells: dict[str, list[Row | None]] = {}
    for name in (name for members in table.rows.values() for name in members):
        row = [(one := found.get((name, m["name"]))) and {
            key: f"{one[key]:.3g}" for key in ("mean", "low", "high")} for m in shown]
        if any(row):
            alike.setdefault(canonical(row), []).append(name)
            cells[canonical(row)] = row
    return {"metrics": [{"name": m["name"], "title": m["title"]} for m in shown], "rows": [
        {"names": names, "cells": cells[key]} for key, names in alike.items()]} if alike else None


def network_labels(board: Board, names: list[str]) -> dict[str, str]:
    """What a person calls the network that each contestant explains, told apart by their names."""
    titles = {name: str(board.contestants[name]["trainer_title"]) for name in names}
    return {name: own if list(titles.values()).count(own) == 1 else f"{own} ({name})"
            for name, own in titles.items()}


def _of(frame: pd.DataFrame, dataset: str, metric: str) -> pd.DataFrame:
    return frame[(frame["dataset"] == dataset) & (frame["metric"] == metric)]


def _spark(points: list[Row]) -> str:
    """The points of a little curve as an SVG polyline takes them; up is a larger drop, from 0."""
    if len(points) < 2:
        return ""
    width, height = SPARK
    left, right = points[0]["at"], points[-1]["at"]
    top = max(max(point["mean"] for point in points), 1.0)
    return " ".join(
        f"{1 + (width - 2) * (point['at'] - left) / ((right - left) or 1):.1f},"
        f"{height - 1 - (height - 2) * max(point['mean'], 0) / top:.1f}" for point in points)
