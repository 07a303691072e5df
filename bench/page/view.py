"""What the template prints: a board turned into rows of text, with no decision left to make."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

from bench.board import BEATS, CLASSIFIER, NONE, WORSE, Board
from bench.core import canonical
from bench.page import tables
from bench.page.gallery import Gallery
from bench.page.tables import ARROW, DASH, KINDS, Cell, Grid, grid, label, records, slug, title
from bench.results import Results

CAPTIONS = {
    "contestant": "",
    "control": "model-blind or trivial: an explanation has to beat every one of them",
    "ceiling": "is given the mask: what a perfect map reaches, not a contestant",
    "incomplete": "some planned run or metric has no result; the reasons are listed below",
}
BAR = 104
"""The width of an interval bar in the page, in pixels."""


def context(board: Board, results: Results, galleries: dict[str, Gallery]) -> dict[str, Any]:
    """All that index.html.j2 asks for."""
    runs = records(results.runs)
    grids = [grid(board, dataset) for dataset in dict.fromkeys(board.estimates["dataset"])]
    verdicts = {(row["dataset"], row["track"], row["family"], row["contestant"]): _verdict(row)
                for row in records(board.verdicts)}
    facts = [run["info"] for run in runs]
    return {
        "suite": board.suite, "title": board.title, "protocol": board.protocol,
        "counts": _counts(board, results), "notes": board.notes, "arrow": ARROW,
        "warnings": tables.warnings(board), "adds_up": tables.ADDS_UP,
        "sections": [_section(board, results, table, verdicts, galleries.get(table.dataset))
                     for table in grids],
        "summary": _summary(board, results, grids, verdicts),
        "metrics": [{**metric, "slug": slug(metric["name"]), "link": link(metric["paper"])}
                    for metric in board.metrics],
        "additivity": _additivity(board, grids),
        "contestants": [{**found, "label": label(board, name), "link": link(found["paper"]),
                         "params": _params(board, runs, name)}
                        for name, found in board.contestants.items()],
        "cards": [{**card, "link": link(card.get("homepage", ""))}
                  for card in results.plan["datasets"].values()],
        "runs": [_run(run) for run in runs],
        "versions": _versions(facts),
    }


def link(text: str) -> str:
    """The address in `text` if it is one that a browser may follow, else nothing."""
    if found := re.search(r"https?://[^\s<>\"')\]]+", text):
        return found[0].rstrip(".,;")
    found = re.search(r"arXiv:\s*(\d{4}\.\d{4,5})", text, re.IGNORECASE)
    return f"https://arxiv.org/abs/{found[1]}" if found else ""


def _plural(n: int, one: str, several: str | None = None) -> str:
    return f"{n:,} {one if n == 1 else several or one + 's'}"


def _counts(board: Board, results: Results) -> list[str]:
    kinds = Counter("ceiling" if facts["ceiling"] else "control" if facts["control"]
                    else "contestant" for facts in board.contestants.values())
    seeds, folds = ({run[key] for run in results.plan["runs"]} for key in ("seed", "fold"))
    runs = records(results.runs)
    titles = dict.fromkeys(run["info"]["contestant"]["trainer_title"] for run in runs)
    backbones = {run["info"]["classifier"]["backbone"] for run in runs}
    trained: dict[str, set[str]] = {}
    for run in runs:
        facts = run["info"]["contestant"]
        trained.setdefault(run["dataset"], set()).add(canonical([facts["trainer"], facts["train"]]))
    return [
        _plural(len(set(board.estimates["dataset"])), "data set"),
        f"{_plural(max(map(len, trained.values())), 'network')} ({', '.join(titles)}; "
        f"{', '.join(sorted(backbones))})",
        _plural(len(seeds), "seed") + (f" × {len(folds)} folds" if len(folds) > 1 else ""),
        f"{_plural(kinds['contestant'], 'contestant')}, {_plural(kinds['control'], 'control')}"
        + (f", {_plural(kinds['ceiling'], 'ceiling')}" if kinds["ceiling"] else ""),
        _plural(len(board.metrics), "metric"),
        f"{_plural(len(results.samples), 'map')} scored",
    ]


def _verdict(row: dict[str, Any]) -> dict[str, str]:
    verdict = row["verdict"]
    if verdict == BEATS:
        return {"kind": "beats", "glyph": "✓", "short": "beats all", "long": verdict,
                "detail": row["detail"]}
    if verdict == NONE:
        return {"kind": "none", "glyph": DASH, "short": "no control", "long": verdict,
                "detail": row["detail"]}
    kind, glyph = ("worse", "↓") if verdict.startswith(WORSE) else ("unsure", "≈")
    return {"kind": kind, "glyph": glyph, "short": row["against"], "long": verdict,
            "detail": row["detail"]}


def _accuracy(results: Results, dataset: str, name: str) -> str:
    found = [run["info"]["classifier"]["accuracy"] for run in records(results.runs)
             if (run["dataset"], run["contestant"]) == (dataset, name)
             and not run["info"]["unsupported"]]
    return f"{100 * sum(found) / len(found):.1f} %" if found else DASH


def _families(table: Grid) -> list[dict[str, Any]]:
    """The groups of columns: track and family with their metrics; the classifier's come last."""
    pairs = dict.fromkeys((m["track"], m["family"]) for m in table.metrics)
    return [{"track": track, "family": family, "judged": family != CLASSIFIER,
             "metrics": [{**m, "slug": slug(m["name"])} for m in table.metrics
                         if (m["track"], m["family"]) == (track, family)]}
            for track, family in sorted(pairs, key=lambda pair: pair[1] == CLASSIFIER)]


def _summary(
    board: Board, results: Results, grids: list[Grid], verdicts: dict[Any, dict[str, str]],
) -> dict[str, Any]:
    """Who beats the controls, at a glance: contestants down, data sets and families across."""
    blocks: list[dict[str, Any]] = [{"dataset": table.dataset, "slug": slug(table.dataset),
               "families": [f for f in _families(table) if f["judged"]]} for table in grids]
    ranks = board.families[board.families["family"] != CLASSIFIER].groupby(
        "contestant")["rank"].mean().to_dict()
    rows: list[dict[str, Any]] = []
    for name, facts in board.contestants.items():
        if facts["control"] or facts["ceiling"]:
            continue
        cells, n = [], 0
        for block, table in zip(blocks, grids, strict=True):
            found = [verdicts.get((table.dataset, f["track"], f["family"], name))
                     for f in block["families"]]
            n += sum(v is not None and v["kind"] == "beats" for v in found)
            cells.append({"verdicts": found, "accuracy": DASH if name in
                          table.rows["incomplete"] else _accuracy(results, table.dataset, name)})
        rows.append({"name": name, "title": title(board, name), "label": label(board, name),
                     "cells": cells, "n": n, "ranked": name in ranks})
    rows.sort(key=lambda row: (-row["n"], ranks.get(row["name"], math.inf)))
    total = sum(len(block["families"]) for block in blocks)
    return {"blocks": blocks, "rows": rows, "total": total, "tracks": len(
        {f["track"] for block in blocks for f in block["families"]}),
        "winners": [row for row in rows if total and row["n"] == total],
        "losers": [row for row in rows if row["ranked"] and not row["n"]]}


def _section(
    board: Board, results: Results, table: Grid, verdicts: dict[Any, dict[str, str]],
    gallery: Gallery | None,
) -> dict[str, Any]:
    dataset = table.dataset
    card = results.plan["datasets"].get(dataset, {"title": dataset})
    families = _families(table)
    placed = {(row["track"], row["family"], row["contestant"]): row
              for row in records(board.families[board.families["dataset"] == dataset])}
    scales = {m["name"]: _scale(table, m) for m in table.metrics}
    reasons = _reasons(board, dataset)
    groups = []
    for kind, names in table.rows.items():
        rows = []
        for name in names:
            blocks = []
            for family in families:
                key = (family["track"], family["family"], name)
                blocks.append({
                    "verdict": verdicts.get((dataset, *key)), "judged": family["judged"],
                    "rank": _rank(placed[key]) if key in placed else "",
                    "cells": [_cell(table.cells[name, m["name"]], scales[m["name"]], m)
                              for m in family["metrics"]]})
            rows.append({"name": name, "title": title(board, name), "blocks": blocks,
                         "family": board.contestants[name]["family"],
                         "why": "; ".join(reasons.get(name, []))})
        if rows:
            groups.append({"kind": kind, "title": KINDS[kind], "caption": CAPTIONS[kind],
                           "rows": rows})
    here = board.estimates[board.estimates["dataset"] == dataset]
    nans = records(board.nans[board.nans["dataset"] == dataset])
    return {
        "dataset": dataset, "slug": slug(dataset), "title": card["title"], "card": card,
        "images": int(here["n_images"].max()), "seeds": int(here["n_seeds"].max()),
        "resampled": " and ".join(board.resampled[dataset]),
        "families": families, "groups": groups, "reasons": _listed(board, dataset),
        "width": 1 + sum(len(f["metrics"]) + f["judged"] for f in families),
        "effects": _effects(board, table), "nans": nans, "gallery": gallery,
        "titles": {name: title(board, name) for name in board.contestants},
        "labels": {name: label(board, name) for name in board.contestants},
        "signed": {name: facts["signed"] for name, facts in board.contestants.items()},
    }


def _scale(table: Grid, metric: dict[str, Any]) -> dict[str, float] | None:
    """The ends of a metric's bars, and the best control's mean; all bars of a column share them."""
    rows = [(kind, cell.row) for kind, names in table.rows.items() for name in names
            if (cell := table.cells[name, metric["name"]])]
    if not rows:
        return None
    low, high = min(r["low"] for _, r in rows), max(r["high"] for _, r in rows)
    sign = 1 if metric["better"] == "higher" else -1
    best = max((r["mean"] * sign for kind, r in rows
                if kind == "control" and metric["family"] != CLASSIFIER), default=math.nan)
    return {"low": low, "width": (high - low) or 1.0, "control": best * sign}


def _cell(
    cell: Cell | None, scale: dict[str, float] | None, metric: dict[str, Any],
) -> dict[str, Any] | None:
    if cell is None or scale is None:
        return None

    def place(value: float) -> float:
        share = (value - scale["low"]) / scale["width"]
        # Right is better in every bar, whichever way the metric runs.
        share = share if metric["better"] == "higher" else 1 - share
        return round(4 + share * (BAR - 8), 1)

    row = cell.row
    ends = sorted((place(row["low"]), place(row["high"])))
    n = f"{_plural(row['n_images'], 'image')} × {_plural(row['n_seeds'], 'seed')}"
    return {
        "mean": cell.mean, "low": cell.low, "high": cell.high, "best": cell.best,
        "from": ends[0], "to": ends[1], "at": place(row["mean"]),
        "control": place(scale["control"]) if math.isfinite(scale["control"]) else None,
        "rank": _rank(row), "n": n, "nans": row["n_nan"]}


def _rank(row: dict[str, Any]) -> str:
    """A rank and, where it is not sure, its interval: #2 or #2 (1–3)."""
    if not math.isfinite(row["rank"]):
        return ""
    if row["rank_low"] == row["rank_high"]:
        return f"#{row['rank']:g}"
    return f"#{row['rank']:g} ({row['rank_low']:g}–{row['rank_high']:g})"


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
    """Everything that this data set lacks: what, and why."""
    gaps = records(board.missing[board.missing["dataset"] == dataset])
    whole = [(str(gap["metric"]), f"skipped: {gap['reason']}") for gap in gaps
             if gap["contestant"] is None]
    return whole + [(name, reason) for name, lines in _reasons(board, dataset).items()
                    for reason in lines]


def _effects(board: Board, table: Grid) -> dict[str, Any] | None:
    """A data set's effects, a row a comparison and a column a metric."""
    rows = records(board.effects[board.effects["dataset"] == table.dataset])
    if not rows:
        return None
    metrics = [m for m in table.metrics if any(row["metric"] == m["name"] for row in rows)]
    found = {(row["effect"], row["minuend"], row["subtrahend"], row["metric"]): row for row in rows}
    lines = []
    for effect, first, second in dict.fromkeys(key[:3] for key in found):
        cells = []
        for metric in metrics:
            row = found.get((effect, first, second, metric["name"]))
            cells.append(row and {
                **{key: _gap(row[key]) for key in ("mean", "low", "high")},
                "reads": row["reads"], "kind": {"better": "beats", "worse": "worse"}.get(
                    row["reads"], "unsure")})
        lines.append({"effect": effect, "first": first, "second": second, "cells": cells})
    return {"metrics": metrics, "rows": lines}


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
            "cells": [row and {"holds": row["holds"], "n": _plural(row["n_runs"], "run"),
                               "largest": tables.deviation(row["largest"])} for row in here]})
    if not rows or not found:
        return None
    others = [name for name, facts in board.contestants.items()
              if name not in declared and not facts["control"] and not facts["ceiling"]]
    return {"rows": rows, "datasets": [table.dataset for table in grids], "others": len(others),
            "tolerance": tables.deviation(board.additivity["tolerance"].max())}


def _params(board: Board, runs: list[dict[str, Any]], name: str) -> dict[str, list[str]]:
    """The parameters of both halves; of each data set where they are not the same on all."""
    shown = {}
    for half in ("train", "explain"):
        found: dict[str, dict[str, None]] = {}
        for dataset, facts in [(run["dataset"], run["info"]["contestant"]) for run in runs
                               if run["contestant"] == name] or [("", board.contestants[name])]:
            text = ", ".join(f"{key} = {value}" for key, value in facts[half].items())
            found.setdefault(text, {})[dataset] = None
        shown[half] = [text + (f" ({', '.join(datasets)})" if len(found) > 1 else "")
                       for text, datasets in found.items() if text]
    return shown


def _run(run: dict[str, Any]) -> dict[str, Any]:
    info = run["info"]
    network, spent = info["classifier"], info["measured"]
    seconds = spent.get("train", 0) + spent.get("explain", 0) + sum(spent.get("score", {}).values())
    return {"dataset": run["dataset"], "contestant": run["contestant"], "seed": run["seed"],
            "fold": run["fold"], "id": run["run"][:10], "backbone": network["backbone"],
            "parameters": f"{network['parameters']:,}", "accuracy": f"{network['accuracy']:.3f}",
            "grid": " × ".join(map(str, network["grid"])), "device": info["device"],
            "git": info["git"][:10], "checkpoint": (info["checkpoint"] or "")[:10],
            "seconds": f"{seconds:.1f}", "unsupported": info["unsupported"]}


def _versions(facts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The distinct sets of versions, and how many runs each made."""
    sets = Counter(tuple(sorted((k, str(v)) for k, v in info["versions"].items()))
                   for info in facts)
    return [{"versions": versions, "n": n} for versions, n in sets.most_common()]


def _gap(value: float) -> str:
    """A difference with its sign; what rounds to nothing has none."""
    rounded = round(value, 3)
    return f"{rounded:+.3f}".replace("-", "−") if rounded else "0.000"
