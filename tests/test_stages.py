"""Networks in stages, and what is drawn anew: everything, each layer by itself, and only a copy."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import nn

from bench import plugins
from bench.core import HeatproofError
from bench.nets import maker
from bench.randomness import seeded
from bench.stages import Stage, copied, randomised, stages
from bench.testing import TINY, tiny_batch

plugins.load()
torch.set_num_threads(1)

TRAINERS = ["plain", *(name for name in plugins.methods if plugins.methods[name].trains())]
TIMM = ["test_resnet", "test_convnext", "test_efficientnet", "test_vit", "test_mambaout"]


def trained(name: str, channels: int = 1) -> tuple[nn.Module, torch.Tensor]:
    """The network of a trainer, tiny, and an image."""
    card, batch = tiny_batch(channels)
    cls: Any = plugins.trainer(name)
    with seeded(0):
        net = cls(card, maker(TINY, card, 0), train=cls.check_params).network()
    return net.eval().requires_grad_(False), batch.x[:1]


def model(name: str) -> tuple[nn.Module, torch.Tensor]:
    """A model of timm's own tests, and an image."""
    with seeded(0):
        net = timm.create_model(name, num_classes=3)
    return net.eval(), torch.rand((1, 3, 160, 160), generator=torch.Generator().manual_seed(0))


def parameters(net: nn.Module, parts: tuple[Stage, ...]) -> list[str]:
    return [f"{name}.{key}".lstrip(".") for part in parts for name in part.modules
            for key, _ in net.get_submodule(name).named_parameters(recurse=False)]


@pytest.mark.parametrize("name", [*TRAINERS, *TIMM])
def test_every_parameter_is_in_exactly_one_of_a_few_stages(name: str) -> None:
    net, x = model(name) if name in TIMM else trained(name)
    parts = stages(net, x)
    assert 4 <= len(parts) <= 8
    assert sorted(parameters(net, parts)) == sorted(name for name, _ in net.named_parameters())
    assert all(any(True for m in part.modules for _ in net.get_submodule(m).parameters(False))
               for part in parts)


def test_a_resnet_comes_apart_into_stem_layers_and_head() -> None:
    net, x = trained("plain")
    assert [part.name for part in stages(net, x)] == [
        "conv1", "layer1", "layer2", "layer3", "layer4", "fc"]


def test_what_a_method_adds_is_a_stage_of_its_own() -> None:
    net, x = trained("softcam")
    assert [part.name for part in stages(net, x)][-1] == "evidence"
    net, x = trained("cape")
    temperatures = [part for part in stages(net, x) if part.name == ""]
    assert parameters(net, tuple(temperatures)) == ["t1", "t2", "t3"]


class Backwards(nn.Module):
    """Layers that are registered in another order than they are used."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 2)
        self.scale = nn.Parameter(torch.ones(4))
        self.body = nn.Linear(4, 4)
        self.unused = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x.flatten(1)[:, :4]) * self.scale)


def test_stages_follow_the_forward_pass_and_what_it_does_not_reach_comes_last() -> None:
    parts = stages(Backwards(), torch.rand(1, 1, 2, 2))
    assert [part.name for part in parts] == ["body", "", "head", "unused"]


@pytest.mark.parametrize("most", [1, 2, 3, 5, 20])
def test_there_are_never_more_stages_than_asked_for(most: int) -> None:
    net, x = trained("plain")
    parts = stages(net, x, most)
    assert len(parts) <= most
    assert sorted(parameters(net, parts)) == sorted(name for name, _ in net.named_parameters())


@pytest.mark.parametrize("most", [0, -1, 2.5, True])
def test_a_wrong_number_of_stages_names_the_cure(most: Any) -> None:
    net, x = trained("plain")
    with pytest.raises(HeatproofError, match="whole number above 0"):
        stages(net, x, most)


def test_a_network_without_parameters_names_the_cure() -> None:
    with pytest.raises(HeatproofError, match="leave the randomisation metrics out"):
        stages(nn.Flatten(), torch.rand(1, 1, 2, 2))


@pytest.mark.parametrize("name", TRAINERS)
def test_the_original_stays_as_it_was_to_the_last_bit(name: str) -> None:
    net, x = trained(name)
    before = copy.deepcopy(net.state_dict())
    state, legacy = torch.get_rng_state(), np.random.get_state()[1].copy()
    for changed in randomised(net, stages(net, x), 0):
        assert changed is not net
        assert not changed.training
    assert all(torch.equal(tensor, before[key]) for key, tensor in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], legacy)
    assert not any(module._forward_hooks for module in net.modules())


@pytest.mark.parametrize("name", TRAINERS)
def test_each_step_draws_its_own_stage_anew_and_leaves_the_rest(name: str) -> None:
    net, x = trained(name)
    with seeded(1), torch.no_grad():  # as if trained: no norm or temperature at its first value
        for parameter in net.parameters():
            parameter.add_(torch.randn_like(parameter))
    parts = stages(net, x)
    done: set[str] = set()
    for part, changed in zip(parts, randomised(net, parts, 0), strict=True):
        done |= set(parameters(net, (part,)))
        for key, parameter in changed.named_parameters():
            assert torch.equal(parameter, net.get_parameter(key)) != (key in done), key
            assert parameter.isfinite().all()


def test_layers_of_one_shape_do_not_become_equal() -> None:
    net, x = trained("plain")
    *_, changed = randomised(net, stages(net, x), 0)
    kernels = [p for p in changed.parameters() if p.ndim > 1]
    same_shape = [(a, b) for i, a in enumerate(kernels) for b in kernels[:i] if a.shape == b.shape]
    assert same_shape
    assert not any(torch.equal(a, b) for a, b in same_shape)


def test_every_draw_is_another_and_no_order_of_stages_changes_the_whole() -> None:
    net, x = trained("cape")
    parts = stages(net, x)

    def last(order: Any, draw: int) -> dict[str, torch.Tensor]:
        *_, changed = randomised(net, order, draw)
        return changed.state_dict()

    up, down, again = last(parts, 0), last(parts[::-1], 0), last(stages(net, x, 1), 0)
    for key in up:
        assert torch.equal(up[key], down[key])
        assert torch.equal(up[key], again[key])
    other = last(parts, 1)
    kernels = [key for key in up if up[key].ndim == 4]
    assert not any(torch.equal(up[key], other[key]) for key in kernels)


class Plain(nn.Module):
    """Parameters that no reset_parameters knows."""

    def __init__(self) -> None:
        super().__init__()
        self.prototypes = nn.Parameter(3 + 2 * torch.randn(
            40, 50, generator=torch.Generator().manual_seed(0)))
        self.scalar = nn.Parameter(torch.tensor(-5.0))
        self.constant = nn.Parameter(torch.full((2000,), 0.5))
        self.zero = nn.Parameter(torch.zeros(4))
        self.phase = nn.Parameter(torch.tensor([1 + 1j, 2 - 1j]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.scalar


def test_plain_parameters_are_drawn_from_their_own_mean_and_deviation() -> None:
    net = Plain()
    (changed,) = randomised(net, stages(net, torch.rand(1, 1, 2, 2)), 0)
    net.requires_grad_(False), changed.requires_grad_(False)
    new = changed.prototypes
    assert float(new.mean()) == pytest.approx(float(net.prototypes.mean()), abs=0.2)
    assert float(new.std()) == pytest.approx(float(net.prototypes.std()), rel=0.1)
    assert abs(np.corrcoef(new.flatten(), net.prototypes.flatten())[0, 1]) < 0.1
    assert changed.scalar != net.scalar
    assert float(changed.constant.mean()) == pytest.approx(0, abs=0.05)
    assert float(changed.constant.std()) == pytest.approx(0.5, rel=0.1)
    assert torch.equal(changed.zero, net.zero)
    assert not torch.equal(changed.phase, net.phase)


def test_a_batch_norm_is_made_as_new_with_its_running_statistics() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2, affine=False), nn.Flatten(),
                        nn.Linear(8, 2))
    net[1].running_mean += 3
    *_, changed = randomised(net.eval(), stages(net, torch.rand(1, 1, 4, 4)), 0)
    assert torch.equal(changed[1].running_mean, torch.zeros(2))
    assert torch.equal(net[1].running_mean, torch.full((2,), 3.0))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_network_on_a_gpu_is_given_the_same_weights_as_on_the_cpu() -> None:
    net, x = trained("cape")
    here = [p.clone() for changed in randomised(net, stages(net, x), 0)
            for p in changed.parameters()]
    net, x = net.cuda(), x.cuda()
    there = [p.cpu() for changed in randomised(net, stages(net, x), 0)
             for p in changed.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(here, there, strict=True))


def test_a_copy_shares_no_tensor_and_keeps_what_is_shared_within() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 2))
    net[2].weight = net[0].weight
    net[0].bias.requires_grad_(False)
    other = copied(net.eval())
    theirs = {id(t) for t in (*net.parameters(), *net.buffers())}
    assert not theirs & {id(t) for t in (*other.parameters(), *other.buffers())}
    assert other[2].weight is other[0].weight
    assert not other[0].bias.requires_grad and not other.training
    assert all(torch.equal(v, net.state_dict()[k]) for k, v in other.state_dict().items())
    other[0].weight.data.zero_()
    assert net[0].weight.abs().sum() > 0
