"""What stands for the absence of everything: one image, or many training images."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from bench import Batch, HeatproofError, Method

from .parameters import whole


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


class Background(Method):
    """A method that compares an image with training images.

    The first `background` of the training images are kept; 100 are what SHAP's examples take. In a
    run the classes take turns in their order, so each has its share.
    """

    explain_params = {"background": 100}

    _kept: Tensor | None = None

    @property
    def background(self) -> Tensor:
        """The kept images (B, C, H, W). Raises HeatproofError before `study`."""
        if self._kept is None:
            raise HeatproofError(
                f"{self.name} compares with training images; call study(batches) before explain()")
        return self._kept

    def study(self, batches: Iterable[Batch]) -> None:
        """Keeps the first images, and reads no batch after them.

        Raises HeatproofError for a `background` below 1 and where there is no image.
        """
        most, kept = whole(self, "background"), list[Tensor]()
        for batch in batches:
            kept.append(batch.x[:most - sum(map(len, kept))])
            if sum(map(len, kept)) == most:
                break
        if not sum(map(len, kept)):
            raise HeatproofError(f"{self.name}: there is no training image to compare with")
        self._kept = torch.cat(kept)
