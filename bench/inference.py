"""The same network, quicker where nothing asks for a gradient."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.optimization import fuse

from bench.stages import copied

TOLERANCE = 1e-5
"""How far a logit of a quicker copy may be from the network's own, over max(1, the largest of
them). Ours; 6e-7 was the most that was seen of timm's networks as they are made."""


class Inference(nn.Module):
    """What a network answers without gradient, by a copy of it; its own hooks see that too."""

    def __init__(self, network: nn.Module, quick: nn.Module) -> None:
        super().__init__()
        self._both = network, quick  # in a tuple they are no submodules
        self.eval()

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, classes) of images (N, C, H, W)."""
        network, quick = self._both
        logits: Tensor = quick(x)
        if quick is not network:
            for hook in network._forward_hooks.values():
                changed = hook(network, (x,), logits)
                logits = logits if changed is None else changed
        return logits


@torch.no_grad()
def quickened(network: nn.Module, x: Tensor) -> nn.Module:
    """A copy of a network in evaluation mode that answers the same sooner, or the network itself.

    On a CPU its convolutions read and write the channels of a pixel side by side, with which oneDNN
    is 1.2 to 3 times as quick. Where torch.fx can follow the forward pass, a batch norm behind a
    convolution is folded into it (Jacob et al. 2018, arXiv:1712.05877, section 3.2), and a max
    pooling comes before its ReLU. A copy that cannot be made, or answers a drawn image of the shape
    of x (1 or more, C, H, W) not as the network does, is not used. On other devices, where it was
    not measured, none is made.
    """
    if x.device.type != "cpu" or network.training or network._forward_pre_hooks or not any(
            isinstance(module, nn.Conv2d) for module in network.modules()):
        return network
    drawn = torch.randn((1, *x.shape[1:]), generator=torch.Generator().manual_seed(0))
    answer: Tensor = network.forward(drawn)  # not called, so that no hook sees it
    for make in (_folded, _unhooked):
        try:
            quick = make(network).to(memory_format=torch.channels_last)
            apart = (quick(drawn) - answer).abs().max()
        except Exception:  # noqa: BLE001, S112  no telling what a forward pass stumbles over
            continue
        if apart <= TOLERANCE * answer.abs().max().clamp(min=1):
            return quick
    return network


def _folded(network: nn.Module) -> nn.Module:
    """A copy with its batch norms folded. Raises ValueError where that would lose a hook."""
    if any(module._forward_hooks or module._forward_pre_hooks
           for module in network.modules() if module is not network):
        raise ValueError(f"{type(network).__name__} has a module with a hook")
    # In place it copies what it changes, and shares the rest.
    found = cast(fx.GraphModule, fuse(network, inplace=True))
    _pool_first(found)
    return copied(found)


def _pool_first(network: fx.GraphModule) -> None:
    """Rectifies after a max pooling what was rectified before it: the same, of fewer numbers."""
    modules, graph = dict(network.named_modules()), network.graph
    for pool in list(graph.nodes):
        kind = modules.get(pool.target) if pool.op == "call_module" else None
        if not isinstance(kind, nn.MaxPool2d) or kind.return_indices:
            continue
        (before,) = pool.all_input_nodes
        rectifier = modules.get(before.target) if before.op == "call_module" else None
        if not isinstance(rectifier, nn.ReLU) or len(before.users) > 1:
            continue
        with graph.inserting_after(pool):
            after = graph.call_module(before.target)
        pool.replace_all_uses_with(after)
        after.args, pool.args = (pool,), before.args
        graph.erase_node(before)
    network.recompile()


def _unhooked(network: nn.Module) -> nn.Module:
    """A copy without the network's own forward hooks, which `Inference` calls."""
    own = copied(network)
    own._forward_hooks.clear()
    return own
