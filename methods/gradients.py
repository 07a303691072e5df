"""Explainers that read the gradient at the input, by captum."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from bench import Batch, HeatproofError, Method, method


@method("ig")
class IntegratedGradients(Method):
    """Integrated Gradients, summed over the channels.

    `baseline` is "black" (pixel value 0, as the paper suggests for photographs) or "mean" (the
    card's mean, captum's default of 0 after normalisation). `steps` of Gauss-Legendre.
    """

    title = "Integrated Gradients"
    family = "gradient"
    paper = "Sundararajan et al. 2017, arXiv:1703.01365; by captum's IntegratedGradients"
    version = "1"
    needs_grad = True
    explain_params = {"steps": 50, "baseline": "black"}

    def explain(self, net: nn.Module, batch: Batch, target: Tensor) -> Tensor:
        """Attributions (N, H, W), signed; they sum to f(x) − f(baseline) up to the steps."""
        from captum.attr import IntegratedGradients

        x = batch.x.clone().requires_grad_()
        steps = self.explain_params["steps"]
        shares = IntegratedGradients(net).attribute(
            x, baselines=self._baseline(batch.x), target=target, n_steps=steps,
            internal_batch_size=max(len(x), 128))
        return cast(Tensor, shares.sum(1))

    def _baseline(self, x: Tensor) -> Tensor:
        kind = self.explain_params["baseline"]
        if kind not in ("black", "mean"):
            raise HeatproofError(f"ig: baseline must be 'black' or 'mean', not {kind!r}")
        if kind == "mean":
            return torch.zeros_like(x)
        mean, std = (torch.tensor(v, dtype=x.dtype, device=x.device)[:, None, None]
                     for v in (self.card.mean, self.card.std))
        return (-mean / std).expand_as(x)
