"""The metrics, and the one way to run them: `score(metric, explained)`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bench.core import number_from
from bench.measure import Scores
from bench.randomness import seeded

if TYPE_CHECKING:
    from bench.measure import Explained, Metric


def score(metric: Metric, explained: Explained) -> Scores:
    """One metric on one network's maps: a float64 a sample, NaN with a reason where there is none.

    The answer depends on the metric, its parameters and `explained` (through `batch.seed`) alone;
    every global random state is left as it was found. What the metric raises is let through.
    Raises ValueError for an answer that is not one value and one reason a sample, and for a network
    in training mode.
    """
    n = len(explained.batch)
    if explained.network.training:
        raise ValueError(f"metric {metric.name} got a network in training mode; call net.eval()")
    if "mask" in metric.needs and explained.batch.mask is None:
        return Scores(np.full(n, np.nan), ("no mask",) * n)
    seed = number_from(metric.name, *explained.batch.seed.tolist())
    with seeded(seed):
        answer = metric.score(explained, **metric.params)
    return _checked(metric.name, answer, n)


def _checked(name: str, answer: Scores, n: int) -> Scores:
    value = np.array(answer.value, np.float64)
    curve = None if answer.curve is None else np.array(answer.curve, np.float64)
    if value.shape != (n,) or len(answer.reason) != n or (
            curve is not None and (curve.ndim != 2 or len(curve) != n)):
        raise ValueError(
            f"metric {name} gave {value.shape} values, {len(answer.reason)} reasons and a curve of "
            f"{None if curve is None else curve.shape} for {n} samples; it must give one each")
    value[[reason is not None for reason in answer.reason]] = np.nan
    whole = np.isfinite(value)
    value[~whole] = np.nan
    if curve is not None:
        curve[~whole] = np.nan
    reason = tuple(
        None if fine else (why or "not finite")
        for fine, why in zip(whole, answer.reason, strict=True))
    return Scores(value, reason, curve)
