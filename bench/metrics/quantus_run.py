"""Quantus behind our Metric: one adapter, which calls Quantus 0.6.0 unmodified.

What it guards against is listed, with evidence, in QUANTUS.md: each trap has its reason beside the
line that avoids it.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import warnings
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, field, replace
from io import StringIO
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from bench.core import HeatproofError, number_from, unknown
from bench.measure import Explained, Scores
from bench.metrics.evidence import Part, ramp, upsampled
from bench.metrics.maps import Array, Converted, converted, objects, spread
from bench.metrics.quantus_keywords import function
from bench.metrics.quantus_lend import Fronted, Lent, first_layer, older_numpy
from bench.metrics.quantus_reduce import Reducer
from bench.randomness import seeded

QUANTUS = "0.6.0"
"""The release whose numbers these are; they change between releases."""
_PASS = 64
"""Images in one forward pass. Quantus is given all samples as one batch, since its draws depend on
the batch size; the network need not be."""
_TIE = 2.0**-33
"""How far apart tied values are pulled, as a share of the map's peak."""

Derived = Callable[[Explained, Mapping[str, Any]], Any]


@dataclass(frozen=True)
class QuantusMetric:
    """One of Quantus's metrics, as `score(explained, **params)`.

    quantus: the name of its class. keywords: those of its constructor that are parameters; one that
    is None is left to Quantus, or is derived from the images and our own parameters by the
    function of that name in `derived`. maps: what it is given, beside what its keywords `abs` and
    `normalise` say (`_Call.part`): "values"; "distinct" values, whose ties are pulled apart in an
    order drawn from the sample's seed, or "ranks" in (0, 1], for what sorts (Quantus sorts
    unstably: else the CPU's instruction set would break the ties). clips: whether it counts
    positive evidence alone. distance: whether it measures how far a map moves, so that one that
    turns constant when it is explained again is sound. layout: "image" (N, C, H, W), or "pixels":
    (N, 1, H, W·C), channels innermost, for what takes features in steps, or "features": the maps
    (N, C, H, W), channels ranked one after the other. apart: how one sample is kept from the
    others: "together", not at all; "batches", by batches of one; "calls", by a call each, seeded
    from the sample. lend: the network "wrapped", "whole" (in one pass) or "fronted"
    (by a layer that Quantus may shift). reduce: by name, the ways from its answer, and from which
    re-explanations were flawed (calls, N), to one value and perhaps a curve a sample; the parameter
    `reduce` chooses where there are several. needs: as in Metric. undefined: the reason for a NaN
    of Quantus's own making.
    """

    quantus: str
    keywords: tuple[str, ...]
    reduce: Mapping[str, Reducer]
    maps: Literal["values", "distinct", "ranks"] = "values"
    derived: Mapping[str, Derived] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    layout: Literal["image", "pixels", "features"] = "image"
    apart: Literal["together", "batches", "calls"] = "together"
    lend: Literal["wrapped", "whole", "fronted"] = "wrapped"
    clips: bool = False
    distance: bool = False
    quadrants: bool = False
    """Whether it is told in which quadrants the object lies."""
    undefined: str = "Quantus gave no number"

    def __call__(self, explained: Explained, **params: Any) -> Scores:
        """What Quantus says, one value a sample, in the batch's order.

        Raises HeatproofError for another release of Quantus or parameters that do not fit the
        images; whatever Quantus raises is let through.
        """
        name = params.get("reduce", next(iter(self.reduce)))
        if name not in self.reduce:
            raise unknown(f"reducer of metric 'quantus/{self.quantus}'", name, self.reduce)
        reduce = self.reduce[name]
        if self.apart == "calls":
            return _joined([self._alone(explained, i, params, reduce)
                            for i in range(len(explained.maps))])
        return self._scored(explained, params, reduce)

    def _scored(
        self, explained: Explained, params: Mapping[str, Any], reduce: Reducer,
    ) -> Scores:
        call = _Call(self, explained, params)
        if all(call.reason):
            return Scores(np.full(len(call.reason), np.nan), tuple(call.reason))
        answer = call.answer()
        value, curve = reduce(answer, np.array(call.flawed, bool).reshape(-1, call.size))
        value = np.asarray(value, np.float64)[:call.n]
        for i in np.flatnonzero(~np.isfinite(value)):
            call.reason[i] = call.reason[i] or call.later[i] or self.undefined
        return Scores(value, tuple(call.reason), None if curve is None else curve[:call.n])

    def _alone(
        self, explained: Explained, i: int, params: Mapping[str, Any], reduce: Reducer,
    ) -> Scores:
        part = replace(explained, batch=explained.batch[[i]], maps=explained.maps[[i]],
                       logits=explained.logits[[i]], target=explained.target[[i]])
        with seeded(number_from(self.quantus, int(explained.batch.seed[i]))):
            return self._scored(part, params, reduce)


@dataclass
class _Call:
    """One call of Quantus: what goes in, and what is learnt of each sample on the way."""

    row: QuantusMetric
    explained: Explained
    params: Mapping[str, Any]
    reason: list[str | None] = field(init=False)
    """Why a sample has no score, known before the call."""
    later: list[str | None] = field(init=False)
    """What was wrong with a sample's map when it was explained again."""
    flawed: list[list[bool]] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        batch = self.explained.batch
        self.n = len(batch)
        self.grid: tuple[int, int] = (batch.x.shape[2], batch.x.shape[3])
        # Quantus refuses a batch whose values are all negative, or all the same. Maps that may be
        # so are therefore joined by a witness, a ramp in the last place, where it moves nobody's
        # draws; its score is cut off.
        self.witness = self.row.maps != "ranks" and (
            self.part in ("signed", "raw") or self.row.distance)
        self.size = self.n + self.witness
        self.object, self.ignore, truth = objects(batch.mask, self.n, self.grid)
        self.localises = "mask" in self.row.needs
        self.array, flaw = self.convert(
            self.explained.maps, ignore=self.ignore if self.localises else None)
        wide = [self.row.quadrants and bool(row.all()) for row in _quadrants(self.object)]
        self.reason = [
            (truth.flaw[i] if self.localises else None) or flaw[i]
            or ("the object lies in every quadrant" if wide[i] else None) for i in range(self.n)]
        if self.row.lend == "fronted" and first_layer(self.explained.network, batch.x[:1]) is None:
            why = "the network's first layer is not given its image, so no shift can be taken back"
            self.reason = [flaw or why for flaw in self.reason]
        self.later = [None] * self.n

    @property
    def part(self) -> Part:
        """Which part of the maps it is given.

        Where Quantus would divide by the largest value of the whole array, every map comes in
        units of its own peak, so that no score depends on who else is in the batch; where it would
        not, the maps come as they are.
        """
        if not self.params["abs"] and (
                self.row.clips or self.params.get("positive_attributions", False)):
            return "positive"
        if not self.params["normalise"]:
            return "raw"
        return "absolute" if self.params["abs"] else "signed"

    def convert(
        self, maps: Tensor, *, ignore: Array | None = None, constant: bool = False,
    ) -> tuple[Array, tuple[str | None, ...]]:
        """The maps as this metric takes them, (N, 1, H, W), and each one's flaw."""
        seed = self.explained.batch.seed
        maps = maps.cpu()
        if self.row.maps == "values":
            found = converted(maps, self.grid, self.part, seed, ignore=ignore, constant=constant)
            return found.array, found.flaw
        if self.params["abs"]:
            maps = upsampled(maps, self.grid).abs()
        ranks = converted(maps, self.grid, "ranks", seed, ignore=ignore)
        if self.row.maps == "ranks":
            return ranks.array, ranks.flaw
        found = converted(maps, self.grid, self.part, seed, ignore=ignore)
        return self.distinct(found, ranks), found.flaw

    def distinct(self, values: Converted, ranks: Converted) -> Array:
        """The values with their ties pulled apart, by far less than the values tell apart.

        By the ranks' roots, since sums of ranks tie again where patches are compared.
        """
        peak = np.abs(values.array).max((1, 2, 3), keepdims=True)
        return np.asarray(values.array + _TIE * peak * np.sqrt(ranks.array))

    def answer(self) -> Any:
        """What the metric returns: all samples as one batch, and the witness where there is one."""
        quantus = _quantus()
        x = self.explained.batch.x.detach().cpu().numpy()
        y = self.explained.target.detach().cpu().numpy()
        maps, channels = self.array, x.shape[1]
        if self.row.layout == "pixels":
            x = _interleaved(x)
            maps = spread(maps, channels) if self.row.maps == "ranks" else np.repeat(
                maps, channels, axis=3)
        elif self.row.layout == "features":
            maps = spread(maps, channels).reshape(self.n, *self.grid, channels)
            maps = maps.transpose(0, 3, 1, 2)
        lent = Lent(self.explained.network, channels if self.row.layout == "pixels" else 0,
                     self.size if self.row.lend == "whole" else _PASS)
        model = Fronted(self.explained.network, channels) if self.row.lend == "fronted" else lent
        try:
            with warnings.catch_warnings(), np.errstate(all="ignore"), older_numpy():
                warnings.simplefilter("ignore")
                with redirect_stdout(StringIO()):   # it prints advice on parameters
                    measure = getattr(quantus, self.row.quantus)(**self.arguments())
                return measure(
                    model=model, x_batch=self.witnessed(x, x[:1]),
                    y_batch=self.witnessed(y, y[:1]),
                    a_batch=self.witnessed(maps, ramp(self.grid)[None, None].numpy()),
                    # Otherwise guessed from the shape, and left on the CPU.
                    channel_first=True, device=str(self.explained.device),
                    batch_size=1 if self.row.apart == "batches" else self.size, **self.options())
        finally:
            lent.give_back()

    def arguments(self) -> dict[str, Any]:
        """The keywords of Quantus's constructor: functions found by their names, the derived ones.

        Dicts are copied, since Quantus writes into them.
        """
        # Some of Quantus's metrics pool the batch unless told otherwise.
        given: dict[str, Any] = {"return_aggregate": False}
        for key in self.row.keywords:
            value = self.params[key]
            if value is None and key in self.row.derived:
                value = self.row.derived[key](self.explained, self.params)
            if value is not None:
                given[key] = dict(value) if isinstance(value, Mapping) else function(key, value)
        return given

    def options(self) -> dict[str, Any]:
        """The keywords of the call that not all metrics take alike."""
        options: dict[str, Any] = {}
        if "softmax" in self.params:
            options["softmax"] = self.params["softmax"]
        if self.localises:
            options["s_batch"] = self.witnessed(self.object, self.object[:1])
        if self.row.quadrants:
            options["custom_batch"] = self.witnessed(
                _quadrants(self.object), np.ones((1, 4), np.int64))
        if {"explain", "randomise"} & set(self.row.needs):
            # A fresh dict: Quantus writes the device into it.
            options |= {"explain_func": self.explain, "explain_func_kwargs": {}}
        return options

    def witnessed(self, array: Array, witness: Array) -> Array:
        """The array with the witness in the last place, if this call has one."""
        if not self.witness:
            return array
        shape = (1, *array.shape[1:])
        return np.concatenate([array, np.resize(witness, shape).astype(array.dtype)])

    def explain(self, model: nn.Module, inputs: Array, targets: Array, **_: Any) -> Array:
        """What Quantus calls to explain again: other images, targets or weights."""
        device = self.explained.device
        x = torch.tensor(inputs[:self.n], dtype=torch.float32, device=device)
        net = model.network if isinstance(model, Lent) else model
        if isinstance(model, Fronted):
            net = model.shifted(self.explained.batch.x[:1])
        maps = self.explained.explain(
            net=net, x=x,
            target=torch.tensor(targets[:self.n], dtype=torch.int64, device=device))
        array, flaw = self.convert(maps, constant=self.row.distance)
        self.flawed.append([bool(why) for why in flaw] + [False] * self.witness)
        self.later = [
            old or (f"explained again: {new}" if new else None)
            for old, new in zip(self.later, flaw, strict=True)]
        return self.witnessed(array, ramp(self.grid)[None, None].numpy())


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


def _quadrants(inside: Array) -> Array:
    """Whether the object (N, 1, H, W) reaches into each quadrant, top first: (N, 4) of 0 and 1."""
    top, left = inside.shape[2] // 2, inside.shape[3] // 2
    parts = (inside[:, 0, :top, :left], inside[:, 0, :top, left:],
             inside[:, 0, top:, :left], inside[:, 0, top:, left:])
    return np.stack([part.any((1, 2)) for part in parts], 1).astype(np.int64)


def _joined(parts: list[Scores]) -> Scores:
    """Calls of one sample each, put together; a sample that has no curve has one of NaN."""
    steps = max((part.curve.shape[1] for part in parts if part.curve is not None), default=0)
    blank = np.full((1, steps), np.nan)
    return Scores(
        np.concatenate([part.value for part in parts]),
        tuple(reason for part in parts for reason in part.reason),
        np.concatenate([blank if part.curve is None else part.curve for part in parts])
        if steps else None)
