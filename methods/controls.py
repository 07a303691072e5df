"""Controls: maps that know nothing of the model, and the oracle that knows the truth.

What does not beat the first four is no explanation; the oracle is the ceiling of localisation.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from bench import Batch, Method, method


class Control(Method):
    """A map that is made without looking at the network."""

    family = "control"
    passes = "none"
    version = "1"
    signed = False
    classwise = False


@method("noise")
class Noise(Control):
    """Uniform noise, one draw a pixel, from each sample's own seed."""

    title = "Uniform noise"

    def explain(self, net: nn.Module, batch: Batch, target: Tensor) -> Tensor:
        """Numbers in [0, 1) of shape (N, H, W)."""
        size = batch.x.shape[-2:]
        draws = [torch.rand(size, generator=torch.Generator().manual_seed(int(seed)))
                 for seed in batch.seed]
        return torch.stack(draws).to(batch.x.device)


@method("centre")
class Centre(Control):
    """A Gaussian in the middle; `sigma` in shares of the side."""

    title = "Centre prior"
    explain_params = {"sigma": 0.25}

    def explain(self, net: nn.Module, batch: Batch, target: Tensor) -> Tensor:
        """The same Gaussian for every image: (N, H, W) in (0, 1]."""
        height, width = batch.x.shape[-2:]
        sigma = self.explain_params["sigma"]
        y, x = (torch.exp(-(((torch.arange(n) + 0.5) / n - 0.5) / sigma) ** 2 / 2)
                for n in (height, width))
        return (y[:, None] * x).expand(len(batch), -1, -1).to(batch.x.device)


@method("edges")
class Edges(Control):
    """The magnitude of the Sobel gradient of the image's mean channel."""

    title = "Sobel edges"
    paper = "as a control: Adebayo et al. 2018, arXiv:1810.03292"

    def explain(self, net: nn.Module, batch: Batch, target: Tensor) -> Tensor:
        """Edge strength (N, H, W), from 0."""
        grey = functional.pad(batch.x.mean(1, keepdim=True), (1, 1, 1, 1), mode="replicate")
        ramp = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]])
        kernels = torch.stack([ramp, ramp.T])[:, None].to(grey)
        return functional.conv2d(grey, kernels).square().sum(1).sqrt()


@method("oracle")
class Oracle(Control):
    """The mask of the truth itself, every part alike: no method can localise better."""

    title = "Oracle (the mask)"
    needs_mask = True

    def explain(self, net: nn.Module, batch: Batch, target: Tensor) -> Tensor:
        """1 where the mask has a part, else 0: (N, H, W)."""
        if batch.mask is None:
            raise ValueError("the oracle was given no mask")
        return ((batch.mask > 0) & (batch.mask != 255)).float()
