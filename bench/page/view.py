"""What the template prints: a board turned into rows of text, with no decision left to make."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

from bench.board import PROVEN, QUANTUS, Board
from bench.measure import GAUGE
from bench.page import cards, gauges, tables
from bench.page.chunks import files
from bench.page.gallery import Gallery
from bench.page.sections import plural, section, verdict_chip
from bench.page.tables import (
    ARROW,
    DASH,
    KINDS,
    Grid,
    grid,
    label,
    records,
    slug,
    title,
    tracks,
)
from bench.page.weights import weighing
from bench.results import Results
from bench.verdicts import CLASSIFIER, is_compared


def context(board: Board, results: Results, galleries: dict[str, Gallery]) -> dict[str, Any]:
    """All that index.html.j2 asks for."""
    runs = records(results.runs)
    grids = [grid(board, dataset) for dataset in dict.fromkeys(board.estimates["dataset"])]
    facts = [run["info"] for run in runs]
    sets = dict(zip((table.dataset for table in grids),
                    files([table.dataset for table in grids]), strict=True))
    return {
        "suite": board.suite, "title": board.title, "protocol": board.protocol,
        "counts": _counts(board, results), "batteries": board.batteries, "notes": board.notes,
        "arrow": ARROW, "spark": gauges.SPARK,
        "warnings": tables.warnings(board), "adds_up": tables.ADDS_UP,
        "tracks": [{"name": track, "slug": slug(track), "title": tables.track_title(track)}
                   for track in tracks(board)],
        "kinds": KINDS, "families": sorted({row["family"] or "unknown"
                                           for row in board.contestants.values()}),
        "sections": [{**section(board, results, table, galleries.get(table.dataset)),
                      "set": sets[table.dataset]} for table in grids],
        "summaries": [_summary(board, results, grids, track, sets) for track in tracks(board)],
        "disagreement": _disagreement(board),
        "metrics": cards.groups(board),
        "additivity": _additivity(board, grids),
        "contestants": [{**found, "slug": slug(name), "label": label(board, name),
                         "link": cards.link(found["paper"]),
                         "params": cards.params(board, runs, name)}
                        for name, found in board.contestants.items()],
        "cards": [{**card, "slug": slug(name), "link": cards.link(card.get("homepage", ""))}
                  for name, card in results.plan["datasets"].items()],
        "runs": [_run(run) for run in runs],
        "versions": _versions(facts),
    }


def _counts(board: Board, results: Results) -> list[str]:
    kinds = Counter("ceiling" if facts["ceiling"] else "control" if facts["control"]
                    else "contestant" for facts in board.contestants.values())
    seeds, folds = ({run[key] for run in results.plan["runs"]} for key in ("seed", "fold"))
    runs = records(results.runs)
    titles = dict.fromkeys(run["info"]["contestant"]["trainer_title"] for run in runs)
    backbones = {run["info"]["classifier"]["backbone"] for run in runs}
    return [
        plural(len(set(board.estimates["dataset"])), "data set"),
        f"{plural(len(titles), 'kind of network', 'kinds of network')} ({', '.join(titles)}; "
        f"{', '.join(sorted(backbones))})",
        plural(len(seeds), "seed") + (f" × {len(folds)} folds" if len(folds) > 1 else ""),
        f"{plural(kinds['contestant'], 'contestant')}, {plural(kinds['control'], 'control')}"
        + (f", {plural(kinds['ceiling'], 'ceiling')}" if kinds["ceiling"] else ""),
        plural(sum(m["family"] != GAUGE for m in board.metrics), "metric")
        + (f" and {plural(n, 'gauge')}" if (n := sum(
            m["family"] == GAUGE for m in board.metrics)) else ""),
        f"{plural(len(results.samples), 'map')} scored",
    ]


def _accuracy(results: Results, dataset: str, name: str) -> float | None:
    found = [run["info"]["classifier"]["accuracy"] for run in records(results.runs)
             if (run["dataset"], run["contestant"]) == (dataset, name)
             and not run["info"]["unsupported"]]
    return sum(found) / len(found) if found else None


def _summary(
    board: Board, results: Results, grids: list[Grid], track: str, sets: dict[str, str],
) -> dict[str, Any]:
    """Who beats the controls on one track: contestants down, data sets and families across."""
    said = board.verdicts[board.verdicts["track"] == track]
    verdicts = {(row["dataset"], row["family"], row["contestant"]): verdict_chip(row)
                for row in records(said)}
    blocks: list[dict[str, Any]] = [{
        "dataset": table.dataset, "slug": slug(table.dataset), "set": sets[table.dataset],
        "families": list(dict.fromkeys(
            m["family"] for m in table.metrics
            if m["track"] == track and m["family"] != CLASSIFIER and is_compared(m)))}
        for table in grids]
    if any(block["families"] for block in blocks):
        grids = [table for table, block in zip(grids, blocks, strict=True) if block["families"]]
        blocks = [block for block in blocks if block["families"]]
    families = board.families[board.families["track"] == track]
    ranks = families[families["family"] != CLASSIFIER].groupby(
        "contestant")["rank"].mean().to_dict()
    judged = set(said["contestant"])
    rows: list[dict[str, Any]] = []
    for name, facts in board.contestants.items():
        if facts["control"] or facts["ceiling"]:
            continue
        cells, n = [], 0
        for block, table in zip(blocks, grids, strict=True):
            found = [verdicts.get((table.dataset, family, name)) for family in block["families"]]
            n += sum(v is not None and v["kind"] == "beats" for v in found)
            share = (None if name in table.rows["incomplete"]
                     else _accuracy(results, table.dataset, name))
            cells.append({
                "verdicts": found, "share": share,
                "entered": any(name in names for names in table.rows.values()),
                "accuracy": DASH if share is None else f"{100 * share:.1f} %",
                "opens": bool(table.cells.get((name, "accuracy")))})
        rows.append({"name": name, "title": title(board, name), "label": label(board, name),
                     "cells": cells, "n": n, "ranked": name in judged,
                     "family": facts["family"] or "unknown"})
    rows.sort(key=lambda row: (-row["n"], ranks.get(row["name"], math.inf)))
    total = sum(len(block["families"]) for block in blocks)
    return {"track": track, "slug": slug(track), "title": tables.track_title(track),
            "about": tables.TRACKS[track][1] if track in tables.TRACKS else "",
            "blocks": blocks, "rows": rows, "total": total,
            "weighing": weighing(board, track, sets),
            "winners": [row for row in rows if total and row["n"] == total],
            "losers": [row for row in rows if row["ranked"] and not row["n"]]}


def _disagreement(board: Board) -> dict[str, Any] | None:
    """Where the track that ranks and the Quantus track order the contestants differently."""
    if board.tracks.empty:
        return None
    rows = []
    for row in records(board.tracks):
        swaps = board.swaps[(board.swaps["dataset"] == row["dataset"])
                            & (board.swaps["family"] == row["family"])]
        rows.append({
            "dataset": row["dataset"], "family": row["family"], "n": row["n_contestants"],
            "tau": f"{row['tau']:.2f}".replace("-", "−") if math.isfinite(row["tau"]) else DASH,
            "swaps": [{"above": label(board, s["above"]), "below": label(board, s["below"]),
                       "sure": s["sure"]} for s in records(swaps)]})
    return {"first": tables.track_title(PROVEN), "second": tables.track_title(QUANTUS),
            "rows": rows, "same": all(not row["swaps"] for row in rows)}


def _additivity(board: Board, grids: list[Grid]) -> dict[str, Any] | None:
    """How the maps add up: a row a contestant that declares it, and a column a data set."""
    declared = {name: facts["additivity"] for name, facts in board.contestants.items()
                if facts["additivity"] != "none"}
    found = {(row["contestant"], row["dataset"]): row for row in records(board.additivity)}
    rows = []
    for name, kind in declared.items():
        here = [found.get((name, table.dataset)) for table in grids]
        rows.append({
            "name": name, "title": title(board, name),
            "identity": " = ".join(tables.ADDS_UP[kind]),
            "cells": [row and {"holds": row["holds"], "n": plural(row["n_runs"], "run"),
                               "largest": tables.deviation(row["largest"])} for row in here]})
    if not rows or not found:
        return None
    others = [name for name, facts in board.contestants.items()
              if name not in declared and not facts["control"] and not facts["ceiling"]]
    return {"rows": rows, "datasets": [table.dataset for table in grids], "others": len(others),
            "tolerance": tables.deviation(board.additivity["tolerance"].max())}


def _run(run: dict[str, Any]) -> dict[str, Any]:
    info = run["info"]
    about = {"dataset": run["dataset"], "contestant": run["contestant"], "seed": run["seed"],
             "fold": run["fold"], "id": run["run"][:10], "unsupported": info["unsupported"]}
    if info["unsupported"]:  # no accuracy, no grid
        return about
    network, spent = info["classifier"], info["measured"]
    seconds = spent.get("train", 0) + spent.get("explain", 0) + sum(spent.get("score", {}).values())
    return {**about, "backbone": network["backbone"],
            "parameters": f"{network['parameters']:,}", "accuracy": f"{network['accuracy']:.3f}",
            "grid": " × ".join(map(str, network["grid"])), "device": info["device"],
            "git": info["git"][:10], "checkpoint": (info["checkpoint"] or "")[:10],
            "seconds": f"{seconds:.1f}"}


def _versions(facts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The distinct sets of versions, and how many runs each made."""
    sets = Counter(tuple(sorted((k, str(v)) for k, v in info["versions"].items()))
                   for info in facts)
    return [{"versions": versions, "n": n} for versions, n in sets.most_common()]
