"""Where the ranked stand: on a common scale, across data sets, and how firmly."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations, pairwise
from typing import Any

import numpy as np

from bench import comparisons, stats
from bench.panel import Panel
from bench.verdicts import CLASSIFIER, is_compared, is_ranked

Row = dict[str, Any]


def explains(metric: Mapping[str, Any]) -> bool:
    """Whether it ranks explanations: not their networks, which several contestants may share."""
    return is_ranked(metric) and metric["family"] != CLASSIFIER


def scaled(
    mean: stats.Array, controls: Sequence[int], ceilings: Sequence[int], ranked: Sequence[int],
    better: str,
) -> stats.Array:
    """Means (C,) from 0, the best control, to 1, the best ceiling or else the best of the ranked.

    controls, ceilings, ranked: places in C. A ceiling knows the truth and not the network, so a
    measure of the network may place it anywhere: it is the top only where it beats every control.
    NaN where there is no control, or nothing is better than the best of them.
    """
    sign = 1.0 if better == "higher" else -1.0

    def best(places: Sequence[int]) -> float:
        return max((sign * mean[i] for i in places if np.isfinite(mean[i])), default=math.nan)

    bottom, top = best(controls), best(ceilings)
    if not top > bottom:
        top = best(ranked)
    return np.full(len(mean), np.nan) if not top > bottom else (sign * mean - bottom) / (
        top - bottom)


def across(
    estimates: Sequence[Row], metrics: Sequence[Row],
) -> tuple[list[Row], list[Row], list[Row]]:
    """Rows of omnibus, placings and cliques: each metric over all data sets that have it.

    A block is a data set with its backbone (a suite gives each data set one), and its number of a
    contestant is the mean. Only contestants that are ranked in every block are compared.
    """
    omnibus, placings, cliques = [], [], []
    for metric in metrics:
        if not explains(metric):
            continue
        place = {"track": metric["track"], "metric": metric["name"]}
        names, blocks = _table([row for row in estimates if row["metric"] == metric["name"]],
                               "mean", ("dataset",))
        found = comparisons.friedman(blocks.T, metric["better"])
        few = ("underpowered: " + _several(found.n_blocks, "block")
               + f", fewer than {comparisons.POWERED}")
        omnibus.append({
            **place, "n_blocks": found.n_blocks, "statistic": found.statistic, "p": found.p,
            "powered": found.powered, "method": "; ".join((
                f"Friedman over {_several(found.n_blocks, 'block')} and "
                + _several(len(names), "contestant"),
                "Wilcoxon signed-rank with Holm" if found.powered else few))})
        placings += [{**place, "contestant": name, "mean_rank": rank}
                     for name, rank in zip(names, found.mean_ranks, strict=True)]
        cliques += [
            {**place, "clique": number, "contestant": names[i]}
            for number, clique in enumerate(
                comparisons.cliques(blocks.T, metric["better"]), start=1)
            for i in clique]
    return omnibus, placings, cliques


def _table(
    estimates: Sequence[Row], column: str, by: Sequence[str],
) -> tuple[list[str], stats.Array]:
    """Who is ranked in all of some estimates, and their numbers (C, K), by what `by` names."""
    keys = _keys(estimates, by)
    found = {(row["contestant"], tuple(row[name] for name in by)): row[column]
             for row in estimates if np.isfinite(row["rank"])}
    names = [name for name in dict.fromkeys(name for name, _ in found)
             if all((name, key) in found for key in keys)]
    return names, np.array([[found[name, key] for key in keys] for name in names],
                           np.float64).reshape(len(names), len(keys))


def _keys(estimates: Sequence[Row], by: Sequence[str]) -> list[tuple[str, ...]]:
    return list(dict.fromkeys(tuple(row[name] for name in by) for row in estimates
                              if np.isfinite(row["rank"])))


def _several(n: int, noun: str) -> str:
    return f"{n} {noun}" + "s" * (n != 1)


def agreement(estimates: Sequence[Row], metrics: Sequence[Row]) -> list[Row]:
    """Kendall's tau-b of each two metrics of a track, on one data set, over those ranked in both.

    Directions are aligned: 1 is the same order of the contestants, whichever value is better.
    """
    mean = {(row["metric"], row["contestant"]):
            row["mean"] if row["better"] == "higher" else -row["mean"]
            for row in estimates if np.isfinite(row["rank"])}
    names = list(dict.fromkeys(name for _, name in mean))
    rows = []
    for first, second in combinations([m for m in metrics if explains(m)], 2):
        one, two = (np.array([mean.get((metric["name"], name), np.nan) for name in names])
                    for metric in (first, second))
        n = int((np.isfinite(one) & np.isfinite(two)).sum())
        if first["track"] == second["track"] and n >= 2:
            rows.append({
                "dataset": estimates[0]["dataset"], "track": first["track"],
                "first": first["name"], "second": second["name"],
                "tau": comparisons.agreement(one, two), "n_contestants": n})
    return rows


def stability(estimates: Sequence[Row], metrics: Sequence[Row]) -> list[Row]:
    """How ranks change when one metric, or one data set, is left out.

    The rank is of the mean over data sets of the mean over families of the mean rank in their
    metrics: each family counts alike, and so does each data set. It holds for one data set, and
    with `dataset` "" for all of several; only contestants that are ranked in all that it counts.
    change: rank_without − rank; above 0 it falls behind.
    """
    rows: list[Row] = []
    by = ("dataset", "family", "metric")
    ranking = {metric["name"] for metric in metrics if explains(metric)}
    found = [row for row in estimates if row["metric"] in ranking and np.isfinite(row["rank"])]
    datasets = list(dict.fromkeys(row["dataset"] for row in found))
    for track in dict.fromkeys(row["track"] for row in found):
        for dataset in datasets + [""] * (len(datasets) > 1):
            here = [row for row in found
                    if row["track"] == track and dataset in ("", row["dataset"])]
            keys, (names, ranks) = _keys(here, by), _table(here, "rank", by)
            if len(names) < 2:
                continue
            whole = _standing(ranks, keys)
            for kind in ("metric", "dataset"):
                at = by.index(kind)
                for left_out in dict.fromkeys(key[at] for key in keys):
                    kept = [i for i, key in enumerate(keys) if key[at] != left_out]
                    if not kept:
                        continue
                    without = _standing(ranks[:, kept], [keys[i] for i in kept])
                    rows += [
                        {"dataset": dataset, "track": track, "left_out_kind": kind,
                         "left_out": left_out, "contestant": name, "rank": before,
                         "rank_without": after, "change": after - before}
                        for name, before, after in zip(names, whole, without, strict=True)]
    return rows


def _standing(ranks: stats.Array, keys: Sequence[tuple[str, ...]]) -> stats.Array:
    """The ranks (C,) of the means of ranks (C, K) whose columns are (data set, family, metric)."""
    datasets = {dataset for dataset, _, _ in keys}
    families = Counter(dataset for dataset, _ in {key[:2] for key in keys})
    metrics = Counter(key[:2] for key in keys)
    weight = [1 / (len(datasets) * families[key[0]] * metrics[key[:2]]) for key in keys]
    return stats.ranks(ranks @ np.array(weight), "lower")


def components(panel: Panel, metrics: Sequence[Row], names: Sequence[str]) -> list[Row]:
    """What each metric varies with, over the contestants that it compares (controls are none).

    share: of the sum of all sources that are known.
    """
    at = [panel.names.index(name) for name in names]
    rows = []
    for metric in metrics:
        values = panel.value[metric["name"]][at]
        values = values[np.isfinite(values).any(axis=(1, 2))]
        if not is_compared(metric) or metric["family"] == CLASSIFIER or not len(values):
            continue
        found = comparisons.components(values)
        known = {source: v for source, v in found.items() if np.isfinite(v)}
        total = sum(known.values())
        rows += [{"dataset": panel.dataset, "metric": metric["name"], "source": source,
                  "variance": variance, "share": variance / total if total else math.nan}
                 for source, variance in known.items()]
    return rows


def neighbours(
    panel: Panel, metrics: Sequence[Row], estimates: Sequence[Row],
) -> list[Row]:
    """Each two neighbours of a ranking: by how much one is better, and what would separate them.

    gap: the paired mean difference, 0 or more where both have the same samples. needed: images in
    all, of as many seeds, for the 95 % interval of the difference to exclude 0 if the effect is as
    observed (see `comparisons.needed`); n_images: those that both have now.
    """
    rows = []
    for metric in metrics:
        if not explains(metric):
            continue
        ranked = sorted(
            (row for row in estimates
             if row["metric"] == metric["name"] and np.isfinite(row["rank"])),
            key=lambda row: row["rank"])
        value = panel.value[metric["name"]]
        for above, below in pairwise(ranked):
            gap = value[panel.names.index(above["contestant"])] - value[
                panel.names.index(below["contestant"])]
            mean = float(stats.means(gap)) * (1 if metric["better"] == "higher" else -1)
            rows.append({
                "dataset": panel.dataset, "metric": metric["name"], "above": above["contestant"],
                "below": below["contestant"], "gap": mean,
                "n_images": int(np.isfinite(gap).any(axis=0).sum()),
                "needed": comparisons.needed(gap)})
    return rows
