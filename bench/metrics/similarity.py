"""How alike two maps, or two rows of numbers, are: by value, by rank and by structure."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def ranks(values: Tensor) -> Tensor:
    """The rank of each value along the last axis, the least 1, ties their mean; float64."""
    rows = values.reshape(-1, values.shape[-1])
    rising, order = rows.sort(-1)
    place = torch.arange(rows.shape[1], device=rows.device).expand_as(rows)
    edge = torch.ones_like(rows[:, :1], dtype=torch.bool)
    new = rising[:, 1:] != rising[:, :-1]
    # Between the ends of its run of equal values lies the mean of a rank.
    first = torch.where(torch.cat([edge, new], 1), place, 0).cummax(-1).values
    last = torch.where(torch.cat([new, edge], 1), place, rows.shape[1])
    last = last.flip(-1).cummin(-1).values.flip(-1)
    mean = (first + last + 2).double() / 2
    return torch.empty_like(mean).scatter_(-1, order, mean).view(values.shape)


def pearson(a: Tensor, b: Tensor) -> Tensor:
    """Pearson's correlation of a with b, both (..., K), along the last axis: (...,) float64.

    Exactly 1 for equal rows, so that what is the same is told from what is nearly so; NaN where
    either row is constant.
    """
    a, b = a.double(), b.double()
    constant = (a == a[..., :1]).all(-1) | (b == b[..., :1]).all(-1)
    one, other = _centred(a), _centred(b)
    squares = (one * one).sum(-1) * (other * other).sum(-1)
    found = (one * other).sum(-1) / torch.where(constant, 1.0, squares).sqrt()
    return torch.where(constant, torch.nan, found.clamp(-1, 1))


def spearman(a: Tensor, b: Tensor) -> Tensor:
    """Spearman's rank correlation of a with b, both (..., K), along the last axis: (...,).

    Ties share the mean of their ranks. Exactly 1 for rows of the same order; NaN where either is
    constant.
    """
    return pearson(ranks(a), ranks(b))


def _centred(rows: Tensor) -> Tensor:
    """Rows less their mean, in units of the largest value left, which a square cannot lose."""
    centred = rows - rows.mean(-1, keepdim=True)
    peak = centred.abs().amax(-1, keepdim=True)
    return centred / torch.where(peak > 0, peak, 1.0)


def ssim(
    a: Tensor, b: Tensor, span: Tensor | float = 1.0, *, window: int = 11, sigma: float = 1.5,
) -> Tensor:
    """The mean structural similarity of maps a and b (N, H, W), by a Gaussian window: (N,) <= 1.

    span: the range of their values, a number or (N,); the constants are (0.01 span)² and
    (0.03 span)². The window stays inside the map; where it does not fit it is the largest odd one
    that does. Wang et al. 2004, doi:10.1109/TIP.2003.819861.
    """
    size = min(window, *a.shape[-2:])
    size -= 1 - size % 2
    place = torch.arange(size, dtype=a.dtype, device=a.device) - size // 2
    weight = (-((place / sigma) ** 2) / 2).softmax(0)
    # As matrices, since a convolution of one channel is several times slower.
    rows, columns = (torch.stack([functional.pad(weight, (i, n - size - i))
                                  for i in range(n - size + 1)]) for n in a.shape[-2:])
    mean_a, mean_b, aa, bb, ab = (
        rows @ values @ columns.T for values in (a, b, a * a, b * b, a * b))
    span = torch.as_tensor(span, dtype=a.dtype, device=a.device).reshape(-1, 1, 1)
    c1, c2 = (0.01 * span) ** 2, (0.03 * span) ** 2
    luminance = (2 * mean_a * mean_b + c1) / (mean_a * mean_a + mean_b * mean_b + c1)
    variances = (aa - mean_a * mean_a) + (bb - mean_b * mean_b)
    return (luminance * (2 * (ab - mean_a * mean_b) + c2) / (variances + c2)).mean((1, 2))
