"""The verbs `heatproof data …`: which data sets there are, what is in one, whether it is whole."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.table import Table

    from bench.core import Card
    from bench.data.decoded import Progress

app = typer.Typer(
    help="The data sets: which there are, what is in one, whether it is whole.",
    no_args_is_help=True)
CLASSES = 40
"""Classes that a table of counts lists; of more, the others are summed up in one line."""

Name = Annotated[str, typer.Argument(help="A data set; see heatproof data list.")]


@app.command("list")
def list_() -> None:
    """Lists all data sets, and whether their files are on this machine."""
    from bench import cli, data
    from bench.data import audit

    cli.load(None)
    table = _table("name", "files", "title, licence", "images", "truth", "splits")
    with cli.err.status("looking for files"):
        for name in data.cards():
            card = data.card(name)
            state = audit.files(card)
            how = [*([f"by {card.group}"] if card.group else []),
                   *([f"{1 + len(card.folds)} folds"] if card.folds else [])]
            table.add_row(
                escape(name), "[green]here[/]" if state == "here" else state,
                f"{escape(card.title)}\n[dim]{escape(card.licence)}[/]",
                f"{'×'.join(map(str, card.image))}\n[dim]{len(card.classes)} classes[/]",
                card.truth, f"{', '.join(card.splits)}\n[dim]{escape(', '.join(how))}[/]")
    cli.out.print(table)


@app.command()
def show(
    name: Name,
    to: Annotated[Path | None, typer.Option(
        "--out", help="The picture; NAME.png in this folder if not given.")] = None,
    fold: Annotated[int, typer.Option(help="The fold whose splits are shown.")] = 0,
    samples: Annotated[int, typer.Option(help="Test images of each class.")] = 6,
) -> None:
    """Counts a data set's classes and groups by split, and draws a contact sheet of it."""
    from bench import cli, data
    from bench.data import sheet

    cli.load(None)
    card = data.card(name)
    cli.out.print(f"[bold]{escape(card.title)}[/]")
    for head in ("task", "licence", "citation", "homepage"):
        if text := getattr(card, head):
            cli.out.print(f"{head}: {escape(text)}")
    cli.out.print()
    cli.out.print(_counts(card.fold(fold)))
    with _bar(f"decoding samples of {name}") as progress:
        written = sheet.write(card, to or Path(f"{name}.png"), fold=fold, samples=samples,
                              progress=progress)
    if written.left:
        cli.out.print(f"the sheet shows the first {written.classes} classes, {written.left} are "
                      "left out")
    cli.out.print(f"contact sheet: {escape(str(written.path.resolve()))}", soft_wrap=True)


def _counts(card: Card) -> Table:
    """A row a class, a column a split; then all images, and the groups."""
    import numpy as np

    from bench import data
    from bench.data.catalogue import parted

    catalogue = data.catalogue(card)
    parts = parted(card, catalogue)
    counts = np.stack([np.bincount([catalogue.label[row] for row in rows],
                                   minlength=len(card.classes)) for rows in parts.values()], 1)
    table = _table("class", *parts)
    for column in table.columns[1:]:
        column.justify = "right"
    for name, row in list(zip(card.classes, counts, strict=True))[:CLASSES]:
        table.add_row(escape(name), *(f"{n:,}" for n in row))
    if len(counts) > CLASSES:
        rest = counts[CLASSES:].sum(0)
        table.add_row(f"{len(counts) - CLASSES} more classes", *(f"{n:,}" for n in rest))
    table.add_section()
    table.add_row("images", *(f"{n:,}" for n in counts.sum(0)))
    if catalogue.group:
        table.add_row(escape(f"groups ({card.group})" if card.group else "groups"), *(
            f"{len({catalogue.group[row] for row in rows}):,}" for rows in parts.values()))
    return table


@app.command()
def check(name: Name) -> None:
    """Decodes every image and says what is wrong: files, sizes, masks, labels, splits, repeats."""
    from bench import cli, data
    from bench.data import audit

    cli.load(None)
    card = data.card(name)
    with _bar(f"checking {name}") as progress:
        checks = audit.check(card, progress)
    for found in checks:
        mark = "[green]ok[/]  " if found.ok else "[red]FAIL[/]"
        told = f" [dim]({escape(found.found)})[/]" if found.found else ""
        cli.out.print(f"{mark} {escape(found.name)}: {escape(found.expected)}{told}",
                  soft_wrap=True)
    if not all(found.ok for found in checks):
        raise typer.Exit(1)


@app.command()
def draft(
    folder: Annotated[Path, typer.Argument(help="A folder of images of your own.")],
    name: Annotated[str, typer.Option(help="The data set's name; the folder's if not given.")] = "",
    write: Annotated[bool, typer.Option(
        "--write", help="Write FOLDER/card.toml, which must not be there.")] = False,
) -> None:
    """Drafts the card of a folder of images: classes, sizes, mean, masks, table, splits."""
    from bench import cli
    from bench.data import draft as drafted
    from bench.data.files import data_root

    cli.load(None)
    with _bar(f"measuring {folder}") as progress:
        found = drafted.draft(folder, name=name, progress=progress)
    if write:
        path = drafted.write(folder, found)
        cli.out.print(f"card: {escape(str(path.resolve()))}", soft_wrap=True)
    else:
        cli.out.print(found.text, markup=False, soft_wrap=True, end="")
    root = folder.resolve().parent
    if root != data_root().resolve():
        cli.err.print(f"[yellow]to use it, let HEATPROOF_DATA be {escape(str(root))},[/] or move "
                      "the folder into yours")


def _table(*heads: str) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for place, head in enumerate(heads):
        table.add_column(head, overflow="fold", no_wrap=place == 0)
    return table


@contextmanager
def _bar(what: str) -> Iterator[Progress]:
    """A bar that goes away when all is done, and the function that moves it."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from bench import cli

    with Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
                  TimeElapsedColumn(), console=cli.err, transient=True) as bar:
        task = bar.add_task(escape(what), total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
