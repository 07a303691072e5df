"""The verbs that do the work: `heatproof plan`, `run` and `status`."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bench.outcome import Outcome
    from bench.run import Place
    from bench.spec import RunSpec
    from bench.status import Standing
    from bench.suite import Suite

Out = Annotated[Path, typer.Option("--out", help="Folder of results.")]
Plugin = Annotated[
    list[str] | None, typer.Option("--plugin", help="A Python file that registers a plugin.")]
Seeds = Annotated[int, typer.Option(help="Seeds 0 to N-1 instead of the suite's.")]
Only = Annotated[list[str] | None, typer.Option(help="A contestant; repeatable.")]
ProfileFile = Annotated[Path | None, typer.Option(
    "--profile", help="With --on slurm: what each kind of job asks for (a TOML file).")]
LISTED = 20
"""Cells that are listed by name in a terminal; --format json has all."""


def plan(
    suite: str, only: Only = None, seeds: Seeds = 0, out_folder: Out = Path("results"),
    plugin: Plugin = None,
    form: Annotated[str, typer.Option(
        "--format", help="table; or what is missing, as json, make or snakemake.")] = "table",
) -> None:
    """Shows what a suite would run, and what of it is finished."""
    from rich.table import Table

    from bench import cli, cli_cluster
    from bench.results import Folder
    from bench.store import Cache

    files = cli.load(plugin)
    found = suite_named(suite, seeds)
    runs = found.only(only or [])
    if form != "table":
        typer.echo(cli_cluster.plan_as(
            form, suite, found, runs, out=out_folder, plugin_files=files, seeds=seeds), nl=False)
        return
    cache = Cache()
    cli.out.print(_trainings(runs))
    table = Table(box=None, pad_edge=False, header_style="bold")
    for head in ("data set", "contestant", "network", "fold", "seed", "model", "maps", "scores"):
        table.add_column(head)
    for run in runs:
        metrics = found.metrics_of(run.dataset)
        left = len(Folder.of(run, out_folder).missing(metrics))
        table.add_row(
            run.dataset, escape(run.contestant.name),
            escape(f"{run.backbone.name} {run.contestant.trainer}"), str(run.fold), str(run.seed),
            "trained" if cache.has("models", run.model_id) else "to train",
            "made" if cache.has("maps", run.maps_id) else "to make",
            f"{len(metrics) - left} of {len(metrics)}")
    cli.out.print(table)
    for skip in found.skipped:
        cli.out.print(f"[dim]skipped on {escape(skip.dataset)}: {escape(skip.reason)}[/]")
    for name in dict.fromkeys(run.dataset for run in runs):
        if reason := _not_here(name):
            cli.out.print(f"[yellow]cannot run yet:[/] {escape(reason)}")
    models = {run.model_id for run in runs}
    cli.out.print(f"{len(runs)} runs on {len(models)} networks, {len(found.metrics)} metrics")
    cli.out.print(_costs(found, runs, out_folder))


def _trainings(runs: Sequence[RunSpec]) -> object:
    """How each network of some runs comes about, a row for each data set and way of training."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for head in ("data set", "trainer", "network", "training", "parameters"):
        table.add_column(head, overflow="fold")
    rows = {}
    for run in runs:
        recipe, backbone = run.recipe, run.backbone
        steps = [f"{recipe.epochs} epochs of {recipe.optimizer}", f"lr {recipe.lr:g}",
                 f"batch {recipe.batch_size}" + (
                     f" × {recipe.accumulate}" if recipe.accumulate > 1 else ""),
                 recipe.schedule, *(str(table["name"]) for table in recipe.augment)]
        if run.base:
            steps.insert(0, f"from {run.base.contestant.trainer}")
        train = run.contestant.train
        rows[run.dataset, run.contestant.trainer, str(train)] = (
            run.dataset, run.contestant.trainer,
            backbone.name + (" (published weights)" if backbone.pretrained else ""),
            f"weights of {run.weights}" if run.weights else ", ".join(steps),
            ", ".join(f"{key}={value}" for key, value in train.items()))
    for row in rows.values():
        table.add_row(*map(escape, row))
    return table


def _not_here(dataset: str) -> str:
    """Why a data set cannot be read on this machine; empty if it can."""
    from bench import data
    from bench.core import HeatproofError

    try:
        data.catalogue(data.card(dataset))
    except HeatproofError as error:
        return str(error)
    return ""


def suite_named(name: str, seeds: int) -> Suite:
    """A suite by name or file. Raises HeatproofError for an unknown one."""
    from bench import suite
    from bench.core import HeatproofError

    if seeds < 0:
        raise HeatproofError("--seeds must be positive")
    return suite.read(name, seeds=seeds)


def _costs(suite: Suite, runs: Sequence[RunSpec], out: Path) -> str:
    """A line of what is left to do will cost, by what was measured."""
    from bench.cells import missing, planned
    from bench.cost import cost
    from bench.run import Place
    from bench.store import Cache

    place, cells = Place(out, Cache()), planned(suite, runs)
    left = missing(cells, place)
    if not left:
        return "nothing is left to do"
    found = cost(left, cells, place)
    if not found.seconds:
        return f"{len(left)} cells are left; none like them was measured yet, so no cost is known"
    return f"{len(left)} cells are left: {escape(str(found))}"


def run(
    suite: str, only: Only = None, seeds: Seeds = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1 or auto.")] = "auto",
    jobs: Annotated[int, typer.Option(
        help="Processes; 0 is one a core on a CPU (at most 8), one a GPU.")] = 0,
    out_folder: Out = Path("results"), plugin: Plugin = None,
    on: Annotated[str, typer.Option(help="here, or slurm.")] = "here",
    profile: ProfileFile = None,
    dry_run: Annotated[bool, typer.Option(
        "--dry-run", help="With --on slurm: show what would be submitted.")] = False,
    detach: Annotated[bool, typer.Option(
        "--detach", help="With --on slurm: do not watch the queue.")] = False,
    leaderboard: Annotated[Path, typer.Option(
        help="With --on slurm: folder of leaderboards, for the last job.")] = Path("leaderboard"),
) -> None:
    """Trains, explains and scores a suite; run it again to finish or to extend it."""
    from bench import cli
    from bench.core import unknown
    from bench.watch import Watch

    if on not in ("here", "slurm"):
        raise unknown("--on", on, ("here", "slurm"))
    with Watch(cli.err, debug=cli.debugging()) as watch:
        if on == "here" and jobs != 1:
            from bench.pool import warm

            warm()
        files = cli.load(plugin)
        found = suite_named(suite, seeds)
        specs = found.only(only or [])
        from bench.pool import Settings, execute, prepare

        settings = Settings(out_folder, device, jobs, tuple(files))
        if on == "slurm":  # before anything is decoded
            from bench import cluster
            from bench.profile import read

            read(profile)
            if not dry_run:
                cluster.check()
        watch.expect(found.title, len(specs))
        if not dry_run:
            settings = prepare(found, specs, settings, watch.report)
        if on == "here":
            outcomes = execute(found, specs, settings, watch.report)
        else:
            from bench import cli_slurm

            outcomes = cli_slurm.outcomes(
                suite, found, specs, seeds=seeds, only=only or [], settings=settings,
                profile_file=profile, leaderboard=leaderboard, dry_run=dry_run, detach=detach,
                watch=watch, printed=cli.out)
        for outcome in _until_stopped(outcomes, found.name if on == "slurm" else ""):
            watch.end(outcome)
    if dry_run or (on == "slurm" and detach):
        return
    summary = ", ".join(f"{n} {status}" for status, n in watch.counts.items())
    where = settings.out / found.name
    cli.out.print(f"{escape(found.title)}: {escape(summary)} in {watch.seconds:.0f} s")
    if failures := len(watch.failed) + len(watch.bad_input):
        cli.err.print(f"[red]{failures} failed;[/] what was finished is kept, and the same command "
                      "goes on from there (--debug shows tracebacks)")
        raise typer.Exit(1 if watch.failed else 2)
    cli.out.print(f"results are in {where}; next: heatproof publish {where}")


def _until_stopped(outcomes: Iterator[Outcome], queue_of: str) -> Iterator[Outcome]:
    """The outcomes; Ctrl-C ends the command with one line and exit code 130."""
    from bench import cli

    try:
        yield from outcomes
    except KeyboardInterrupt:
        cli.err.print(
            f"no longer watching; the queue goes on. heatproof status {escape(queue_of)} shows it, "
            "and the same command watches again" if queue_of else
            "stopped; what was finished is kept, and the same command goes on from there")
        raise typer.Exit(130) from None


def status(
    suite: str, only: Only = None, seeds: Seeds = 0, out_folder: Out = Path("results"),
    plugin: Plugin = None,
    form: Annotated[str, typer.Option("--format", help="table or json.")] = "table",
) -> None:
    """Shows what is trained, explained, scored, running and failed, with times and reasons."""
    from bench import cli, cluster
    from bench.cells import planned
    from bench.core import unknown
    from bench.run import Place
    from bench.status import standings
    from bench.store import Cache

    if form not in ("table", "json"):
        raise unknown("--format", form, ("table", "json"))
    cli.load(plugin)
    found = suite_named(suite, seeds)
    runs = found.only(only or [])
    place = Place(out_folder, Cache())
    queue = cluster.queue()
    waiting = cluster.queued(place.cache, found.name, queue) if queue else {}
    stands = standings(planned(found, runs), place, waiting)
    if form == "json":
        for one in stands:
            cli.out.print(json.dumps({
                "key": one.cell.key, "stage": one.cell.stage, "cell": one.cell.name,
                "state": one.state, "seconds": one.seconds, "reason": one.reason,
                "where": one.where}), soft_wrap=True, markup=False)
        return
    cli.out.print(_by_contestant(stands, place))
    cli.out.print(_by_stage(stands))
    for state, colour in (("running", "cyan"), ("failed", "red"), ("died", "red")):
        told = [one for one in stands if one.state == state]
        for one in told[:LISTED]:
            since = f" for {one.seconds:.0f} s" if state == "running" and one.seconds else ""
            at = f" on {one.where}" if one.where else ""
            why = f": {one.reason}" if one.reason else ""
            cli.out.print(f"[{colour}]{state}[/]{since}{escape(at)}: {escape(one.cell.name)}"
                          f"{escape(why)}")
        if len(told) > LISTED:
            cli.out.print(f"and {len(told) - LISTED} more {state} (--format json shows all)")
    if "running" not in Counter(one.state for one in stands):
        cli.out.print(_costs(found, runs, out_folder))


def _by_contestant(stands: Sequence[Standing], place: Place) -> object:
    """A row for each data set and contestant: how many of its runs are how far."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for head in ("data set", "contestant", "trained", "explained", "scored", "running", "queued",
                 "failed", "seconds a run"):
        table.add_column(head)
    by_key = {one.cell.key: one for one in stands}
    rows: dict[tuple[str, str], list[Standing]] = {}
    for one in stands:
        if one.cell.stage == "score" and one.cell.spec:
            rows.setdefault(
                (one.cell.spec.dataset, one.cell.spec.contestant.name), []).append(one)
    for (dataset, name), runs in rows.items():
        states = Counter(one.state for one in runs)
        trained = sum(by_key[key].state == "done" for one in runs for key in one.cell.needs)
        made = sum(one.state == "done" or place.cache.has("maps", one.cell.spec.maps_id)
                   for one in runs if one.cell.spec)
        took = [one.seconds for one in runs if one.state == "done" and one.seconds is not None]
        n, failed = len(runs), states["failed"] + states["died"]
        table.add_row(
            dataset, escape(name), f"{trained} of {n}", f"{made} of {n}",
            f"{states['done']} of {n}", *(str(states[s] or "") for s in ("running", "queued")),
            f"[red]{failed}[/]" if failed else "", f"{median(took):.1f}" if took else "")
    return table


def _by_stage(stands: Sequence[Standing]) -> object:
    from rich.table import Table

    from bench.status import STATES

    table = Table(box=None, pad_edge=False, header_style="bold")
    for head in ("cells", *STATES, "seconds each", "hours in all"):
        table.add_column(head)
    for stage, title in (("train", "networks"), ("score", "runs"), ("prove", "proofs")):
        mine = [one for one in stands if one.cell.stage == stage]
        states = Counter(one.state for one in mine)
        took = [one.seconds for one in mine if one.state == "done" and one.seconds is not None]
        table.add_row(title, *(str(states[state] or "") for state in STATES),
                      f"{median(took):.1f}" if took else "",
                      f"{sum(took) / 3600:.2f}" if took else "")
    return table
