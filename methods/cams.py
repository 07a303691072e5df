"""Class activation maps of a network's last feature map, by captum."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from bench import Batch, HeatproofError, Method, method, nets


@method("gradcam")
class GradCAM(Method):
    """Grad-CAM, signed unless `relu` is set."""

    title = "Grad-CAM"
    family = "cam"
    paper = "Selvaraju et al. 2017, arXiv:1610.02391; by captum's LayerGradCam"
    version = "2"
    passes = "1 forward, 1 backward"
    needs_grad = True
    explain_params = {"relu": False}

    def supports(self, net: nn.Module) -> str | None:
        """Only a network with a convolutional feature map has one to weigh."""
        try:
            nets.feature_layer(net)
        except HeatproofError as error:
            return str(error)
        return None

    def explain(self, net: nn.Module, batch: Batch, target: Tensor) -> Tensor:
        """The feature map's channels, weighed by their mean gradient: (N, h, w)."""
        from captum.attr import LayerGradCam

        cam = LayerGradCam(net, nets.feature_layer(net)).attribute(
            batch.x.clone().requires_grad_(), target=target,
            relu_attributions=self.explain_params["relu"])
        return cast(Tensor, cam[:, 0])
