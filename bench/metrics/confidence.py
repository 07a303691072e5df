"""What the CAM literature reports: insertion and deletion, average drop, increase in confidence."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from bench.core import HeatproofError
from bench.metrics.evidence import INTERPOLATION, Evidence, evidence, grid, scores
from bench.metrics.faithfulness import along, pixel_ranks, removal_outputs, signed
from bench.metrics.removal import Outputs, even_cuts, forwards, rows
from bench.metrics.replacement import OPERATORS, blurred
from bench.metrics.sharing import answers, for_all
from bench.plugins import metric

if TYPE_CHECKING:
    from torch import Tensor, nn

    from bench.measure import Explained, Scores

SIGMA = 5 / 224
"""RISE's blur as a share of the shorter side: sigma 5 for 224 pixels, in its authors' script."""

_RISE = "Petsiuk et al. 2018, BMVC, arXiv:1806.07421; repository eclique/RISE, evaluation.py"
_GRADCAM = "Chattopadhay et al. 2018, doi:10.1109/WACV.2018.00097, arXiv:1710.11063"
_VERSION = f"1, {INTERPOLATION}"
_HOLDS = ("batch", "scale")
_AREA = ("Area under the curve of the softmax probability of the explained class, by trapezoids, "
         "over the share of pixels")
_STEPS = ("The authors take a step of 224 of 224² pixels and the predicted class; here the number "
          "of steps is pinned and the class is the explained one.")
_MASKED = ("O is the softmax probability of the explained class for the image times the map, Y "
           "that of the untouched image. The map is upsampled, cut at 0 as a CAM is, and brought "
           "to [0, 1] by its minimum and maximum. It multiplies the input of the network, where 0 "
           "is the data set's mean colour: what the map leaves out turns to that colour.")


@metric("paper/deletion", title="Deletion", family="faithfulness", better="lower", track="paper",
        params={"steps": 64, "operator": "zero"}, version=_VERSION, holds=_HOLDS,
        range="[0, 1]", units="probability", passes="steps + 1 forward",
        formula="1/K · [½p(0) + Σₖ p(k) + ½p(K)], p(k) without the first k/K of the pixels",
        paper=_RISE,
        about=f"{_AREA} that are replaced, the most relevant first. zero is the authors' own "
              f"operator: the data set's mean colour. {_STEPS} operator is one of "
              f"{', '.join(OPERATORS)}.")
def deletion(explained: Explained, *, steps: int, operator: str) -> Scores:
    """The area (N,); curve: (N, steps + 1), probabilities."""
    cuts = even_cuts(math.prod(grid(explained)), steps)
    curve = removal_outputs(explained, first="most", cuts=cuts, operator=operator).probability
    return scores(area(curve), signed(explained).flaw, curve=curve)


@metric("paper/insertion", title="Insertion", family="faithfulness", better="higher",
        track="paper", params={"steps": 64, "sigma": SIGMA}, version=_VERSION, holds=_HOLDS,
        range="[0, 1]", units="probability", passes="steps + 1 forward",
        formula="1/K · [½p(0) + Σₖ p(k) + ½p(K)], p(k) with the first k/K of the pixels sharp",
        paper=_RISE,
        about=f"{_AREA} that are put back into a blurred copy of the image, the most relevant "
              "first. sigma of the Gaussian is a share of the shorter side; the authors' is 5 "
              "pixels of 224, in a kernel cut at 11 pixels, which ours is not. On a small image so "
              "mild a blur hides little: the curve's first value says how much is left to insert. "
              f"{_STEPS}")
def insertion(explained: Explained, *, steps: int, sigma: float) -> Scores:
    """The area (N,); curve: (N, steps + 1), probabilities."""
    if not (isinstance(sigma, int | float) and sigma > 0):
        raise HeatproofError(f"sigma must be a share of the shorter side above 0, not {sigma!r}")
    batch, maps = explained.batch, signed(explained)
    cuts = even_cuts(math.prod(grid(explained)), steps)
    canvas = for_all(explained, ("blurred", sigma), lambda: blurred(batch.x, sigma))

    def empty() -> Tensor:
        return forwards(answers(explained), lambda sample, _: canvas[sample], len(canvas), 1,
                        device=canvas.device, chunk=rows(canvas))[:, 0]

    curve = along(
        explained, pixel_ranks(maps.values, batch.seed), cuts, what=("inserted", sigma),
        canvas=canvas, fill=batch.x, known={
            0: lambda: for_all(explained, ("logits of the blurred", sigma), empty),
            cuts[-1]: lambda: explained.logits}).probability
    return scores(area(curve), maps.flaw, curve=curve)


@metric("paper/average-drop", title="Average drop", family="faithfulness", better="lower",
        track="paper", version=_VERSION, holds=_HOLDS, range="[0, 1]", units="share of Y",
        passes="2 forwards, shared with increase in confidence", formula="max(0, Y − O) / Y",
        paper=_GRADCAM,
        about="Share of the confidence that is lost when the image is masked by its map; the "
              f"literature gives its mean in per cent. {_MASKED}")
def average_drop(explained: Explained) -> Scores:
    """The share that is lost (N,), in [0, 1]; curve: (N, 2), Y and O."""
    curve, flaw = _confidence(explained)
    value = (curve[:, 0] - curve[:, 1]).clamp(min=0) / curve[:, 0]
    return scores(value, flaw, curve=curve)


@metric("paper/increase-in-confidence", title="Increase in confidence", family="faithfulness",
        better="higher", track="paper", version=_VERSION, holds=_HOLDS,
        order=("oracle", "noise"), range="[0, 1], one or the other", units="images",
        passes="2 forwards, shared with average drop", formula="[Y < O]", paper=_GRADCAM,
        about="1 where the network is surer of the image masked by its map than of the image, else "
              f"0; the literature gives its mean in per cent. {_MASKED}")
def increase_in_confidence(explained: Explained) -> Scores:
    """1.0 or 0.0 (N,); curve: (N, 2), Y and O."""
    curve, flaw = _confidence(explained)
    return scores((curve[:, 0] < curve[:, 1]).double(), flaw, curve=curve)


def area(curve: Tensor) -> Tensor:
    """The area (N,) under curves (N, K + 1) over [0, 1], by trapezoids."""
    return torch.trapezoid(curve, dim=1) / (curve.shape[1] - 1)


def masked_outputs(network: nn.Module, x: Tensor, mask: Tensor, target: Tensor) -> Outputs:
    """The outputs (N, 2) of the images (N, C, H, W) and of those times masks (N, H, W) in [0, 1].

    Both in one run, so that their difference holds no rounding of another batch.
    """
    both = torch.stack([torch.ones_like(mask), mask], 1).to(x.dtype)
    return Outputs.of(forwards(
        network, lambda sample, step: x[sample] * both[sample, step][:, None], len(x), 2,
        device=x.device, read=Outputs.read(target), chunk=rows(x)))


def _confidence(explained: Explained) -> tuple[Tensor, tuple[str | None, ...]]:
    """Y and O (N, 2), and each map's flaw; run once for both measures."""
    def run() -> tuple[Tensor, tuple[str | None, ...]]:
        found: Evidence = evidence(explained.maps, grid(explained), "positive")
        low = found.values.amin((1, 2), keepdim=True)
        mask = (found.values - low) / (found.values.amax((1, 2), keepdim=True) - low)
        outputs = masked_outputs(answers(explained), explained.batch.x, mask, explained.target)
        return outputs.probability, found.flaw

    return explained.once("masked by the map", run)
