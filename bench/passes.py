"""What work costs: images that go through a network, forward and backward, time and memory."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bench import memory


@dataclass
class Passes:
    """Images that went through, forward and backward."""

    forward: int = 0
    backward: int = 0


@dataclass
class Cost(Passes):
    """Passes, the seconds that they and all else took, and the most bytes in use meanwhile."""

    seconds: float = 0.0
    peak: int = 0

    def after(self, before: Mapping[str, Any]) -> dict[str, Any]:
        """Both together, where the same work began earlier; before: such a dictionary, or {}."""
        return {name: max(value, before.get(name, 0)) if name == "peak"
                else value + before.get(name, 0) for name, value in asdict(self).items()}


@contextmanager
def counted(net: nn.Module) -> Iterator[Passes]:
    """Counts while the block runs, in copies of the network too."""
    passes = Passes()
    with _counting(net, passes):
        yield passes


@contextmanager
def costing(device: torch.device, net: nn.Module | None = None) -> Iterator[Cost]:
    """Takes time and memory when the block ends, however; with a network, counts as `counted`."""
    cost, started = Cost(), time.perf_counter()
    memory.restart(device)
    try:
        with _counting(net, cost) if net else nullcontext():
            yield cost
    finally:
        cost.seconds = time.perf_counter() - started
        cost.peak = memory.peak(device)


@contextmanager
def _counting(net: nn.Module, passes: Passes) -> Iterator[None]:
    def note(_net: nn.Module, _inputs: object, logits: Tensor) -> None:
        passes.forward += len(logits)
        if torch.is_tensor(logits) and logits.requires_grad:
            logits.register_hook(back)  # type: ignore[no-untyped-call]

    def back(slope: Tensor) -> None:
        passes.backward += len(slope)

    # A copy of the network copies its hooks, and a function stays the one that it is.
    hook = net.register_forward_hook(note)
    try:
        yield
    finally:
        hook.remove()
