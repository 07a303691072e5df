"""Quantus itself, called as its documentation says: what the parity table compares with."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bench.measure import Explained
from bench.metrics.evidence import grid, upsampled
from bench.metrics.maps import Array
from bench.metrics.quantus_run import _quantus
from bench.randomness import seeded

SEED = 7
_CALL = ("softmax", "batch_size", "custom_batch")


def reference(name: str, explained: Explained, **keywords: Any) -> Any:
    """What Quantus's metric of that name answers, under SEED and by default in one batch.

    keywords: of its constructor, or of its call. Whatever Quantus raises is let through.
    """
    quantus = _quantus()
    own = quantus.explain
    batch = explained.batch
    call: dict[str, Any] = {"batch_size": len(batch)}
    call |= {key: keywords.pop(key) for key in _CALL if key in keywords}
    if batch.mask is not None:
        call["s_batch"] = (batch.mask > 0)[:, None].numpy().astype(int)

    def explain(model: nn.Module, inputs: Array, targets: Array, **_: Any) -> Array:
        return _shown(explained.explain(net=model, x=torch.as_tensor(inputs, dtype=torch.float32),
                                        target=torch.as_tensor(targets)), explained)

    with (warnings.catch_warnings(), np.errstate(all="ignore"), redirect_stdout(io.StringIO()),
          seeded(SEED), _trapz()):
        warnings.simplefilter("ignore")
        try:
            # SmoothMPRT calls this one, whatever it is given.
            quantus.explain = explain
            return getattr(quantus, name)(disable_warnings=True, **keywords)(
                model=explained.network, x_batch=batch.x.numpy().copy(),
                y_batch=explained.target.numpy(), a_batch=_shown(explained.maps, explained),
                channel_first=True, device="cpu", explain_func=explain, explain_func_kwargs={},
                **call)
        finally:
            quantus.explain = own


def _shown(maps: Tensor, explained: Explained) -> Array:
    return upsampled(maps, grid(explained))[:, None].numpy().copy()


@contextmanager
def _trapz() -> Iterator[None]:
    """Puts back, for a while, the name by which Quantus integrates; NumPy 2.4 has it no more."""
    if hasattr(np, "trapz"):
        yield
        return
    vars(np)["trapz"] = np.trapezoid
    try:
        yield
    finally:
        del vars(np)["trapz"]
