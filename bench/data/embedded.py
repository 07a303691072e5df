"""Real images that come inside an installed library: no file, no network."""

from __future__ import annotations

import numpy as np

from bench.core import Card, HeatproofError
from bench.data.catalogue import Catalogue
from bench.data.images import Array
from bench.plugins import source


@source("sklearn-digits", version="2")
def read(card: Card) -> Catalogue:
    """scikit-learn's 1,797 handwritten digits (UCI, 8×8, 16 grey levels), enlarged bilinearly.

    The mask is the pen stroke: where the enlarged ink reaches the card's `stroke` of full ink.
    A split is a share of the images, by the hash of their number in the original set: "0.0-0.8".
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    try:
        stroke = float(card.options["stroke"])
    except (ValueError, KeyError) as error:
        raise HeatproofError(f"card {card.name}: needs options.stroke ({error})") from None

    def ink(row: int) -> Array:
        return enlarged(digits.images[row:row + 1].astype(np.int64), card.image[1])

    return Catalogue(
        key=tuple(f"{number:04d}" for number in range(len(digits.target))),
        label=tuple(digits.target.tolist()),
        image=lambda row: np.minimum(ink(row) * 255 // 16, 255).astype(np.uint8),
        mask=lambda row: (ink(row)[0] >= stroke * 16).astype(np.uint8))


def enlarged(small: Array, size: int) -> Array:
    """(N, n, n) integers as (N, size, size) float64, bilinear with half-pixel centres.

    Weights are fractions of a power of two where size / n is one, hence exact on any machine.
    """
    n = small.shape[-1]
    at = np.clip((np.arange(size) + 0.5) * n / size - 0.5, 0, n - 1)
    low = np.minimum(at.astype(np.int64), n - 2)
    weight = at - low
    rows = small[:, low] * (1 - weight)[:, None] + small[:, low + 1] * weight[:, None]
    return np.asarray(rows[:, :, low] * (1 - weight) + rows[:, :, low + 1] * weight)
