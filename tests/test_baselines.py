"""Every explainer that reads a trained network keeps the contract on every kind of network."""

from __future__ import annotations

import pytest
from explained_nets import NETWORKS
from torch import nn

from bench import plugins, testing
from bench.explain import unsupported
from bench.nets import maker
from bench.spec import Backbone

plugins.load()

EXPLAINERS = [name for name, cls in plugins.methods.items() if not cls.trains()]

_RELU = "has a rule for nn.ReLU alone, and ConvNeXt calls gelu"
_LINEAR = "are no linear layer of the spatial mean of its last feature map"
UNSUPPORTED = {
    "cam": dict.fromkeys(("convnext-v2", "vgg", "cape", "gp-unet"), _LINEAR),
    "fullgrad": {"convnext-v2": "does not read the biases of ConvNeXt's GlobalResponseNorm",
                 "cape": "layers that run once each, in the order"},
    **{name: {"convnext-v2": _RELU}
       for name in ("guided-backprop", "deconvolution", "guided-gradcam")},
    **{name: {"convnext-v2": "captum has no rule for gelu", "cape": "captum has no rule for exp",
              "gp-unet": "captum has no rule for max"} for name in ("deeplift", "deepliftshap")},
    "lrp": {"convnext-v2": "captum's LRP has no rule for LayerNorm2d",
            "cape": "captum's LRP loses relevance on CapeNet",
            "gp-unet": "captum's LRP loses relevance on GlobalPoolingNet"}}
"""Which explainer cannot serve which network, and a part of the reason that it gives."""

ISSUE = {
    "cam", "gradcam", "gradcam++", "xgradcam", "hirescam", "layercam", "scorecam", "ablationcam",
    "eigencam", "eigengradcam", "fullgrad", "saliency", "input-x-gradient", "ig", "gradientshap",
    "deeplift", "deepliftshap", "guided-backprop", "deconvolution", "guided-gradcam", "lrp",
    "smoothgrad", "vargrad", "occlusion", "superpixel-ablation", "lime", "kernelshap", "rise"}
CONTROLS = {"noise", "edges", "centre", "class-mean", "magnitude", "reinitialised", "oracle",
            "oracle-native"}


def test_all_that_the_papers_compare_with_is_there() -> None:
    assert set(EXPLAINERS) == ISSUE | CONTROLS
    assert len(ISSUE) == 28
    families = {name: plugins.methods[name].family for name in EXPLAINERS}
    assert {name for name, family in families.items() if family == "control"} == CONTROLS
    assert set(families.values()) == {"cam", "gradient", "perturbation", "control"}


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("name", EXPLAINERS)
def test_an_explainer_serves_a_network_or_says_why_not(name: str, network: str) -> None:
    card, _ = testing.tiny_batch(3)
    method = plugins.methods[name](card, maker(testing.TINY, card, 0))
    net = NETWORKS[network](card).eval().requires_grad_(False)
    reason, expected = unsupported(method, net), UNSUPPORTED.get(name, {}).get(network)
    assert (reason is None) == (expected is None), reason
    assert expected is None or expected in str(reason)
    assert reason is None or "\n" not in reason


@pytest.mark.slow
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("name", EXPLAINERS)
def test_every_pair_that_is_supported_keeps_the_contract(name: str, network: str) -> None:
    if network in UNSUPPORTED.get(name, {}):
        return
    found = testing.check_method(plugins.methods[name], channels=(3,), network=NETWORKS[network])
    assert len(found) >= 10
    assert not [finding for finding in found if not finding.ok]


class Blind(nn.Module):
    """A classifier whose output has no gradient, as one that was exported may have."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    @property
    def feature_layer(self) -> nn.Module:
        from bench.nets import feature_layer

        return feature_layer(self.net)

    def forward(self, x):
        return self.net(x).detach()


@pytest.mark.parametrize("name", EXPLAINERS)
def test_a_network_without_gradients_serves_those_that_need_none(name: str) -> None:
    card, batch = testing.tiny_batch(3, n=2)
    cls = plugins.methods[name]
    method = cls(card, maker(testing.TINY, card, 0), explain=cls.check_explain)
    net = Blind(NETWORKS["resnet"](card)).eval().requires_grad_(False)
    assert (unsupported(method, net) is not None) == method.needs_grad
    if not method.needs_grad:
        method.study(iter([batch]))
        assert len(testing.explained(method, net, batch, batch.y)) == 2


@pytest.mark.parametrize("name", EXPLAINERS)
def test_a_transformer_has_no_feature_map_to_weigh(name: str) -> None:
    card, _ = testing.tiny_batch(3)
    cls = plugins.methods[name]
    backbone = Backbone("vit_tiny_patch16_224", options={
        "img_size": 32, "patch_size": 8, "embed_dim": 12, "depth": 1, "num_heads": 2})
    net = maker(backbone, card, 0)().eval().requires_grad_(False)
    reason = unsupported(cls(card, maker(backbone, card, 0)), net) or ""
    weighs = cls.family == "cam" and name != "fullgrad"
    if weighs or name in ("guided-gradcam", "reinitialised", "oracle-native"):
        assert "VisionTransformer pools no feature map" in reason
    elif cls.family in ("perturbation", "control") or name in ("saliency", "ig", "smoothgrad"):
        assert not reason
    else:
        assert "\n" not in reason
