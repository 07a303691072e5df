"""Backbones by name: stems, feature maps, heads, and names that do not exist."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from bench import nets, testing
from bench.core import HeatproofError
from bench.randomness import seeded
from bench.spec import Backbone

SMALL = {"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8]}
NEXT = {"depths": [1, 1, 1, 1], "dims": [8, 8, 8, 8]}


@pytest.mark.parametrize(("backbone", "size", "grid"), [
    (Backbone("resnet18", options=SMALL), 28, 1),
    (Backbone("resnet18", stem="half", options={**SMALL, "output_stride": 8}), 28, 7),
    (Backbone("resnet18", stem="small", options={**SMALL, "output_stride": 16}), 28, 7),
    (Backbone("resnet18", options={**SMALL, "output_stride": 8}), 64, 8),
    (testing.TINY, 32, 8),
    (Backbone("convnext_atto", options=NEXT), 32, 1),
    (Backbone("convnext_atto", stem="small", options={**NEXT, "output_stride": 16}), 28, 7),
    (Backbone("convnextv2_atto", stem="small", options={**NEXT, "output_stride": 16}), 28, 7),
    (Backbone("convnextv2_atto", stem="half", options={**NEXT, "output_stride": 8}), 28, 7),
    (Backbone("convnext_atto_ols", stem="small", options={**NEXT, "output_stride": 16}), 28, 7),
    (Backbone("convnext_atto_ols", stem="half", options={**NEXT, "output_stride": 8}), 28, 7),
])
def test_the_stem_and_the_dilation_decide_the_grid(backbone, size: int, grid: int) -> None:
    net = nets.build(backbone, channels=1, classes=3).eval()
    x = torch.zeros(2, 1, size, size)
    assert net(x).shape == (2, 3)
    assert nets.feature_map(net, x).shape[2:] == (grid, grid)


def test_every_call_of_a_maker_gives_the_same_first_weights_and_moves_no_state() -> None:
    card, _ = testing.tiny_batch()
    make = nets.maker(testing.TINY, card, 5)
    before = torch.get_rng_state()
    one, two = make().state_dict(), make().state_dict()
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(one[key], two[key]) for key in one)
    other = nets.maker(testing.TINY, card, 6)().state_dict()
    assert not torch.equal(one["fc.weight"], other["fc.weight"])


@pytest.mark.parametrize("name", ["convnext_atto", "convnextv2_atto", "convnext_tiny_hnf"])
def test_a_convnexts_last_map_is_what_its_head_pools(name: str) -> None:
    net = nets.build(Backbone(name, options=NEXT), channels=1, classes=3).eval()
    x = torch.randn(2, 1, 64, 64)
    features = nets.feature_map(net, x)
    assert features.shape == (2, 8, 2, 2)
    assert torch.allclose(net.head(features), net(x), atol=1e-6)


def test_a_patch_stem_keeps_no_published_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    import timm

    create = timm.create_model
    monkeypatch.setattr(
        timm, "create_model", lambda name, pretrained, **options: create(name, **options))
    for name, fits in (("convnext_atto", False), ("convnext_atto_ols", True)):
        backbone = Backbone(name, pretrained=True, stem="half", options=NEXT)
        if fits:
            assert nets.build(backbone, channels=1, classes=3)
        else:
            with pytest.raises(HeatproofError, match="use stem 'stock' and larger images"):
                nets.build(backbone, channels=1, classes=3)


def test_a_network_without_its_head_gives_the_feature_map() -> None:
    net = nets.build(testing.TINY, channels=3, classes=3).eval()
    x = torch.randn(2, 3, 32, 32)
    features = nets.feature_map(net, x)
    logits = net(x)
    weight, bias = net.fc.weight.clone(), net.fc.bias.clone()
    bare = nets.headless(net)
    assert torch.equal(bare(x), features)
    assert nets.width(bare) == features.shape[1]
    assert torch.allclose(features.mean((2, 3)) @ weight.T + bias, logits, atol=1e-5)


@pytest.mark.parametrize(("backbone", "says"), [
    (Backbone("resnet81"), "did you mean 'resnet"),
    (Backbone("resnet18", options={"no_such_option": 1}), "cannot make backbone 'resnet18'"),
    (Backbone("vgg11", stem="small"), "is for ResNets and ConvNeXts"),
    (replace(testing.TINY, stem="smal"), "did you mean 'small'"),
    (Backbone("test_vit", pretrained=False, stem="half"), "is for ResNets"),
])
def test_a_backbone_that_cannot_be_made_is_told_in_one_line(backbone: Backbone, says: str) -> None:
    with pytest.raises(HeatproofError, match=says) as error:
        nets.build(backbone, channels=1, classes=3)
    assert "\n" not in str(error.value)


def test_published_weights_are_timms_own_argument(monkeypatch: pytest.MonkeyPatch) -> None:
    import timm

    asked: dict[str, object] = {}

    def create(name: str, **options: object) -> nn.Module:
        asked.update(options, name=name)
        raise OSError("no network")

    monkeypatch.setattr(timm, "create_model", create)
    with pytest.raises(HeatproofError, match="cannot be loaded"):
        nets.build(Backbone("resnet18", pretrained=True), channels=1, classes=3)
    assert asked["pretrained"] is True
    assert asked["in_chans"] == 1


def test_a_network_of_another_make_names_its_layer_or_is_refused() -> None:
    class Own(nn.Sequential):
        @property
        def feature_layer(self) -> nn.Module:
            return self[0]

    own = Own(nn.Conv2d(1, 2, 1), nn.Flatten())
    assert nets.feature_layer(own) is own[0]
    with pytest.raises(HeatproofError, match="attribute feature_layer"):
        nets.feature_layer(nn.Linear(2, 2))
    with pytest.raises(HeatproofError, match="no timm model"):
        nets.headless(own)


def test_a_device_that_is_not_there_is_told() -> None:
    assert str(nets.device_named("cpu")) == "cpu"
    with pytest.raises(HeatproofError, match="try --device cpu"):
        nets.device_named("gpu")


def test_chance_is_put_back_as_it_was() -> None:
    import random

    import numpy as np

    before = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    with seeded(3):
        first = random.random(), np.random.rand(), torch.rand(1)
    with pytest.raises(ValueError), seeded(3):
        assert (random.random(), np.random.rand(), torch.rand(1)) == first
        raise ValueError
    assert random.getstate() == before[0]
    assert np.array_equal(np.random.get_state()[1], before[1])
    assert torch.equal(torch.get_rng_state(), before[2])
