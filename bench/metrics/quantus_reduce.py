"""From what Quantus returns to one float a sample: the reducers of the Quantus track, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from bench.metrics.maps import Array

Reducer = Callable[[Any, Array], tuple[Array, Array | None]]


def value(answer: Any, flawed: Array) -> tuple[Array, None]:
    """The value itself, NaN where any map that was explained again is flawed."""
    found = np.array(answer, np.float64)
    found[flawed.any(0)] = np.nan
    return found, None


def _curve(one: Callable[[Array], Array]) -> Reducer:
    def reduce(answer: Any, flawed: Array) -> tuple[Array, Array | None]:  # noqa: ARG001
        curve = np.array(answer, np.float64)
        # Quantus has been told to reduce it itself.
        return (curve, None) if curve.ndim == 1 else (one(curve), curve)
    return reduce


def _layers(one: Callable[[Array], Array]) -> Reducer:
    def reduce(answer: Any, flawed: Array) -> tuple[Array, Array | None]:
        if not isinstance(answer, Mapping):
            return value(answer, flawed)
        # 'original' compares a map with itself.
        layers = [values for layer, values in answer.items() if layer != "original"]
        steps = np.array(layers, np.float64).reshape(len(layers), flawed.shape[1])
        if len(flawed):
            # A layer may kill a map: the step is left out for that sample, NaN in its curve.
            steps[flawed[1:]] = np.nan
        return one(steps.T), steps.T
    return reduce


def _known_mean(steps: Array) -> Array:
    """The mean (N,) over those of the steps (N, K) that are finite."""
    known = np.isfinite(steps)
    count = known.sum(1)
    total = np.where(known, steps, 0.0).sum(1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _last(steps: Array) -> Array:
    return steps[:, -1] if steps.shape[1] else np.full(len(steps), np.nan)


def percentages(answer: Any, flawed: Array) -> tuple[Array, Array]:  # noqa: ARG001
    """The mean over the percentages of one sample's answer, percentage to hit."""
    curve = np.array([list(answer.values())], np.float64)
    return curve.mean(1), curve


def pooled(answer: Any, flawed: Array) -> tuple[Array, None]:
    """The mean over the steps of an answer that has no samples, given to each of them."""
    return np.full(flawed.shape[1], np.mean(np.array(answer, np.float64))), None


VALUE: Mapping[str, Reducer] = {"value": value}
CURVE: Mapping[str, Reducer] = {
    "mean": _curve(lambda curve: curve.mean(1)), "last": _curve(lambda curve: curve[:, -1]),
    # Not over its length, as Quantus's own.
    "area": _curve(lambda curve: np.trapezoid(curve, axis=1))}
LAYERS: Mapping[str, Reducer] = {
    "mean": _layers(_known_mean), "last": _layers(_last)}
