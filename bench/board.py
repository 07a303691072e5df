"""Scores to a board: estimates with intervals, ranks, verdicts, effects, and what is missing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from bench import checks, comparisons, coverage, gates, standings, stats, verdicts
from bench.measure import GAUGE, ends
from bench.panel import Panel
from bench.results import Results
from bench.verdicts import CLASSIFIER, CONTROL, Bars, is_compared, is_ranked

PROVEN, QUANTUS = "proven", "quantus"
"""The track that ranks by default, and the one beside it."""

_ESTIMATE = ("dataset", "contestant", "metric", "family", "track", "better", "mean", "low", "high",
             "n_images", "n_seeds", "n_nan", "rank", "rank_low", "rank_high", "complete", "scaled",
             "p_first")

COLUMNS = {
    "estimates": _ESTIMATE,
    "common": _ESTIMATE,
    "certificates": ("dataset", "contestant", "certified", "n_runs", "detail"),
    "gates": ("dataset", "contestant", "accuracy", "ece", "twin", "accuracy_gap", "gap_low",
              "gap_high", "ece_gap", "passes", "detail"),
    "subset": ("dataset", "seed", "n_right", "n_images"),
    "families": ("dataset", "track", "family", "contestant", "mean_rank", "rank", "rank_low",
                 "rank_high", "n_metrics"),
    "differences": ("dataset", "metric", "contestant", "control", "mean", "low", "high", "reads",
                    "superiority", "p", "p_holm", "kind"),
    "verdicts": ("dataset", "track", "family", "contestant", "verdict", "against", "metric",
                 "detail"),
    "sanity": ("dataset", "metric", "contestant", "verdict", "against", "detail"),
    "tracks": ("dataset", "family", "tau", "n_contestants", "n_swaps"),
    "swaps": ("dataset", "family", "above", "below", "sure"),
    "omnibus": ("track", "metric", "n_blocks", "statistic", "p", "powered", "method"),
    "placings": ("track", "metric", "contestant", "mean_rank"),
    "cliques": ("track", "metric", "clique", "contestant"),
    "agreement": ("dataset", "track", "first", "second", "tau", "n_contestants"),
    "stability": ("dataset", "track", "left_out_kind", "left_out", "contestant", "rank",
                  "rank_without", "change"),
    "components": ("dataset", "metric", "source", "variance", "share"),
    "neighbours": ("dataset", "metric", "above", "below", "gap", "n_images", "needed"),
    "coverage": ("dataset", "n_seeds", "n_units", "coverage", "enough"),
    "processing": ("dataset", "metric", "contestant", "kernel", "mean", "low", "high", "flagged"),
    "gauges": ("dataset", "metric", "contestant", "grid", "mean", "low", "high", "n_images",
               "n_nan"),
    "curves": ("dataset", "metric", "contestant", "axis", "at", "mean", "low", "high", "n_images"),
    "effects": ("dataset", "metric", "effect", "minuend", "subtrahend", "mean", "low", "high",
                "reads"),
    "additivity": ("dataset", "contestant", "declared", "largest", "tolerance", "holds", "n_runs"),
    "makings": ("dataset", "device", "versions", "contestants", "n_runs"),
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
    `low` and `high` are 95 % intervals, cut off where the metric's range ends; `rank_low` and
    `rank_high` those of the ranks, from draws widened where seeds or units are few (see
    Panel.ranking); `rank` is NaN for what is not ranked (ceilings, what is incomplete or barred,
    means that do not exist, randomisation checks, a metric with a defect).
    `scaled`: see standings.scaled; NaN where nothing is ranked, and of a classifier. `p_first`: the
    share of these draws in which it ranks first, ties shared. Gauges are not among them.
    common: the same on the images of each seed that the networks of all ranked contestants
    classify right; subset: how many those are.
    families: the mean of the ranks in a family's metrics, ranked in turn. differences: each
    contestant minus each control (`kind` "control"), and minus the reference, Grad-CAM on the same
    network (`kind` "reference", `control` is its name); see Panel.differences and
    verdicts.differences. verdicts: for each contestant, family and data set; of
    the randomisation family "passes", "fails: ..." or "not told apart from ...", and sanity says
    it of each check by itself. tracks, swaps: see checks.tracks.
    certificates: see checks.certificates; on planted data, metrics that ask for the mask rank
    only contestants whose networks are certified. gates: see gates.gates; no family of explanation
    ranks a contestant that does not pass.
    omnibus, placings, cliques: see standings.across; agreement, stability, components,
    neighbours: see the functions of standings of these names.
    coverage: how often a 95 % interval from as many seeds and units (patients or scans, or images)
    holds the truth in simulation; `enough` says whether often enough (see bench.coverage).
    processing: what blurred copies gain over the map itself; `flagged` where the interval lies
    above 0. gauges: what is measured of operators (`contestant` is the first that explains the
    network) and of truths (at the `grid` of the contestant's maps). curves: means along an axis.
    effects: "model" (X@T − X@twin: what the training of T does, seen by a post-hoc explainer X)
    and "explanation" (T − X@T: what T's own map adds on the same network). `reads` is "better",
    "worse" or "not told apart", with the metric's direction in mind.
    additivity: how the maps of all `n_runs` runs that explained add up to the output; `largest` is
    the largest deviation in any of them, NaN where none is declared or it is not finite, and
    `holds` is None where none is declared. makings: see checks.makings.
    missing: `kind` is "skipped", "unsupported" or "not run"; a seed or metric of None means all.
    contestants: facts by name, in the plan's order. proofs: of each metric that was checked
    (results.PROOF). batteries: the pinned protocols (results.PLAN). resampled: data set -> the
    levels of its bootstrap. panels: data set -> what all of it was made of; it is not published.
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
    gates: Frame
    subset: Frame
    families: Frame
    differences: Frame
    verdicts: Frame
    sanity: Frame
    tracks: Frame
    swaps: Frame
    omnibus: Frame
    placings: Frame
    cliques: Frame
    agreement: Frame
    stability: Frame
    components: Frame
    neighbours: Frame
    coverage: Frame
    processing: Frame
    gauges: Frame
    curves: Frame
    effects: Frame
    additivity: Frame
    makings: Frame
    missing: Frame
    nans: Frame
    resampled: dict[str, tuple[str, ...]]
    notes: tuple[str, ...]
    panels: dict[str, Panel] = field(default_factory=dict, repr=False, compare=False)


def rank(results: Results) -> Board:
    """The board of a suite's results: a pure function of them, to the last digit."""
    plan, missing = results.plan, _missing(results)
    frames: dict[str, list[dict[str, Any]]] = {name: [] for name in COLUMNS}
    resampled: dict[str, tuple[str, ...]] = {}
    panels: dict[str, Panel] = {}
    notes = [f"Left out, because the plan no longer names it: {path.relative_to(results.folder)}."
             for path in results.stale]
    for dataset in dict.fromkeys(run["dataset"] for run in plan["runs"]):
        panel, here = Panel.of(results, dataset), _contestants(results, dataset)
        planned = _planned(results, dataset)
        gaps = missing[(missing["dataset"] == dataset) & (
            (missing["kind"] != "skipped") | missing["metric"].isna())]
        whole = [name for name in planned
                 if name in panel.names and name not in set(gaps["contestant"])]
        measured = _measured(results, panel, planned, whole, here)
        for name, rows in measured.items():
            frames[name] += rows
        resampled[dataset], panels[dataset] = panel.drawn.resampled, panel
        notes += _remarks(planned, whole, here, panel, measured)
    frames["nans"] = checks.nans(results)
    for name, rows in zip(("omnibus", "placings", "cliques"), standings.across(
            frames["estimates"], plan["metrics"]), strict=True):
        frames[name] = rows
    frames["stability"] = standings.stability(frames["estimates"], plan["metrics"])
    notes += _underpowered(frames["omnibus"])
    tables = {name: Frame(rows, columns=list(COLUMNS[name])) for name, rows in frames.items()}
    return Board(
        suite=plan["suite"], title=plan["title"], protocol=str(plan["protocol"]),
        metrics=tuple(plan["metrics"]), proofs=plan.get("proofs", {}),
        batteries=tuple(plan.get("batteries", ())), contestants=_contestants(results),
        resampled=resampled, notes=tuple(notes), panels=panels, **{**tables, "missing": missing})


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
    gated = gates.gates(results, panel, [name for name in planned if name in panel.names], here)
    bars = Bars.of(gated, certificates, here)
    estimates, drawn_ranks = _estimates(panel, metrics, planned, whole, here, bars)
    families = _families(
        panel, metrics, drawn_ranks,
        {(row["metric"], row["contestant"]): row["rank"] for row in estimates}, ranked)
    right, subset = checks.right_by_all(
        results, panel, [name for name in ranked if name not in bars.gated])
    common, _ = _estimates(panel.on(right), [m for m in metrics if m["family"] != CLASSIFIER],
                           planned, whole, here, bars)
    tracks, swaps = checks.tracks(panel.dataset, families, contestants, PROVEN, QUANTUS)
    differences = verdicts.differences(panel, compared, ranked, controls, here, bars)
    judged = (panel.dataset, compared, contestants, controls,
              [row for row in differences if row["kind"] == CONTROL], bars)
    return {
        "estimates": estimates, "common": common, "subset": subset, "families": families,
        "differences": differences, "verdicts": verdicts.verdicts(*judged),
        "certificates": certificates, "gates": gated,
        "sanity": verdicts.sanity(*judged), "tracks": tracks, "swaps": swaps,
        "agreement": standings.agreement(estimates, metrics),
        "components": standings.components(panel, metrics, contestants),
        "neighbours": standings.neighbours(panel, metrics, estimates),
        "coverage": [_coverage(panel)],
        "processing": checks.processing(results, panel, every, whole),
        "gauges": checks.gauges(
            results, panel, [m for m in every if m["family"] == GAUGE], whole),
        "curves": checks.curves(results, panel, every, whole),
        "effects": verdicts.effects(panel, compared, ranked, here),
        "additivity": checks.additivity(results, panel.dataset, planned),
        "makings": checks.makings(results, panel.dataset, planned)}


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
    contestants: Facts, bars: Bars,
) -> tuple[list[dict[str, Any]], dict[str, Frame]]:
    """The rows of a data set, and for each metric the ranks a draw (D rows, contestants)."""
    rows, drawn_ranks = [], {}
    place = {name: i for i, name in enumerate(panel.names)}
    ceilings = [name for name in whole if contestants[name]["ceiling"]]
    for metric in metrics:
        name = metric["name"]
        values, seen, found = panel.value[name], panel.scored[name], panel.estimated(name)
        least, most = ends(metric["range"])
        placed = [c for c in whole if is_ranked(metric) and c not in ceilings
                  and not bars.why(c, [metric]) and np.isfinite(found.mean[place[c]])]
        at = [place[c] for c in placed]
        network = [panel.network[c] for c in placed]
        same = network if metric["family"] == CLASSIFIER else None
        each = stats.ranks(panel.ranking(name, at), metric["better"], same)
        rank_low, rank_high = stats.interval(each, attained=True)
        ranked = dict(zip(placed, zip(
            stats.ranks(found.mean[at], metric["better"], same), rank_low, rank_high,
            _first(each, same), strict=True), strict=True))
        drawn_ranks[name] = Frame(each, columns=placed)
        scaled = standings.scaled(
            found.mean, [place[c] for c in placed if contestants[c]["control"]],
            [place[c] for c in ceilings], at, metric["better"]) if standings.explains(
                metric) else np.full(len(found.mean), np.nan)
        for contestant in planned:
            row = {"dataset": panel.dataset, "contestant": contestant, "metric": name,
                   "family": metric["family"], "track": metric["track"],
                   "better": metric["better"], "mean": np.nan, "low": np.nan, "high": np.nan,
                   "n_images": 0, "n_seeds": 0, "n_nan": 0, "complete": contestant in whole,
                   "scaled": np.nan, **dict(zip(
                       ("rank", "rank_low", "rank_high", "p_first"),
                       ranked.get(contestant, (np.nan,) * 4), strict=True))}
            if contestant in place:
                i = place[contestant]
                finite = np.isfinite(values[i])
                row |= {"mean": found.mean[i], "low": max(found.low[i], least),
                        "high": min(found.high[i], most),
                        "scaled": scaled[i], "n_images": int(finite.any(axis=0).sum()),
                        "n_seeds": int(finite.any(axis=1).sum()),
                        "n_nan": int((seen[i] & ~finite).sum())}
            rows.append(row)
    return rows, drawn_ranks


def _first(ranks: stats.Array, same: list[str] | None) -> stats.Array:
    """The share of draws (D, C) in which each is first; those of one owner are one."""
    if same is None:
        return comparisons.first_shares(ranks)
    owners = list(dict.fromkeys(same))
    shares = comparisons.first_shares(ranks[:, [same.index(owner) for owner in owners]])
    return shares[[owners.index(owner) for owner in same]]


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


def _coverage(panel: Panel) -> dict[str, Any]:
    seeds, units = panel.drawn.seeds.shape[1], len(set(panel.units))
    found = coverage.expected(seeds, units)
    return {"dataset": panel.dataset, "n_seeds": seeds, "n_units": units, "coverage": found,
            "enough": found >= coverage.ENOUGH}


def _remarks(
    planned: list[str], whole: list[str], contestants: Facts, panel: Panel,
    measured: dict[str, list[dict[str, Any]]],
) -> list[str]:
    remarks = []
    (covered,) = measured["coverage"]
    if "seeds" not in panel.drawn.resampled:
        remarks.append("there is one seed, so its intervals hold for this training alone; only "
                       "images are resampled.")
    if not covered["enough"]:
        units = f"{covered['n_units']} {'patients or scans' if panel.groups else 'images'}"
        remarks.append(
            f"{covered['n_seeds']} seeds and {units} are few: in simulation, what says 95 % covers "
            f"{100 * covered['coverage']:.0f} %.")
    ranked = len({row["contestant"] for row in measured["families"]})
    of_ranks = [(of, coverage.expected_of_ranks(
                    covered["n_seeds"], covered["n_units"], ranked, metrics))
                for of, metrics in (("rank", 1), ("family's rank", 3))]
    if min(share for _, share in of_ranks) < coverage.ENOUGH:
        remarks.append("in simulation, what says 95 % covers as little as " + " and ".join(
            f"{100 * share:.0f} % of a {of}" for of, share in of_ranks) + ".")
    remarks += checks.mixed(measured["makings"])
    remarks += [f"{row['contestant']} is shown and not ranked: {row['detail']}."
                for row in measured["gates"] if not row["passes"]]
    unproven = [row["contestant"] for row in measured["certificates"]
                if row["certified"] is False and row["contestant"] in whole
                and not contestants[row["contestant"]]["control"]
                and not contestants[row["contestant"]]["ceiling"]]
    if unproven:
        remarks.append(f"no metric that asks for the mask ranks {', '.join(unproven)}: the "
                       "networks do not go by what was planted.")
    lost = [name for name in planned if contestants[name]["control"] and name not in whole]
    if lost:
        remarks.append(f"no verdict counts the control {', '.join(lost)}, which is incomplete.")
    return [f"{panel.dataset}: {remark}" for remark in remarks]


def _underpowered(omnibus: list[dict[str, Any]]) -> list[str]:
    """One line for all metrics that have too few data sets to be compared across them."""
    blocks = sorted({row["n_blocks"] for row in omnibus if not row["powered"]})
    several = " to ".join(str(n) for n in dict.fromkeys((blocks[0], blocks[-1]))) if blocks else ""
    return [f"Underpowered across data sets: {several} of at least {comparisons.POWERED} blocks "
            "(data sets with their backbones), so nothing is grouped over them."] if blocks else []
