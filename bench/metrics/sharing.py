"""What depends on the network and the images alone is made once for all maps that are scored."""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, TypeVar
from zlib import crc32

import torch

from bench.core import digest
from bench.inference import Inference, quickened

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable

    from torch import Tensor, nn

    from bench.measure import Explained

T = TypeVar("T")


def for_all(explained: Explained, key: Hashable, make: Callable[[], T], size: int = 0) -> T:
    """What `make` gives, made once for all contestants that share `explained.shared`.

    size: the bytes of this and all that is made beside it, where they may drive out the rest: then
    nothing is kept.

    It may depend on the network, the images and their seeds, which are told apart by their content,
    and on what the key names, and on nothing else: no map, target or logits but by `fingerprint`.
    Nobody may change it in place.
    """
    if not explained.shared.fits(size):
        return make()
    return explained.shared.once((explained.once("content", lambda: _content(explained)), key),
                                 make)


def answers(explained: Explained) -> nn.Module:
    """The network where nothing asks for a gradient: images (m, C, H, W) to logits (m, classes)."""
    if not explained.quick:
        return Inference(explained.network, explained.network)
    return explained.once("inference", lambda: Inference(explained.network, for_all(
        explained, "quicker network", lambda: quickened(explained.network, explained.batch.x))))


def content(network: nn.Module) -> str:
    """A checksum of a network: its classes, layers, parameters and buffers."""
    held = dict(network.named_parameters()) | dict(network.named_buffers())
    return _digest([str(type(network)), repr(network), *held], held.values())


def content_of(*tensors: Tensor) -> str:
    """A checksum of tensors: types, shapes and values."""
    return _digest((), tensors)


def fingerprint(*tensors: Tensor) -> str:
    """A checksum that tells apart whatever differs at all, by type, shape or value."""
    found = blake2b(digest_size=16)
    for tensor in tensors:
        found.update(f"{tensor.dtype} {tuple(tensor.shape)} ".encode())
        found.update(_bytes(tensor))
    return found.hexdigest()


def _content(explained: Explained) -> tuple[str, str, str]:
    x = explained.batch.x
    return content(explained.network), content_of(x, explained.batch.seed), str(x.device)


def _digest(words: Iterable[str], tensors: Iterable[Tensor]) -> str:
    """A CRC-32 of each: what differs by mistake is told apart, and quickly."""
    found = list(words)
    for tensor in tensors:
        found.append(f"{tensor.dtype} {tuple(tensor.shape)} {crc32(_bytes(tensor)):x}")
    return digest(found)


def _bytes(tensor: Tensor) -> bytes | memoryview:
    flat = tensor.detach().cpu().contiguous().view(-1)
    return flat.view(torch.uint8).numpy().data if flat.numel() else b""
