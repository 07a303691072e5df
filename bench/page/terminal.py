"""A board in the terminal: one table a data set, what the page says at a glance."""

from __future__ import annotations

import math
from collections.abc import Iterator

from rich.markup import escape
from rich.table import Table

from bench.board import Board
from bench.checks import mixed
from bench.page.tables import (
    DASH,
    KINDS,
    grid,
    label,
    records,
    track_title,
    tracks,
    warnings,
)
from bench.verdicts import (
    BEATS,
    BOUGHT,
    CLASSIFIER,
    FAILS,
    NONE,
    PASSES,
    SANITY,
    UNCERTIFIED,
    UNSURE,
)


def tables(board: Board) -> Iterator[Table]:
    """A table a data set, of the track that ranks by default.

    Contestants down; across, accuracy and the rank and verdict in each family.
    """
    track = next(iter(tracks(board)), "")
    for dataset in dict.fromkeys(board.estimates["dataset"]):
        whole = grid(board, dataset)
        ranks, verdicts = (frame[(frame["dataset"] == dataset) & (frame["track"] == track)]
                           for frame in (board.families, board.verdicts))
        families = [family for family in dict.fromkeys(m["family"] for m in whole.metrics)
                    if family != CLASSIFIER and family in {*ranks["family"], *verdicts["family"]}]
        rank = {(row["family"], row["contestant"]): row["rank"] for row in records(ranks)}
        verdict = {(row["family"], row["contestant"]): row for row in records(verdicts)}
        made = mixed(records(board.makings[board.makings["dataset"] == dataset]))
        told = [*warnings(board, dataset), *(f"{dataset}: {line}" for line in made)]
        table = Table(title=f"{dataset}, {track_title(track)} track: rank in each family, and "
                      "against the controls",
                      title_justify="left", box=None, pad_edge=False, header_style="bold",
                      caption=escape("\n".join(told)) or None,
                      caption_justify="left", caption_style="red")
        table.add_column("contestant", no_wrap=True)
        table.add_column("accuracy", justify="right")
        for family in families:
            table.add_column(family)
        for kind in KINDS:
            for name in whole.rows[kind]:
                cell = whole.cells.get((name, "accuracy"))
                table.add_row(
                    escape(label(board, name)), cell.mean if cell else DASH,
                    *(_said(family, rank.get((family, name)), verdict.get((family, name)))
                      for family in families),
                    style=None if kind == "contestant" else "dim")
        yield table


def _said(family: str, rank: float | None, row: dict[str, object] | None) -> str:
    place = DASH if rank is None or math.isnan(rank) else f"{rank:g}"
    if row is None or row["verdict"] == NONE:
        return place
    if row["verdict"] in (BOUGHT, UNCERTIFIED):
        return f"{place} [dim]{row['verdict']}[/]"
    verdict, against = str(row["verdict"]), escape(str(row["against"]))
    if verdict == BEATS:
        return f"{place} [green]✓[/]"
    mark = "≈" if verdict.startswith(UNSURE) else "[red]↓[/]"
    if family != SANITY:
        return f"{place} {mark} {against}"
    return (f"[green]{PASSES}[/]" if verdict == PASSES else f"[red]{FAILS}[/]"
            if verdict.startswith(FAILS) else f"{mark} {against}")
