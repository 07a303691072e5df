"""A board in the terminal: one table a data set, what the page says at a glance."""

from __future__ import annotations

import math
from collections.abc import Iterator

from rich.markup import escape
from rich.table import Table

from bench.board import BEATS, CLASSIFIER, NONE, UNSURE, Board
from bench.page.tables import DASH, KINDS, grid, label, records, warnings


def tables(board: Board) -> Iterator[Table]:
    """For each data set: contestants down; accuracy, and rank and verdict in each family across."""
    for dataset in dict.fromkeys(board.estimates["dataset"]):
        whole = grid(board, dataset)
        here = board.families[board.families["dataset"] == dataset]
        families = [pair for pair in dict.fromkeys(zip(here["track"], here["family"], strict=True))
                    if pair[1] != CLASSIFIER]
        rank = {(row["track"], row["family"], row["contestant"]): row["rank"]
                for row in records(here)}
        verdict = {(row["track"], row["family"], row["contestant"]): row
                   for row in records(board.verdicts[board.verdicts["dataset"] == dataset])}
        table = Table(title=f"{dataset}: rank in each family, and against the controls",
                      title_justify="left", box=None, pad_edge=False, header_style="bold",
                      caption=escape("\n".join(warnings(board, dataset))) or None,
                      caption_justify="left", caption_style="red")
        table.add_column("contestant", no_wrap=True)
        table.add_column("accuracy", justify="right")
        for track, family in families:
            other = track != families[0][0]
            table.add_column(f"{family} ({track})" if other else family)
        for kind in KINDS:
            for name in whole.rows[kind]:
                cell = whole.cells.get((name, "accuracy"))
                table.add_row(
                    escape(label(board, name)), cell.mean if cell else DASH,
                    *(_said(rank.get((*pair, name)), verdict.get((*pair, name)))
                      for pair in families),
                    style=None if kind == "contestant" else "dim")
        yield table


def _said(rank: float | None, row: dict[str, object] | None) -> str:
    place = DASH if rank is None or math.isnan(rank) else f"{rank:g}"
    if row is None or row["verdict"] == NONE:
        return place
    if row["verdict"] == BEATS:
        return f"{place} [green]✓[/]"
    mark = "≈" if str(row["verdict"]).startswith(UNSURE) else "[red]↓[/]"
    return f"{place} {mark} {escape(str(row['against']))}"
