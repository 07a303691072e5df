"""Work in pieces that fit in memory; what comes out does not depend on the pieces."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from bench.core import HeatproofError

T = TypeVar("T")

LARGEST = 256
"""Rows of a piece at most: a network is no quicker by more."""
ROOM = {"cpu": 2**30, "cuda": 2**34}
"""Bytes that a piece may take, by kind of device. Fixed, since the pieces, and with them the last
bits of a map, would else differ from day to day; where less is free, a quarter of that."""

WIDE = 48
"""Bytes of a network's widest layer, what goes in and what comes out, over those of the image: 43
in VGG-16, 16 in ConvNeXt and EfficientNet, 11 in ResNets and DenseNet-121 (timm, RGB, 224 px)."""

_MOST: ContextVar[int] = ContextVar("most", default=LARGEST)


@contextmanager
def at_most(rows: int) -> Iterator[None]:
    """Inside, no piece has more rows than these."""
    before = _MOST.set(rows)
    try:
        yield
    finally:
        _MOST.reset(before)


def in_pieces(work: Callable[[slice], T], n: int, rows: int) -> list[T]:
    """What `work` returns for slices of at most `rows`, which cover 0 to n in order.

    A piece that finds no memory is halved, and so are all after it. Raises HeatproofError if not
    even one row fits; any other error passes.
    """
    rows, start, found = max(1, min(rows, _MOST.get())), 0, list[T]()
    while start < n:
        stop = min(start + rows, n)
        try:
            found.append(work(slice(start, stop)))
            start = stop
            continue
        except (RuntimeError, MemoryError) as error:
            if not _lacks_memory(error):
                raise
            why = str(error).splitlines()[0] if str(error) else type(error).__name__
        # Outside of the except clause, whose error keeps alive what the piece had allocated.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if stop - start == 1:
            raise HeatproofError(
                f"not even one image at a time fits in memory ({why}); use a smaller network or "
                "image, or a device with more memory")
        rows = (stop - start) // 2
    return found


_KEPT: WeakKeyDictionary[nn.Module, dict[tuple[object, ...], int]] = WeakKeyDictionary()
"""What `_kept` found of each network that is still there, by the images' shape, type and device."""


def fitting(net: nn.Module, x: Tensor) -> int:
    """How many images like x (1 or more, C, H, W) go through a network at once: a power of two.

    By what its backward pass has to keep of one image, weights aside. One forward pass, the first
    time that a network is asked of.
    """
    found, like = _KEPT.setdefault(net, {}), (x.shape[1:], x.dtype, x.device)
    if like not in found:
        found[like] = _kept(net, x)
    # Each kept value has a gradient, and the layer at work a copy of either.
    return _within(x.device, 3 * found[like], LARGEST)


def _kept(net: nn.Module, x: Tensor) -> int:
    """The bytes that a network keeps of one image for its backward pass, weights aside."""
    weights = {tensor.data_ptr() for tensor in (*net.parameters(), *net.buffers())}
    kept = [x[:1].nbytes]

    def pack(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in weights:
            kept.append(tensor.nbytes)
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        net(x[:1].detach().requires_grad_())
    return sum(kept)


def passing(x: Tensor, most: int) -> int:
    """How many images like x (1 or more, C, H, W) go through a network at once without gradient.

    A power of two, at most `most`. No pass is spent on it: a layer is taken to hold WIDE times the
    bytes of an image, and what is too much all the same is halved by `in_pieces`.
    """
    return _within(x.device, WIDE * x[:1].nbytes, most)


def _within(device: torch.device, each: int, most: int) -> int:
    """How many rows of `each` bytes have room on a device: a power of two, at most `most`."""
    room = min(ROOM.get(device.type, ROOM["cpu"]), _free(device) // 4)
    return int(2 ** (max(1, min(room // each, most)).bit_length() - 1))


class TargetScore:
    """A network's logit of one class an image, as a function that knows its gradient.

    For libraries that expand a batch: `score(x, target)` is (n,) for x (n, C, H, W) and target
    (n,), and runs in pieces that fit. Where x requires a gradient, that of each piece is taken at
    once, so no more than one piece is ever kept; the rows of the batch must not depend on each
    other, as they do not in evaluation mode.
    """

    def __init__(self, net: nn.Module) -> None:
        self.net = net
        self._rows = 0

    def __call__(self, x: Tensor, target: Tensor) -> Tensor:
        """Logits (n,) of the classes `target` (n,)."""
        if not self._rows:
            self._rows = fitting(self.net, x)
        if x.requires_grad and torch.is_grad_enabled():
            return _Score.apply(x, target, self.net, self._rows)  # type: ignore[no-any-return]

        def work(part: slice) -> Tensor:
            with torch.no_grad():
                return _chosen(self.net, x[part], target[part])

        return torch.cat(in_pieces(work, len(x), self._rows))


class _Score(torch.autograd.Function):
    """The target logits, whose gradient by x is made in the forward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, target: Tensor, net: nn.Module, rows: int) -> Tensor:
        def work(part: slice) -> tuple[Tensor, Tensor]:
            with torch.enable_grad():
                piece = x[part].detach().requires_grad_()
                chosen = _chosen(net, piece, target[part])
                (slope,) = torch.autograd.grad(chosen.sum(), piece)
            return chosen.detach(), slope

        scores, slopes = zip(*in_pieces(work, len(x), rows), strict=True)
        ctx.save_for_backward(torch.cat(slopes))
        return torch.cat(scores)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        (slope,) = ctx.saved_tensors
        return grads[0][:, None, None, None] * slope, None, None, None


def _chosen(net: nn.Module, x: Tensor, target: Tensor) -> Tensor:
    logits: Tensor = net(x)
    return logits.gather(1, target[:, None])[:, 0]


def _lacks_memory(error: BaseException) -> bool:
    """Whether it says that memory ran out: on a GPU, in torch's allocator for the CPU, in NumPy."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(
            words in str(error) for words in ("can't allocate memory", "ALLOC_FAILED")))


def _free(device: torch.device) -> int:
    """Free bytes of a device; as good as endless where nothing tells."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    free = 2**62
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                free = int(line.split()[1]) * 1024
        group = Path("/sys/fs/cgroup")
        limit = (group / "memory.max").read_text().strip()
        if limit != "max":  # the container's
            free = min(free, int(limit) - int((group / "memory.current").read_text()))
    except (OSError, ValueError, IndexError):
        pass
    return free
