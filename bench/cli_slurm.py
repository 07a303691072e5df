"""`heatproof run SUITE --on slurm`: submits what is missing, and watches the queue."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from bench import cluster, profile, suite
from bench.arrays import arrays
from bench.cells import Cell, is_done, missing, planned, word
from bench.cost import cost
from bench.outcome import Outcome
from bench.run import Place
from bench.status import standings
from bench.store import Cache

if TYPE_CHECKING:
    from rich.console import Console

    from bench.arrays import Array
    from bench.cluster import Submission
    from bench.pool import Settings
    from bench.profile import Profile
    from bench.spec import RunSpec
    from bench.suite import Suite
    from bench.watch import Watch

LOOK = 2.0
"""Seconds between two looks at the queue; more for large suites."""
LATE = 10.0
"""Seconds for which a network file system may hide what a job of another machine has written."""


def outcomes(
    name: str, found: Suite, specs: Sequence[RunSpec], *, seeds: int, only: Sequence[str],
    settings: Settings, profile_file: Path | None, leaderboard: Path, dry_run: bool, detach: bool,
    watch: Watch, printed: Console,
) -> Iterator[Outcome]:
    """Submits what is neither done nor queued and yields how each run ended, as the store tells.

    `dry_run` prints what sbatch would be given instead; `detach` ends once all is submitted.
    Raises HeatproofError where Slurm does not answer, or refuses.
    """
    asked = profile.read(profile_file)
    place = Place(settings.out, Cache())
    cells = planned(found, specs)
    left = missing(cells, place)
    jobs = cluster.queue() or {}
    waiting = {key: job for key, job in cluster.queued(place.cache, found.name, jobs).items()
               if key in left}
    todo = arrays(left, asked, waiting)
    submission = cluster.Submission.new(
        suite.file_of(name), settings.out, leaderboard, asked, place.cache, seeds=seeds, only=only,
        plugin_files=settings.plugin_files, keep=not dry_run and bool(todo))
    if dry_run:
        watch.bar.stop()
        _show(submission, todo, asked, left, cells, place, printed)
        return
    for cell in cells.values():
        if cell.stage == "score" and cell.key not in left:
            yield Outcome(cell.name, "finished before")
    count = sum(len(array.jobs) for array in todo)
    if todo:
        submission = submission.submit(todo)
        watch.console.print(
            f"{count} jobs in {len(todo)} arrays are submitted, and one that publishes; "
            f"logs: {escape(str(submission.folder / 'logs'))}")
    elif waiting:
        watch.console.print("all that is missing is queued already")
    if waiting and todo:
        watch.console.print(f"{len(waiting)} cells were queued before")
    if detach:
        watch.console.print(f"heatproof status {escape(name)} shows how far it is")
        return
    yield from _watched(found.name, cells, left, place, watch)


def _show(
    submission: Submission, todo: Sequence[Array], asked: Profile, left: Mapping[str, Cell],
    cells: Mapping[str, Cell], place: Place, out: Console,
) -> None:
    """What would be submitted, to the letter, and what it will cost."""
    for array, script in submission.scripts(todo) if todo else ():
        n, held = len(array.jobs), sum(map(len, array.jobs))
        what = "1 job that publishes" if array.stage == "collect" else (
            f"{n} {array.stage} job{'s' * (n > 1)}, {held} cell{'s' * (held > 1)}")
        out.print(f"[bold]{what}[/]")
        out.print(script, markup=False, soft_wrap=True)
    jobs = sum(len(array.jobs) for array in todo)
    out.print(f"{jobs} jobs in {len(todo)} arrays for {len(left)} cells; nothing was submitted")
    found = cost(left, cells, place)
    hours = found.gpu_hours({stage: r.gpus for stage, r in asked.stages.items()})
    if found.seconds:
        memory = ", ".join(f"{stage} {peak / 2**30:.1f}" for stage, peak in found.peak.items())
        out.print(
            f"about {hours:.2f} GPU-hours and {found.hours:.2f} hours of jobs"
            + (f", and at most GiB of memory: {memory}" if memory else "")
            + f", {escape(found.basis)}", soft_wrap=True)
    elif left:
        out.print("no cell like these is measured yet, so their GPU-hours are unknown")


def _watched(
    name: str, cells: Mapping[str, Cell], missing_now: Mapping[str, Cell], place: Place,
    watch: Watch,
) -> Iterator[Outcome]:
    left, quiet = dict(missing_now), None
    while left:
        queue = cluster.queue()
        for key, cell in list(left.items()):
            if is_done(cell, place):
                del left[key]
                if cell.stage == "score":
                    yield Outcome(cell.name)
        if queue is not None:
            mine = {one.folder.name for one in cluster.submissions(place.cache, name)}
            states = Counter(state for (comment, _), state in queue.items() if comment in mine)
            told = ", ".join(f"{n} {state.lower()}" for state, n in states.items())
            watch.report(("queue", told or "empty", 0, 1))
            quiet = None if states else quiet or time.monotonic()
            if quiet and time.monotonic() - quiet > LATE:
                break
        time.sleep(max(LOOK, len(left) / 200))
    watch.report(("queue", "empty", 1, 1))
    by_key = {one.cell.key: one for one in standings(cells, place)}
    for key, cell in left.items():
        if cell.stage == "train" or is_done(cell, place):
            continue
        # What failed, else what failed before it.
        culprit = next((by_key[k] for k in (key, *cell.needs) if k in by_key
                        and by_key[k].state in ("failed", "died")), by_key[key])
        said: dict[str, Any] = word(culprit.cell.key, place.cache)
        why = culprit.reason or (
            "its job ended before it began (cancelled, or killed); the same command submits it "
            "again")
        yield Outcome(cell.name, "failed", False, {
            culprit.cell.stage: said.get("tracebacks", {}).get(culprit.cell.stage) or why})
