"""Drawn brain-like slices, in which nothing decides a class until something is planted.

Only +, -, ×, ÷ and square roots of 64-bit floats are used, each rounded once by IEEE 754, and the
random numbers are raw PCG64 words: the same bytes come out on every machine.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np

from bench.core import number_from

Array = np.ndarray[Any, np.dtype[np.float64]]
Point = tuple[float, float]


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

    def again(self) -> Draws:
        """The same numbers from here on, as often as they are asked for."""
        return deepcopy(self)


def step(distance: Array, width: float) -> Array:
    """1 where distance is below 0, falling smoothly to 0 at `width`."""
    t = np.clip(1.0 - distance / width, 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def smooth(draws: Draws, cells: int, size: int) -> Array:
    """A smooth random field (size, size) in [0, 1], of about `cells` bumps a side."""
    grid = draws.field((cells + 1) * (cells + 1)).reshape(cells + 1, cells + 1)
    at = (np.arange(size) + 0.5) * cells / size
    low = np.minimum(at.astype(np.int64), cells - 1)
    w = at - low
    w = w * w * (3.0 - 2.0 * w)
    rows = grid[low] * (1.0 - w)[:, None] + grid[low + 1] * w[:, None]
    return np.asarray(rows[:, low] * (1.0 - w) + rows[:, low + 1] * w)


def disc(x: Array, y: Array, at: Point, radius: float) -> Array:
    """How far each pixel lies outside a disc; below 0 inside."""
    return np.sqrt((x - at[0]) ** 2 + (y - at[1]) ** 2) - radius


def streak(x: Array, y: Array, start: Point, end: Point) -> Array:
    """The distance of each pixel from a line between two points."""
    dx, dy = end[0] - start[0], end[1] - start[1]
    t = np.clip(((x - start[0]) * dx + (y - start[1]) * dy) / (dx * dx + dy * dy), 0.0, 1.0)
    return np.sqrt((x - start[0] - t * dx) ** 2 + (y - start[1] - t * dy) ** 2)


class Slice:
    """One slice (size, size): its head, its cysts and vessels, and how it was taken.

    across, down: the page from -1 to 1; x, y: the same, moved and turned with the head. tissue:
    what is seen before anything is planted. place, spot: the middle and the radius, in x and y,
    of the room for a lesion, which cysts and vessels leave free. draws: what comes after, for
    what is planted.
    """

    def __init__(self, draws: Draws, size: int) -> None:
        self.size, self.pixel, self.draws = size, 2.0 / size, draws
        line = (np.arange(size) + 0.5) * self.pixel - 1.0
        self.across, self.down = np.meshgrid(line, line)
        t = draws.uniform(-0.12, 0.12)  # the tangent of half the head's tilt: no sine is needed
        cos, sin = (1 - t * t) / (1 + t * t), 2 * t / (1 + t * t)
        dx, dy = draws.uniform(-0.06, 0.06), draws.uniform(-0.05, 0.05)
        self.x = (self.across - dx) * cos + (self.down - dy) * sin
        self.y = (self.down - dy) * cos - (self.across - dx) * sin
        self.axes = draws.uniform(0.68, 0.80), draws.uniform(0.80, 0.92)
        self._bare = self._head(draws)
        self.spot = draws.uniform(0.15, 0.24)
        self.place = self._point(draws, 0.60)
        self.tissue = self._with_others(draws)
        # The noise is drawn before what is planted, which therefore does not move it.
        grain = draws.uniform(0.015, 0.035)
        noise = draws.field(4 * size * size).reshape(4, size, size)
        self._noise = (
            noise[0] + noise[1] + noise[2] + noise[3] - 2.0) * 1.7320508075688772 * grain
        self._shading = (1.0 + draws.uniform(-0.15, 0.15) * self.x
                         + draws.uniform(-0.15, 0.15) * self.y)
        self._gain = draws.uniform(0.85, 1.1)

    def taken(self, tissue: Array) -> Array:
        """What the camera makes of it, in [0, 1]; each pixel by itself."""
        return np.asarray(np.clip(tissue * self._shading * self._gain + self._noise, 0.0, 1.0))

    def elsewhere(self, draws: Draws, share: float) -> Array:
        """The tissue with other cysts and vessels, so different that a share of it changes."""
        while True:
            tissue = self._with_others(draws)
            if np.count_nonzero(np.abs(tissue - self.tissue) > 0.1) >= share * tissue.size:
                return tissue

    def _head(self, draws: Draws) -> Array:
        x, y, (a, b) = self.x, self.y, self.axes
        skull = draws.uniform(0.88, 0.92)
        radius = np.sqrt((x / a) ** 2 + (y / b) ** 2)
        head = step(radius - 1.0, 0.04)
        brain = step(radius - skull, 0.04)
        folds = smooth(draws, 9, self.size)
        white = step(radius + 0.45 * (folds - 0.5) - draws.uniform(0.55, 0.68), 0.10)
        grey, bright = draws.uniform(0.34, 0.42), draws.uniform(0.10, 0.16)
        image = draws.uniform(0.55, 0.75) * head * (1.0 - brain) + brain * (grey + bright * white)

        width, height = draws.uniform(0.05, 0.11), draws.uniform(0.16, 0.30)
        tilt = draws.uniform(0.1, 0.4)
        for side in (-1.0, 1.0):  # the two lateral ventricles
            u = x * side - 0.10 - tilt * 0.5 * np.abs(y)
            horn = np.sqrt((u / width) ** 2 + ((y + 0.05) / height) ** 2)
            image = image * (1.0 - 0.7 * step(horn - 1.0, 0.3))
        return image * (1.0 - 0.35 * brain * step(np.abs(x) - 0.008, 0.03))  # the midline

    def _with_others(self, draws: Draws) -> Array:
        """The head with dark cysts and bright vessels, which lie in every class alike."""
        x, y, image, place = self.x, self.y, self._bare, self.place
        room = self.spot + 0.10
        taken = [(place, room)]
        for _ in range(draws.below(3)):
            at, r = self._point(draws, 0.75), draws.uniform(0.06, 0.11)
            if all((at[0] - c[0]) ** 2 + (at[1] - c[1]) ** 2 > (r + q) ** 2 for c, q in taken):
                image = image * (1.0 - 0.6 * step(disc(x, y, at, r), self.pixel))
                taken.append((at, r))
        for _ in range(1 + draws.below(3)):
            start, end = self._point(draws, 0.8), self._point(draws, 0.8)
            apart = float(streak(np.array(place[0]), np.array(place[1]), start, end))
            if apart > room:
                image = image + 0.30 * step(streak(x, y, start, end) - 0.015, 0.6 * self.pixel)
        return image

    def _point(self, draws: Draws, reach: float) -> Point:
        """A point inside the brain, within `reach` of its half axes."""
        a, b = self.axes
        while True:
            u, v = draws.uniform(-1, 1), draws.uniform(-1, 1)
            if u * u + v * v < 1.0:
                return u * a * reach, v * b * reach
