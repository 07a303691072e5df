"""The cells of a suite: pieces of work, each done whole or not at all by any process.

A cell trains one network ("train"), explains and scores one run ("score"), or proves one metric
("prove"). Whether it is done, what it makes says, and nothing else; so whoever sees the results and
the cache can go on where another stopped. Beside that the cache keeps word of each cell:
`cells/ab/KEY.claim` while somebody is at work on it, `cells/ab/KEY.json` of how that ended (WORD).
"""

from __future__ import annotations

import multiprocessing
import os
import platform
import threading
import time
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from bench.battery import Ask
from bench.chunks import LARGEST, at_most
from bench.core import HeatproofError, canonical, digest
from bench.measure import Metric
from bench.outcome import Outcome
from bench.proofs import proof
from bench.results import Folder, has_proof, identity, proof_path, write_proof
from bench.run import Place, fit, run
from bench.spec import RunSpec
from bench.store import Cache, read_json, write_bytes, write_json
from bench.suite import Suite

WORD = {
    "cell": "what a person calls it",
    "stage": "train, score or prove",
    "state": "done, failed, or died (the process that did it ended without a word)",
    "died": "how many times that happened",
    "seconds": "how long it took; null where it died",
    "ended": "seconds since 1970",
    "host": "the machine",
    "job": "its Slurm job, or empty",
    "errors": "what failed -> a line",
    "tracebacks": "what failed -> its traceback",
    "memory": "whether memory ran out",
}
BEAT = 15.0
"""Seconds between two signs of life of who works on a cell."""
STALE = 90.0
"""Seconds without one after which nobody does."""
POLL = 1.0
"""Seconds between two looks at a cell that somebody else works on."""


@dataclass(frozen=True)
class Cell:
    """One piece of work. needs: the keys of those that come first; asked: what it scores."""

    key: str
    stage: Literal["train", "score", "prove"]
    suite: str
    name: str
    needs: tuple[str, ...] = ()
    spec: RunSpec | None = None
    asked: tuple[Ask, ...] = ()
    metrics: tuple[Metric, ...] = field(default=(), compare=False, repr=False)
    """What `asked` stands for; left behind where a cell is sent to another process."""

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "metrics": ()}

    def wanted(self) -> Sequence[Metric]:
        """The metrics that it scores or proves."""
        return self.metrics or [ask.metric() for ask in self.asked]


def planned(suite: Suite, specs: Iterable[RunSpec]) -> dict[str, Cell]:
    """The cells of some runs of a suite by their keys, each after those that it needs."""
    found: dict[str, Cell] = {}
    asks = {ask.name: ask for ask in suite.asked}
    by_dataset: dict[str, tuple[tuple[Ask, ...], tuple[Metric, ...], str]] = {}
    for name in suite.cards:
        metrics = tuple(suite.metrics_of(name))
        by_dataset[name] = (tuple(asks[metric.name] for metric in metrics), metrics,
                            digest([identity(metric) for metric in metrics]))
    for metric in suite.metrics:
        key = digest(["prove", suite.name, identity(metric)])
        found[key] = Cell(key, "prove", suite.name, f"{metric.name} proof",
                          asked=(asks[metric.name],), metrics=(metric,))

    def training(spec: RunSpec) -> str:
        if spec.model_id not in found:
            needs = (training(spec.base),) if spec.base else ()
            fold = f"/fold {spec.fold}" if spec.fold else ""
            found[spec.model_id] = Cell(
                spec.model_id, "train", suite.name,
                f"{spec.dataset}/{spec.contestant.trainer}{fold}/seed {spec.seed} network",
                needs, spec)
        return spec.model_id

    for spec in specs:
        needs = (training(spec),)
        asked, metrics, scored = by_dataset[spec.dataset]
        key = digest(["score", suite.name, spec.id, scored])
        found[key] = Cell(key, "score", suite.name, spec.cell, needs, spec, asked, metrics)
    return found


def is_done(cell: Cell, place: Place) -> bool:
    """Whether what a cell makes is there. Raises if it was made otherwise."""
    if cell.stage == "prove":
        (metric,) = cell.wanted()
        return has_proof(proof_path(place.out, cell.suite, metric.name), metric)
    assert cell.spec is not None
    if cell.stage == "train":
        return place.cache.has("models", cell.spec.model_id)
    return Folder.of(cell.spec, place.out).is_whole(cell.wanted())


def missing(cells: Mapping[str, Cell], place: Place) -> dict[str, Cell]:
    """What is left to do, in order: a network only where a run that is not done needs it."""
    left = {key for key, cell in cells.items()
            if cell.stage != "train" and not is_done(cell, place)}

    def need(key: str) -> None:
        if key not in left and not is_done(cells[key], place):
            left.add(key)
            for other in cells[key].needs:
                need(other)

    for key in list(left):
        for other in cells[key].needs:
            need(other)
    return {key: cell for key, cell in cells.items() if key in left}


def work(cell: Cell, place: Place) -> Outcome:
    """Does a cell unless it is done, and leaves word of how it ended. Never raises.

    While another process is at it, this one waits. A cell whose process died twice, perhaps for
    want of memory, is done in ever smaller pieces.
    """
    try:
        with claimed(cell, place.cache) as died:
            if is_done(cell, place):
                return Outcome(cell.name, "finished before")
            started = time.perf_counter()
            with at_most(max(1, LARGEST >> max(0, died - 1))):
                outcome = _done(cell, place)
            _leave_word(cell, place.cache, died, "failed" if outcome.failures else "done", outcome,
                        seconds=time.perf_counter() - started)
            return outcome
    except Exception as error:  # noqa: BLE001  of a full disk, or a file that is not ours
        return _failed(cell, error)


def _done(cell: Cell, place: Place) -> Outcome:
    if cell.stage == "prove":
        try:
            (metric,) = cell.wanted()
            write_proof(proof_path(place.out, cell.suite, metric.name),
                        {"metric": identity(metric), **proof(metric, cache=place.cache)})
        except Exception as error:  # noqa: BLE001  a metric is a stranger's code
            return _failed(cell, error)
        return Outcome(cell.name)
    assert cell.spec is not None
    if cell.stage == "train":
        return fit(cell.spec, place)
    return run(cell.spec, cell.wanted(), place)


def _failed(cell: Cell, error: Exception) -> Outcome:
    what, trace = str(cell.stage), "".join(traceback.format_exception(error))
    bad = {what: str(error)} if isinstance(error, HeatproofError) else {}
    return Outcome(cell.name, "failed", False, {what: trace}, bad)


def word_path(key: str, cache: Cache) -> Path:
    """Where the word of a cell lies; its claim lies beside it."""
    return cache.root / "cells" / key[:2] / f"{key}.json"


def word(key: str, cache: Cache) -> dict[str, Any]:
    """How the last work on a cell ended; empty if there was none. See WORD."""
    try:
        return dict(read_json(word_path(key, cache)))
    except HeatproofError:  # none, or torn: it is no result, and nothing is lost with it
        return {}


_MEMORY = ("MemoryError", "OutOfMemoryError", "fits in memory", "can't allocate memory")


def _leave_word(
    cell: Cell, cache: Cache, died: int, state: str, outcome: Outcome, *,
    seconds: float | None = None, who: Mapping[str, Any] | None = None,
) -> None:
    who = who or _who()
    write_json(word_path(cell.key, cache), {
        "cell": cell.name, "stage": cell.stage, "state": state, "died": died, "seconds": seconds,
        "ended": time.time(), "host": who["host"], "job": who["job"],
        "errors": outcome.errors, "tracebacks": outcome.failures,
        "memory": any(sign in trace for trace in outcome.failures.values() for sign in _MEMORY)})


def _who() -> dict[str, Any]:
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    job = (f"{array}_{os.environ.get('SLURM_ARRAY_TASK_ID')}" if array
           else os.environ.get("SLURM_JOB_ID", ""))
    parent = multiprocessing.parent_process()
    return {"host": platform.node(), "pid": os.getpid(), "job": job,
            "parent": parent.pid if parent else None, "since": time.time()}


@dataclass(frozen=True)
class Holder:
    """Who has claimed a cell (host, pid, job, since), and whether it still gives signs of life."""

    who: Mapping[str, Any]
    alive: bool


def holder(key: str, cache: Cache) -> Holder | None:
    """Who works on a cell, or died over it; None if nobody does."""
    path = word_path(key, cache).with_suffix(".claim")
    try:
        who, age = dict(read_json(path)), time.time() - path.stat().st_mtime
    except (HeatproofError, OSError):
        return None
    alive = age < STALE and not (who["host"] == platform.node() and _ended(who))
    return Holder(who, alive)


def _ended(who: Mapping[str, Any]) -> bool:
    """Whether a process of this machine is over, or is this one's job from before a requeue."""
    if who["job"] and who["job"] == _who()["job"] and who["pid"] != os.getpid():
        return True
    try:
        os.kill(who["pid"], 0)
        status = Path(f"/proc/{who['pid']}/stat")
        # A zombie is over, though nobody has collected it yet.
        return status.is_file() and status.read_text().rpartition(")")[2].split()[0] == "Z"
    except ProcessLookupError:
        return True
    except (PermissionError, OSError, IndexError):
        return False


@contextmanager
def claimed(cell: Cell, cache: Cache) -> Iterator[int]:
    """Holds a cell while it is worked on; yields how many times its process died before.

    Waits while another process holds it. Where two take over at once both may work, which costs
    time and harms nothing: what they make is equal, and the first that is written stays.
    """
    path = word_path(cell.key, cache).with_suffix(".claim")
    mine = canonical(_who()).encode()
    while not write_bytes(path, mine, once=True):
        if (other := holder(cell.key, cache)) and other.alive:
            time.sleep(POLL)
        elif other:
            take_over(cell, cache, other)
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(BEAT):
            with suppress(OSError):
                os.utime(path)

    threading.Thread(target=beat, daemon=True).start()
    try:
        yield int(word(cell.key, cache).get("died", 0))
    finally:
        stop.set()
        with suppress(OSError):
            if path.read_bytes() == mine:
                path.unlink()


def take_over(cell: Cell, cache: Cache, dead: Holder) -> bool:
    """Frees a cell from a holder that died, and leaves word of it; whether it was so."""
    path = word_path(cell.key, cache).with_suffix(".claim")
    aside = path.with_name(f".{path.name}.{os.urandom(4).hex()}")
    try:
        path.rename(aside)
        if dict(read_json(aside)) != dict(dead.who):  # another was quicker, and holds it now
            with suppress(OSError):
                os.link(aside, path)
            return False
    except (OSError, HeatproofError):
        return False
    finally:
        aside.unlink(missing_ok=True)
    # A job that was requeued (preempted, out of time, its node lost) is no death of its own.
    requeued = bool(dead.who["job"]) and dead.who["job"] == _who()["job"]
    died = int(word(cell.key, cache).get("died", 0)) + (not requeued)
    _leave_word(cell, cache, died, "died", Outcome(cell.name), who=dead.who)
    return True
