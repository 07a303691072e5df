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
from bench.battery import Ask
from bench.core import HeatproofError
from bench.proofs import proof
from bench.results import (
    Folder,
    check_protocol,
    has_proof,
    identity,
    proof_path,
    write_plan,
    write_proof,
)
from bench.run import Outcome, Place, fit, run, splits_of
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
    jobs = settings.jobs or (1 if device.startswith("cuda") else min(os.cpu_count() or 1, 8))
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


def execute(
    suite: Suite, specs: Sequence[RunSpec], settings: Settings,
    report: Callable[[Event], None],
) -> Iterator[Outcome]:
    """Runs the specs that are not finished and yields how each ended, as they end.

    A network that fails to train fails the runs that need it, and no others.
    """
    todo = []
    for spec in specs:
        if Folder.of(spec, settings.out).is_whole(suite.metrics_of(spec.dataset)):
            yield Outcome(spec.cell, "finished before")
        else:
            todo.append(spec)
    unproven = [ask for ask in suite.asked if not has_proof(
        proof_path(settings.out, suite.name, ask.name), ask.metric())]
    if not todo and not unproven:
        return
    if settings.jobs == 1:
        _compute_alike()
        for ask in unproven:
            report((ask.name, "prove", 0, 1))
            _prove(suite.name, ask, settings.out)
        yield from _here(suite, todo, settings, report)
    else:
        yield from _pooled(suite, todo, unproven, settings, report)


def _prove(suite: str, ask: Ask, out: Path) -> None:
    """Puts one metric, with its parameters, through the lab of known answers, for the board."""
    metric = ask.metric()
    write_proof(proof_path(out, suite, ask.name), {"metric": identity(metric), **proof(metric)})


@dataclass(frozen=True)
class _Model:
    """One training, and the runs that need its network and no other training first."""

    spec: RunSpec
    runs: list[RunSpec]


def _models(specs: Sequence[RunSpec]) -> dict[str, _Model]:
    """The models of some runs by their ids; one that another starts from comes before it."""
    models: dict[str, _Model] = {}

    def model(spec: RunSpec) -> _Model:
        if spec.base:
            model(spec.base)
        return models.setdefault(spec.model_id, _Model(spec, []))

    for spec in specs:
        model(spec).runs.append(spec)
    return models


def _here(
    suite: Suite, todo: Sequence[RunSpec], settings: Settings, report: Callable[[Event], None],
) -> Iterator[Outcome]:
    place = Place(settings.out, Cache(), settings.device)
    failed: dict[str, Outcome] = {}
    for name, model in _models(todo).items():
        base = model.spec.base
        fitted = failed.get(base.model_id) if base else None
        fitted = fitted or fit(model.spec, _reporting(place, model.spec.cell, report))
        if fitted.failures:
            failed[name] = fitted
        for spec in model.runs:
            yield _blamed(spec, fitted) if fitted.failures else run(
                spec, suite.metrics_of(spec.dataset), _reporting(place, spec.cell, report))


def _compute_alike() -> None:
    """Makes this process compute what any other would: one thread, no choice of algorithm."""
    import torch

    torch.set_num_threads(1)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = False  # ten bits of mantissa would part it from a CPU


def _reporting(place: Place, cell: str, report: Callable[[Event], None]) -> Place:
    return replace(
        place, progress=lambda what, done, total: report((cell, what, done, total)))


def _blamed(spec: RunSpec, fitted: Outcome) -> Outcome:
    """The outcome of a run whose network could not be trained."""
    return Outcome(spec.cell, "failed", False, dict(fitted.failures), dict(fitted.bad_input))


def _pooled(
    suite: Suite, todo: Sequence[RunSpec], unproven: Sequence[Ask], settings: Settings,
    report: Callable[[Event], None],
) -> Iterator[Outcome]:
    context = _context()
    events: Any = context.Queue()
    models = _models(todo)
    asked = {ask.name: ask for ask in suite.asked}
    wanted = {name: [asked[metric.name] for metric in suite.metrics_of(name)]
              for name in suite.cards}
    workers = min(settings.jobs, len(todo) + len(unproven))
    pool = ProcessPoolExecutor(
        workers, context, initializer=_start,
        initargs=(settings, events, dict(os.environ)))
    waiting: dict[Future[Outcome | None], tuple[str, RunSpec | None]] = {
        pool.submit(_fit, model.spec): ("fit", model.spec)
        for model in models.values() if model.spec.base is None}
    waiting |= {pool.submit(_prove, suite.name, ask, settings.out): ("prove", None)
                for ask in unproven}
    try:
        while waiting:
            done, _ = wait(waiting, timeout=0.2, return_when=FIRST_COMPLETED)
            with contextlib.suppress(queue.Empty):
                while True:
                    report(events.get_nowait())
            for future in done:
                kind, spec = waiting.pop(future)
                outcome = future.result()
                if spec is None or outcome is None:
                    continue
                if kind == "run":
                    yield outcome
                elif outcome.failures:
                    yield from (_blamed(s, outcome) for s in _needing(spec.model_id, models))
                else:
                    waiting |= {
                        pool.submit(_fit, s): ("fit", s) for s in _next(spec.model_id, models)}
                    waiting |= {
                        pool.submit(_run, s, wanted[s.dataset]): ("run", s)
                        for s in models[spec.model_id].runs}
    except BrokenProcessPool:
        raise HeatproofError(
            "a worker process died (killed, or out of memory); what was finished is kept: run "
            "the same command again, with a smaller --jobs if memory was short") from None
    finally:
        # Ctrl-C, or a consumer that stops: the workers end now, not after their run. They write
        # whole files or none, so nothing is harmed.
        if waiting:
            for process in list(getattr(pool, "_processes", {}).values()):
                process.kill()
        pool.shutdown(wait=not waiting, cancel_futures=True)


def _next(base: str, models: Mapping[str, _Model]) -> list[RunSpec]:
    """The trainings that start from a model."""
    return [model.spec for model in models.values()
            if model.spec.base and model.spec.base.model_id == base]


def _needing(failed: str, models: Mapping[str, _Model]) -> list[RunSpec]:
    """The runs that cannot be made without a model: its own, and those of what starts from it."""
    return models[failed].runs + [
        run for spec in _next(failed, models) for run in _needing(spec.model_id, models)]


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


def _start(settings: Settings, events: Any, environment: dict[str, str]) -> None:
    """Prepares a worker: one thread, the plugins, and an end when its parent ends."""
    os.environ.update(environment)  # the server's is as old as the server
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    parent = multiprocessing.parent_process()
    if parent is not None:
        def follow() -> None:
            parent.join()
            os._exit(1)
        threading.Thread(target=follow, daemon=True).start()
    _compute_alike()
    plugins.load(settings.plugin_files)
    _worker["place"] = Place(settings.out, Cache(), settings.device)
    _worker["report"] = events.put


def _fit(spec: RunSpec) -> Outcome:
    return fit(spec, _reporting(_worker["place"], spec.cell, _worker["report"]))


def _run(spec: RunSpec, wanted: Sequence[Ask]) -> Outcome:
    metrics = [ask.metric() for ask in wanted]
    return run(spec, metrics, _reporting(_worker["place"], spec.cell, _worker["report"]))
