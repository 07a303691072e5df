"""What the dense networks are made of: two convolutions in a row, and Fourier resampling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn


def double(inputs: int, outputs: int) -> nn.Sequential:
    """Two 3×3 convolutions, a ReLU after each; the map keeps its size."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(),
        nn.Conv2d(outputs, outputs, 3, padding=1), nn.ReLU())


def sinc(x: Tensor, size: Sequence[int]) -> Tensor:
    """Maps (N, K, h, w) enlarged to (N, K, H, W) by zero-padding their spectrum.

    Exact for a periodic signal below the Nyquist frequency; every other signal is taken for one
    period of such. H ≥ h and W ≥ w. The same as torchcomplex's (soumickmj/pytorch-complex) and
    SciPy's `resample` of rows, then columns.
    """
    height, width = size
    return _wider(_wider(x.mT, height).mT, width)


def _wider(x: Tensor, n: int) -> Tensor:
    samples = x.shape[-1]
    if n == samples:
        return x
    spectrum = torch.fft.rfft(x)
    if samples % 2 == 0:
        # The highest frequency of an even number of samples stands for its positive and its
        # negative half at once; in the longer signal they are two.
        spectrum = torch.cat([spectrum[..., :-1], spectrum[..., -1:] / 2], -1)
    return cast(Tensor, torch.fft.irfft(spectrum, n)) * (n / samples)
