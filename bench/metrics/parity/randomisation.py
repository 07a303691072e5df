"""Quantus's randomisation, by our engine: its layers, its seeds, its maps scaled together."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from bench.core import HeatproofError, unknown
from bench.measure import Explained, Scores
from bench.metrics.evidence import scores
from bench.metrics.parity.rules import attributions, parity
from bench.metrics.randomisation import entropy
from bench.metrics.similarity import spearman
from bench.randomness import seeded

ORDERS = ("top_down", "bottom_up", "independent")
_HEDSTROM = "Hedström et al. 2024, arXiv:2401.06465"
_LAYERS = (
    "Every module with reset_parameters is a layer, and all are reset under the seed plus one, so "
    "that layers of one shape become equal. ")


@dataclass
class Again:
    """Maps made again and prepared as Quantus does; it keeps what was wrong with any of them."""

    explained: Explained
    abs: bool
    normalise: bool
    flaw: list[str | None] = field(init=False)

    def __post_init__(self) -> None:
        self.flaw = [None] * len(self.explained.batch)

    def given(self) -> Tensor:
        """The explained maps themselves: (N, P)."""
        return self.prepared(self.explained.maps, "")

    def maps(
        self, *, net: nn.Module | None = None, x: Tensor | None = None,
        target: Tensor | None = None,
    ) -> Tensor:
        """The maps of another network, other images or targets: (N, P)."""
        return self.prepared(self.explained.explain(net=net, x=x, target=target),
                             "explained again: ")

    def prepared(self, maps: Tensor, when: str) -> Tensor:
        """Native maps (N, h, w) on the image's grid, scaled together: (N, P)."""
        found = attributions(replace(self.explained, maps=maps), abs=self.abs,
                             normalise=self.normalise)
        self.flaw = [old or (f"{when}{new}" if new else None)
                     for old, new in zip(self.flaw, found.flaw, strict=True)]
        return found.values.flatten(1)


def new_layers(network: nn.Module, order: str, seed: int) -> Iterator[nn.Module]:
    """A copy of the network after each further layer was reset, as Quantus resets them.

    order: "top_down" (the last module first), "bottom_up" or "independent" (each by itself). The
    draws are the CPU's. Raises HeatproofError for another order.
    """
    if order not in ORDERS:
        raise unknown("layer_order", order, ORDERS)
    changed = copy.deepcopy(network)
    layers = [module for module in changed.modules() if hasattr(module, "reset_parameters")]
    if not layers:
        raise HeatproofError("no module of the network has reset_parameters; Quantus's "
                             "randomisation metrics cannot be used on it")
    for layer in reversed(layers) if order == "top_down" else layers:
        if order == "independent":
            changed.load_state_dict(network.state_dict())
        held = next(iter([*layer.parameters(), *layer.buffers()]), torch.empty(0))
        with seeded(seed + 1):
            cast(Callable[[], None], cast(Any, layer.cpu()).reset_parameters)()
        layer.to(held.device)
        yield changed


def _reduced(curve: Tensor, flaw: list[str | None], *, last: bool) -> Scores:
    value = curve[:, -1] if last else curve.mean(1)
    return scores(value, tuple(flaw), curve=curve,
                  undefined="a map, given or explained again, is constant")


@parity(
    "MPRT", title="Model parameter randomisation", family="randomisation", better="lower",
    needs=("explain", "randomise"),
    params={"layer_order": "top_down", "seed": 42, "return_last_correlation": False, "abs": True,
            "normalise": True},
    about="Rank correlation of the map with itself while layers are reset one after the other. "
          f"{_LAYERS}The mean holds the untouched network's 1.0 too, which is Quantus's defect; "
          "the curve begins with it. return_last_correlation: the wholly reset network alone.",
    formula="mean over the untouched network and all layers of ρ(|a|, |a_l|)", range="[−1, 1]",
    units="rank correlation", passes="layers + 1 explanations",
    paper="Adebayo et al. 2018, NeurIPS, arXiv:1810.03292")
def mprt(
    explained: Explained, *, layer_order: str, seed: int, return_last_correlation: bool,
    **maps: bool,
) -> Scores:
    """Quantus's average over layers, 'original' included, or the last layer's: (N,)."""
    again = Again(explained, **maps)
    own = again.given()
    curve = [spearman(own, again.maps())]
    curve += [spearman(own, again.maps(net=network))
              for network in new_layers(explained.network, layer_order, seed)]
    return _reduced(torch.stack(curve, 1), again.flaw, last=return_last_correlation)


@parity(
    "SmoothMPRT", title="Smooth model parameter randomisation", family="randomisation",
    better="lower", needs=("explain", "randomise"),
    params={"layer_order": "bottom_up", "seed": 42, "nr_samples": 50, "noise_magnitude": 0.1,
            "return_last_correlation": False, "abs": True, "normalise": True},
    about="The same, with every map the mean of maps of noisy images; the map that they are "
          f"compared with is not. {_LAYERS}Quantus explains by its own method whatever it is given "
          "(a defect); here the method itself explains.",
    formula="mean over the untouched network and all layers of ρ(|a|, |mean of a_l(x + ε)|)",
    range="[−1, 1]", units="rank correlation", passes="nr_samples · (layers + 1) explanations",
    paper=_HEDSTROM)
def smooth_mprt(
    explained: Explained, *, layer_order: str, seed: int, nr_samples: int, noise_magnitude: float,
    return_last_correlation: bool, **maps: bool,
) -> Scores:
    """Quantus's average over layers, 'original' included, or the last layer's: (N,)."""
    again = Again(explained, abs=False, normalise=False)
    x = explained.batch.x
    size = (x.amax((1, 2, 3), keepdim=True) - x.amin((1, 2, 3), keepdim=True)) * noise_magnitude

    def smooth(net: nn.Module | None = None) -> Tensor:
        total = torch.zeros(len(x), x[0, 0].numel(), dtype=torch.float64, device=x.device)
        for draw in range(nr_samples):
            shown = x
            if draw < nr_samples - 1:
                noise = torch.from_numpy(np.random.randn(*x.shape)).to(x.device)  # noqa: NPY002
                shown = (x + noise * size).to(x.dtype)
            total += again.maps(net=net, x=shown) / nr_samples
        return total.abs() if maps["abs"] else total

    # Quantus divides by the second moment, which no rank correlation sees.
    own = again.given().abs() if maps["abs"] else again.given()
    curve = [spearman(own, smooth())]
    curve += [spearman(own, smooth(network))
              for network in new_layers(explained.network, layer_order, seed)]
    return _reduced(torch.stack(curve, 1), again.flaw, last=return_last_correlation)


@parity(
    "EfficientMPRT", title="Efficient model parameter randomisation", family="randomisation",
    better="higher", needs=("explain", "randomise"),
    params={"layer_order": "bottom_up", "seed": 42, "n_bins": 100, "abs": False,
            "normalise": False},
    about=f"Relative rise of the entropy of the map's values when all layers are reset. {_LAYERS}"
          "n_bins is of its complexity_func_kwargs.",
    formula="(H(a_last) − H(a)) / H(a), H: entropy of a histogram", range="[−1, ∞)",
    units="relative change of entropy", passes="2 explanations", paper=_HEDSTROM)
def efficient_mprt(
    explained: Explained, *, layer_order: str, seed: int, n_bins: int, **maps: bool,
) -> Scores:
    """The relative rise of entropy after the last layer: (N,)."""
    again = Again(explained, **maps)
    before = entropy(again.maps()[:, None], n_bins)
    *_, network = new_layers(explained.network, layer_order, seed)
    after = entropy(again.maps(net=network)[:, None], n_bins)
    return scores((after - before) / before, tuple(again.flaw), undefined="constant map")


@parity(
    "RandomLogit", title="Random logit", family="randomisation", better="lower",
    needs=("explain",), params={"seed": 42, "abs": False, "normalise": True},
    about="Structural similarity, in one dimension along the flattened map, of the map to that of "
          "a random other class. num_classes is the network's.",
    formula="SSIM₁D(a_t, a_c), c ≠ t", range="[−1, 1]", units="structural similarity",
    passes="1 explanation", paper="Sixt, Granz, Landgraf 2020, ICML, arXiv:1912.09818")
def random_logit(explained: Explained, *, seed: int, **maps: bool) -> Scores:
    """The similarity of the maps of two classes: (N,)."""
    again = Again(explained, **maps)
    target = explained.target
    np.random.seed(seed)  # noqa: NPY002
    drawn = np.random.randint(0, explained.classes - 1, len(target))  # noqa: NPY002
    off = torch.from_numpy(drawn).to(target)
    other = again.maps(target=torch.where(off >= target, off + 1, off))
    return scores(ssim_1d(again.given(), other), tuple(again.flaw),
                  undefined="both maps are constant")


def ssim_1d(a: Tensor, b: Tensor, window: int = 7) -> Tensor:
    """The structural similarity of rows a and b (N, P), as scikit-image computes it: (N,).

    Of uniform windows that lie inside the row, with unbiased variances, in the range of both.
    """
    both = torch.cat([a, b], 1)
    span = (both.amax(1) - both.amin(1))[:, None]
    c1, c2 = (0.01 * span) ** 2, (0.03 * span) ** 2
    one, other = a.unfold(1, window, 1), b.unfold(1, window, 1)
    mean_a, mean_b = one.mean(2), other.mean(2)
    unbiased = window / (window - 1)
    var_a = unbiased * ((one * one).mean(2) - mean_a * mean_a)
    var_b = unbiased * ((other * other).mean(2) - mean_b * mean_b)
    cov = unbiased * ((one * other).mean(2) - mean_a * mean_b)
    alike = (2 * mean_a * mean_b + c1) * (2 * cov + c2)
    return (alike / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))).mean(1)
