"""Weights and inputs by a rule, so that a fixture of an official network needs no weights in it.

A fixture was made by running the official code, its weights filled by this very rule under the
official names, on inputs of this rule. A test fills our network under the same names and expects
the same numbers. The rule is integer arithmetic, so it gives the same bits on every machine.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor


def uniform(name: str, shape: tuple[int, ...]) -> Tensor:
    """Float32 numbers in [0, 1) of a shape, from the hash of a name alone (splitmix64)."""
    seed = np.uint64(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big"))
    with np.errstate(over="ignore"):
        z = seed + (np.arange(1, math.prod(shape) + 1, dtype=np.uint64)
                    * np.uint64(0x9E3779B97F4A7C15))
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return torch.from_numpy(((z >> np.uint64(40)).astype(np.float64) / 2**24).astype(np.float32)
                            ).reshape(shape)


def weights(like: Mapping[str, Tensor], gain: float = 1.0) -> dict[str, Tensor]:
    """A state dict of the names and shapes of another one, filled by the rule.

    Weights of two and more dimensions are uniform with the variance `gain` / fan-in (He's is a
    gain of 2), norm weights and running variances near 1, biases and running means near 0; counts
    are 0.
    """
    return {name: _filled(name, value, gain) for name, value in like.items()}


def _filled(name: str, value: Tensor, gain: float) -> Tensor:
    if not value.is_floating_point():
        return torch.zeros_like(value)
    drawn = uniform(name, tuple(value.shape)).to(value.dtype)
    if value.ndim > 1:
        return (2 * drawn - 1) * math.sqrt(3 * gain / max(1, value[0].numel()))
    if name.endswith(("running_var", "weight")):
        return 0.75 + 0.5 * drawn
    return 0.2 * (drawn - 0.5)
