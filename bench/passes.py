"""What work costs: images that go through a network, forward and backward, time and memory."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bench import memory

THEN = ", then "


def device_title(device: torch.device) -> str:
    """What a device is, for people: "cuda (NVIDIA A100)", "cpu (x86_64, 1 thread)"."""
    if device.type == "cuda":
        return f"cuda ({torch.cuda.get_device_name(device)})"
    return f"{device} ({platform.machine()}, {torch.get_num_threads()} thread)"


def kind_of(title: str) -> str:
    """The kind of a device by its title, or of several: "cpu, cuda"; without what follows a ";"."""
    titles = title.partition(";")[0].split(THEN)
    return ", ".join(dict.fromkeys(one.partition(" ")[0] for one in titles))


@dataclass
class Passes:
    """Images that went through, forward and backward."""

    forward: int = 0
    backward: int = 0


@dataclass
class Cost(Passes):
    """Passes, the seconds that they and all else took, the most bytes in use meanwhile, and where.

    device: as `device_title` names it; "A, then B" where the work went on elsewhere.
    """

    seconds: float = 0.0
    peak: int = 0
    device: str = ""

    def after(self, before: Mapping[str, Any]) -> dict[str, Any]:
        """Both together, where the same work began earlier; before: such a dictionary, or {}."""
        first = before.get("device", "")
        moved = first and first.split(THEN)[-1] != self.device
        return {
            **{name: value + before.get(name, 0) for name, value in asdict(self).items()
               if name not in ("peak", "device")},
            "peak": max(self.peak, before.get("peak", 0)),
            "device": f"{first}{THEN}{self.device}" if moved else first or self.device}


@contextmanager
def counted(net: nn.Module) -> Iterator[Passes]:
    """Counts while the block runs, in copies of the network too."""
    passes = Passes()
    with _counting(net, passes):
        yield passes


@contextmanager
def costing(device: torch.device, net: nn.Module | None = None) -> Iterator[Cost]:
    """Takes time and memory when the block ends, however; with a network, counts as `counted`."""
    cost, started = Cost(device=device_title(device)), time.perf_counter()
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
