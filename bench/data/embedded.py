"""Real images that come inside an installed library: no file, no network."""

from __future__ import annotations

import numpy as np

from bench.core import Card, HeatproofError, number_from
from bench.data.images import Array, Images
from bench.plugins import source


@source("sklearn-digits")
def read(card: Card, split: str) -> Images:
    """scikit-learn's 1,797 handwritten digits (UCI, 8×8, 16 grey levels), enlarged bilinearly.

    The mask is the pen stroke: where the enlarged ink reaches the card's `stroke` of full ink.
    A split is a share of the images, by the hash of their number in the original set: "0.0-0.8".
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    try:
        low, high = (float(part) for part in str(card.splits[split]).split("-"))
        stroke = float(card.options["stroke"])
    except (ValueError, KeyError) as error:
        raise HeatproofError(
            f"card {card.name}: needs splits like \"0.0-0.8\" and options.stroke ({error})"
        ) from None
    keys = [f"{number:04d}" for number in range(len(digits.target))]
    share = np.array([number_from("sklearn-digits", key) / 2**63 for key in keys])
    rows = np.flatnonzero((low <= share) & (share < high))
    ink = enlarged(digits.images[rows].astype(np.int64), card.image[1])
    return Images(
        x=np.minimum(ink * 255 // 16, 255).astype(np.uint8)[:, None],
        y=digits.target[rows].astype(np.int64),
        key=tuple(keys[row] for row in rows),
        mask=(ink >= stroke * 16).astype(np.uint8))


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
