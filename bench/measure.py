"""The nouns of scoring: what a metric sees, what it answers, and what is known of it. No torch."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from bench.core import unknown
from bench.shared import Shared

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

    from bench.core import Batch

T = TypeVar("T")

GAUGE = "gauge"
"""The family of what measures a measure (an operator, the truth, a metric); it is never ranked."""

FAMILIES = ("faithfulness", "localisation", "segmentation", "randomisation", "complexity",
            "robustness", "axiomatic", "coherence", GAUGE, "classifier")


@dataclass(frozen=True)
class Explained:
    """All that a metric may see: one network, its evaluation batch, and one method's maps.

    logits: (N, classes) of the clean images; target: (N,) the class that was explained;
    maps: (N, h, w) native. `explain` maps other images, targets or networks in the same way:
    `explain(net=None, x=None, target=None, index=None) -> (n, h, w)`, with the batch's own seeds
    and masks; `index` says which samples of the batch are meant, by default all.
    validation: makes the same for images that are neither trained nor scored on, where a metric
    may choose its own settings; None where the data set has none.
    unit: one standard deviation of this network's logits of the explained class over all images
    that are evaluated, for outputs that are compared across networks.
    shared: what does not depend on the map, for all contestants of a network that are given the
    same one (`bench.metrics.sharing`). quick: whether a quicker copy may answer for the network.
    """

    network: nn.Module
    batch: Batch
    logits: Tensor
    target: Tensor
    maps: Tensor
    explain: Callable[..., Tensor]
    classes: int
    device: str = "cpu"
    validation: Callable[[], Explained] | None = None
    unit: float = 1.0
    shared: Shared = field(default_factory=Shared, repr=False, compare=False)
    quick: bool = True
    # Not an argument: `replace(explained, maps=...)` must not inherit what other maps gave.
    _made: dict[Hashable, Any] = field(init=False, repr=False, compare=False, default_factory=dict)

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """What `make` gives, made once for all the metrics that ask under this key.

        The key names the run and every parameter that its result depends on.
        """
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]  # type: ignore[no-any-return]

    def apart(self) -> Explained:
        """The same, with nothing made yet, nothing shared and no quicker copy of the network."""
        made = self.validation
        return replace(self, shared=Shared(0), quick=False,
                       validation=made and (lambda: made().apart()))


@dataclass(frozen=True)
class Scores:
    """One metric's answer: a float64 a sample, NaN with a reason where there is none.

    value: (N,); reason: N strings or None; curve: (N, K) or None, what the value was reduced from.
    """

    value: np.ndarray[Any, np.dtype[np.float64]]
    reason: tuple[str | None, ...]
    curve: np.ndarray[Any, np.dtype[np.float64]] | None = None


@dataclass(frozen=True)
class Metric:
    """One measure and its card, with our own direction, proven by a known-answer test.

    family: one of FAMILIES. better: "higher" or "lower". needs: of "mask", "explain", "randomise".
    track: "proven", "quantus", "parity", "fair" or "paper".
    about: what it says, in words; formula: in symbols; range, units: of one sample's value;
    passes: its cost a sample, such as "steps + 1 forward"; paper: where it comes from;
    departures: from Quantus, each with its reason. order: constructed explainers of the lab of
    known answers, best first, that it must rank so; none named is its family's order. holds: what
    else the lab verifies: "batch" (a sample scores the same in every batch), "scale" (a map times
    a positive number scores the same). defect: why it is refused unless a suite forces it.
    `score(explained, **params)` returns Scores. A change of what it measures raises `version`.
    """

    name: str
    title: str
    family: str
    better: Literal["higher", "lower"]
    score: Callable[..., Scores] = field(repr=False, compare=False)
    needs: tuple[str, ...] = ()
    params: Mapping[str, Any] = field(default_factory=dict)
    version: str = "1"
    paper: str = ""
    about: str = ""
    track: str = "proven"
    formula: str = ""
    range: str = ""
    units: str = ""
    passes: str = ""
    departures: tuple[str, ...] = ()
    order: tuple[str, ...] = ()
    holds: tuple[str, ...] = ()
    defect: str = ""

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise unknown(f"family of metric {self.name!r}", self.family, FAMILIES)

    def facts(self) -> dict[str, Any]:
        """What a reader of results must know of it, ready for JSON."""
        return {f.name: _plain(getattr(self, f.name)) for f in fields(self) if f.name != "score"}

    def with_params(self, given: Mapping[str, Any]) -> Metric:
        """The same metric with some parameters set. Raises for a parameter that it has not."""
        for key in given:
            if key not in self.params:
                raise unknown(f"parameter of metric {self.name!r}", key, self.params)
        return replace(self, params={**self.params, **given})


_ENDS = re.compile(r"[\[(]([−-]?(?:\d+(?:\.\d+)?|∞)), ([−-]?(?:\d+(?:\.\d+)?|∞))[\])]")


def ends(told: str) -> tuple[float, float]:
    """The least and the largest value of a metric, by its range in words; infinite where unknown.

    An interval from few seeds may reach further than any value can.
    """
    if not (found := _ENDS.match(told)):
        return -math.inf, math.inf
    low, high = (float(end.replace("−", "-").replace("∞", "inf")) for end in found.groups())
    return low, high


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, tuple | list) else value
