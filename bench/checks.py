"""What is told beside the numbers: of the tracks, the images, the operators, the measures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from scipy.stats import kendalltau

from bench import stats
from bench.measure import GAUGE
from bench.panel import Panel
from bench.results import Results

PROCESSING, OOD, CEILING = "data-processing/", "ood/", "ceiling/"
"""How the names of gauges begin; what follows names the metric or the operator that is gauged."""

STAGES = "stages drawn anew"
"""The axis of randomisation curves, which end sooner where a network has fewer stages."""

Row = dict[str, Any]


def axis(metric: Mapping[str, Any]) -> tuple[str, list[float]] | None:
    """What the points of a metric's curve stand for, where its parameters say so."""
    params = metric["params"]
    if "ladder" in params:
        return "cells per side", [float(rung) for rung in params["ladder"]]
    if metric["name"].startswith(PROCESSING) or metric["track"] == "quantus":
        return None
    if "percentages" in params:
        return "% of the image removed", [float(share) for share in params["percentages"]]
    if isinstance(steps := params.get("steps"), int):
        return "% of the image removed", [100 * k / steps for k in range(steps + 1)]
    if isinstance(most := params.get("stages"), int):
        return STAGES, [float(k) for k in range(1, most + 1)]
    return None


def right_by_all(
    results: Results, panel: Panel, names: Sequence[str],
) -> tuple[np.ndarray[Any, np.dtype[np.bool_]], list[Row]]:
    """The images that the networks of all the named classify right, (S, N), and a row a seed."""
    samples = results.samples[(results.samples["dataset"] == panel.dataset)
                              & results.samples["contestant"].isin(names)]
    right, seen = np.zeros(panel.shape, bool), np.zeros(panel.shape, bool)
    at = panel.at(samples)
    known = np.logical_and.reduce([place >= 0 for place in at])
    at = tuple(place[known] for place in at)
    right[at] = (samples["prediction"] == samples["label"]).to_numpy()[known]
    seen[at] = True
    chosen = [panel.names.index(name) for name in names]
    # Over no contestant at all, "all" would hold for every image.
    common = np.asarray(right[chosen].all(axis=0) if chosen else right.any(axis=0), bool)
    return common, [
        {"dataset": panel.dataset, "seed": seed, "n_right": int(common[i].sum()),
         "n_images": int(seen[:, i].any(axis=0).sum())} for i, seed in enumerate(panel.seeds)]


def certificates(results: Results, dataset: str, planned: Sequence[str]) -> list[Row]:
    """Whether the networks of each contestant go by what was planted; a row a contestant.

    certified: whether those of all its `n_runs` runs do; None where nothing was planted.
    """
    rows = []
    runs = results.runs[results.runs["dataset"] == dataset]
    for name in planned:
        met = [info["certificate"] for info in runs[runs["contestant"] == name]["info"]
               if not info["unsupported"]]
        made = [one for one in met if one]
        rows.append({
            "dataset": dataset, "contestant": name, "n_runs": len(met),
            "certified": all(one["certified"] for one in made) if made else None,
            "detail": "; ".join(_flipped(flip, [one["flips"][flip] for one in made])
                                for flip in _region_first(made))})
    return rows


def _region_first(made: Sequence[Row]) -> list[str]:
    return sorted(made[0]["flips"], key=lambda name: (name != "region", name)) if made else []


def _flipped(name: str, found: Sequence[Row]) -> str:
    """What flipping one thing does to the answers, in the run where it does least as it should."""
    worst = (min if name == "region" else max)(found, key=lambda one: one["changed"])
    return (f"{name} flipped: {100 * worst['changed']:.0f} % of the answers change "
            f"({worst['must']})")


def gauges(
    results: Results, panel: Panel, metrics: Sequence[Row], names: Sequence[str],
) -> list[Row]:
    """The mean of every gauge; one that depends on the network alone has a row a network."""
    grids = {run["contestant"]: " × ".join(map(str, run["info"]["classifier"]["grid"]))
             for run in results.runs[results.runs["dataset"] == panel.dataset].to_dict("records")
             if not run["info"]["unsupported"]}
    first = _owners(panel, names)
    rows = []
    for metric in metrics:
        chosen = first if metric["name"].startswith(OOD) else list(names)
        at = [panel.names.index(name) for name in chosen]
        values = panel.value[metric["name"]][at]
        seen = panel.scored[metric["name"]][at]
        found, finite = panel.estimate(values), np.isfinite(values)
        rows += [
            {"dataset": panel.dataset, "metric": metric["name"], "contestant": name,
             "grid": grids.get(name, ""), "mean": found.mean[i], "low": found.low[i],
             "high": found.high[i], "n_images": int(finite[i].any(axis=0).sum()),
             "n_nan": int((seen[i] & ~finite[i]).sum())}
            for i, name in enumerate(chosen)]
    return rows


def curves(
    results: Results, panel: Panel, metrics: Sequence[Row], names: Sequence[str],
) -> list[Row]:
    """Of each metric whose curve has an axis: mean and interval at each point that has any."""
    axes = {metric["name"]: found for metric in metrics if (found := axis(metric)) is not None}
    first = _owners(panel, names)
    return [
        {"dataset": panel.dataset, "metric": metric, "contestant": name, "axis": axes[metric][0],
         "at": at, "mean": mean[k], "low": low[k], "high": high[k], "n_images": int(n[k])}
        for metric, found in _in_order(panel.curves(
            results, {metric: len(at) for metric, (_, at) in axes.items()},
            {metric for metric, (what, _) in axes.items() if what == STAGES}), axes)
        for name, mean, low, high, n in _along(
            panel, found, first if metric.startswith(OOD) else names)
        for k, at in enumerate(axes[metric][1]) if n[k]]


def processing(
    results: Results, panel: Panel, metrics: Sequence[Row], names: Sequence[str],
) -> list[Row]:
    """What each blurred copy of a map gains over the map itself, and whether that is told apart.

    No processing adds what a map knows of the network, so a measure that prefers the copy rewards
    something else (Song et al., arXiv:2304.13836). A gain above 0 speaks for the copy.
    """
    sigmas = {metric["name"]: metric["params"]["sigmas"] for metric in metrics
              if metric["family"] == GAUGE and metric["name"].startswith(PROCESSING)}
    return [
        {"dataset": panel.dataset, "metric": metric.removeprefix(PROCESSING), "contestant": name,
         "kernel": f"σ = {float(sigma):.3g}", "mean": mean[k], "low": low[k], "high": high[k],
         "flagged": bool(low[k] > 0)}
        for metric, found in _in_order(panel.curves(
            results, {metric: len(each) for metric, each in sigmas.items()}), sigmas)
        for name, mean, low, high, n in _along(panel, found, names)
        for k, sigma in enumerate(sigmas[metric]) if n[k]]


def additivity(results: Results, dataset: str, planned: Sequence[str]) -> list[Row]:
    """How the maps of each contestant's runs add up to the output; none for whom none explained."""
    rows = []
    runs = results.runs[results.runs["dataset"] == dataset]
    for name in planned:
        met = [info["additivity"] for info in runs[runs["contestant"] == name]["info"]
               if not info["unsupported"]]
        if met:
            largest = [one["largest"] for one in met]
            rows.append({
                "dataset": dataset, "contestant": name, "declared": met[0]["declared"],
                "largest": np.nan if None in largest else max(largest),
                "tolerance": met[0]["tolerance"],
                "holds": None if met[0]["holds"] is None else all(one["holds"] for one in met),
                "n_runs": len(met)})
    return rows


def makings(results: Results, dataset: str, names: Sequence[str]) -> list[Row]:
    """On what the named contestants' runs were made: a row for each device and set of versions.

    versions: those that are not the same in all rows; contestants: with their seeds where one was
    made in several ways. The way that made most runs comes first.
    """
    runs = results.runs[results.runs["dataset"] == dataset]
    ways: dict[tuple[str, tuple[tuple[str, str], ...]], dict[str, list[int]]] = {}
    for name in names:
        for run in runs[runs["contestant"] == name].to_dict("records"):
            info = run["info"]
            if not info["unsupported"]:
                way = info["device"], tuple(sorted(
                    (key, str(text)) for key, text in info["versions"].items()))
                ways.setdefault(way, {}).setdefault(name, []).append(run["seed"])
    alike = set.intersection(*(set(versions) for _, versions in ways)) if ways else set()
    several = {name for name in names if sum(name in made for made in ways.values()) > 1}
    rows: list[Row] = [{
        "dataset": dataset, "device": device,
        "versions": ", ".join(f"{key} {text}" for key, text in versions
                              if text and (key, text) not in alike),
        "contestants": ", ".join(
            f"{name} (seed {', '.join(map(str, sorted(set(seeds))))})" if name in several else name
            for name, seeds in made.items()),
        "n_runs": sum(map(len, made.values()))} for (device, versions), made in ways.items()]
    return sorted(rows, key=lambda row: -row["n_runs"])


def mixed(rows: Sequence[Row]) -> list[str]:
    """A line that tells who was made on what, if not all were made alike; see makings."""
    ways = [f"{', '.join(filter(None, (row['device'], row['versions'])))}: {row['contestants']}"
            for row in rows]
    return [] if len(rows) < 2 else [
        "runs were made on different devices or library versions, so that a small difference may "
        f"be theirs and not the contestants'. {'; '.join(ways)}."]


def nans(results: Results) -> list[Row]:
    """How many samples have no number, a row for each contestant, metric and reason."""
    bad = results.scores[results.scores["value"].isna()]
    counts = bad.groupby(
        ["dataset", "contestant", "metric", "reason"], dropna=False, observed=True).size()
    return [{str(key): value for key, value in row.items()}
            for row in counts.reset_index(name="n").to_dict("records")]


def _in_order(
    found: Mapping[str, stats.Array], order: Iterable[str],
) -> Iterator[tuple[str, stats.Array]]:
    return ((name, found[name]) for name in order if name in found)


def _along(
    panel: Panel, curves: stats.Array, names: Sequence[str],
) -> Iterator[tuple[str, stats.Array, stats.Array, stats.Array, stats.Array]]:
    """Name, mean, low, high and images at each point of the curves of some contestants."""
    # The statistics are over the last two axes, seeds and images.
    values = np.moveaxis(curves[[panel.names.index(name) for name in names]], -1, 1)
    found, n = panel.estimate(values), np.isfinite(values).any(axis=2).sum(axis=-1)
    yield from zip(names, found.mean, found.low, found.high, n, strict=True)


def _owners(panel: Panel, names: Sequence[str]) -> list[str]:
    """The first contestant of each network."""
    owners: dict[str, str] = {}
    for name in names:
        owners.setdefault(panel.network[name], name)
    return list(owners.values())


def tracks(
    dataset: str, families: Sequence[Row], names: Sequence[str], first: str, second: str,
) -> tuple[list[Row], list[Row]]:
    """Where two tracks order the contestants differently: a row a family, and a row a swapped pair.

    tau: Kendall's tau-b of the family ranks; 1 is the same order, −1 the reverse. A swap is sure
    where the 95 % intervals of the two ranks do not meet, in neither track.
    """
    placed = {(row["track"], row["family"], row["contestant"]): row for row in families}
    rows, swaps = [], []
    for family in dict.fromkeys(row["family"] for row in families):
        both = [name for name in names
                if all((track, family, name) in placed for track in (first, second))]
        if len(both) < 2:
            continue
        one, two = ({name: placed[track, family, name] for name in both}
                    for track in (first, second))
        found = [
            {"dataset": dataset, "family": family, "above": a, "below": b,
             "sure": one[a]["rank_high"] < one[b]["rank_low"]
             and two[b]["rank_high"] < two[a]["rank_low"]}
            for pair in combinations(both, 2) for a, b in (pair, pair[::-1])
            if one[a]["rank"] < one[b]["rank"] and two[a]["rank"] > two[b]["rank"]]
        swaps += sorted(found, key=lambda row: (one[row["above"]]["rank"],
                                                one[row["below"]]["rank"]))
        # It is undefined where a track gives all the same rank.
        tau = kendalltau(*([side[name]["rank"] for name in both] for side in (one, two))).statistic
        rows.append({"dataset": dataset, "family": family, "tau": tau,
                     "n_contestants": len(both), "n_swaps": len(found)})
    return rows, swaps
