"""The Quantus track: every metric of Quantus by its class's name, run by Quantus.

One row a metric, in one file a family (`quantus_faithfulness.py`, ...): its card is ours, its
direction proven in the lab of known answers, its numbers Quantus's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from bench.core import HeatproofError
from bench.measure import Explained
from bench.metrics.evidence import INTERPOLATION
from bench.metrics.quantus_keywords import MAPS
from bench.metrics.quantus_reduce import VALUE, Reducer
from bench.metrics.quantus_run import QUANTUS, QuantusMetric
from bench.plugins import metric

VERSION = f"3, {INTERPOLATION}, quantus {QUANTUS}"


def add(
    quantus: str, *, title: str, family: str, better: Literal["higher", "lower"], about: str,
    formula: str, range: str, passes: str, paper: str, departures: Sequence[str],  # noqa: A002
    units: str = "", order: Sequence[str] = (), holds: Sequence[str] = (), defect: str = "",
    needs: tuple[str, ...] = (), ours: Mapping[str, Any] | None = None,
    keywords: Mapping[str, Any] | None = None, reduce: Mapping[str, Reducer] = VALUE,
    **run: Any,
) -> None:
    """Registers `quantus/NAME`.

    keywords: those of the class's constructor beside those of `MAPS` (which they may override),
    with the values that we pin. ours: parameters that Quantus does not know, such as `softmax`,
    which its call takes. run: what `QuantusMetric` must know beyond that.
    """
    taken = {**MAPS, **(keywords or {})}
    choice = {"reduce": next(iter(reduce))} if len(reduce) > 1 else {}
    metric(f"quantus/{quantus}", title=title, family=family, better=better, needs=needs,
           params={**(ours or {}), **choice, **taken}, version=VERSION, paper=paper, about=about,
           track="quantus", formula=formula, range=range, units=units, passes=passes,
           departures=departures, order=order, holds=holds, defect=defect)(
        QuantusMetric(quantus, tuple(taken), reduce, needs=needs, **run))


def features_in_step(explained: Explained, params: Mapping[str, Any]) -> int:
    """How many values (channel and pixel) a step takes, so that there are about `steps` steps."""
    _, channels, height, width = explained.batch.x.shape
    return whole_steps(height * width, params["steps"]) * channels


def whole_steps(pixels: int, steps: int) -> int:
    """How many pixels a step holds, so that all steps are equal and their number is near `steps`.

    Quantus wants steps of one size. Raises HeatproofError where no number of equal steps lies
    within a factor of two of the wanted one.
    """
    if not isinstance(steps, int) or steps < 1:
        raise HeatproofError(f"steps must be a whole number above 0, not {steps!r}")
    sizes = [k for k in range(1, pixels + 1) if pixels % k == 0]
    best = min(sizes, key=lambda k: (max(pixels / k / steps, steps * k / pixels), k))
    if not steps / 2 <= pixels / best <= steps * 2:
        raise HeatproofError(
            f"{pixels} pixels cannot be flipped in about {steps} equal steps; set steps to one of "
            f"{', '.join(str(pixels // k) for k in sizes[::-1][:12])}, or resize the images")
    return best


def features(share: float, count: int) -> int:
    """A share of `count` features, at least one. Raises for a share that is not within (0, 1)."""
    if not 0 < share < 1:
        raise HeatproofError(f"share must lie between 0 and 1, not {share!r}")
    return max(1, round(share * count))
