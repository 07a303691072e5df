"""GP nets: dense classifiers whose heatmap and logits are one 1×1 convolution.

GP-UNet, GP-ShuffleUNet and GP-ReconResNet (Chatterjee et al., Neurocomputing 682:133460, 2026;
arXiv:2206.05148). GP is for global pooling. Official code: soumickmj/GPModels. The heatmap has the
image's own size, without any upsampling, and is signed.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from bench import Batch, HeatproofError, Method, method

from .head import ACTIVATIONS, POOLS, GlobalPoolingNet
from .recon import ReconResNet
from .shuffle import ShuffleUNet
from .unet import UPSAMPLINGS, UNet

CHOICES: dict[str, tuple[str, ...]] = {
    "pool": POOLS, "activation": tuple(ACTIVATIONS), "class_weights": ("balanced", "none"),
    "upsampling": UPSAMPLINGS}

SHARED: dict[str, Any] = {
    "width": 64,                  # channels at full resolution
    "dropout": 0.5,               # of whole channels; the authors' for BraTS, else less or none
    "pool": "max_before",
    "activation": "none",
    "class_weights": "balanced",
}


class GlobalPooling(Method):
    """What the three have in common: all but the dense network.

    The defaults are the official code's. `pool` is "max_before", or, ours to compare with,
    "max_after" or "mean". `activation` is "none", "sigmoid", "relu", "tanh" or "softmax", and
    follows the heatmap and the logits alike. With "softmax" the loss takes a softmax of a softmax,
    as the official code does; "relu" is the plain one, where the official GP-ReconResNet has a
    PReLU. `class_weights` are "balanced", N / (classes · n_class) over the training images, or
    "none". `dropout` is a probability: the official trainer hands on a truth value, by which every
    residual branch of GP-ReconResNet is dropped in training.
    """

    family = "inherent"
    paper = "Chatterjee et al. 2026, Neurocomputing 682:133460, arXiv:2206.05148"
    version = "1"
    twin = ""
    authors: ClassVar[Mapping[str, str]] = {}
    """Where the authors' checkpoints keep what, as patterns, and our name for it."""

    def __init__(self, *args: Any, **params: Any) -> None:
        super().__init__(*args, **params)
        for key, known in CHOICES.items():
            if (given := self.train_params.get(key, known[0])) not in known:
                raise HeatproofError(
                    f"{self.name}: {key} must be one of {', '.join(map(repr, known))}, "
                    f"not {given!r}")
        dropout = self.train_params["dropout"]
        if type(dropout) not in (int, float) or not 0 <= dropout < 1:
            raise HeatproofError(
                f"{self.name}: dropout must be a probability from 0 to below 1, not {dropout!r}")
        self.signed = self.train_params["activation"] in ("none", "tanh")
        self.additivity = "mean" if self.train_params["pool"] == "mean" else "none"
        self.class_weights: Tensor | None = None

    @abstractmethod
    def dense(self) -> nn.Module:
        """The network under the head: images (N, C, H, W) in, F (N, width, H, W) out."""

    def network(self) -> nn.Module:
        """The dense network with the head; the suite's backbone has no part in it."""
        params = self.train_params
        return GlobalPoolingNet(
            self.dense(), params["width"], len(self.card.classes),
            pool=params["pool"], activation=params["activation"])

    def prepare(self, net: nn.Module, batches: Iterable[Batch]) -> None:
        """Counts the training images of each class. Raises for a class that has none."""
        if self.train_params["class_weights"] == "none":
            return
        classes = self.card.classes
        counts = torch.stack([b.y.bincount(minlength=len(classes)) for b in batches]).sum(0)
        if missing := [name for name, n in zip(classes, counts, strict=True) if not n]:
            raise HeatproofError(
                f"{self.name}: class {missing[0]!r} has no training image to weigh; take more "
                "samples, or set class_weights = \"none\"")
        self.class_weights = counts.sum() / (len(classes) * counts.double())

    def loss(self, net: nn.Module, batch: Batch) -> Tensor:
        """The cross-entropy, weighed by the classes once `prepare` has counted them."""
        logits = net(batch.x)
        weights = self.class_weights
        return functional.cross_entropy(
            logits, batch.y, None if weights is None else weights.to(logits))

    def weight(self, batch: Batch) -> float:
        """The sum of its images' class weights, by which the cross-entropy is a mean."""
        if self.class_weights is None:
            return super().weight(batch)
        return float(self.class_weights.cpu()[batch.y.cpu()].sum())

    def published(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The authors' checkpoint, from their classes, their trainer or the Hugging Face hub.

        What several of their layers do in parallel is stacked for the one of ours that does it.
        """
        found: dict[str, list[Tensor]] = {}
        for key in sorted(state):
            if key.startswith("loss."):
                continue  # the trainer keeps its class weights there
            name = key.removeprefix("net.")
            for theirs, ours in self.authors.items():
                name = re.sub(f"^{theirs}", ours, name)
            found.setdefault(name, []).append(state[key])
        return {name: parts[0] if len(parts) == 1 else torch.cat(parts)
                for name, parts in found.items()}

    def supports(self, net: nn.Module) -> str | None:
        """Only a network with this head has these heatmaps."""
        return None if isinstance(net, GlobalPoolingNet) else "the network has no GP head"

    def explain(self, net: nn.Module, batch: Batch, target: Tensor) -> Tensor:
        """The target class's heatmap (N, H, W), raw and signed; no gradient is taken."""
        with torch.no_grad():
            maps = cast(GlobalPoolingNet, net).maps(batch.x)
        return maps[torch.arange(len(batch)), target]


@method("gp-unet")
class GPUNet(GlobalPooling):
    """GP-UNet: `depth` levels, and `upsampling` by "sinc", "transposed" or "bilinear"."""

    title = "GP-UNet"
    train_params = {**SHARED, "depth": 3, "upsampling": "sinc"}  # the official trainer's
    check_params = {"width": 8, "depth": 3}
    authors = {
        r"down_path\.(\d+)\.block": r"features.down.\1",
        r"up_path\.(\d+)\.up(\.1)?\.": r"features.up.\1.up.",
        r"up_path\.(\d+)\.conv_block\.block": r"features.up.\1.blend",
        r"last(\.0)?\.": "head."}

    def dense(self) -> nn.Module:
        """A U-Net with average pooling; dropout at its bottom."""
        params = self.train_params
        return UNet(
            self.card.image[0], width=params["width"], depth=params["depth"],
            dropout=params["dropout"], upsampling=params["upsampling"])


@method("gp-shuffleunet")
class GPShuffleUNet(GlobalPooling):
    """GP-ShuffleUNet: `levels` halvings, by which both sides of the images must be divisible."""

    title = "GP-ShuffleUNet"
    train_params = {**SHARED, "levels": 3}  # the official trainer's
    check_params = {"width": 4, "levels": 2}
    authors = {
        r"conv_inp\.conv_1": "features.stem.0",
        r"conv_inp\.conv_2": "features.stem.2",
        r"wave_down\.(\d+)\.conv\d": r"features.down.\1.waves.0",
        r"pix_unshuff\.(\d+)\.conv": r"features.down.\1.halve.0",
        r"pix_unshuff\.(\d+)\.down_conv\.conv": r"features.down.\1.halve.2",
        r"conv_enc\.(\d+)\.conv_1": r"features.down.\1.halve.3.0",
        r"conv_enc\.(\d+)\.conv_2": r"features.down.\1.halve.3.2",
        r"pix_shuff\.(\d+)\.conv": r"features.up.\1.enlarge.0",
        r"wave_up\.(\d+)\.conv\d": r"features.up.\1.waves.0",
        r"convup\.(\d+)\.conv_1": r"features.up.\1.blend.0",
        r"convup\.(\d+)\.conv_2": r"features.up.\1.blend.2",
        r"out\.": "head."}

    def dense(self) -> nn.Module:
        """A U-Net that shuffles pixels; dropout at its bottom."""
        params = self.train_params
        return ShuffleUNet(
            self.card.image[0], width=params["width"], levels=params["levels"],
            dropout=params["dropout"])

    def network(self) -> nn.Module:
        """As the others, with He's normal weights and no bias in every convolution at first."""
        net = super().network()
        for module in net.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(cast(Tensor, module.bias))
        return net


@method("gp-reconresnet")
class GPReconResNet(GlobalPooling):
    """GP-ReconResNet: `blocks` residual blocks, with dropout in each."""

    title = "GP-ReconResNet"
    train_params = {**SHARED, "blocks": 14}  # the official class's default
    check_params = {"width": 4, "blocks": 2}
    authors = {
        "intialConv": "features.stem",
        r"downsam\.(\d+)\.conv_block": r"features.down.\1",
        r"resblocks\.(\d+)\.conv_block": r"features.blocks.\1.body",
        r"upsam\.(\d+)\.conv_block": r"features.up.\1",
        r"finalconv\.0": "head"}

    def dense(self) -> nn.Module:
        """A residual network between two steps down and two up."""
        params = self.train_params
        return ReconResNet(
            self.card.image[0], width=params["width"], blocks=params["blocks"],
            dropout=params["dropout"])
