"""LRP: relevance is conserved, and of a network without biases it is input times gradient."""

from __future__ import annotations

import pytest
import torch
from test_propagation import Small, dense, drawn, made, score
from torch import Tensor, nn
from torch.nn import functional

from bench import plugins
from bench.core import Batch
from bench.explain import explained, unsupported

plugins.load()


def input_times_gradient(net: nn.Module, batch: Batch) -> Tensor:
    x = batch.x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(score(net, x, batch.y).sum(), x)
    return (x * slope).detach().sum(1)


def unbiased(net: nn.Module) -> nn.Module:
    for name, tensor in net.state_dict().items():
        if name.endswith((".bias", ".running_mean")):
            tensor.zero_()
    return net


class Pooling(Small):
    """Pools by functions, where the others pool by modules."""

    def forward(self, x: Tensor) -> Tensor:
        x = functional.avg_pool2d(self.body(self.stem(x)) + 0, 2)
        return self.head(functional.adaptive_avg_pool2d(self.act(x), 1).flatten(1))


@pytest.mark.parametrize("network", [Small, Pooling, dense])
def test_without_biases_relevance_is_conserved_and_is_input_times_gradient(network) -> None:
    method, batch = made("lrp", size=32)
    net = unbiased(drawn(network()))
    found = explained(method, net, batch, batch.y)
    expected = input_times_gradient(net, batch)
    assert float((found - expected).abs().max() / expected.abs().max()) < 1e-4
    logits = score(net, batch.x, batch.y)
    assert torch.allclose(found.sum((1, 2)), logits, rtol=1e-3, atol=1e-4)


def test_lrp_is_captums_where_the_network_is_of_modules() -> None:
    from captum.attr import LRP

    method, batch = made("lrp")
    net = drawn(nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(),
        nn.Conv2d(4, 3, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1)))
    whole = nn.Sequential(net, nn.Flatten())
    found = explained(method, whole, batch, batch.y)
    expected = LRP(net).attribute(
        batch.x.clone().requires_grad_(), target=[(int(y), 0, 0) for y in batch.y])
    assert torch.allclose(found, expected.sum(1), rtol=1e-4, atol=1e-6)


def test_a_bias_keeps_its_share() -> None:
    method, batch = made("lrp")
    net = drawn(nn.Sequential(nn.Flatten(), nn.Linear(768, 3)))
    found = explained(method, net, batch, batch.y).sum((1, 2))
    expected = score(net, batch.x, batch.y) - net[1].bias[batch.y]
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_a_module_without_a_rule_is_named() -> None:
    method, _ = made("lrp")
    for act in (nn.GELU(), nn.SiLU(inplace=True)):
        net = drawn(nn.Sequential(nn.Conv2d(3, 3, 16), act, nn.Flatten()))
        assert f"no rule for {type(act).__name__} (1) of Sequential" in unsupported(method, net)


def test_a_tanh_is_refused_since_what_captum_does_cannot_be_proven_there() -> None:
    method, _ = made("lrp")
    net = drawn(nn.Sequential(nn.Conv2d(3, 3, 16), nn.Tanh(), nn.Flatten()))
    assert "loses relevance" in unsupported(method, net)


def test_a_function_that_is_not_linear_is_named() -> None:
    method, _ = made("lrp")

    class Squared(Small):
        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.act(self.stem(x)).pow(2).mean((2, 3)))

    assert "no rule for pow (in Squared)" in unsupported(method, drawn(Squared()))
