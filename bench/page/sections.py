"""One data set's part of the page: for each track a table a family, and what is told beside."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bench.board import Board
from bench.core import canonical
from bench.page import chunks, gauges
from bench.page.cards import head
from bench.page.certificates import certificates
from bench.page.gallery import Gallery
from bench.page.tables import (
    DASH,
    KINDS,
    TRACKS,
    Cell,
    Grid,
    grid,
    label,
    records,
    slug,
    title,
    track_title,
    tracks,
)
from bench.results import Results
from bench.verdicts import (
    BEATS,
    BOUGHT,
    CLASSIFIER,
    FAILS,
    NONE,
    PASSES,
    SANITY,
    UNCERTIFIED,
    WORSE,
)

CAPTIONS = {
    "contestant": "",
    "control": "model-blind or trivial: an explanation has to beat every one of them",
    "ceiling": "is given the mask: what a perfect map reaches, not a contestant",
    "incomplete": "some planned run or metric has no result; the reasons are listed below",
}
BAR = 104
"""The width of an interval bar in the page, in pixels."""

ACROSS = 8
"""Columns of metrics and verdicts side by side on the page; what is more stands below."""

Row = dict[str, Any]


def section(board: Board, results: Results, table: Grid, gallery: Gallery | None) -> Row:
    """All that the page shows of one data set."""
    dataset, told = table.dataset, gauges.Told.of(board, table.dataset)
    common = grid(board, dataset, common=True)
    card = results.plan["datasets"].get(dataset, {"title": dataset})
    here = board.estimates[board.estimates["dataset"] == dataset]
    return {
        "dataset": dataset, "slug": slug(dataset), "title": card["title"], "card": card,
        "images": int(here["n_images"].max()), "seeds": int(here["n_seeds"].max()),
        "resampled": " and ".join(board.resampled[dataset]),
        "subset": _subset(board, dataset),
        "truth": certificates(board, dataset, card.get("truth", "none")),
        "tracks": [found for track in tracks(board)
                   if (found := _track(board, table, common, told, track))],
        "networks": _networks(board, table, told),
        "ood": gauges.ood(board, dataset), "processing": gauges.processing(board, table, told),
        "others": gauges.others(board, table),
        "reasons": _listed(board, dataset),
        "nans": records(board.nans[board.nans["dataset"] == dataset]), "gallery": gallery,
        "titles": {name: title(board, name) for name in board.contestants},
        "labels": {name: label(board, name) for name in board.contestants},
        "signed": {name: facts["signed"] for name, facts in board.contestants.items()},
    }


def verdict_chip(row: Row) -> Row:
    """A verdict as a chip: colour, sign, what it says in short and at length, and its order."""
    verdict, against = row["verdict"], row["against"]
    kind, glyph, short = (
        ("beats", "✓", "beats all") if verdict == BEATS
        else ("beats", "✓", PASSES) if verdict == PASSES
        else ("none", DASH, "no control") if verdict == NONE
        else ("none", "✗", verdict) if verdict in (UNCERTIFIED, BOUGHT)
        else ("worse", "✗", FAILS) if verdict.startswith(FAILS)
        else ("worse", "↓", against) if verdict.startswith(WORSE)
        else ("unsure", "≈", against))
    return {"order": ("none", "worse", "unsure", "beats").index(kind),
            "kind": kind, "glyph": glyph, "short": short, "long": verdict, "detail": row["detail"]}


def _subset(board: Board, dataset: str) -> Row:
    """How many of the images all networks get right, of each seed."""
    rows = records(board.subset[board.subset["dataset"] == dataset])
    right, images = [row["n_right"] for row in rows], {row["n_images"] for row in rows}
    per_seed, seeds = _listing(right), _listing([row["seed"] for row in rows])
    return {"any": any(right), "text": f"{per_seed} of {_listing(sorted(images), 'or')}" + (
        f" in seeds {seeds}" if len(rows) > 1 else "")}


def _listing(numbers: Sequence[int], last: str = "and") -> str:
    first = ", ".join(map(str, numbers[:-1]))
    return f"{first} {last} {numbers[-1]}" if first else "".join(map(str, numbers))


def _track(
    board: Board, table: Grid, common: Grid, told: gauges.Told, track: str,
) -> Row | None:
    """The tables of one track, a family after the other; None if it has no metric here."""
    metrics = [m for m in table.metrics if m["track"] == track and m["family"] != CLASSIFIER]
    if not metrics:
        return None
    packs: list[list[_Block]] = []
    for block in _blocks(metrics):
        if not packs or sum(one.columns for one in [*packs[-1], block]) > ACROSS:
            packs.append([])
        packs[-1].append(block)
    return {"track": track, "slug": slug(track), "title": track_title(track),
            "about": TRACKS[track][1] if track in TRACKS else "",
            "tables": [_table(board, table, common, told, pack, whole=pack is packs[0])
                       for pack in packs],
            "effects": _effects(board, table, metrics)}


@dataclass(frozen=True)
class _Block:
    """Columns of one family, or of a part of it; its verdicts stand in front of the first part."""

    family: str
    part: str
    metrics: Sequence[Row]

    @property
    def judged(self) -> bool:
        return (self.family != CLASSIFIER and self.part[:2] in ("", "1 ")
                and not all(m["defect"] for m in self.metrics))

    @property
    def columns(self) -> int:
        return len(self.metrics) + self.judged


def _blocks(metrics: Sequence[Row]) -> Iterator[_Block]:
    """The metrics by family, in balanced parts where a family is too wide."""
    for family in dict.fromkeys(m["family"] for m in metrics):
        members = [m for m in metrics if m["family"] == family]
        pieces = math.ceil(len(members) / (ACROSS - 1))
        size = math.ceil(len(members) / pieces)
        for i in range(pieces):
            yield _Block(family, f"{i + 1} of {pieces}" if pieces > 1 else "",
                         members[i * size:(i + 1) * size])


def _table(
    board: Board, table: Grid, common: Grid | None, told: gauges.Told, blocks: Sequence[_Block], *,
    whole: bool = True,
) -> Row:
    """One table of families, on all images and on those that all networks get right.

    whole: with those that are incomplete, which have a dash in every column. n: how many images and
    seeds most cells have; a cell says so where it has others.
    """
    metrics = [metric for block in blocks for metric in block.metrics]
    scales = {m["name"]: _scale([table, *([common] if common else [])], m) for m in metrics}
    every = [group for group in _groups(board, table, told, blocks, scales, None)
             if whole or group["kind"] != "incomplete"]
    shared = [group for group in _groups(board, common, told, blocks, scales, table)
              if group["kind"] != "incomplete"] if common else []
    n = _said_once([cell for group in every + shared for row in group["rows"]
                    for block in row["blocks"] for cell in block["cells"] if cell])
    return {
        "of": "Contestant",
        "name": ", ".join(dict.fromkeys(block.family for block in blocks)).capitalize(),
        "blocks": [{"family": block.family, "key": f"{block.metrics[0]['track']}.{block.family}",
                    "part": block.part, "sanity": block.family == SANITY,
                    "judged": block.judged, "columns": block.columns,
                    "heads": [{**head(board, m, told), "name": m["name"]}
                             for m in block.metrics]}
                   for block in blocks],
        "defects": [(m["title"], m["defect"]) for m in metrics if m["defect"]],
        "groups": every, "common": shared, "n": n,
        "width": 1 + sum(block.columns for block in blocks)}


def _said_once(cells: Sequence[Row]) -> str:
    """The commonest "n" of some cells, which is then theirs no more."""
    n: str = Counter(cell["n"] for cell in cells).most_common(1)[0][0] if cells else ""
    for cell in cells:
        cell["n"] = "" if cell["n"] == n else cell["n"]
    return n


def _groups(
    board: Board, table: Grid, told: gauges.Told, blocks: Sequence[_Block],
    scales: dict[str, Row | None], whole: Grid | None,
) -> Iterator[Row]:
    """The rows of a table in their groups; whole: the board of all images, if it is not that."""
    dataset, track = table.dataset, blocks[0].metrics[0]["track"]
    placed, verdicts = ({
        (row["family"], row["contestant"]): row for row in records(
            frame[(frame["dataset"] == dataset) & (frame["track"] == track)])}
        for frame in (board.families, board.verdicts))
    checks = {(row["contestant"], row["metric"]): row
              for row in records(board.sanity[board.sanity["dataset"] == dataset])}
    reasons = _reasons(board, dataset)

    def cells(name: str, kind: str, block: _Block) -> list[Row | None]:
        # Alone in its family, a check is what the verdict in front of it says.
        said = not whole and not (block.judged and len(block.metrics) == 1)
        return [_cell(
            table.cells[name, m["name"]], scales[m["name"]], m,
            checks.get((name, m["name"])) if said else None,
            None if whole or kind == "ceiling" else told,
            whole.cells[name, m["name"]] if whole else None) for m in block.metrics]

    for kind, names in table.rows.items():
        if names:
            yield {"kind": kind, "title": KINDS[kind], "caption": CAPTIONS[kind], "rows": [{
                "key": name, "name": name, "title": title(board, name),
                "family": board.contestants[name]["family"] or "unknown",
                "why": "; ".join(reasons.get(name, [])),
                "blocks": [{
                    "judged": block.judged and not whole,
                    "verdict": verdict_chip(verdicts[key]) if (
                        key := (block.family, name)) in verdicts else None,
                    "rank": _rank(placed[key]) if key in placed else "",
                    "value": placed[key]["rank"] if key in placed else "",
                    "cells": cells(name, kind, block)} for block in blocks],
            } for name in names]}


def _networks(board: Board, table: Grid, told: gauges.Told) -> Row | None:
    """What the networks reach, a row a network; they are told apart by how they were trained."""
    metrics = [m for m in table.metrics if m["family"] == CLASSIFIER]
    explained: dict[str, list[str]] = {}
    for kind in ("contestant", "control", "ceiling"):
        for name in table.rows[kind]:
            facts = board.contestants[name]
            explained.setdefault(canonical([facts["trainer"], facts["train"]]), []).append(name)
    owners = [names[0] for names in explained.values()]
    if not metrics or not owners:
        return None
    shown = _table(board, replace(table, rows={"contestant": owners}), None, told,
                   [_Block(CLASSIFIER, "", metrics)])
    titles = gauges.network_labels(board, owners)
    for row, names in zip(shown["groups"][0]["rows"], explained.values(), strict=True):
        row |= {"title": titles[names[0]], "name": f"explained by {', '.join(names)}",
                "family": ""}
    return {**shown, "of": "Network"}


def _scale(tables: Sequence[Grid], metric: Row) -> Row | None:
    """The ends of a metric's bars, and the best control's mean; all bars of a column share them."""
    rows = [(i, kind, cell.row) for i, table in enumerate(tables)
            for kind, names in table.rows.items() for name in names
            if (cell := table.cells[name, metric["name"]])]
    if not rows:
        return None
    low, high = min(r["low"] for *_, r in rows), max(r["high"] for *_, r in rows)
    sign = 1 if metric["better"] == "higher" else -1
    best = max((r["mean"] * sign for i, kind, r in rows
                if kind == "control" and metric["family"] != CLASSIFIER and i == 0),
               default=math.nan)
    return {"low": low, "width": (high - low) or 1.0, "control": best * sign}


def _cell(
    cell: Cell | None, scale: Row | None, metric: Row, check: Row | None,
    told: gauges.Told | None, whole: Cell | None,
) -> Row | None:
    if cell is None or scale is None:
        return None

    def place(value: float) -> float:
        share: float = (value - scale["low"]) / scale["width"]
        # Right is better in every bar, whichever way the metric runs.
        share = share if metric["better"] == "higher" else 1 - share
        return round(4 + share * (BAR - 8), 1)

    row = cell.row
    ends = sorted((place(row["low"]), place(row["high"])))
    n = (f"{plural(row['n_images'], 'image')} × {plural(row['n_seeds'], 'seed')}" if not whole else
         f"{plural(row['n_images'], 'different image')} over {plural(row['n_seeds'], 'seed')}")
    places = len(cell.mean.partition(".")[2])
    moved = whole is not None and math.isfinite(row["rank"]) and whole.row["rank"] != row["rank"]
    return {
        "value": f"{row['mean']:.{chunks.DIGITS}g}", "better": metric["better"],
        "mean": cell.mean, "low": cell.low, "high": cell.high, "best": cell.best,
        "from": ends[0], "to": ends[1], "at": place(row["mean"]),
        # The best control's place is that on all images; on fewer it is another.
        "control": place(scale["control"]) if math.isfinite(scale["control"]) and not whole
        else None,
        "rank": _rank(row), "n": n, "broken": bool(metric["defect"]),
        "nans": row["n_nan"] if not whole else 0,
        "check": verdict_chip(check) if check else None,
        "ceiling": told.ceiling(metric["name"], row["contestant"], places) if told else "",
        "blur": told.blur(metric["name"], row["contestant"]) if told else "",
        "moved": f"all images: #{whole.row['rank']:g}" if whole and moved else ""}


def _rank(row: Row) -> str:
    """A rank and, where it is not sure, its interval: #2 or #2 (1–3)."""
    if not math.isfinite(row["rank"]):
        return ""
    if row["rank_low"] == row["rank_high"]:
        return f"#{row['rank']:g}"
    return f"#{row['rank']:g} ({row['rank_low']:g}–{row['rank_high']:g})"


def plural(n: int, one: str, several: str | None = None) -> str:
    """A number and its noun."""
    return f"{n:,} {one if n == 1 else several or one + 's'}"


def _reasons(board: Board, dataset: str) -> dict[str, list[str]]:
    """Why each contestant is incomplete, a line a reason with the seeds or metrics concerned."""
    reasons: dict[str, list[str]] = {}
    gaps: dict[tuple[str, str, str], list[str]] = {}
    for gap in records(board.missing[board.missing["dataset"] == dataset]):
        if gap["contestant"] is not None:
            what = [] if gap["seed"] is None else [f"seed {gap['seed']}"]
            what += [] if gap["metric"] is None else [gap["metric"]]
            gaps.setdefault((gap["contestant"], gap["kind"], gap["reason"]), []).append(
                " ".join(what))
    for (name, kind, reason), places in gaps.items():
        where = "" if kind == "unsupported" else _shortened(places)
        text = f"{kind}: {reason}" if kind != "not run" else reason
        reasons.setdefault(name, []).append(text + (f" ({where})" if where else ""))
    return reasons


def _shortened(places: Iterable[str]) -> str:
    listed = [place for place in dict.fromkeys(places) if place]
    return ", ".join(listed[:6]) + (f" and {len(listed) - 6} more" if len(listed) > 6 else "")


def _listed(board: Board, dataset: str) -> list[tuple[str, str]]:
    """Everything that this data set lacks: what, and why; a line a reason."""
    whole: dict[str, list[str]] = {}
    for gap in records(board.missing[board.missing["dataset"] == dataset]):
        if gap["contestant"] is None:
            whole.setdefault(gap["reason"], []).append(str(gap["metric"]))
    return [(", ".join(names), f"skipped: {reason}") for reason, names in whole.items()] + [
        (name, reason) for name, lines in _reasons(board, dataset).items() for reason in lines]


def _effects(board: Board, table: Grid, metrics: Sequence[Row]) -> Row | None:
    """A data set's effects in the metrics of a track: a row a metric and a column a comparison."""
    found = {((row["effect"], row["minuend"], row["subtrahend"]), row["metric"]): row
             for row in records(board.effects[board.effects["dataset"] == table.dataset])}
    shown = [m for m in metrics if any(name == m["name"] for _, name in found)]
    if not shown:
        return None
    columns = list(dict.fromkeys(key for key, _ in found))
    return {
        "columns": columns, "rows": [{
            "name": metric["name"], "title": metric["title"], "family": metric["family"],
            "better": metric["better"], "cells": [(row := found.get((column, metric["name"]))) and {
                **{key: gauges.signed(row[key]) for key in ("mean", "low", "high")},
                "reads": row["reads"], "kind": {"better": "beats", "worse": "worse"}.get(
                    row["reads"], "unsure")} for column in columns]} for metric in shown]}
