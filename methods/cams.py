"""Class activation maps: what the last feature map shows of a class, by captum and by grad-cam.

Maps keep the feature map's grid and their sign. Most papers cut the negative part off: `relu`; that
it is off by default is ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from bench import Batch, HeatproofError, Method, method, nets


@contextmanager
def tapped(net: nn.Module, tap: Callable[[Any], Any]) -> Iterator[None]:
    """Inside, the rest of the network reads what `tap` makes of the feature layer's output."""
    hook = nets.feature_layer(net).register_forward_hook(lambda _layer, _inputs, out: tap(out))
    try:
        yield
    finally:
        hook.remove()


def forward(net: nn.Module, x: Tensor, *, graph: bool = False) -> tuple[Tensor, Tensor]:
    """The last feature map (N, D, h, w) and the logits (N, classes) made of it.

    Without `graph` the map is where autograd begins: nothing below it is kept. Raises
    HeatproofError unless there is exactly one such map.
    """
    kept: list[Any] = []

    def keep(out: Any) -> Any:
        if not isinstance(out, Tensor):
            kept.append(out)
            return out
        kept.append(out if graph else out.detach().requires_grad_())
        return kept[-1].clone()  # an activation that works in place changes the copy alone

    with tapped(net, keep):
        logits = net(x)
    name = type(net).__name__
    if len(kept) != 1:
        raise HeatproofError(f"the feature layer of {name} runs {len(kept)} times in one pass, and "
                             "a CAM reads one feature map")
    shape = tuple(kept[0].shape) if isinstance(kept[0], Tensor) else type(kept[0]).__name__
    if not isinstance(shape, tuple) or len(shape) != 4:
        raise HeatproofError(
            f"the feature layer of {name} gives {shape}, and a CAM reads a map (N, D, h, w)")
    return kept[0], logits


@torch.enable_grad()
def _gradient(net: nn.Module, x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The last feature map and the gradient of the target logits by it, both (N, D, h, w)."""
    features, logits = forward(net, x)
    score = logits.gather(1, target[:, None]).sum()
    gradient = (torch.autograd.grad(score, features, allow_unused=True)[0]
                if score.requires_grad else None)
    if gradient is None:
        raise HeatproofError(f"the logits of {type(net).__name__} have no gradient with respect to "
                             "its last feature map")
    return features.detach(), gradient


@torch.no_grad()
def features_of(net: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """The last feature map (N, D, h, w) and the logits, without gradient."""
    features, logits = forward(net, x)
    return features.detach(), logits


def probe(method: Method, net: nn.Module) -> Tensor:
    """Two random images (2, C, H, W), always the same, of the weights' device and type."""
    x = torch.rand((2, *method.card.image), generator=torch.Generator().manual_seed(0)) * 2 - 1
    return x.to(next(net.parameters(), x))


class FeatureMap(Method):
    """What all of them share: one last feature map (N, D, h, w), and `relu`."""

    family = "cam"
    version = "1"
    explain_params = {"relu": False}

    def __init__(self, *args: Any, **params: Any) -> None:
        super().__init__(*args, **params)
        relu = self.explain_params["relu"]
        if not isinstance(relu, bool):
            raise HeatproofError(f"{self.name}: relu must be true or false, not {relu!r}")
        self.signed = not relu

    def supports(self, net: nn.Module) -> str | None:
        """Only a network with one last feature map has one to weigh."""
        try:
            self._refuse(net, probe(self, net))
        except HeatproofError as error:
            return str(error)
        return None

    def _refuse(self, net: nn.Module, x: Tensor) -> None:
        """Raises HeatproofError for a network that has not what it reads."""
        if self.needs_grad:
            _gradient(net, x, torch.zeros(len(x), dtype=torch.int64, device=x.device))
        else:
            features_of(net, x)

    def _shown(self, cam: Tensor) -> Tensor:
        return cam.relu() if self.explain_params["relu"] else cam


@method("cam")
class CAM(FeatureMap):
    """The class's weights of the last linear layer, applied to each cell of the feature map.

    For networks that end in global average pooling and a linear layer, or in a 1×1 convolution and
    the average; that they do is measured. The bias stays out, as in the paper, so the map's mean is
    the logit less the bias.
    """

    title = "CAM"
    paper = "Zhou et al. 2016, arXiv:1512.04150"

    def explain(self, net: nn.Module, batch: Batch, target: Tensor) -> Tensor:
        """The weighed sum of the feature map's channels: (N, h, w)."""
        features, logits = features_of(net, batch.x)
        weights = _last_weights(net, features, logits)[target]
        return self._shown(torch.einsum("nd,ndhw->nhw", weights, features))

    def _refuse(self, net: nn.Module, x: Tensor) -> None:
        _last_weights(net, *features_of(net, x))


@torch.no_grad()
def _last_weights(net: nn.Module, features: Tensor, logits: Tensor) -> Tensor:
    """The weights (classes, D) of the linear layer that makes logits of the mean feature map.

    Raises HeatproofError if there is none that gives these logits.
    """
    shape = (logits.shape[1], features.shape[1])
    pooled = features.mean((2, 3))
    for layer in net.modules():
        if not isinstance(layer, nn.Linear | nn.Conv2d):
            continue
        weights = layer.weight
        if weights.shape[:2] != shape or weights.numel() != shape[0] * shape[1]:
            continue
        weights = weights.flatten(1)
        bias = logits.new_zeros(shape[0]) if layer.bias is None else layer.bias
        off = (functional.linear(pooled, weights, bias) - logits).abs()
        # Room for the rounding of float32 and of TF32, but not for another pooling or a norm.
        room = 1e-3 * functional.linear(pooled.abs(), weights.abs()) + 1e-5 * bias.abs()
        if not (off > room).any():
            return weights
    raise HeatproofError(
        f"the logits of {type(net).__name__} are no linear layer of the spatial mean of its last "
        "feature map, so no weights of a class belong to its channels")


@method("gradcam")
class GradCAM(FeatureMap):
    """Grad-CAM, signed unless `relu` is set."""

    title = "Grad-CAM"
    paper = "Selvaraju et al. 2017, arXiv:1610.02391; by captum's LayerGradCam"
    version = "2"
    passes = "1 forward, 1 backward"
    needs_grad = True

    def explain(self, net: nn.Module, batch: Batch, target: Tensor) -> Tensor:
        """The feature map's channels, weighed by their mean gradient: (N, h, w)."""
        from captum.attr import LayerGradCam

        cam = LayerGradCam(net, nets.feature_layer(net)).attribute(
            batch.x.clone().requires_grad_(), target=target,
            relu_attributions=self.explain_params["relu"])
        return cast(Tensor, cam[:, 0])


class Weighed(FeatureMap):
    """A map that grad-cam makes of the feature map and its gradient, before it cuts and scales."""

    passes = "1 forward, 1 backward"
    needs_grad = True
    by: ClassVar[str]
    """The class of grad-cam."""

    def explain(self, net: nn.Module, batch: Batch, target: Tensor) -> Tensor:
        """The map (N, h, w) on the feature map's grid."""
        import pytorch_grad_cam

        features, gradient = _gradient(net, batch.x, target)
        # Without a target layer it sets no hook, and takes no backward pass of its own.
        cam = getattr(pytorch_grad_cam, self.by)(net, []).get_cam_image(
            batch.x, None, None, features.cpu().numpy(), gradient.cpu().numpy(), False)
        return self._shown(torch.from_numpy(cam).to(batch.x.device))


@method("gradcam++")
class GradCAMPlusPlus(Weighed):
    """Grad-CAM++: channels weighed by their positive gradients, each cell by its own share.

    grad-cam adds 1e-6 to the shares' denominator of squared gradients. Where gradients are well
    below 1e-3, as they are on fine feature maps, that decides: a weight then goes with the cube of
    its gradient. The shares are derived for a feature map that is nowhere negative.
    """

    title = "Grad-CAM++"
    paper = "Chattopadhay et al. 2018, arXiv:1710.11063; by grad-cam's GradCAMPlusPlus"
    by = "GradCAMPlusPlus"


@method("xgradcam")
class XGradCAM(Weighed):
    """XGrad-CAM: channels weighed by their gradient, averaged by each cell's share of the channel.

    The shares are of a sum, which may be 0 where a feature map has both signs.
    """

    title = "XGrad-CAM"
    paper = "Fu et al. 2020, arXiv:2008.02312; by grad-cam's XGradCAM"
    by = "XGradCAM"


@method("hirescam")
class HiResCAM(Weighed):
    """HiResCAM: the feature map times its gradient, cell by cell, summed over the channels."""

    title = "HiResCAM"
    paper = "Draelos and Carin 2020, arXiv:2011.08891; by grad-cam's HiResCAM"
    by = "HiResCAM"


@method("layercam")
class LayerCAM(Weighed):
    """LayerCAM: the feature map times the positive part of its gradient, cell by cell."""

    title = "LayerCAM"
    paper = "Jiang et al. 2021, IEEE Transactions on Image Processing 30; by grad-cam's LayerCAM"
    by = "LayerCAM"


@method("eigencam")
class EigenCAM(FeatureMap):
    """Eigen-CAM: the feature map's first principal component over the channels.

    It knows no class. Of the two signs of a component it has the one that agrees with the mean
    channel, which is ours: grad-cam's is arbitrary. The cells are centred as in grad-cam, but not
    by it: it makes a matrix of all pairs of cells, 13 GB for a map of 240×240.
    """

    title = "Eigen-CAM"
    paper = "Muhammad and Yeasin 2020, arXiv:2008.00299; as in grad-cam's EigenCAM"
    classwise = False

    def explain(self, net: nn.Module, batch: Batch, target: Tensor) -> Tensor:
        """The projection (N, h, w) of each cell's channels on the component."""
        features, _ = features_of(net, batch.x)
        return self._shown(_principal(features))


@method("eigengradcam")
class EigenGradCAM(FeatureMap):
    """EigenGrad-CAM: the first principal component of the feature map times its gradient.

    The sign is the one that agrees with their sum over the channels, which is HiResCAM; that is
    ours, and so is the arithmetic: see `eigencam`.
    """

    title = "EigenGrad-CAM"
    paper = ("after Muhammad and Yeasin 2020, arXiv:2008.00299; as in grad-cam's EigenGradCAM, "
             "which has no paper")
    passes = "1 forward, 1 backward"
    needs_grad = True

    def explain(self, net: nn.Module, batch: Batch, target: Tensor) -> Tensor:
        """The projection (N, h, w) of each cell's channels on the component."""
        features, gradient = _gradient(net, batch.x, target)
        return self._shown(_principal(features * gradient))


def _principal(maps: Tensor) -> Tensor:
    """The first principal component (N, h, w) over the channels of maps (N, D, h, w)."""
    found = []
    for cells in maps.flatten(2).mT.cpu().double():
        centred = cells - cells.mean(0)
        # What is not finite stays so in the product; the decomposition would raise.
        first = torch.linalg.svd(centred.nan_to_num(0, 0, 0), full_matrices=False).Vh[0]
        # The product with the mean channel is the first singular value squared times first.mean().
        found.append(centred @ first * (-1 if first.sum() < 0 else 1))
    return torch.stack(found).view(len(maps), *maps.shape[2:]).to(maps)
