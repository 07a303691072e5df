"""Finer maps by the same weights: a network's last halvings, left out à trous."""

from __future__ import annotations

import pytest
import timm
import torch
from official import weights
from timm.models import VGG
from torch import nn

from bench import nets, plugins, testing
from bench.core import HeatproofError
from bench.spec import Backbone

FOUR = {"layers": [1, 1, 1, 1]}
NETS = {
    "resnet18": {**FOUR, "channels": [8, 8, 12, 16]},
    "resnet50": {**FOUR, "channels": [4, 4, 6, 8]},
    "resnet50d": {**FOUR, "channels": [4, 4, 6, 8]},  # pools by means, on the way past a block
    "res2net50_26w_4s": {**FOUR, "channels": [4, 4, 6, 8]},  # pools by means with a padding
    "densenet121": {"growth_rate": 4, "block_config": [1, 1, 1, 1]}}


def made(name: str, dilate: int = 0) -> nn.Module:
    """A small network with weights by the rule, so that no norm does nothing."""
    if name == "vgg":
        vgg = VGG(cfg=[8, "M", 8, "M", 8, "M", 8, "M", 12, "M"], num_classes=3, mlp_ratio=0.01)
        net = nets.dilated(vgg, dilate)
    else:
        backbone = Backbone(name, options=NETS.get(name, {}), dilate=dilate)
        net = nets.build(backbone, channels=3, classes=3)
    net.load_state_dict(weights(net.state_dict()))
    return net.eval()


@pytest.mark.parametrize("steps", [1, 2, 4])
@pytest.mark.parametrize("name", [*NETS, "vgg"])
def test_the_coarse_maps_cells_are_among_those_of_the_fine_one(name: str, steps: int) -> None:
    x = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    coarse = nets.feature_map(made(name), x)
    fine = nets.feature_map(made(name, steps), x)
    every = 2**steps
    assert coarse.shape[2:] == (2, 3)
    assert fine.shape[2:] == (2 * every, 3 * every)
    assert coarse.std() > 1e-3
    assert torch.allclose(fine[:, :, ::every, ::every], coarse, atol=1e-5)


@pytest.mark.parametrize(("steps", "stride"), [(1, 16), (2, 8)])
@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_a_resnet_is_what_timm_makes_of_it_by_output_stride(name, steps, stride) -> None:
    # A resnet50d is not: timm lets zeros beyond the border into the means of its pooling.
    x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    ours = made(name, steps)
    theirs = nets.build(Backbone(name, options={**NETS[name], "output_stride": stride}),
                        channels=3, classes=3).eval()
    theirs.load_state_dict(ours.state_dict())
    assert torch.allclose(ours.forward_features(x), theirs.forward_features(x), atol=1e-6)
    assert torch.allclose(ours(x), theirs(x), atol=1e-6)


def test_a_whole_resnet18_is_timms_of_output_stride_16() -> None:
    ours = nets.build(Backbone("resnet18", dilate=1), channels=3, classes=5).eval()
    theirs = timm.create_model("resnet18", num_classes=5, output_stride=16).eval()
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(ours.forward_features(x), theirs.forward_features(x), atol=1e-5)


@pytest.mark.parametrize("name", [*NETS, "vgg"])
def test_a_dilated_network_keeps_names_shapes_and_first_weights(name: str) -> None:
    plain, dilated = made(name).state_dict(), made(name, 2).state_dict()
    assert list(plain) == list(dilated)
    assert all(torch.equal(plain[key], dilated[key]) for key in plain)
    if name != "vgg":
        card, _ = testing.tiny_batch(3)
        first, same = (nets.maker(Backbone(name, options=NETS[name], dilate=k), card, 5)()
                       .state_dict() for k in (0, 1))
        assert all(torch.equal(first[key], same[key]) for key in first)


def test_dilation_leaves_mode_chance_hooks_and_gradients_alone() -> None:
    net = nets.build(Backbone("resnet18", options=NETS["resnet18"]), channels=1, classes=3)
    before, state = {k: v.clone() for k, v in net.state_dict().items()}, torch.get_rng_state()
    nets.dilated(net, 2)
    assert net.training
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert not [m for m in net.modules() if m._forward_hooks]
    assert all(p.requires_grad and p.device.type == "cpu" for p in net.parameters())
    net(torch.randn(2, 1, 32, 32)).sum().backward()
    assert all(p.grad is not None for p in net.parameters())


def test_a_vggs_fully_connected_layer_sees_the_cells_that_it_saw() -> None:
    plain, fine = made("vgg"), made("vgg", 1)
    large = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    hidden = plain.pre_logits(plain.forward_features(large))
    finer = fine.pre_logits(fine.forward_features(large))
    assert (hidden.shape[2:], finer.shape[2:]) == ((1, 1), (2, 2))
    assert torch.allclose(finer[:, :, ::2, ::2], hidden, atol=1e-5)
    assert fine(large[:, :, :64, :64]).shape == (1, 3)


def test_a_stem_for_small_images_has_fewer_halvings() -> None:
    backbone = Backbone("resnet18", stem="half", options=NETS["resnet18"], dilate=1)
    net = nets.build(backbone, channels=1, classes=3).eval()
    assert nets.feature_map(net, torch.zeros(1, 1, 32, 32)).shape[2:] == (4, 4)


@pytest.mark.parametrize("name", ["softcam", "gradcam", "softcam-converted"])
def test_a_method_has_the_finer_map(name: str) -> None:
    card, batch = testing.tiny_batch(3, size=64)
    backbone = Backbone("resnet18", options=NETS["resnet18"], dilate=2)
    method = plugins.methods[name](card, nets.maker(backbone, card, 0))
    assert method.explain(method.network().eval(), batch, batch.y).shape == (4, 8, 8)


@pytest.mark.parametrize(("backbone", "says"), [
    (Backbone("resnet18", options=NETS["resnet18"], dilate=6),
     "ResNet halves its map 5 times: dilate must be 0 to 5, not 6"),
    (Backbone("resnet18", options=NETS["resnet18"], dilate=-1), "dilate must be 0 to 5, not -1"),
    (Backbone("test_convnext", dilate=4), "set dilate lower"),  # a step of 4, not of 2
    (Backbone("resnetblur18", dilate=1, options=NETS["resnet18"]), "set dilate"),
    (Backbone("inception_v4", dilate=1), "its layers no longer fit each other"),
    (Backbone("densenetblur121d", dilate=4, options=NETS["densenet121"]),  # blurs in its stem
     "DenseNet cannot be dilated 4 times: it halves its map in another layer"),
    (Backbone("test_vit", dilate=1), "pools no feature map"),
])
def test_what_cannot_be_dilated_is_told_in_one_line(backbone: Backbone, says: str) -> None:
    with torch.device("meta"), pytest.raises(HeatproofError, match=says) as error:
        nets.build(backbone, channels=3, classes=3)
    assert "\n" not in str(error.value)
