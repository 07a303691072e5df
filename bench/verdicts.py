"""Who beats the controls: in each family, and for each sanity check by itself."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Any

from bench.measure import GAUGE
from bench.panel import Panel

CLASSIFIER = "classifier"
"""The family of metrics that measure the network; its ranks are the networks', without verdict."""

SANITY = "randomisation"
"""The family that is passed or failed. To be more sensitive than another map is no merit, and maps
that mean nothing can be the most sensitive of all (Binder et al., arXiv:2211.12486): no ranks."""

BEATS, UNSURE, WORSE, NONE = (
    "beats every control", "not told apart from", "worse than", "no control to compare with")
PASSES, FAILS, EQUAL = "passes", "fails", "equal to"
UNCERTIFIED = "not certified"
"""The verdict where a map is asked for planted truth and its network does not go by it."""

Row = dict[str, Any]


def is_compared(metric: Mapping[str, Any]) -> bool:
    """Whether contestants are told apart by it: no gauge, and no measure known to be broken."""
    return metric["family"] != GAUGE and not metric["defect"]


def is_ranked(metric: Mapping[str, Any]) -> bool:
    """Whether its best value is the best explanation."""
    return is_compared(metric) and metric["family"] != SANITY


def groups(metrics: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], list[Row]]:
    """The metrics of each track and family, in the order of the suite."""
    found: dict[tuple[str, str], list[Row]] = {}
    for metric in metrics:
        found.setdefault((metric["track"], metric["family"]), []).append(dict(metric))
    return found


def opponents(metric: Mapping[str, Any], controls: Mapping[str, Row]) -> list[str]:
    """The controls that a metric compares with; all of them, but in a check of the class.

    Maps of a random network, and the mean image of a class, follow the class as they should:
    they are controls of what was learned, and there only those that ignore the class are any.
    """
    of_class = metric["family"] == SANITY and "randomise" not in metric["needs"]
    return [name for name, facts in controls.items()
            if not (of_class and facts.get("classwise", False))]


def is_barred(contestant: str, metric: Mapping[str, Any], uncertified: Container[str]) -> bool:
    """Whether a metric of planted truth must not judge a contestant, whose network ignores it."""
    return (contestant in uncertified and "mask" in metric["needs"]
            and metric["family"] != CLASSIFIER)


def differences(
    panel: Panel, metrics: Sequence[Row], ranked: Sequence[str], controls: Mapping[str, Row],
    uncertified: Container[str] = (),
) -> list[Row]:
    """Each contestant minus each control, in every metric that compares them."""
    pairs = {metric["name"]: [
        (name, control) for name in ranked if not is_barred(name, metric, uncertified)
        for control in opponents(metric, controls) if name != control]
        for metric in metrics if metric["family"] != CLASSIFIER}
    return [{**row, "contestant": row["pair"][0], "control": row["pair"][1]}
            for metric in metrics if pairs.get(metric["name"])
            for row in panel.differences(metric, pairs[metric["name"]])]


def verdicts(
    dataset: str, metrics: Sequence[Row], contestants: Sequence[str], controls: Mapping[str, Row],
    found: Sequence[Row], uncertified: Container[str] = (),
) -> list[Row]:
    """One a contestant and family, of the differences that were found.

    To beat every control each interval must exclude 0, so the joint claim needs no correction for
    their number (an intersection–union test: Berger, Technometrics 24(4), 1982).
    """
    return [
        {"dataset": dataset, "track": track, "family": family, "contestant": contestant,
         **(_barred() if any(is_barred(contestant, m, uncertified) for m in members) else _verdict(
             family, members, controls, [d for d in found if d["contestant"] == contestant]))}
        for (track, family), members in groups(metrics).items() if family != CLASSIFIER
        for contestant in contestants]


def _barred() -> Row:
    return {"verdict": UNCERTIFIED, "against": None, "metric": None, "detail":
            "shown, not ranked: flipping what was planted does not change this network's answers "
            "as it should"}


def sanity(
    dataset: str, metrics: Sequence[Row], contestants: Sequence[str], controls: Mapping[str, Row],
    found: Sequence[Row],
) -> list[Row]:
    """The same for each randomisation check by itself, to stand beside its number."""
    return [
        {"dataset": dataset, "contestant": contestant, **_verdict(
            SANITY, [metric], controls, [d for d in found if d["contestant"] == contestant]),
         "metric": metric["name"]}
        for metric in metrics if metric["family"] == SANITY for contestant in contestants]


def _verdict(
    family: str, metrics: Sequence[Row], controls: Mapping[str, Row], found: Sequence[Row],
) -> Row:
    """The worst that can be said against any control in any of the metrics."""
    facts = {metric["name"]: metric for metric in metrics}
    met = [{**d, "reads": _reads(d, family)} for d in found if d["metric"] in facts]
    worst = min(met, key=lambda d: _margin(d, facts[d["metric"]]["better"]), default=None)
    if worst is None:
        return {"verdict": NONE, "against": None, "metric": None, "detail": NONE}
    detail = "better in " + ", ".join(dict.fromkeys(facts[d["metric"]]["title"] for d in met))
    verdict = PASSES if family == SANITY else BEATS
    beaten = worst["reads"] == "better"
    if not beaten:
        detail = "; ".join(f"{facts[d['metric']]['title']}: {_WORDS[d['reads']]} {d['control']}"
                           for d in met if d["reads"] != "better")
        verdict = f"{_WORDS[worst['reads']]} {worst['control']}"
        if family == SANITY and worst["reads"] != "not told apart":
            verdict = f"{FAILS}: {verdict}"
    if len(met) < sum(len(opponents(metric, controls)) for metric in metrics):
        detail += "; not compared where either has no number"
    return {"verdict": verdict, "against": None if beaten else worst["control"],
            "metric": None if beaten else worst["metric"], "detail": detail}


_ORDER = ("worse", "equal", "not told apart", "better")
_WORDS = {"worse": WORSE, "equal": EQUAL, "not told apart": UNSURE}


def _reads(difference: Row, family: str) -> str:
    """How a difference reads; to equal a map that ignores the network is to fail its check."""
    if family == SANITY and difference["low"] == difference["high"] == 0:
        return "equal"
    return str(difference["reads"])


def _margin(difference: Row, better: str) -> tuple[int, float]:
    """How clearly the control is beaten: worse before unsure before better, then in widths."""
    width = difference["high"] - difference["low"] or 1e-12
    gap = difference["mean"] if better == "higher" else -difference["mean"]
    return _ORDER.index(difference["reads"]), gap / width
