"""The verbs. Each imports its stage inside itself, so that `heatproof --help` is instant."""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from bench import cli_board, cli_data

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bench.measure import Metric
    from bench.run import Outcome
    from bench.spec import RunSpec
    from bench.suite import Suite

app = typer.Typer(
    help="Explanation heatmaps, put to the proof.", no_args_is_help=True,
    add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")
app.add_typer(cli_data.app, name="data")
# Without a terminal (a file, a log) nobody set a width, and 80 columns would break the tables.
_WIDTH = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 120
out = Console(soft_wrap=False, highlight=False, width=_WIDTH)
err = Console(stderr=True, soft_wrap=True, highlight=False)
_plugin_files: list[str] = []
_debugging: list[bool] = []

Out = Annotated[Path, typer.Option("--out", help="Folder of results.")]
Plugin = Annotated[
    list[str] | None, typer.Option("--plugin", help="A Python file that registers a plugin.")]


@app.callback()
def root(
    plugin: Plugin = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,  # noqa: ARG001
) -> None:
    """Explanation heatmaps, put to the proof."""
    _plugin_files.extend(plugin or [])


def _load(extra: list[str] | None) -> list[str]:
    from bench import plugins

    files = [*_plugin_files, *(extra or [])]
    plugins.load(files)
    for name, error in plugins.failures.items():
        err.print(f"[yellow]plugin {escape(name)} could not be loaded:[/] {escape(error)}")
    return files


@app.command("list")
def list_(
    what: Annotated[str, typer.Argument(
        help="methods, datasets, metrics, batteries or suites")] = "",
    plugin: Plugin = None,
) -> None:
    """Lists what is there: methods, datasets, metrics, batteries, suites."""
    from bench.core import unknown

    kinds = ("methods", "datasets", "metrics", "batteries", "suites")
    if what and what not in kinds:
        raise unknown("list", what, kinds)
    _load(plugin)
    for kind in [what] if what else kinds:
        out.print(_table(kind))


def _table(kind: str) -> object:
    from rich.table import Table

    from bench import battery, data, plugins, suite

    table = Table(title=kind, title_justify="left", box=None, pad_edge=False, header_style="bold")
    heads: tuple[str, ...]
    rows: list[tuple[str, ...]]
    if kind == "methods":
        heads = ("name", "title", "family", "trains", "signed", "passes a map", "source")
        rows = [(n, m.title, m.family, "yes" if m.trains() else "", "yes" if m.signed else "",
                 m.cost(m.explain_params), m.paper) for n, m in plugins.methods.items()]
    elif kind == "datasets":
        cards = [data.card(name) for name in data.cards()]
        heads = ("name", "title", "classes", "image", "truth", "licence")
        rows = [(c.name, c.title, str(len(c.classes)), "×".join(map(str, c.image)), c.truth,
                 c.licence) for c in cards]
    elif kind == "metrics":
        heads = ("name", "title", "track", "family", "better", "needs", "passes a sample")
        tracks = list(dict.fromkeys(["proven", *(m.track for m in plugins.metrics.values())]))
        rows = [(m.name, m.title, "refused" if m.defect else m.track, m.family, m.better,
                 ", ".join(m.needs), m.passes)
                for m in sorted(plugins.metrics.values(), key=lambda m: tracks.index(m.track))]
    elif kind == "batteries":
        heads = ("name", "title", "metrics")
        rows = [(n, b.title, ", ".join(b.metrics))
                for n, b in ((n, battery.read(n)) for n in battery.batteries())]
    else:
        from bench.core import read_toml
        heads = ("name", "title", "data sets")
        rows = [(n, str(t["title"]), ", ".join(t["dataset"]))
                for n, t in ((n, read_toml(p)) for n, p in suite.suites().items())]
    for place, head in enumerate(heads):
        table.add_column(head, overflow="fold", no_wrap=place == 0)
    for row in rows:
        table.add_row(*map(escape, row))
    return table


@app.command()
def plan(
    suite: str, only: Annotated[list[str] | None, typer.Option(help="A contestant.")] = None,
    seeds: Annotated[int, typer.Option(help="Seeds 0 to N-1 instead of the suite's.")] = 0,
    out_folder: Out = Path("results"), plugin: Plugin = None,
) -> None:
    """Shows what a suite would run, and what of it is finished."""
    from rich.table import Table

    from bench.results import Folder
    from bench.store import Cache

    _load(plugin)
    found = _suite(suite, seeds)
    runs = found.only(only or [])
    cache = Cache()
    out.print(_trainings(runs))
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
    out.print(table)
    for skip in found.skipped:
        out.print(f"[dim]skipped on {escape(skip.dataset)}: {escape(skip.reason)}[/]")
    for name in dict.fromkeys(run.dataset for run in runs):
        if reason := _not_here(name):
            out.print(f"[yellow]cannot run yet:[/] {escape(reason)}")
    models = {run.model_id for run in runs}
    out.print(f"{len(runs)} runs on {len(models)} networks, {len(found.metrics)} metrics")


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


def _suite(name: str, seeds: int) -> Suite:
    from bench import suite
    from bench.core import HeatproofError

    if seeds < 0:
        raise HeatproofError("--seeds must be positive")
    return suite.read(name, seeds=seeds)


@app.command()
def run(
    suite: str,
    only: Annotated[list[str] | None, typer.Option(help="A contestant; repeatable.")] = None,
    seeds: Annotated[int, typer.Option(help="Seeds 0 to N-1 instead of the suite's.")] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1 or auto.")] = "auto",
    jobs: Annotated[int, typer.Option(
        help="Processes; 0 is one a core on a CPU (at most 8), one on a GPU.")] = 0,
    out_folder: Out = Path("results"), plugin: Plugin = None,
) -> None:
    """Trains, explains and scores a suite; run it again to finish or to extend it."""
    from bench.watch import Watch

    with Watch(err, debug=bool(_debugging)) as watch:
        if jobs != 1:
            from bench.pool import warm

            warm()
        files = _load(plugin)
        found = _suite(suite, seeds)
        specs = found.only(only or [])
        from bench.pool import Settings, execute, prepare

        watch.expect(found.title, len(specs))
        settings = prepare(
            found, specs, Settings(out_folder, device, jobs, tuple(files)), watch.report)
        for outcome in _until_stopped(execute(found, specs, settings, watch.report)):
            watch.end(outcome)
    summary = ", ".join(f"{n} {status}" for status, n in watch.counts.items())
    where = settings.out / found.name
    out.print(f"{escape(found.title)}: {escape(summary)} in {watch.seconds:.0f} s")
    if failures := len(watch.failed) + len(watch.bad_input):
        err.print(f"[red]{failures} failed;[/] what was finished is kept, and the same command "
                  "goes on from there (--debug shows tracebacks)")
        raise typer.Exit(1 if watch.failed else 2)
    out.print(f"results are in {where}; next: heatproof publish {where}")


def _until_stopped(outcomes: Iterator[Outcome]) -> Iterator[Outcome]:
    """The outcomes; Ctrl-C ends the command with one line and exit code 130."""
    try:
        yield from outcomes
    except KeyboardInterrupt:
        err.print("stopped; what was finished is kept, and the same command goes on from there")
        raise typer.Exit(130) from None


for _verb in (cli_board.publish, cli_board.compare, cli_board.show):
    app.command()(_verb)


@app.command()
def check(
    name: Annotated[str, typer.Argument(
        help="A method, data set, metric or suite; or 'metrics', 'mutants': all metrics.")],
    track: Annotated[str, typer.Option(help="Of all metrics, those of this track.")] = "",
    plugin: Plugin = None,
) -> None:
    """Puts a method, data set, metric or suite through its contract.

    'metrics' proves every metric on known answers; 'mutants' plants bugs in every metric, which the
    proof has to find.
    """
    _load(plugin)
    from bench import plugins, testing

    if name in ("metrics", "mutants"):
        sound = (_proofs if name == "metrics" else _mutants)(_of_track(track))
        raise typer.Exit(0 if sound else 1)
    metric = plugins.metrics.things.get(name)  # an unknown name may be a method
    if metric:
        _card(metric)
    with err.status(f"checking {name}"):
        findings = testing.check(name)
    for finding in findings:
        mark = "[green]ok[/]  " if finding.ok else "[red]FAIL[/]"
        found = f" [dim]({escape(finding.found)})[/]" if finding.found else ""
        out.print(f"{mark} {escape(finding.name)}: {escape(finding.expected)}{found}")
    if not all(finding.ok for finding in findings) and not (metric and metric.defect):
        raise typer.Exit(1)


def _of_track(track: str) -> list[Metric]:
    from bench import plugins
    from bench.core import unknown

    tracks = {metric.track for metric in plugins.metrics.values()}
    if track and track not in tracks:
        raise unknown("track", track, tracks)
    return [metric for metric in plugins.metrics.values() if track in ("", metric.track)]


def _card(metric: Metric) -> None:
    """A metric's card, as its proof precedes it."""
    from rich.table import Table

    table = Table(title=f"{metric.title} ({metric.name})", title_justify="left", box=None,
                  show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    rows = {"about": metric.about, "formula": metric.formula,
            "better": metric.better, "range": f"{metric.range} {metric.units}".strip(),
            "track, family": f"{metric.track}, {metric.family}",
            "parameters": ", ".join(f"{k}={v}" for k, v in metric.params.items()),
            "cost a sample": metric.passes, "paper": metric.paper, "version": metric.version,
            "departs from Quantus": "\n".join(metric.departures), "refused": metric.defect}
    for head, text in rows.items():
        if text:
            table.add_row(head, escape(text))
    out.print(table)


def _proofs(metrics: Sequence[Metric]) -> bool:
    """The badges of metrics; whether all that are not refused are proven."""
    from rich.progress import track
    from rich.table import Table

    from bench.proofs import proof

    table = Table(box=None, pad_edge=False, header_style="bold")
    for head in ("metric", "track", "family", "badge", "what failed, or the defect"):
        table.add_column(head, overflow="fold")
    counts = {"proven": 0, "failed": 0, "refused": 0}
    for metric in track(metrics, "proving", console=err, transient=True):
        found = proof(metric)
        counts[found["badge"]] += 1
        share = f"{found['passed']}/{found['of']}"
        badge = {"proven": f"[green]proven {share}[/]", "failed": f"[red]FAILED {share}[/]",
                 "refused": "[yellow]refused[/]"}[found["badge"]]
        table.add_row(escape(metric.name), metric.track, metric.family, badge,
                      escape("\n".join(found["failed"])))
    out.print(table)
    out.print(f"{len(metrics)} metrics: " + ", ".join(f"{n} {b}" for b, n in counts.items()))
    return not counts["failed"]


def _mutants(metrics: Sequence[Metric]) -> bool:
    """Which planted bugs are found in which metrics; whether all that can be found are."""
    from rich.progress import track
    from rich.table import Table

    from bench.metrics.mutants import MUTANTS

    table = Table(box=None, pad_edge=False, header_style="bold")
    for head in ("metric", *(mutant.name for mutant in MUTANTS)):
        table.add_column(head, overflow="fold")
    missed = 0
    sound = [metric for metric in metrics if not metric.defect]
    for metric in track(sound, "planting bugs", console=err, transient=True):
        row = []
        for mutant in MUTANTS:
            spared = mutant.spared(metric)
            caught = "" if spared else mutant.caught(metric)
            missed += not spared and not caught
            row.append(f"[dim]none: {escape(spared)}[/]" if spared else
                       f"[green]{escape(caught)}[/]" if caught else "[red]MISSED[/]")
        table.add_row(escape(metric.name), *row)
    out.print(table)
    out.print(f"{len(MUTANTS)} bugs in {len(sound)} metrics, {missed} missed")
    return not missed


def main() -> None:
    """The command `heatproof`: bad input is one line and exit code 2."""
    if "--debug" in sys.argv:  # taken in any place, also before an error of the parser
        sys.argv.remove("--debug")
        _debugging.append(True)
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        app()
    except Exception as error:
        from bench.core import HeatproofError  # not at the top: --help does without

        if not isinstance(error, HeatproofError):
            raise
        if _debugging:
            traceback.print_exc()
        err.print(f"[red]heatproof:[/] {escape(str(error))}")
        raise SystemExit(2) from None
