"""Drawn images in which we know what decides the class: `phantom`, brain-like slices.

Only +, -, ×, ÷ and square roots of 64-bit floats are used, each rounded once by IEEE 754, and the
random numbers are raw PCG64 words: the same bytes come out on every machine.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bench.core import Card, HeatproofError, number_from
from bench.data.images import Images
from bench.plugins import source

Array = np.ndarray[Any, np.dtype[np.float64]]
LESIONS = ("solid", "ring", "multifocal")


class Draws:
    """Random numbers from raw PCG64 words, whose stream numpy never changes."""

    def __init__(self, *parts: object) -> None:
        self.bits = np.random.PCG64(number_from(*parts))

    def uniform(self, low: float, high: float) -> float:
        """One number in [low, high)."""
        return float(low + (high - low) * self.field(1)[0])

    def field(self, n: int) -> Array:
        """N numbers in [0, 1)."""
        words: Any = self.bits.random_raw(n)
        return np.asarray((words >> np.uint64(11)) / 2.0**53, np.float64)

    def below(self, n: int) -> int:
        """One whole number in [0, n)."""
        return int(self.field(1)[0] * n)


def _step(distance: Array, width: float) -> Array:
    """1 where distance is below 0, falling smoothly to 0 at `width`."""
    t = np.clip(1.0 - distance / width, 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def _smooth(draws: Draws, cells: int, size: int) -> Array:
    """A smooth random field (size, size) in [0, 1], of about `cells` bumps a side."""
    grid = draws.field((cells + 1) * (cells + 1)).reshape(cells + 1, cells + 1)
    at = (np.arange(size) + 0.5) * cells / size
    low = np.minimum(at.astype(np.int64), cells - 1)
    w = at - low
    w = w * w * (3.0 - 2.0 * w)
    rows = grid[low] * (1.0 - w)[:, None] + grid[low + 1] * w[:, None]
    return np.asarray(rows[:, low] * (1.0 - w) + rows[:, low + 1] * w)


def _disc(x: Array, y: Array, at: tuple[float, float], radius: float) -> Array:
    return np.sqrt((x - at[0]) ** 2 + (y - at[1]) ** 2) - radius


def _streak(x: Array, y: Array, start: tuple[float, float], end: tuple[float, float]) -> Array:
    """The distance of each pixel from a line between two points."""
    dx, dy = end[0] - start[0], end[1] - start[1]
    t = np.clip(((x - start[0]) * dx + (y - start[1]) * dy) / (dx * dx + dy * dy), 0.0, 1.0)
    return np.sqrt((x - start[0] - t * dx) ** 2 + (y - start[1] - t * dy) ** 2)


def draw(name: str, lesion: str | None, size: int) -> tuple[Array, Array]:
    """One slice (size, size) in [0, 1] and its mask, the pixels that the lesion changed.

    `name` seeds the anatomy, the distractors and the noise; the lesion is drawn over them and
    changes nothing else, so `draw(name, None, size)` is the same slice without it.
    """
    draws = Draws("phantom", name)
    pixel = 2.0 / size
    line = (np.arange(size) + 0.5) * pixel - 1.0
    t = draws.uniform(-0.12, 0.12)  # the tangent of half the head's tilt: no sine is needed
    cos, sin = (1 - t * t) / (1 + t * t), 2 * t / (1 + t * t)
    dx, dy = draws.uniform(-0.06, 0.06), draws.uniform(-0.05, 0.05)
    x = (line[None, :] - dx) * cos + (line[:, None] - dy) * sin
    y = (line[:, None] - dy) * cos - (line[None, :] - dx) * sin

    a, b = draws.uniform(0.68, 0.80), draws.uniform(0.80, 0.92)
    skull = draws.uniform(0.88, 0.92)
    radius = np.sqrt((x / a) ** 2 + (y / b) ** 2)
    head = _step(radius - 1.0, 0.04)
    brain = _step(radius - skull, 0.04)
    folds = _smooth(draws, 9, size)
    white = _step(radius + 0.45 * (folds - 0.5) - draws.uniform(0.55, 0.68), 0.10)
    grey, bright = draws.uniform(0.34, 0.42), draws.uniform(0.10, 0.16)
    image = draws.uniform(0.55, 0.75) * head * (1.0 - brain) + brain * (grey + bright * white)

    width, height = draws.uniform(0.05, 0.11), draws.uniform(0.16, 0.30)
    tilt = draws.uniform(0.1, 0.4)
    for side in (-1.0, 1.0):  # the two lateral ventricles
        u = x * side - 0.10 - tilt * 0.5 * np.abs(y)
        horn = np.sqrt((u / width) ** 2 + ((y + 0.05) / height) ** 2)
        image = image * (1.0 - 0.7 * _step(horn - 1.0, 0.3))
    image = image * (1.0 - 0.35 * brain * _step(np.abs(x) - 0.008, 0.03))  # the midline

    # Distractors lie in every class alike: dark cysts and bright vessels.
    spot = draws.uniform(0.15, 0.24)
    place = _place(draws, a, b, 0.60)
    taken = [(place, spot + 0.10)]
    for _ in range(draws.below(3)):
        at, r = _place(draws, a, b, 0.75), draws.uniform(0.06, 0.11)
        if all((at[0] - c[0]) ** 2 + (at[1] - c[1]) ** 2 > (r + q) ** 2 for c, q in taken):
            image = image * (1.0 - 0.6 * _step(_disc(x, y, at, r), pixel))
            taken.append((at, r))
    for _ in range(1 + draws.below(3)):
        start, end = _place(draws, a, b, 0.8), _place(draws, a, b, 0.8)
        apart = float(_streak(np.array(place[0]), np.array(place[1]), start, end))
        if apart > spot + 0.10:
            image = image + 0.30 * _step(_streak(x, y, start, end) - 0.015, 0.6 * pixel)

    # The noise is drawn before the lesion, so that the lesion does not move it.
    grain = draws.uniform(0.015, 0.035)
    noise = draws.field(4 * size * size).reshape(4, size, size)
    noise = (noise[0] + noise[1] + noise[2] + noise[3] - 2.0) * 1.7320508075688772 * grain
    shading = 1.0 + draws.uniform(-0.15, 0.15) * x + draws.uniform(-0.15, 0.15) * y
    gain = draws.uniform(0.85, 1.1)

    change = np.zeros_like(image)
    if lesion is not None:
        edge = 1.0 * pixel
        strength = draws.uniform(0.30, 0.42)
        wobble = 0.25 * spot * (_smooth(draws, 8, size) - 0.5)
        if lesion == "solid":
            change = strength * _step(_disc(x, y, place, spot) + wobble, edge)
        elif lesion == "ring":
            outer = _step(_disc(x, y, place, spot) + wobble, edge)
            core = _step(_disc(x, y, place, spot * draws.uniform(0.50, 0.60)) + wobble, edge)
            change = strength * outer - (strength + 0.16) * core
        elif lesion == "multifocal":
            near = spot * 0.66
            p, q = draws.uniform(-1, 1), draws.uniform(-1, 1)
            length = float(np.sqrt(np.float64(p * p + q * q + 0.01)))
            p, q = p / length, q / length
            turn = 0.8660254037844386  # the sine of 120 degrees: three foci, evenly around
            foci = ((p, q), (-0.5 * p - turn * q, turn * p - 0.5 * q),
                    (-0.5 * p + turn * q, -turn * p - 0.5 * q))
            for across, down in foci:
                at = (place[0] + near * across, place[1] + near * down)
                focus = _step(_disc(x, y, at, spot * draws.uniform(0.24, 0.32)), edge)
                change = np.maximum(change, strength * focus)
        else:
            raise HeatproofError(f"lesion {lesion!r} is none of {', '.join(LESIONS)}")
    return np.clip((image + change) * shading * gain + noise, 0.0, 1.0), change


def _place(draws: Draws, a: float, b: float, reach: float) -> tuple[float, float]:
    """A point inside the brain, within `reach` of its half axes."""
    while True:
        u, v = draws.uniform(-1, 1), draws.uniform(-1, 1)
        if u * u + v * v < 1.0:
            return u * a * reach, v * b * reach


@source("phantom", version="1")
def read(card: Card, split: str) -> Images:
    """Slices whose class is the kind of their lesion; a split is [first number, how many]."""
    if card.classes != LESIONS or card.image[0] != 1 or card.image[1] != card.image[2]:
        raise HeatproofError(f"card {card.name}: phantom needs classes {LESIONS}, image [1, n, n]")
    first, n = card.splits[split]
    size = card.image[1]
    seed = card.options.get("seed", 0)
    x = np.empty((n, 1, size, size), np.uint8)
    mask = np.empty((n, size, size), np.uint8)
    y = np.arange(first, first + n) % len(LESIONS)
    keys = tuple(f"{number:06d}" for number in range(first, first + n))
    for row, (key, label) in enumerate(zip(keys, y, strict=True)):
        image, change = draw(f"{seed}/{key}", LESIONS[label], size)
        x[row, 0] = (image * 255.0 + 0.5).astype(np.uint8)
        mask[row] = change != 0.0
    return Images(x=x, y=y.astype(np.int64), key=keys, mask=mask)
