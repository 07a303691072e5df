"""Explainers that read the gradient at the input, by captum."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from bench import Batch, Method, TargetScore, method

from .reference import reference


@method("ig")
class IntegratedGradients(Method):
    """Integrated Gradients, summed over the channels.

    `baseline` is "black" (pixel value 0, as the paper suggests for photographs) or "mean" (the
    card's mean, captum's default of 0 after normalisation). `steps` of Gauss-Legendre.
    """

    title = "Integrated Gradients"
    family = "gradient"
    paper = "Sundararajan et al. 2017, arXiv:1703.01365; by captum's IntegratedGradients"
    passes = "steps forward, steps backward"
    version = "2"
    needs_grad = True
    explain_params = {"steps": 50, "baseline": "black"}

    def explain(self, net: nn.Module, batch: Batch, target: Tensor) -> Tensor:
        """Attributions (N, H, W), signed; they sum to f(x) − f(baseline) up to the steps."""
        from captum.attr import IntegratedGradients

        x = batch.x.clone().requires_grad_()
        shares = IntegratedGradients(TargetScore(net)).attribute(
            x, baselines=reference(self, batch.x), additional_forward_args=(target,),
            n_steps=self.explain_params["steps"])
        return cast(Tensor, shares.sum(1))
