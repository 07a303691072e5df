"""One data set of a suite as arrays: its scores, their paired differences, and its networks."""

from __future__ import annotations

from collections.abc import Container, Hashable, Mapping, Sequence, Sized
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from bench import comparisons, stats
from bench.results import Results


@dataclass(frozen=True)
class Estimate:
    """The means (...,) of some values, the ends of their 95 % intervals, and each draw's means.

    drawn: (D, ...). The intervals are t intervals with the degrees of freedom that the seeds and
    the patients leave (see `stats.interval`).
    """

    mean: stats.Array
    low: stats.Array
    high: stats.Array
    drawn: stats.Array


@dataclass(frozen=True)
class Panel:
    """The scores of one data set.

    names: the C contestants that have scores; seeds: the S of them; keys: the N images. value:
    metric -> (C, S, N), NaN where there is none; the folds of a seed, which share no image, are
    one. scored: the same shape, whether it was scored at all. drawn: the resamplings that all of it
    shares. units: of each image, what is drawn whole: its patient or scan, or the image itself.
    groups: how many patients (or scans) the images come from; 0 where they are on their own.
    network: contestant -> the model_id of its first training, equal for all contestants that
    explain one network.
    """

    dataset: str
    names: list[str]
    seeds: list[int]
    keys: list[str]
    value: dict[str, stats.Array]
    scored: dict[str, np.ndarray[Any, np.dtype[np.bool_]]]
    drawn: stats.Draws
    units: list[Hashable]
    groups: int
    network: dict[str, str]
    # Not an argument: `replace(panel, value=...)` must not inherit what other values gave.
    _made: dict[str, Estimate] = field(init=False, repr=False, compare=False, default_factory=dict)

    @classmethod
    def of(cls, results: Results, dataset: str) -> Panel:
        """One data set's scores; those of a metric that draws are averaged a sample."""
        frame = results.scores.loc[results.scores["dataset"] == dataset,
                                   ["run", "contestant", "key", "value", "metric"]]
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
        samples = samples.drop_duplicates("key", keep="last")
        group = dict(zip(samples["key"], samples["group"], strict=True))
        # Images of one patient are no independent evidence: the patient is drawn whole.
        units: list[Hashable] = [group.get(key) or key for key in keys] or [""]
        drawn = stats.draws(shape[1], units, results.plan["suite"], dataset)
        network = {run["contestant"]: run["info"]["spec"]["model_id"]
                   for run in reversed(trained.values())}
        groups = len({group[key] for key in keys if group.get(key)})
        return cls(dataset, list(names), seeds, list(keys), values, scored, drawn, units,
                   groups, network)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, S, N) of every array; each at least 1, also where nothing was scored."""
        return _shape(self.names, self.seeds, self.keys)

    def at(self, frame: pd.DataFrame) -> tuple[np.ndarray[Any, np.dtype[np.intp]], ...]:
        """The places (contestant, seed, image) of the rows of a frame of samples or scores."""
        return tuple(pd.Index(known).get_indexer(frame[column]) for known, column in (
            (self.names, "contestant"), (self.seeds, "seed"), (self.keys, "key")))

    def curves(
        self, results: Results, points: Mapping[str, int], shorter: Container[str] = (),
    ) -> dict[str, stats.Array]:
        """Metric -> its curves (C, S, N, K), of those that have some and all of their K points.

        Those in `shorter` may end sooner, and have NaN there.
        """
        rows = ((results.scores["dataset"] == self.dataset) & results.scores["curve"].notna()
                & results.scores["metric"].isin(list(points)))
        frame = results.scores.loc[rows, ["contestant", "seed", "key", "metric", "curve"]]
        at, found = self.at(frame), frame["curve"].to_numpy(copy=True)
        for metric, here in frame.groupby("metric").indices.items():
            most = points[str(metric)]
            if metric in shorter and max(map(len, found[here])) <= most:
                for i in here:
                    found[i] = np.pad(np.asarray(found[i], float), (0, most - len(found[i])),
                                      constant_values=np.nan)
        return {
            str(metric): _placed(
                # Not stacked: that makes a view of each of a hundred thousand curves first.
                np.concatenate(found[here]).reshape(len(here), points[str(metric)]),
                tuple(place[here] for place in at), (*self.shape, points[str(metric)]))
            for metric, here in frame.groupby("metric").indices.items()
            if set(map(len, found[here])) == {points[str(metric)]}}

    def on(self, chosen: np.ndarray[Any, np.dtype[np.bool_]]) -> Panel:
        """The same scores on some of the images of each seed: chosen (S, N)."""
        return replace(
            self, value={name: np.where(chosen, v, np.nan) for name, v in self.value.items()},
            scored={name: seen & chosen for name, seen in self.scored.items()})

    def estimate(self, values: stats.Array) -> Estimate:
        """The means of values (..., S, N) of this panel's seeds and images."""
        drawn = stats.means(values, self.drawn)
        low, high = stats.interval(drawn, freedom=stats.freedom(values, self.units))
        return Estimate(stats.means(values), low, high, drawn)

    def estimated(self, metric: str) -> Estimate:
        """The means (C,) of a metric, made once."""
        if metric not in self._made:
            self._made[metric] = self.estimate(self.value[metric])
        return self._made[metric]

    def ranking(self, metric: str, at: Sequence[int]) -> stats.Array:
        """The draws (D, len(at)) by which the contestants at some places are ranked in a metric.

        They are `stats.widened` by the fewest degrees of freedom of any of them. What moves all of
        them moves no rank, so the freedom is that of their distances from their common mean.
        """
        value = self.value[metric][list(at)]
        finite = np.isfinite(value)
        n = finite.sum(axis=0)
        common = np.divide(np.where(finite, value, 0.0).sum(axis=0), n, where=n > 0,
                           out=np.full(n.shape, np.nan))
        freedom = stats.freedom(value - common, self.units)
        known = freedom[np.isfinite(freedom)]
        return stats.widened(self.estimated(metric).drawn[:, list(at)],
                             float(known.min()) if known.size else float("nan"))

    def differences(
        self, metric: dict[str, Any], pairs: list[tuple[str, str]],
    ) -> list[dict[str, Any]]:
        """First − second of each pair, on the samples that both have; none without any.

        low, high: as of an Estimate. superiority: the probability that the first is the better one
        on a sample of a seed. p: of the mean difference being 0, below 0.05 where the interval
        excludes 0.
        """
        first, second = ([self.names.index(pair[i]) for pair in pairs] for i in (0, 1))
        value = self.value[metric["name"]]
        finite = np.isfinite(value)
        scale = np.abs(value[finite]).max(initial=0.0) or 1.0

        def minus(a: stats.Array, b: stats.Array) -> stats.Array:
            # Last digits differ between maps that are the same, and must not tell them apart.
            return np.asarray(np.round((a - b) / scale, 10) * scale)

        gap = minus(value[first], value[second])
        drawn = self.estimated(metric["name"]).drawn
        drawn = minus(drawn[:, first], drawn[:, second])
        # Only where one of the two lacks samples is the mean of differences another number.
        uneven = (finite[first] != finite[second]).any(axis=(1, 2))
        drawn[:, uneven] = stats.means(gap[uneven], self.drawn)
        mean = stats.means(gap)
        freedom = stats.freedom(gap, self.units)
        low, high = stats.interval(drawn, freedom=freedom)
        p = comparisons.bootstrap_p(drawn, mean, freedom=freedom)
        return [{"dataset": self.dataset, "metric": metric["name"], "pair": pair, "mean": mean[i],
                 "low": low[i], "high": high[i], "reads": _reads(low[i], high[i], metric["better"]),
                 "superiority": comparisons.superiority(
                     value[first[i]], value[second[i]], metric["better"]), "p": p[i]}
                for i, pair in enumerate(pairs) if np.isfinite(mean[i])]


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
