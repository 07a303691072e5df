"""One rank out of all families, and what becomes of it under every weight that they may have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bench import stats
from bench.board import Board, Frame
from bench.core import number_from
from bench.page.tables import DASH, KINDS, label, records, title
from bench.verdicts import CLASSIFIER

DRAWS = 2000
"""Weights drawn for the share of their space; its standard error is at most 1.1 %."""

Row = dict[str, Any]


def weighing(board: Board, track: str, sets: dict[str, str]) -> Row | None:
    """The combined ranks of a track at equal weights, or None without a family that ranks.

    tables: one over all data sets, where there are several, and one of each. A family's rank over
    several is the mean of its ranks; the combined rank is the mean over the families, and a place
    is among contestants. share: of the weights, uniform over the simplex (a flat Dirichlet
    distribution), under which a contestant comes first; ties are shared. `sets` names the folder of
    each data set.
    """
    frame = board.families[(board.families["track"] == track)
                           & (board.families["family"] != CLASSIFIER)]
    families = list(dict.fromkeys(frame["family"]))
    datasets = list(dict.fromkeys(frame["dataset"]))
    tables = [_table(board, frame[frame["dataset"] == dataset], families, track,
                     {"title": dataset, "set": sets[dataset]}) for dataset in datasets]
    if len(datasets) > 1:
        tables.insert(0, _table(board, frame, families, track,
                                {"title": "all data sets", "set": ""}))
    return {"families": families, "tables": tables} if families else None


def _table(board: Board, frame: Frame, families: Sequence[str], track: str, about: Row) -> Row:
    """The rows of those that have a rank in every family on every data set of the frame."""
    blocks = list(dict.fromkeys(zip(frame["dataset"], frame["family"], strict=True)))
    found = {(row["contestant"], row["dataset"], row["family"]): row["rank"]
             for row in records(frame)}
    mean: dict[str, list[float]] = {
        name: [float(np.mean(each)) if (each := [
            found[name, d, f] for d, f in blocks if f == family]) else np.nan
            for family in families]
        for name in board.contestants if all((name, d, f) in found for d, f in blocks)}
    combined = {name: float(np.nanmean(each)) for name, each in mean.items()}
    order = sorted(mean, key=lambda name: round(combined[name], 10))
    playing = [name for name in order if not board.contestants[name]["control"]]
    place = dict(zip(playing, stats.ranks(
        np.array([combined[name] for name in playing]), "lower"), strict=True))
    share = dict(zip(playing, _shares(
        np.array([mean[name] for name in playing]), board.suite, track, about["title"]),
        strict=True))
    groups = {"contestant": playing, "control": [name for name in order if name not in playing]}
    there = set(frame["contestant"])
    return {**about, "unranked": [
        label(board, name) for name, facts in board.contestants.items()
        if name in there - set(order) and not facts["control"]], "groups": [{
            "kind": kind, "title": KINDS[kind], "rows": [{
                "name": name, "title": title(board, name),
                "family": board.contestants[name]["family"] or "unknown",
                "ranks": [DASH if np.isnan(rank) else f"{rank:.7g}" for rank in mean[name]],
                "shown": [DASH if np.isnan(rank) else f"#{rank:.3g}" for rank in mean[name]],
                "combined": f"{combined[name]:.2f}",
                "place": f"#{place[name]:g}" if name in place else DASH,
                "share": float(share[name]) if name in share else None} for name in names]}
            for kind, names in groups.items() if names]}


def _shares(ranks: stats.Array, *parts: object) -> stats.Array:
    """The share of weights under which each of C contestants comes first, of ranks (C, F)."""
    if not len(ranks):
        return np.zeros(0)
    known = ranks[:, ~np.isnan(ranks).any(axis=0)]
    generator = np.random.default_rng(number_from("weights", *parts))
    drawn = generator.dirichlet(np.ones(known.shape[1]), DRAWS)
    score = np.round(drawn @ known.T, 10)
    first = score == score.min(axis=1, keepdims=True)
    share: stats.Array = (first / first.sum(axis=1, keepdims=True)).mean(axis=0)
    return share
