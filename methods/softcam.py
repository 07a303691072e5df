"""SoftCAM: a class-evidence layer before the pooling (Djoumessi et al., arXiv:2505.17748).

Official code: kdjoumessi/SoftCAM at b5e9048. The pooling and the linear classifier are replaced by
a 1×1 convolution with bias on the last feature map; its output is averaged into the logits, and is
the explanation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from bench import Batch, HeatproofError, Method, method, nets

OFFICIAL: Mapping[str, Mapping[str, str]] = {
    "backbone.0.weight": {
        "backbone.0": "backbone.conv1", "backbone.1": "backbone.bn1",
        "backbone.4": "backbone.layer1", "backbone.5": "backbone.layer2",
        "backbone.6": "backbone.layer3", "backbone.7": "backbone.layer4",
        "classifier": "evidence"},
    "backbone.0.0.weight": {
        "backbone.0": "backbone.features", "backbone.1": "hidden", "classifier": "evidence"},
    "backbone.0.conv0.weight": {"backbone.0": "backbone.features", "classifier": "evidence"}}
"""Our names for the official code's, by its name for the first convolution of a ResNet, a VGG and
a DenseNet: it numbers the children of torchvision's model."""


class EvidenceNet(nn.Module):
    """A timm backbone with an evidence layer: logits are the spatial mean of the evidence.

    `hidden` are the widths of 1×1 convolutions before it, each with a ReLU and dropout of one
    half, as the official code gives them to a VGG.
    """

    def __init__(self, backbone: nn.Module, classes: int, hidden: Sequence[int] = ()) -> None:
        super().__init__()
        self.backbone = nets.headless(backbone)
        widths = [nets.width(self.backbone), *hidden]
        self.hidden = nn.Sequential(*(
            layer for before, after in pairwise(widths)
            for layer in (nn.Conv2d(before, after, kernel_size=1), nn.ReLU(), nn.Dropout(0.5))))
        self.evidence = nn.Conv2d(widths[-1], classes, kernel_size=1)

    @property
    def feature_layer(self) -> nn.Module:
        """The module that feeds the evidence layer."""
        return self.hidden if len(self.hidden) else self.backbone

    def maps(self, x: Tensor) -> Tensor:
        """Signed evidence (N, classes, h, w), in units of the logits."""
        return cast(Tensor, self.evidence(self.hidden(self.backbone(x))))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, classes)."""
        return self.maps(x).mean((2, 3))


@method("softcam")
class SoftCAM(Method):
    """SoftCAM's own evidence maps on SoftCAM's own network.

    `lasso` (λ1) weighs the sum of absolute evidence over all classes and cells, `ridge` (λ2) its
    un-squared Euclidean norm; both are averaged over the batch. Dense SoftCAM, the default, sets
    both to 0; with both it is the elastic net. `first_sample` takes the batch's first sample
    alone, as the official code does. `squared` makes the ridge the sum of squares (ours; no source
    gives it).

    `hidden` are the widths of the 1×1 convolutions that the official code puts in the place of a
    VGG's fully connected layers; other networks have none. `last_relu` keeps the last ReLU of a
    DenseNet, which the official code loses; other networks keep theirs. The dropout of 0.3 that it
    gives an EfficientNet is timm's own option `drop_rate`, and then the plain twin has it too.
    """

    title = "SoftCAM"
    family = "inherent"
    paper = "Djoumessi et al. 2025, arXiv:2505.17748"
    version = "2"
    additivity = "mean"
    train_params = {"lasso": 0.0, "ridge": 0.0, "first_sample": False, "squared": False,
                    "hidden": (4096, 4096), "last_relu": False}

    def __init__(self, *args: Any, **params: Any) -> None:
        super().__init__(*args, **params)
        self.splits = not self.train_params["first_sample"]

    def network(self) -> nn.Module:
        """The suite's backbone with the evidence layer in its head's place."""
        from timm.models import VGG, DenseNet

        net = self.backbone()
        if isinstance(net, DenseNet) and not self.train_params["last_relu"]:
            cast(Any, net.features).norm5.act = nn.Identity()
        hidden = self.train_params["hidden"] if isinstance(net, VGG) else ()
        return EvidenceNet(net, len(self.card.classes), hidden)

    def loss(self, net: nn.Module, batch: Batch) -> Tensor:
        """The cross-entropy and the two penalties; a penalty of weight 0 adds nothing."""
        maps = cast(EvidenceNet, net).maps(batch.x)
        loss = functional.cross_entropy(maps.mean((2, 3)), batch.y)
        flat = (maps[:1] if self.train_params["first_sample"] else maps).flatten(1)
        if lasso := self.train_params["lasso"]:
            loss = loss + lasso * flat.abs().sum(1).mean()
        if ridge := self.train_params["ridge"]:
            norm = (flat.square().sum(1) if self.train_params["squared"]
                    else torch.linalg.vector_norm(flat, dim=1))
            loss = loss + ridge * norm.mean()
        return loss

    def published(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """A checkpoint of the official code (ResNet, VGG or DenseNet) by our names.

        Any other checkpoint is taken as it is.
        """
        names = next((names for first, names in OFFICIAL.items() if first in state), {})
        return {_renamed(key, names): value for key, value in state.items()}

    def supports(self, net: nn.Module) -> str | None:
        """Only a network with an evidence layer shows evidence."""
        return None if isinstance(net, EvidenceNet) else "the network has no evidence layer"

    def explain(self, net: nn.Module, batch: Batch, target: Tensor) -> Tensor:
        """The target class's evidence (N, h, w), raw and signed; its mean is the logit."""
        with torch.no_grad():
            maps = cast(EvidenceNet, net).maps(batch.x)
        return maps[torch.arange(len(batch)), target]


def _renamed(key: str, names: Mapping[str, str]) -> str:
    for old, new in names.items():
        if key.startswith(f"{old}."):
            return new + key.removeprefix(old)
    return key


@method("softcam-converted")
class ConvertedSoftCAM(SoftCAM):
    """SoftCAM that begins as the trained plain classifier, exactly: same logits for every image.

    The classifier's weights become the evidence layer's, since a linear layer of the mean is the
    mean of a linear layer; the maps are then the classic CAM plus the class's bias. Training goes
    on from there, with SoftCAM's penalties; a recipe of 0 epochs leaves the classifier as it is.
    The official code draws its evidence layer anew: the conversion is ours.
    """

    title = "SoftCAM (converted)"
    base = "plain"
    train_params = {name: SoftCAM.train_params[name]
                    for name in ("lasso", "ridge", "first_sample", "squared")}

    def network(self) -> nn.Module:
        """The suite's backbone with the evidence layer in its head's place.

        Raises HeatproofError where the plain classifier is no linear layer of the feature map's
        mean, before it is trained.
        """
        net = self.backbone()
        _classifier(net)
        return EvidenceNet(net, len(self.card.classes))

    def start(self, net: nn.Module, base: nn.Module) -> None:
        """Puts the trained classifier into `net`: its backbone, and its last layer as evidence."""
        own, layer, trained = cast(EvidenceNet, net), _classifier(base), base.state_dict()
        own.backbone.load_state_dict({name: trained[name] for name in own.backbone.state_dict()})
        with torch.no_grad():
            own.evidence.weight.copy_(layer.weight.reshape(own.evidence.weight.shape))
            bias = cast(Tensor, own.evidence.bias).zero_()
            if layer.bias is not None:
                bias.copy_(layer.bias)


def _classifier(net: nn.Module) -> nn.Linear | nn.Conv2d:
    """The layer whose output on the mean of the feature map is a timm model's logits.

    Raises HeatproofError for a network that has more than that above its feature map.
    """
    if why := _inexact(net):
        raise HeatproofError(
            f"{type(net).__name__} has no exact SoftCAM, as {why}; choose 'softcam', which trains "
            "its evidence layer, or a ResNet, DenseNet or EfficientNet")
    return cast(nn.Linear, cast(Any, net).get_classifier())


def _inexact(net: nn.Module) -> str:
    """Why the logits are more than a linear layer of the feature map's mean, or nothing."""
    nets.feature_layer(net)  # raises for a network that pools no feature map
    head: Any = net
    layer, width = head.get_classifier(), head.num_features
    if layer.weight.shape[1] != width:
        return (f"its last layer sees {layer.weight.shape[1]} numbers and not the means of its "
                f"{width} feature channels")
    draw, mode = torch.Generator().manual_seed(0), net.training
    features = torch.rand((1, width, 2, 3), generator=draw).to(layer.weight)
    with torch.no_grad():
        logits = head.eval().forward_head(features)
        linear = functional.linear(features.mean((2, 3)), layer.weight.flatten(1), layer.bias)
    net.train(mode)
    exact = torch.allclose(logits, linear, rtol=1e-4, atol=1e-5)
    return "" if exact else "more than a mean stands between its feature map and its last layer"
