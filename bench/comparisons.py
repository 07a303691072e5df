"""Contestants against each other: tests, groups, shares and what they need, in arrays alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from scipy.special import stdtrit
from scipy.stats import friedmanchisquare, kendalltau, wilcoxon
from scipy.stats import t as student

from bench import stats
from bench.stats import Array

POWERED = 10
"""So many blocks a test over blocks needs: with fewer it is told as underpowered."""

_DIGITS = 10
_MOST_IMAGES = 10**9


@dataclass(frozen=True)
class Friedman:
    """Whether C contestants differ over B blocks (data set × backbone).

    statistic: chi-square with C − 1 degrees of freedom; p: its p-value; both NaN with fewer than 2
    blocks or 3 contestants, or where all are equal in all blocks. powered: at least POWERED blocks.
    mean_ranks: (C,), 1 is the best.
    """

    statistic: float
    p: float
    n_blocks: int
    powered: bool
    mean_ranks: Array


def superiority(first: Array, second: Array, better: str) -> float:
    """The share of pairs in which first is better than second, ties half; NaN without a pair.

    first, second: paired values of one shape; a pair with a NaN is left out. 0.5 says that neither
    tends to be better (common-language effect size of paired values: McGraw & Wong, Psychological
    Bulletin 111(2), 1992; Vargha & Delaney's A).
    """
    whole = np.isfinite(first) & np.isfinite(second)
    if not whole.any():
        return float("nan")
    a, b = _settled(np.stack([first[whole], second[whole]]))
    above, below = (a > b).mean(), (a < b).mean()
    wins, losses = (above, below) if better == "higher" else (below, above)
    return float((1 + wins - losses) / 2)


def bootstrap_p(
    drawn: Array, observed: Array | float, *, freedom: Array | float | None = None,
) -> Array:
    """Two-sided p (...) of "the mean difference is 0", from draws (D, ...) of that mean.

    It goes with `stats.interval` of the same draws and `freedom`: where p < 0.05, the 95 % interval
    lacks 0. Without `freedom` it inverts the percentile interval: twice the smaller share of draws
    on either side of 0, counted (1 + count) / (1 + D) so that p is never 0 (Davison & Hinkley,
    Bootstrap Methods and their Application, 1997, section 4.2.2). No p is then below 2 / (1 + D),
    and of 2,000 draws none stays below 0.05 after Holm over more than 50 pairs. With `freedom` it
    inverts the t interval and has no such floor, but where nothing varies (then 1 / (1 + D)).
    NaN where `observed`, the mean difference itself (...), is NaN, or without a draw.
    """
    finite = np.isfinite(drawn)
    n = finite.sum(0)
    if freedom is None:
        below, above = ((finite & side).sum(0) for side in (drawn <= 0, drawn >= 0))
        p = np.minimum(2 * (1 + np.minimum(below, above)) / (1 + n), 1.0)
    else:
        centre, error = stats.standard_error(drawn, freedom)
        ratio = np.divide(np.abs(centre), error, out=np.zeros(error.shape), where=error > 0)
        p = np.where(error > 0, 2 * student.sf(ratio, freedom),
                     np.where(centre == 0, 1.0, 1 / (1 + n)))
        p = np.where(np.isnan(error), np.nan, p)
    return np.asarray(np.where((n > 0) & np.isfinite(observed), p, np.nan), np.float64)


def holm(p: Sequence[float] | Array) -> Array:
    """The p-values, adjusted by Holm's step-down method; NaN stays NaN and is not counted.

    Holm, Scandinavian Journal of Statistics 6(2), 1979. scipy has no Holm; that of statsmodels
    collects garbage at every call, which costs a board of many tables more than all its tests.
    """
    found = np.array(p, np.float64)
    counted = np.flatnonzero(np.isfinite(found))
    order = counted[np.argsort(found[counted], kind="stable")]
    steps = found[order] * np.arange(len(order), 0, -1)
    found[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return found


def friedman(blocks: Array, better: str) -> Friedman:
    """Friedman's test of block means (B, C) without NaN: scipy's.

    Friedman, JASA 32(200), 1937; for comparisons over data sets: Demšar, JMLR 7, 2006.
    """
    n, size = blocks.shape
    ranks = _ranks(blocks, better)
    mean_ranks = ranks.mean(axis=0) if n else np.full(size, np.nan)
    statistic = p = float("nan")
    if n >= 2 and size >= 3 and (ranks != ranks[:, :1]).any():
        statistic, p = (float(found) for found in friedmanchisquare(*ranks.T))
    return Friedman(statistic, p, n, n >= POWERED, mean_ranks)


def cliques(blocks: Array, better: str, alpha: float = 0.05) -> list[tuple[int, ...]]:
    """The largest groups of columns of block means (B, C) that are not told apart, best first.

    A group's columns are neighbours by mean rank, and no two of them differ by the Wilcoxon
    signed-rank test after Holm over all pairs; each is a bar of a critical-difference diagram
    (Benavoli et al., JMLR 17(5), 2016: the answer for a pair does not depend on who else is
    compared, as Nemenyi's does; in the order of aeon's plot_critical_difference). A column that
    differs from both its neighbours is in no group. [] with fewer than POWERED blocks.
    """
    size = blocks.shape[1]
    if len(blocks) < POWERED or size < 2:
        return []
    order = np.argsort(_ranks(blocks, better).mean(axis=0), kind="stable")
    ordered, (i, j) = _settled(blocks[:, order]), np.triu_indices(size, 1)
    p = np.ones((size, size))
    p[i, j] = holm(_signed_rank(np.round(ordered[:, i] - ordered[:, j], _DIGITS)))
    groups: list[tuple[int, ...]] = []
    reached = 0
    for start in range(len(order)):
        stop = start + 1
        while stop < len(order) and (p[start:stop, stop] >= alpha).all():
            stop += 1
        if stop > max(reached, start + 1):
            groups.append(tuple(int(column) for column in order[start:stop]))
        reached = max(reached, stop)
    return groups


def _signed_rank(difference: Array) -> Array:
    """The p-values (P,) of differences (B, P); 1 where all are 0.

    Exact without ties and zeros. With them scipy would try all 2^B signs, seconds a pair, where the
    normal approximation serves from ten blocks on.
    """
    sizes = np.sort(np.abs(difference), axis=0)
    tied = (sizes[0] == 0) | (np.diff(sizes, axis=0) == 0).any(axis=0)
    p = np.ones(difference.shape[1])
    for chosen, method in ((~tied, "exact"), (tied & (sizes[-1] > 0), "approx")):
        if chosen.any():
            p[chosen] = wilcoxon(difference[:, chosen], axis=0, method=method).pvalue
    return p


def first_shares(ranks: Array) -> Array:
    """The share (C,) of drawn ranks (D, C) in which each is first; several that are first share it.

    The shares sum to 1. A column without any rank is NaN.
    """
    ranked = np.isfinite(ranks)
    filled = np.where(ranked, ranks, np.inf)
    first = ranked & (filled == filled.min(axis=1, keepdims=True, initial=np.inf))
    sharers = first.sum(axis=1, keepdims=True)
    share = np.divide(first, sharers, out=np.zeros(ranks.shape), where=sharers > 0)
    total = share.sum(axis=0) / max(int(ranked.any(axis=1).sum()), 1)
    return np.where(ranked.any(axis=0), total, np.nan)


def agreement(first: Array, second: Array) -> float:
    """Kendall's tau-b of two rows (C,): 1 is the same order, −1 the reverse.

    Pairs with a NaN are left out. NaN with fewer than two left, or where a row is constant. The
    caller aligns the directions.
    """
    whole = np.isfinite(first) & np.isfinite(second)
    if whole.sum() < 2:
        return float("nan")
    return float(kendalltau(_settled(first[whole]), _settled(second[whole])).statistic)


def components(values: Array) -> dict[str, float]:
    """The variance components of values (C, S, N), or (C, S, N, K) of K draws a sample.

    Crossed random effects, estimated by their expected mean squares: the component of a set of
    factors a is σ²(a) = Σ (−1)^(|b| − |a|) MS(b) / n(a), over all sets b that contain a, where n(a)
    counts the values that share a level of a; negative estimates are 0 (Searle, Casella &
    McCulloch, Variance Components, 1992, chapter 4; as a rule for any crossed design: Brennan,
    Generalizability Theory, 2001, section 3.4).

    "contestant" is its main effect; "seed" and "image" are theirs and their interaction with
    contestants, which is what moves a comparison; "rest" is the seed × image interaction and what
    is left; "draw" is the variance between the draws of one sample. NaN: "seed" for one seed (the
    image × contestant interaction is then in the rest), "contestant" for one, "draw" without draws,
    all where fewer than two images are left. An image counts only where every value is finite.
    """
    sources = ("contestant", "seed", "image", "draw", "rest")
    found = dict.fromkeys(sources, float("nan"))
    drawn = values.reshape(*values.shape[:3], -1)
    drawn = drawn[:, :, np.isfinite(drawn).all(axis=(0, 1, 3))]
    if drawn.shape[2] < 2:
        return found
    cell = drawn.mean(axis=3)
    size = dict(enumerate(cell.shape))
    axes = tuple(axis for axis in size if size[axis] > 1)
    sets = [chosen for n in range(1, len(axes) + 1) for chosen in combinations(axes, n)]
    square = {chosen: _mean_square(cell, chosen) for chosen in sets}
    variance = {
        chosen: max(0.0, sum((-1) ** (len(other) - len(chosen)) * square[other]
                             for other in sets if set(chosen) <= set(other))
                    * np.prod([size[axis] for axis in chosen]) / cell.size)
        for chosen in sets}
    left = variance.pop(axes)  # all factors together: the residual
    if drawn.shape[3] > 1:
        found["draw"] = float(drawn.var(axis=3, ddof=1).mean())
        left = max(0.0, left - found["draw"] / drawn.shape[3])
    # With a single contestant and seed the images are all there is, and no residual is told.
    rest = variance.pop((1, 2), 0.0)
    if len(axes) == 1:
        return found | {"image": float(left), "rest": 0.0}
    for axis, source in enumerate(sources[:3]):
        if size[axis] > 1:
            found[source] = float(variance[(axis,)] + (variance.get((0, axis), 0.0) if axis else 0))
    return found | {"rest": float(left + rest)}


def needed(difference: Array, level: float = stats.LEVEL) -> float:
    """How many images would make the paired interval of a mean difference exclude 0.

    difference: (S, N), of the same seeds and images; images with a NaN are left out. With the
    components of `components`, N images would give the mean a variance of
    seed / S + (image + rest / S) / N, and the t interval Satterthwaite's degrees of freedom from
    these two terms; it is the smallest N for which the observed mean lies outside. More images
    leave the seeds' own variance as it is: inf where that alone holds 0 inside (then more seeds are
    needed), where the mean is 0, and for more than a billion. The images are taken as independent
    (of patients, so many more of them as of images), the effect as what was observed. NaN with
    fewer than two images.
    """
    whole = difference[:, np.isfinite(difference).all(axis=0)]
    seeds, n = whole.shape
    if n < 2:
        return float("nan")
    mean, found = whole.mean(), components(whole[None])
    if mean == 0:
        return float("inf")
    by_seed = (found["seed"] if seeds > 1 else 0.0) / seeds
    by_image = found["image"] + found["rest"] / seeds

    def excludes(images: np.ndarray[Any, np.dtype[np.int64]]) -> np.ndarray[Any, Any]:
        several = by_image / images
        total = by_seed + several
        parts = several**2 / (images - 1) + (by_seed**2 / (seeds - 1) if seeds > 1 else 0.0)
        # Where nothing varies, any number of degrees of freedom does.
        degrees = np.divide(total**2, parts, out=np.ones(len(images)), where=parts > 0)
        return np.asarray(abs(mean) > stdtrit(degrees, (1 + level) / 2) * np.sqrt(total))

    # Fewer degrees of freedom are left the more images there are, so it need not be monotone.
    steps = np.unique(np.geomspace(2, _MOST_IMAGES, 120).astype(np.int64))
    enough = excludes(steps)
    if not enough.any():
        return float("inf")
    first = int(enough.argmax())
    low, high = int(steps[max(first - 1, 0)]), int(steps[first])
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if excludes(np.array([middle])).all() else (middle, high)
    return float(high)


def calibration_error(confidence: Array, right: Array, bins: int = 15) -> float:
    """The expected calibration error: the mean gap of accuracy and confidence, over images.

    confidence: (N,) in 0..1; right: (N,), 1 where the prediction is right. Bins of equal width,
    open below, weighed by their images (Guo et al., On Calibration of Modern Neural Networks, ICML
    2017). NaN is left out; NaN where nothing is left.
    """
    known = np.isfinite(confidence) & np.isfinite(right)
    if not known.any():
        return float("nan")
    sure, hit = confidence[known], np.asarray(right, np.float64)[known]
    place = np.digitize(sure, np.linspace(0, 1, bins + 1)[1:-1], right=True)
    gap = np.bincount(place, weights=hit - sure, minlength=bins)
    return float(np.abs(gap).sum() / len(sure))


def _ranks(blocks: Array, better: str) -> Array:
    return stats.ranks(blocks, "higher" if better == "higher" else "lower")


def _settled(values: Array) -> Array:
    """Rounded below what a sum's order moves, so that equals stay equal (as `stats.ranks` does)."""
    scale = np.abs(values).max(initial=0.0) or 1.0
    return np.asarray(np.round(values / scale, _DIGITS), np.float64)


def _mean_square(cell: Array, chosen: tuple[int, ...]) -> float:
    """The mean square of the effect of `chosen` factors in a full crossed table."""
    others = tuple(axis for axis in range(cell.ndim) if axis not in chosen)
    effect = cell.mean(axis=others, keepdims=True)
    for axis in chosen:
        effect = effect - effect.mean(axis=axis, keepdims=True)
    degrees = np.prod([cell.shape[axis] - 1 for axis in chosen])
    return float((effect**2).sum() * (cell.size / effect.size) / degrees)
