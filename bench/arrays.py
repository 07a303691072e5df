"""Cells cut into arrays of jobs, so that a few calls of sbatch order thousands of runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, TypeVar

from bench.cells import Cell
from bench.profile import Profile

T = TypeVar("T")


@dataclass(frozen=True)
class Array:
    """What one call of sbatch submits: jobs of one stage, each with the keys of its cells.

    after: the array whose elements they wait for, one for one; or a job that is queued already.
    times: how many times the memory that the profile says.
    """

    stage: str
    jobs: tuple[tuple[str, ...], ...]
    after: Array | str | None = None
    times: float = 1.0


def arrays(
    left: Mapping[str, Cell], profile: Profile, queued: Mapping[str, str] | None = None,
    grown: Mapping[str, float] | None = None,
) -> list[Array]:
    """Cells cut into arrays, each after the one that it waits for; what is queued is left out.

    grown: how many times the memory those cells get that need more.

    Trainings that are needed by as many jobs form one array, so that the jobs that wait can form
    arrays of the same length, and `aftercorr` link element to element: a failure stops its own
    chain alone, and thousands of runs are a few calls of sbatch.
    """
    queued, times = queued or {}, grown or {}
    todo = {key: cell for key, cell in left.items() if key not in queued}
    needing: dict[str | None, list[Cell]] = {}
    for cell in todo.values():
        needing.setdefault(next((need for need in cell.needs if need in left), None), []).append(
            cell)
    found: list[Array] = []

    def chunks(keys: Sequence[str]) -> list[tuple[str, ...]]:
        """The keys in jobs, each of cells that get the same memory."""
        alike = groupby(sorted(keys, key=lambda k: times.get(k, 1)), lambda k: times.get(k, 1))
        return [part for _, some in alike for part in _cut(list(some), profile.chunk)]

    def below(key: str | None) -> tuple[list[tuple[str, ...]], list[Cell]]:
        """The jobs that score what waits for a cell, and the trainings that do."""
        cells = needing.get(key, [])
        return (chunks([cell.key for cell in cells if cell.stage == "score"]),
                sorted((c for c in cells if c.stage == "train"), key=lambda c: shape(c.key)))

    def shape(key: str) -> tuple[Any, ...]:
        jobs, trainings = below(key)
        return (times.get(key, 1), tuple(times.get(job[0], 1) for job in jobs),
                tuple(shape(cell.key) for cell in trainings))

    def made(stage: str, jobs: Sequence[tuple[str, ...]], after: Array | str | None) -> Array:
        found.append(Array(stage, tuple(jobs), after, times.get(jobs[0][0], 1.0)))
        return found[-1]

    def add(cells: Sequence[Cell], after: Array | str | None) -> None:
        """An array of trainings of one shape, and all that waits for it."""
        array = made("train", [(cell.key,) for cell in cells], after)
        follow([below(cell.key) for cell in cells], array)

    def follow(waiting: Sequence[Any], after: Array | str) -> None:
        for chunk in zip(*(jobs for jobs, _ in waiting), strict=True):
            made("score", chunk, after)
        for cells in zip(*(trainings for _, trainings in waiting), strict=True):
            add(cells, after)

    free = needing.get(None, [])
    trainings = sorted((c for c in free if c.stage == "train"), key=lambda c: shape(c.key))
    for _, alike in groupby(trainings, key=lambda cell: shape(cell.key)):
        for part in _cut(list(alike), profile.array_size):
            add(part, None)
    for key in needing:
        if key is not None and key in queued:
            follow([below(key)], queued[key])
    for stage in ("score", "prove"):
        # By network, so that a job loads few.
        keys = [c.key for c in sorted(free, key=lambda c: c.needs) if c.stage == stage]
        for _, jobs in groupby(chunks(keys), key=lambda job: times.get(job[0], 1)):
            for some in _cut(list(jobs), profile.array_size):
                made(stage, some, None)
    return found


def _cut(things: Sequence[T], length: int) -> list[tuple[T, ...]]:
    return [tuple(things[at:at + length]) for at in range(0, len(things), length)]


COLLECT = Array("collect", ((),))
"""The last job, which publishes."""


def dependency(array: Array, numbers: Mapping[int, str]) -> str | None:
    """What an array waits for, in Slurm's words; `numbers`: the jobs of those before it."""
    if array.after is None:
        return None
    if isinstance(array.after, str):
        return f"afterok:{array.after}"
    return f"{'aftercorr' if len(array.jobs) > 1 else 'afterok'}:{numbers[id(array.after)]}"
