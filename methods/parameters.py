"""Explain parameters that are numbers, and what is said of one that is not."""

from __future__ import annotations

import math

from bench import HeatproofError, Method


def whole(method: Method, name: str, least: int = 1) -> int:
    """An explain parameter that counts something. Raises HeatproofError below `least`."""
    value = method.explain_params[name]
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise HeatproofError(
            f"{method.name}: {name} must be a whole number of at least {least}, not {value!r}")
    return value


def positive(method: Method, name: str, most: float = math.inf) -> float:
    """An explain parameter that is a number above 0 and up to `most`. Raises HeatproofError."""
    value = method.explain_params[name]
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value <= most:
        bound = "" if most == math.inf else f" and at most {most:g}"
        raise HeatproofError(
            f"{method.name}: {name} must be a number above 0{bound}, not {value!r}")
    return value
