"""One data set of a suite as arrays: its scores, their paired differences, and its networks."""

from __future__ import annotations

from collections.abc import Mapping, Sized
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from bench import stats
from bench.results import Results


@dataclass(frozen=True)
class Panel:
    """The scores of one data set.

    names: the C contestants that have scores; seeds: the S of them; keys: the N images. value:
    metric -> (C, S, N), NaN where there is none; the folds of a seed, which share no image, are
    one. scored: the same shape, whether it was scored at all. drawn: the resamplings that all of it
    shares. groups: how many patients (or scans) the images come from; 0 where they are on their
    own. network: contestant -> the model_id of its first training, equal for all contestants that
    explain one network.
    """

    dataset: str
    names: list[str]
    seeds: list[int]
    keys: list[str]
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
        shape = _shape(names, seeds, keys)
        place = np.array([seeds.index(number) for number in seed], np.intp)
        index = (contestant, place[which], image)
        value = frame["value"].to_numpy(np.float64)
        measured, metrics = pd.factorize(frame["metric"])
        code = {metric: i for i, metric in enumerate(metrics)}
        values, scored = {}, {}
        for metric in (metric["name"] for metric in results.plan["metrics"]):
            here = np.flatnonzero(measured == code.get(metric, -1))
            at, seen = tuple(i[here] for i in index), np.zeros(shape, bool)
            seen[at] = True
            values[metric], scored[metric] = _placed(value[here], at, shape), seen
        samples = results.samples[results.samples["dataset"] == dataset]
        group = dict(zip(samples["key"], samples["group"], strict=True))
        # Images of one patient are no independent evidence: the patient is drawn whole.
        units = [group.get(key) or key for key in keys] or [""]
        drawn = stats.draws(shape[1], units, results.plan["suite"], dataset)
        network = {run["contestant"]: run["info"]["spec"]["model_id"]
                   for run in reversed(trained.values())}
        groups = len({group[key] for key in keys if group.get(key)})
        return cls(dataset, list(names), seeds, list(keys), values, scored, drawn, groups, network)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, S, N) of every array; each at least 1, also where nothing was scored."""
        return _shape(self.names, self.seeds, self.keys)

    def at(self, frame: pd.DataFrame) -> tuple[np.ndarray[Any, np.dtype[np.intp]], ...]:
        """The places (contestant, seed, image) of the rows of a frame of samples or scores."""
        return tuple(pd.Index(known).get_indexer(frame[column]) for known, column in (
            (self.names, "contestant"), (self.seeds, "seed"), (self.keys, "key")))

    def curves(self, results: Results, points: Mapping[str, int]) -> dict[str, stats.Array]:
        """Metric -> its curves (C, S, N, K), of those that have some and all of their K points."""
        rows = ((results.scores["dataset"] == self.dataset) & results.scores["curve"].notna()
                & results.scores["metric"].isin(list(points)))
        frame = results.scores.loc[rows, ["contestant", "seed", "key", "metric", "curve"]]
        at, found = self.at(frame), frame["curve"].to_numpy()
        return {
            str(metric): _placed(np.stack(list(found[here])), tuple(place[here] for place in at),
                                 (*self.shape, points[str(metric)]))
            for metric, here in frame.groupby("metric").indices.items()
            if {len(curve) for curve in found[here]} == {points[str(metric)]}}

    def on(self, chosen: np.ndarray[Any, np.dtype[np.bool_]]) -> Panel:
        """The same scores on some of the images of each seed: chosen (S, N)."""
        return replace(
            self, value={name: np.where(chosen, v, np.nan) for name, v in self.value.items()},
            scored={name: seen & chosen for name, seen in self.scored.items()})

    def differences(
        self, metric: dict[str, Any], pairs: list[tuple[str, str]],
    ) -> list[dict[str, Any]]:
        """First − second of each pair, on the samples that both have; none without any."""
        first, second = ([self.names.index(pair[i]) for pair in pairs] for i in (0, 1))
        value = self.value[metric["name"]]
        scale = np.abs(value[np.isfinite(value)]).max(initial=0.0) or 1.0
        # Last digits differ between maps that are the same, and must not tell them apart.
        gap = np.round((value[first] - value[second]) / scale, 10) * scale
        low, high = stats.interval(stats.means(gap, self.drawn))
        return [{"dataset": self.dataset, "metric": metric["name"], "pair": pair, "mean": mean,
                 "low": a, "high": b, "reads": _reads(a, b, metric["better"])}
                for pair, mean, a, b in zip(pairs, stats.means(gap), low, high, strict=True)
                if np.isfinite(mean)]


def _reads(low: float, high: float, better: str) -> str:
    if low <= 0 <= high:
        return "not told apart"
    return "better" if (low > 0) == (better == "higher") else "worse"


def _shape(names: Sized, seeds: Sized, keys: Sized) -> tuple[int, int, int]:
    return max(len(names), 1), max(len(seeds), 1), max(len(keys), 1)


def _placed(
    value: stats.Array, at: tuple[np.ndarray[Any, np.dtype[np.intp]], ...], shape: tuple[int, ...],
) -> stats.Array:
    """Rows at their places in an array of `shape`, those of one place averaged; NaN elsewhere."""
    finite, total, count = np.isfinite(value), np.zeros(shape), np.zeros(shape)
    np.add.at(total, at, np.where(finite, value, 0.0))
    np.add.at(count, at, finite.astype(np.float64))
    mean: stats.Array = np.divide(total, count, out=np.full(shape, np.nan), where=count > 0)
    return mean
