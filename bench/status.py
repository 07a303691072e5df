"""How far a suite is: what became of each cell."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from bench.cells import Cell, holder, missing, word
from bench.run import Place
from bench.store import Cache

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
