"""Chance, held: every global generator seeded for a while, then as it was."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import numpy as np
import torch


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seeds Python's, NumPy's and torch's global generators, and puts back what they were.

    Libraries that draw from them (captum's samplers, Quantus) run inside this block alone.
    """
    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002
    used = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if used else []):
        try:
            random.seed(seed)
            np.random.seed(seed % 2**32)  # noqa: NPY002
            # For accelerators that are not in use torch notes the call with its whole stack: that
            # is slow, and there may be none.
            (torch.manual_seed if _accelerated() else torch.default_generator.manual_seed)(
                seed % 2**63)
            yield
        finally:
            random.setstate(python)
            np.random.set_state(legacy)  # noqa: NPY002


@lru_cache(maxsize=1)
def _accelerated() -> bool:
    return torch.cuda.is_available() or torch.backends.mps.is_available()
