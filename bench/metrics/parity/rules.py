"""What every parity metric takes over from Quantus 0.6.0: its units, scale, order, fills, draws.

A feature is one channel of one pixel; a map is scaled by the largest value of all maps together;
the order is that of NumPy's unstable sort; chance comes from NumPy's global generator, in the order
in which Quantus draws, all samples as one batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from bench.core import HeatproofError, unknown
from bench.measure import Explained, Scores
from bench.metrics.evidence import INTERPOLATION, Evidence, evidence, grid
from bench.metrics.quantus_run import QUANTUS
from bench.metrics.removal import Read, forwards, ordered
from bench.plugins import metric

if TYPE_CHECKING:
    from torch import Tensor

BASELINES = ("black", "white", "mean", "uniform")
"""Quantus's replacement values by name: the image's own least, largest and mean value over all
channels, and one number of U[0, 1) a sample and step."""

_ABOUT = (f"What Quantus {QUANTUS} computes, by our own engine: features are (channel, pixel) "
          "pairs, maps are scaled together, samples form one batch. It depends on that batch; it "
          "is here to compare with published numbers. ")


def parity(
    quantus: str, *, title: str, family: str, better: Literal["higher", "lower"], about: str,
    formula: str, range: str, units: str, passes: str, paper: str,  # noqa: A002
    params: Mapping[str, Any], needs: Sequence[str] = (), order: Sequence[str] = (),
    defect: str = "",
) -> Callable[[Callable[..., Scores]], Callable[..., Scores]]:
    """Registers a function as `parity/NAME of Quantus's class`.

    params: Quantus's constructor keywords; `abs` and `normalise` go to `attributions`. order and
    defect as in `Metric`.
    """
    return metric(
        f"parity/{quantus}", title=title, family=family, better=better, needs=needs, params=params,
        version=f"1, {INTERPOLATION}, quantus {QUANTUS}", paper=paper, about=_ABOUT + about,
        track="parity", formula=formula, range=range, units=units, passes=passes, order=order,
        defect=defect)


def attributions(explained: Explained, *, abs: bool, normalise: bool) -> Evidence:  # noqa: A002
    """The maps on the image's grid as Quantus prepares them: (N, H, W) float64.

    normalise: divided by the largest absolute value of all maps; abs: then their absolute value.
    A map with a NaN is flawed and counts as zeros, so that the others keep their scale.
    """
    raw = evidence(explained.maps, grid(explained), "raw", constant=True)
    values = torch.where(raw.sound[:, None, None], raw.values, 0.0)
    if normalise:
        peak = values.abs().max()
        values = values / torch.where(peak > 0, peak, 1.0)
    return Evidence(values.abs() if abs else values, raw.flags)


def features(values: Tensor, channels: int) -> Tensor:
    """Maps (N, H, W) as Quantus broadcasts them to features: (N, C·H·W), channel by channel."""
    return values[:, None].expand(-1, channels, -1, -1).flatten(1)


def falling(values: Tensor) -> Tensor:
    """The indices of values (N, P) from the largest to the least: NumPy's sort, as ties need."""
    return torch.from_numpy(np.argsort(-values.cpu().numpy(), axis=1)).to(values.device)


def rising(values: Tensor) -> Tensor:
    """The indices of values (N, P) from the least to the largest, by the same sort."""
    return torch.from_numpy(np.argsort(values.cpu().numpy(), axis=1)).to(values.device)


def steps_of(order: Tensor, size: int, pixels: int) -> Tensor:
    """An order (N, D) cut into steps of `size` features: (K, N, size).

    Raises HeatproofError unless `size` divides the number of pixels, as Quantus wants it.
    """
    if not isinstance(size, int) or size < 1 or pixels % size:
        raise HeatproofError(
            f"features_in_step must divide the {pixels} pixels of the image, not be {size!r}")
    return order.reshape(len(order), -1, size).transpose(0, 1)


def in_line(steps: Tensor) -> Tensor:
    """The features of all steps (K, N, S), one step's after the other's: (N, K·S)."""
    return steps.transpose(0, 1).flatten(1)


def baseline(x: Tensor, perturb_baseline: str | float) -> Tensor:
    """What replaces a feature of each row of x (N, D): (N,), by name or a number.

    Raises HeatproofError for an unknown name.
    """
    if not isinstance(perturb_baseline, str):
        return torch.full_like(x[:, 0], perturb_baseline)
    if perturb_baseline not in BASELINES:
        raise unknown("perturb_baseline", perturb_baseline, BASELINES)
    # Quantus draws for every name, and throws it away for all but one.
    drawn = np.random.uniform(size=len(x))  # noqa: NPY002
    if perturb_baseline == "uniform":
        return torch.from_numpy(drawn).to(x)
    if perturb_baseline == "mean":
        return x.mean(1)
    return x.amin(1) if perturb_baseline == "black" else x.amax(1)


def baselines(x: Tensor, perturb_baseline: str | float, steps: int) -> Tensor:
    """The baseline of the untouched rows (N, D) at each of a number of steps: (K, N)."""
    if perturb_baseline == "uniform":
        return torch.stack([baseline(x, perturb_baseline) for _ in range(steps)])
    return baseline(x, perturb_baseline).expand(steps, -1)


def emptied(x: Tensor, steps: Tensor, perturb_baseline: str | float) -> Tensor:
    """The images (N, C, H, W) when all steps (K, N, S) of features were replaced in turn.

    Every feature is replaced once, so this holds what stands in for it from its own step on.
    """
    flat = x.flatten(1).clone()
    # Only a mean moves with what is replaced, and only a draw is new; the others wait for no step.
    for step in steps if perturb_baseline in ("mean", "uniform") else [in_line(steps)]:
        flat.scatter_(1, step, baseline(flat, perturb_baseline)[:, None].expand(step.shape))
    return flat.view_as(x)


def in_turn(
    explained: Explained, steps: Tensor, empty: Tensor, read: Read,
    inside: tuple[slice, slice] = (slice(None), slice(None)),
) -> Tensor:
    """What is read of the logits while each step's features join those replaced: (N, K).

    steps: (K, N, S), features of `empty`, the `emptied` images, of which the rows and columns
    `inside` are shown.
    """
    turn = torch.full_like(empty, len(steps), dtype=torch.int64).flatten(1)
    index = in_line(steps)
    place = torch.arange(len(steps), device=turn.device).repeat_interleave(steps.shape[2])
    turn.scatter_(1, index, place.expand_as(index))
    return ordered(
        explained.network, explained.batch.x, turn.view_as(empty)[:, :, *inside],
        range(1, len(steps) + 1), empty[:, :, *inside], read=read)


def alone(explained: Explained, steps: Tensor, fills: Tensor, read: Read) -> Tensor:
    """What is read of the logits when each step's features alone are replaced: (N, K·R).

    steps: (K, N, S) features; fills: (K·R, N), R values in turn for each step.
    """
    x = explained.batch.x
    repeats = len(fills) // len(steps)

    def images(sample: Tensor, step: Tensor) -> Tensor:
        removed = steps[step // repeats, sample]
        fill = fills[step, sample][:, None].expand(removed.shape)
        return x[sample].flatten(1).scatter(1, removed, fill).view(-1, *x.shape[1:])

    return forwards(explained.network, images, len(x), len(fills), device=x.device, read=read)


def clean(explained: Explained, read: Read) -> Tensor:
    """What is read of the logits of the untouched images: (N,)."""
    x = explained.batch.x
    return forwards(explained.network, lambda sample, step: x[sample],  # noqa: ARG005
                    len(x), 1, device=x.device, read=read)[:, 0]


def logit(explained: Explained) -> Read:
    """Reads the explained class's logit: Quantus's softmax=False."""
    return lambda logits, sample: logits.gather(1, explained.target[sample][:, None])[:, 0]


def probability(explained: Explained) -> Read:
    """Reads the explained class's probability: Quantus's softmax=True."""
    read = logit(explained)
    return lambda logits, sample: read(logits.softmax(1), sample)


def hit(explained: Explained) -> Read:
    """Reads whether the explained class is the predicted one: 1 or 0."""
    return lambda logits, sample: (logits.argmax(1) == explained.target[sample]).float()


def predicted() -> Read:
    """Reads the predicted class."""
    return lambda logits, sample: logits.argmax(1)  # noqa: ARG005
