"""What an explanation costs: images that go through a network, forward and backward."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass
class Passes:
    """Images that went through, forward and backward."""

    forward: int = 0
    backward: int = 0


@contextmanager
def counted(net: nn.Module) -> Iterator[Passes]:
    """Counts while the block runs, in copies of the network too."""
    passes = Passes()

    def note(_net: nn.Module, _inputs: object, logits: Tensor) -> None:
        passes.forward += len(logits)
        if torch.is_tensor(logits) and logits.requires_grad:
            logits.register_hook(back)  # type: ignore[no-untyped-call]

    def back(slope: Tensor) -> None:
        passes.backward += len(slope)

    # A copy of the network copies its hooks, and a function stays the one that it is.
    hook = net.register_forward_hook(note)
    try:
        yield passes
    finally:
        hook.remove()
