"""What Quantus is lent for one call: the network, in a form it can use, and names of NumPy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn


class Lent(nn.Module):
    """A network that Quantus may use but not keep: its wrapper's lru_cache never lets go.

    channels: how many lie side by side in its pixels, innermost, or 0; most: images in one pass.
    """

    def __init__(self, network: nn.Module, channels: int, most: int) -> None:
        super().__init__()
        self.network = network
        # Quantus looks for a Softmax as the last of all modules, and would copy the network.
        self.last = nn.Identity()
        self.channels = channels
        self.most = most
        # Quantus reads this flag; `eval()` would touch the network's own.
        self.training = False

    def forward(self, x: Tensor) -> Tensor:
        """Images to logits, by passes."""
        if self.channels:
            n, _, height, width = x.shape
            x = x.reshape(n, height, width // self.channels, self.channels).permute(0, 3, 1, 2)
        return torch.cat([self.network(part.contiguous()) for part in torch.split(x, self.most)])

    def give_back(self) -> None:
        """Lets go of the network."""
        self.network = nn.Identity()


class Fronted(nn.Module):
    """A network behind a layer that does nothing, whose bias Quantus may change.

    Quantus takes a shift of the image back in the bias of the first layer, which must be a
    convolution with a bias and no padding: a network of one's own seldom begins so.
    """

    def __init__(self, network: nn.Module, channels: int) -> None:
        super().__init__()
        # Its only output is the first channel, so the shift itself.
        self.front = nn.Conv2d(channels, 1, 1)
        nn.init.dirac_(self.front.weight)
        nn.init.zeros_(self.front.bias)   # type: ignore[arg-type]
        self.network = network
        self.training = False

    def shifted(self, image: Tensor) -> nn.Module:
        """The network (Quantus's copy), with the bias added to what its first layer is given.

        Not before the network: many explainers ask its parts instead of calling it.
        """
        bias = float(self.front.bias[0])   # type: ignore[index]
        first = first_layer(self.network, image)
        assert first is not None
        first.register_forward_pre_hook(lambda _, given: (given[0] + bias, *given[1:]))
        return self.network


def first_layer(network: nn.Module, image: Tensor) -> nn.Module | None:
    """The layer that is called first, or None if what it is given does not move with the image."""
    seen: list[tuple[nn.Module, Tensor]] = []
    hooks = [module.register_forward_pre_hook(lambda layer, given: seen.append((layer, given[0])))
             for module in network.modules() if not list(module.children())]
    try:
        with torch.no_grad():
            network(image)
            first, given = seen[0] if seen else (None, image)
            seen.clear()
            network(image - 1)
    finally:
        for hook in hooks:
            hook.remove()
    follows = first is not None and torch.allclose(seen[0][1], given - 1, atol=1e-5)
    return first if follows else None


@contextmanager
def older_numpy() -> Iterator[None]:
    """The names that Quantus takes from NumPy and newer NumPys have dropped, for one call."""
    names = {"trapz": "trapezoid", "NaN": "nan"}
    gone = [name for name in names if not hasattr(np, name)]
    for name in gone:
        setattr(np, name, getattr(np, names[name]))
    try:
        yield
    finally:
        for name in gone:
            delattr(np, name)
