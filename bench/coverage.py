"""How often an interval that says 95 % holds the truth, by simulation: few seeds, few patients.

Of means, and of ranks. `python -m bench.coverage` simulates both tables again, prints them and
rewrites coverage.json.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import norm
from scipy.stats import t as student

from bench import stats
from bench.core import number_from
from bench.stats import Array

TABLE = Path(__file__).with_name("coverage.json")

SHARES = {"seed": 0.08, "unit": 0.20, "seed x unit": 0.10, "image": 0.20, "rest": 0.42}
"""The share of each level in the variance of a score, none of them 0.

Typical of the demo: over its metrics and methods, seeds have 8 % (digits 7 %, phantom 8 %; of
paired differences 7 % and 10 %), images 40 % (31 % and 49 %; 28 % and 39 %), and their interaction
and the rest 52 % (62 % and 43 %; 65 % and 50 %). Its images have no patients: half of the images'
share goes to patients here, and a fifth of the rest to the interaction of patients and seeds.
"""

SEEDS, UNITS = (1, 2, 3, 5, 10), (2, 4, 10, 50, 200)
SHAPES = ("normal", "skewed", "0/1")
"""Of every level's effect: normal; log-normal, so that a score has a skewness of 0.9 (half of the
demo's scores have more than 0.5, a tenth more than 1.7); a normal sum, cut to 0 or 1 so that the
mean is 0.8."""

CHOSEN = "t"
"""What `stats.interval` gives with `stats.freedom`."""

ENOUGH = 0.93
"""Below this coverage a board says that its intervals are too narrow."""

RANKED, SPREADS = (8, 20), (0.14, 0.7, 2.1)
"""How many contestants' ranks are simulated, and what lies between the means of the best and of the
last, in standard deviations of a score: all nearly tie, some are told apart, most are. (Of "0/1",
2.1 brings the best so near to 1 that few images cannot tell them apart.)"""
METRICS, COMMON = (1, 3), 0.5
"""In how many metrics they are ranked, of several by their mean rank, as in a family; and the share
of each level's variance that several metrics have in common, for they measure similar things."""

RANK_UNITS = (4, 10, 50, 200)
RANK_CHOSEN = "widened"
"""What `stats.widened` gives with the fewest degrees of freedom, as Panel.ranking does."""

_LOG_SD, _TRUE_SHARE = 0.5, 0.8
_REPEATS, _AT_ONCE = 4000, 50
_RANKS_SIMULATED, _RANKS_AT_ONCE = 1600, 400
_RANK_DRAWS = 1000


@dataclass(frozen=True)
class Covered:
    """The share of simulated intervals that hold the truth, and their median width.

    width: in standard deviations of a score.
    """

    share: float
    width: float


def simulate(
    seeds: int, units: int, images_per_unit: int = 5, *, shape: str = "normal",
    methods: Sequence[str] = (CHOSEN,), repeats: int = _REPEATS, draws: int = stats.DRAWS,
    run: int = 0,
) -> dict[str, Covered]:
    """Each method's coverage of a nominal 95 % interval of a mean, over `repeats` data sets.

    Scores are sums of crossed random effects of SHARES (seeds see the same images; images belong to
    units, such as patients). The truth is the mean over all trainings and all units; for one seed
    it is the mean of this training over all units, for a single training tells nothing of others.
    methods: of METHODS. `run` gives other random numbers. The Monte-Carlo error of a share p is
    √(p (1 − p) / repeats).
    """
    generator = np.random.default_rng(
        number_from("coverage", seeds, units, images_per_unit, shape, run))
    held: dict[str, list[np.ndarray[Any, Any]]] = {method: [] for method in methods}
    width: dict[str, list[Array]] = {method: [] for method in methods}
    for start in range(0, repeats, _AT_ONCE):
        size = min(_AT_ONCE, repeats - start)
        values, truth = _world(generator, size, seeds, units, images_per_unit, shape)
        resampled = stats.draws(seeds, range(units), "coverage", run, start, n=draws)
        # Units of equal size: the mean of their means is the mean of the images.
        drawn = stats.means(values, resampled)
        for method in methods:
            low, high = METHODS[method](values, drawn)
            held[method].append((low <= truth + 1e-12) & (truth - 1e-12 <= high))
            width[method].append(high - low)
    return {method: Covered(float(np.concatenate(held[method]).mean()),
                            float(np.median(np.concatenate(width[method])))) for method in methods}


def expected(seeds: int, units: int) -> float:
    """The simulated coverage of the chosen 95 % interval, the mean over SHAPES.

    Between the simulated numbers of seeds and units it is interpolated over their logarithms;
    above the largest it is that of the largest. For one seed it is the coverage of the mean of this
    training. NaN for fewer than two units: what units vary by cannot be told from one.
    """
    return _between(seeds, units, UNITS, _mean)


def simulate_ranks(
    seeds: int, units: int, images_per_unit: int = 5, *, contestants: int = RANKED[0],
    metrics: int = 1, shape: str = "normal", spread: float = SPREADS[0],
    repeats: int = 0, draws: int = _RANK_DRAWS, run: int = 0,
) -> dict[str, Covered]:
    """The same of ranks: of RANK_METHODS, the share and the mean width in ranks.

    Contestants have scores as in `simulate`, each its own, and means in equal steps from 0 to
    `spread` (of "0/1", before they are cut), the same in each metric. What contestants share moves
    no rank, so there is none of it. The truth is the rank by the means that are true there; for one
    seed, by those of this training. share: over all contestants of `repeats` data sets, by default
    as many as give 1,600 ranks.
    """
    generator = np.random.default_rng(number_from(
        "coverage of ranks", seeds, units, images_per_unit, contestants, metrics, shape, spread,
        run))
    held: dict[str, list[np.ndarray[Any, Any]]] = {method: [] for method in RANK_METHODS}
    width: dict[str, list[Array]] = {method: [] for method in RANK_METHODS}
    steps = np.linspace(0, spread, contestants)
    repeats = repeats or _RANKS_SIMULATED // contestants
    most = max(1, _RANKS_AT_ONCE // (contestants * metrics))
    for start in range(0, repeats, most):
        shape_of = metrics, min(most, repeats - start), contestants
        scores, means = _world(
            generator, math.prod(shape_of), seeds, units, images_per_unit, shape,
            np.broadcast_to(steps, shape_of).ravel(), metrics)
        values = scores.reshape(*shape_of, seeds, units)
        truth = _placed(means.reshape(shape_of))
        resampled = stats.draws(seeds, range(units), "coverage", run, start, n=draws)
        drawn = np.moveaxis(stats.means(values, resampled), 1, 0)
        for method, draw in RANK_METHODS.items():
            wide = np.stack([draw(*one) for one in zip(values, drawn, strict=True)])
            low, high = stats.interval(_placed(wide), attained=True)
            held[method].append((low <= truth) & (truth <= high))
            width[method].append(high - low)
    return {method: Covered(float(np.concatenate(held[method]).mean()),
                            float(np.concatenate(width[method]).mean()))
            for method in RANK_METHODS}


def _placed(values: Array) -> Array:
    """Ranks (..., C) by the mean over metrics of the ranks in each, of values (metrics, ..., C)."""
    return _ranks(-_ranks(values).mean(axis=0))


def _ranks(values: Array) -> Array:
    """Ranks from 1, the largest, over the last axis; ties share. For a few, faster than sorting."""
    above: Array = np.full(values.shape, 0.5)
    for i in range(values.shape[-1]):
        other = values[..., i:i + 1]
        above += (other > values + 1e-12) + 0.5 * (np.abs(other - values) <= 1e-12)
    return above


def _widened(values: Array, drawn: Array) -> Array:
    """Draws (D, n, C) of values (n, C, S, U), those of each n widened as Panel.ranking does."""
    apart = values - values.mean(axis=1, keepdims=True)
    fewest = stats.freedom(apart, range(values.shape[-1])).min(axis=-1)
    return np.stack([stats.widened(drawn[:, i], degrees) for i, degrees in enumerate(fewest)],
                    axis=1)


RANK_METHODS: dict[str, Callable[[Array, Array], Array]] = {
    "percentile": lambda _, drawn: drawn, RANK_CHOSEN: _widened}
"""What was compared: the draws whose ranks' percentiles are the interval."""


def expected_of_ranks(
    seeds: int, units: int, contestants: int = RANKED[0], metrics: int = 1,
) -> float:
    """As `expected`, of ranks, for the one of SPREADS that is covered least; 2 or 3 units are as 4.

    That is mostly the smallest: who nearly tie are ordered by chance. With few units of one or two
    seeds it is the largest, because of "0/1": there several are right in all images, and tie.
    Between the simulated numbers of contestants it is interpolated too; several metrics are as the
    simulated several.
    """
    several = METRICS[metrics > 1]
    found = [_between(seeds, units, RANK_UNITS, partial(_mean_of_ranks, many, several))
             for many in RANKED]
    return float(np.interp(np.log(max(contestants, 1)), np.log(RANKED), found))


def _between(
    seeds: int, units: int, known: Sequence[int], mean: Callable[[int, int], float],
) -> float:
    if seeds < 1 or units < 2:
        return float("nan")
    by_units = [np.interp(np.log(units), np.log(known), [mean(s, u) for u in known])
                for s in SEEDS]
    return float(np.interp(np.log(seeds), np.log(SEEDS), by_units))


@cache
def _mean_of_ranks(contestants: int, metrics: int, seeds: int, units: int) -> float:
    here = {"contestants": contestants, "metrics": metrics, "seeds": seeds, "units": units}.items()
    found: dict[float, list[float]] = {}
    for cell in stored()["ranks"]["cells"]:
        if here <= cell.items():
            found.setdefault(cell["spread"], []).append(cell["coverage"][RANK_CHOSEN])
    return float(min(map(np.mean, found.values())))


def stored() -> dict[str, Any]:
    """coverage.json; its `cells` have seeds, units, shape, and coverage and width by method.

    So have the `cells` of its `ranks`, with contestants, metrics and a spread each.
    """
    found: dict[str, Any] = json.loads(TABLE.read_text(encoding="utf-8"))
    return found


@cache
def _mean(seeds: int, units: int) -> float:
    found = [cell["coverage"][CHOSEN] for cell in stored()["cells"]
             if (cell["seeds"], cell["units"]) == (seeds, units)]
    return float(np.mean(found))


def _world(
    generator: np.random.Generator, n: int, seeds: int, units: int, images: int, shape: str,
    shift: Array | float = 0.0, metrics: int = 1,
) -> tuple[Array, Array]:
    """Means of the units' images (n, seeds, units), and the truth (n,).

    shift: (n,), added to every score, or to where a "0/1" is cut. metrics: that many follow one
    another in n, each of n / metrics, and have COMMON in common.
    """
    sizes = {"seed": (seeds, 1, 1), "unit": (1, units, 1), "seed x unit": (seeds, units, 1),
             "image": (1, units, images), "rest": (seeds, units, images)}
    effect = {level: np.sqrt(SHARES[level]) * _standard(generator, (n, *size), shape)
              for level, size in sizes.items()}
    if metrics > 1:
        effect = {level: np.sqrt(1 - COMMON) * own + np.sqrt(COMMON * SHARES[level]) * np.tile(
                      _standard(generator, (n // metrics, *sizes[level]), shape),
                      (metrics, 1, 1, 1)) for level, own in effect.items()}
    scores = sum(effect.values(), np.zeros(1))
    by_seed = effect["seed"].mean(axis=(1, 2, 3)) if seeds == 1 else np.zeros(n)
    shift = np.broadcast_to(shift, (n,))
    if shape != "0/1":
        return scores.mean(axis=3) + shift[:, None, None], by_seed + shift
    cut = norm.ppf(_TRUE_SHARE) + shift
    left = np.sqrt(1 - SHARES["seed"]) if seeds == 1 else 1.0
    return (scores < cut[:, None, None, None]).mean(axis=3), norm.cdf((cut - by_seed) / left)


def _standard(generator: np.random.Generator, size: tuple[int, ...], shape: str) -> Array:
    """Effects with a mean of 0 and a variance of 1."""
    effect = generator.standard_normal(size)
    if shape != "skewed":
        return effect
    mean = float(np.exp(_LOG_SD**2 / 2))
    return (np.exp(_LOG_SD * effect) - mean) / (mean * float(np.sqrt(np.expm1(_LOG_SD**2))))


Ends = tuple[Array, Array]


def _percentile(_: Array, drawn: Array) -> Ends:
    return stats.interval(drawn)


def _chosen(values: Array, drawn: Array) -> Ends:
    return stats.interval(drawn, freedom=stats.freedom(values, range(values.shape[-1])))


def _expanded(values: Array, drawn: Array) -> Ends:
    """Hesterberg's expanded percentile interval."""
    return stats.interval(
        drawn, freedom=stats.freedom(values, range(values.shape[-1])), attained=True)


def _components(values: Array, _: Array) -> Ends:
    """A t interval whose standard error is that of the crossed variance components alone."""
    centre, (S, U) = values.mean(axis=(1, 2)), values.shape[1:]
    among = values.mean(axis=2) - centre[:, None]
    apart = values.mean(axis=1) - centre[:, None]
    both = values - centre[:, None, None] - among[:, :, None] - apart[:, None]
    e = (both**2).sum(axis=(1, 2)) / max((S - 1) * (U - 1), 1)
    s = U * (among**2).sum(axis=1) / max(S - 1, 1)
    u = S * (apart**2).sum(axis=1) / (U - 1)
    variance = (np.maximum(s - e, 0) + np.maximum(u - e, 0) + e) / (S * U)
    half = (1 + stats.LEVEL) / 2
    reach = student.ppf(half, stats.freedom(values, range(U))) * np.sqrt(variance)
    return centre - reach, centre + reach


def _bca(values: Array, drawn: Array) -> Ends:
    """Efron's bias-corrected and accelerated interval; acceleration over seeds and units together.

    Davison & Hinkley, Bootstrap Methods and their Application, 1997, section 5.3.2.
    """
    centre, (n, S, U) = values.mean(axis=(1, 2)), values.shape
    influence = np.concatenate([(values.mean(axis=2) - centre[:, None]) / S,
                                (values.mean(axis=1) - centre[:, None]) / U], axis=1)
    cubes, squares = (influence**3).sum(axis=1), (influence**2).sum(axis=1)
    curve = np.divide(cubes, 6 * squares**1.5, out=np.zeros(n), where=squares > 1e-12)
    below = ((drawn < centre - 1e-12).mean(axis=0) + (drawn <= centre + 1e-12).mean(axis=0)) / 2
    bias = norm.ppf(np.clip(below, 1 / len(drawn), 1 - 1 / len(drawn)))
    ordered = np.sort(drawn, axis=0)
    ends = []
    for z in norm.ppf([(1 - stats.LEVEL) / 2, (1 + stats.LEVEL) / 2]):
        at = norm.cdf(bias + (bias + z) / (1 - curve * (bias + z)))
        ends.append(ordered[np.rint(at * (len(drawn) - 1)).astype(np.intp), np.arange(n)])
    return ends[0], ends[1]


METHODS: dict[str, Callable[[Array, Array], Ends]] = {
    "percentile": _percentile, "bca": _bca, "expanded": _expanded, "components": _components,
    CHOSEN: _chosen}
"""What was compared. All take values (n, S, U) and draws (D, n) of their means."""


def main() -> None:
    """Simulates every cell of both tables, prints them, and writes coverage.json."""
    heading("shape", "seeds", "units", *METHODS)
    cells = [cell({"shape": shape, "seeds": seeds, "units": units}, simulate(
                 seeds, units, shape=shape, methods=tuple(METHODS)))
             for shape in SHAPES for seeds in SEEDS for units in UNITS]
    write(cells, ranks())


def ranks() -> list[dict[str, Any]]:
    """Simulates every cell of the table of ranks, and prints it."""
    axes: dict[str, Sequence[Any]] = {
        "contestants": RANKED, "metrics": METRICS, "shape": SHAPES, "seeds": SEEDS,
        "units": RANK_UNITS, "spread": SPREADS}
    heading(*axes, *RANK_METHODS)
    every = [dict(zip(axes, one, strict=True)) for one in product(*axes.values())]
    return [cell(where, simulate_ranks(**where)) for where in every]


def heading(*names: str) -> None:
    """Prints the head of a table."""
    sys.stdout.write("".join(f"{name:>18}" if name in {**METHODS, **RANK_METHODS} else f"{name:>12}"
                             for name in names) + "\n")


def cell(where: dict[str, Any], found: dict[str, Covered]) -> dict[str, Any]:
    """One cell of a table, printed too."""
    sys.stdout.write("".join(f"{value:>12}" for value in where.values()) + "".join(
        f"{one.share:10.3f} ({one.width:5.2f})" for one in found.values()) + "\n")
    sys.stdout.flush()
    return {**where, "coverage": {m: round(one.share, 4) for m, one in found.items()},
            "width": {m: round(one.width, 3) for m, one in found.items()}}


def write(cells: Sequence[dict[str, Any]], ranks: Sequence[dict[str, Any]]) -> None:
    """Writes coverage.json: a line a cell."""
    head = {"level": stats.LEVEL, "chosen": CHOSEN, "images_per_unit": 5, "repeats": _REPEATS,
            "draws": stats.DRAWS, "shares": SHARES}
    of_ranks = {"chosen": RANK_CHOSEN, "common": COMMON, "ranks": _RANKS_SIMULATED,
                "draws": _RANK_DRAWS}
    rows, more = (",\n".join("  " + json.dumps(one) for one in table) for table in (cells, ranks))
    TABLE.write_text(
        json.dumps(head, indent=1)[:-2] + f',\n "cells": [\n{rows}\n ],\n "ranks": '
        + json.dumps(of_ranks)[:-1] + f', "cells": [\n{more}\n ]}}\n}}\n', encoding="utf-8")


if __name__ == "__main__":
    main()
