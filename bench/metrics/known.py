"""The known answers: what is verified of a metric before anyone ranks by it.

`known_answer(metric)` puts it before the toy networks and constructed explainers of `lab`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.core import Batch, HeatproofError, unknown
from bench.measure import GAUGE, Explained, Metric, Scores
from bench.metrics import score
from bench.metrics.lab import (
    CLASSES,
    EXPLAINERS,
    SIZE,
    Additive,
    Convolutional,
    Explainer,
    at_home,
    by_sample,
    chaos,
    explained,
    gradient,
    image,
    in_logits,
    inverse,
    mirrored,
    noise,
    oracle,
    pattern,
    planted,
    point,
    scaled,
)

__all__ = [
    "CLASSES", "LAB", "SIZE", "Additive", "Convolutional", "Finding", "chaos", "explained",
    "gradient", "image", "inverse", "known_answer", "noise", "oracle", "pattern", "planted",
    "point"]

LAB = "2"
"""The lab's version: what is proven is proven by it. Raise it when it verifies something else."""

_QUALITY = ("oracle", "noise", "inverse")
_ORDER = {
    "faithfulness": _QUALITY, "localisation": _QUALITY, "segmentation": _QUALITY,
    "complexity": ("point", "noise"), "robustness": ("pattern", "chaos"),
    "axiomatic": ("oracle", "noise"), "coherence": ("classwise", "noise"),
    "randomisation": ("oracle", "image"), "classifier": (), GAUGE: ()}
"""The constructed explainers, best first, that a metric of a family must rank so."""
_WEIGHED = {"oracle", "inverse", "point", "oracle in logits", "inverse in logits"}
"""The explainers that read the weights of the Additive network."""
_ARRAYS = ("localisation", "complexity", "coherence", "classifier")
"""The families whose members are quick, since they ask no network anything."""
_FEW = 16
"""Images for the order of the others."""
_CLOSE = 1e-6
"""How far apart two scores of one sample may lie, in units of the score where that is above 1."""
_NUMBER = r"\s*([-−]?(?:\d+\.?\d*|∞))\s*"
_INTERVAL = re.compile(rf"[\[(]{_NUMBER},(?:{_NUMBER}|[^\])]*)[\])]")

_FLAWS = ("constant", "zero", "negative", "NaN", "infinite", "signed", "empty mask")

Values = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Finding:
    """One thing that must hold of a metric, and whether it does.

    name: what was looked at; expected: what must hold; found: the values, or what went wrong.
    """

    name: str
    expected: str
    found: str
    ok: bool


def known_answer(metric: Metric, *, channels: int = 1, n: int = 64) -> Iterator[Finding]:
    """What must hold of a metric, verified on up to `n` planted images; all `ok` if it is sound.

    order: the constructed explainers of its card, or else of its family, score in that order.
    border: evidence inside the mask beats evidence just outside, at each side (if it needs masks).
    batch, scale: what its card says that it holds. flawed: constant, zero, negative, NaN and
    infinite maps and an empty mask give a number, or NaN with a reason, and touch no other sample.
    range: every value lies in its card's. network: it is left as it was.

    The findings come as they are made, and what the metric raises is one that is not ok; only what
    is as Quantus is (tracks "quantus", "parity") may refuse colour, in one line. Raises
    HeatproofError for an explainer that the lab has not.
    """
    trial = _Trial(metric, channels, n)
    if channels > 1 and metric.track in ("quantus", "parity") and (refusal := trial.refusal()):
        yield Finding("colour images", "a score, or one line that says why not", refusal, True)
        return
    for part in (trial.order, trial.border, trial.batch, trial.scale, trial.flawed, trial.within,
                 trial.untouched):
        try:
            yield from part()
        except Exception as error:  # noqa: BLE001  a crash is a finding, whatever it is
            yield Finding(part.__name__, "an answer", f"{type(error).__name__}: {error}", False)


@dataclass
class _Trial:
    """One metric before the lab, and the values that it gave."""

    metric: Metric
    channels: int
    n: int
    said: list[Values] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        metric = self.metric
        self.ranked = metric.order or _ORDER[metric.family]
        if not metric.order and "randomise" in metric.needs:
            self.ranked = ("gradient", "image")
        for name in self.ranked:
            if name not in EXPLAINERS:
                raise unknown(f"explainer in the order of metric {metric.name!r}", name, EXPLAINERS)
        several = "randomise" in metric.needs and not _WEIGHED & set(self.ranked)
        self.net: nn.Module = Convolutional(self.channels) if several else Additive()
        self.state = {k: v.clone() for k, v in self.net.state_dict().items()}
        # It compares a map with its batch, so one that is alone has no score.
        self.together = metric.family == "coherence"
        ends = self.ranked or ("oracle", "noise")
        self.best, self.worst = self.explainer(ends[0]), EXPLAINERS[ends[-1]]

    def explainer(self, name: str) -> Explainer:
        """The explainer of that name; the best one punishes who shows it another image.

        A metric that explains again, but not the sample's own image in all its channels, meets what
        it must rate worst: chaos, or the very map that it compares with.
        """
        found = EXPLAINERS[name]
        if self.metric.family == "robustness" and name == self.ranked[0]:
            return at_home(found, chaos)
        if self.metric.family == "randomisation" and name == self.ranked[0]:
            return at_home(found, self.unmoved)
        return found

    def unmoved(self, net: nn.Module, x: Tensor, target: Tensor, batch: Batch) -> Tensor:
        """The best explainer's map of the clean image, whatever is asked for."""
        return EXPLAINERS[self.ranked[0]](self.net, batch.x, batch.y, batch)

    def refusal(self) -> str:
        """Why the metric takes no images like these; empty if it does."""
        try:
            self.scores(planted(1, self.channels), self.best)
        except HeatproofError as error:
            return str(error)
        except Exception:  # noqa: BLE001  the first of the findings tells of it
            return ""
        return ""

    def scores(self, batch: Batch, explainer: Explainer) -> Scores:
        """What the metric says of one explainer."""
        return self.of(explained(self.net, batch, explainer))

    def of(self, sample: Explained) -> Scores:
        """What the metric says; every finite value is kept for the range."""
        found = score(self.metric, sample)
        self.said.append(found.value[np.isfinite(found.value)])
        return found

    def order(self) -> Iterator[Finding]:
        """The constructed explainers score in the card's order."""
        most = self.n if self.metric.family in _ARRAYS else min(self.n, _FEW)
        yield from self.ranking(self.ranked, planted(most, self.channels))
        # Where a sample scores the same in every batch, a smaller one says nothing new.
        for n in () if "batch" in self.metric.holds or self.together else (1, 3):
            ends = (*self.ranked[:1], *self.ranked[-1:])
            yield from self.ranking(ends, planted(n, self.channels))
        if "batch" not in self.metric.holds and self.metric.family != GAUGE:
            batch = planted(most, self.channels)
            found = self.mixed(batch, batch)
            yield self.better("first half", "second half", float(found[:most // 2].mean()),
                              float(found[most // 2:].mean()), "best and worst in one batch")

    def ranking(self, names: tuple[str, ...], batch: Batch) -> Iterator[Finding]:
        """Each of these explainers has a better mean score than the next."""
        means = [self.mean(self.scores(batch, self.explainer(name))) for name in names]
        if self.metric.family == "classifier":
            sample = explained(self.net, batch, oracle)
            names = ("right and sure", "wrong and unsure")
            means = [self.mean(self.of(replace(sample, logits=logits)))
                     for logits in _logits(batch)]
        for k in range(len(means) - 1):
            yield self.better(names[k], names[k + 1], means[k], means[k + 1],
                              f"batch of {len(batch)}")

    @staticmethod
    def mean(found: Scores) -> float:
        return float(found.value.mean())

    def better(self, one: str, other: str, good: float, bad: float, where: str) -> Finding:
        gap = good - bad if self.metric.better == "higher" else bad - good
        return Finding(f"{one} against {other}, {where}",
                       f"{one} better ({self.metric.better}) than {other}",
                       f"{one} {good:.4g}, {other} {bad:.4g}", gap > _CLOSE)

    def border(self) -> Iterator[Finding]:
        """At each side of the mask, a line just inside beats the line just outside, and left and
        right are alike.
        """
        if "mask" not in self.metric.needs or self.metric.family not in (
                "localisation", "segmentation"):
            return
        batch = planted(_FEW, self.channels)
        assert batch.mask is not None
        drawn = in_logits(noise)  # a unit in which a fixed threshold leaves something
        if self.metric.track != "paper":  # a paper's own definition may be lopsided
            value = self.scores(batch, drawn).value
            other = self.scores(replace(batch, mask=batch.mask.flip(2)), mirrored(drawn)).value
            yield Finding("map and mask mirrored", "the same score", _apart(value, other),
                          _same(value, other))
        # The masks are quadrants, the one truth that every metric of a mask can see.
        batch = planted(CLASSES, self.channels)
        inner = torch.zeros(CLASSES, SIZE, SIZE)
        for k, (down, right) in enumerate(((0, 0), (0, 1), (1, 0), (1, 1))):
            inner[k, 8 * down:8 * down + 8, 8 * right:8 * right + 8] = 1
        for side, step in {"left": (0, -1), "right": (0, 1), "top": (-1, 0),
                           "bottom": (1, 0)}.items():
            beyond = _moved(inner, *step) * (1 - inner)
            within = inner * (1 - _moved(inner, -step[0], -step[1]))
            masked = replace(batch, mask=inner.to(torch.uint8))
            good, bad = (self.mean(self.scores(masked, in_logits(_classwise(lines))))
                         for lines in (within, beyond))
            yield self.better("inside", "outside", good, bad, f"the mask's {side} border")

    def batch(self) -> Iterator[Finding]:
        """The same call gives the same bits, and a sample scores alike in every batch."""
        whole = planted(self.n, self.channels)
        few = whole if self.together else whole[[0, 1, self.n - 1]]
        # The samples differ in score and unit, so any statistic over the batch would move them.
        found, again = (self.mixed(few, whole, units=True) for _ in range(2))
        yield Finding("the same call again", "the same bits", _apart(found, again),
                      _same(found, again, 0))
        if "batch" not in self.metric.holds:
            return
        one = self.mixed(whole[[self.n - 1]], whole, units=True)
        many = self.mixed(whole, whole, units=True)
        for n, value, other in ((1, one, many[[-1]]), (3, found, many[[0, 1, -1]])):
            yield Finding(f"batch of {n} and of {self.n}", "a sample scores the same in both",
                          _apart(value, other), _same(value, other))

    def mixed(self, batch: Batch, whole: Batch, *, units: bool = False) -> Values:
        """The scores of a part of `whole`, whose first half is explained best, the rest worst.

        A classifier is right on the first half alone. units: whether the maps differ in unit too.
        """
        rest = dict.fromkeys(whole.key[len(whole) // 2:], self.worst)
        explainer = by_sample(self.best, rest)
        sample = explained(self.net, batch, scaled(explainer) if units else explainer)
        if self.metric.family == "classifier":
            right = torch.tensor([key not in rest for key in batch.key])
            sample = replace(sample, logits=torch.where(right[:, None], *_logits(batch)))
        return self.of(sample).value

    def scale(self) -> Iterator[Finding]:
        """A map in other units scores the same."""
        if "scale" not in self.metric.holds:
            return
        batch = planted(6, self.channels)
        plain, other = (self.mixed(batch, batch, units=units) for units in (False, True))
        yield Finding("maps in other units", "the same score", _apart(plain, other),
                      _same(plain, other))

    def flawed(self) -> Iterator[Finding]:
        """A flawed map has a number or a reason, and no other sample suffers from it."""
        batch = planted(_FEW if self.together else len(_FLAWS) + 3, self.channels)
        assert batch.mask is not None
        place = {kind: i for i, kind in enumerate(_FLAWS, start=1)}
        batch.mask[place["empty mask"]] = 0
        explainer = by_sample(self.best, {
            batch.key[i]: _spoilt(self.best, kind) for kind, i in place.items()})
        found = self.scores(batch, explainer)
        sound = self.scores(planted(len(batch), self.channels), self.best).value
        for kind, i in place.items():
            yield _verdict(self.metric, kind, found.value[i], found.reason[i], sound[i])
        good = [i for i in range(len(batch)) if i not in place.values()]
        alone = list(place.values())
        again = self.scores(batch[alone], explainer).value
        if "batch" in self.metric.holds:
            yield Finding("beside flawed maps", "the others score as ever",
                          _apart(found.value[good], sound[good]),
                          _same(found.value[good], sound[good]))
            yield Finding("flawed maps alone", "they score as in company",
                          _apart(again, found.value[alone]), _same(again, found.value[alone]))

    def within(self) -> Iterator[Finding]:
        """Every value that was given lies in the range that the card names, where it is numbers."""
        said_of = self.metric.params.get("output", "probability")
        if "probabilit" in self.metric.range and said_of != "probability":
            return  # the card names the range of probabilities alone
        if bounds := interval(self.metric.range):
            said = np.concatenate([np.empty(0), *self.said])
            low, high = (said.min(), said.max()) if len(said) else (math.nan, math.nan)
            yield Finding("range", f"every value in {self.metric.range}",
                          f"{low:.4g} to {high:.4g}",
                          bool(bounds[0] - _CLOSE <= low and high <= bounds[1] + _CLOSE))

    def untouched(self) -> Iterator[Finding]:
        """The network has its weights and its mode."""
        changed = [k for k, v in self.net.state_dict().items() if not torch.equal(v, self.state[k])]
        yield Finding("the network", "its weights and mode are as they were", ", ".join(changed),
                      not changed and not self.net.training)


def interval(text: str) -> tuple[float, float] | None:
    """The bounds of a range such as "[0, 1]"; one that is no number is open; None if it is none."""
    found = _INTERVAL.match(text)
    if not found:
        return None
    low, high = (part and part.replace("−", "-").replace("∞", "inf") for part in found.groups())
    return float(low), float(high) if high else math.inf


def _spoilt(best: Explainer, kind: str) -> Explainer:
    """An explainer whose every map has one flaw; "signed" is none: the evidence has two signs."""
    def explain(net: nn.Module, x: Tensor, target: Tensor, batch: Batch) -> Tensor:
        maps = best(net, x, target, batch).clone()
        peak = maps.abs().amax((1, 2), keepdim=True)
        if kind == "constant":
            maps[:] = 0.5
        elif kind == "zero":
            maps[:] = 0
        elif kind == "negative":
            maps -= 2 * peak
        elif kind == "signed":
            maps -= peak / 3
        elif kind in ("NaN", "infinite"):
            maps[:, SIZE // 2, SIZE // 2] = math.nan if kind == "NaN" else math.inf
        return maps
    return explain


def _verdict(
    metric: Metric, kind: str, value: float, reason: str | None, sound: float,
) -> Finding:
    blind = metric.family in ("classifier", GAUGE) and _same(np.array([value]), np.array([sound]))
    told = bool(np.isnan(value)) and reason not in (None, "not finite")
    if kind == "signed":
        expected, fine = "a number", bool(np.isfinite(value))
    elif kind in ("NaN", "infinite"):
        expected, fine = "a reason, or a score that reads no map", told or blind
    elif kind == "empty mask":
        needed = "mask" in metric.needs
        expected = "a reason" if needed else "a number or a reason"
        fine = told or not needed
    else:
        expected, fine = "a number or a reason", told or bool(np.isfinite(value))
    name = kind if kind == "empty mask" else f"{kind} map"
    return Finding(name, expected, reason or f"{value:.4g}", fine)


def _logits(batch: Batch) -> tuple[Tensor, Tensor]:
    """Logits (n, 4) that are right and sure, and such that are wrong and unsure."""
    right = functional.one_hot(batch.y, CLASSES).float()
    return 10 * right, 0.1 * right.roll(1, 1)


def _classwise(maps: Tensor) -> Explainer:
    """The map (4, 16, 16) of the class, whatever the image."""
    def explain(net: nn.Module, x: Tensor, target: Tensor, batch: Batch) -> Tensor:  # noqa: ARG001
        return maps[target]
    return explain


def _moved(maps: Tensor, down: int, right: int) -> Tensor:
    return maps.roll((down, right), (1, 2))


def _same(one: Values, other: Values, close: float = _CLOSE) -> bool:
    """Whether two scores of each sample agree, NaN with NaN, and one of them is a number."""
    return bool(np.allclose(one, other, rtol=close, atol=close, equal_nan=True)
                and np.isfinite(one).any())


def _apart(one: Values, other: Values) -> str:
    if (np.isnan(one) != np.isnan(other)).any():
        return "a number once, NaN once"
    gap = np.abs(one - other)[np.isfinite(one)]
    return f"{gap.max():.1e} apart" if len(gap) else "no number"
