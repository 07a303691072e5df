"""What a network says while ever more of an image is replaced, a few images at a time.

Which images are made (`Images`) is apart from what is kept of the outputs (`Read`), so that one run
serves every measure that is taken of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bench.chunks import LARGEST, in_pieces, passing
from bench.core import HeatproofError, unknown

CHUNK = 64
"""Images of one forward pass on a CPU, at most, which is no quicker by more."""

OUTPUTS = ("probability", "logit", "standardised")
"""What of the explained class is followed: its softmax probability, its logit, or its logit in
standard deviations of this network's logits, the unit in which networks are compared."""

Images = Callable[[Tensor, Tensor], Tensor]
"""Pairs of a sample (m,) and a step (m,), both indices, to the images shown (m, C, H, W)."""

Fill = Callable[[Tensor, Tensor], Tensor]
"""Samples (m,), indices, and what is removed of each, (m, 1 or C, H, W) bool, to what stands in its
place: (m, C, H, W), of which the removed part alone is used."""

Read = Callable[[Tensor, Tensor], Tensor]
"""Logits (m, classes) of the samples (m,), indices, to what is kept of them: (m, ...)."""


@torch.no_grad()
def forwards(
    network: nn.Module, images: Images, samples: int, steps: int, *,
    device: torch.device | str, read: Read | None = None, chunk: int | None = None,
) -> Tensor:
    """What is read of the network's logits of each sample at each step: (N, K, ...).

    By default the logits themselves, (N, K, classes). At most `chunk` images exist at a time, by
    default CHUNK.
    """
    def work(part: slice) -> Tensor:
        pair = torch.arange(part.start, part.stop, device=device)
        sample, step = pair // steps, pair % steps
        logits: Tensor = network(images(sample, step))
        return logits if read is None else read(logits, sample)

    found = torch.cat(in_pieces(work, samples * steps, chunk or CHUNK))
    return found.reshape(samples, steps, *found.shape[1:])


def ordered(
    network: nn.Module, x: Tensor, rank: Tensor, cuts: Sequence[int] | Tensor,
    fill: Tensor | Fill, *, read: Read | None = None, chunk: int | None = None,
) -> Tensor:
    """What is read of the logits while the units of rank below cuts[k] are replaced: (N, K, ...).

    x: (N, C, H, W). rank: (N, 1 or C, H, W), the place of each pixel's (or feature's) unit in the
    order of removal, 0 the first; the pixels of one unit share it. cuts: (K,); a cut of 0 is the
    untouched image. fill: images of x's shape, or how to make them of the mask. Insertion is the
    same with roles swapped: x the empty canvas, fill the image.
    """
    made = fill if callable(fill) else fixed(fill)
    least = torch.as_tensor(cuts).to(x.device, non_blocking=True)

    def images(sample: Tensor, step: Tensor) -> Tensor:
        removed = rank[sample] < least[step][:, None, None, None]
        return torch.where(removed, made(sample, removed), x[sample])

    return forwards(network, images, len(x), len(least), device=x.device, read=read,
                    chunk=chunk or rows(x))


def rows(x: Tensor) -> int:
    """How many images like those of x (N, C, H, W) are passed at once where nothing is said."""
    return passing(x, CHUNK if x.device.type == "cpu" else LARGEST)


def fixed(images: Tensor) -> Fill:
    """The fill by given images (N, C, H, W), whatever is removed."""
    return lambda sample, removed: images[sample]  # noqa: ARG005


def ranks(order: Tensor) -> Tensor:
    """The place of each unit in an order of indices (N, P): (N, P), the inverse permutation."""
    places = torch.arange(order.shape[1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places)


def even_cuts(units: int, steps: object) -> list[int]:
    """How many of `units` are removed after each of 0, 1, ... `steps` equal steps, rounded.

    Raises HeatproofError unless steps is a whole number from 1 to `units`.
    """
    count = whole("steps", steps, units)
    return [round(units * k / count) for k in range(count + 1)]


def percent_cuts(units: int, percentages: object) -> list[int]:
    """How many of `units` each percentage is, rounded. Raises HeatproofError for one outside
    (0, 100] and for an empty list.
    """
    if not isinstance(percentages, list | tuple) or not percentages or not all(
            isinstance(p, int | float) and 0 < p <= 100 for p in percentages):
        raise HeatproofError(
            f"percentages must be a list of numbers above 0 and up to 100, not {percentages!r}")
    return [round(units * p / 100) for p in percentages]


def whole(name: str, value: object, most: int) -> int:
    """The value, a whole number from 1 to `most`. Raises HeatproofError for anything else."""
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise HeatproofError(f"{name} must be a whole number from 1 to {most}, not {value!r}")
    return value


@dataclass(frozen=True)
class Outputs:
    """What a network says of N samples at K steps.

    logit, probability: (N, K) float64, of the explained class; predicted: (N, K) int64, the class
    with the largest logit.
    """

    logit: Tensor
    probability: Tensor
    predicted: Tensor

    @staticmethod
    def read(target: Tensor) -> Read:
        """What a run must read for `of`, the explained classes being (N,)."""
        def read(logits: Tensor, sample: Tensor) -> Tensor:
            logits, own = logits.double(), target[sample][:, None]
            return torch.cat([logits.gather(1, own), logits.softmax(1).gather(1, own),
                              logits.argmax(1, keepdim=True).double()], 1)

        return read

    @classmethod
    def of(cls, found: Tensor) -> Outputs:
        """The outputs of a run (N, K, 3) that read what `read` reads."""
        return cls(found[..., 0], found[..., 1], found[..., 2].long())

    def followed(self, output: str, unit: float) -> Tensor:
        """One of OUTPUTS, (N, K), the standardised in units of `unit`. Raises for another name."""
        if output not in OUTPUTS:
            raise unknown("output", output, OUTPUTS)
        if output == "probability":
            return self.probability
        return self.logit / unit if output == "standardised" else self.logit
