"""Explainers that read the gradient at the input, most by captum."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor, nn

from bench import Batch, HeatproofError, Method, TargetScore, fitting, method, seeded

from .parameters import whole
from .reference import Background, reference

ROWS = 64
"""Noisy images on their way at a time, unless one image has more."""


class Gradient(Method):
    """What all of them share."""

    family = "gradient"
    passes = "1 forward, 1 backward"
    version = "1"
    needs_grad = True


@method("saliency")
class Saliency(Gradient):
    """The gradient of the logit, its largest absolute value over the channels."""

    title = "Saliency"
    paper = "Simonyan et al. 2014, arXiv:1312.6034; by captum's Saliency"
    signed = False

    def explain(self, net: nn.Module, batch: Batch, target: Tensor) -> Tensor:
        """Magnitudes (N, H, W), from 0."""
        from captum.attr import Saliency

        slope = Saliency(net).attribute(batch.x.clone().requires_grad_(), target=target)
        return cast(Tensor, slope.amax(1))


@method("input-x-gradient")
class InputXGradient(Gradient):
    """The gradient times the normalised image, summed over the channels.

    So the image of the card's mean has a map of zeros.
    """

    title = "Input×Gradient"
    paper = "Shrikumar et al. 2016, arXiv:1605.01713; by captum's InputXGradient"

    def explain(self, net: nn.Module, batch: Batch, target: Tensor) -> Tensor:
        """Products (N, H, W), signed."""
        from captum.attr import InputXGradient

        product = InputXGradient(net).attribute(batch.x.clone().requires_grad_(), target=target)
        return cast(Tensor, product.detach().sum(1))


@method("ig")
class IntegratedGradients(Gradient):
    """Integrated Gradients, summed over the channels.

    `baseline` is "black" (pixel value 0, as the paper suggests for photographs) or "mean" (the
    card's mean, captum's default of 0 after normalisation). `steps` of Gauss-Legendre, 50 as in
    captum.
    """

    title = "Integrated Gradients"
    paper = "Sundararajan et al. 2017, arXiv:1703.01365; by captum's IntegratedGradients"
    passes = "steps forward, steps backward"
    version = "3"
    explain_params = {"steps": 50, "baseline": "black"}

    def explain(self, net: nn.Module, batch: Batch, target: Tensor) -> Tensor:
        """Attributions (N, H, W), signed; they sum to f(x) − f(baseline) up to the steps."""
        from captum.attr import IntegratedGradients

        # As many images on their way at once as the network takes, but each of the batch once.
        most = max(fitting(net, batch.x), len(batch))
        shares = IntegratedGradients(TargetScore(net)).attribute(
            batch.x, baselines=reference(self, batch.x), additional_forward_args=(target,),
            n_steps=whole(self, "steps"), internal_batch_size=most)
        return cast(Tensor, shares.sum(1))


@method("gradientshap")
class GradientSHAP(Background, Gradient):
    """GradientSHAP (the expected gradients of Erion et al., arXiv:1906.10670), channels summed.

    The mean over `samples` of the gradient at a random point between the image and a random one of
    `background` training images, times their difference. 200 samples as in SHAP's
    GradientExplainer, where captum takes 5; no noise is added, the default of both.
    """

    title = "GradientSHAP"
    paper = "Lundberg and Lee 2017, arXiv:1705.07874; by captum's GradientShap"
    passes = "samples forward, samples backward"
    explain_params = {"samples": 200, **Background.explain_params}
    check_explain = {"samples": 8}

    def explain(self, net: nn.Module, batch: Batch, target: Tensor) -> Tensor:
        """Attributions (N, H, W), signed; they sum to f(x) − mean f(background), as expected."""
        from captum.attr import GradientShap

        samples, baselines = whole(self, "samples"), self.background.to(batch.x)
        shap, maps = GradientShap(TargetScore(net)), []
        for i, seed in enumerate(batch.seed):
            with seeded(int(seed)):
                maps.append(shap.attribute(
                    batch.x[[i]], baselines=baselines, n_samples=samples,
                    additional_forward_args=(target[[i]],)))
        return torch.cat(maps).sum(1)


class NoisyGradient(Gradient):
    """What becomes of the gradient under Gaussian noise on the image.

    `samples` noisy images, 50, beyond which the SmoothGrad paper saw little change; `noise` is the
    standard deviation in shares of the normalised image's range (max − min), 0.15 as in the
    authors' code, PAIR-code/saliency. Draws and sums are those of captum's NoiseTunnel, which would
    have to be called image by image, as each has a seed of its own.
    """

    passes = "samples forward, samples backward"
    signed = False
    explain_params = {"samples": 50, "noise": 0.15}
    check_explain = {"samples": 8}

    def slopes(self, net: nn.Module, batch: Batch, target: Tensor) -> Iterator[Tensor]:
        """The signed gradients of a few images' draws at a time, (n, samples, C, H, W) float64."""
        samples, noise, score = whole(self, "samples"), self._noise(), TargetScore(net)
        flat = batch.x.double().flatten(1)
        spread = [noise * span for span in (flat.amax(1) - flat.amin(1)).tolist()]
        step = max(1, ROWS // samples)
        for start in range(0, len(batch), step):
            few = slice(start, start + step)
            x = batch.x[few].repeat_interleave(samples, 0).double()
            for one, seed, width in zip(torch.split(x, samples), batch.seed[few].tolist(),
                                        spread[few], strict=True):
                draw = torch.Generator().manual_seed(seed)  # the CPU's: a GPU draws other numbers
                drawn = torch.normal(0, torch.full(one.shape, width), generator=draw)
                one += drawn.to(one.device, non_blocking=True)
            x = x.to(batch.x.dtype).requires_grad_()
            told = score(x, target[few].repeat_interleave(samples))
            (slope,) = torch.autograd.grad(told.sum(), x)
            yield slope.double().view(-1, samples, *x.shape[1:])

    def _noise(self) -> float:
        noise = self.explain_params["noise"]
        if isinstance(noise, bool) or not isinstance(noise, int | float) or not (
                0 <= noise < math.inf):
            raise HeatproofError(f"{self.name}: noise must be a number from 0, not {noise!r}")
        return float(noise)


@method("smoothgrad")
class SmoothGrad(NoisyGradient):
    """The mean gradient of noisy images, its largest absolute value over the channels.

    To reduce the channels as Saliency does is ours; so without noise, the map is Saliency's.
    `samples` and `noise`: see NoisyGradient.
    """

    title = "SmoothGrad"
    paper = "Smilkov et al. 2017, arXiv:1706.03825; as in captum's NoiseTunnel"

    def explain(self, net: nn.Module, batch: Batch, target: Tensor) -> Tensor:
        """Magnitudes (N, H, W), from 0."""
        return torch.cat([each.mean(1).to(batch.x.dtype).abs().amax(1)
                          for each in self.slopes(net, batch, target)])


@method("vargrad")
class VarGrad(NoisyGradient):
    """The variance of the gradient over noisy images, the largest over the channels.

    The largest of the channels is ours, and so are SmoothGrad's `samples` and `noise` (see
    NoisyGradient): the paper names none. The variance is captum's, over `samples`, not one less.
    """

    title = "VarGrad"
    paper = "Adebayo et al. 2018, arXiv:1810.03292; as in captum's NoiseTunnel"

    def explain(self, net: nn.Module, batch: Batch, target: Tensor) -> Tensor:
        """Variances (N, H, W), from 0."""
        return torch.cat([each.var(1, correction=0).to(batch.x.dtype).amax(1)
                          for each in self.slopes(net, batch, target)])
