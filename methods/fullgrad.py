"""FullGrad: the gradients by the image and by every bias, by grad-cam."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from bench import Batch, HeatproofError, Method, method

from .cams import probe

TOLERANCE = 1e-2
"""How far full gradients may be from the logit, in shares of the largest part. Ours: in float32
they are 1e-6 off at most, in TF32 1e-3, and a GELU or a batch norm that is missed 1e-1 or more."""


@method("fullgrad")
class FullGrad(Method):
    """FullGrad: image × gradient and bias × gradient, in magnitude, blown up and added.

    As in grad-cam, each channel of each layer is scaled from 0 to 1 by itself before it is added;
    the authors' code scales a layer as a whole. Biases of linear layers have no place in a map.

    Full gradients are complete: image × gradient and all biases × gradients add up to the logit.
    That is measured on the network, and one on which grad-cam misses a part is not supported.
    """

    title = "FullGrad"
    family = "gradient"
    paper = "Srinivas and Fleuret 2019, arXiv:1905.00780; by grad-cam's FullGrad"
    version = "1"
    passes = "1 forward, 1 backward"
    signed = False
    needs_grad = True

    def supports(self, net: nn.Module) -> str | None:
        """Only a network whose logits are image × gradient and the biases × gradients it reads."""
        try:
            logit, parts = full_gradients(net, probe(self, net)[:1])
        except HeatproofError as error:
            return str(error)
        if abs(logit - sum(parts)) > TOLERANCE * max(map(abs, (logit, *parts))):
            return (f"the full gradients of {type(net).__name__} add up to {sum(parts):.3g} where "
                    f"the logit is {logit:.3g}: some of its layers are not piecewise linear, or "
                    "grad-cam's FullGrad does not read their biases")
        return None

    def explain(self, net: nn.Module, batch: Batch, target: Tensor) -> Tensor:
        """What the pixels and the biases around them add, from 0: (N, H, W)."""
        made = []
        with _reader(net) as cam:
            # One image at a time, since all channels of a layer are blown up at once.
            for x, y in zip(batch.x, target, strict=True):
                image, _ = _backward(cam, x[None], int(y))
                made.append(torch.from_numpy(cam.compute_cam_per_layer(image, None, False))[:, 0])
        return torch.cat(made).to(batch.x.device)


def full_gradients(net: nn.Module, x: Tensor) -> tuple[float, list[float]]:
    """The first logit of x (1, C, H, W), and its parts: image × gradient, each layer's biases.

    They add up to it where the network is piecewise linear. Raises HeatproofError for layers with
    a bias that grad-cam's FullGrad does not read, or reads beside the gradient of another.
    """
    ran: list[nn.Module] = []
    parts: list[float] = []

    def note(layer: nn.Module, _inputs: object, out: Tensor) -> None:
        if not isinstance(layer, nn.Linear):
            ran.append(layer)
        elif out.requires_grad:  # has no place in a map, but a part in the logit
            bias = layer.bias.detach()
            out.register_hook(lambda slope: parts.append(float((slope * bias).sum())))  # type: ignore[no-untyped-call]

    biased = [m for m in net.modules() if isinstance(getattr(m, "bias", None), Tensor)]
    with _reader(net) as cam:
        spatial = cam.target_layers
        if unread := {type(layer).__name__ for layer in biased
                      if layer not in spatial and not isinstance(layer, nn.Linear)}:
            raise HeatproofError("grad-cam's FullGrad does not read the biases of "
                                 f"{type(net).__name__}'s {', '.join(sorted(unread))}")
        hooks = [layer.register_forward_hook(note) for layer in biased]
        try:
            image, logit = _backward(cam, x, 0)
        finally:
            for hook in hooks:
                hook.remove()
        slopes = cam.activations_and_grads.gradients
        if ran != spatial or len(slopes) != len(spatial):
            raise HeatproofError(
                "grad-cam's FullGrad reads layers that run once each, in the order in which they "
                f"are registered; those of {type(net).__name__} do not")
        parts.append(float((image * image.grad).sum()))
        parts += [float((slope.numpy() * bias[:, None, None]).sum())
                  for slope, bias in zip(slopes, cam.bias_data, strict=True)]
    return logit, parts


@contextmanager
def _reader(net: nn.Module) -> Iterator[Any]:
    """grad-cam's FullGrad, whose hooks on the network are gone afterwards."""
    from pytorch_grad_cam import FullGrad

    cam = FullGrad(net, [])
    try:
        yield cam
    finally:
        cam.activations_and_grads.release()


@torch.enable_grad()
def _backward(cam: Any, x: Tensor, y: int) -> tuple[Any, float]:
    """The image x (1, C, H, W) with its gradient, and the logit y; the layers' gradients reach cam.

    Unlike grad-cam's own backward pass, this leaves the gradients of the weights alone.
    """
    image = x.detach().clone().requires_grad_()
    logit: Tensor = cam.activations_and_grads(image)[0, y]
    if not logit.requires_grad:
        raise HeatproofError(f"the logits of {type(cam.model).__name__} have no gradient with "
                             "respect to the image")
    (image.grad,) = torch.autograd.grad(logit, image)
    return image.detach_(), float(logit.detach())
