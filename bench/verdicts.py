"""Who beats the controls: in each family, and for each sanity check by itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.comparisons import holm
from bench.gates import lacks
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
BOUGHT = "worse classifier"
"""The verdict of maps whose network does not pass its gate; see `gates.gates`."""

CONTROL, REFERENCE = "control", "reference"
"""The kinds of differences: from a control, and from the field's reference on the same network."""

EXPLAINER = "gradcam"
"""The explainer of that reference, as results name it: what the field compares with."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Bars:
    """Who is shown and not ranked.

    gated: in every family of explanation, because their networks do not pass their gates.
    uncertified: where a metric asks for what was planted, which their networks ignore.
    """

    gated: frozenset[str] = frozenset()
    uncertified: frozenset[str] = frozenset()

    @classmethod
    def of(
        cls, gated: Iterable[Mapping[str, Any]], certificates: Iterable[Mapping[str, Any]],
        facts: Mapping[str, Row],
    ) -> Bars:
        """Who is barred by the rows of `gates.gates` and of `checks.certificates`.

        A control is no claim about the network, so it needs no proof of what the network uses.
        """
        return cls(
            gated=frozenset(row["contestant"] for row in gated if not row["passes"]),
            uncertified=frozenset(
                row["contestant"] for row in certificates
                if row["certified"] is False and not facts[row["contestant"]]["control"]))

    def why(self, contestant: str, metrics: Iterable[Mapping[str, Any]]) -> str | None:
        """The verdict that bars a contestant from any of some metrics, or None."""
        asked = [metric for metric in metrics if metric["family"] != CLASSIFIER]
        if contestant in self.gated and asked:
            return BOUGHT
        planted = any("mask" in metric["needs"] for metric in asked)
        return UNCERTIFIED if contestant in self.uncertified and planted else None


NOBODY = Bars()


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


def differences(
    panel: Panel, metrics: Sequence[Row], ranked: Sequence[str], controls: Mapping[str, Row],
    contestants: Mapping[str, Row], bars: Bars = NOBODY,
) -> list[Row]:
    """Each contestant minus each control and the reference, in every metric that compares them.

    The reference is the first contestant by EXPLAINER on the same network, where there is one.
    p_holm: p adjusted by Holm's method for all pairs of contestant and control (or reference) in
    all metrics of one track and family; NaN where a control is compared, of which nothing is
    claimed.
    """
    rows = []
    for metric in metrics:
        if metric["family"] == CLASSIFIER:
            continue
        pairs = {(name, control): CONTROL for name in ranked if not bars.why(name, [metric])
                 for control in opponents(metric, controls) if name != control}
        pairs |= {pair: REFERENCE for pair in _references(panel, ranked, controls, contestants)
                  if not any(bars.why(name, [metric]) for name in pair)}
        if pairs:
            rows += [{**row, "contestant": row["pair"][0], "control": row["pair"][1],
                      "kind": pairs[row["pair"]], "p_holm": np.nan}
                     for row in panel.differences(metric, list(pairs))]
    for members in groups(metrics).values():
        names = {metric["name"] for metric in members}
        for kind in (CONTROL, REFERENCE):
            family = [row for row in rows if row["metric"] in names and row["kind"] == kind
                      and row["contestant"] not in controls]
            for row, p in zip(family, holm([row["p"] for row in family]), strict=True):
                row["p_holm"] = p
    return rows


def _references(
    panel: Panel, ranked: Sequence[str], controls: Mapping[str, Row],
    contestants: Mapping[str, Row],
) -> list[tuple[str, str]]:
    names = [name for name in ranked if name not in controls]
    first: dict[str, str] = {}
    for name in names:
        if contestants[name]["explainer"] == EXPLAINER:
            first.setdefault(panel.network[name], name)
    return [(name, reference) for name in names
            if (reference := first.get(panel.network[name], name)) != name]


def verdicts(
    dataset: str, metrics: Sequence[Row], contestants: Sequence[str], controls: Mapping[str, Row],
    found: Sequence[Row], bars: Bars = NOBODY,
) -> list[Row]:
    """One a contestant and family, of the differences from controls that were found.

    To beat every control each interval must exclude 0, so the joint claim needs no correction for
    their number (an intersection–union test: Berger, Technometrics 24(4), 1982). p_holm, which
    stands beside each difference, is for who reads single ones out of a family.
    """
    return [
        {"dataset": dataset, "track": track, "family": family, "contestant": contestant,
         **_verdict(family, members, controls, _of(contestant, found),
                    bars.why(contestant, members))}
        for (track, family), members in groups(metrics).items() if family != CLASSIFIER
        for contestant in contestants]


def sanity(
    dataset: str, metrics: Sequence[Row], contestants: Sequence[str], controls: Mapping[str, Row],
    found: Sequence[Row], bars: Bars = NOBODY,
) -> list[Row]:
    """The same for each randomisation check by itself, to stand beside its number."""
    return [
        {"dataset": dataset, "contestant": contestant, **_verdict(
            SANITY, [metric], controls, _of(contestant, found), bars.why(contestant, [metric])),
         "metric": metric["name"]}
        for metric in metrics if metric["family"] == SANITY for contestant in contestants]


def _of(contestant: str, found: Sequence[Row]) -> list[Row]:
    return [d for d in found if d["contestant"] == contestant]


def _verdict(
    family: str, metrics: Sequence[Row], controls: Mapping[str, Row], found: Sequence[Row],
    barred: str | None,
) -> Row:
    """The worst that can be said against any control in any of the metrics, unless `barred`."""
    if barred:
        return {"verdict": barred, "against": None, "metric": None, "detail": _WHY[barred]}
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
_WHY = {
    UNCERTIFIED: "shown, not ranked: flipping what was planted does not change this network's "
                 "answers as it should",
    BOUGHT: "shown, not ranked: the network gave up accuracy or calibration against its twin"}
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


def effects(
    panel: Panel, metrics: Sequence[Row], ranked: Sequence[str], contestants: Mapping[str, Row],
) -> list[Row]:
    """What training changed, seen by one explainer, and what a network's own map adds to it."""
    names = [name for name in ranked if not contestants[name]["control"]]
    own = [name for name in names if contestants[name]["family"] == "inherent"
           or contestants[name]["explainer"] == contestants[name]["trainer"]]
    post_hoc = [name for name in names if name not in own]
    effect: dict[tuple[str, str], str] = {}
    for name in post_hoc:
        effect |= {(name, other): "model" for other in post_hoc
                   if _is_twin(contestants[other], contestants[name])}
        effect |= {(mine, name): "explanation" for mine in own
                   if panel.network[mine] == panel.network[name]}
    return [{**row, "effect": effect[row["pair"]],
             "minuend": row["pair"][0], "subtrahend": row["pair"][1]}
            for metric in metrics if effect for row in panel.differences(metric, list(effect))
            # The explanation effect compares maps of one network, which has one accuracy.
            if effect[row["pair"]] == "model" or metric["family"] != CLASSIFIER]


def _is_twin(twin: Row, of: Row) -> bool:
    """Whether it is the same explainer on the network that lacks what the other's adds, alone."""
    return lacks(twin, of) and (
        (twin["explainer"], twin["explain"]) == (of["explainer"], of["explain"]))
