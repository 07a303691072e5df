"""Explainers that hide parts of the image and watch the logit, by captum; no gradient is needed.

A positive value says that hiding the part lowers the logit of the target. `baseline` is what hides:
"mean" (the card's mean, captum's default of 0 after normalisation) or "black".
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from hashlib import blake2b
from typing import Any, cast

import torch
from torch import Tensor, nn

from bench import Batch, HeatproofError, Method, TargetScore, method, seeded
from bench.shared import Shared

from .parameters import positive, whole
from .reference import reference

HELD = 2**26
"""Bytes of perturbed images that are there at a time, which captum copies up to ten times; ours."""
_SEGMENTED = Shared(2**28)
"""The superpixels of images that were met before: re-explained for another network or class, or by
another of the explainers."""
COARSE = {"segments": 4, "baseline": "black"}
"""For a check: to hide much moves an untrained network by more than its logits are rounded."""


def held(x: Tensor) -> int:
    """How many perturbed images like those of x (n, C, H, W) are there at a time: 256 at most."""
    return max(1, min(256, HELD // x[0].nbytes))


@method("occlusion")
class Occlusion(Method):
    """Occlusion: how much the target's logit falls when a square is hidden.

    `window` is the square's side and `stride` the step from square to square, as shares of the
    image's shorter side, so that the cost is the same at any size; both defaults are ours. Each
    pixel gets the mean over the squares that hide it; one that reaches over the lower or right
    border is cut off there. The paper slides a grey square and reads the probability.
    """

    title = "Occlusion"
    family = "perturbation"
    paper = "Zeiler, Fergus 2014, arXiv:1311.2901; by captum's Occlusion"
    passes = "1 + ((1 − window) / stride + 1)² forward"
    version = "1"
    explain_params = {"window": 0.125, "stride": 0.0625, "baseline": "mean"}
    check_explain = {"window": 0.5, "stride": 0.5, "baseline": "black"}

    def explain(self, net: nn.Module, batch: Batch, target: Tensor) -> Tensor:
        """Falls of the logit (N, H, W), signed."""
        from captum.attr import Occlusion

        channels, *sides = batch.x.shape[1:]
        window, stride = (max(1, round(positive(self, name, 1) * min(sides)))
                          for name in ("window", "stride"))
        if stride > window:
            raise HeatproofError(
                f"{self.name}: a stride beyond the window leaves pixels out; set stride to at most "
                f"{self.explain_params['window']!r}, not {self.explain_params['stride']!r}")
        hidden, score = reference(self, batch.x), TargetScore(net)
        return torch.cat([
            Occlusion(score).attribute(
                batch.x[[i]], baselines=hidden[[i]], additional_forward_args=(target[[i]],),
                sliding_window_shapes=(channels, window, window), strides=(1, stride, stride),
                perturbations_per_eval=held(batch.x))[:, 0]
            for i in range(len(batch))])


class Superpixels(Method):
    """One value a superpixel, from images with some of them hidden.

    The superpixels are those of SLICO (SLIC, Achanta et al. 2012, that weighs colour against space
    by itself; by scikit-image) on the image as it was before normalisation; `segments` is about
    how many. That choice is ours, and the three explainers share it: plain SLIC made a single
    superpixel of a noisy image. What is not RGB goes by its mean channel as grey.
    """

    family = "perturbation"
    version = "1"

    def explain(self, net: nn.Module, batch: Batch, target: Tensor) -> Tensor:
        """The value of each pixel's superpixel (N, H, W), signed."""
        hidden, score, maps = reference(self, batch.x), TargetScore(net), []
        for i, seed in enumerate(batch.seed):
            segments = self._segments(batch.x[i])
            with seeded(int(seed)):
                found = self._attribute(
                    score, int(segments.max()) + 1, inputs=batch.x[[i]], baselines=hidden[[i]],
                    additional_forward_args=(target[[i]],), feature_mask=segments[None, None],
                    perturbations_per_eval=held(batch.x))
            maps.append(found[:, 0])
        return torch.cat(maps)

    @abstractmethod
    def _attribute(self, score: TargetScore, count: int, **given: Any) -> Tensor:
        """The attribution (1, C, H, W) by captum, for `count` superpixels."""

    def _segments(self, x: Tensor) -> Tensor:
        """The superpixel of each pixel of an image (C, H, W), numbered from 0: (H, W)."""
        pixels = x.cpu()
        key = (self.card.mean, self.card.std, whole(self, "segments"), tuple(x.shape),
               blake2b(pixels.numpy().tobytes()).digest())
        return _SEGMENTED.once(key, lambda: self._slico(pixels)).to(x.device)

    def _slico(self, x: Tensor) -> Tensor:
        from skimage.segmentation import slic

        mean, std = (torch.tensor(v, dtype=torch.float64)[:, None, None]
                     for v in (self.card.mean, self.card.std))
        image = x * std + mean
        if len(image) != 3:
            # As three equal channels, since SLIC weighs colours by how far apart they look.
            image = image.mean(0).expand(3, -1, -1)
        found = slic(image.permute(1, 2, 0).numpy(), n_segments=whole(self, "segments"),
                     slic_zero=True, start_label=0)
        return torch.from_numpy(found)


@method("superpixel-ablation")
class SuperpixelAblation(Superpixels):
    """How much the target's logit falls when one superpixel is hidden; `segments` is ours."""

    title = "Superpixel ablation"
    paper = ("superpixels: Achanta et al. 2012, doi:10.1109/TPAMI.2012.120; "
             "by captum's FeatureAblation")
    passes = "1 + segments forward"
    explain_params = {"segments": 50, "baseline": "mean"}
    check_explain = COARSE

    def _attribute(self, score: TargetScore, count: int, **given: Any) -> Tensor:
        from captum.attr import FeatureAblation

        return cast(Tensor, FeatureAblation(score).attribute(**given))


@method("lime")
class LIME(Superpixels):
    """LIME: the weights of a ridge regression of the target's logit on which superpixels are shown.

    Sampled and fitted by captum, with the settings of the authors' own explainer of images
    (github.com/marcotcr/lime): `samples` images, of which the first is the image itself, an
    exponential kernel of `kernel_width` on the cosine distance between what is shown and all, and
    a ridge of `alpha`. Captum's own defaults (25 samples, the distance of the normalised pixels, a
    lasso of 0.01) were not taken: that lasso sets to 0 whatever moves the logit by less than about
    0.04, so the map would depend on the scale of the logits. The authors explain the probability,
    hide a superpixel by its own mean colour and find it by quickshift; here the logit, `baseline`
    and SLICO. `segments` is ours.
    """

    title = "LIME"
    paper = "Ribeiro et al. 2016, arXiv:1602.04938; by captum's Lime"
    passes = "samples forward"
    explain_params = {"samples": 1000, "segments": 50, "kernel_width": 0.25, "alpha": 1.0,
                      "baseline": "mean"}
    check_explain = {**COARSE, "samples": 40}

    def _attribute(self, score: TargetScore, count: int, **given: Any) -> Tensor:
        from captum._utils.models.linear_model import SkLearnRidge
        from captum.attr import Lime

        width = positive(self, "kernel_width")

        def similarity(_x: Tensor, _perturbed: Tensor, shown: Tensor, **_given: object) -> float:
            distance = 1 - math.sqrt(float(shown.float().mean()))
            return math.exp(-(distance / width) ** 2 / 2)

        return cast(Tensor, Lime(
            score, SkLearnRidge(alpha=positive(self, "alpha")), similarity, _shown,
        ).attribute(**given, n_samples=whole(self, "samples", 2)))


def _shown(x: Tensor, *, num_interp_features: int, **_given: object) -> Iterator[Tensor]:
    """Which superpixels are shown (1, M): first all, then each with even odds."""
    yield torch.ones(1, num_interp_features, dtype=torch.int64, device=x.device)
    while True:
        yield torch.randint(2, (1, num_interp_features)).to(x.device)


@method("kernelshap")
class KernelSHAP(Superpixels):
    """Kernel SHAP: the superpixels' Shapley values of the target's logit, from sampled coalitions.

    `samples` of them, none and all among them; 0, the default, is the rule of the authors' own
    explainer (github.com/shap/shap): 2 · M + 2048 for M superpixels. Captum draws the size k of a
    coalition with a chance ∝ 1 / (k (M − k)) and then its members, so a draw is weighed by 1, and
    none and all by 10⁶; the authors' code takes whole sizes and pairs instead of draws where it
    can. A superpixel that is hidden is `baseline`, not an average over a background. `segments`
    is ours.
    """

    title = "Kernel SHAP"
    paper = "Lundberg, Lee 2017, arXiv:1705.07874; by captum's KernelShap"
    passes = "samples forward"
    explain_params = {"samples": 0, "segments": 50, "baseline": "mean"}
    check_explain = {**COARSE, "samples": 40}

    @classmethod
    def cost(cls, params: Mapping[str, Any]) -> str:
        """The samples, or the rule for them."""
        rule = f"2 · M + 2048 forward, M about {params['segments']}"
        return super().cost(params) if params["samples"] else rule

    def _attribute(self, score: TargetScore, count: int, **given: Any) -> Tensor:
        from captum.attr import FeatureAblation, KernelShap

        samples = whole(self, "samples", 0)
        if 0 < samples <= count:
            raise HeatproofError(
                f"{self.name}: {samples} samples do not determine the values of {count} "
                f"superpixels; set samples to more than {count}, or to 0 for 2 · {count} + 2048")
        if count == 1:
            # All that there is to share; captum has no chance to give to a coalition between.
            return cast(Tensor, FeatureAblation(score).attribute(**given))
        return cast(Tensor, KernelShap(score).attribute(
            **given, n_samples=samples or 2 * count + 2048))
