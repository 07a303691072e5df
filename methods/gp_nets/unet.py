"""The dense network of GP-UNet."""

from __future__ import annotations

from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from bench import HeatproofError

from .layers import double, sinc

UPSAMPLINGS = ("sinc", "transposed", "bilinear")


class UNet(nn.Module):
    """A U-Net without normalisation that pools by averages: (N, C, H, W) to (N, width, H, W).

    `depth` levels of twice the channels and half the size each. A side that is odd loses its last
    row on the way down and is stretched to fit on the way up, so every size comes back.
    """

    def __init__(
        self, channels: int, *, width: int, depth: int, dropout: float, upsampling: str,
    ) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(depth)]
        self.down = nn.ModuleList(double(a, b) for a, b in pairwise([channels, *widths]))
        self.dropout = nn.Dropout2d(dropout)
        self.up = nn.ModuleList(
            UpStep(b, a, upsampling) for a, b in reversed([*pairwise(widths)]))

    def forward(self, x: Tensor) -> Tensor:
        """The last feature map (N, width, H, W), from 0. Raises for images that are too small."""
        if min(x.shape[2:]) < (least := 2**len(self.up)):
            raise HeatproofError(
                f"gp-unet of depth {len(self.down)} needs images of {least} pixels a side or more, "
                f"not {x.shape[2]}×{x.shape[3]}; lower its depth")
        x = self.down[0](x)
        skips = []
        for block in self.down[1:]:
            skips.append(x)
            x = block(functional.avg_pool2d(x, 2))
        x = self.dropout(x)
        for step in self.up:
            x = step(x, skips.pop())
        return x


class UpStep(nn.Module):
    """Twice the size and half the channels, then joined to the map of that size on the way down."""

    def __init__(self, inputs: int, outputs: int, upsampling: str) -> None:
        super().__init__()
        self.upsampling = upsampling
        self.up = (nn.ConvTranspose2d(inputs, outputs, 2, stride=2) if upsampling == "transposed"
                   else nn.Conv2d(inputs, outputs, 1))
        self.blend = double(2 * outputs, outputs)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """A map of the skip's shape."""
        twice = [2 * n for n in x.shape[2:]]
        if self.upsampling == "sinc":
            x = sinc(x, twice)
        elif self.upsampling == "bilinear":
            x = functional.interpolate(x, twice, mode="bilinear")
        x = self.up(x)
        if x.shape[2:] != skip.shape[2:]:
            x = functional.interpolate(x, skip.shape[2:], mode="bilinear")
        return cast(Tensor, self.blend(torch.cat([x, skip], 1)))
