"""One data set of a suite as arrays: its scores, their paired differences, and its networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from bench import stats
from bench.results import Results


@dataclass(frozen=True)
class Panel:
    """The scores of one data set.

    names: the C contestants that have scores. value: metric -> (C, S, N), of S seeds and N
    images, NaN where there is none; the folds of a seed, which share no image, are one. scored:
    the same shape, whether it was scored at all. drawn: the resamplings that all of it shares.
    groups: how many patients (or scans) the images come from; 0 where they are on their own.
    network: contestant -> the model_id of its first training, equal for all contestants that
    explain one network.
    """

    dataset: str
    names: list[str]
    value: dict[str, stats.Array]
    scored: dict[str, np.ndarray[Any, np.dtype[np.bool_]]]
    drawn: stats.Draws
    groups: int
    network: dict[str, str]

    @classmethod
    def of(cls, results: Results, dataset: str) -> Panel:
        """One data set's scores; those of a metric that draws are averaged a sample."""
        frame = results.scores[results.scores["dataset"] == dataset]
        found = results.runs[results.runs["dataset"] == dataset].sort_values(["seed", "fold"])
        trained = {run["run"]: run for run in found.to_dict("records")}
        which, runs = pd.factorize(frame["run"])
        seed = [trained[run]["seed"] for run in runs]
        seeds = sorted(set(seed))
        contestant, names = pd.factorize(frame["contestant"], sort=True)
        image, keys = pd.factorize(frame["key"], sort=True)
        shape = (max(len(names), 1), max(len(seeds), 1), max(len(keys), 1))
        place = np.array([seeds.index(number) for number in seed], np.intp)
        index = (contestant, place[which], image)
        value = frame["value"].to_numpy(np.float64)
        measured, metrics = pd.factorize(frame["metric"])
        code = {metric: i for i, metric in enumerate(metrics)}
        values, scored = {}, {}
        for metric in (metric["name"] for metric in results.plan["metrics"]):
            here = np.flatnonzero(measured == code.get(metric, -1))
            at, finite = tuple(i[here] for i in index), np.isfinite(value[here])
            total, count, seen = np.zeros(shape), np.zeros(shape), np.zeros(shape, bool)
            np.add.at(total, at, np.where(finite, value[here], 0.0))
            np.add.at(count, at, finite.astype(np.float64))
            seen[at] = True
            values[metric] = np.divide(total, count, out=np.full(shape, np.nan), where=count > 0)
            scored[metric] = seen
        samples = results.samples[results.samples["dataset"] == dataset]
        group = dict(zip(samples["key"], samples["group"], strict=True))
        # Images of one patient are no independent evidence: the patient is drawn whole.
        units = [group.get(key) or key for key in keys] or [""]
        drawn = stats.draws(shape[1], units, results.plan["suite"], dataset)
        network = {run["contestant"]: run["info"]["spec"]["model_id"]
                   for run in reversed(trained.values())}
        groups = len({group[key] for key in keys if group.get(key)})
        return cls(dataset, list(names), values, scored, drawn, groups, network)

    def differences(
        self, metric: dict[str, Any], pairs: list[tuple[str, str]],
    ) -> list[dict[str, Any]]:
        """First − second of each pair, on the samples that both have; none without any."""
        first, second = ([self.names.index(pair[i]) for pair in pairs] for i in (0, 1))
        gap = self.value[metric["name"]][first] - self.value[metric["name"]][second]
        low, high = stats.interval(stats.means(gap, self.drawn))
        return [{"dataset": self.dataset, "metric": metric["name"], "pair": pair, "mean": mean,
                 "low": a, "high": b, "reads": _reads(a, b, metric["better"])}
                for pair, mean, a, b in zip(pairs, stats.means(gap), low, high, strict=True)
                if np.isfinite(mean)]


def _reads(low: float, high: float, better: str) -> str:
    if low <= 0 <= high:
        return "not told apart"
    return "better" if (low > 0) == (better == "higher") else "worse"
