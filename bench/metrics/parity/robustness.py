"""Quantus's robustness, by our engine: its noise, its norms, its maps scaled together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bench.core import HeatproofError
from bench.measure import Explained, Scores
from bench.metrics.evidence import scores
from bench.metrics.parity.randomisation import Again
from bench.metrics.parity.rules import parity

_YEH = "Yeh et al. 2019, NeurIPS, arXiv:1901.09392"
_AGARWAL = "Agarwal et al. 2022, arXiv:2203.06877"
_ZERO = "the map is all zero"
_FLIPPED = "a draw changes the predicted class"


def uniform(x: Tensor, draws: int, low: float, high: float | None) -> Iterator[Tensor]:
    """The images with uniform noise, of ±low or from low to high, as Quantus draws it."""
    if high is not None and high <= low:
        raise HeatproofError(f"upper_bound must be above lower_bound {low}, not {high!r}")
    ends = (-low, low) if high is None else (low, high)
    for _ in range(draws):
        yield _added(x, np.random.uniform(*ends, size=(len(x), x[0].numel())))  # noqa: NPY002


def gaussian(x: Tensor, draws: int, mean: float, deviation: float) -> Iterator[Tensor]:
    """The images with normal noise, as Quantus draws it."""
    for _ in range(draws):
        noise = np.random.normal(mean, deviation, size=(len(x), x[0].numel()))  # noqa: NPY002
        yield _added(x, noise)


def _added(x: Tensor, noise: np.ndarray[Any, Any]) -> Tensor:
    # In float64, then kept as the images are.
    return (x + torch.from_numpy(noise).to(x.device).view(x.shape)).to(x.dtype)


@torch.no_grad()
def flipped(network: nn.Module, x: Tensor, shown: Tensor) -> Tensor:
    """Whether the network gives each image another class: (N,) bool."""
    changed: Tensor = network(x).argmax(1) != network(shown).argmax(1)
    return changed


def _stacked(
    explained: Explained, images: Iterator[Tensor], change: Callable[[Tensor], Tensor],
    strict: bool,
) -> Tensor:
    """`change` of each draw's images: (N, draws); NaN where strict and the class changed."""
    found = []
    for shown in images:
        value = change(shown)
        if strict:
            flip = flipped(explained.network, explained.batch.x, shown)
            value = value.masked_fill(flip, torch.nan)
        found.append(value)
    return torch.stack(found, 1)


_SENSITIVITY: Mapping[str, Any] = {
    "nr_samples": 200, "lower_bound": 0.2, "upper_bound": None, "abs": False, "normalise": False,
    "return_nan_when_prediction_changes": False}


def _sensitivity(
    explained: Explained, reduce: Callable[[Tensor], Tensor], *, nr_samples: int,
    lower_bound: float, upper_bound: float | None, return_nan_when_prediction_changes: bool,
    **maps: bool,
) -> Scores:
    again = Again(explained, **maps)
    own = again.given()
    length = torch.linalg.vector_norm(own, dim=1)
    changes = _stacked(
        explained, uniform(explained.batch.x, nr_samples, lower_bound, upper_bound),
        lambda x: torch.linalg.vector_norm(own - again.maps(x=x), dim=1) / length,
        return_nan_when_prediction_changes)
    return scores(reduce(changes), tuple(again.flaw), curve=changes,
                  undefined=_FLIPPED if return_nan_when_prediction_changes else _ZERO)


@parity(
    "MaxSensitivity", title="Max sensitivity", family="robustness", better="lower",
    needs=("explain",), params=_SENSITIVITY,
    about="Largest relative change of the map under uniform noise in units of the input.",
    formula="max_r ‖a − a(x + ε_r)‖ / ‖a‖", range="[0, ∞)", units="relative change",
    passes="nr_samples explanations", paper=_YEH)
def max_sensitivity(explained: Explained, **params: Any) -> Scores:
    """The largest relative change: (N,); the curve holds each draw's."""
    return _sensitivity(explained, lambda changes: changes.amax(1), **params)


@parity(
    "AvgSensitivity", title="Average sensitivity", family="robustness", better="lower",
    needs=("explain",), params=_SENSITIVITY,
    about="Mean relative change of the map under uniform noise in units of the input.",
    formula="1/R Σ_r ‖a − a(x + ε_r)‖ / ‖a‖", range="[0, ∞)", units="relative change",
    passes="nr_samples explanations", paper=_YEH)
def avg_sensitivity(explained: Explained, **params: Any) -> Scores:
    """The mean relative change: (N,); the curve holds each draw's."""
    return _sensitivity(explained, lambda changes: changes.mean(1), **params)


@parity(
    "LocalLipschitzEstimate", title="Local Lipschitz estimate", family="robustness",
    better="lower", needs=("explain",),
    params={"nr_samples": 200, "perturb_mean": 0.0, "perturb_std": 0.1, "abs": False,
            "normalise": True, "return_nan_when_prediction_changes": False},
    about="Largest change of the map per change of the image under normal noise. By default each "
          "set of maps is divided by its own largest value, so that the score mostly tells how "
          "that value moves.",
    formula="max_r ‖a − a(x + ε_r)‖ / (‖ε_r‖ + 10⁻¹⁰)", range="[0, ∞)",
    units="map per unit of the input", passes="nr_samples explanations",
    paper="Alvarez-Melis, Jaakkola 2018, arXiv:1806.08049")
def local_lipschitz_estimate(
    explained: Explained, *, nr_samples: int, perturb_mean: float, perturb_std: float,
    return_nan_when_prediction_changes: bool, **maps: bool,
) -> Scores:
    """The largest ratio: (N,); the curve holds each draw's."""
    again = Again(explained, **maps)
    own, x = again.given(), explained.batch.x

    def change(shown: Tensor) -> Tensor:
        moved = torch.linalg.vector_norm((x - shown).double().flatten(1), dim=1)
        ratio: Tensor = torch.linalg.vector_norm(own - again.maps(x=shown), dim=1) / (moved + 1e-10)
        return ratio

    changes = _stacked(explained, gaussian(x, nr_samples, perturb_mean, perturb_std), change,
                       return_nan_when_prediction_changes)
    return scores(changes.amax(1), tuple(again.flaw), curve=changes, undefined=_FLIPPED)


_RELATIVE: Mapping[str, Any] = {
    "nr_samples": 200, "lower_bound": 0.02, "upper_bound": 0.2, "abs": False, "normalise": False,
    "eps_min": 1e-6, "return_nan_when_prediction_changes": True}


def _relative(
    explained: Explained, moved: Callable[[Tensor], Tensor], *, nr_samples: int,
    lower_bound: float, upper_bound: float | None, normalise: bool, eps_min: float,
    return_nan_when_prediction_changes: bool, **maps: bool,
) -> Scores:
    """The largest relative change of the map over `moved` of the images: (N,)."""
    again = Again(explained, abs=False, normalise=False)

    def prepared(values: Tensor) -> Tensor:
        if normalise:  # by the second moment of all maps together
            values = values / values.square().mean().sqrt()
        return values.abs() if maps["abs"] else values

    own = prepared(again.given())

    def change(shown: Tensor) -> Tensor:
        part = _share(own, prepared(again.maps(x=shown)), eps_min)
        below = moved(shown)
        return part / torch.where(below == 0, eps_min, below)

    changes = _stacked(explained, uniform(explained.batch.x, nr_samples, lower_bound, upper_bound),
                       change, return_nan_when_prediction_changes)
    return scores(changes.amax(1), tuple(again.flaw), curve=changes, undefined=_FLIPPED)


def _share(a: Tensor, b: Tensor, eps: float) -> Tensor:
    """‖(a − b) / a‖ of rows (N, P), a zero of a replaced by eps: (N,) float64."""
    a, b = a.double(), b.double()
    share: Tensor = torch.linalg.vector_norm((a - b) / torch.where(a == 0, eps, a), dim=1)
    return share


_STABILITY = ("Largest share by which the map's values change, over the share by which {} under "
              "uniform noise that is always positive. A sample is NaN if any draw changes the "
              "predicted class. Values near 0 rule it: it has a heavy tail. lower_bound and "
              "upper_bound are of its perturb_func_kwargs.")


@parity(
    "RelativeInputStability", title="Relative input stability", family="robustness",
    better="lower", needs=("explain",), params=_RELATIVE,
    about=_STABILITY.format("the image's do"), formula="max_r ‖(a − a')/a‖ / ‖(x − x')/x‖",
    range="[0, ∞)", units="ratio", passes="nr_samples explanations + nr_samples forward",
    paper=_AGARWAL)
def relative_input_stability(explained: Explained, **params: Any) -> Scores:
    """The largest ratio: (N,); the curve holds each draw's."""
    x = explained.batch.x.flatten(1)
    return _relative(explained, lambda shown: _share(x, shown.flatten(1), params["eps_min"]),
                     **params)


@parity(
    "RelativeOutputStability", title="Relative output stability", family="robustness",
    better="lower", needs=("explain",), params=_RELATIVE,
    about=_STABILITY.format("the logits move (in their own units)"),
    formula="max_r ‖(a − a')/a‖ / ‖f(x) − f(x')‖", range="[0, ∞)", units="per logit",
    passes="nr_samples explanations + nr_samples forward", paper=_AGARWAL)
def relative_output_stability(explained: Explained, **params: Any) -> Scores:
    """The largest ratio: (N,); the curve holds each draw's."""
    network = explained.network
    with torch.no_grad():
        clean = network(explained.batch.x).double()

    @torch.no_grad()
    def moved(shown: Tensor) -> Tensor:
        distance: Tensor = torch.linalg.vector_norm(clean - network(shown).double(), dim=1)
        return distance

    return _relative(explained, moved, **params)


@parity(
    "RelativeRepresentationStability", title="Relative representation stability",
    family="robustness", better="lower", needs=("explain",), params=_RELATIVE,
    about=_STABILITY.format("the outputs of all layers do") + " A layer's output is taken before "
          "the next can write over it, as an activation in place does in Quantus on a CPU.",
    formula="max_r ‖(a − a')/a‖ / ‖(h − h')/h‖, h: the outputs of all modules", range="[0, ∞)",
    units="ratio", passes="nr_samples explanations + nr_samples forward", paper=_AGARWAL)
def relative_representation_stability(explained: Explained, **params: Any) -> Scores:
    """The largest ratio: (N,); the curve holds each draw's."""
    clean = hidden(explained.network, explained.batch.x)

    def moved(shown: Tensor) -> Tensor:
        parts = zip(clean, hidden(explained.network, shown), strict=True)
        return torch.stack([
            _share(one, other, params["eps_min"]) for one, other in parts]).square().sum(0).sqrt()

    return _relative(explained, moved, **params)


@torch.no_grad()
def hidden(network: nn.Module, x: Tensor) -> list[Tensor]:
    """The outputs (N, P) of every module that Quantus takes for a layer, in order of the call.

    Those that are no Sequential and not of the whole network's own class.
    """
    kept: list[Tensor] = []
    hooks = [
        module.register_forward_hook(lambda _m, _i, out: kept.append(out.flatten(1).clone()))
        for module in network.modules() if not isinstance(module, (type(network), nn.Sequential))]
    try:
        network(x)
    finally:
        for hook in hooks:
            hook.remove()
    return kept


@parity(
    "Consistency", title="Consistency", family="robustness", better="higher",
    params={"abs": True, "normalise": True},
    about="Of the samples whose maps have the same signs in their first five pixels, the share "
          "that the network gives the same class. With abs it asks which of the five are zero.",
    formula="|same signs and same class| / (|same signs| + 10⁻⁹)", range="[0, 1]",
    units="share of samples", passes="1 forward",
    paper="Dasgupta, Frost, Moshkovitz 2022, arXiv:2202.00734",
    defect="as in Quantus, it compares the signs of the first five pixels alone, across the batch, "
           "so that nearly all maps look alike.")
def consistency(explained: Explained, **maps: bool) -> Scores:
    """The share of like-signed samples of the same class: (N,)."""
    again = Again(explained, **maps)
    signs = again.given()[:, :5].sign()
    with torch.no_grad():
        classes = explained.network(explained.batch.x).argmax(1)
    others = ~torch.eye(len(classes), dtype=torch.bool, device=classes.device)
    alike = (signs[:, None] == signs).all(2) & others
    both = alike & (classes[:, None] == classes)
    share = both.sum(1).double() / (alike.sum(1).double() + 1e-9)
    return scores(share, tuple(again.flaw))


@parity(
    "Continuity", title="Continuity", family="robustness", better="lower", needs=("explain",),
    params={"nr_steps": 28, "abs": True, "normalise": True},
    about="Largest change of the map per change of the image while it is moved across itself, "
          "from left to right, over its smallest value.",
    formula="max_k ‖a − a(x moved by k·d)‖₁ / (‖x − x moved‖₂ + 10⁻⁹)", range="[0, ∞)",
    units="map per unit of the input", passes="nr_steps explanations",
    paper="Montavon, Samek, Müller 2018, doi:10.1016/j.dsp.2017.10.011")
def continuity(explained: Explained, *, nr_steps: int, **maps: bool) -> Scores:
    """The largest ratio over all steps: (N,); the curve holds each step's."""
    x = explained.batch.x
    width = x.shape[3]
    apart = (2 * width + 1) // nr_steps if isinstance(nr_steps, int) and nr_steps > 0 else 0
    if apart < 1 or apart * nr_steps - width > width:
        raise HeatproofError(
            f"nr_steps must be at most {2 * width} for images {width} wide and not divide "
            f"{2 * width + 1} (Quantus moves them off the edge and crashes), not {nr_steps!r}")
    again = Again(explained, **maps)
    own = again.maps()
    found = []
    for step in range(1, nr_steps + 1):
        shown = translated(x, apart * step - width)
        moved = torch.linalg.vector_norm((x - shown).double().flatten(1), dim=1)
        change = (own - again.maps(x=shown)).abs().sum(1)
        found.append(change / (moved + 1e-9))
    curve = torch.stack(found, 1)
    return scores(curve.amax(1), tuple(again.flaw), curve=curve)


def translated(x: Tensor, right: int) -> Tensor:
    """The images (N, C, H, W) moved to the right (or left, below 0) over their smallest values."""
    shown = x.amin((1, 2, 3), keepdim=True).expand_as(x).clone()
    width = x.shape[3]
    start, end = max(0, right), min(width, width + right)
    shown[..., start:end] = x[..., start - right:end - right]
    return shown
