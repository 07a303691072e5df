"""Robustness: how much a map moves when its image hardly does (Yeh et al. 2019)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch

from bench.core import HeatproofError
from bench.measure import GAUGE, Explained, Scores
from bench.metrics.draws import counted, each
from bench.metrics.evidence import flaws, scores
from bench.metrics.sharing import answers, for_all
from bench.plugins import metric

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

CHUNK = 64
"""Images that are made noisy, explained and classified at a time."""

_PAPER = "Yeh et al. 2019, NeurIPS, arXiv:1901.09392"
_PARAMS = {"draws": 10, "radius": 0.1}
_ABOUT = (
    "change of the map, relative to the map, over draws images with uniform noise of ±radius, in "
    "standard deviations of each channel of the image itself. Draws that change the predicted "
    "class are left out: there the map may well change (see class-flips). Read it beside "
    "randomisation: a map that never changes is perfectly robust.")
_DEPARTURES = (
    "The noise is in units of the image's own standard deviation, channel by channel, and so does "
    "not depend on how inputs are normalised: Quantus adds ±0.2 in units of the input.",
    "Ten draws, not 200, at a twentieth of the cost: the mean stays what it is but for chance, the "
    "largest of ten is less than that of 200.",
    "A draw that changes the predicted class is left out: Quantus keeps it, or makes the whole "
    "sample NaN.",
    "Noise from each sample's own seed: Quantus draws from the global generator, batch by batch.",
    "On the method's own grid, where blowing up adds nothing.")


def noisy(x: Tensor, seed: Tensor, draw: int, radius: float) -> Tensor:
    """The images x (N, C, H, W) with uniform noise of ±radius of each channel's own deviation.

    seed: (N,); the noise of a draw depends on the sample's seed alone. float32.
    """
    shape = tuple(x.shape[1:])
    noise = each(seed, f"sensitivity {draw}", lambda rng: rng.uniform(-1, 1, shape))
    noise = noise.to(x.device, non_blocking=True)
    deviation = x.double().std((2, 3), correction=0, keepdim=True)
    return (x + radius * deviation * noise).to(x.dtype)


@dataclass(frozen=True)
class Noisy:
    """One run over noisy images. changes: ‖a' − a‖ / ‖a‖ of each draw, (N, draws) float64, NaN
    where the map is not finite; flips: whether the draw changes the predicted class, (N, draws).
    """

    changes: Tensor
    flips: Tensor


def noisy_run(explained: Explained, draws: int, radius: float) -> Noisy:
    """Explains and classifies `draws` noisy copies of each image, a few images at a time."""
    changes, flips = [], []
    for index in _chunks(explained):
        own = explained.maps[index].double().flatten(1)
        length = torch.linalg.vector_norm(own, dim=1)
        change, flip = [], []
        rows = [*range(index.start, index.stop)]
        for draw in range(draws):
            x = _images(explained, index, draw, draws, radius)
            again = explained.explain(x=x, index=rows).double().flatten(1)
            change.append(torch.linalg.vector_norm(again - own, dim=1) / length)
            flip.append(_flips(explained, index, draw, radius, lambda x=x: x))  # type: ignore[misc]
        changes.append(torch.stack(change, 1))
        flips.append(torch.stack(flip, 1))
    found = torch.cat(changes)
    return Noisy(found.masked_fill(~found.isfinite(), torch.nan), torch.cat(flips))


def _chunks(explained: Explained) -> list[slice]:
    n = len(explained.batch)
    return [slice(start, min(start + CHUNK, n)) for start in range(0, n, CHUNK)]


def _images(
    explained: Explained, index: slice, draw: int, draws: int, radius: float,
) -> Tensor:
    """A draw's noisy copies of some images, kept for all maps where those of all draws fit."""
    def make() -> Tensor:
        few = explained.batch[index]
        return noisy(few.x, few.seed, draw, radius)

    return for_all(explained, ("noisy images", index.start, index.stop, draw, radius), make,
                   size=draws * explained.batch.x.nbytes)


def _flips(
    explained: Explained, index: slice, draw: int, radius: float, images: Callable[[], Tensor],
) -> Tensor:
    """Whether a draw changes the predicted classes; they are made once, for all maps."""
    def make() -> Tensor:
        predicted: Tensor = answers(explained)(images()).argmax(1)
        return predicted

    found = for_all(explained, ("noisy classes", index.start, index.stop, draw, radius), make)
    return found != explained.logits[index].argmax(1).to(found.device)


def _checked(draws: int, radius: float) -> None:
    counted(draws)
    if not isinstance(radius, int | float) or not radius > 0:
        raise HeatproofError(f"radius must be a number above 0, such as 0.1, not {radius!r}")


def _run(explained: Explained, draws: int, radius: float) -> Noisy:
    """The run that both sensitivities share."""
    _checked(draws, radius)
    return explained.once(("noisy images", draws, radius),
                          lambda: noisy_run(explained, draws, radius))


def _kept(explained: Explained, run: Noisy) -> tuple[Tensor, tuple[tuple[str | None, ...], ...]]:
    """The changes of the draws that keep the class, and every reason why a sample has none."""
    why = tuple(
        "every draw changes the predicted class" if flipped else
        "explained again: NaN in the map" if lost else None
        for flipped, lost in zip(run.flips.all(1).tolist(), run.changes.isnan().all(1).tolist(),
                                 strict=True))
    own = tuple(reason for few in torch.split(explained.maps, CHUNK)
                for reason in flaws(few.double(), "raw"))
    return run.changes.masked_fill(run.flips, torch.nan), (own, _flat(explained.batch.x), why)


def _flat(x: Tensor) -> tuple[str | None, ...]:
    """Noise in units of a deviation of 0 is none."""
    low, high = x.amin((2, 3)), x.amax((2, 3))
    return tuple("constant image" if flat else None for flat in (low == high).all(1).tolist())


@metric(
    "max-sensitivity", title="Max sensitivity", family="robustness", better="lower",
    needs=("explain",), params=_PARAMS, version="1", paper=_PAPER, about=f"Largest {_ABOUT}",
    formula="max_r ‖a(x + ε_r) − a(x)‖ / ‖a(x)‖, ε_r ~ U(±radius · σ(x))", range="[0, ∞)",
    units="relative change", passes="draws explanations + draws forward",
    departures=_DEPARTURES, holds=("batch", "scale"))
def max_sensitivity(explained: Explained, *, draws: int, radius: float) -> Scores:
    """The largest relative change that keeps the class; the curve holds each draw's."""
    changes, reasons = _kept(explained, _run(explained, draws, radius))
    largest = changes.masked_fill(changes.isnan(), -torch.inf).amax(1)
    return scores(largest, *reasons, curve=changes)


@metric(
    "avg-sensitivity", title="Average sensitivity", family="robustness", better="lower",
    needs=("explain",), params=_PARAMS, version="1", paper=_PAPER, about=f"Mean {_ABOUT}",
    formula="1/R Σ_r ‖a(x + ε_r) − a(x)‖ / ‖a(x)‖, ε_r ~ U(±radius · σ(x))", range="[0, ∞)",
    units="relative change", passes="draws explanations + draws forward",
    departures=_DEPARTURES, holds=("batch", "scale"))
def avg_sensitivity(explained: Explained, *, draws: int, radius: float) -> Scores:
    """The mean relative change that keeps the class; the curve holds each draw's."""
    changes, reasons = _kept(explained, _run(explained, draws, radius))
    return scores(changes.nanmean(1), *reasons, curve=changes)


@metric(
    "class-flips", title="Class flips under noise", family=GAUGE, better="lower",
    needs=("explain",), params=_PARAMS, version="1", paper=_PAPER,
    about="Share of the draws of max- and avg-sensitivity in which the noise alone changes the "
          "network's prediction. It is about the network and the radius, whatever the map: where "
          "it is high, sensitivity is measured on few draws.",
    formula="1/R Σ_r [argmax f(x + ε_r) ≠ argmax f(x)]", range="[0, 1]", units="share of draws",
    passes="draws forward a network, none a map", holds=("batch", "scale"),
    departures=("Quantus has no such number.",))
def class_flips(explained: Explained, *, draws: int, radius: float) -> Scores:
    """The share of draws that change the predicted class; the curve holds each draw's 0 or 1."""
    _checked(draws, radius)
    found = torch.cat([
        torch.stack([
            _flips(explained, index, draw, radius,
                   partial(_images, explained, index, draw, draws, radius))
            for draw in range(draws)], 1) for index in _chunks(explained)]).double()
    return scores(found.mean(1), _flat(explained.batch.x), curve=found)
