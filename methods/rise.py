"""RISE: the mean of random masks, weighed by what the network sees through them."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from bench import Batch, Method, fitting, in_pieces, method

from .parameters import positive, whole
from .perturbation import held
from .reference import reference


@method("rise")
class RISE(Method):
    """RISE, as the authors' code does it (github.com/eclique/RISE); no library has it.

    `masks` of `cells` × `cells`, each shown with the chance `keep`: the paper's 4000 masks for
    VGG16 (8000 for ResNet-50), 7 and 0.5. What a mask takes away becomes `baseline`, in the
    authors' code the 0 of the normalised image. Two departures, which leave the expected map as it
    is: each image has masks of its own, from its own seed, and the map is of one class alone.
    """

    title = "RISE"
    family = "perturbation"
    paper = "Petsiuk et al. 2018, arXiv:1806.07421"
    passes = "masks forward"
    version = "1"
    signed = False
    explain_params = {"masks": 4000, "cells": 7, "keep": 0.5, "baseline": "mean"}
    check_explain = {"masks": 40}

    def explain(self, net: nn.Module, batch: Batch, target: Tensor) -> Tensor:
        """The target's probability per pixel shown, over the chance of that: (N, H, W), from 0."""
        masks, keep = whole(self, "masks"), positive(self, "keep", 1)
        height, width = batch.x.shape[-2:]
        hidden, rows, most = reference(self, batch.x), fitting(net, batch.x), held(batch.x)
        maps = []
        for x, absent, label, seed in zip(batch.x, hidden, target, batch.seed, strict=True):
            # All draws before the first block, so that they do not depend on its size.
            grids, shifts = self._drawn(masks, keep, (height, width), int(seed))
            total = x.new_zeros(height * width)
            for start in range(0, masks, most):
                part = slice(start, start + most)
                shown = enlarged(grids[part].to(x), shifts[part], (height, width))
                images = absent + shown[:, None] * (x - absent)
                total += _probability(net, images, label, rows) @ shown.flatten(1)
            maps.append(total.view(height, width) / (masks * keep))
        return torch.stack(maps)

    def _drawn(
        self, masks: int, keep: float, size: tuple[int, int], seed: int,
    ) -> tuple[Tensor, Tensor]:
        """Grids (n, s, s) of 0 and 1, and their shifts (n, 2) down and to the right, in pixels."""
        cells = whole(self, "cells", 2)
        draw = torch.Generator().manual_seed(seed)
        grids = torch.rand((masks, cells, cells), generator=draw) < keep
        shifts = [torch.randint(math.ceil(side / cells), (masks,), generator=draw)
                  for side in size]
        return grids, torch.stack(shifts, 1)


def enlarged(grids: Tensor, shifts: Tensor, size: tuple[int, int]) -> Tensor:
    """Masks (n, H, W) from 0 to 1, from grids (n, s, s) of 0 and 1.

    A grid is made s + 1 cells of ⌈side / s⌉ pixels large by bilinear interpolation, and cut to
    `size` after the shift (n, 2), in pixels down and to the right.
    """
    rows, columns = (_interpolation(shift, side, grids.shape[-1]).to(grids)
                     for shift, side in zip(shifts.unbind(1), size, strict=True))
    return rows @ grids @ columns.mT


def _interpolation(shift: Tensor, side: int, cells: int) -> Tensor:
    """The weight of each cell for each pixel of one side, (n, side, cells); they sum to 1."""
    scale = cells / ((cells + 1) * math.ceil(side / cells))
    place = (shift[:, None] + torch.arange(side, dtype=torch.float64) + 0.5) * scale - 0.5
    # Beyond the centre of an outer cell the grid is mirrored, as in the authors' resizing.
    last = cells - 1
    place = last - (last - place.abs()).abs()
    return (1 - (place[..., None] - torch.arange(cells)).abs()).clamp(min=0)


def _probability(net: nn.Module, images: Tensor, label: Tensor, rows: int) -> Tensor:
    """The probability of one class for each image: (n,)."""
    def work(part: slice) -> Tensor:
        with torch.no_grad():
            return net(images[part]).softmax(1)[:, label]  # type: ignore[no-any-return]

    return torch.cat(in_pieces(work, len(images), rows))
