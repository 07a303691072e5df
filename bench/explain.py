"""Maps in batches: native, raw, signed, made once and kept in the cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from bench.core import Batch, HeatproofError, Method
from bench.randomness import seeded
from bench.spec import RunSpec
from bench.store import Cache, read_arrays, write_arrays

CHUNK = 64
"""Images explained at a time."""


def maps(
    method: Method, net: nn.Module, batch: Batch, target: Tensor, spec: RunSpec, cache: Cache,
) -> Tensor:
    """The native maps (N, h, w) of a batch, from the cache or made now and kept there."""
    path = cache.path("maps", spec.maps_id)
    if path.is_file():
        arrays, facts = read_arrays(path)
        if facts != list(batch.key):
            raise HeatproofError(f"{path} holds maps of other images; delete it and run again")
        return torch.from_numpy(arrays["maps"]).to(batch.x.device)
    made = explained(method, net, batch, target)
    write_arrays(path, {"maps": made.cpu().numpy()}, list(batch.key))
    return made


def explained(method: Method, net: nn.Module, batch: Batch, target: Tensor) -> Tensor:
    """Native maps (N, h, w) float32 of a batch, a chunk at a time.

    The mask reaches only a method that declares that it needs it. Global random state is forked
    and seeded from the batch; the network comes back in evaluation mode and without gradients.
    Raises HeatproofError for a map of another shape.
    """
    shown = batch if method.needs_mask else replace(batch, mask=None)
    parts = []
    for start in range(0, len(batch), CHUNK):
        part = slice(start, start + CHUNK)
        piece = shown[part]
        with seeded(int(piece.seed[0])), torch.enable_grad():
            made = method.explain(net, piece, target[part])
        if not isinstance(made, Tensor) or made.ndim != 3 or len(made) != len(piece):
            shape = tuple(made.shape) if isinstance(made, Tensor) else type(made).__name__
            raise HeatproofError(
                f"method {method.name!r} returned maps of shape {shape}; explain() must return "
                f"({len(piece)}, h, w)")
        parts.append(made.detach().to(torch.float32))
    net.eval()
    net.zero_grad(set_to_none=True)
    return torch.cat(parts)


def explainer(
    method: Method, net: nn.Module, batch: Batch, target: Tensor,
) -> Callable[..., Tensor]:
    """The closure that metrics re-explain with.

    `explain(net=None, x=None, target=None, index=None) -> (n, h, w)`: the same method for another
    network, other images or targets; `index` says which samples of the batch they belong to.
    """
    own_net, own_target = net, target

    def explain(
        net: nn.Module | None = None, x: Tensor | None = None, target: Tensor | None = None,
        index: Sequence[int] | None = None,
    ) -> Tensor:
        chosen = list(range(len(batch)) if index is None else index)
        piece = batch[chosen]
        if x is not None:
            piece = replace(piece, x=x.to(batch.x.device, torch.float32))
        goal = own_target[chosen] if target is None else target.to(batch.x.device, torch.int64)
        return explained(method, own_net if net is None else net, piece, goal)

    return explain
