"""The verbs. Each imports its stage inside itself, so that `heatproof --help` is instant."""

from __future__ import annotations

import os
import sys
import traceback
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from bench import cli_board, cli_cluster, cli_data, cli_run
from bench.cli_run import Plugin

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.measure import Metric

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



@app.callback()
def root(
    plugin: Plugin = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,  # noqa: ARG001
) -> None:
    """Explanation heatmaps, put to the proof."""
    _plugin_files.extend(plugin or [])


def load(extra: list[str] | None) -> list[str]:
    """Loads the plugins, with the files that were named; returns these."""
    from bench import plugins

    files = [*_plugin_files, *(extra or [])]
    plugins.load(files)
    for name, error in plugins.failures.items():
        err.print(f"[yellow]plugin {escape(name)} could not be loaded:[/] {escape(error)}")
    return files


def debugging() -> bool:
    """Whether --debug was said."""
    return bool(_debugging)


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
    load(plugin)
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


for _verb in (cli_run.plan, cli_run.run, cli_run.status, cli_cluster.run_cell,
              cli_board.publish, cli_board.compare, cli_board.show):
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
    load(plugin)
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
