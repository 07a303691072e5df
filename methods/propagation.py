"""Explainers that change a network's backward pass, by captum's hooks on a copy of it.

Captum hooks modules: what a network computes in a function is left as it is, and a module that is
called twice is taken for one call. Nothing warns of either, so each method proves on the network
itself what its paper promises, and refuses one where that does not hold.
"""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from bench import Batch, HeatproofError, Method, copied, fitting, in_pieces, method, nets

from .reference import Background, reference

ACTIVATIONS = frozenset((
    "relu", "relu_", "relu6", "hardtanh", "leaky_relu", "prelu", "rrelu", "elu", "selu", "celu",
    "gelu", "silu", "mish", "hardswish", "sigmoid", "hardsigmoid", "logsigmoid", "tanh", "softplus",
    "softsign", "threshold", "clamp", "clamp_min"))
"""What torch calls the functions that work on each number by itself."""
NONLINEAR = ACTIVATIONS | {
    "softmax", "log_softmax", "logsumexp", "scaled_dot_product_attention", "layer_norm",
    "group_norm", "instance_norm", "norm", "max_pool2d", "adaptive_max_pool2d", "max", "amax",
    "maximum", "exp", "log", "sqrt", "rsqrt", "pow"}
"""These, and the functions that mix numbers and are not linear."""


class Propagation(Method):
    """What all of them share: the copy that captum hooks, and the proof that it serves."""

    family = "gradient"
    version = "1"
    needs_grad = True

    @abstractmethod
    def ready(self, net: nn.Module, x: Tensor) -> nn.Module:
        """A copy for captum, with the same logits; x (n, C, H, W) are images to see it at work."""

    @abstractmethod
    def flaw(self, net: nn.Module, x: Tensor) -> str | None:
        """Why captum would be wrong on `net`, a copy in float64, by two images x (2, C, H, W)."""

    def supports(self, net: nn.Module) -> str | None:
        """Only a network whose every call captum sees, which is proven on two drawn images."""
        net = _lively(net)
        device = next((p.device for p in net.parameters()), torch.device("cpu"))
        draw = torch.Generator().manual_seed(0)
        x = torch.randn((2, *self.card.image), generator=draw, dtype=torch.float64).to(device)
        try:
            with torch.enable_grad(), quiet():
                logits = net(x.clone().requires_grad_())
                if not logits.requires_grad:
                    return None  # bench.explain.unsupported says so, of every method alike
                if not torch.allclose(self.ready(net, x)(x), logits):
                    return (f"{type(net).__name__} reads what an in-place module has overwritten; "
                            "captum needs its modules with inplace=False")
                return self.flaw(net, x)
        except HeatproofError as error:
            return str(error)
        except (RuntimeError, TypeError, ValueError, AssertionError, LookupError) as error:
            why = str(error).splitlines()[0] if str(error) else type(error).__name__
            return f"{self.title} by captum fails on {type(net).__name__}: {why}"


def _lively(net: nn.Module) -> nn.Module:
    """A copy in float64 whose parameters that are all zero are drawn, the same at every call.

    A residual branch begins as nothing in many networks, and what is wrong inside would not show;
    a metric explains the network with other weights too.
    """
    net = copied(net).double().eval().requires_grad_(False)
    draw = torch.Generator().manual_seed(1)
    for parameter in net.parameters():
        if not parameter.any():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=draw))
    return net


def hooked(net: nn.Module, kinds: Iterable[type[nn.Module]]) -> nn.Module:
    """A copy of the network for captum, with the same logits.

    Modules of these kinds get their input as a tensor of their own. One that works in place then
    overwrites no other's; and captum changes the gradient of that tensor, which is too much where
    another layer reads it too, and too late where it is a rectifier's output, whose rule has been
    given the gradient as it was before.
    """
    net, kinds = copied(net).requires_grad_(False), tuple(kinds)
    for module in net.modules():
        if isinstance(module, kinds):
            module.register_forward_pre_hook(apart)
    return net


def apart(_module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """A hook before a module: its input as a tensor of its own."""
    return tuple(x.clone() if torch.is_tensor(x) else x for x in inputs)


@contextmanager
def quiet() -> Iterator[None]:
    """Inside, captum does not warn that it sets hooks: they are set on a copy."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Setting .*hooks")
        yield


class Trace(TorchFunctionMode):
    """Who called what in one forward pass of a network for images x.

    modules: how often each module was called, by name. functions: pairs of a function's name and
    that of the innermost module which called it.
    """

    def __init__(self, net: nn.Module, x: Tensor) -> None:
        super().__init__()
        self.modules, self.functions = Counter[str](), dict[tuple[str, str], None]()
        self._within: list[str] = []
        hooks = []
        for name, module in net.named_modules():
            hooks.append(module.register_forward_pre_hook(partial(self._enter, name)))
            hooks.append(module.register_forward_hook(self._leave))
        try:
            with self:
                net(x)
        finally:
            for hook in hooks:
                hook.remove()

    def __torch_function__(
        self, function: Callable[..., Any], types: object, args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Notes a call and makes it."""
        if self._within:
            self.functions[getattr(function, "__name__", ""), self._within[-1]] = None
        return function(*args, **(kwargs or {}))

    def _enter(self, name: str, *_: object) -> None:
        self.modules[name] += 1
        self._within.append(name)

    def _leave(self, *_: object) -> None:
        self._within.pop()

    def reused(self, net: nn.Module, names: Iterable[str]) -> str | None:
        """The reason why not, where one of these modules is called more than once."""
        for name in names:
            if (calls := self.modules[name]) > 1:
                return (f"captum takes a module for one call, and {type(net).__name__} calls "
                        f"{name} {calls} times; give each call a module of its own")
        return None

    def of(self, net: nn.Module, kinds: Iterable[type[nn.Module]]) -> list[str]:
        """The called modules of these very types, by name."""
        return [name for name in self.modules if type(net.get_submodule(name)) in kinds]

    def outside(
        self, net: nn.Module, kinds: Iterable[type[nn.Module]], functions: Iterable[str],
    ) -> str:
        """Those of the functions called outside of modules of these kinds; the first few."""
        found = {function: name for function, name in reversed(self.functions)
                 if function in functions and type(net.get_submodule(name)) not in kinds}
        return ", ".join(f"{function} (in {name or type(net).__name__})"
                         for function, name in reversed(list(found.items())[-3:]))


class Rescale(Propagation):
    """What DeepLIFT and DeepLIFTSHAP share: the Rescale rule."""

    def ready(self, net: nn.Module, x: Tensor) -> nn.Module:
        """A copy in which the modules with a rule stand apart."""
        from captum.attr._core.deep_lift import SUPPORTED_NON_LINEAR

        return hooked(net, SUPPORTED_NON_LINEAR)

    def flaw(self, net: nn.Module, x: Tensor) -> str | None:
        """Where the attributions of one image against the other are not f(x) − f(x')."""
        from captum.attr._core.deep_lift import SUPPORTED_NON_LINEAR as RULES

        trace = Trace(net, x)
        if reason := trace.reused(net, trace.of(net, RULES)):
            return reason
        differences = net(x[:1]) - net(x[1:])
        target = differences.abs().argmax(1)
        expected = float(differences[0, target])
        found = float(_shares(self.ready(net, x), x[:1], x[1:], target).sum())
        # In float64 what is right is right to 1e-9 or so, and a missing rule is wrong at once.
        if (off := abs(found - expected)) <= 1e-6 * abs(expected):
            return None
        named = trace.outside(net, RULES, NONLINEAR)
        return (f"DeepLIFT does not add up on {type(net).__name__}: what the attributions of a "
                f"probe sum to differs from f(x) − f(baseline) by {off / abs(expected):.1g} of it; "
                f"captum has no rule for {named or 'some function that is called'}")


def _shares(net: nn.Module, x: Tensor, baseline: Tensor, target: Tensor) -> Tensor:
    """Captum's attributions (n, C, H, W) of images against baselines of the same shape."""
    from captum.attr import DeepLift

    lift = DeepLift(net)
    lift._backward_hook = _multipliers
    with quiet():
        return cast(Tensor, lift.attribute(
            x.clone().requires_grad_(), baselines=baseline, target=target).detach())


def _multipliers(module: nn.Module, grad_input: Tensor, grad_output: Tensor) -> Tensor:
    """Captum's multipliers of a module, but for two slips in its rule of max pooling.

    Of windows that share a cell, as those of a ResNet's stem do, it keeps the last one alone; and
    where image and baseline agree, each pair of the batch gets the first one's gradient.
    """
    from captum.attr._core import deep_lift

    before, after = cast(Tensor, module.input), cast(Tensor, module.output)
    if not isinstance(module, nn.MaxPool1d | nn.MaxPool2d | nn.MaxPool3d):
        rule = deep_lift.SUPPORTED_NON_LINEAR[type(module)]
        return cast(Tensor, rule(module, before, after, grad_input, grad_output))
    (x, baseline), (one, other) = before.chunk(2), after.chunk(2)
    larger = torch.maximum(one, other)
    with torch.enable_grad():
        leaf = before.requires_grad_()
        (spread,) = torch.autograd.grad(
            module.forward(leaf), leaf, grad_output * torch.cat([larger - other, one - larger]))
    total, gap = spread[:len(x)] + spread[len(x):], x - baseline
    agree = gap.abs() < 1e-10  # as captum has it
    slope = (total / gap.masked_fill(agree, 1)).repeat(2, *[1] * (x.ndim - 1))
    return torch.where(torch.cat([agree, agree]), grad_input, slope)


@method("deeplift")
class DeepLIFT(Rescale):
    """DeepLIFT by its Rescale rule, summed over the channels.

    `baseline` is "black" (pixel value 0; ours, as in Integrated Gradients) or "mean" (the card's
    mean, captum's default of 0 after normalisation). Under max pooling the cells of a constant
    baseline tie, and rounding says which of them a window's loss is put down to.
    """

    title = "DeepLIFT"
    paper = "Shrikumar et al. 2017, arXiv:1704.02685; by captum's DeepLift"
    passes = "2 forward, 2 backward"
    explain_params = {"baseline": "black"}

    def explain(self, net: nn.Module, batch: Batch, target: Tensor) -> Tensor:
        """Attributions (N, H, W), signed; they sum to f(x) − f(baseline)."""
        x, baseline, net = batch.x, reference(self, batch.x), self.ready(net, batch.x)
        return torch.cat(in_pieces(
            lambda part: _shares(net, x[part], baseline[part], target[part]).sum(1),
            len(x), fitting(net, x) // 2))


@method("deepliftshap")
class DeepLIFTSHAP(Background, Rescale):
    """DeepLIFTSHAP, summed over the channels: the mean of DeepLIFT over baselines.

    They are the first `background` training images: 100, which SHAP's DeepExplainer calls enough
    for a good estimate.
    """

    title = "DeepLIFTSHAP"
    paper = "Lundberg and Lee 2017, arXiv:1705.07874; by captum's DeepLift, as its DeepLiftShap"
    passes = "2 · background forward, 2 · background backward"
    check_explain = {"background": 4}

    def explain(self, net: nn.Module, batch: Batch, target: Tensor) -> Tensor:
        """Attributions (N, H, W), signed; they sum to f(x) − mean f(background)."""
        net, background = self.ready(net, batch.x), self.background.to(batch.x)
        rows = fitting(net, batch.x) // 2

        def total(i: int, part: slice) -> Tensor:
            baselines = background[part]
            return _shares(net, batch.x[[i]].expand_as(baselines), baselines,
                           target[[i]].expand(len(baselines))).sum((0, 1))

        return torch.stack([
            torch.stack(in_pieces(partial(total, i), len(background), rows)).sum(0)
            for i in range(len(batch))]) / len(background)


class Guided(Propagation):
    """What changes the gradient of rectifiers: Guided Backprop, Deconvolution, Guided Grad-CAM."""

    passes = "1 forward, 1 backward"

    def ready(self, net: nn.Module, x: Tensor) -> nn.Module:
        """A copy in which the rectifiers stand apart."""
        return hooked(net, [nn.ReLU])

    def flaw(self, net: nn.Module, x: Tensor) -> str | None:
        """Where an activation is no nn.ReLU, and so would have its plain gradient.

        What is no activation (a softmax, a norm, max pooling) has its gradient by these methods.
        """
        kinds = {type(module) for module in net.modules() if isinstance(module, nn.ReLU)}
        trace = Trace(net, x)
        if named := trace.outside(net, kinds, ACTIVATIONS):
            return (f"{self.title} has a rule for nn.ReLU alone, and {type(net).__name__} calls "
                    f"{named}, which would have the plain gradient")
        if not (rectifiers := trace.of(net, kinds)):
            return (f"{type(net).__name__} calls no nn.ReLU, without which {self.title} is the "
                    "plain gradient")
        # Of two calls captum may confuse what came from above, which only Deconvolution reads.
        return trace.reused(net, rectifiers) if isinstance(self, Deconvolution) else None


@method("guided-backprop")
class GuidedBackprop(Guided):
    """Guided Backprop: the gradient, of which each ReLU passes on the positive part alone.

    The paper shows it as a colour image. Here it is summed over the channels with its sign, as the
    other gradients are (ours): Quantus does the same.
    """

    title = "Guided Backprop"
    paper = "Springenberg et al. 2015, arXiv:1412.6806; by captum's GuidedBackprop"

    def explain(self, net: nn.Module, batch: Batch, target: Tensor) -> Tensor:
        """The guided gradient (N, H, W), signed."""
        from captum.attr import GuidedBackprop

        return _summed(GuidedBackprop(self.ready(net, batch.x)), batch, target)


@method("deconvolution")
class Deconvolution(Guided):
    """Deconvolution: each ReLU passes on the positive part of what it is given from above.

    Where the ReLU itself was off does not matter, as it does in Guided Backprop. Summed over the
    channels with its sign (ours), as Guided Backprop is.
    """

    title = "Deconvolution"
    paper = "Zeiler and Fergus 2014, arXiv:1311.2901; by captum's Deconvolution"

    def explain(self, net: nn.Module, batch: Batch, target: Tensor) -> Tensor:
        """The deconvolved logit (N, H, W), signed."""
        from captum.attr import Deconvolution

        return _summed(Deconvolution(self.ready(net, batch.x)), batch, target)


@method("guided-gradcam")
class GuidedGradCAM(Guided):
    """Guided Backprop times Grad-CAM, rectified and enlarged to the image, as in the paper.

    Enlarged bilinearly, which is the paper's way; captum's default is the nearest cell. Summed over
    the channels with its sign (ours), as Guided Backprop is.
    """

    title = "Guided Grad-CAM"
    paper = "Selvaraju et al. 2017, arXiv:1610.02391; by captum's GuidedGradCam"
    passes = "2 forward, 2 backward"

    def supports(self, net: nn.Module) -> str | None:
        """Only a network with rectifiers, as Guided Backprop, and with a feature map."""
        try:
            nets.feature_layer(net)
        except HeatproofError as error:
            return str(error)
        return super().supports(net)

    def explain(self, net: nn.Module, batch: Batch, target: Tensor) -> Tensor:
        """Products (N, H, W), signed."""
        from captum.attr import GuidedGradCam

        net = self.ready(net, batch.x)
        return _summed(GuidedGradCam(net, nets.feature_layer(net)), batch, target,
                       interpolate_mode="bilinear")


def _summed(explainer: Any, batch: Batch, target: Tensor, **options: Any) -> Tensor:
    with quiet():
        made = explainer.attribute(batch.x.clone().requires_grad_(), target=target, **options)
    return cast(Tensor, made.detach().sum(1))
