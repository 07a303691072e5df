"""Explainers that hook a copy: what each promises, and the networks that they must refuse."""

from __future__ import annotations

import copy
import gc
import weakref
from dataclasses import replace

import pytest
import timm
import torch
from explained_nets import NETWORKS
from torch import Tensor, nn
from torch.nn import functional

from bench import plugins, testing
from bench.chunks import at_most
from bench.core import Batch, HeatproofError, Method
from bench.explain import explained, unsupported
from bench.passes import counted

plugins.load()

GUIDED = ("guided-backprop", "deconvolution", "guided-gradcam")
ALL = ("deeplift", "deepliftshap", *GUIDED, "lrp")
COST = {"deeplift": (2, 2), "deepliftshap": (8, 8), "guided-backprop": (1, 1),
        "deconvolution": (1, 1), "guided-gradcam": (2, 2), "lrp": (2, 1)}


def made(name: str, *, size: int = 16, **params: object) -> tuple[Method, Batch]:
    """A method for colour images of three classes, and four of them, which it has studied."""
    card, batch = testing.tiny_batch(3, size=size)
    cls = plugins.methods[name]
    method = cls(card, nn.Module, explain={**cls.check_explain, **params})
    method.study([batch])
    return method, batch


def drawn(net: nn.Module, seed: int = 0) -> nn.Module:
    """The network in evaluation mode; all weights drawn, so that none is as a network begins."""
    draw = torch.Generator().manual_seed(seed)
    for name, tensor in net.state_dict().items():
        if tensor.is_floating_point():
            noise = torch.randn(tensor.shape, generator=draw)
            fan = tensor[0].numel() if tensor.ndim > 1 else 10
            tensor.copy_(noise.abs() + 0.5 if "running_var" in name else noise * (2 / fan) ** 0.5)
    return net.eval().requires_grad_(False)


class Small(nn.Module):
    """Convolutions, in-place rectifiers, a stem pooled as a ResNet's, and a residual sum."""

    def __init__(self, bias: bool = True) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1, bias=bias), nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2, 1))
        self.body = nn.Sequential(
            nn.Conv2d(6, 6, 3, padding=1, bias=bias), nn.ReLU(inplace=True),
            nn.Conv2d(6, 6, 3, padding=1, bias=bias))
        self.act = nn.ReLU(inplace=True)
        self.head = nn.Linear(6, 3, bias=bias)

    @property
    def feature_layer(self) -> nn.Module:
        return self.act

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x = self.stem(x)
        x = self.body(x)
        x += shortcut
        return self.head(self.act(x).mean((2, 3)))


class Functional(Small):
    """Its last rectifier is a function."""

    @property
    def feature_layer(self) -> nn.Module:
        return self.body

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(functional.relu(self.body(x) + x).mean((2, 3)))


class Reused(Small):
    """One rectifier for two calls."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.stem(x))
        return self.head(self.act(self.body(x)).mean((2, 3)))


class Overwriting(Small):
    """Reads a map after an in-place rectifier has overwritten it."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x) - 1
        return self.head((self.act(x) + x).mean((2, 3)))


class PreActivation(Small):
    """Its rectifier's input is read by the shortcut too."""

    def __init__(self) -> None:
        super().__init__()
        self.act.inplace = False

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem[0](x)
        return self.head((x + self.body[0](self.act(x))).mean((2, 3)))


class Blind(Small):
    """Has no gradient."""

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


def dense() -> nn.Module:
    """A DenseNet of timm's, whose norms have their activation inside."""
    return timm.create_model("densenet121", growth_rate=4, block_config=(1, 1), num_classes=3)


def score(net: nn.Module, x: Tensor, target: Tensor) -> Tensor:
    return net(x).gather(1, target[:, None])[:, 0]


@pytest.mark.parametrize("name", ALL)
def test_all_are_supported_with_weights_that_are_not_as_a_network_begins(name: str) -> None:
    method, _ = made(name, size=32)
    assert unsupported(method, drawn(Small())) is None
    assert unsupported(method, drawn(dense())) is None


@pytest.mark.parametrize("name", ["deeplift", "deepliftshap"])
def test_of_a_linear_network_deeplift_is_the_gradient_times_the_difference(name: str) -> None:
    method, batch = made(name)
    net = drawn(nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(196, 3)))
    x = batch.x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(score(net, x, batch.y).sum(), x)
    baseline = -torch.ones(()) if name == "deeplift" else batch.x.mean(0)
    expected = (slope * (batch.x - baseline)).sum(1)
    assert torch.allclose(explained(method, net, batch, batch.y), expected, atol=1e-6)


@pytest.mark.parametrize("baseline", ["black", "mean"])
@pytest.mark.parametrize("network", [Small, PreActivation])
def test_deeplift_adds_up_to_what_the_baseline_lacks(
    network: type[nn.Module], baseline: str,
) -> None:
    method, batch = made("deeplift", baseline=baseline)
    net = drawn(network())
    absent = torch.full_like(batch.x, -1.0 if baseline == "black" else 0.0)
    expected = score(net, batch.x, batch.y) - score(net, absent, batch.y)
    found = explained(method, net, batch, batch.y).sum((1, 2))
    assert torch.allclose(found, expected, atol=1e-5)
    assert float(expected.abs().min()) > 0.01


@pytest.mark.parametrize("layers", [
    pytest.param([nn.MaxPool2d(3, 2, 1), nn.Flatten(), nn.Linear(196, 3)], id="windows overlap"),
    pytest.param([nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(196, 3)],
                 id="a rectifier just before the pooling")])
def test_max_pooling_adds_up_where_captum_alone_does_not(layers: list[nn.Module]) -> None:
    from captum.attr import DeepLift

    method, batch = made("deepliftshap", background=1)
    net = drawn(nn.Sequential(nn.Conv2d(3, 4, 3), *layers))
    baseline = batch.x[:1].expand_as(batch.x)
    expected = score(net, batch.x, batch.y) - score(net, baseline, batch.y)
    found = explained(method, net, batch, batch.y).sum((1, 2))
    assert torch.allclose(found, expected, atol=1e-5)
    with pytest.warns(UserWarning, match="hooks"):
        alone = DeepLift(net).attribute(
            batch.x.clone().requires_grad_(), baselines=baseline, target=batch.y).detach()
    assert float((alone.sum((1, 2, 3)) - expected).abs().max()) > 0.1


def test_an_image_that_agrees_with_the_baseline_before_a_pooling_leaks_into_no_other() -> None:
    method, batch = made("deeplift", baseline="mean")
    edges = nn.Conv2d(3, 2, 3, bias=False)
    net = drawn(nn.Sequential(edges, nn.MaxPool2d(2), nn.Flatten(), nn.Linear(98, 3)))
    # Of a plain image these differences are the baseline's, 0, and its pixels are not.
    edges.weight.copy_(torch.tensor([[0.0, 0, 0], [1, -1, 0], [0, 0, 0]]).expand(2, 3, 3, 3))
    plain = replace(batch, x=torch.cat([batch.x[:1], torch.ones_like(batch.x[1:])]))
    together = explained(method, net, plain, batch.y)
    alone = explained(method, net, plain[[1]], batch.y[[1]])
    assert torch.allclose(together[[1]], alone, atol=1e-6)
    assert float(alone.abs().max()) > 0.01


def test_deeplift_is_captums_where_captums_is_right() -> None:
    from captum.attr import DeepLift, DeepLiftShap

    _, batch = made("deeplift")
    net = drawn(nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3), nn.ReLU(),
        nn.Flatten(), nn.Linear(100, 3)))
    x = batch.x.clone().requires_grad_()
    with pytest.warns(UserWarning, match="hooks"):
        expected = {
            "deeplift": DeepLift(net).attribute(
                x, baselines=-torch.ones_like(x), target=batch.y),
            "deepliftshap": DeepLiftShap(net).attribute(x, batch.x, target=batch.y)}
    for name, shares in expected.items():
        method, _ = made(name)
        found = explained(method, net, batch, batch.y)
        assert torch.allclose(found, shares.sum(1), atol=1e-6)


def test_deepliftshap_is_the_mean_over_the_background_whatever_the_pieces() -> None:
    method, batch = made("deepliftshap", background=3)
    single, _ = made("deepliftshap", background=1)
    net, maps = drawn(Small()), []
    for i in range(3):
        single.study([batch[[i]]])
        maps.append(explained(single, net, batch, batch.y))
    for rows in (1, 2, 3):
        with at_most(rows):
            found = explained(method, net, batch, batch.y)
        assert torch.allclose(found, torch.stack(maps).mean(0), atol=1e-6)


class _Rule(torch.autograd.Function):
    """A rectifier whose gradient is Guided Backprop's or Deconvolution's."""

    @staticmethod
    def forward(ctx, x: Tensor, guided: bool) -> Tensor:
        ctx.open = x > 0 if guided else torch.ones_like(x, dtype=torch.bool)
        return x.relu()

    @staticmethod
    def backward(ctx, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0].relu() * ctx.open, None


class _ByHand(nn.Module):
    def __init__(self, guided: bool) -> None:
        super().__init__()
        self.guided = guided

    def forward(self, x: Tensor) -> Tensor:
        return _Rule.apply(x, self.guided)


def by_hand(net: nn.Module, batch: Batch, *, guided: bool) -> Tensor:
    """The changed gradient (N, C, H, W), by a network whose rectifiers have it."""
    net = copy.deepcopy(net)
    for name, module in list(net.named_modules()):
        if isinstance(module, nn.ReLU):
            net.set_submodule(name, _ByHand(guided))
    x = batch.x.clone().requires_grad_()
    return torch.autograd.grad(score(net, x, batch.y).sum(), x)[0]


@pytest.mark.parametrize(("name", "network"), [
    ("guided-backprop", Small), ("guided-backprop", PreActivation), ("guided-backprop", Reused),
    ("deconvolution", Small), ("deconvolution", PreActivation)])
def test_the_guided_gradients_are_those_made_by_hand(name: str, network: type[nn.Module]) -> None:
    method, batch = made(name)
    net = drawn(network())
    assert unsupported(method, net) is None
    expected = by_hand(net, batch, guided=name == "guided-backprop").sum(1)
    other = by_hand(net, batch, guided=name != "guided-backprop").sum(1)
    assert torch.allclose(explained(method, net, batch, batch.y), expected, atol=1e-6)
    assert float((expected - other).abs().max()) > 0.01


def test_guided_gradcam_is_the_product_of_its_parts() -> None:
    method, batch = made("guided-gradcam")
    cam, _ = made("gradcam", relu=True)
    guided, _ = made("guided-backprop")
    net = drawn(Small())
    weights = functional.interpolate(
        explained(cam, net, batch, batch.y)[:, None], (16, 16), mode="bilinear")[:, 0]
    product = weights * explained(guided, net, batch, batch.y)
    assert torch.allclose(explained(method, net, batch, batch.y), product, atol=1e-6)
    assert float(product.abs().max()) > 0.001


def vit() -> nn.Module:
    return timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=16, depth=1,
                             embed_dim=24, num_heads=2, num_classes=3)


REFUSED = {
    "a function": (Functional, {
        "deeplift": "no rule for relu (in Functional)", "deconvolution": "calls relu",
        "guided-backprop": "calls relu (in Functional)", "guided-gradcam": "calls relu"}),
    "a module twice": (Reused, dict.fromkeys(
        ("deeplift", "deepliftshap", "deconvolution", "lrp"), "calls act 2 times")),
    "an overwritten map": (Overwriting, dict.fromkeys(ALL, "in-place module has overwritten")),
    "no gradient": (Blind, dict.fromkeys(ALL, "have no gradient")),
    "no rectifier": (lambda: nn.Sequential(nn.Conv2d(3, 3, 32), nn.Flatten()), {
        "guided-backprop": "calls no nn.ReLU", "deconvolution": "calls no nn.ReLU",
        "guided-gradcam": "give the network an attribute feature_layer"}),
    "a transformer": (vit, {
        "deeplift": "does not add up", "guided-backprop": "calls gelu",
        "guided-gradcam": "pools no feature map", "lrp": "no rule for LayerNorm"}),
    "convnext-v2": (None, {
        "deeplift": "no rule for gelu (in stages.0.blocks.0.mlp.act)",
        **dict.fromkeys(GUIDED, "calls gelu"), "lrp": "no rule for LayerNorm2d (stem.1)"}),
    "cape": (None, {
        "deeplift": "logsumexp (in CapeNet)", "deepliftshap": "log_softmax",
        "lrp": "log_softmax (in CapeNet)"}),
    "gp-unet": (None, {
        "deeplift": "max (in GlobalPoolingNet)", "lrp": "max (in GlobalPoolingNet)"})}
"""Networks (those without are of NETWORKS), and what the reason against each method says."""


@pytest.mark.parametrize("kind", list(REFUSED))
def test_a_network_that_captum_would_get_wrong_is_refused_with_the_reason(kind: str) -> None:
    make, reasons = REFUSED[kind]
    for name, fragment in reasons.items():
        method, _ = made(name, size=32)
        torch.manual_seed(0)
        net = make() if make else NETWORKS[kind](method.card)
        reason = unsupported(method, net.eval().requires_grad_(False))
        assert reason and fragment in reason and "\n" not in reason


def test_a_branch_that_begins_as_nothing_is_looked_into() -> None:
    class Begins(Small):
        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            return self.head((x + functional.gelu(self.body[2](x))).mean((2, 3)))

    net = drawn(Begins())
    for parameter in net.body[2].parameters():
        parameter.zero_()
    assert "no rule for gelu (in Begins)" in unsupported(made("deeplift")[0], net)


@pytest.mark.parametrize("name", ALL)
def test_a_map_costs_what_the_method_says(name: str) -> None:
    method, batch = made(name)
    net = drawn(Small())
    with counted(net) as passes:
        explained(method, net, batch, batch.y)
    # By one image more, DeepLIFT sees how much memory it takes, and LRP which functions are called.
    more = name not in GUIDED
    assert (passes.forward - more, passes.backward) == tuple(4 * n for n in COST[name])


@pytest.mark.parametrize("name", ALL)
def test_the_network_is_as_it_was_when_captum_raises(
    name: str, monkeypatch: pytest.MonkeyPatch,
) -> None:
    method, batch = made(name)
    net = drawn(Small())
    before = testing._traces(net)

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("no gradient today")

    monkeypatch.setattr(torch.autograd, "grad", broken)
    with pytest.raises(RuntimeError, match="no gradient today"):
        explained(method, net, batch, batch.y)
    assert name in GUIDED or "no gradient today" in method.supports(net)
    assert list(after := testing._traces(net)) == list(before)
    assert all(testing._alike(before[what], after[what]) for what in before)


@pytest.mark.parametrize("name", ALL)
def test_no_copy_stays_in_memory(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    method, batch = made(name)
    net = drawn(Small())
    explained(method, net, batch, batch.y)  # the first call imports captum
    copies, deepcopy = [], copy.deepcopy

    def noted(module: nn.Module, *held: object) -> nn.Module:
        twin = deepcopy(module, *held)
        copies.append(weakref.ref(twin))
        return twin

    monkeypatch.setattr(copy, "deepcopy", noted)
    gc.collect()
    gc.disable()
    try:
        explained(method, net, batch, batch.y)
        assert copies and not any(twin() for twin in copies)
    finally:
        gc.enable()


def test_a_bad_parameter_names_what_is_allowed() -> None:
    method, batch = made("deeplift", baseline="white")
    with pytest.raises(HeatproofError, match="baseline must be 'black' or 'mean', not 'white'"):
        explained(method, drawn(Small()), batch, batch.y)
    with pytest.raises(HeatproofError, match="background must be a whole number of at least 1"):
        made("deepliftshap", background=0)
    unread = plugins.methods["deepliftshap"](method.card, nn.Module)
    with pytest.raises(HeatproofError, match=r"call study\(batches\)"):
        explained(unread, drawn(Small()), batch, batch.y)
