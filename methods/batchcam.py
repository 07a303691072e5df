"""Batch-CAM: the Grad-CAM of a whole batch inside the training loss (Ignesti, Moroni, Martinelli).

Known by the abstracts of arXiv:2510.00664 (v1 and v2, 2025) alone; no official code is known. From
them: the maps of a batch are made at once in the training loop, a prototype loss draws them to the
average of their class, a batch loss makes them agree within the batch, by L1, L2 or SSIM. The rest
they leave open: it is a parameter here where it can be chosen, and every default is ours.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from bench import Batch, Card, HeatproofError, method

from .cams import GradCAM, forward

CHOICES = {"distance": ("l1", "l2", "ssim"), "prototype": ("image", "cam_ema"),
           "batch_loss": ("within", "prototype")}


class Memory(nn.Module):
    """What the losses know beside the weights, saved with them so that a training can go on.

    prototype: (classes, 1, H, W) in [0, 1]; known: (classes,), which of them there are yet;
    batches: how many the network was trained on.
    """

    prototype: Tensor
    known: Tensor
    batches: Tensor

    def __init__(self, classes: int, height: int, width: int) -> None:
        super().__init__()
        self.register_buffer("prototype", torch.zeros(classes, 1, height, width))
        self.register_buffer("known", torch.zeros(classes, dtype=torch.bool))
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def follow(self, maps: Tensor, y: Tensor, momentum: float) -> None:
        """Moves each class's prototype towards the mean of its maps (n, 1, H, W), if it has any."""
        members = functional.one_hot(y, len(self.known)).T.to(maps)
        count = members.sum(1)
        mean = (members @ maps.flatten(1) / count.clamp(min=1)[:, None]).view_as(self.prototype)
        rate = torch.where(count > 0, torch.where(self.known, 1 - momentum, 1.0), 0.0)
        self.prototype.lerp_(mean, rate[:, None, None, None].to(mean))
        self.known |= count > 0


@torch.enable_grad()
def gradcam(
    net: nn.Module, x: Tensor, target: Tensor, *, graph: bool = False, detach_alpha: bool = False,
) -> tuple[Tensor, Tensor]:
    """Logits (N, classes) and the signed Grad-CAM (N, h, w) of every image, by one gradient.

    The scores are summed over the batch, so each image's gradient is its own where the network
    above the feature map treats images singly. With `graph` the maps can be learnt from;
    `detach_alpha` then holds the channels' weights fixed, and no gradient is derived twice.
    """
    features, logits = forward(net, x, graph=graph)
    score = logits.gather(1, target[:, None]).sum()
    (gradient,) = torch.autograd.grad(
        score, features, retain_graph=graph, create_graph=graph and not detach_alpha)
    return logits, torch.einsum("nd,ndhw->nhw", gradient.mean((2, 3)), features)


def normalised(maps: Tensor) -> Tensor:
    """Each map (..., H, W) by itself from 0 to 1; a constant one is 0."""
    low, high = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    return (maps - low) / (high - low + 1e-8)


def ssim(a: Tensor, b: Tensor, *, window: int = 11, sigma: float = 1.5) -> Tensor:
    """The mean structural similarity (N,) of images (N, 1, H, W) in [0, 1] (Wang et al. 2004).

    The Gaussian window stays inside the image; where it does not fit it is the largest odd one.
    """
    size = min(window, *a.shape[-2:])
    size -= 1 - size % 2
    place = torch.arange(size, dtype=a.dtype, device=a.device) - size // 2
    weight = (-((place / sigma) ** 2) / 2).softmax(0)
    # As matrices, since a convolution of one channel is several times slower.
    rows, columns = (torch.stack([functional.pad(weight, (i, n - size - i))
                                  for i in range(n - size + 1)]) for n in a.shape[-2:])
    blurred = rows @ torch.cat([a, b, a * a, b * b, a * b]) @ columns.T
    mean_a, mean_b, aa, bb, ab = blurred.chunk(5)
    c1, c2 = 0.01 ** 2, 0.03 ** 2
    luminance = (2 * mean_a * mean_b + c1) / (mean_a * mean_a + mean_b * mean_b + c1)
    variances = (aa - mean_a * mean_a) + (bb - mean_b * mean_b)
    return (luminance * (2 * (ab - mean_a * mean_b) + c2) / (variances + c2)).mean((1, 2, 3))


@method("batchcam")
class BatchCAM(GradCAM):
    """Grad-CAM on a network that was trained for its Grad-CAMs' sake.

    The loss is cross-entropy + `lambda_proto` · L_proto + `lambda_batch` · L_batch, on S: the
    label's Grad-CAM, its negative part cut off, blown up to the image and scaled to [0, 1]. A map
    that has no positive part has no shape to compare, and both leave it out.

    L_proto is the mean `distance` ("l1": mean absolute difference, "l2": mean squared difference,
    "ssim": 1 − SSIM of a Gaussian `window` and `sigma`) of S to its class's prototype. `prototype`
    "image" is the mean training image of the class, grey and scaled to [0, 1], since v1 of the
    abstract speaks of reconstruction; "cam_ema" is the mean S of the class over the training, of
    the last `1 / (1 - momentum)` batches or so, since v2 speaks of a global class average.

    L_batch, where `batch_loss` is "within", is the mean distance of S to the mean S of its class in
    the batch, held fixed, over the classes that are there twice (v2: consistency within a batch);
    where it is "prototype", of the class's mean S to its prototype, over classes (v1).

    For `delay` epochs the cross-entropy stands alone: the first maps are noise. `detach_alpha`
    learns from the feature map and not from the weights of its channels: cheaper. The weights of
    the losses, the distance, the readings, the delay, `detach_alpha` and the layer (the last
    feature map) are our choice of what no source states; window and sigma are usual for SSIM.

    `relu` cuts off the negative part of the shown map too; `normalised` scales it to [0, 1].
    """

    title = "Batch-CAM"
    family = "inherent"
    paper = "Ignesti, Moroni, Martinelli 2025, arXiv:2510.00664"
    version = "1"
    splits = False  # means over the maps of a class in the batch
    train_params = {
        "lambda_proto": 1.0, "lambda_batch": 1.0, "distance": "l2", "prototype": "image",
        "batch_loss": "within", "detach_alpha": False, "delay": 1.0, "momentum": 0.99,
        "window": 11, "sigma": 1.5}
    explain_params = {"relu": True, "normalised": False}
    signed = False
    ablations = {
        "prototype loss alone": {"lambda_batch": 0.0}, "batch loss alone": {"lambda_proto": 0.0},
        "weights detached": {"detach_alpha": True}}

    def __init__(
        self, card: Card, backbone: Callable[[], nn.Module], *,
        train: Mapping[str, Any] | None = None, explain: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(card, backbone, train=train, explain=explain)
        for key, known in CHOICES.items():
            if self.train_params[key] not in known:
                raise HeatproofError(f"batchcam: {key} must be {' or '.join(map(repr, known))}, "
                                     f"not {self.train_params[key]!r}")
        self.signed = not any(self.explain_params.values())
        self.wait = 0
        """Batches before the two losses count."""

    def network(self) -> nn.Module:
        """The plain timm backbone, and beside it what the losses remember."""
        net = self.backbone()
        net.add_module("memory", Memory(len(self.card.classes), *self.card.image[1:]))
        return net

    def prepare(self, net: nn.Module, batches: Iterable[Batch]) -> None:
        """Counts the batches of an epoch and makes the prototypes of "image".

        Raises HeatproofError for a network whose head mixes the images of a batch, for a map of
        one cell, and for a class without an image.
        """
        classes = len(self.card.classes)
        # Sums of float32 in float64 do not depend on the order of the images.
        total = torch.zeros((classes, 1, *self.card.image[1:]), dtype=torch.float64)
        count = torch.zeros(classes, dtype=torch.int64)
        sizes: list[int] = []
        for batch in batches:
            if not sizes:
                _refuse(net, batch.x)
            sizes.append(len(batch))
            total.index_add_(0, batch.y.cpu(), self._grey(batch.x.cpu()))
            count += torch.bincount(batch.y.cpu(), minlength=classes)
        self.wait = round(self.train_params["delay"] * sizes.count(sizes[0]))
        if self.train_params["prototype"] != "image":
            return
        if missing := [name for name, n in zip(self.card.classes, count, strict=True) if not n]:
            raise HeatproofError(
                f"batchcam: no training image shows {', '.join(missing)}, so there is no mean of "
                "one; raise the recipe's samples, or set prototype = \"cam_ema\"")
        memory = _memory(net)
        memory.prototype.copy_(normalised(total / count[:, None, None, None]))
        memory.known.fill_(True)

    def _grey(self, x: Tensor) -> Tensor:
        """The mean channel (N, 1, H, W) of normalised images, in [0, 1] again."""
        mean, std = (torch.tensor(v, dtype=torch.float64)[:, None, None]
                     for v in (self.card.mean, self.card.std))
        return (x * std + mean).mean(1, keepdim=True)

    def loss(self, net: nn.Module, batch: Batch) -> Tensor:
        """The cross-entropy, and after the delay the two losses on the maps of the labels."""
        params, memory = self.train_params, _memory(net)
        # In evaluation the loss is whole from the first epoch, so that epochs can be compared.
        waits = net.training and int(memory.batches) < self.wait
        if net.training:
            memory.batches += 1
        weights = params["lambda_proto"], params["lambda_batch"]
        follows = net.training and params["prototype"] == "cam_ema"
        if not any(weights) or (waits and not follows):
            return super().loss(net, batch)

        logits, cam = gradcam(
            net, batch.x, batch.y, graph=True, detach_alpha=params["detach_alpha"])
        loss = functional.cross_entropy(logits, batch.y)
        cam = cam.relu()[:, None]
        alive = cam.amax((1, 2, 3)) > 0
        maps = normalised(functional.interpolate(cam, batch.x.shape[-2:], mode="bilinear"))
        if not waits:
            for weight, term in zip(weights, (self._to_prototype, self._in_batch), strict=True):
                if weight:
                    loss = loss + weight * term(maps, batch.y, alive, memory)
        if follows:
            memory.follow(maps.detach()[alive], batch.y[alive], params["momentum"])
        return loss

    def _to_prototype(self, maps: Tensor, y: Tensor, alive: Tensor, memory: Memory) -> Tensor:
        return _mean(self._distance(maps, memory.prototype[y]), alive & memory.known[y])

    def _in_batch(self, maps: Tensor, y: Tensor, alive: Tensor, memory: Memory) -> Tensor:
        alike = ((y[:, None] == y) & alive).to(maps)
        count = alike.sum(1).clamp(min=1)
        mean = (alike @ maps.flatten(1) / count[:, None]).view_as(maps)
        if self.train_params["batch_loss"] == "within":
            return _mean(self._distance(maps, mean.detach()), alive & (count > 1))
        # Each image stands for its share of its class, so the mean is one over classes.
        return _mean(self._distance(mean, memory.prototype[y]), (alive & memory.known[y]) / count)

    def _distance(self, a: Tensor, b: Tensor) -> Tensor:
        params = self.train_params
        if params["distance"] == "ssim":
            return 1 - ssim(a, b, window=params["window"], sigma=params["sigma"])
        gap = a - b
        return (gap.abs() if params["distance"] == "l1" else gap.square()).mean((1, 2, 3))

    def explain(self, net: nn.Module, batch: Batch, target: Tensor) -> Tensor:
        """The target's Grad-CAM (N, h, w) of the last feature map, as it was trained on."""
        cam = gradcam(net, batch.x, target)[1].detach()
        if self.explain_params["relu"]:
            cam = cam.relu()
        return normalised(cam) if self.explain_params["normalised"] else cam


def _memory(net: nn.Module) -> Memory:
    return cast(Memory, cast(Any, net).memory)


def _mean(values: Tensor, weights: Tensor) -> Tensor:
    """The weighted mean of (N,); 0 where nothing has a weight. Weights sum to 0, 1 or more."""
    return (values * weights).sum() / weights.sum().clamp(min=1)


def _refuse(net: nn.Module, x: Tensor) -> None:
    """Raises HeatproofError where one gradient cannot make every image's map, or maps are a cell.

    A copy is asked in training mode, on a few images: the running statistics stay as they are.
    """
    features, logits = forward(copy.deepcopy(net).train(), x[:8], graph=False)
    if features.shape[-2:] == (1, 1):
        raise HeatproofError(
            "batchcam: the last feature map is 1×1, so every map is constant; give the backbone "
            "a smaller stem or output_stride, or larger images")
    (gradient,) = torch.autograd.grad(logits[0, 0], features)
    if gradient[1:].any():
        raise HeatproofError(
            "batchcam: above its last feature map the network mixes the images of a batch (a batch "
            "norm?), so one gradient cannot make all maps; use a backbone whose last feature map "
            "goes straight into the head, like a ResNet or a ConvNeXt")
