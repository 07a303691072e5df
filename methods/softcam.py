"""SoftCAM: a class-evidence layer before the pooling (Djoumessi et al., arXiv:2505.17748).

Official code: kdjoumessi/SoftCAM. The pooling and the linear classifier are replaced by a 1×1
convolution with bias on the last feature map; its output is averaged into the logits, and is the
explanation.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from bench import Batch, Method, method, nets


class EvidenceNet(nn.Module):
    """A timm backbone with an evidence layer: logits are the spatial mean of the evidence."""

    def __init__(self, backbone: nn.Module, classes: int) -> None:
        super().__init__()
        self.backbone = nets.headless(backbone)
        self.evidence = nn.Conv2d(nets.width(backbone), classes, kernel_size=1)

    @property
    def feature_layer(self) -> nn.Module:
        """The layer that feeds the evidence layer."""
        return nets.feature_layer(self.backbone)

    def maps(self, x: Tensor) -> Tensor:
        """Signed evidence (N, classes, h, w), in units of the logits."""
        return cast(Tensor, self.evidence(self.backbone(x)))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, classes)."""
        return self.maps(x).mean((2, 3))


@method("softcam")
class SoftCAM(Method):
    """SoftCAM's own evidence maps on SoftCAM's own network.

    `lasso` (λ1) weighs the sum of absolute evidence over all classes and cells, `ridge` (λ2) its
    un-squared Euclidean norm; both are averaged over the batch. `first_sample` takes the first
    sample alone, as the official code does. Dense SoftCAM, the default, sets both to 0.
    """

    title = "SoftCAM"
    family = "inherent"
    paper = "Djoumessi et al. 2025, arXiv:2505.17748"
    version = "1"
    additivity = "mean"
    train_params = {"lasso": 0.0, "ridge": 0.0, "first_sample": False}

    def network(self) -> nn.Module:
        """The suite's backbone with the evidence layer in its head's place."""
        return EvidenceNet(self.backbone(), len(self.card.classes))

    def loss(self, net: nn.Module, batch: Batch) -> Tensor:
        """The cross-entropy and the two penalties; a penalty of weight 0 adds nothing."""
        maps = cast(EvidenceNet, net).maps(batch.x)
        loss = functional.cross_entropy(maps.mean((2, 3)), batch.y)
        flat = (maps[:1] if self.train_params["first_sample"] else maps).flatten(1)
        if lasso := self.train_params["lasso"]:
            loss = loss + lasso * flat.abs().sum(1).mean()
        if ridge := self.train_params["ridge"]:
            # The small number keeps the gradient of the norm finite where all evidence is 0.
            loss = loss + ridge * (flat.square().sum(1) + 1e-12).sqrt().mean()
        return loss

    def supports(self, net: nn.Module) -> str | None:
        """Only a network with an evidence layer shows evidence."""
        return None if hasattr(net, "maps") else "the network has no evidence layer"

    def explain(self, net: nn.Module, batch: Batch, target: Tensor) -> Tensor:
        """The target class's evidence (N, h, w), raw and signed; its mean is the logit."""
        with torch.no_grad():
            maps = cast(Any, net).maps(batch.x)
        return cast(Tensor, maps[torch.arange(len(batch)), target])
