"""How often an interval that says 95 % holds the truth, by simulation: few seeds, few patients.

`python -m bench.coverage` simulates the table again, prints it and rewrites coverage.json.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
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

_LOG_SD, _TRUE_SHARE = 0.5, 0.8
_REPEATS, _AT_ONCE = 4000, 50


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
    if seeds < 1 or units < 2:
        return float("nan")
    by_units = [np.interp(np.log(units), np.log(UNITS), [_mean(s, u) for u in UNITS])
                for s in SEEDS]
    return float(np.interp(np.log(seeds), np.log(SEEDS), by_units))


def stored() -> dict[str, Any]:
    """coverage.json; its `cells` have seeds, units, shape, and coverage and width by method."""
    found: dict[str, Any] = json.loads(TABLE.read_text(encoding="utf-8"))
    return found


@cache
def _mean(seeds: int, units: int) -> float:
    found = [cell["coverage"][CHOSEN] for cell in stored()["cells"]
             if (cell["seeds"], cell["units"]) == (seeds, units)]
    return float(np.mean(found))


def _world(
    generator: np.random.Generator, n: int, seeds: int, units: int, images: int, shape: str,
) -> tuple[Array, Array]:
    """Means of the units' images (n, seeds, units), and the truth (n,)."""
    sizes = {"seed": (seeds, 1, 1), "unit": (1, units, 1), "seed x unit": (seeds, units, 1),
             "image": (1, units, images), "rest": (seeds, units, images)}
    effect = {level: np.sqrt(SHARES[level]) * _standard(generator, (n, *size), shape)
              for level, size in sizes.items()}
    scores = sum(effect.values(), np.zeros(1))
    by_seed = effect["seed"].mean(axis=(1, 2, 3)) if seeds == 1 else np.zeros(n)
    if shape != "0/1":
        return scores.mean(axis=3), by_seed
    cut = norm.ppf(_TRUE_SHARE)
    left = np.sqrt(1 - SHARES["seed"]) if seeds == 1 else 1.0
    return (scores < cut).mean(axis=3), norm.cdf((cut - by_seed) / left)


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
    """Simulates every cell of the table, prints it, and writes coverage.json."""
    cells = []
    say = sys.stdout.write
    say(f"{'shape':8}{'seeds':>6}{'units':>6}" + "".join(f"{m:>18}" for m in METHODS) + "\n")
    for shape in SHAPES:
        for seeds in SEEDS:
            for units in UNITS:
                found = simulate(seeds, units, shape=shape, methods=tuple(METHODS))
                say(f"{shape:8}{seeds:6}{units:6}" + "".join(
                    f"{one.share:10.3f} ({one.width:5.2f})" for one in found.values()) + "\n")
                sys.stdout.flush()
                cells.append({
                    "shape": shape, "seeds": seeds, "units": units,
                    "coverage": {m: round(one.share, 4) for m, one in found.items()},
                    "width": {m: round(one.width, 3) for m, one in found.items()}})
    head = {"level": stats.LEVEL, "chosen": CHOSEN, "images_per_unit": 5, "repeats": _REPEATS,
            "draws": stats.DRAWS, "shares": SHARES}
    rows = ",\n".join("  " + json.dumps(cell) for cell in cells)
    TABLE.write_text(json.dumps(head, indent=1)[:-2] + f',\n "cells": [\n{rows}\n ]\n}}\n',
                     encoding="utf-8")


if __name__ == "__main__":
    main()
