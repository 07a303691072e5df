"""What cards say of metrics and contestants: badges, sources, parameters, metrics by track."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from bench.board import Board
from bench.measure import GAUGE
from bench.page import gauges
from bench.page.tables import Cell, Grid, grid, records, slug, track_title, tracks
from bench.results import Results
from bench.verdicts import CLASSIFIER

WIDTH = 104
"""The width of an interval bar, in pixels."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Cards:
    """What all cards of a board share; grids: data set -> its board; runs: of each contestant."""

    board: Board
    results: Results
    grids: dict[str, Grid]
    told: dict[str, gauges.Told]
    runs: dict[str, list[Row]]

    @classmethod
    def of(cls, board: Board, results: Results) -> Cards:
        """Read once for all cards."""
        names = list(dict.fromkeys(board.estimates["dataset"]))
        runs: dict[str, list[Row]] = {}
        for run in records(results.runs):
            runs.setdefault(run["contestant"], []).append(run)
        return cls(board, results, {name: grid(board, name) for name in names},
                   {name: gauges.Told.of(board, name) for name in names}, runs)

    def titled(self, dataset: str) -> Row:
        """A data set's name, title and file."""
        card = self.results.plan["datasets"].get(dataset, {})
        return {"dataset": dataset, "title": card.get("title", dataset), "slug": slug(dataset)}

    def seconds(self, runs: Iterable[Row], stage: str, metric: str = "") -> str:
        """The median time of one sample, over the runs that took any, and what they ran on."""
        spent, devices = [], set()
        for run in runs:
            info = run["info"]
            known = info["measured"].get(stage, {} if metric else None)
            found, images = known.get(metric) if metric else known, (
                info["additivity"] or {}).get("images")
            if found and images:
                spent.append(found / images)
                devices.add(info["device"])
        return (f"{duration(statistics.median(spent))} "
                f"{'a sample' if metric else 'a map'} on {', '.join(sorted(devices))}"
                if spent else "")


@dataclass(frozen=True)
class Axis:
    """Where the bars of one metric on one data set begin and end; right is better in all."""

    low: float
    width: float
    better: str
    control: float | None

    @classmethod
    def of(cls, cells: Mapping[str, Cell], kinds: Mapping[str, str], metric: Row) -> Axis:
        """The axis on which all the cells fit."""
        rows = [cell.row for cell in cells.values()]
        low = min((row["low"] for row in rows), default=0.0)
        high = max((row["high"] for row in rows), default=1.0)
        means = [] if metric["family"] in (CLASSIFIER, GAUGE) else [
            cell.row["mean"] for name, cell in cells.items() if kinds.get(name) == "control"]
        pick = max if metric["better"] == "higher" else min
        return cls(low, high - low or 1.0, metric["better"], pick(means) if means else None)

    def bar(self, row: Row) -> Row:
        """Where a bar, its dot and the best control's line are drawn, in pixels."""
        start, end = sorted((self._place(row["low"]), self._place(row["high"])))
        return {"at": self._place(row["mean"]), "start": start, "end": end,
                "control": None if self.control is None else self._place(self.control)}

    def _place(self, value: float) -> float:
        share = (value - self.low) / self.width
        share = share if self.better == "higher" else 1 - share
        return round(4 + share * (WIDTH - 8), 1)


def head(board: Board, metric: Row, told: gauges.Told) -> Row:
    """The head of a metric's column: its badge, and what warns of it on this data set."""
    return {"slug": slug(metric["name"]), "title": metric["title"], "about": metric["about"],
            "better": metric["better"], "badge": badge(board, metric["name"]),
            "defect": metric["defect"], "blur": told.prefers_blur(board, metric["name"])}


def badge(board: Board, name: str) -> Row:
    """Whether a metric gave the known answers: a colour, a short text and a long one."""
    proof = board.proofs.get(name)
    if proof is None:
        return {"kind": "unchecked", "text": "not checked",
                "long": "was not checked against known answers", "failed": [], "findings": []}
    count = f"{proof['passed']}/{proof['of']}"
    text, said = {
        "proven": (f"✓ {count}", f"gave every known answer: {count}"),
        "failed": (f"✗ {count}", f"did not give every known answer: {count}"),
        "refused": ("✗ refused", "was not asked: it has a defect and was run by force"),
    }[proof["badge"]]
    return {"kind": proof["badge"], "text": text, "long": said,
            "failed": list(proof["failed"]), "findings": list(proof["findings"])}


def groups(board: Board) -> list[Row]:
    """The cards of all metrics: a group a track, then the gauges, then the networks' own."""
    found = [(f"{track_title(track)} track", [
        m for m in board.metrics if m["track"] == track and m["family"] not in (GAUGE, CLASSIFIER)])
        for track in tracks(board)]
    found += [(text, [m for m in board.metrics if m["family"] == family]) for text, family in (
        ("Gauges: of operators, truths and measures; never ranked", GAUGE),
        ("Of the networks", CLASSIFIER))]
    return [{"title": text, "cards": [card(board, metric) for metric in metrics]}
            for text, metrics in found if metrics]


def card(board: Board, metric: Row) -> Row:
    """A metric's facts, with its badge, its sources, its operator and the batteries that pin it."""
    pinned = [(battery["name"], metric["name"] in battery["changed"]) for battery in board.batteries
              if metric["name"] in battery["metrics"] + battery["changed"]]
    return {**metric, "slug": slug(metric["name"]), "paper": sources(metric["paper"]),
            "badge": badge(board, metric["name"]), "operator": gauges.operator(board, metric),
            "batteries": [f"{name}, with other parameters" if changed else name
                          for name, changed in pinned]}


def params(board: Board, runs: Iterable[Row], name: str) -> dict[str, list[str]]:
    """The parameters of both halves; of each data set where they are not the same on all."""
    shown = {}
    runs = [run for run in runs if run["contestant"] == name]
    for half in ("train", "explain"):
        found: dict[str, dict[str, None]] = {}
        for dataset, facts in [(run["dataset"], run["info"]["contestant"]) for run in runs] or [
                ("", board.contestants[name])]:
            text = ", ".join(f"{key} = {value}" for key, value in facts[half].items())
            found.setdefault(text, {})[dataset] = None
        shown[half] = [text + (f" ({', '.join(datasets)})" if len(found) > 1 else "")
                       for text, datasets in found.items() if text]
    return shown


_SOURCE = re.compile(
    r"""https?://[^\s<>"')\]]+[^\s<>"')\].,;:] | arXiv:\s*(?P<arxiv>\d{4}\.\d{4,5})
    | doi:\s*(?P<doi>10\.\d{4,9}/[^\s<>"',;]+[^\s<>"',;.:)])""", re.IGNORECASE | re.VERBOSE)


def sources(text: str) -> list[tuple[str, str]]:
    """`text` in pieces, each with the address that a browser may follow from it, or with none."""
    pieces, end = [], 0
    for found in _SOURCE.finditer(text):
        address = (f"https://arxiv.org/abs/{found['arxiv']}" if found["arxiv"]
                   else f"https://doi.org/{found['doi']}" if found["doi"] else found[0])
        pieces += [(text[end:found.start()], ""), (found[0], address)]
        end = found.end()
    return [piece for piece in [*pieces, (text[end:], "")] if piece[0]]


def link(text: str) -> str:
    """The first address in `text` that a browser may follow, or nothing."""
    return next((address for _, address in sources(text) if address), "")


def duration(seconds: float) -> str:
    """A time with two digits and its unit: 1.2 ms, 3.4 s."""
    unit, size = next(((unit, size) for unit, size in (("s", 1.0), ("ms", 1e-3))
                       if seconds >= size), ("µs", 1e-6))
    shown = float(f"{seconds / size:.2g}")
    return f"{shown:g} {unit}" if shown < 1e5 else f"{shown:,.0f} {unit}"
