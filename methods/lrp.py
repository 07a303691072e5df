"""Layer-wise relevance propagation, by captum's rules on a copy of the network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from bench import Batch, HeatproofError, copied, method

from .propagation import NONLINEAR, Propagation, Trace, apart, quiet

FUNCTIONS: Mapping[str, tuple[Callable[..., Tensor], int]] = {
    "add": (torch.add, 2), "add_": (torch.add, 2), "mean": (torch.mean, 1),
    "avg_pool2d": (functional.avg_pool2d, 1),
    "adaptive_avg_pool2d": (functional.adaptive_avg_pool2d, 1)}
"""Linear functions that captum gets as modules: by what torch calls them, what computes them (not
in place), and how many maps they take."""


@method("lrp")
class LRP(Propagation):
    """LRP by captum's default rules: the ε-rule, ε = 1e-9; summed over the channels.

    A batch norm is a layer like others: its shift takes a share of the relevance, as a bias does.
    """

    title = "LRP-ε"
    paper = "Bach et al. 2015, PLoS ONE 10(7):e0130140; by captum's LRP"
    passes = "2 forward, 1 backward"

    def ready(self, net: nn.Module, x: Tensor) -> nn.Module:
        """A copy in which all that captum has a rule for is a module. Raises for one without."""
        from captum.attr._utils.lrp_rules import EpsilonRule

        seen = _Seen(copied(net).requires_grad_(False), x[:1])
        for name, module in seen.named_modules():
            if list(module.children()):
                continue
            module.register_forward_pre_hook(apart)
            if type(module) in _ruled():
                continue
            if not isinstance(module, _Call) and module not in seen.idle:
                raise HeatproofError(
                    f"captum's LRP has no rule for {type(module).__name__} "
                    f"({name.removeprefix('net.')}) of {type(net).__name__}")
            module.rule = EpsilonRule()
        return seen

    def flaw(self, net: nn.Module, x: Tensor) -> str | None:
        """Where the relevance is not input times gradient once all biases are zero.

        A network of ReLUs and linear layers is positively homogeneous then, and Ancona et al.
        (arXiv:1711.06104) show that the two are one; so the relevance is conserved too.
        """
        trace = Trace(net, x)
        leaves = {name for name in trace.modules if not list(net.get_submodule(name).children())}
        if reason := trace.reused(net, leaves):
            return reason
        ready = self.ready(net, x)
        for name, shift in (*ready.named_parameters(), *ready.named_buffers()):
            if name.endswith((".bias", ".running_mean")):
                shift.zero_()
        leaf = x[:1].clone().requires_grad_()
        logits = ready(leaf)
        target = logits.abs().argmax(1)
        (slope,) = torch.autograd.grad(logits[0, target], leaf)
        expected = (leaf * slope).detach()
        peak = float(expected.abs().max())
        off = float((_relevance(ready, x[:1], target) - expected).abs().max())
        if off <= 1e-3 * peak:  # ε keeps 1e-9 over the smallest activation; a missing rule, all
            return None
        named = trace.outside(net, _ruled(), NONLINEAR | {"mul", "mul_", "div", "matmul"})
        return (f"captum's LRP loses relevance on {type(net).__name__}: without biases it must be "
                f"input times gradient, and is off by {off / peak:.1g} of the peak; it has no rule "
                f"for {named or 'some function that is called'}")

    def explain(self, net: nn.Module, batch: Batch, target: Tensor) -> Tensor:
        """Relevance (N, H, W), signed; it sums to the logit but for what biases take."""
        return _relevance(self.ready(net, batch.x), batch.x, target).sum(1)


def _relevance(ready: nn.Module, x: Tensor, target: Tensor) -> Tensor:
    from captum.attr import LRP

    with quiet():
        made = LRP(ready).attribute(x.clone().requires_grad_(), target=target)
    return cast(Tensor, made.detach())


def _ruled() -> set[type[nn.Module]]:
    """The types of modules that captum has a rule for."""
    from captum.attr._core import lrp

    return {*lrp.SUPPORTED_LAYERS_WITH_RULES, *lrp.SUPPORTED_NON_LINEAR_LAYERS}


class _Seen(nn.Module):
    """A network as captum needs it: each call of FUNCTIONS is a module, too, in `calls`.

    x: (1, C, H, W), an image to see what is called. `idle`: the modules inside none other which
    return the numbers that they are given, as nn.Flatten does, or are not called at all.
    """

    def __init__(self, net: nn.Module, x: Tensor) -> None:
        super().__init__()
        for name, module in list(net.named_modules()):
            # To captum, timm's norm with its activation inside is a container without a norm.
            if isinstance(module, nn.BatchNorm2d) and list(module.children()):
                net.set_submodule(name, nn.Sequential(_norm(module), *module.children()))
        self.net, self.calls, self.complete = net, nn.ModuleList(), False
        self.idle = idle = {module for module in self.modules() if not list(module.children())}
        self.at_work = at_work = list[nn.Module]()
        """The module at work that captum hooks itself, if any."""

        given: list[Tensor] = []

        def before(_module: nn.Module, inputs: tuple[Any, ...]) -> None:
            # A copy, or a module that works in place would seem to return what it was given.
            given[:] = [x.detach().flatten().clone() for x in inputs if torch.is_tensor(x)]

        def after(module: nn.Module, _inputs: object, output: Any) -> None:
            if not (len(given) == 1 and torch.is_tensor(output)
                    and torch.equal(output.flatten(), given[0])):
                idle.discard(module)

        # No hook that stays refers to this network, or the copy would wait for the collector.
        for module in idle:
            module.register_forward_pre_hook(lambda module, _: at_work.append(module))
            module.register_forward_hook(lambda _module, _inputs, _output: at_work.clear())
        hooks = [hook for module in idle for hook in (
            module.register_forward_pre_hook(before), module.register_forward_hook(after))]
        self(x.clone().requires_grad_())
        self.complete = True
        for hook in hooks:
            hook.remove()

    def forward(self, x: Tensor) -> Tensor:
        """The network's logits (N, classes)."""
        with _Calls(self):
            return cast(Tensor, self.net(x))


def _norm(norm: nn.BatchNorm2d) -> nn.BatchNorm2d:
    """The norm alone, by the same weights and statistics."""
    alone = nn.BatchNorm2d(norm.num_features, norm.eps).eval()
    for name in ("weight", "bias", "running_mean", "running_var"):
        setattr(alone, name, getattr(norm, name))
    return alone


class _Call(nn.Module):
    """A function of maps as a module."""

    function: Callable[..., Tensor]

    def forward(self, *maps: Tensor) -> Tensor:
        """What the function returns for them."""
        return self.function(*maps)


class _Calls(TorchFunctionMode):
    """Inside, FUNCTIONS of maps that depend on the image are called by the modules of `seen`."""

    def __init__(self, seen: _Seen) -> None:
        super().__init__()
        self.seen, self.made = seen, 0

    def __torch_function__(
        self, function: Callable[..., Any], types: object, args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Makes the call, by a module where it is one of them."""
        computes, n = FUNCTIONS.get(getattr(function, "__name__", ""), (function, 0))
        maps, rest, options = args[:n], args[n:], kwargs or {}
        depends = [torch.is_tensor(given) and given.requires_grad for given in maps]
        if self.seen.at_work or not depends or not all(depends):
            return function(*args, **options)
        if not self.seen.complete:
            self.seen.calls.append(_Call())
        call = cast(_Call, self.seen.calls[self.made])
        self.made += 1
        call.function = lambda *maps: computes(*maps, *rest, **options)
        return call(*maps)
