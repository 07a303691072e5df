"""The image that stands for the absence of everything."""

from __future__ import annotations

import torch
from torch import Tensor

from bench import HeatproofError, Method


def reference(method: Method, x: Tensor) -> Tensor:
    """Like x (n, C, H, W), but by the method's explain parameter `baseline`.

    "black" is the pixel value 0, as Sundararajan et al. (arXiv:1703.01365) suggest for
    photographs; "mean" the card's mean, which is 0 after normalisation, the default of captum.
    Raises HeatproofError for another.
    """
    kind = method.explain_params["baseline"]
    if kind not in ("black", "mean"):
        raise HeatproofError(f"{method.name}: baseline must be 'black' or 'mean', not {kind!r}")
    if kind == "mean":
        return torch.zeros_like(x)
    mean, std = (torch.tensor(v, dtype=x.dtype, device=x.device)[:, None, None]
                 for v in (method.card.mean, method.card.std))
    return (-mean / std).expand_as(x)
