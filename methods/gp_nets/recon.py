"""The dense network of GP-ReconResNet."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from .layers import sinc


class ReconResNet(nn.Module):
    """Residual blocks at a quarter of the image's size: (N, C, H, W) to (N, width, H, W).

    Two steps down, `blocks` residual blocks at four times the width, two steps up, each to the
    very size that it came from. All normalisation is a sample's own and has no weights.
    """

    def __init__(self, channels: int, *, width: int, blocks: int, dropout: float) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.ReflectionPad2d(3), nn.Conv2d(channels, width, 7), *_normalised(width))
        self.down = nn.ModuleList(
            nn.Sequential(nn.Conv2d(w, 2 * w, 3, stride=2, padding=1), *_normalised(2 * w))
            for w in (width, 2 * width))
        self.blocks = nn.Sequential(*(ResidualBlock(4 * width, dropout) for _ in range(blocks)))
        self.up = nn.ModuleList(
            nn.Sequential(nn.ReflectionPad2d(1), nn.Conv2d(2 * w, w, 3), *_normalised(w))
            for w in (2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """The last feature map (N, width, H, W), signed."""
        x = self.stem(x)
        sizes = []
        for step in self.down:
            sizes.append(x.shape[2:])
            x = step(x)
        x = self.blocks(x)
        for step in self.up:
            x = step(sinc(x, sizes.pop()))
        return x


class ResidualBlock(nn.Module):
    """Two convolutions, added to what came in; nothing follows the sum."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.ReflectionPad2d(1), nn.Conv2d(width, width, 3), *_normalised(width),
            nn.Dropout2d(dropout),
            nn.ReflectionPad2d(1), nn.Conv2d(width, width, 3), nn.InstanceNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        """A map of the same shape."""
        return cast(Tensor, x + self.body(x))


def _normalised(width: int) -> tuple[nn.Module, nn.Module]:
    return nn.InstanceNorm2d(width), nn.PReLU()
