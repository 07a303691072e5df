"""Many runs on one machine: first each network, then the runs that share it.

One process or several; each computes with one thread, so the numbers do not depend on how many
there are. Nothing is lost by stopping: the results and the cache hold all that is finished.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench import data, nets, plugins
from bench.cells import Cell, holder, missing, planned, take_over, work
from bench.core import HeatproofError
from bench.outcome import Outcome
from bench.results import Folder, check_protocol, write_plan
from bench.run import Place, splits_of
from bench.spec import RunSpec
from bench.store import Cache
from bench.suite import Suite

Event = tuple[str, str, int, int]
"""Which cell, what is under way, how much of it is done, and how much there is."""


@dataclass(frozen=True)
class Settings:
    """How a suite is run on this machine."""

    out: Path
    device: str = "cpu"
    jobs: int = 1
    plugin_files: tuple[str, ...] = ()

    @property
    def devices(self) -> tuple[str, ...]:
        """The devices that several processes share out: each of the machine's GPUs."""
        return nets.devices_of(self.device)


def prepare(
    suite: Suite, specs: Sequence[RunSpec], settings: Settings,
    report: Callable[[Event], None] | None = None,
) -> Settings:
    """Checks all that can be checked before anything runs, then writes the suite's plan.

    Images that no run has read before are decoded, here and once, so that no job waits for another.

    Raises HeatproofError for a folder of another protocol or that cannot be written, a backbone
    that does not exist, a device that is not there, and data that are missing or altered. Returns
    the settings with device and jobs decided.
    """
    check_protocol(settings.out / suite.name, suite.protocol)
    if settings.jobs < 0:
        raise HeatproofError("--jobs must not be negative")
    for name in dict.fromkeys(spec.dataset for spec in specs):
        todo = [s for s in specs if s.dataset == name
                and not Folder.of(s, settings.out).is_whole(suite.metrics_of(name))]
        for fold, split in dict.fromkeys(
                (spec.fold, split) for spec in todo for split in splits_of(spec)):
            _hold(name, split, fold, report)
        for spec in todo:
            nets.check(spec.backbone)
    device = str(nets.device_named(settings.device))
    gpus = len(nets.devices_of(device)) if device.startswith("cuda") else 0
    jobs = settings.jobs or gpus or min(os.cpu_count() or 1, 8)
    write_plan(settings.out, suite.plan())
    return replace(settings, device=device, jobs=jobs)


def _hold(
    name: str, split: str, fold: int, report: Callable[[Event], None] | None,
) -> None:
    """Opens a split's images, and says how far their decoding is, where they have to be decoded."""
    def progress(done: int, of: int) -> None:
        if report:
            report((name, f"decode {split}", done, of))

    data.held(name, split, fold, progress=progress)


class Schedule:
    """Which cells can be worked on, as others end. One that fails fails the runs that need it."""

    def __init__(self, left: Mapping[str, Cell]) -> None:
        self.left = dict(left)
        self._needs = {key: {need for need in cell.needs if need in left}
                       for key, cell in left.items()}
        self._needed: dict[str, list[str]] = {}
        for key, needs in self._needs.items():
            for need in needs:
                self._needed.setdefault(need, []).append(key)
        self._free = [key for key, needs in self._needs.items() if not needs]

    def ready(self) -> list[Cell]:
        """The cells that wait for none; each is given once."""
        free, self._free = self._free, []
        return [self.left[key] for key in free]

    def end(self, cell: Cell, outcome: Outcome) -> list[Outcome]:
        """Takes note of how a cell ended. Returns what a person wants to know: how a run ended, and
        what else cannot be done.
        """
        del self.left[cell.key]
        told = [outcome] if cell.stage == "score" or (
            cell.stage == "prove" and outcome.failures) else []
        for key in self._needed.get(cell.key, ()):
            if key not in self.left:
                continue
            if outcome.failures:
                other = self.left[key]
                told += self.end(other, Outcome(
                    other.name, "failed", False, dict(outcome.failures), dict(outcome.bad_input)))
            else:
                self._needs[key].discard(cell.key)
                if not self._needs[key]:
                    self._free.append(key)
        return told


def execute(
    suite: Suite, specs: Sequence[RunSpec], settings: Settings,
    report: Callable[[Event], None],
) -> Iterator[Outcome]:
    """Runs the specs that are not finished and yields how each ended, as they end.

    A network that fails to train fails the runs that need it, and no others.
    """
    place = Place(settings.out, Cache(), settings.device)
    cells = planned(suite, specs)
    left = missing(cells, place)
    for cell in cells.values():
        if cell.stage == "score" and cell.key not in left:
            yield Outcome(cell.name, "finished before")
    if not left:
        return
    schedule = Schedule(left)
    if settings.jobs == 1:
        compute_alike()
        yield from _here(schedule, place, report)
    else:
        yield from _Pool(schedule, settings, place, report).outcomes()


def _here(
    schedule: Schedule, place: Place, report: Callable[[Event], None],
) -> Iterator[Outcome]:
    waiting = schedule.ready()
    while waiting:
        cell = waiting.pop(0)
        yield from schedule.end(cell, work(cell, reporting(place, cell.name, report)))
        # What has just become possible comes first: its network is still in memory's caches.
        waiting = schedule.ready() + waiting


def compute_alike() -> None:
    """Makes this process compute what any other would: one thread, no choice of algorithm."""
    import torch

    torch.set_num_threads(1)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = False  # ten bits of mantissa would part it from a CPU


def reporting(place: Place, cell: str, report: Callable[[Event], None]) -> Place:
    """A place whose progress is reported under the name of a cell."""
    return replace(
        place, progress=lambda what, done, total: report((cell, what, done, total)))


DEATHS = 2
"""How many deaths of its process a cell is given before it counts as failed."""


class _Pool:
    """Several processes. When one dies, what it was at is tried again, alone, in new ones."""

    def __init__(
        self, schedule: Schedule, settings: Settings, place: Place,
        report: Callable[[Event], None],
    ) -> None:
        self.schedule, self.settings, self.place, self.report = schedule, settings, place, report
        self.context = _context()
        self.waiting: list[Cell] = []
        self.alone: list[Cell] = []
        """Cells over which a process died: each is tried by itself, so that it harms no other."""
        self.died: dict[str, int] = {}
        self.under_way: dict[Future[Outcome], Cell] = {}

    def outcomes(self) -> Iterator[Outcome]:
        """How each run ended, as they end."""
        while self.schedule.left:
            events: Any = self.context.Queue()
            pool = self._started(events)
            try:
                yield from self._worked(pool, events)
            except BrokenProcessPool:
                yield from self._recovered(pool)
            finally:
                # Ctrl-C, or a consumer that stops: the workers end now, not after their cell. They
                # write whole files or none, so nothing is harmed.
                if self.under_way:
                    for process in list(getattr(pool, "_processes", None) or {}).copy():
                        with contextlib.suppress(OSError):
                            os.kill(process, signal.SIGKILL)
                pool.shutdown(wait=not self.under_way, cancel_futures=True)
                self.under_way.clear()

    def _started(self, events: Any) -> ProcessPoolExecutor:
        workers = min(self.settings.jobs, len(self.schedule.left))
        devices: Any = self.context.Queue()
        for worker in range(workers):
            devices.put(self.settings.devices[worker % len(self.settings.devices)])
        return ProcessPoolExecutor(workers, self.context, initializer=_start, initargs=(
            self.settings, devices, events, dict(os.environ)))

    def _worked(self, pool: ProcessPoolExecutor, events: Any) -> Iterator[Outcome]:
        while self.schedule.left:
            self.waiting += self.schedule.ready()
            while self.waiting and not self.alone:
                cell = self.waiting.pop(0)
                self.under_way[pool.submit(_work, cell)] = cell
            if self.alone and not self.under_way:
                cell = self.alone.pop(0)
                self.under_way[pool.submit(_work, cell)] = cell
            done, _ = wait(self.under_way, timeout=0.2, return_when=FIRST_COMPLETED)
            with contextlib.suppress(queue.Empty):
                while True:
                    self.report(events.get_nowait())
            for future in done:
                outcome = future.result()
                yield from self.schedule.end(self.under_way.pop(future), outcome)

    def _recovered(self, pool: ProcessPoolExecutor) -> Iterator[Outcome]:
        """Sorts the cells that were under way when a worker died, and drops those that kill."""
        for cell in self.under_way.values():
            held = holder(cell.key, self.place.cache)
            # The executor ends all workers when one dies, so none of ours is at work any more.
            if not held or held.who["parent"] != os.getpid():
                self.waiting.append(cell)
                continue
            take_over(cell, self.place.cache, held)
            self.died[cell.key] = self.died.get(cell.key, 0) + 1
            if self.died[cell.key] > DEATHS:
                why = (f"the process that worked on it died {self.died[cell.key]} times (killed, "
                       "or out of memory); run the same command again with more memory")
                yield from self.schedule.end(
                    cell, Outcome(cell.name, "failed", False, {cell.stage: why}))
            else:
                self.alone.append(cell)
        self.under_way.clear()


def _context() -> Any:
    """Where workers come from: a server that has imported what they need, once for all of them.

    It has no threads and touches no device, so forking it is safe. Elsewhere each worker imports
    for itself.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    multiprocessing.set_forkserver_preload(list(_PRELOAD))
    return multiprocessing.get_context("forkserver")


def warm() -> None:
    """Starts that server, so that its imports go on beside whatever comes first."""
    if _context().get_start_method() == "forkserver":
        from multiprocessing.forkserver import ensure_running

        ensure_running()


_PRELOAD = ("bench.pool", "timm", "captum.attr", "quantus", "sklearn.datasets")
_worker: dict[str, Any] = {}


def _start(settings: Settings, devices: Any, events: Any, environment: dict[str, str]) -> None:
    """Prepares a worker: one thread, the plugins, and an end when its parent ends."""
    os.environ.update(environment)  # the server's is as old as the server
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    parent = multiprocessing.parent_process()
    if parent is not None:
        def follow() -> None:
            parent.join()
            os._exit(1)
        threading.Thread(target=follow, daemon=True).start()
    compute_alike()
    plugins.load(settings.plugin_files)
    _worker["place"] = Place(settings.out, Cache(), devices.get())
    _worker["report"] = events.put


def _work(cell: Cell) -> Outcome:
    return work(cell, reporting(_worker["place"], cell.name, _worker["report"]))
