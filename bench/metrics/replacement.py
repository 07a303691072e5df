"""What stands in for the part of an image that is removed: the replacement operators.

No operator is neutral: each leaves another trace that a network may answer to, so removal measures
are taken with several, and `bench.metrics.gauges` says how far each takes a network from its data.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from bench.core import unknown
from bench.metrics.draws import each
from bench.metrics.removal import Fill, fixed
from bench.metrics.sharing import for_all

if TYPE_CHECKING:
    from bench.measure import Explained

OPERATORS = ("mean", "blur", "linear", "zero")
"""What `replacement` knows; their exact definitions stand there."""

BLUR = 10 / 224
"""The blur's sigma as a share of the image's shorter side: 10 pixels of 224, as in Fong & Vedaldi
2017, arXiv:1704.03296."""

NOISE = 0.01
"""Standard deviation of what "linear" adds, in units of the network's input (Rong et al. 2022)."""

TOLERANCE = 1e-7
"""Where the linear system counts as solved: |residual| / |right-hand side|."""

_LOOK = 8
"""Steps of the solver between two looks at whether it is done; each look waits for the device."""


def replacement(operator: str, x: Tensor, seed: Tensor) -> Fill:
    """How an operator fills what is removed of the images x (N, C, H, W), seeds (N,).

    "mean": each channel's mean over that image. "blur": that image under a Gaussian of sigma BLUR.
    "zero": 0 in the network's input, the data set's mean colour. These do not depend on what is
    removed. "linear": see `interpolated`, plus Gaussian noise of NOISE drawn once an image from
    its own seed. Raises HeatproofError for another name.
    """
    return _fill(operator, x, _material(operator, x, seed))


def replacement_for(explained: Explained, operator: str) -> Fill:
    """The same of the images that are explained, whose blur or noise is made once for all maps."""
    batch = explained.batch
    return _fill(operator, batch.x, for_all(
        explained, ("replacement", operator), lambda: _material(operator, batch.x, batch.seed)))


def _material(operator: str, x: Tensor, seed: Tensor) -> Tensor:
    """What an operator takes of the images before anything is removed: (N, C or 1, H or 1, ...)."""
    if operator not in OPERATORS:
        raise unknown("operator", operator, OPERATORS)
    if operator == "mean":
        return x.mean((2, 3), keepdim=True)
    if operator == "blur":
        return blurred(x, BLUR)
    if operator == "zero":
        return x.new_zeros(len(x), 1, 1, 1)
    shape = tuple(x.shape[1:])
    noise = NOISE * each(seed, "linear", lambda draw: draw.standard_normal(shape, "float32"))
    return noise.to(x.device, x.dtype, non_blocking=True)


def _fill(operator: str, x: Tensor, material: Tensor) -> Fill:
    if operator != "linear":
        return fixed(material.expand_as(x))
    return lambda sample, removed: (
        interpolated(x[sample], removed).to(x.dtype) + material[sample])


def blurred(x: Tensor, share: float) -> Tensor:
    """Images (..., H, W) under a Gaussian whose sigma is a share of the shorter side.

    Beyond the border there is nothing: the kernel is cut there and its rest rescaled to 1. Computed
    in float64, returned in x's type.
    """
    sigma = share * min(x.shape[-2:])

    def kernel(size: int) -> Tensor:
        place = torch.arange(size, dtype=torch.float64, device=x.device)
        weight = torch.exp(-0.5 * ((place[:, None] - place) / sigma) ** 2)
        return weight / weight.sum(1, keepdim=True)

    return (kernel(x.shape[-2]) @ x.double() @ kernel(x.shape[-1]).mT).to(x.dtype)


def interpolated(x: Tensor, removed: Tensor, *, tolerance: float = TOLERANCE) -> Tensor:
    """Images (m, C, H, W) whose removed pixels, (m, 1 or C, H, W) bool, are harmonic: float64.

    Each removed pixel is the weighted mean of its neighbours inside the image, 1/6 the direct and
    1/12 the diagonal ones: ROAD's linear imputation before its noise, Rong et al. 2022,
    arXiv:2202.00449. Of an image that is removed wholly, each channel's mean is left. All systems
    are solved at once by conjugate gradients, in at most 8 (H + W) steps; each stops by itself, so
    that none depends on those beside it.
    """
    shape = x.shape
    x = x.double().flatten(0, 1)[:, None]
    hole = removed.expand(shape).flatten(0, 1)[:, None].to(x.dtype)
    whole = hole.amin((2, 3), keepdim=True) > 0
    weight = _neighbours(torch.ones_like(x[:1]))
    given = hole * _neighbours(x * (1 - hole))
    goal = tolerance**2 * _dot(given, given)
    found = _filled(x, 1 - hole)
    residual = direction = hole * (_neighbours(found) - weight * found)
    size = _dot(residual, residual)
    here, part = torch.arange(len(x), device=x.device), found.clone()
    for step in range(_LOOK * sum(shape[2:]) + 1):
        if step % _LOOK == 0:
            found[here] = part
            unsolved = (size > goal).flatten().nonzero()[:, 0]
            if not len(unsolved):
                break
            here, part, hole, goal, residual, direction, size = (
                one[unsolved] for one in (here, part, hole, goal, residual, direction, size))
        image = hole * (weight * direction - _neighbours(direction))
        length = _ratio(size, _dot(direction, image))
        part = torch.addcmul(part, length, direction)
        residual = torch.addcmul(residual, length, image, value=-1)
        after = _dot(residual, residual)
        direction = torch.addcmul(residual, _ratio(after, size), direction)
        size = after
    return torch.where(whole, x.mean((2, 3), keepdim=True), found).view(shape)


def _neighbours(x: Tensor) -> Tensor:
    """The weighted sum of the eight neighbours that lie inside (..., H, W).

    The kernel [[1, 2, 1], [2, 0, 2], [1, 2, 1]] / 12 is [1, 2, 1] both ways less its centre.
    """
    rows = 2 * x
    rows[..., 1:, :] += x[..., :-1, :]
    rows[..., :-1, :] += x[..., 1:, :]
    both = 2 * rows
    both[..., 1:] += rows[..., :-1]
    both[..., :-1] += rows[..., 1:]
    return both.sub_(x, alpha=4).div_(12)


def _filled(x: Tensor, known: Tensor) -> Tensor:
    """The images with holes filled from ever coarser means of what is known; 0 if nothing is."""
    if max(x.shape[2:]) == 1:
        return x * known
    amount = avg_pool2d(known, 2, ceil_mode=True)
    coarse = _filled(_ratio(avg_pool2d(x * known, 2, ceil_mode=True), amount),
                     (amount > 0).to(x.dtype))
    fine = interpolate(coarse, size=x.shape[2:], mode="bilinear", align_corners=False)
    return torch.where(known > 0, x, fine)


def _dot(one: Tensor, other: Tensor) -> Tensor:
    return (one * other).sum((2, 3), keepdim=True)


def _ratio(above: Tensor, below: Tensor) -> Tensor:
    """A quotient that is 0 where nothing is below: a solved system takes no further step."""
    return torch.where(below > 0, above / torch.where(below > 0, below, 1.0), 0.0)
