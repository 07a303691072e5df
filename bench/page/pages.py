"""Cards as pages of their own: one a metric, a contestant and a data set, around the board."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from bench.board import Board, Frame
from bench.measure import GAUGE
from bench.page import cards, tables
from bench.page.cards import WIDTH, Axis, Cards
from bench.page.certificates import certificates
from bench.page.gallery import Gallery
from bench.page.sections import verdict_chip
from bench.page.tables import KINDS, Cell, Grid, label, records, slug, title
from bench.results import Results
from bench.verdicts import BEATS, CLASSIFIER, SANITY

MANY = 30
"""Classes that a data set's page names; of more, it says how many."""

NEEDS = {"mask": "a mask of each image", "explain": "to explain other images or classes",
         "randomise": "networks with random weights"}
TRUTHS = {"pixels": "a mask for every image", "boxes": "boxes", "none": "no masks"}

Row = dict[str, Any]


def environment() -> Environment:
    """Where the templates lie: all that they print is escaped, and a name they lack raises."""
    return Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True,
                       undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)


def write(
    board: Board, results: Results, galleries: Mapping[str, Gallery], folder: Path,
) -> list[Path]:
    """The pages written: folder/pages/{metrics,methods,data}/NAME.html and their style.

    They have no script, and lead back to folder/index.html; NAME is the slug of the name.
    """
    shared, engine = Cards.of(board, results), environment()
    style = folder / "pages" / "card.css"
    style.parent.mkdir()
    style.write_text(engine.get_template("card.css").render(), encoding="utf-8", newline="\n")
    paths = [style]
    made = {
        "metrics": ("metric", "Metrics", [metric_card(shared, m) for m in board.metrics]),
        "methods": ("method", "Contestants", [
            method_card(shared, name) for name in board.contestants]),
        "data": ("dataset", "Data", [
            dataset_card(shared, name, galleries.get(name)) for name in results.plan["datasets"]])}
    for place, (kind, group, found) in made.items():
        template = engine.get_template(f"{kind}.html.j2")
        (folder / "pages" / place).mkdir()
        for card in found:
            paths.append(folder / "pages" / place / f"{card['slug']}.html")
            paths[-1].write_text(template.render(
                board=board, group=group, anchor=group.lower(), arrow=tables.ARROW, width=WIDTH,
                **card), encoding="utf-8", newline="\n")
    return paths


def metric_card(shared: Cards, metric: Row) -> Row:
    """All that a metric's page shows."""
    board = shared.board
    blocks = [_finds(shared, metric, table) for table in shared.grids.values()]
    return {
        "title": metric["title"], "slug": slug(metric["name"]), "metric": cards.card(board, metric),
        "facts": [metric["family"], f"{tables.track_title(metric['track'])} track"],
        "needs": ", ".join(NEEDS.get(need, need) for need in metric["needs"]),
        "seconds": shared.seconds((run for runs in shared.runs.values() for run in runs),
                                  "score", metric["name"]),
        "blocks": blocks,
        "unranked": "A gauge measures operators, truths or measures; nothing is ranked by it."
        if metric["family"] == GAUGE else
        "It is passed or failed, and ranks nothing: to be more sensitive than another map is no "
        "merit." if metric["family"] == SANITY else
        "It has a defect, so nothing is ranked by it." if metric["defect"] else ""}


def _finds(shared: Cards, metric: Row, table: Grid) -> Row:
    """What a metric says on one data set: all contestants, the best rank first."""
    board, name, dataset = shared.board, metric["name"], table.dataset
    kinds = {one: kind for kind, names in table.rows.items() for one in names}
    found = {one: cell for one in kinds if (cell := table.cells.get((one, name)))}
    if metric["family"] == GAUGE:
        found = _gauged(board, dataset, name)
    axis = Axis.of(found, kinds, metric)
    sign = 1 if metric["better"] == "lower" else -1
    order = sorted(found, key=lambda one: (
        kinds.get(one) == "ceiling", _or_last(found[one].row["rank"]),
        sign * found[one].row["mean"]))
    rows: list[Row] = [{
        "name": one, "title": title(board, one), "label": label(board, one), "slug": slug(one),
        "kind": kinds.get(one, "contestant"), "best": found[one].best, "mean": found[one].mean,
        "low": found[one].low, "high": found[one].high, "bar": axis.bar(found[one].row),
        "scaled": _scaled(found[one].row), "rank": _rank(found[one].row)} for one in order]
    ranked = [row for row in rows if row["rank"] and row["kind"] != "ceiling"]
    first = found[ranked[0]["name"]].row["p_first"] if ranked else math.nan
    gaps = board.missing[board.missing["dataset"] == dataset]
    reasons = gaps[(gaps["metric"] == name) & gaps["contestant"].isna()]["reason"]
    why = (reasons.iloc[0] if len(reasons) else "shown, not ranked" if rows else "no number")
    if rows and metric["family"] != CLASSIFIER:
        rows += [{"name": one, "title": title(board, one), "slug": slug(one), "kind": "absent",
                  "rank": "", "mean": ""} for one in kinds if one not in found
                 and metric["family"] != GAUGE]
    return {**shared.titled(dataset), "rows": rows, "why": why,
            "leader": ranked[0] if ranked else None,
            "first": f"{100 * first:.0f} %" if math.isfinite(first) else "",
            "scaled": any(row["mean"] and row["scaled"] for row in rows),
            # Beside a contestant that leads stands the best control, and beside a control the
            # best contestant.
            "other": next((row for row in ranked if row["kind"] != ranked[0]["kind"]), None),
            "blur": shared.told[dataset].prefers_blur(board, name)}


def _gauged(board: Board, dataset: str, name: str) -> dict[str, Cell]:
    """The numbers of a gauge, which has no rank, by contestant."""
    rows = [row for row in records(board.gauges[(board.gauges["dataset"] == dataset)
                                                & (board.gauges["metric"] == name)])
            if math.isfinite(row["mean"])]
    places = tables.decimals(rows)
    return {row["contestant"]: Cell(
        f"{row['mean']:.{places}f}", f"{row['low']:.{places}f}", f"{row['high']:.{places}f}",
        best=False, row={**row, "rank": math.nan, "scaled": math.nan}) for row in rows}


def method_card(shared: Cards, name: str) -> Row:
    """All that a contestant's page shows."""
    board, facts = shared.board, shared.board.contestants[name]
    runs = shared.runs.get(name, [])
    ran = [run for run in runs if not run["info"]["unsupported"]]
    role = "ceiling" if facts["ceiling"] else "control" if facts["control"] else "contestant"
    family = facts["family"] or "unknown family: it never ran"
    counted = [(found["forward"], found["backward"]) for run in ran
               if (found := run["info"]["measured"].get("passes"))]
    whole = [statistics.median(side) for side in zip(*counted, strict=True)]
    additive, said = facts["additivity"], board.verdicts[board.verdicts["contestant"] == name]
    judged = [dataset for dataset in shared.grids if dataset in set(said["dataset"])]
    return {
        "title": label(board, name), "slug": slug(name), "method": facts,
        "facts": list(dict.fromkeys([role, family])), "paper": cards.sources(facts["paper"]),
        "params": cards.params(board, runs, name),
        "counted": f"{whole[0]:.3g} forward and {whole[1]:.3g} backward" if any(whole) else "",
        "seconds": shared.seconds(ran, "explain"),
        "additive": "" if additive == "none" else " = ".join(tables.ADDS_UP[additive]),
        "warnings": [text for row, text in tables.unsummed(board) if row["contestant"] == name],
        "datasets": [shared.titled(dataset) for dataset in judged],
        "verdicts": _verdicts(shared, name, judged), "networks": _networks(shared, name, ran),
        "blocks": [block for table in shared.grids.values()
                   if (block := _numbers(shared, name, table))]}


def _verdicts(shared: Cards, name: str, datasets: Iterable[str]) -> list[Row]:
    """A row a family, a cell a data set: the verdict, and the rank."""
    board = shared.board
    said = _in_order(board, board.verdicts[board.verdicts["contestant"] == name])
    places = {(row["dataset"], row["track"], row["family"]): row for row in records(
        board.families[board.families["contestant"] == name])}
    chips = {(row["dataset"], row["track"], row["family"]): row for row in said}
    return [
        {"family": family, "track": tables.track_title(track), "cells": [
            (row := chips.get((dataset, track, family))) and {
                "chip": verdict_chip(row),
                "rank": _rank(places[key]) if (key := (dataset, track, family)) in places else ""}
            for dataset in datasets]}
        for track, family in dict.fromkeys((row["track"], row["family"]) for row in said)]


def _networks(shared: Cards, name: str, ran: list[Row]) -> list[Row]:
    """A row a data set: the networks that were explained, and what is certified of them."""
    board = shared.board
    adds, certified, gated = (
        {row["dataset"]: row for row in records(frame[frame["contestant"] == name])}
        for frame in (board.additivity, board.certificates, board.gates))
    rows = []
    for dataset in shared.grids:
        found = [run["info"]["classifier"] for run in ran if run["dataset"] == dataset]
        if not found:
            continue
        sums, proof = adds.get(dataset), certified.get(dataset)
        accuracy = statistics.fmean(one["accuracy"] for one in found)
        rows.append({
            **shared.titled(dataset),
            **{key: ", ".join(dict.fromkeys(texts)) for key, texts in {
                "backbone": [one["backbone"] for one in found],
                "parameters": [f"{one['parameters']:,}" for one in found],
                "grid": [" × ".join(map(str, one["grid"])) for one in found]}.items()},
            "accuracy": f"{100 * accuracy:.1f} %",
            "adds": {**sums, "largest": tables.deviation(sums["largest"])}
            if sums and sums["holds"] is not None else None,
            "gate": gated.get(dataset),
            "certificate": proof if proof and proof["certified"] is not None else None})
    return rows


def _numbers(shared: Cards, name: str, table: Grid) -> Row | None:
    """A contestant's numbers on one data set, a table a track; or why it has none."""
    board = shared.board
    kinds = {one: kind for kind, names in table.rows.items() for one in names}
    if name not in kinds:
        return None
    gaps = board.missing[(board.missing["dataset"] == table.dataset)
                         & (board.missing["contestant"] == name)]
    reasons = dict.fromkeys(f"{row['kind']}: {row['reason']}" if row["kind"] != "not run"
                            else str(row["reason"]) for row in records(gaps))
    checks = {row["metric"]: verdict_chip(row) for row in records(
        board.sanity[(board.sanity["dataset"] == table.dataset)
                     & (board.sanity["contestant"] == name)])}
    parts: dict[str, list[Row]] = {}
    for metric in table.metrics:
        cell = table.cells[name, metric["name"]]
        if cell is None:
            continue
        column = {one: other for one in kinds if (other := table.cells[one, metric["name"]])}
        n = len({one for one, other in column.items() if math.isfinite(other.row["rank"])})
        rank = _rank(cell.row)
        part = ("the networks" if metric["family"] == CLASSIFIER
                else f"{tables.track_title(metric['track'])} track")
        parts.setdefault(part, []).append({
            "title": metric["title"], "slug": slug(metric["name"]), "family": metric["family"],
            "better": metric["better"], "mean": cell.mean, "low": cell.low, "high": cell.high,
            "best": cell.best, "check": checks.get(metric["name"]),
            "bar": Axis.of(column, kinds, metric).bar(cell.row), "scaled": _scaled(cell.row),
            "rank": f"{rank} of {n}" if rank and metric["family"] != CLASSIFIER else rank})
    why = (f"{KINDS['incomplete']}: {'; '.join(reasons)}." if kinds[name] == "incomplete" else "")
    order = [f"{tables.track_title(track)} track" for track in tables.tracks(board)]
    return {**shared.titled(table.dataset), "why": why, "parts": [
        {"title": part, "rows": parts[part]} for part in [*order, "the networks"]
        if part in parts]}


def dataset_card(shared: Cards, dataset: str, gallery: Gallery | None) -> Row:
    """All that a data set's page shows."""
    board, card = shared.board, shared.results.plan["datasets"][dataset]
    here = board.estimates[board.estimates["dataset"] == dataset]
    infos = [run["info"] for runs in shared.runs.values() for run in runs
             if run["dataset"] == dataset]
    seeds = sorted({run["seed"] for run in shared.results.plan["runs"]
                    if run["dataset"] == dataset})
    certified = certificates(board, dataset, card["truth"])
    truth = TRUTHS[card["truth"]] + (
        "" if certified is None else ", planted" if certified["planted"] else ", uncertified")
    return {
        "title": card["title"], "slug": slug(dataset), "card": card,
        "facts": [f"{len(card['classes'])} classes", truth, card["licence"] or "no licence stated"],
        "classes": card["classes"][:MANY], "more": max(len(card["classes"]) - MANY, 0),
        "scored": f"{int(here['n_images'].max()) if len(here) else 0} images, seeds "
                  f"{', '.join(map(str, seeds))}",
        "truth": truth, "certified": certified, "splits": _splits(card),
        "citation": cards.sources(card.get("citation", "")),
        "homepage": cards.link(card.get("homepage", "")),
        "contents": list(dict.fromkeys(text for info in infos
                                       if (text := info["dataset"].get("content")))),
        "families": _leaders(board, dataset), "outlined": bool(gallery and gallery.outlined),
        "pictures": gallery.rows if gallery else []}


def _splits(card: Row) -> str:
    """The splits of a card in words, and how many folds there are besides."""
    order = ("train", "validation", "test")
    text = "; ".join(
        f"{name}: {', '.join(map(str, part)) if isinstance(part, list | tuple) else part}"
        for name, part in sorted(card["splits"].items(), key=lambda one: [
            *order, one[0]].index(one[0])))
    folds = len(card.get("folds", ()))
    return text + (f" (fold 0 of {folds + 1})" if folds else "")


def _leaders(board: Board, dataset: str) -> list[Row]:
    """A row a track and family: who ranks first, and who beats every control."""
    places, said = (_in_order(board, frame[(frame["dataset"] == dataset)
                                           & (frame["family"] != CLASSIFIER)])
                    for frame in (board.families, board.verdicts))

    def named(row: Row) -> Row:
        name = row["contestant"]
        return {"label": label(board, name), "slug": slug(name),
                "control": board.contestants[name]["control"]}

    keys = dict.fromkeys((row["track"], row["family"]) for row in places)
    return [{
        "track": tables.track_title(track), "family": family,
        "first": [named(row) for row in places if (row["track"], row["family"]) == (track, family)
                  and row["rank"] == min(other["rank"] for other in places if (
                      other["track"], other["family"]) == (track, family))],
        "beat": [named(row) for row in said if (row["track"], row["family"]) == (track, family)
                 and row["verdict"] == BEATS]} for track, family in keys]


def _in_order(board: Board, frame: Frame) -> list[Row]:
    """Rows with a track, those of the track that ranks by default first."""
    order = tables.tracks(board)
    return sorted(records(frame), key=lambda row: [*order, row["track"]].index(row["track"]))


def _rank(row: Row) -> str:
    """A rank and, where it is not sure, its interval; nothing for what is not ranked."""
    if not math.isfinite(row["rank"]):
        return ""
    if row["rank_low"] == row["rank_high"]:
        return f"{row['rank']:g}"
    return f"{row['rank']:g} ({row['rank_low']:g}–{row['rank_high']:g})"


def _scaled(row: Row) -> str:
    """A mean between the best control, 0, and the ceiling or the best found, 1."""
    return f"{row['scaled']:.2f}".replace("-", "−") if math.isfinite(row["scaled"]) else ""


def _or_last(rank: float) -> float:
    return rank if math.isfinite(rank) else math.inf
