"""Scores to a board: estimates with intervals, ranks, verdicts, effects, and what is missing."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from bench import checks, stats, verdicts
from bench.measure import GAUGE
from bench.panel import Panel
from bench.results import Results
from bench.verdicts import CLASSIFIER, is_compared, is_ranked

PROVEN, QUANTUS = "proven", "quantus"
"""The track that ranks by default, and the one beside it."""

_ESTIMATE = ("dataset", "contestant", "metric", "family", "track", "better", "mean", "low", "high",
             "n_images", "n_seeds", "n_nan", "rank", "rank_low", "rank_high", "complete")

COLUMNS = {
    "estimates": _ESTIMATE,
    "common": _ESTIMATE,
    "certificates": ("dataset", "contestant", "certified", "n_runs", "detail"),
    "subset": ("dataset", "seed", "n_right", "n_images"),
    "families": ("dataset", "track", "family", "contestant", "mean_rank", "rank", "rank_low",
                 "rank_high", "n_metrics"),
    "differences": ("dataset", "metric", "contestant", "control", "mean", "low", "high", "reads"),
    "verdicts": ("dataset", "track", "family", "contestant", "verdict", "against", "metric",
                 "detail"),
    "sanity": ("dataset", "metric", "contestant", "verdict", "against", "detail"),
    "tracks": ("dataset", "family", "tau", "n_contestants", "n_swaps"),
    "swaps": ("dataset", "family", "above", "below", "sure"),
    "processing": ("dataset", "metric", "contestant", "kernel", "mean", "low", "high", "flagged"),
    "gauges": ("dataset", "metric", "contestant", "grid", "mean", "low", "high", "n_images",
               "n_nan"),
    "curves": ("dataset", "metric", "contestant", "axis", "at", "mean", "low", "high", "n_images"),
    "effects": ("dataset", "metric", "effect", "minuend", "subtrahend", "mean", "low", "high",
                "reads"),
    "additivity": ("dataset", "contestant", "declared", "largest", "tolerance", "holds", "n_runs"),
    "missing": ("dataset", "contestant", "seed", "metric", "kind", "reason"),
    "nans": ("dataset", "contestant", "metric", "reason", "n"),
}
"""The columns of each frame of a Board."""

Frame: TypeAlias = pd.DataFrame
Facts: TypeAlias = dict[str, dict[str, Any]]
"""Of each contestant, by name."""


@dataclass(frozen=True)
class Board:
    """What the page prints; its frames have the columns of COLUMNS.

    estimates: a row for each contestant, metric and data set, also those without a number.
    `low` and `high` are 95 % intervals; `rank` is NaN for what is not ranked (ceilings, what is
    incomplete, means that do not exist, randomisation checks, a metric with a defect). Gauges are
    not among them.
    common: the same on the images of each seed that the networks of all ranked contestants
    classify right; subset: how many those are.
    families: the mean of the ranks in a family's metrics, ranked in turn. differences: each
    contestant minus each control, paired. verdicts: for each contestant, family and data set; of
    the randomisation family "passes", "fails: ..." or "not told apart from ...", and sanity says
    it of each check by itself. tracks, swaps: see checks.tracks.
    certificates: see checks.certificates; on planted data, metrics that ask for the mask rank
    only contestants whose networks are certified.
    processing: what blurred copies gain over the map itself; `flagged` where the interval lies
    above 0. gauges: what is measured of operators (`contestant` is the first that explains the
    network) and of truths (at the `grid` of the contestant's maps). curves: means along an axis.
    effects: "model" (X@T − X@twin: what the training of T does, seen by a post-hoc explainer X)
    and "explanation" (T − X@T: what T's own map adds on the same network). `reads` is "better",
    "worse" or "not told apart", with the metric's direction in mind.
    additivity: how the maps of all `n_runs` runs that explained add up to the output; `largest` is
    the largest deviation in any of them, NaN where none is declared or it is not finite, and
    `holds` is None where none is declared.
    missing: `kind` is "skipped", "unsupported" or "not run"; a seed or metric of None means all.
    contestants: facts by name, in the plan's order. proofs: of each metric that was checked
    (results.PROOF). batteries: the pinned protocols (results.PLAN). resampled: data set -> the
    levels of its bootstrap.
    """

    suite: str
    title: str
    protocol: str
    metrics: tuple[dict[str, Any], ...]
    proofs: dict[str, dict[str, Any]]
    batteries: tuple[dict[str, Any], ...]
    contestants: Facts
    estimates: Frame
    common: Frame
    certificates: Frame
    subset: Frame
    families: Frame
    differences: Frame
    verdicts: Frame
    sanity: Frame
    tracks: Frame
    swaps: Frame
    processing: Frame
    gauges: Frame
    curves: Frame
    effects: Frame
    additivity: Frame
    missing: Frame
    nans: Frame
    resampled: dict[str, tuple[str, ...]]
    notes: tuple[str, ...]


def rank(results: Results) -> Board:
    """The board of a suite's results: a pure function of them, to the last digit."""
    plan, missing = results.plan, _missing(results)
    frames: dict[str, list[dict[str, Any]]] = {name: [] for name in COLUMNS}
    resampled: dict[str, tuple[str, ...]] = {}
    notes = [f"Left out, because the plan no longer names it: {path.relative_to(results.folder)}."
             for path in results.stale]
    for dataset in dict.fromkeys(run["dataset"] for run in plan["runs"]):
        panel, here = Panel.of(results, dataset), _contestants(results, dataset)
        planned = _planned(results, dataset)
        gaps = missing[(missing["dataset"] == dataset) & (
            (missing["kind"] != "skipped") | missing["metric"].isna())]
        whole = [name for name in planned
                 if name in panel.names and name not in set(gaps["contestant"])]
        for name, rows in _measured(results, panel, planned, whole, here).items():
            frames[name] += rows
        resampled[dataset] = panel.drawn.resampled
        notes += _remarks(dataset, planned, whole, here, panel)
    frames["nans"] = _nans(results)
    tables = {name: Frame(rows, columns=list(COLUMNS[name])) for name, rows in frames.items()}
    return Board(
        suite=plan["suite"], title=plan["title"], protocol=str(plan["protocol"]),
        metrics=tuple(plan["metrics"]), proofs=plan.get("proofs", {}),
        batteries=tuple(plan.get("batteries", ())), contestants=_contestants(results),
        resampled=resampled, notes=tuple(notes), **{**tables, "missing": missing})


def _measured(
    results: Results, panel: Panel, planned: list[str], whole: list[str], here: Facts,
) -> dict[str, list[dict[str, Any]]]:
    """The rows of one data set, by frame."""
    skipped = {gap["metric"] for gap in results.plan["skipped"]
               if gap["dataset"] in (panel.dataset, None) and gap["contestant"] is None}
    every = [metric for metric in results.plan["metrics"] if metric["name"] not in skipped]
    metrics = [metric for metric in every if metric["family"] != GAUGE]
    compared = [metric for metric in metrics if is_compared(metric)]
    ranked = [name for name in whole if not here[name]["ceiling"]]
    controls = {name: here[name] for name in ranked if here[name]["control"]}
    contestants = [name for name in ranked if name not in controls]
    certificates = checks.certificates(results, panel.dataset, planned)
    # A control is no claim about the network, so it needs no proof of what the network uses.
    uncertified = {row["contestant"] for row in certificates if row["certified"] is False
                   and not here[row["contestant"]]["control"]}
    estimates, drawn_ranks = _estimates(panel, metrics, planned, whole, ranked, uncertified)
    families = _families(
        panel, metrics, drawn_ranks,
        {(row["metric"], row["contestant"]): row["rank"] for row in estimates}, ranked)
    right, subset = checks.right_by_all(results, panel, ranked)
    common, _ = _estimates(panel.on(right), [m for m in metrics if m["family"] != CLASSIFIER],
                           planned, whole, ranked, uncertified)
    tracks, swaps = checks.tracks(panel.dataset, families, contestants, PROVEN, QUANTUS)
    differences = verdicts.differences(panel, compared, ranked, controls, uncertified)
    judged = panel.dataset, compared, contestants, controls, differences
    return {
        "estimates": estimates, "common": common, "subset": subset, "families": families,
        "differences": differences, "verdicts": verdicts.verdicts(*judged, uncertified),
        "certificates": certificates,
        "sanity": verdicts.sanity(*judged), "tracks": tracks, "swaps": swaps,
        "processing": checks.processing(results, panel, every, whole),
        "gauges": checks.gauges(
            results, panel, [m for m in every if m["family"] == GAUGE], whole),
        "curves": checks.curves(results, panel, every, whole),
        "effects": _effects(panel, compared, ranked, here),
        "additivity": _additivity(results, panel.dataset, planned)}


def _planned(results: Results, dataset: str) -> list[str]:
    runs = [run["contestant"] for run in results.plan["runs"] if run["dataset"] == dataset]
    skipped = [gap["contestant"] for gap in results.plan["skipped"]
               if gap["dataset"] in (dataset, None) and gap["contestant"]]
    return list(dict.fromkeys([*runs, *skipped]))


def _contestants(results: Results, dataset: str | None = None) -> Facts:
    """Facts by name: those of its run (on a data set), or where it has none, those of the plan."""
    plan, runs = results.plan, results.runs
    if dataset is not None:
        runs = runs[runs["dataset"] == dataset]
    found = {row["contestant"]: row["info"]["contestant"]
             for row in runs.iloc[::-1].to_dict("records")}
    names = dict.fromkeys([*(run["contestant"] for run in plan["runs"]),
                           *(gap["contestant"] for gap in plan["skipped"] if gap["contestant"])])
    return {name: {**plan["contestants"][name], **found.get(name, {})} for name in names}


def _missing(results: Results) -> Frame:
    """What was planned and has no result, with the reason."""
    plan, rows = results.plan, []
    for gap in plan["skipped"]:
        rows.append((gap["dataset"], gap["contestant"], None, gap["metric"], "skipped",
                     gap["reason"]))
    excused = {(gap["dataset"], gap["contestant"], gap["metric"]) for gap in plan["skipped"]}
    found = dict(zip(results.runs["run"], results.runs["info"], strict=True))
    pairs = results.scores[["run", "metric"]].drop_duplicates()
    scored = set(zip(pairs["run"], pairs["metric"], strict=True))
    for run in plan["runs"]:
        place = (run["dataset"], run["contestant"], run["seed"])
        if (info := found.get(run["id"])) is None:
            rows.append((*place, None, "not run", "not run yet"))
        elif info["unsupported"]:
            rows.append((*place, None, "unsupported", info["unsupported"]))
        else:
            for metric in (metric["name"] for metric in plan["metrics"]):
                reasons = {(d, c, metric) for d in (run["dataset"], None)
                           for c in (run["contestant"], None)}
                if (run["id"], metric) not in scored and not reasons & excused:
                    rows.append((*place, metric, "not run", "not scored yet"))
    return Frame(rows, columns=list(COLUMNS["missing"]), dtype=object)


def _estimates(
    panel: Panel, metrics: list[dict[str, Any]], planned: list[str], whole: list[str],
    ranked: list[str], uncertified: Container[str],
) -> tuple[list[dict[str, Any]], dict[str, Frame]]:
    """The rows of a data set, and for each metric the ranks a draw (D rows, contestants)."""
    rows, drawn_ranks = [], {}
    for metric in metrics:
        name = metric["name"]
        values, seen = panel.value[name], panel.scored[name]
        point, drawn = stats.means(values), stats.means(values, panel.drawn)
        low, high = stats.interval(drawn)
        placed = [c for c in ranked if is_ranked(metric)
                  and not verdicts.is_barred(c, metric, uncertified)
                  and np.isfinite(point[panel.names.index(c)])]
        at = [panel.names.index(c) for c in placed]
        same = [panel.network[c] for c in placed]
        owner = same if metric["family"] == CLASSIFIER else None
        first = stats.ranks(point[at], metric["better"], owner)
        each = stats.ranks(drawn[:, at], metric["better"], owner)
        rank_low, rank_high = stats.interval(each, attained=True)
        drawn_ranks[name] = Frame(each, columns=placed)
        for contestant in planned:
            row = {"dataset": panel.dataset, "contestant": contestant, "metric": name,
                   "family": metric["family"], "track": metric["track"],
                   "better": metric["better"], "mean": np.nan, "low": np.nan, "high": np.nan,
                   "n_images": 0, "n_seeds": 0, "n_nan": 0, "rank": np.nan, "rank_low": np.nan,
                   "rank_high": np.nan, "complete": contestant in whole}
            if contestant in panel.names:
                i = panel.names.index(contestant)
                finite = np.isfinite(values[i])
                row |= {"mean": point[i], "low": low[i], "high": high[i],
                        "n_images": int(finite.any(axis=0).sum()),
                        "n_seeds": int(finite.any(axis=1).sum()),
                        "n_nan": int((seen[i] & ~finite).sum())}
            if contestant in placed:
                i = placed.index(contestant)
                row |= {"rank": first[i], "rank_low": rank_low[i], "rank_high": rank_high[i]}
            rows.append(row)
    return rows, drawn_ranks


def _families(
    panel: Panel, metrics: list[dict[str, Any]], drawn_ranks: dict[str, Frame],
    point: dict[tuple[str, str], float], ranked: list[str],
) -> list[dict[str, Any]]:
    """Only those that have a rank in all metrics of a family: an incomplete row is no mean."""
    rows = []
    for (track, family), members in verdicts.groups([m for m in metrics if is_ranked(m)]).items():
        names = [m["name"] for m in members]
        placed = [c for c in ranked if all(c in drawn_ranks[name] for name in names)]
        if not placed:
            continue
        same = [panel.network[c] for c in placed] if family == CLASSIFIER else None
        mean = np.mean([[point[name, c] for c in placed] for name in names], axis=0)
        drawn = np.mean([drawn_ranks[name][placed].to_numpy() for name in names], axis=0)
        low, high = stats.interval(stats.ranks(drawn, "lower", same), attained=True)
        order = stats.ranks(mean, "lower", same)
        for i, contestant in enumerate(placed):
            rows.append({
                "dataset": panel.dataset, "track": track, "family": family,
                "contestant": contestant, "mean_rank": mean[i], "rank": order[i],
                "rank_low": low[i], "rank_high": high[i], "n_metrics": len(names)})
    return rows


def _effects(
    panel: Panel, metrics: list[dict[str, Any]], ranked: list[str], contestants: Facts,
) -> list[dict[str, Any]]:
    """What training changed, seen by one explainer, and what a network's own map adds to it."""
    names = [name for name in ranked if not contestants[name]["control"]]
    own = [name for name in names if contestants[name]["family"] == "inherent"
           or contestants[name]["explainer"] == contestants[name]["trainer"]]
    post_hoc = [name for name in names if name not in own]
    effect: dict[tuple[str, str], str] = {}
    for name in post_hoc:
        effect |= {(name, other): "model" for other in post_hoc
                   if _is_twin(contestants[other], contestants[name])}
        effect |= {(mine, name): "explanation" for mine in own
                   if panel.network[mine] == panel.network[name]}
    return [{**row, "effect": effect[row["pair"]],
             "minuend": row["pair"][0], "subtrahend": row["pair"][1]}
            for metric in metrics if effect for row in panel.differences(metric, list(effect))
            # The explanation effect compares maps of one network, which has one accuracy.
            if effect[row["pair"]] == "model" or metric["family"] != CLASSIFIER]


def _is_twin(twin: dict[str, Any], of: dict[str, Any]) -> bool:
    """Whether it is the same explainer on the trainer that lacks what the other's adds, alone."""
    shared = twin["train"].keys() & of["train"].keys()
    return (
        twin["trainer"] == of["twin"] != of["trainer"]
        and (twin["explainer"], twin["explain"]) == (of["explainer"], of["explain"])
        and all(twin["train"][key] == of["train"][key] for key in shared))


def _additivity(results: Results, dataset: str, planned: list[str]) -> list[dict[str, Any]]:
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


def _nans(results: Results) -> list[dict[str, Any]]:
    bad = results.scores[results.scores["value"].isna()]
    counts = bad.groupby(["dataset", "contestant", "metric", "reason"], dropna=False).size()
    return [{str(key): value for key, value in row.items()}
            for row in counts.reset_index(name="n").to_dict("records")]


def _remarks(
    dataset: str, planned: list[str], whole: list[str], contestants: Facts, panel: Panel,
) -> list[str]:
    remarks = []
    if "seeds" not in panel.drawn.resampled:
        remarks.append(f"{dataset}: there is one seed, so its intervals hold for this training "
                       "alone; only images are resampled.")
    elif (n := panel.drawn.seeds.shape[1]) < 5:
        remarks.append(f"{dataset}: {n} seeds are few, and intervals from few seeds are "
                       "narrower than they should be.")
    if 0 < panel.groups < 10:
        remarks.append(f"{dataset}: the images come from {panel.groups} patients or scans, too few "
                       "to resample; the intervals are narrower than they should be.")
    lost = [name for name in planned if contestants[name]["control"] and name not in whole]
    if lost:
        remarks.append(f"{dataset}: no verdict counts the control {', '.join(lost)}, which is "
                       "incomplete.")
    return remarks
