"""The most memory that was in use: of a GPU by torch, of a CPU's process by the system."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

NEAR = 2**24
"""Bytes by which a process may shrink between two looks."""


def restart(device: torch.device) -> bool:
    """Forgets the peak so far, where the system lets a process do so (Linux, CUDA); says if it did.

    Where it does not (another system, a `/proc` that may only be read), the peak stays that of
    the whole process: never too low.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return True
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        most, now = _status("VmHWM", "VmRSS")
    except (OSError, IndexError):
        return False
    return most < now + NEAR  # some sandboxes take the wish and do nothing


def peak(device: torch.device) -> int:
    """Bytes in use at most since a `restart` that forgot: a GPU's tensors, or the whole process."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        return _status("VmHWM")[0]
    except (OSError, IndexError):
        # On Linux what getrusage says would begin with the peak of the process that started it.
        import resource  # not on every system

        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _status(*names: str) -> list[int]:
    """What Linux tells of this process's memory at one moment, in bytes."""
    told = Path("/proc/self/status").read_text(encoding="utf-8")
    return [1024 * int(told.partition(f"{name}:")[2].split()[0]) for name in names]
