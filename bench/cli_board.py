"""The verbs that read results: `heatproof publish`, `compare` and `show`."""

from __future__ import annotations

import math
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd
    from rich.table import Table

    from bench.compare import Answer

ENDS = 3
"""Samples that are shown at either end of a metric."""
LISTED = 6
"""Runs that an error lists."""
COLOUR = {"better": "green", "worse": "red"}
ARROW = {"higher": "↑", "lower": "↓"}


def publish(
    folder: Annotated[Path, typer.Argument(help="A suite's results, like results/demo.")],
    to: Annotated[Path, typer.Option("--out", help="Folder of leaderboards.")] = Path(
        "leaderboard"),
    browse: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
) -> None:
    """Rebuilds the leaderboard, tables, plots and page of a suite from its results alone."""
    import time
    import webbrowser

    from bench import board, cli, page, results
    from bench.page import terminal

    start = time.perf_counter()
    with cli.err.status("reading results"):
        found = results.read(folder)
    with cli.err.status("ranking"):
        ranked = board.rank(found)
    with cli.err.status("writing the page"):
        index = page.write(ranked, found, to).resolve()
    for table in terminal.tables(ranked):
        cli.out.print(table)
        cli.out.print()
    cli.out.print("[dim]✓ better than every control · ≈ not told apart from · ↓ worse than[/]")
    cli.out.print(f"page: {escape(str(index))} in {time.perf_counter() - start:.1f} s")
    if browse and not webbrowser.open(index.as_uri()):
        cli.err.print("[yellow]no browser could be opened;[/] open the page yourself")


def compare(
    first: Annotated[str, typer.Argument(help="A contestant.")],
    second: Annotated[str, typer.Argument(help="Another one.")],
    folder: Annotated[Path, typer.Option("--results", help="A suite's results.")] = Path(
        "results/demo"),
    dataset: Annotated[str, typer.Option(help="One data set; all if not given.")] = "",
) -> None:
    """Compares two contestants on the samples that both have: the board's paired differences."""
    from bench import cli, results
    from bench.compare import paired

    with cli.err.status("reading results"):
        found = results.read(folder)
    with cli.err.status("comparing"):
        answer = paired(found, first, second, dataset)
    for name, rows in groupby(answer.rows, lambda row: str(row["dataset"])):
        cli.out.print(_compared(answer, name, list(rows)))
        cli.out.print()
    for note in answer.notes:
        cli.out.print(f"[yellow]{escape(note)}[/]")
    for sentence in answer.sentences():
        cli.out.print(escape(sentence))
    n = len(answer.rows)
    cli.out.print(
        "[dim]Samples are images × seeds. P(better): of the first, on a sample. Intervals are 95 % "
        f"each: of {n} comparisons of equals about {n / 20:.2g} would be told apart by chance.[/]")


def _compared(answer: Answer, dataset: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    """One data set, a row a metric, by track and family."""
    one, two = escape(answer.first), escape(answer.second)
    table = _table("metric", one, two, "difference", "95 % interval", "P(better)", "reads",
                   "samples", title=f"{escape(dataset)}: {one} − {two}, paired")
    for column in (*table.columns[1:6], table.columns[7]):
        column.justify = "right"
    for column in table.columns[1:3]:
        column.min_width = 8  # a long name folds, a number never does
    for column in table.columns[3:]:
        column.no_wrap = True
    for (track, family), members in groupby(rows, lambda row: (row["track"], row["family"])):
        table.add_row(f"[bold]{escape(family)}[/] [dim]{escape(track)}[/]")
        for row in members:
            n = _decimals(row["low"], row["high"])
            reads, colour = row["reads"], COLOUR.get(row["reads"], "dim")
            table.add_row(
                f"  {escape(row['title'])} {ARROW[row['better']]}", _number(row["first"], n),
                _number(row["second"], n), _number(row["mean"], n, sign=True),
                f"{_number(row['low'], n, sign=True)} to {_number(row['high'], n, sign=True)}",
                f"{row['superiority']:.2f}", f"[{colour}]{escape(reads)}[/]",
                f"{row['n_images']} × {row['n_seeds']}")
    return table


def show(
    run: Annotated[str, typer.Argument(
        help="A run's folder, its id or the first of its digits, or DATASET/CONTESTANT/RUN.")],
    folder: Annotated[Path, typer.Option(
        "--results", help="Where to look: all results, or those of one suite.")] = Path("results"),
    metric: Annotated[str, typer.Option(
        help="Shows the best and the worst samples by this metric.")] = "",
) -> None:
    """Shows one run: what it is, what it cost, what it was measured with, and its scores."""
    from bench import cli, results
    from bench.core import unknown

    path = _found(run, folder)
    info, samples, scores = results.read_run(path)
    if metric and metric not in set(scores["metric"]):
        raise unknown("metric of this run", metric, set(scores["metric"]))
    cli.out.print(_facts(info, path))
    if info["unsupported"]:
        return
    cli.out.print()
    cli.out.print(_scores(info, scores))
    if metric:
        cli.out.print()
        cli.out.print(_ends(info, metric, samples, scores[scores["metric"] == metric]))


def _found(run: str, folder: Path) -> Path:
    """The folder of the one run that is meant; raises if it is none or several."""
    from bench.core import HeatproofError, unknown

    if (Path(run) / "run.json").is_file():
        return Path(run)
    paths = sorted({found.parent for depth in ("*/*/*", "*/*/*/*")
                    for found in folder.glob(f"{depth}/run.json")})
    if not paths:
        raise HeatproofError(f"{folder} holds no finished run; name a folder of results with "
                             "--results, or run a suite first: heatproof run SUITE")
    asked = Path(run).as_posix()
    # A folder is named after the first ten digits of the run's id.
    heads = {path: path.name.rpartition("-")[2] for path in paths}
    matches = [path for path in paths if asked in (
        "/".join(path.parts[-depth:]) for depth in (1, 2, 3, 4))] or [
        path for path, head in heads.items() if asked and head.startswith(asked[:10])
        and _id(path).startswith(asked)]
    if not matches:
        raise unknown("run", run, ["/".join(path.parts[-3:]) for path in paths])
    if len(matches) > 1:
        more = f" and {len(matches) - LISTED} more" if len(matches) > LISTED else ""
        raise HeatproofError(f"{run!r} may be {len(matches)} runs; name one of them in full: "
                             + ", ".join(map(str, matches[:LISTED])) + more)
    return matches[0]


def _id(path: Path) -> str:
    from bench.results import RUN
    from bench.store import read_json

    return str(read_json(path / "run.json").get("spec", dict.fromkeys(RUN)).get("id"))


def _facts(info: Mapping[str, Any], path: Path) -> Table:
    """What the run is, a line a fact."""
    who, spec, measured, network = (
        info["contestant"], info["spec"], info["measured"], info["classifier"])
    passes, accuracy, adds = measured.get("passes"), network["accuracy"], info["additivity"]
    rows = {
        "contestant": f"{who['title']}, {who['family']}"
                      + (", a control" if who["control"] else "")
                      + (", a ceiling" if who.get("ceiling") else ""),
        "explainer": who["explainer"] + _params(who["explain"]),
        "network": f"{spec['backbone']['name']}, {who['trainer_title']}{_params(who['train'])}",
        "paper": who["paper"],
        "data set": info["dataset"]["title"],
        "run": f"seed {spec['seed']}, fold {spec['fold']}, suite {spec['suite']}, protocol "
               f"{spec['protocol']}",
        "unsupported": info["unsupported"] or "",
        "accuracy": "" if accuracy is None else f"{100 * accuracy:.1f} % of the scored images, "
                    f"{network['parameters']:,} parameters",
        "maps": " × ".join(map(str, network["grid"] or ())) + " cells" * bool(network["grid"]),
        "cost of a map": "" if not passes else ", ".join(
            f"{passes[way]:g} {way}" for way in ("forward", "backward")),
        "seconds": ", ".join(f"{what} {_seconds(spent):.2f}" for what, spent in measured.items()
                             if what not in ("passes", "cost")),
        "peak memory": ", ".join(f"{what} {cost['peak'] / 2**20:,.0f} MiB"
                                 for what, cost in measured.get("cost", {}).items()),
        "certificate": _certificate(info["certificate"]),
        "additivity": _additivity(adds) if adds else "",
        "id": f"{spec['id']}, network {spec['model_id']}, maps {spec['maps_id']}",
        "versions": ", ".join(f"{name} {found}" for name, found in info["versions"].items()),
        "device": info["device"], "commit": info["git"], "checkpoint": info["checkpoint"],
        "files": str(path.resolve())}
    table = _table("", "", title=escape(
        f"{spec['dataset']} / {who['name']} / seed {spec['seed']}"))
    table.show_header = False
    for head, text in rows.items():
        if text:
            table.add_row(f"[bold]{head}[/]", escape(text))
    return table


def _params(params: Mapping[str, Any]) -> str:
    return f" ({', '.join(f'{key}={value}' for key, value in params.items())})" if params else ""


def _seconds(spent: float | Mapping[str, float]) -> float:
    return spent if isinstance(spent, int | float) else sum(spent.values())


def _certificate(found: Mapping[str, Any] | None) -> str:
    if not found:
        return ""
    flips = "; ".join(f"{name} flipped: {100 * flip['changed']:.0f} % of the answers change "
                      f"({flip['must']})" for name, flip in found["flips"].items())
    return f"{'' if found['certified'] else 'NOT '}certified on {found['n']} images; {flips}"


def _additivity(found: Mapping[str, Any]) -> str:
    if found["declared"] == "none":
        return "none declared"
    largest = "not finite" if found["largest"] is None else f"{found['largest']:.2g}"
    return (f"{found['declared']} {'holds' if found['holds'] else 'DOES NOT HOLD'}, largest "
            f"deviation {largest}, tolerance {found['tolerance']:g}, {found['images']} images")


def _scores(info: Mapping[str, Any], scores: pd.DataFrame) -> Table:
    """A row a metric: its mean, how many samples have one, and why the others have none."""
    table = _table("metric", "track", "family", "mean", "samples", "without a number")
    table.columns[3].justify = table.columns[4].justify = "right"
    for name, found in scores.groupby("metric", sort=False, observed=True):
        facts = info["metrics"].get(name, {})
        mean, lost = found["value"].mean(), found[found["value"].isna()]
        reasons = ", ".join(f"{n} {reason}" for reason, n in lost["reason"].value_counts().items())
        table.add_row(
            f"{escape(str(name))} {ARROW.get(facts.get('better', ''), '')}",
            escape(facts.get("track", "")), escape(facts.get("family", "")),
            "–" if math.isnan(mean) else f"{mean:.4g}", str(found["key"].nunique()),
            f"[yellow]{escape(reasons)}[/]" if len(lost) else "")
    return table


def _ends(
    info: Mapping[str, Any], metric: str, samples: pd.DataFrame, scores: pd.DataFrame,
) -> Table:
    """The best and the worst samples of one metric, the best first."""
    facts, classes = info["metrics"][metric], info["dataset"]["classes"]
    value = scores.groupby("key")["value"].mean().dropna().sort_values(
        ascending=facts["better"] == "lower", kind="stable")
    about = samples.set_index("key")
    table = _table("sample", "value", "label", "predicted", "confidence", title=escape(
        f"{facts['title']}: best and worst of {len(value)} samples"))
    table.columns[1].justify = table.columns[4].justify = "right"
    chosen = list(value.items())
    ends = chosen if len(chosen) <= 2 * ENDS else [*chosen[:ENDS], None, *chosen[-ENDS:]]
    for end in ends:
        if end is None:
            table.add_row("…")
            continue
        key, number = end
        sample = about.loc[key]
        right = sample["prediction"] == sample["label"]
        table.add_row(escape(str(key)), f"{number:.4g}", escape(classes[sample["label"]]),
                      f"[{'green' if right else 'red'}]{escape(classes[sample['prediction']])}[/]",
                      f"{sample['confidence']:.2f}")
    return table


def _table(*heads: str, title: str | None = None) -> Table:
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=None, pad_edge=False,
                  header_style="bold")
    for head in heads:
        table.add_column(head, overflow="fold")
    return table


def _decimals(low: float, high: float) -> int:
    """So many that the width of an interval has two digits."""
    width = high - low
    return min(max(1 - math.floor(math.log10(width)), 0), 4) if width > 0 else 3


def _number(value: float, decimals: int, *, sign: bool = False) -> str:
    return f"{value:{'+' if sign else ''}.{decimals}f}".replace("-", "−")
