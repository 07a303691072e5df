"""The quicker copy of a network answers as the network does, or is not used."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from bench import inference, nets, testing
from bench.inference import Inference, quickened
from bench.measure import Explained
from bench.metrics.sharing import answers
from bench.passes import counted
from bench.randomness import seeded
from bench.spec import Backbone


def images(n: int = 5, side: int = 32, channels: int = 3) -> Tensor:
    return torch.randn(n, channels, side, side, generator=torch.Generator().manual_seed(7))


def settled(net: nn.Module, side: int = 32) -> nn.Module:
    """In evaluation mode, its batch norms with statistics and weights of their own."""
    draw = torch.Generator().manual_seed(3)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
            module.weight.data = .8 + .4 * torch.rand(module.weight.shape, generator=draw)
            module.bias.data = .2 * torch.randn(module.bias.shape, generator=draw)
    with torch.no_grad():
        net.train()(images(16, side))
    return net.eval().requires_grad_(False)


def small(*middle: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), *middle, nn.AdaptiveAvgPool2d(1),
                         nn.Flatten(), nn.Linear(8, 4))


def far(net: nn.Module, quick: nn.Module, x: Tensor) -> float:
    """The largest difference of the logits, in units of the largest logit."""
    with torch.no_grad():
        logits = net(x)
        return float((quick(x) - logits).abs().max() / logits.abs().max().clamp(min=1))


@pytest.mark.parametrize("name", [
    "resnet18", "densenet121", "convnext_atto", "efficientnet_b0", "mobilenetv3_small_050",
    pytest.param("vgg11_bn", marks=pytest.mark.slow)])  # 130 million weights
def test_timms_networks_answer_the_same(name: str) -> None:
    with seeded(0):
        net = settled(nets.build(Backbone(name), channels=3, classes=4), side=96)
    quick = quickened(net, images(1, 96))
    assert quick is not net
    assert far(net, quick, images(5, 96)) < inference.TOLERANCE


def test_a_batch_norm_after_a_convolution_is_folded_into_it() -> None:
    net = settled(small(nn.BatchNorm2d(8), nn.ReLU()))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    quick = quickened(net, images(1))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in quick.modules())
    assert far(net, quick, images()) < 1e-6
    after = net.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert net[0].weight.is_contiguous()
    held = {p.data_ptr() for p in net.parameters()}
    assert not held & {p.data_ptr() for p in quick.parameters()}


def test_a_max_pooling_comes_before_its_relu_and_any_other_stays() -> None:
    torch.manual_seed(0)
    net = settled(nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(3, 2, padding=1), nn.Conv2d(8, 8, 3), nn.GELU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8 * 6 * 6, 4)))
    quick = quickened(net, images(1))
    called = [type(quick.get_submodule(node.target)).__name__
              for node in quick.graph.nodes if node.op == "call_module"]
    assert called == ["Conv2d", "MaxPool2d", "ReLU", "Conv2d", "GELU", "MaxPool2d", "Flatten",
                      "Linear"]
    x = images()
    x[0, 0, 3, 3] = torch.nan
    with torch.no_grad():
        assert torch.allclose(quick(x), net(x), atol=1e-6, equal_nan=True)
    assert net(x)[0].isnan().all() and not net(x)[1:].isnan().any()


class Shown(nn.Module):
    """What was rectified is used once more, beside the pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act, self.pool = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.conv(x))
        return self.pool(x).mean((2, 3)) + x.mean((2, 3))


def test_a_relu_that_others_read_too_stays_where_it_is() -> None:
    net = settled(Shown())
    assert far(net, quickened(net, images(1)), images()) < 1e-6


class Branching(nn.Module):
    """What torch.fx cannot follow."""

    def __init__(self) -> None:
        super().__init__()
        self.body = small(nn.BatchNorm2d(8), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) if float(x.sum()) < 1e9 else self.body(-x)


class Tied(nn.Module):
    """One convolution, twice, a batch norm after the first time alone."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.norm(self.conv(x))).mean((2, 3))


class Viewed(nn.Module):
    """It asks for memory in the order of the axes, so channels may not lie side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8 * 32 * 32, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x).view(len(x), -1))


@pytest.mark.parametrize("make", [Branching, Tied])
def test_what_cannot_be_folded_keeps_its_batch_norms(make) -> None:
    net = settled(make())
    quick = quickened(net, images(1))
    assert quick is not net
    assert any(isinstance(module, nn.BatchNorm2d) for module in quick.modules())
    assert far(net, quick, images()) < 1e-6


@pytest.mark.parametrize("net", [
    settled(Viewed()), settled(nn.Sequential(nn.Flatten(), nn.Linear(3072, 4))),
    small(nn.ReLU(), nn.Dropout(.5)).train()], ids=["views", "no convolution", "in training"])
def test_a_network_without_a_quicker_copy_is_used_itself(net: nn.Module) -> None:
    assert quickened(net, images(1)) is net


def test_a_copy_that_answers_otherwise_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    net = settled(small(nn.ReLU()))

    def wrong(network: nn.Module) -> nn.Module:
        own = inference._unhooked(network)
        own[-1].bias.data += 1e-3
        return own

    monkeypatch.setattr(inference, "_folded", wrong)
    quick = quickened(net, images(1))
    assert torch.equal(quick[-1].bias, net[-1].bias)


def test_hooks_inside_are_kept_and_the_networks_own_see_every_pass() -> None:
    net, seen = settled(small(nn.BatchNorm2d(8), nn.ReLU())), []
    net[0].register_forward_hook(lambda _m, _i, out: seen.append("inside") or 2 * out)
    net.register_forward_hook(lambda _m, inputs, out: seen.append((len(inputs[0]), out)) or -out)
    wrapped = Inference(net, quickened(net, images(1)))
    seen.clear()
    answer = wrapped(images())
    assert seen[0] == "inside" and seen[1][0] == 5 and len(seen) == 2
    assert torch.equal(answer, -seen[1][1])
    seen.clear()
    assert torch.allclose(net(images()), answer, atol=1e-6)


def test_a_network_whose_input_is_hooked_is_used_itself() -> None:
    net = settled(small(nn.ReLU()))
    net.register_forward_pre_hook(lambda _net, inputs: (inputs[0] + 1,))
    assert quickened(net, images(1)) is net


def explained(net: nn.Module) -> Explained:
    _, batch = testing.tiny_batch(3)
    x = images(len(batch))
    with torch.no_grad():
        logits = net(x)
    return Explained(network=net, batch=replace(batch, x=x, mask=None), logits=logits,
                     target=logits.argmax(1), maps=x[:, 0], explain=lambda **_: x[:, 0], classes=4)


def test_passes_of_the_copy_are_counted_as_the_networks_and_need_no_gradient() -> None:
    net = settled(small(nn.BatchNorm2d(8), nn.ReLU())).requires_grad_(True)
    seen = explained(net)
    with counted(net) as passes:
        quick = answers(seen)
        assert passes.forward == 0
        found = quick(images(7))
    assert (passes.forward, passes.backward) == (7, 0)
    assert not found.requires_grad
    assert not list(quick.parameters())  # it is the network that is explained which has them


def test_contestants_of_one_network_share_the_copy_and_keep_their_own_hooks() -> None:
    net = settled(small(nn.BatchNorm2d(8), nn.ReLU()))
    one = explained(net)
    again = settled(small(nn.BatchNorm2d(8), nn.ReLU()))
    other = replace(explained(again), shared=one.shared)
    assert answers(one)._both[1] is answers(other)._both[1]
    with counted(again) as passes, counted(net) as others:
        answers(other)(images(3))
    assert (passes.forward, others.forward) == (3, 0)
