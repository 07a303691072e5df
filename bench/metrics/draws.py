"""What a metric draws: from each sample's own seed alone, so that no score depends on its batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from bench.core import HeatproofError, number_from

if TYPE_CHECKING:
    from torch import Tensor


def each(
    seed: Tensor, what: str, draw: Callable[[np.random.Generator], np.ndarray[Any, Any]],
) -> Tensor:
    """`draw` of each sample's own generator, stacked: (N, ...) on the CPU.

    seed: (N,), the batch's. what: the name of what is drawn, so that two metrics, or two draws of
    one, share no numbers. The generator is NumPy's PCG64, alike on every machine and device.
    """
    return torch.stack([
        torch.from_numpy(np.asarray(draw(np.random.default_rng(number_from(what, number)))))
        for number in seed.tolist()])


def permutations(seed: Tensor, n: int, what: str) -> Tensor:
    """A random order of n things for each sample: (N, n) int64."""
    return each(seed, what, lambda rng: rng.permutation(n))


def counted(draws: object) -> None:
    """Raises HeatproofError unless `draws`, how often a metric draws, is a whole number above 0."""
    if not isinstance(draws, int) or isinstance(draws, bool) or draws < 1:
        raise HeatproofError(f"draws must be a whole number above 0, not {draws!r}")
