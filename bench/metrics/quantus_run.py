"""Quantus behind our Metric: one adapter, which calls Quantus 0.6.0 unmodified.

What it guards against is listed, with evidence, in the project's notes on Quantus: each trap has
its reason beside the line that avoids it.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from bench.core import HeatproofError
from bench.measure import Explained, Scores
from bench.metrics.evidence import ramp
from bench.metrics.maps import Array, Converted, Kind, converted, objects, spread

QUANTUS = "0.6.0"
"""The release whose numbers these are; they change between releases."""
_PASS = 64
"""Images in one forward pass. Quantus is given all samples as one batch, since its draws depend on
the batch size; the network need not be."""

Arguments = Callable[[Explained, Mapping[str, Any]], dict[str, Any]]
Reducer = Callable[[Any, Array], tuple[Array, Array | None]]


@dataclass(frozen=True)
class QuantusMetric:
    """One of Quantus's metrics, as `score(explained, **params)`.

    quantus: the name of its class. maps: what it is given, a kind of `maps.converted`. arguments:
    its constructor's keywords, from the explained batch and our parameters. reduce: its answer and
    which re-explanations were flawed (calls, N), to one value and perhaps a curve a sample.
    needs: as in Metric. layout: "image" (N, C, H, W), or "pixels": (N, 1, H, W·C), channels
    innermost, for what sorts features. undefined: the reason for a NaN of Quantus's own making.
    """

    quantus: str
    maps: Kind
    arguments: Arguments
    reduce: Reducer
    undefined: str
    needs: tuple[str, ...] = ()
    layout: Literal["image", "pixels"] = "image"

    def __call__(self, explained: Explained, **params: Any) -> Scores:
        """What Quantus says, one value a sample, in the batch's order.

        Raises HeatproofError for another release of Quantus or parameters that do not fit the
        images; whatever Quantus raises is let through.
        """
        call = _Call(self, explained)
        if all(call.reason):
            return Scores(np.full(len(call.reason), np.nan), tuple(call.reason))
        answer = call.answer(**self.arguments(explained, params))
        value, curve = self.reduce(answer, np.array(call.flawed, bool).reshape(-1, call.size))
        value = np.asarray(value, np.float64)[:call.n]
        for i in np.flatnonzero(~np.isfinite(value)):
            call.reason[i] = call.reason[i] or call.later[i] or self.undefined
        return Scores(value, tuple(call.reason), None if curve is None else curve[:call.n])


@dataclass
class _Call:
    """One call of Quantus: what goes in, and what is learnt of each sample on the way."""

    row: QuantusMetric
    explained: Explained
    reason: list[str | None] = field(init=False)
    """Why a sample has no score, known before the call."""
    later: list[str | None] = field(init=False)
    """What was wrong with a sample's map when it was explained again."""
    flawed: list[list[bool]] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        batch = self.explained.batch
        self.n = len(batch)
        self.grid: tuple[int, int] = (batch.x.shape[2], batch.x.shape[3])
        # Quantus refuses a batch whose values are all negative, or all the same. Maps that keep
        # their sign are therefore joined by a witness, a ramp in the last place, where it moves
        # nobody's draws; its score is cut off.
        self.witness = self.row.maps in ("signed", "raw")
        self.size = self.n + self.witness
        self.object, self.ignore, truth = objects(batch.mask, self.n, self.grid)
        self.localises = "mask" in self.row.needs
        maps = self.convert(self.explained.maps, ignore=self.ignore if self.localises else None)
        self.array = maps.array
        self.reason = [
            (truth.flaw[i] if self.localises else None) or flaw for i, flaw in enumerate(maps.flaw)]
        self.later = [None] * self.n

    def convert(self, maps: Tensor, **options: Any) -> Converted:
        return converted(maps, self.grid, self.row.maps, self.explained.batch.seed, **options)

    def answer(self, **arguments: Any) -> Any:
        """What the metric returns: all samples as one batch, and the witness where there is one."""
        quantus = _quantus()
        x = self.explained.batch.x.detach().cpu().numpy()
        y = self.explained.target.detach().cpu().numpy()
        channels = x.shape[1]
        maps = self.array
        if self.row.layout == "pixels":
            x, maps = _interleaved(x), spread(maps, channels)
        lent = _Lent(self.explained.network, channels if self.row.layout == "pixels" else 0)
        options: dict[str, Any] = {"s_batch": self.object} if self.localises else {}
        if {"explain", "randomise"} & set(self.row.needs):
            # A fresh dict: Quantus writes the device into it.
            options |= {"explain_func": self.explain, "explain_func_kwargs": {}}
        try:
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")
                measure = getattr(quantus, self.row.quantus)(**arguments)
                return measure(
                    model=lent, x_batch=self.witnessed(x, x[:1]), y_batch=self.witnessed(y, y[:1]),
                    a_batch=self.witnessed(maps, ramp(self.grid)[None, None].numpy()),
                    # Otherwise guessed from the shape, and left on the CPU.
                    channel_first=True, device=str(self.explained.device),
                    batch_size=self.size, **options)
        finally:
            lent.give_back()

    def witnessed(self, array: Array, witness: Array) -> Array:
        """The array with the witness in the last place, if this call has one."""
        return np.concatenate([array, witness.astype(array.dtype)]) if self.witness else array

    def explain(self, model: nn.Module, inputs: Array, targets: Array, **_: Any) -> Array:
        """What Quantus calls to explain again: other images, targets or weights."""
        device = self.explained.device
        maps = self.explained.explain(
            net=model.network if isinstance(model, _Lent) else model,
            x=torch.tensor(inputs[:self.n], dtype=torch.float32, device=device),
            target=torch.tensor(targets[:self.n], dtype=torch.int64, device=device))
        # The distance to a constant map is sound; a correlation with one is not.
        again = self.convert(maps, constant=self.row.maps == "raw")
        self.flawed.append([bool(flaw) for flaw in again.flaw] + [False] * self.witness)
        self.later = [
            old or (f"explained again: {new}" if new else None)
            for old, new in zip(self.later, again.flaw, strict=True)]
        return self.witnessed(again.array, ramp(self.grid)[None, None].numpy())


class _Lent(nn.Module):
    """A network that Quantus may use but not keep: its wrapper's lru_cache never lets go."""

    def __init__(self, network: nn.Module, channels: int) -> None:
        super().__init__()
        self.network = network
        # Quantus looks for a Softmax as the last of all modules, and would copy the network.
        self.last = nn.Identity()
        self.channels = channels
        # Quantus reads this flag; `eval()` would touch the network's own.
        self.training = False

    def forward(self, x: Tensor) -> Tensor:
        if self.channels:
            n, _, height, width = x.shape
            x = x.reshape(n, height, width // self.channels, self.channels).permute(0, 3, 1, 2)
        return torch.cat([self.network(part.contiguous()) for part in torch.split(x, _PASS)])

    def give_back(self) -> None:
        """Lets go of the network."""
        self.network = nn.Identity()


def one_value(answer: Any, flawed: Array) -> tuple[Array, None]:
    """The value itself, NaN where any map that was explained again is flawed."""
    value = np.array(answer, np.float64)
    value[flawed.any(0)] = np.nan
    return value, None


def mean_of_curve(answer: Any, flawed: Array) -> tuple[Array, Array]:  # noqa: ARG001
    """The mean over the steps of each sample's curve: free of the number of steps."""
    curve = np.array(answer, np.float64)
    return curve.mean(1), curve


def mean_over_layers(answer: Any, flawed: Array) -> tuple[Array, Array]:
    """The mean over the randomised layers, without 'original', which compares a map with itself.

    A step whose map is flawed (a dead layer gives a constant one) is left out of that sample's
    mean, and is NaN in its curve.
    """
    layers = [values for layer, values in answer.items() if layer != "original"]
    steps = np.array(layers, np.float64).reshape(len(layers), flawed.shape[1])
    steps[flawed[1:]] = np.nan
    known = np.isfinite(steps)
    count = known.sum(0)
    total = np.where(known, steps, 0.0).sum(0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan), steps.T


def _quantus() -> Any:
    found = importlib.metadata.version("quantus")
    if found != QUANTUS:
        raise HeatproofError(
            f"the Quantus track is measured with quantus {QUANTUS}, not {found}; "
            f"pip install quantus=={QUANTUS}")
    # Not at the top: the import takes seconds, and the names of the metrics are wanted without it.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module("quantus")


def _interleaved(x: Array) -> Array:
    n, channels, height, width = x.shape
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1)).reshape(n, 1, height, width * channels)
