"""Intervals and ranks from samples and seeds: a paired bootstrap, in arrays alone."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy.stats import norm, rankdata
from scipy.stats import t as student

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
    wherever training makes the difference; see `interval` for one that is not.
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
    rows = values.reshape(-1, values.shape[-1])
    finite = np.isfinite(rows)
    # Hardly two rows lack different images, and half the time would go to counting each by itself.
    masks = np.packbits(finite, axis=1)
    _, first, which = np.unique(
        masks.view(f"S{masks.shape[1]}")[:, 0], return_index=True, return_inverse=True)
    shape = (len(images), *values.shape[:-1])
    total = (images @ np.where(finite, rows, 0.0).T).reshape(shape)
    count = (images @ finite[first].T.astype(np.float64))[:, which].reshape(shape)
    inside = np.divide(total, count, out=np.zeros_like(total), where=count > 0)
    between = seeds.reshape(len(seeds), *[1] * (values.ndim - 2), -1) * (count > 0)
    weight = between.sum(-1)
    mean: Array = np.divide((between * inside).sum(-1), weight,
                            out=np.full(weight.shape, np.nan), where=weight > 0)
    return np.asarray(mean[0]) if drawn is None else mean


def freedom(values: Array, units: Sequence[Hashable]) -> Array:
    """The effective degrees of freedom, (...), of the mean of values (..., S, N).

    `units` names each image's patient, or the image itself, as in `draws`. Seeds and units are
    crossed random effects, so the mean varies by V = max(s − e, 0) + max(u − e, 0) + e, where s, u
    and e are the mean squares of the seeds' means, of the units' means and of their interaction,
    each over S times U; and V's degrees of freedom are
    V² / (s² / (S − 1) + u² / (U − 1) + e² / (S − 1)(U − 1)),
    after Satterthwaite (Biometrics Bulletin 2(6), 1946) for crossed raters and cases as in Hillis
    (Statistics in Medicine 26(3), 2007), and never fewer than the smaller of S − 1 and U − 1. Units
    of several images count by their share of each seed's mean (linearised). NaN is left out. A
    single seed says nothing of other trainings: then it is U − 1, and S − 1 for a single unit. NaN
    where there is one of both: nothing is left to tell a spread from.
    """
    order, starts = _blocks(units)
    finite = np.isfinite(values)
    total, count = np.where(finite, values, 0.0), finite.astype(np.float64)
    if len(starts) < len(order):
        total, count = (np.add.reduceat(one[..., order], starts, axis=-1)
                        for one in (total, count))
    size = count.sum(-1, keepdims=True)
    seen = size > 0
    S, U = seen.sum((-2, -1)), (count > 0).any(-2).sum(-1)
    mean = _over(total.sum(-1, keepdims=True), size)
    among = np.maximum(S, 1)[..., None, None]
    apart = np.where(seen, mean - mean.sum(-2, keepdims=True) / among, 0.0)
    # What a unit adds to the mean of a seed, beyond its share; of the units' means, U times that.
    part = _over(total - mean * count, size)
    shared = part.sum(-2, keepdims=True) / among
    rest = np.where(seen, part - shared, 0.0)
    few, many = S - 1.0, U - 1.0
    s = _over((apart**2).sum((-2, -1)), S * few)
    u = _over(U * (shared**2).sum((-2, -1)), many)
    e = _over(U * (rest**2).sum((-2, -1)), S * few * many)
    variance = np.maximum(s - e, 0) + np.maximum(u - e, 0) + e
    least = np.where(np.minimum(few, many) > 0, np.minimum(few, many), np.maximum(few, many))
    found = _over(variance**2, _over(s**2, few) + _over(u**2, many) + _over(e**2, few * many))
    return np.where(least > 0, np.maximum(found, least), np.nan)


def _blocks(units: Sequence[Hashable]) -> tuple[np.ndarray[Any, np.dtype[np.intp]], ...]:
    """An order that brings the images of a unit together, and where each unit starts in it."""
    names = {name: place for place, name in enumerate(dict.fromkeys(units))}
    place = np.array([names[unit] for unit in units], np.intp)
    order = np.argsort(place, kind="stable")
    return order, np.searchsorted(place[order], np.arange(len(names)))


def _over(a: Array, b: Array) -> Array:
    """The ratio a / b, and 0 where b is not above 0: a level that is not there varies nothing."""
    a, b = np.broadcast_arrays(a, b)
    return np.divide(a, b, out=np.zeros(b.shape), where=b > 0)


def standard_error(drawn: Array, freedom: Array | float) -> tuple[Array, Array]:
    """The mean of draws (D, ...) and its standard error, each (...).

    The error is the draws' standard deviation times √((ν + 1) / ν) at ν degrees of freedom: a
    bootstrap of n values spreads by a variance of (n − 1) / n of what it should ("narrowness bias":
    Hesterberg, The American Statistician 69(4), 2015, section 3.2).
    """
    finite = np.isfinite(drawn)
    n = finite.sum(0)
    centre = _over(np.where(finite, drawn, 0.0).sum(0), n)
    variance = _over((np.where(finite, drawn - centre, 0.0) ** 2).sum(0), n)
    degrees = np.where(np.asarray(freedom) > 0, freedom, np.nan)
    error = np.sqrt(variance * (degrees + 1) / degrees)
    return np.where(n > 0, centre, np.nan), np.where(n > 0, error, np.nan)


def widened(drawn: Array, freedom: float, level: float = LEVEL) -> Array:
    """Draws (D, C) as far from their mean as the t interval of `freedom` reaches: to be ranked.

    Percentiles of the ranks of the draws themselves undercover as those of the draws do, where
    seeds or patients are few. All C are widened by one factor, so that what is paired stays so and
    equals stay equal: Student's quantile over the normal one, times √((ν + 1) / ν) as in
    `standard_error`. Of widening each by its own, or by the median of their degrees of freedom, one
    factor of the fewest of them falls short of the level the least (bench/coverage.py has what it
    covers). A `freedom` that is not above 0 leaves the draws as they are: nothing is left to tell a
    spread from.
    """
    if not freedom > 0:
        return drawn
    tail = (1 + level) / 2
    factor = student.ppf(tail, freedom) / norm.ppf(tail) * np.sqrt((freedom + 1) / freedom)
    finite = np.isfinite(drawn)
    centre = _over(np.where(finite, drawn, 0.0).sum(0), finite.sum(0))
    return np.asarray(centre + (drawn - centre) * factor)


def interval(
    drawn: Array, level: float = LEVEL, *, attained: bool = False,
    freedom: Array | float | None = None,
) -> tuple[Array, Array]:
    """The lower and upper end of an interval from draws (D, ...), each (...).

    Without `freedom` it is the percentile interval. That undercovers where seeds or patients are
    few: 3 seeds cannot draw anything beyond those three. With `freedom`, the degrees of freedom
    (scalar, or broadcast over (...); see `freedom`), it is a t interval: the draws' mean, and
    Student's quantile times their `standard_error` to both sides. Of the percentile, BCa and
    expanded percentile (Hesterberg, 2015) intervals and a t interval of the variance components
    alone, it falls short of the level the least, from 1 seed to 10 and from 4 patients to 200
    (bench/coverage.py has the figures); with 2 seeds of many images it covers 88 %. It is wider
    than that of the components because the product of two draws weighs the interaction of seeds
    and images up to three times (Owen, 2007): where nothing but that varies, it is √3 too wide.
    It may pass the ends of a metric's range. A `freedom` of NaN gives NaN.

    `attained` gives ends that were drawn, which ranks need: a rank of 1.3 is none (for those see
    `widened`). There `freedom`
    moves the percentiles outwards (Hesterberg's expanded percentile) and not the ends.
    """
    if freedom is not None and not attained:
        centre, error = standard_error(drawn, freedom)
        reach = student.ppf((1 + level) / 2, freedom) * error
        return centre - reach, centre + reach
    tail = (1 - level) / 2
    empty = ~np.isfinite(drawn).any(axis=0)
    if freedom is not None:
        degrees = np.broadcast_to(np.where(np.asarray(freedom) > 0, freedom, np.nan), empty.shape)
        empty = empty | np.isnan(degrees)
    if empty.all():
        return np.full(empty.shape, np.nan), np.full(empty.shape, np.nan)
    # What is empty gets a 0 here and a NaN below; nanpercentile is many times slower.
    filled = np.where(empty, 0.0, drawn)
    if freedom is not None:
        reach = student.ppf(1 - tail, degrees) * np.sqrt((degrees + 1) / degrees)
        low, high = _outer(filled, np.where(empty, tail, norm.cdf(-reach)))
    else:
        percentile = np.percentile if np.isfinite(filled).all() else np.nanpercentile
        low, high = percentile(
            filled, [100 * tail, 100 * (1 - tail)], axis=0,
            method="nearest" if attained else "linear")
    return np.where(empty, np.nan, low), np.where(empty, np.nan, high)


def _outer(drawn: Array, tail: Array) -> tuple[Array, Array]:
    """The draws (D, ...) that leave `tail` (...) of them outside, below and above."""
    ordered, last = np.sort(drawn, axis=0), np.isfinite(drawn).sum(0) - 1  # NaN is sorted last
    at = np.rint(tail * last).astype(np.intp)
    low, high = (np.take_along_axis(ordered, i[None], axis=0)[0] for i in (at, last - at))
    return low, high


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
