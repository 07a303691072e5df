"""CAPE: the class activation map as a probabilistic ensemble (Chowdhury et al., arXiv:2404.02388).

Official code: AIML-MED/CAPE. Beside the vanilla head, a second linear head reads the same feature
map; a softmax over the classes in each cell, times a softmax over the cells, gives contributions
that add up to the class probabilities. The official code normalises all pairs of cells, a tensor
of O(classes · cells²); the two factors here are the same numbers in O(classes · cells).
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any, Self, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from bench import Batch, HeatproofError, Method, method, nets

AUTHORS = {
    "net.0": "backbone.conv1", "net.1": "backbone.bn1",
    "net.4": "backbone.layer1", "net.5": "backbone.layer2",
    "net.6": "backbone.layer3", "net.7": "backbone.layer4",
    "classifiers.orig.2": "orig", "classifiers.cape.2": "cape",
    "t1.T": "t1", "t2.T": "t2", "t3.T": "t3"}
"""Where the authors' ResNet checkpoints keep what, and our name for it."""


class CapeNet(nn.Module):
    """A timm backbone with a vanilla and a CAPE head, both 1×1 convolutions with bias.

    `t1`, `t2` and `t3` are logarithms of temperatures: of the classes in a cell, of the cells, and
    of both while training.
    """

    def __init__(self, backbone: nn.Module, classes: int) -> None:
        super().__init__()
        self.backbone = nets.headless(backbone)
        self.orig = _head(nets.width(backbone), classes)
        self.cape = _head(nets.width(backbone), classes)
        self.t1, self.t2, self.t3 = (nn.Parameter(torch.zeros(1)) for _ in range(3))

    @property
    def feature_layer(self) -> nn.Module:
        """The layer that feeds both heads."""
        return nets.feature_layer(self.backbone)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, classes): the logarithms of CAPE's class probabilities."""
        return self.log_contributions(self.backbone(x)).logsumexp((2, 3))

    def vanilla_logits(self, x: Tensor) -> Tensor:
        """Logits (N, classes) of the vanilla head: pooling and a linear classifier."""
        return cast(Tensor, self.orig(self.backbone(x))).mean((2, 3))

    def log_contributions(self, features: Tensor, *, soft: bool = False) -> Tensor:
        """Logarithms (N, classes, h, w) of all contributions; `soft` are those of training."""
        scores = self.cape(features)
        t1, t2 = (self.t1 + self.t3, self.t2 + self.t3) if soft else (self.t1, self.t2)
        classes = (scores / t1.exp()).log_softmax(1)
        cells = (scores.mean(1, keepdim=True) / t2.exp()).flatten(2).log_softmax(2)
        return cast(Tensor, classes + cells.unflatten(2, scores.shape[2:]))

    def maps(self, x: Tensor) -> Tensor:
        """Contributions (N, classes, h, w): over cells they add up to the class probability."""
        return self.log_contributions(self.backbone(x)).exp()

    def mu(self, x: Tensor) -> Tensor:
        """μ-CAPE (N, classes, h, w): the contributions' log-numerators, clipped at 0."""
        scores = self.cape(self.backbone(x))
        cells = scores.mean(1, keepdim=True) / self.t2.exp()
        return cast(Tensor, scores / self.t1.exp() + cells).relu()

    def cam(self, x: Tensor) -> Tensor:
        """The vanilla head's CAM (N, classes, h, w); it adds up to its logit but for the clip."""
        scores = cast(Tensor, self.orig(self.backbone(x)))
        return scores.relu() / scores[0, 0].numel()


class PostFittedNet(CapeNet):
    """The same on a classifier that is trained already: the CAPE head and temperatures alone learn.

    Backbone and vanilla head stay in evaluation mode, or training would move the running
    statistics of the batch norm.
    """

    def __init__(self, backbone: nn.Module, classes: int) -> None:
        super().__init__(backbone, classes)
        self.backbone.requires_grad_(False)
        self.orig.requires_grad_(False)
        self.train()

    def train(self, mode: bool = True) -> Self:
        """Training mode for what learns."""
        super().train(mode)
        self.backbone.eval()
        self.orig.eval()
        return self


def _head(width: int, classes: int) -> nn.Conv2d:
    head = nn.Conv2d(width, classes, kernel_size=1)
    nn.init.kaiming_normal_(head.weight)
    return head


@method("cape")
class Cape(Method):
    """CAPE, both heads trained together: the vanilla one by labels, CAPE's by the vanilla one.

    `alpha` weighs the vanilla head's cross-entropy, `beta` the distillation into the CAPE head, in
    which the teacher is softened by `temperature`. `kind` is "cape", "mu" (μ-CAPE) or "cam" (the
    vanilla head's class activation map, clipped at 0; that head's predictions may differ).
    """

    title = "CAPE"
    family = "inherent"
    paper = "Chowdhury et al. 2024, arXiv:2404.02388"
    version = "1"
    signed = False
    additivity = "sum"
    train_params = {"alpha": 1.0, "beta": 1.0, "temperature": 2.0}
    explain_params = {"kind": "cape"}

    def __init__(self, *args: Any, **params: Any) -> None:
        super().__init__(*args, **params)
        kind = self.explain_params["kind"]
        if kind not in ("cape", "mu", "cam"):
            raise HeatproofError(f"{self.name}: kind must be 'cape', 'mu' or 'cam', not {kind!r}")
        self.additivity = "sum" if kind == "cape" else "none"

    def network(self) -> nn.Module:
        """The suite's backbone with two heads in its own head's place."""
        return CapeNet(self.backbone(), len(self.card.classes))

    def loss(self, net: nn.Module, batch: Batch) -> Tensor:
        """Cross-entropy of the vanilla head, and its divergence from CAPE's soft probabilities.

        CAPE moves neither its teacher nor the backbone.
        """
        net = cast(CapeNet, net)
        features = net.backbone(batch.x)
        logits = net.orig(features).mean((2, 3))
        student = net.log_contributions(features.detach(), soft=True).logsumexp((2, 3))
        temperature = self.train_params["temperature"]
        teacher = (logits.detach() / temperature).log_softmax(1)
        taught = temperature**2 * functional.kl_div(
            student, teacher, reduction="batchmean", log_target=True)
        named = functional.cross_entropy(logits, batch.y)
        return cast(Tensor, self.train_params["alpha"] * named + self.train_params["beta"] * taught)

    def published(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The authors' checkpoint of a torchvision ResNet by our names; ours stays as it is."""
        return dict(_ours(name, tensor) for name, tensor in state.items())

    def supports(self, net: nn.Module) -> str | None:
        """Only a network with a CAPE head has its contributions."""
        return None if isinstance(net, CapeNet) else "the network has no CAPE head"

    def explain(self, net: nn.Module, batch: Batch, target: Tensor) -> Tensor:
        """The target class's map (N, h, w), nowhere negative."""
        net = cast(CapeNet, net)
        made = {"cape": net.maps, "mu": net.mu, "cam": net.cam}[self.explain_params["kind"]]
        with torch.no_grad():
            return made(batch.x)[torch.arange(len(batch)), target]


def _ours(name: str, tensor: Tensor) -> tuple[str, Tensor]:
    for theirs, ours in AUTHORS.items():
        if name == theirs:
            return ours, tensor.flatten()
        if name.startswith(f"{theirs}."):
            # Their heads are linear layers, ours the same weights as 1×1 convolutions.
            linear = ours in ("orig", "cape") and tensor.ndim == 2
            return ours + name[len(theirs):], tensor[..., None, None] if linear else tensor
    return name, tensor


@method("cape-pf")
class PostFittedCape(Cape):
    """CAPE fitted to a trained classifier, which keeps its weights, statistics and predictions.

    The CAPE head begins as a copy of the classifier's own. Parameters as in CAPE, with no weight on
    the labels.
    """

    title = "CAPE, post-fitted"
    base = "plain"
    train_params = {"alpha": 0.0, "beta": 1.0, "temperature": 2.0}

    def network(self) -> nn.Module:
        """The suite's backbone with two heads; all but the CAPE head is frozen."""
        return PostFittedNet(self.backbone(), len(self.card.classes))

    def start(self, net: nn.Module, base: nn.Module) -> None:
        """The backbone of a trained timm classifier, and its linear head as both heads.

        Raises HeatproofError if the classifier is more than average pooling and a linear head, for
        then the vanilla head would not be that classifier.
        """
        net = cast(CapeNet, net)
        head = cast(Any, base).get_classifier()
        # timm's linear head is a 1×1 convolution in some networks.
        if (not isinstance(head, nn.Linear | nn.Conv2d)
                or head.weight.numel() != net.orig.weight.numel()):
            raise _no_linear_head(base)
        net.backbone.load_state_dict(nets.headless(deepcopy(base)).state_dict())
        for own in (net.orig, net.cape):
            own.load_state_dict({
                "weight": head.weight.reshape(own.weight.shape), "bias": head.bias})
        x = torch.rand((2, *self.card.image), generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            expected = base.eval()(x.to(head.weight))
            off = net.eval().vanilla_logits(x.to(head.weight)) - expected
        if off.abs().max() > 1e-3 * expected.abs().max():
            raise _no_linear_head(base)


def _no_linear_head(base: nn.Module) -> HeatproofError:
    return HeatproofError(
        f"cape-pf needs a backbone that ends in average pooling and a linear layer, and "
        f"{type(base).__name__} does not; choose another, a ResNet say")
