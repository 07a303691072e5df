"""FullGrad: complete, equal to grad-cam's own, and refused where grad-cam misses a bias."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from bench.methods.fullgrad import full_gradients
from explained_nets import NETWORKS
from torch import Tensor, nn

from bench import plugins, testing
from bench.explain import explained, unsupported
from bench.passes import counted
from bench.randomness import seeded

plugins.load()

CARD, BATCH = testing.tiny_batch(3, n=3)
METHOD = plugins.methods["fullgrad"](CARD, nn.Identity)


def trained(net: nn.Module) -> nn.Module:
    """As if trained: biases and running statistics are no longer what they begin as."""
    draw = torch.Generator().manual_seed(0)
    for name, tensor in net.state_dict().items():
        if name.endswith(("bias", "running_mean")):
            tensor.copy_(torch.randn(tensor.shape, generator=draw) * 0.3)
    return net.eval()


def network(name: str) -> nn.Module:
    with seeded(0):
        return trained(NETWORKS[name](CARD))


def chain(*layers: nn.Module) -> nn.Module:
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), *layers,
                        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    with seeded(0):
        for layer in net:
            if hasattr(layer, "reset_parameters"):
                layer.reset_parameters()
    return trained(net)


@pytest.mark.parametrize("name", ["resnet", "vgg", "softcam", "gp-unet"])
def test_the_full_gradients_add_up_to_the_logit(name: str) -> None:
    net = network(name)
    logit, parts = full_gradients(net, BATCH.x[:1])
    assert logit == pytest.approx(net(BATCH.x[:1])[0, 0].item())
    assert sum(parts) == pytest.approx(logit, abs=1e-6)
    assert unsupported(METHOD, net) is None


def test_without_an_image_the_biases_alone_are_the_logit() -> None:
    net = chain(nn.ReLU(), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    logit, parts = full_gradients(net, torch.zeros(1, 3, 32, 32))
    assert abs(logit) > 0.01
    assert len([part for part in parts if part]) == 4  # two convolutions, a norm, the linear layer
    assert sum(parts) == pytest.approx(logit, abs=1e-6)


@pytest.mark.parametrize("name", ["resnet", "vgg", "softcam", "gp-unet"])
def test_a_map_scaled_as_in_grad_cam_is_grad_cams(name: str) -> None:
    from pytorch_grad_cam import FullGrad
    from pytorch_grad_cam.utils.image import scale_cam_image
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    net = network(name)
    maps = explained(METHOD, net, BATCH, BATCH.y)
    assert maps.shape == (3, 32, 32)
    assert maps.min() >= 0
    shown = torch.cat([
        torch.from_numpy(FullGrad(deepcopy(net), [])(x[None], [ClassifierOutputTarget(int(y))]))
        for x, y in zip(BATCH.x, BATCH.y, strict=True)])
    assert (torch.from_numpy(scale_cam_image(maps.numpy())) - shown).abs().max() < 1e-6


def test_it_takes_a_pass_each_way() -> None:
    net = network("resnet")
    with counted(net) as passes:
        explained(METHOD, net, BATCH, BATCH.y)
    assert (passes.forward, passes.backward) == (3, 3)


def test_the_gradients_of_the_weights_are_left_alone() -> None:
    net = network("resnet")
    weight = net.conv1[0].weight
    weight.grad = torch.ones_like(weight)
    METHOD.explain(net, BATCH, BATCH.y)
    assert torch.equal(weight.grad, torch.ones_like(weight))
    assert all(p.grad is None for p in net.parameters() if p is not weight)


class Reversed(nn.Module):
    """Its layers run against the order in which they are registered."""

    def __init__(self) -> None:
        super().__init__()
        self.second = nn.Conv2d(3, 3, 1)
        self.first = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x)).mean((2, 3))


def _reversed() -> nn.Module:
    with seeded(0):
        return trained(Reversed())


def _twice() -> nn.Module:
    again = nn.Conv2d(4, 4, 1)
    return chain(again, nn.ReLU(), again)


def _detached() -> nn.Module:
    net = chain(nn.ReLU())
    net.register_forward_hook(lambda _net, _x, logits: logits.detach())
    return net


@pytest.mark.parametrize(("make", "reason"), [
    (lambda: network("convnext-v2"), "does not read the biases of ConvNeXt's GlobalResponseNorm, "
                                     "LayerNorm2d"),
    (lambda: network("cape"), "run once each, in the order in which they are registered"),
    (_reversed, "run once each, in the order in which they are registered"),
    (_twice, "run once each, in the order in which they are registered"),
    (lambda: chain(nn.GELU()), "not piecewise linear"),
    (lambda: chain(nn.BatchNorm2d(4, affine=False)), "does not read their biases"),
    (lambda: chain(nn.GroupNorm(2, 4, affine=False)), "not piecewise linear"),
    (lambda: chain(nn.ConvTranspose2d(4, 4, 1)), "the biases of Sequential's ConvTranspose2d"),
    (_detached, "no gradient with respect to the image"),
])
def test_a_network_that_grad_cam_does_not_read_whole_is_said_to_be_so(make, reason: str) -> None:
    net = make()
    before = testing._traces(net)
    assert reason in unsupported(METHOD, net)
    after = testing._traces(net)
    assert all(testing._alike(before[what], after[what]) for what in before)


def test_nothing_is_left_of_a_map_that_was_broken_off() -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise ArithmeticError

    net = chain(nn.ReLU(), Broken())
    before = testing._traces(net)
    for work in (lambda: explained(METHOD, net, BATCH, BATCH.y), lambda: METHOD.supports(net)):
        with pytest.raises(ArithmeticError):
            work()
        after = testing._traces(net)
        assert all(testing._alike(before[what], after[what]) for what in before)
