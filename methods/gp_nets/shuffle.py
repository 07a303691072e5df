"""The dense network of GP-ShuffleUNet."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn

from bench import HeatproofError

from .layers import double


class ShuffleUNet(nn.Module):
    """A U-Net that moves pixels into channels and back: (N, C, H, W) to (N, width, H, W).

    Each of its `levels` has four parallel convolutions, the waves, on the way down and on the way
    up; those of one level are added. Four parallel convolutions are here one of four times the
    channels, which is the same function.
    """

    def __init__(self, channels: int, *, width: int, levels: int, dropout: float) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(levels)]
        self.stem = double(channels, width)
        self.down = nn.ModuleList(DownStep(w) for w in widths)
        self.dropout = nn.Dropout2d(dropout)
        self.up = nn.ModuleList(UpStep(w) for w in reversed(widths))

    def forward(self, x: Tensor) -> Tensor:
        """The last feature map (N, width, H, W), from 0.

        Raises HeatproofError for a side that is not divisible by 2^levels.
        """
        self._check(*x.shape[2:])
        x = self.stem(x)
        skips = []
        for step in self.down:
            waves, below = step(x)
            skips.append((x, waves))
            x = below
        x = self.dropout(x)
        for step in self.up:
            x = step(x, *skips.pop())
        return x

    def _check(self, height: int, width: int) -> None:
        levels, side = len(self.down), math.gcd(height, width)
        if side % 2**levels == 0:
            return
        fits = (side & -side).bit_length() - 1  # how often both sides can be halved
        cure = f"set levels = {fits}" if fits else "give it images of such a size"
        raise HeatproofError(
            f"gp-shuffleunet of {levels} levels needs images with sides divisible by {2**levels}, "
            f"not {height}×{width}; {cure}")


class DownStep(nn.Module):
    """The waves (N, 4·width, H, W) of a map, and the map of the next level."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.waves = _waves(width)
        self.halve = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1), nn.PixelUnshuffle(2),
            nn.Sequential(
                nn.Conv2d(4 * width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
                nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()),
            double(width, 2 * width))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The waves, and the map (N, 2·width, H/2, W/2); the fourth wave alone leads to it."""
        waves = self.waves(x)
        return waves, self.halve(waves[:, -x.shape[1]:])


class UpStep(nn.Module):
    """Twice the size and half the channels, joined to the map and the waves of that size."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.enlarge = nn.Sequential(
            nn.Conv2d(2 * width, 4 * width, 3, padding=1), nn.PixelShuffle(2))
        self.waves = _waves(width)
        self.blend = double(5 * width, width)

    def forward(self, x: Tensor, skip: Tensor, waves: Tensor) -> Tensor:
        """A map of the skip's shape."""
        waves = self.waves(self.enlarge(x)) + waves
        return cast(Tensor, self.blend(torch.cat([skip, waves], 1)))


def _waves(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(width, 4 * width, 3, padding=1), nn.ReLU())
