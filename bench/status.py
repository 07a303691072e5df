"""How far a suite is: what became of each cell, and what the rest will cost."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bench.cells import Cell, holder, missing, word
from bench.core import HeatproofError
from bench.results import Folder
from bench.run import Place
from bench.store import Cache, read_json

STATES = ("done", "running", "queued", "failed", "died", "to do")
"""died: the process that worked on it ended without a word (killed, out of memory or time)."""


@dataclass(frozen=True)
class Standing:
    """What became of one cell: its state, seconds that it took or has been at work, and why."""

    cell: Cell
    state: str
    seconds: float | None = None
    reason: str = ""
    where: str = ""
    """The machine and, where it has one, the Slurm job."""


def standings(
    cells: Mapping[str, Cell], place: Place, queued: Mapping[str, str] | None = None,
) -> list[Standing]:
    """What became of the cells, in their order; `queued` gives the Slurm job of those that wait."""
    left = missing(cells, place)
    return [_standing(cell, cell.key in left, place.cache, queued or {})
            for cell in cells.values()]


def _standing(cell: Cell, left: bool, cache: Cache, queued: Mapping[str, str]) -> Standing:
    said = word(cell.key, cache)
    where = " job ".join(part for part in (said.get("host", ""), said.get("job", "")) if part)
    if not left:
        return Standing(cell, "done", said.get("seconds"), where=where)
    if held := holder(cell.key, cache):
        at = " job ".join(part for part in (held.who["host"], held.who["job"]) if part)
        if held.alive:
            return Standing(cell, "running", time.time() - held.who["since"], where=at)
        if cell.key not in queued:
            return Standing(cell, "died", None, DIED, at)
    if cell.key in queued:
        return Standing(cell, "queued", where=f"job {queued[cell.key]}")
    if said.get("state") == "failed":
        reason = "; ".join(f"{what}: {line}" for what, line in said["errors"].items())
        return Standing(cell, "failed", said["seconds"], reason, where)
    if said.get("state") == "died":
        return Standing(cell, "died", None, DIED, where)
    return Standing(cell, "to do")


DIED = "its process ended without a word: killed, or out of memory or time"


@dataclass(frozen=True)
class Cost:
    """What cells will cost, by those like them that are done.

    seconds: a stage. guessed: cells of which none quite alike is done, so that the nearest stand in
    for it. unknown: cells of which nothing is known.
    """

    seconds: Mapping[str, float]
    guessed: int
    unknown: int

    def gpu_hours(self, gpus: Mapping[str, int]) -> float:
        """Hours of GPUs, by how many a job of each stage has."""
        return sum(seconds * gpus.get(stage, 0) for stage, seconds in self.seconds.items()) / 3600


def cost(left: Mapping[str, Cell], cells: Mapping[str, Cell], place: Place) -> Cost:
    """What the cells that are left will cost, by what the others of their suite took."""
    known: dict[tuple[str, ...], list[float]] = {}
    for key, cell in cells.items():
        if key not in left and (seconds := _took(cell, place)) is not None:
            for kind in _kinds(cell):
                known.setdefault(kind, []).append(seconds)
    total: dict[str, float] = {}
    guessed = unknown = 0
    for cell in left.values():
        kinds = _kinds(cell)
        found = next((kind for kind in kinds if kind in known), None)
        if found is None:
            unknown += 1
            continue
        guessed += found != kinds[0]
        total[cell.stage] = total.get(cell.stage, 0.0) + sum(known[found]) / len(known[found])
    return Cost(total, guessed, unknown)


def _took(cell: Cell, place: Place) -> float | None:
    said = word(cell.key, place.cache)
    if said.get("state") == "done":
        return float(said["seconds"])
    if cell.stage != "score" or cell.spec is None:
        return None
    try:  # results that came from elsewhere say it themselves
        measured: dict[str, Any] = read_json(
            Folder.of(cell.spec, place.out).path / "run.json")["measured"]
    except HeatproofError:
        return None
    return float(measured.get("explain", 0) + sum(measured.get("score", {}).values())) or None


def _kinds(cell: Cell) -> list[tuple[str, ...]]:
    """What a cell is alike to, nearest first."""
    if cell.spec is None:
        return [("prove", *(ask.base for ask in cell.asked)), ("prove",)]
    who = cell.spec.contestant
    own = who.trainer if cell.stage == "train" else who.name
    return [(cell.stage, cell.spec.dataset, own), (cell.stage, cell.spec.dataset), (cell.stage,)]
