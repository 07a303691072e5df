"""Maps in batches: native, raw, signed, made once and kept in the cache."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from bench.chunks import in_pieces
from bench.core import Batch, HeatproofError, Method
from bench.randomness import seeded
from bench.spec import RunSpec
from bench.store import Cache, read_arrays, write_arrays

CHUNK = 64
"""Images explained at a time, or fewer where memory is short."""

TOLERANCE = 1e-4
"""How far a map's total may be from the output it adds up to, over max(1, |output|).

Ours. The float32 rounding of a network's own pooling was 2e-6 at most for normal maps of 8×8 to
512×512 cells, also where evidence of ±100 cancels to 0; what is 50 times that is no rounding.
"""


def maps(
    method: Method, net: nn.Module, batch: Batch, target: Tensor, spec: RunSpec, cache: Cache,
) -> Tensor:
    """The native maps (N, h, w) of a batch, from the cache or made now and kept there."""
    path = cache.path("maps", spec.maps_id)
    if not path.is_file():
        made = explained(method, net, batch, target)
        if write_arrays(path, {"maps": made.cpu().numpy()}, list(batch.key), once=True):
            return made
    arrays, facts = read_arrays(path)
    if facts != list(batch.key):
        raise HeatproofError(f"{path} holds maps of other images; delete it and run again")
    return torch.from_numpy(arrays["maps"]).to(batch.x.device)


def explained(method: Method, net: nn.Module, batch: Batch, target: Tensor) -> Tensor:
    """Native maps (N, h, w) float32 of a batch, a chunk at a time.

    The mask reaches only a method that declares that it needs it. Global random state is forked
    and seeded from the batch; the network comes back in evaluation mode and without gradients.
    A chunk that finds no memory is halved. Raises HeatproofError for a map of another shape.
    """
    shown = batch if method.needs_mask else replace(batch, mask=None)

    def work(part: slice) -> Tensor:
        piece = shown[part]
        with seeded(int(piece.seed[0])), torch.enable_grad():
            made = method.explain(net, piece, target[part])
        if not isinstance(made, Tensor) or made.ndim != 3 or len(made) != len(piece):
            shape = tuple(made.shape) if isinstance(made, Tensor) else type(made).__name__
            raise HeatproofError(
                f"method {method.name!r} returned maps of shape {shape}; explain() must return "
                f"({len(piece)}, h, w)")
        return made.detach().to(torch.float32)

    try:
        return torch.cat(in_pieces(work, len(batch), CHUNK))
    finally:
        net.eval()
        net.zero_grad(set_to_none=True)


def unsupported(method: Method, net: nn.Module) -> str | None:
    """None, or the reason why a method cannot explain a network; tried on a blank image.

    Its own reason first; then whether a network that must have a gradient has one.
    """
    if reason := method.supports(net):
        return reason
    if not method.needs_grad:
        return None
    x = torch.zeros(1, *method.card.image)
    with torch.enable_grad():
        logits = net(x.to(next(net.parameters(), x)).requires_grad_())
    if logits.grad_fn is None:
        return (f"the logits of {type(net).__name__} have no gradient with respect to the image, "
                f"and {method.title or method.name} reads it")
    return None


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
        chosen = _rows(range(len(batch)) if index is None else index)
        piece = batch[chosen]
        if x is not None:
            piece = replace(piece, x=x.to(batch.x.device, torch.float32))
        goal = own_target[chosen] if target is None else target.to(batch.x.device, torch.int64)
        return explained(method, own_net if net is None else net, piece, goal)

    return explain


def _rows(index: Sequence[int]) -> slice | list[int]:
    """A slice where the rows follow one another: a list has to be sent to the device."""
    first = index[0] if len(index) else 0
    if list(index) == list(range(first, first + len(index))):
        return slice(first, first + len(index))
    return list(index)


def additivity(declared: str, maps: Tensor, logits: Tensor, target: Tensor) -> dict[str, Any]:
    """How far maps (N, h, w) are from adding up to the output for `target` (N,), image by image.

    `declared` is a Method's `additivity`: "mean" (of the native map is the logit, from `logits`
    (N, classes)), "sum" (of it is the softmax probability) or "none". A network whose output does
    not come from its map alone gives itself away. Computed in float64. Returns `declared`;
    `largest`, the largest |total − output| / max(1, |output|), None where none is declared or a
    number is not finite; `tolerance`; `holds`, whether every image keeps it, None where none is
    declared; and `images`, how many were looked at. Raises HeatproofError for another `declared`.
    """
    report = {"declared": declared, "largest": None, "tolerance": TOLERANCE, "holds": None,
              "images": len(maps)}
    if declared == "none":
        return report
    if declared not in ("mean", "sum"):
        raise HeatproofError(f"additivity must be 'mean', 'sum' or 'none', not {declared!r}")
    cells, outputs = maps.detach().cpu().double().flatten(1), logits.detach().cpu().double()
    total = cells.mean(1) if declared == "mean" else cells.sum(1)
    outputs = outputs if declared == "mean" else outputs.softmax(1)
    output = outputs.gather(1, target.cpu()[:, None])[:, 0]
    largest = float(((total - output).abs() / output.abs().clamp(min=1)).max())
    finite = math.isfinite(largest)
    return report | {"largest": largest if finite else None,
                     "holds": finite and largest <= TOLERANCE}
