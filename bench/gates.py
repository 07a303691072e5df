"""What a network gave up to explain itself: its accuracy and calibration against its twin's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bench import stats
from bench.comparisons import calibration_error
from bench.panel import Panel
from bench.results import Results

MARGIN = 0.02
"""So much accuracy a network may lose against its twin (0.02 is two points)."""

UNCALIBRATED = 0.05
"""So much larger its expected calibration error may be."""

BINS = 15

Row = dict[str, Any]


def lacks(twin: Row, of: Row) -> bool:
    """Whether the facts of `twin` are of the network that lacks what the other's adds, alone."""
    shared = twin["train"].keys() & of["train"].keys()
    return (twin["trainer"] == of["twin"] != of["trainer"]
            and all(twin["train"][key] == of["train"][key] for key in shared))


def gates(
    results: Results, panel: Panel, names: Sequence[str], contestants: Mapping[str, Row],
) -> list[Row]:
    """What the network of each of the named classifies, and whether its maps may be ranked; a row
    each.

    accuracy; ece: the expected calibration error of each training in BINS bins of equal width of
    the confidence, their mean (Guo et al., ICML 2017). twin: a contestant on the network that lacks
    what the training adds, of the same seeds; empty where there is none. accuracy_gap, ece_gap:
    minus the twin's, paired; gap_low, gap_high: the 95 % interval of accuracy_gap.

    It does not pass if its accuracy is below the twin's by more than MARGIN, or its calibration
    error above the twin's by more than UNCALIBRATED without more accuracy; either with the whole
    95 % interval, so that a few images bar nobody. What explains the twin itself always passes, and
    so do controls and ceilings, which claim nothing of a network.
    """
    right, confidence = _answers(results, panel)
    rows = []
    for name in names:
        own = panel.names.index(name)
        row = {"dataset": panel.dataset, "contestant": name, "twin": "",
               "accuracy": float(stats.means(right[own])),
               "ece": _calibration(confidence[own], right[own]),
               **dict.fromkeys(("accuracy_gap", "gap_low", "gap_high", "ece_gap"), np.nan),
               "passes": True, "detail": "no twin to compare with"}
        facts = contestants[name]
        if facts["trainer"] == facts["twin"]:
            row["detail"] = "explains the plain network"
        elif facts["control"] or facts["ceiling"]:
            row["detail"] = "claims nothing of its network"
        elif twin := _twin(name, names, contestants):
            row |= _against(panel, twin, right[[own, panel.names.index(twin)]],
                            confidence[[own, panel.names.index(twin)]])
        rows.append(row)
    return rows


def _answers(results: Results, panel: Panel) -> tuple[stats.Array, stats.Array]:
    """Whether each sample is classified right (1 or 0), and how confidently; each (C, S, N)."""
    samples = results.samples[results.samples["dataset"] == panel.dataset]
    at = panel.at(samples)
    known = np.logical_and.reduce([place >= 0 for place in at])
    at = tuple(place[known] for place in at)
    right, confidence = np.full(panel.shape, np.nan), np.full(panel.shape, np.nan)
    right[at] = (samples["prediction"] == samples["label"]).to_numpy()[known]
    confidence[at] = samples["confidence"].to_numpy(np.float64)[known]
    return right, confidence


def _twin(name: str, names: Sequence[str], contestants: Mapping[str, Row]) -> str:
    """The first contestant on the twin network: by the same explainer if there is one."""
    facts = contestants[name]

    def order(other: str) -> tuple[bool, bool]:
        their = contestants[other]
        return ((their["explainer"], their["explain"]) != (facts["explainer"], facts["explain"]),
                their["control"] or their["ceiling"])

    return min((other for other in names if lacks(contestants[other], facts)),
               key=order, default="")


def _against(panel: Panel, twin: str, right: stats.Array, confidence: stats.Array) -> Row:
    """The gaps of right and confidence (2, S, N), of a network and its twin."""
    both = np.isfinite(right).all(axis=0)
    right, confidence = np.where(both, right, np.nan), np.where(both, confidence, np.nan)
    found = panel.estimate(right[0] - right[1])
    gap, low, high = float(found.mean), float(found.low), float(found.high)
    ece, other = (_calibration(confidence[i], right[i]) for i in (0, 1))
    least, most = stats.interval(np.subtract(*(
        _drawn(panel.drawn, confidence[i], right[i]) for i in (0, 1))))
    row = {"twin": twin, "accuracy_gap": gap, "gap_low": low, "gap_high": high,
           "ece_gap": ece - other}
    told = (f"accuracy {_points(gap)} {'above' if gap > 0 else 'below'} that of its twin, which "
            f"{twin} explains (95 % interval {_points(low, sign=True)} to "
            f"{_points(high, sign=True)})")
    if high < -MARGIN:
        return {**row, "passes": False,
                "detail": f"{told}; it may lose {100 * MARGIN:g} points"}
    if least > UNCALIBRATED and gap <= 0:
        return {**row, "passes": False, "detail": (
            f"calibration error {ece:.3f} against {other:.3f} of its twin, which {twin} explains "
            f"(95 % interval of the difference {float(least):+.3f} to {float(most):+.3f}); it may "
            f"rise by {UNCALIBRATED:g} where accuracy does not")}
    return {**row, "detail": told}


def _points(share: float, *, sign: bool = False) -> str:
    return (f"{100 * share:+.1f}" if sign else f"{100 * abs(share):.1f} points").replace("-", "−")


def _calibration(confidence: stats.Array, right: stats.Array) -> float:
    """The mean over the seeds of (S, N) of their expected calibration errors."""
    each = np.array([calibration_error(*seed, bins=BINS)
                     for seed in zip(confidence, right, strict=True)])
    return float(each[np.isfinite(each)].mean()) if np.isfinite(each).any() else float("nan")


def _drawn(drawn: stats.Draws, confidence: stats.Array, right: stats.Array) -> stats.Array:
    """The same of each draw, (D,)."""
    known = np.isfinite(confidence) & np.isfinite(right)
    gap = np.where(known, right - confidence, 0.0)
    place = np.clip(np.ceil(np.where(known, confidence, 0.0) * BINS).astype(int) - 1, 0, BINS - 1)
    inside = np.where(place[:, None] == np.arange(BINS)[:, None], gap[:, None], 0.0)  # (S, BINS, N)
    total = drawn.images @ inside.reshape(-1, inside.shape[-1]).T
    apart = np.abs(total.reshape(len(total), *inside.shape[:2])).sum(-1)
    count = drawn.images @ known.T.astype(np.float64)
    error = np.divide(apart, count, out=np.zeros_like(apart), where=count > 0)
    weight = drawn.seeds * (count > 0)
    mean: stats.Array = np.divide((weight * error).sum(1), weight.sum(1), where=weight.sum(1) > 0,
                                  out=np.full(len(weight), np.nan))
    return mean
