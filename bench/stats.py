"""Intervals and ranks from samples and seeds: a paired bootstrap, in arrays alone."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy.stats import rankdata

from bench.core import number_from

Array = np.ndarray[Any, np.dtype[np.float64]]

DRAWS = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Draws:
    """How often each seed and each image is drawn, in D resamplings.

    seeds: (D, S) counts; images: (D, N) counts. One value serves all contestants and all metrics
    of a data set, so that whatever is compared is compared on the same draws.
    resampled: the levels that vary; a single seed cannot be resampled, and then the intervals
    say nothing of what another training would give.
    """

    seeds: Array
    images: Array
    resampled: tuple[Literal["seeds", "images"], ...]


def draws(seeds: int, units: Sequence[Hashable], *parts: object, n: int = DRAWS) -> Draws:
    """`n` resamplings of the seeds and, inside them, of the images.

    `units` names for each image what is resampled whole: the image itself, or its patient.
    `parts` seed the generator, so that the same results give the same draws.

    An image that several seeds share is drawn for all of them at once. Images drawn anew inside
    every seed would let the luck of a test set average out over seeds that all saw this very test
    set, and the intervals would be too narrow (Owen, The pigeonhole bootstrap, Annals of Applied
    Statistics 1(2), 2007).

    Few seeds undercover: with 2 or 3 of them a percentile interval of a bootstrap is too narrow
    wherever training makes the difference.
    """
    generator = np.random.default_rng(number_from("bootstrap", *parts))
    names = {name: place for place, name in enumerate(dict.fromkeys(units))}
    place = np.array([names[unit] for unit in units], np.intp)
    counts = _counts(generator, n, seeds)
    images = _counts(generator, n, len(names))[:, place]
    several: tuple[Literal["seeds", "images"], ...] = ("seeds", "images")
    return Draws(counts, images, several if seeds > 1 else ("images",))


def _counts(generator: np.random.Generator, n: int, size: int) -> Array:
    return generator.multinomial(size, np.full(size, 1 / size), size=n).astype(np.float64)


def means(values: Array, drawn: Draws | None = None) -> Array:
    """The mean of each draw, (D, ...), of values (..., S, N); without draws the mean itself, (...).

    It is the mean over the seeds of each seed's mean, so that every training counts alike. NaN is
    left out; where nothing is left, the mean is NaN.
    """
    seeds = np.ones((1, values.shape[-2])) if drawn is None else drawn.seeds
    images = np.ones((1, values.shape[-1])) if drawn is None else drawn.images
    finite = np.isfinite(values)
    total = np.tensordot(images, np.where(finite, values, 0.0), axes=(1, -1))
    count = np.tensordot(images, finite.astype(np.float64), axes=(1, -1))
    inside = np.divide(total, count, out=np.zeros_like(total), where=count > 0)
    between = seeds.reshape(len(seeds), *[1] * (values.ndim - 2), -1) * (count > 0)
    weight = between.sum(-1)
    mean: Array = np.divide((between * inside).sum(-1), weight,
                            out=np.full(weight.shape, np.nan), where=weight > 0)
    return np.asarray(mean[0]) if drawn is None else mean


def interval(drawn: Array, level: float = LEVEL, *, attained: bool = False) -> tuple[Array, Array]:
    """The lower and upper end of the percentile interval of draws (D, ...), each (...).

    `attained` gives ends that were drawn, which ranks need: a rank of 1.3 is none.
    """
    tail = 100 * (1 - level) / 2
    empty = ~np.isfinite(drawn).any(axis=0)
    if empty.all():
        return np.full(empty.shape, np.nan), np.full(empty.shape, np.nan)
    # What is empty gets a 0 here and a NaN below; nanpercentile is many times slower.
    filled = np.where(empty, 0.0, drawn)
    percentile = np.percentile if np.isfinite(filled).all() else np.nanpercentile
    low, high = percentile(
        filled, [tail, 100 - tail], axis=0, method="nearest" if attained else "linear")
    return np.where(empty, np.nan, low), np.where(empty, np.nan, high)


def ranks(
    values: Array, better: Literal["higher", "lower"], same: Sequence[Hashable] | None = None,
) -> Array:
    """Ranks (..., C) from 1, the best, of values (..., C); equal values share their mean rank.

    `same` names C owners of whom each takes one place only, however often it appears (all
    contestants that explain one network have that network's accuracy). NaN has no rank.
    """
    if same is not None:
        names = list(dict.fromkeys(same))
        first = [list(same).index(name) for name in names]
        return ranks(values[..., first], better)[..., [names.index(name) for name in same]]
    if values.size == 0:
        return np.zeros(values.shape)
    scale = np.abs(values[np.isfinite(values)]).max(initial=0.0) or 1.0
    # A sum's last digits depend on its place in the matrix, and must not part what is equal.
    rounded = np.round(values / scale, 10)
    return np.asarray(rankdata(
        -rounded if better == "higher" else rounded, method="average", axis=-1,
        nan_policy="omit" if np.isnan(rounded).any() else "propagate"), np.float64)
