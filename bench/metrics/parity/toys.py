"""Toys small enough to work out by hand."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bench.core import Batch
from bench.measure import Explained
from bench.metrics.lab import Explainer, explained


class Linear(nn.Module):
    """Logits (z, 0), z the weighted sum of all features plus a bias."""

    def __init__(self, weight: Tensor, bias: float = 0.0) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight, requires_grad=False), bias

    def forward(self, x: Tensor) -> Tensor:
        """Images (n, C, H, W) to logits (n, 2)."""
        z = (x * self.weight).flatten(1).sum(1) + self.bias
        return torch.stack([z, torch.zeros_like(z)], 1)


def one_hot(*place: int, size: int = 4) -> Tensor:
    """A square (size, size) of zeros with ones at the given flat places."""
    flat = torch.zeros(size * size)
    flat[list(place)] = 1
    return flat.view(size, size)


def toy(
    network: nn.Module, x: Tensor, maps: Tensor, mask: Tensor | None = None,
    explainer: Explainer | None = None,
) -> Explained:
    """Images (n, C, H, W) of class 0 and their maps (n, h, w)."""
    n = len(x)
    batch = Batch(x=x, y=torch.zeros(n, dtype=torch.int64), key=tuple(map(str, range(n))),
                  seed=torch.arange(n), group=("",) * n,
                  mask=None if mask is None else mask.to(torch.uint8))
    given: Explainer = explainer or (lambda net, x, target, batch: maps)  # noqa: ARG005
    return explained(network, batch, given)
