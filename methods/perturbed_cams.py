"""Class activation maps that weigh channels by what the network says without gradients.

By grad-cam, which is handed a stand-in for the network: what it asks then runs in pieces that fit,
and nothing of the network itself is replaced.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from bench import Batch, HeatproofError, copied, fitting, in_pieces, method

from .cams import FeatureMap, features_of, tapped


@method("scorecam")
class ScoreCAM(FeatureMap):
    """Score-CAM: channels weighed by the class's logit of the image seen through them.

    Each channel, blown up and scaled from 0 to 1, multiplies the normalised image; the weights are
    the softmax of the logits over the channels.
    """

    title = "Score-CAM"
    paper = "Wang et al. 2020, arXiv:1910.01279; by grad-cam's ScoreCAM"
    passes = "channels + 1 forward"

    def explain(self, net: nn.Module, batch: Batch, target: Tensor) -> Tensor:
        """The weighed sum of the feature map's channels: (N, h, w)."""
        from pytorch_grad_cam import score_cam

        features, _ = features_of(net, batch.x)
        rows, made = fitting(net, batch.x), []
        # One image at a time, since all its masks are made at once.
        for x, y, maps in zip(batch.x, target, features, strict=True):
            cam = score_cam.ScoreCAM(_Scored(_Masked(net, x), y, rows), [])
            cam.batch_size = len(maps)
            # Given an image of ones, grad-cam hands over the masks themselves.
            with _silent(score_cam):
                made.append(cam.get_cam_image(
                    torch.ones_like(x[None, :1]), None, [_itself], maps[None].cpu().numpy(), None))
        return self._shown(_joined(made, batch.x))


@method("ablationcam")
class AblationCAM(FeatureMap):
    """Ablation-CAM: channels weighed by the share of the logit that is lost without them.

    A channel is set to 0, as in the paper; grad-cam sets it to -1e7 and below in a feature map
    whose least value is not 0. The share is of the logit's magnitude, which is ours: grad-cam
    divides by the logit itself, which turns the map round where that is negative, as CAPE's are.

    What is lost is small beside the logit, so a copy of the network tells it in float64. Of it only
    what follows the feature map runs once a channel.
    """

    title = "Ablation-CAM"
    paper = "Desai and Ramaswamy 2020, WACV; by grad-cam's AblationCAM"
    passes = "channels + 2 forward, mostly from the feature map on"

    def explain(self, net: nn.Module, batch: Batch, target: Tensor) -> Tensor:
        """The weighed sum of the feature map's channels: (N, h, w)."""
        import numpy as np
        from pytorch_grad_cam import ablation_cam

        features, logits = features_of(net, batch.x)
        signs = logits.gather(1, target[:, None])[:, 0].sign()
        exact, made = copied(net).double().requires_grad_(False), []
        rows = fitting(_Above(exact, batch.x[0]), features)
        for x, y, maps in zip(batch.x, target, features, strict=True):
            scored = _Scored(_Above(exact, x), y, rows)
            cam = ablation_cam.AblationCAM(
                scored, [], ablation_layer=_zeroing(), batch_size=rows)
            # A logit of exactly 0 has no share to lose: NaN.
            with _silent(ablation_cam), np.errstate(divide="ignore", invalid="ignore"):
                made.append(cam.get_cam_image(
                    maps[None], scored.given, [_itself], maps[None].cpu().numpy(), None))
        return self._shown(_joined(made, batch.x) * signs[:, None, None])

    @torch.no_grad()
    def _refuse(self, net: nn.Module, x: Tensor) -> None:
        features, _ = features_of(net, x)
        try:
            logits = _Above(copied(net).double(), x[0])(features)
            why = "" if len(logits) == len(features) else "the logits pass it by"
        except RuntimeError as error:
            why = str(error).partition("\n")[0]
        if why:
            raise HeatproofError(
                f"what follows the last feature map of {type(net).__name__} does not run by itself "
                f"in float64: {why}")


def _zeroing() -> nn.Module:
    """grad-cam's layer that gives the feature map, one channel of each row ablated: set to 0."""
    from pytorch_grad_cam.ablation_layer import AblationLayer

    class Zeroing(AblationLayer):  # type: ignore[misc]
        def __call__(self, x: Tensor) -> Tensor:
            ablated: Tensor = self.activations
            channels = torch.from_numpy(self.indices[:len(ablated)]).long()
            ablated[torch.arange(len(ablated)), channels] = 0
            return ablated

    return Zeroing()


class _Masked(nn.Module):
    """A network that sees an image x (C, H, W) under masks (n, 1, H, W): logits (n, classes)."""

    def __init__(self, net: nn.Module, x: Tensor) -> None:
        super().__init__()
        self.net, self.x = net, x

    def forward(self, masks: Tensor) -> Any:
        return self.net(self.x * masks)


class _Above(nn.Module):
    """A network in float64 from its feature map on: maps (n, D, h, w) in, logits (n, classes) out.

    It is shown the one image x (C, H, W), so that what lies below the feature map runs once.
    """

    def __init__(self, net: nn.Module, x: Tensor) -> None:
        super().__init__()
        self.net, self.x = net, x[None].double()

    def forward(self, maps: Tensor) -> Any:
        # A copy, since an activation may work in place.
        with tapped(self.net, lambda _: maps.to(torch.float64, copy=True)):
            return self.net(self.x)


class _Scored(nn.Module):
    """What grad-cam takes for a network: perturbations of one image in, the logits y (n,) out.

    They go through `net` in pieces of `rows` at most.
    """

    def __init__(self, net: nn.Module, y: Tensor, rows: int) -> None:
        super().__init__()
        self.given = nn.Identity()  # in whose place Ablation-CAM puts its own layer
        self.net, self.y, self.rows = net, y, rows

    def forward(self, x: Tensor) -> Tensor:
        given = self.given(x)
        with torch.no_grad():
            return torch.cat(in_pieces(
                lambda part: self.net(given[part])[:, self.y], len(given), self.rows))


def _itself(score: Tensor) -> Tensor:
    return score


def _joined(maps: list[Any], x: Tensor) -> Tensor:
    """grad-cam's maps of single images as one (N, h, w), where x is."""
    return torch.cat([torch.from_numpy(m) for m in maps]).to(x.device)


@contextmanager
def _silent(module: Any) -> Iterator[None]:
    """Inside, a module of grad-cam draws no progress bars."""
    bars, module.tqdm = module.tqdm, SimpleNamespace(tqdm=iter)
    try:
        yield
    finally:
        module.tqdm = bars
