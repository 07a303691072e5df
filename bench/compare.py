"""Two contestants against each other, paired: the board's own numbers, without the board."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench import checks, gates
from bench.board import PROVEN
from bench.core import HeatproofError, unknown
from bench.panel import Panel
from bench.results import Results
from bench.verdicts import CLASSIFIER, SANITY, Bars, groups, is_compared

BETTER, WORSE, UNSURE, DIFFER = "better", "worse", "not told apart", "told apart"
"""How a difference reads. Of the randomisation family, where to have more of it is no merit, it
reads "told apart" or not; where a contestant is barred, it reads the verdict that bars it."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """What `paired` found of two contestants.

    rows: one a data set and metric that both have, by track and family: dataset, track, family,
    metric, title, better (the metric's direction); first, second: each one's mean, as on the board;
    mean, low, high: first − second on the samples that both have, with its 95 % interval;
    superiority: P(first better); reads; n_images, n_seeds that both have. notes: what a reader must
    know of these numbers, a line each.
    """

    first: str
    second: str
    rows: tuple[Row, ...]
    notes: tuple[str, ...]

    def sentences(self) -> list[str]:
        """What it comes to, a line for each track and family."""
        return [self._sentence(track, family, members)
                for (track, family), members in _families(self.rows).items()]

    def _sentence(self, track: str, family: str, rows: Sequence[Row]) -> str:
        datasets, metrics = ({row[key] for row in rows} for key in ("dataset", "metric"))
        what = f"{family} {'metric' if len(rows) == 1 else 'metrics'}" if len(datasets) == 1 else (
            f"{family} comparisons ({len(metrics)} metrics on {len(datasets)} data sets)")
        count = {reads: sum(row["reads"] == reads for row in rows)
                 for reads in (BETTER, WORSE, UNSURE, DIFFER)}
        both, of = f"{self.first} and {self.second} are", f"{len(rows)} {what}"
        barred = len(rows) - sum(count.values())
        if barred == len(rows):
            return f"{track}: {both} not compared in {of} ({rows[0]['reads']})"
        if family == SANITY:
            said = [f"{both} told apart in {count[DIFFER]} of {of}, which rank nobody"]
        elif not count[BETTER] + count[WORSE]:
            said = [f"{both} not told apart in {count[UNSURE]} of {of}"]
        else:
            said = [f"{self.first} is better than {self.second} in {count[BETTER]} of {of}",
                    *([f"worse in {count[WORSE]}"] if count[WORSE] else []),
                    *([f"not told apart in {count[UNSURE]}"] if count[UNSURE] else [])]
        if barred:
            said.append(f"not compared in {barred}")
        return f"{track}: {', '.join(said)}"


def paired(results: Results, first: str, second: str, dataset: str = "") -> Answer:
    """The paired answer on one data set, or on all.

    A metric with a defect, and a gauge, compare nobody; neither do measures of a network that both
    explain. Raises HeatproofError for a name that is not there, or where nothing is shared.
    """
    planned = dict.fromkeys(run["dataset"] for run in results.plan["runs"])
    if dataset and dataset not in planned:
        raise unknown("data set", dataset, planned)
    for name in (first, second):
        if name not in results.plan["contestants"]:
            raise unknown("contestant", name, results.plan["contestants"])
    if first == second:
        raise HeatproofError(f"{first!r} is named twice; name two contestants to compare")
    rows: list[Row] = []
    notes: list[str] = []
    for place in [dataset] if dataset else planned:
        panel = Panel.of(results, place)
        lost = [name for name in (first, second) if name not in panel.names]
        if lost:
            notes.append(f"{place}: {' and '.join(lost)} {_has(lost)} no scores there.")
            continue
        notes += _incomplete(results, place, first, second)
        if panel.network[first] != panel.network[second]:
            notes.append(f"{place}: they explain different networks, so each difference is of the "
                         "model and the explanation together.")
        notes += [f"{place}: {line}" for line in checks.mixed(
            checks.makings(results, place, (first, second)))]
        rows += _rows(results, panel, first, second)
    if not rows:
        raise HeatproofError(f"{first} and {second} share no metric on any data set here; "
                             + (" ".join(notes) or "run the suite to its end"))
    return Answer(first, second, tuple(rows), tuple(notes))


def _has(names: Sequence[str]) -> str:
    return "has" if len(names) == 1 else "have"


def _rows(results: Results, panel: Panel, first: str, second: str) -> list[Row]:
    bars, pair = _bars(results, panel), [panel.names.index(name) for name in (first, second)]
    one_network = panel.network[first] == panel.network[second]
    rows = []
    order = sorted(groups(results.plan["metrics"]).items(), key=lambda item: item[0][0] != PROVEN)
    for (track, family), members in order:
        for metric in members:
            if not is_compared(metric) or (family == CLASSIFIER and one_network):
                continue
            finite = np.isfinite(panel.value[metric["name"]][pair])
            both = finite[0] & finite[1]
            mean = panel.estimated(metric["name"]).mean[pair]
            barred = next((why for name in (first, second)
                           if (why := bars.why(name, [metric]))), None)
            for found in panel.differences(metric, [(first, second)]):
                reads = barred or found["reads"]
                if family == SANITY and reads in (BETTER, WORSE):
                    reads = DIFFER
                rows.append({
                    **found, "track": track, "family": family, "title": metric["title"],
                    "better": metric["better"], "first": mean[0], "second": mean[1],
                    "reads": reads, "n_images": int(both.any(axis=0).sum()),
                    "n_seeds": int(both.any(axis=1).sum())})
    return rows


def _bars(results: Results, panel: Panel) -> Bars:
    """Who is barred from what on a data set, as on the board."""
    runs = results.runs[results.runs["dataset"] == panel.dataset]
    facts = {**results.plan["contestants"],
             **{name: info["contestant"]
                for name, info in zip(runs["contestant"], runs["info"], strict=True)}}
    return Bars.of(gates.gates(results, panel, panel.names, facts),
                   checks.certificates(results, panel.dataset, panel.names), facts)


def _incomplete(results: Results, dataset: str, *names: str) -> list[str]:
    """A line for each of the named whose planned runs are not all there."""
    found, notes = set(results.runs["run"]), []
    for name in names:
        planned = [run["id"] for run in results.plan["runs"]
                   if (run["dataset"], run["contestant"]) == (dataset, name)]
        if lost := len(planned) - len(found.intersection(planned)):
            notes.append(f"{dataset}: {lost} of {len(planned)} planned runs of {name} "
                         f"{'is' if lost == 1 else 'are'} missing, so the board does not rank it.")
    return notes


def _families(rows: Sequence[Row]) -> dict[tuple[str, str], list[Row]]:
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        found.setdefault((row["track"], row["family"]), []).append(row)
    return found
