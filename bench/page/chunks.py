"""What the page's script loads on demand: the samples behind each number, as small script files.

    data/DATASET/board.js                     BOARD: the facts and estimates that the numbers share
    data/DATASET/images.K.js                  IMAGES: the K-th part of the images
    data/DATASET/predictions/CONTESTANT.K.js  PREDICTIONS: of the same part
    data/DATASET/values/CONTESTANT/METRIC.K.js  VALUES: of the same part

A page opened from disk may fetch nothing, but it may load scripts that lie beside it; so each file
calls one function, `heatproof(place, content)`, and content is JSON.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.board import Board, Frame
from bench.checks import axis, right_by_all
from bench.page.gallery import Gallery
from bench.page.gauges import network_labels
from bench.page.tables import grid, label, records, slug, track_title
from bench.panel import Panel
from bench.results import Results

BOARD = {
    "title": "the data set's title",
    "classes": "names of its classes",
    "seeds": "the S seeds",
    "n": "how many images, in all parts",
    "size": "images in a part",
    "contestants": "list of {name, label, kind, file, network}; their place here is their number "
                   "elsewhere",
    "metrics": "list of {name, title, about, better, family, track, range, units, formula, defect, "
               "file, axis: [title, points] or null}; their place is their number",
    "estimates": "metric x contestant: [mean, low, high, rank, rank_low, rank_high, n_images, "
                 "n_seeds, n_nan], or null; gauges are among them, without ranks",
    "common": "the same on the images that all networks get right",
    "effects": "list of {effect, first, second, found: [mean, low, high, reads] or null for each "
               "metric}: first minus second",
    "families": "list of {key, track, family, judged: for each contestant {ranks: [mean_rank, "
                "rank, rank_low, rank_high, n_metrics] or null, verdict: text, detail}, or null}",
    "media": "null, or {seed, outlined, images: list of {key, image, maps: a path or null for each "
             "contestant}}",
}
IMAGES = {
    "keys": "names of the images",
    "labels": "indices into classes, or null",
    "right": "a text a seed: 1 where the networks of all ranked contestants are right, else 0",
}
PREDICTIONS = {"predictions": "seed x image: indices into classes, or null"}
VALUES = {
    "values": "seed x image: a number or null",
    "reasons": "list of [seed, image, text] of what has none; seed and image by their place",
    "against": "in part 0: list of [other, mean, low, high, reads, superiority], paired: against "
               "each control, and against Grad-CAM on the same network",
    "curve": "in part 0: list of [at, mean, low, high] over all images",
    "curves": "in part 0: list of [image of media, points], of the media's seed",
}

NUMBERS, IMAGES_MOST = 60_000, 10_000
"""The most numbers, and images, of one file: well below a megabyte."""

DIGITS = 7
"""Significant digits of a value; one more than what a mean of them is promised to."""

_ESTIMATE = ("mean", "low", "high", "rank", "rank_low", "rank_high", "n_images", "n_seeds", "n_nan")

Row = dict[str, Any]


def write(board: Board, results: Results, galleries: dict[str, Gallery], folder: Path) -> None:
    """Writes all chunks below `folder`."""
    datasets = list(dict.fromkeys(board.estimates["dataset"]))
    for dataset, place in zip(datasets, files(datasets), strict=True):
        _dataset(board, results, galleries.get(dataset), dataset, folder / place)


def files(names: Sequence[str]) -> list[str]:
    """A file name for each: safe, and its own, also where a file system ignores case."""
    taken: list[str] = []
    for name in names:
        safe = slug(name)
        while safe.lower() in (other.lower() for other in taken):
            safe += "_"
        taken.append(safe)
    return taken


def script(place: str, content: Row) -> str:
    """One chunk: ASCII alone, and nothing in it that ends a script in any document."""
    text = json.dumps(content, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return f"heatproof({json.dumps(place)}, {text});\n"


def _dataset(
    board: Board, results: Results, gallery: Gallery | None, dataset: str, folder: Path,
) -> None:
    panel = board.panels.get(dataset) or Panel.of(results, dataset)
    metrics = [m for m in board.metrics if panel.scored[m["name"]].any()]
    size = max(1, min(IMAGES_MOST, NUMBERS // len(panel.seeds or [0])))
    parts = [slice(start, start + size) for start in range(0, len(panel.keys), size)]
    about = _board(board, results, gallery, panel, metrics) | {"size": size}
    _write(folder, "board", about)
    kept = {one["file"]: one["name"] for one in about["contestants"]}
    samples = results.samples[results.samples["dataset"] == dataset]
    known = samples[samples["contestant"].isin(panel.names) & samples["key"].isin(panel.keys)]
    predicted = np.full(panel.shape, np.nan)
    predicted[panel.at(known)] = known["prediction"]
    right, _ = right_by_all(results, panel, [
        one["name"] for one in about["contestants"] if one["kind"] in ("contestant", "control")])
    label_of = dict(zip(samples["key"], samples["label"], strict=True))
    for k, part in enumerate(parts):
        keys = panel.keys[part]
        _write(folder, f"images.{k}", {
            "keys": keys, "labels": [label_of.get(key) for key in keys],
            "right": ["".join("01"[int(one)] for one in row[part]) for row in right]})
        for file, name in kept.items():
            _write(folder, f"predictions/{file}.{k}", {"predictions": [
                _numbers(row[part], int) for row in predicted[panel.names.index(name)]]})
    added = _Added(board, results, gallery, panel, about)
    for i, metric in enumerate(metrics):
        for file, name in kept.items():
            at = panel.names.index(name)
            values, seen = panel.value[metric["name"]][at], panel.scored[metric["name"]][at]
            if not seen.any():
                continue
            reasons = added.reasons.get((metric["name"], name), [])
            for k, part in enumerate(parts):
                _write(folder, f"values/{file}/{about['metrics'][i]['file']}.{k}", {
                    "values": [_numbers(row[part]) for row in values],
                    "reasons": [[s, n - part.start, text] for s, n, text in reasons
                                if part.start <= n < part.stop],
                    **(added.of(metric["name"], name) if k == 0 else {})})


def _board(
    board: Board, results: Results, gallery: Gallery | None, panel: Panel, metrics: Sequence[Row],
) -> Row:
    card = results.plan["datasets"].get(panel.dataset, {})
    kinds = {name: kind for kind, names in grid(board, panel.dataset).rows.items()
             for name in names}
    names = [name for name in kinds if name in panel.names]
    owners = {panel.network[name]: name for name in reversed(names)}
    networks = network_labels(board, list(owners.values()))
    told = ("name", "title", "about", "better", "family", "range", "units", "formula", "defect")
    return {
        "title": card.get("title", panel.dataset), "classes": list(card.get("classes") or ()),
        "seeds": panel.seeds, "n": len(panel.keys),
        "contestants": [
            {"name": name, "label": label(board, name), "kind": kinds[name], "file": file,
             "network": networks[owners[panel.network[name]]]}
            for name, file in zip(names, files(names), strict=True)],
        "metrics": [
            {**{key: metric[key] for key in told}, "track": track_title(metric["track"]),
             "file": file, "axis": axis(metric)}
            for metric, file in zip(metrics, files([m["name"] for m in metrics]), strict=True)],
        "estimates": _estimates(board.estimates, panel.dataset, metrics, names,
                                _gauged(board, panel, names)),
        "common": _estimates(board.common, panel.dataset, metrics, names, {}),
        "effects": _effects(board, panel.dataset, metrics, names),
        "families": _families(board, panel.dataset, names),
        "media": gallery and {
            "seed": gallery.seed, "outlined": gallery.outlined, "images": [
                {"key": row["key"], "image": row["image"], "maps": [
                    cell["map"] if (cell := row["cells"].get(name)) else None for name in names]}
                for row in gallery.rows]},
    }


def _estimates(
    frame: Frame, dataset: str, metrics: Sequence[Row], names: Sequence[str],
    gauged: dict[tuple[str, str], list[float | None]],
) -> list[list[list[float | None] | None]]:
    found = gauged | {(row["metric"], row["contestant"]): [_number(row[key]) for key in _ESTIMATE]
             for row in records(frame[frame["dataset"] == dataset]) if math.isfinite(row["mean"])}
    return [[found.get((m["name"], name)) for name in names] for m in metrics]


def _gauged(
    board: Board, panel: Panel, names: Sequence[str],
) -> dict[tuple[str, str], list[float | None]]:
    """Estimates of the gauges, which no rank is made of."""
    here = board.gauges[board.gauges["dataset"] == panel.dataset]
    return {
        (row["metric"], row["contestant"]): [
            *(_number(row[key]) for key in ("mean", "low", "high")), None, None, None,
            row["n_images"],
            int(np.isfinite(panel.value[row["metric"]][panel.names.index(row["contestant"])])
                .any(axis=1).sum()), row["n_nan"]]
        for row in records(here) if row["contestant"] in names and math.isfinite(row["mean"])}


def _effects(
    board: Board, dataset: str, metrics: Sequence[Row], names: Sequence[str],
) -> list[Row]:
    found: dict[tuple[str, str, str], dict[str, list[Any]]] = {}
    for row in records(board.effects[board.effects["dataset"] == dataset]):
        if row["minuend"] in names and row["subtrahend"] in names:
            found.setdefault((row["effect"], row["minuend"], row["subtrahend"]), {})[
                row["metric"]] = [*(_number(row[key]) for key in ("mean", "low", "high")),
                                  row["reads"]]
    return [{"effect": effect, "first": names.index(first), "second": names.index(second),
             "found": [rows.get(m["name"]) for m in metrics]}
            for (effect, first, second), rows in found.items()]


def _families(board: Board, dataset: str, names: Sequence[str]) -> list[Row]:
    """What the rank and the verdict of each contestant in each family are."""
    ranks, said = ({(row["track"], row["family"], row["contestant"]): row for row in records(
        frame[frame["dataset"] == dataset])} for frame in (board.families, board.verdicts))
    keys = dict.fromkeys((track, family) for track, family, _ in [*ranks, *said])

    def judged(track: str, family: str, name: str) -> Row | None:
        rank, verdict = (found.get((track, family, name)) for found in (ranks, said))
        return None if rank is verdict is None else {
            "ranks": rank and [_number(rank[key]) for key in (
                "mean_rank", "rank", "rank_low", "rank_high", "n_metrics")],
            "verdict": verdict["verdict"] if verdict else "",
            "detail": verdict["detail"] if verdict else ""}

    return [{"key": f"{track}.{family}", "track": track_title(track), "family": family,
             "judged": [judged(track, family, name) for name in names]} for track, family in keys]


class _Added:
    """What stands beside the values of a contestant in a metric."""

    def __init__(self, board: Board, results: Results, gallery: Gallery | None, panel: Panel,
                 about: Row) -> None:
        number = {one["name"]: i for i, one in enumerate(about["contestants"])}
        self.reasons: dict[tuple[str, str], list[tuple[int, int, str]]] = {}
        self._lists: dict[str, dict[tuple[str, str], list[Any]]] = {
            "against": {}, "curve": {}, "curves": {}}
        scores = results.scores[results.scores["dataset"] == panel.dataset]
        lost = scores[scores["value"].isna()].drop_duplicates(
            ["metric", "contestant", "seed", "key"])
        for row, _, s, n in zip(records(lost), *panel.at(lost), strict=True):
            self.reasons.setdefault((row["metric"], row["contestant"]), []).append(
                (int(s), int(n), row["reason"] or "no number"))
        for row in records(board.differences[board.differences["dataset"] == panel.dataset]):
            if row["control"] in number:
                self._add("against", row, [number[row["control"]], *(
                    _number(row[key]) for key in ("mean", "low", "high")),
                    row["reads"], _number(row["superiority"])])
        for row in records(board.curves[board.curves["dataset"] == panel.dataset]):
            self._add("curve", row, [_number(row[key]) for key in ("at", "mean", "low", "high")])
        if gallery:
            images = {row["key"]: i for i, row in enumerate(gallery.rows)}
            points = {m["name"]: len(m["axis"][1]) for m in about["metrics"] if m["axis"]}
            drawn = scores[(scores["seed"] == gallery.seed) & scores["key"].isin(list(images))
                           & scores["curve"].notna() & (scores["draw"] == 0)
                           & scores["metric"].isin(list(points))]
            for row in records(drawn.sort_values("key")):
                if len(row["curve"]) == points[row["metric"]]:
                    self._add("curves", row, [images[row["key"]], _numbers(row["curve"])])

    def _add(self, what: str, row: Row, item: list[Any]) -> None:
        self._lists[what].setdefault((row["metric"], row["contestant"]), []).append(item)

    def of(self, metric: str, name: str) -> Row:
        """Those of the last three keys of VALUES."""
        return {what: found.get((metric, name), []) for what, found in self._lists.items()}


def _numbers(values: Iterable[float], kind: type = float) -> list[float | None]:
    if kind is not float or not isinstance(values, np.ndarray):
        return [None if value is None else kind(value) for value in map(_number, values)]
    # A row at a time: there are millions.
    written = (f"%.{DIGITS}g " * len(values)) % tuple(values.tolist())
    return [value if math.isfinite(value) else None for value in map(float, written.split())]


def _number(value: float) -> float | None:
    return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None


def _write(folder: Path, name: str, content: Row) -> None:
    path = folder / f"{name}.js"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(script(f"{folder.name}/{name}", content), encoding="ascii", newline="\n")
