"""The head of all GP nets: one 1×1 convolution for the heatmaps and for the logits."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import cast

from torch import Tensor, nn

POOLS = ("max_before", "max_after", "mean")
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "none": nn.Identity, "sigmoid": nn.Sigmoid, "relu": nn.ReLU, "tanh": nn.Tanh,
    "softmax": partial(nn.Softmax, dim=1)}


class GlobalPoolingNet(nn.Module):
    """A dense network under one 1×1 convolution, which gives heatmaps and, pooled, the logits.

    `features` turns images (N, C, H, W) into a map F (N, width, H, W). The heatmap is the
    convolution of F. `pool` says what the logits are:

    - "max_before", the authors': the convolution of each channel's maximum. The maxima of two
      channels may lie at two pixels, so a logit is in general no value of its heatmap.
    - "max_after": the heatmap's maximum.
    - "mean": the heatmap's mean, which is SoftCAM at the image's resolution.

    `activation` follows the convolution on both ways.
    """

    def __init__(
        self, features: nn.Module, width: int, classes: int, *, pool: str, activation: str,
    ) -> None:
        super().__init__()
        self.features = features
        self.head = nn.Conv2d(width, classes, kernel_size=1)
        self.activation = ACTIVATIONS[activation]()
        self.pool = pool

    @property
    def feature_layer(self) -> nn.Module:
        """The dense network, whose output is F."""
        return self.features

    def maps(self, x: Tensor) -> Tensor:
        """Heatmaps (N, classes, H, W)."""
        return self._read(self.features(x))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, classes)."""
        features = self.features(x)
        if self.pool == "max_before":
            return self._read(_peak(features)[..., None, None]).flatten(1)
        maps = self._read(features)
        return _peak(maps) if self.pool == "max_after" else maps.mean((2, 3))

    def _read(self, features: Tensor) -> Tensor:
        return cast(Tensor, self.activation(self.head(features)))


def _peak(maps: Tensor) -> Tensor:
    """Each channel's maximum, (N, K). Among equals one gets the gradient, as in max pooling."""
    # The adaptive pooling layer has no deterministic gradient on CUDA; amax shares it out.
    return maps.flatten(2).max(2).values
