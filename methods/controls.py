"""Controls: maps that know nothing of what the network learned, and maps that know the truth.

What does not beat the former is no explanation. The latter, the oracles, are the ceiling of
localisation: pixel by pixel, and at the grid of a network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from bench import (
    Batch,
    Card,
    HeatproofError,
    Method,
    copied,
    method,
    method_named,
    nets,
    redrawn,
)


class Control(Method):
    """A map that is made without looking at what the network learned."""

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


@method("magnitude")
class Magnitude(Control):
    """The intensity of the pixel itself, from black: the mean of its channels.

    It is what Integrated Gradients from black come down to where the gradient is the same
    everywhere. Not |x| of the normalised input, which hangs on the card's mean: an average grey
    would have no magnitude, and black a large one. What a metric makes darker than black is black.
    """

    title = "Input magnitude"

    def explain(self, net: nn.Module, batch: Batch, target: Tensor) -> Tensor:
        """Intensities (N, H, W), in [0, 1] for an image."""
        return _intensity(self.card, batch.x)


@method("class-mean")
class ClassMean(Control):
    """The mean training image of the target's class, in the units of `magnitude`.

    Of the images that the network was trained on, as it saw them: where each is divided by its
    maximum, in shares of that. The sums are float64 and the CPU's, so the same for every device;
    no image is kept.
    """

    title = "Mean image of the class"
    classwise = True
    count: Tensor | None = None
    """How many images of each class were seen: (classes,); None before any was."""
    total: Tensor
    """Their sums: (classes, H, W) float64."""

    def study(self, batches: Iterable[Batch]) -> None:
        """Adds up the training images, class by class."""
        classes, (_, height, width) = len(self.card.classes), self.card.image
        self.total = torch.zeros(classes, height, width, dtype=torch.float64)
        self.count = torch.zeros(classes, dtype=torch.int64)
        for batch in batches:
            y = batch.y.cpu()
            self.total.index_add_(0, y, _intensity(self.card, batch.x.cpu()))
            self.count += y.bincount(minlength=classes)

    def explain(self, net: nn.Module, batch: Batch, target: Tensor) -> Tensor:
        """The mean image (N, H, W) of each target's class, from 0.

        Raises HeatproofError before `study`, and for a class without a training image.
        """
        if self.count is None:
            raise HeatproofError(
                f"{self.name} has seen no training image; call study(batches) before explain")
        wanted = target.cpu()
        for label in wanted[self.count[wanted] == 0].tolist():
            raise HeatproofError(
                f"{self.name}: class {self.card.classes[label]!r} has no training image; raise the "
                f"recipe's samples or leave {self.name} out")
        return (self.total[wanted] / self.count[wanted, None, None]).to(batch.x)


def _intensity(card: Card, x: Tensor) -> Tensor:
    """Images x (n, C, H, W) as they were before the card's normalisation: (n, H, W) float64."""
    mean, std = (torch.tensor(value, dtype=torch.float64, device=x.device)[:, None, None]
                 for value in (card.mean, card.std))
    return (x.double() * std + mean).clamp(min=0).mean(1)


@method("reinitialised")
class Reinitialised(Control):
    """Another method's map of the same network with all its parameters drawn anew.

    `method` is the other, `params` its own explain parameters, and `draw` numbers the networks that
    can be drawn. The map depends on the architecture, its buffers and the image alone: it is the
    same whatever the network learned.
    """

    title = "Re-initialised network"
    paper = "as a control: Adebayo et al. 2018, arXiv:1810.03292"
    signed = True
    classwise = True
    explain_params = {"method": "gradcam", "params": {}, "draw": 0}

    def __init__(
        self, card: Card, backbone: Callable[[], nn.Module], *,
        train: Mapping[str, Any] | None = None, explain: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(card, backbone, train=train, explain=explain)
        asked = _asked(self.explain_params)
        self.inner = asked(card, backbone, explain=self.explain_params["params"])
        self.signed = self.inner.signed
        self.needs_grad = self.inner.needs_grad

    @classmethod
    def calls(cls, params: Mapping[str, Any]) -> tuple[str, ...]:
        """The method, and what that one calls."""
        asked = _asked(params)
        return asked.name, *asked.calls({**asked.explain_params, **params["params"]})

    @classmethod
    def cost(cls, params: Mapping[str, Any]) -> str:
        """What the method's own map costs."""
        asked = _asked(params)
        return asked.cost({**asked.explain_params, **params["params"]})

    @classmethod
    def titled(cls, params: Mapping[str, Any]) -> str:
        """The method's own title, and that its network is drawn anew."""
        asked = _asked(params)
        return f"{asked.titled({**asked.explain_params, **params['params']})}, re-initialised"

    def supports(self, net: nn.Module) -> str | None:
        """What the method says of the network that it is given."""
        return self.inner.supports(self._anew(net))

    def study(self, batches: Iterable[Batch]) -> None:
        """Hands the training images on; a method that does not study reads none of them."""
        self.inner.study(batches)

    def explain(self, net: nn.Module, batch: Batch, target: Tensor) -> Tensor:
        """The method's maps (N, h, w) of a copy that is drawn anew; `net` itself is left alone."""
        return self.inner.explain(self._anew(net), batch, target)

    def _anew(self, net: nn.Module) -> nn.Module:
        # A parameter without a `reset_parameters` is drawn in the size that it has, and that is
        # learned; hence all get one size first.
        level = copied(net)
        with torch.no_grad():
            for parameter in level.parameters():
                parameter.fill_(1)
        return redrawn(level, self.explain_params["draw"])


def _asked(params: Mapping[str, Any]) -> type[Method]:
    """The method that `reinitialised` is asked for. Raises HeatproofError for parameters amiss."""
    asked, table, draw = method_named(params["method"]), params["params"], params["draw"]
    if asked.needs_mask or asked.family == "control":
        raise HeatproofError(
            f"reinitialised: {asked.name!r} reads nothing that a network learns; name a method "
            "that explains one, such as 'gradcam'")
    if not isinstance(table, Mapping):
        raise HeatproofError(
            f"reinitialised: params must be a table of explain parameters of {asked.name!r}, not "
            f"{table!r}")
    if not isinstance(draw, int) or isinstance(draw, bool):
        raise HeatproofError(f"reinitialised: draw must be a whole number, not {draw!r}")
    return asked


@method("oracle")
class Oracle(Control):
    """The mask of the truth itself, every part alike: no method can localise better."""

    title = "Oracle (the mask)"
    needs_mask = True

    def explain(self, net: nn.Module, batch: Batch, target: Tensor) -> Tensor:
        """1 where the mask has a part, else 0: (N, H, W)."""
        return _truth(batch)[0].float()


@method("oracle-native")
class OracleNative(Control):
    """The mask at a network's own grid: what a map of that resolution can reach.

    The grid is that of the last feature map, where class activation maps lie; `grid` > 0 sets
    another, of that many cells a side, for the ceiling of a contestant that has it. A cell shows
    the object's share of its area, as far as the truth is known (not 255). Pixels on the border of
    two cells are divided between them; adaptive pooling would count them in both. The gauges
    `ceiling/...` see the mask in the same way.
    """

    title = "Oracle at the network's grid"
    passes = "1 forward a batch, for the grid"
    needs_mask = True
    explain_params = {"grid": 0}

    @classmethod
    def titled(cls, params: Mapping[str, Any]) -> str:
        """With a grid of its own, that grid."""
        side = params["grid"]
        return f"Oracle at {side} × {side}" if side else cls.title

    def supports(self, net: nn.Module) -> str | None:
        """Only a network with a feature map has a grid."""
        if self.explain_params["grid"]:
            return None
        x = torch.zeros(1, *self.card.image)
        try:
            features = nets.feature_map(net, x.to(next(net.parameters(), x)))
        except HeatproofError as error:
            return str(error)
        return None if features.ndim == 4 else (
            f"the features of {type(net).__name__} are no map (N, D, h, w), but of shape "
            f"{tuple(features.shape)}")

    def explain(self, net: nn.Module, batch: Batch, target: Tensor) -> Tensor:
        """Shares (N, h, w) in [0, 1]; 0 where nothing is known."""
        side, finest = self.explain_params["grid"], min(batch.x.shape[2:])
        if not isinstance(side, int) or isinstance(side, bool) or not 0 <= side <= finest:
            raise HeatproofError(
                f"{self.name}: grid must be 0, for the network's own, or cells a side up to "
                f"{finest}, not {side!r}")
        cells = (side, side) if side else nets.feature_map(net, batch.x[:1]).shape[2:]
        inside, known = (area.double() for area in _truth(batch))
        rows, columns = (_overlap(pixels, of).to(inside)
                         for pixels, of in zip(inside.shape[1:], cells, strict=True))
        inside, known = (rows @ area @ columns.T for area in (inside, known))
        return inside / known.where(known > 0, 1.0)


def _truth(batch: Batch) -> tuple[Tensor, Tensor]:
    """Where the mask has a part, and where it knows what is there: (N, H, W) bool each."""
    if batch.mask is None:
        raise ValueError("the oracle was given no mask")
    known = batch.mask != 255
    return (batch.mask > 0) & known, known


def _overlap(pixels: int, cells: int) -> Tensor:
    """How much of each pixel of a line lies in each of its equal cells: (cells, pixels) float64."""
    edge = torch.arange(cells + 1, dtype=torch.float64)[:, None] * pixels / cells
    pixel = torch.arange(pixels)
    return (torch.minimum(edge[1:], pixel + 1) - torch.maximum(edge[:-1], pixel)).clamp(min=0)
