"""The verbs for other workload managers than Slurm: `heatproof plan --format`, and `run-cell`."""

from __future__ import annotations

import difflib
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from bench.cli_run import Out, Plugin, Seeds, suite_named

if TYPE_CHECKING:
    from bench.cells import Cell
    from bench.spec import RunSpec
    from bench.suite import Suite


def plan_as(
    form: str, name: str, found: Suite, specs: Sequence[RunSpec], *, out: Path,
    plugin_files: Sequence[str] = (), seeds: int = 0,
) -> str:
    """What is missing of some runs of a suite, as text for another workload manager.

    name: how the suite was named; form: "json", "make" or "snakemake". Raises HeatproofError for
    another one.
    """
    from bench.cells import missing, planned
    from bench.core import unknown
    from bench.cost import Known
    from bench.run import Place
    from bench.store import Cache
    from bench.workflow import FORMATS, Call

    if form not in FORMATS:
        raise unknown("--format", form, ("table", *FORMATS))
    place, cells = Place(out, Cache()), planned(found, specs)
    left = missing(cells, place)
    known = Known.of(cells, place) if form == "json" else None
    predicted = {key: asdict(known.predicted(cell)) for key, cell in left.items()} if known else {}
    return FORMATS[form](left, Call(name, out, plugin_files, seeds=seeds, predicted=predicted))


def run_cell(
    suite: str,
    keys: Annotated[list[str], typer.Argument(
        help="Keys of cells, by heatproof plan SUITE --format json.", metavar="KEY")],
    out_folder: Out = Path("results"), plugin: Plugin = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1 or auto.")] = "auto",
    seeds: Seeds = 0,
    processes: Annotated[int, typer.Option(
        help="Processes that share one training: GPUs, as a rule.")] = 1,
) -> None:
    """Does single cells of a suite, whole or not at all; what is done is not done again."""
    from bench import cli
    from bench.cells import planned, work
    from bench.pool import Settings, compute_alike, prepare
    from bench.run import Place
    from bench.store import Cache

    files = cli.load(plugin)
    found = suite_named(suite, seeds)
    chosen = _chosen(planned(found, found.runs), keys, suite)
    settings = prepare(found, [cell.spec for cell in chosen if cell.spec],
                       Settings(out_folder, device, 1, tuple(files)))
    compute_alike()
    place = Place(settings.out, Cache(), settings.device, processes=processes)
    failed = False
    for cell in chosen:
        started = time.perf_counter()
        outcome = work(cell, place)
        failed |= bool(outcome.failures)
        cli.out.print(f"{escape(cell.name)}: {escape(outcome.status)} in "
                      f"{time.perf_counter() - started:.1f} s", soft_wrap=True)
        for what, line in outcome.errors.items():
            cli.err.print(f"[red]{escape(what)}:[/] {escape(line)}")
            if cli.debugging():
                cli.err.print(outcome.failures[what], markup=False)
    if failed:
        raise typer.Exit(1)


def _chosen(cells: dict[str, Cell], keys: Sequence[str], suite: str) -> list[Cell]:
    """The cells of some keys, each after those that it needs."""
    from bench.core import HeatproofError

    for key in keys:
        if key not in cells:
            near = difflib.get_close_matches(key, cells, n=1, cutoff=0.5)
            raise HeatproofError(
                f"{suite} has no cell {key!r}" + (f", the nearest is {near[0]!r}" if near else "")
                + "; a key changes with the suite, its plugins and their parameters, so plan anew: "
                f"heatproof plan {suite} --format json")
    return [cell for key, cell in cells.items() if key in set(keys)]
