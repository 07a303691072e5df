"""Paper to draw on: one style, and a layout in inches that is worked out and not searched for.

matplotlib's own layouts draw a figure several times to learn how large its text is. Here text is
measured by itself, once, before anything is drawn.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import seaborn as sns
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.textpath import text_to_path
from matplotlib.ticker import MaxNLocator

_SAFE = sns.color_palette("colorblind").as_hex()
PALETTE = tuple(_SAFE[i] for i in (0, 3, 2, 4, 1, 9, 5))
"""seaborn's colours that the colour-blind tell apart, without the pale and the grey, which paper
and controls need."""

MARKERS = "osD^vPX"
GREY, SOFT, EDGE, GRID = "0.42", "0.25", "0.75", "0.92"
"""Of controls, of words at an axis, of the axis, and of the lines across a panel."""

KINDS: dict[str, dict[str, Any]] = {
    "contestant": {"color": PALETTE[0], "marker": "o"},
    "control": {"color": GREY, "marker": "s"},
    "ceiling": {"color": PALETTE[1], "marker": "D"},
}
"""Colour and shape both say what a row is, so that neither is needed."""

GLYPHS = {"o": "●", "s": "■", "D": "◆"}

MARGIN = 0.14
"""Inches of white around a sheet."""

LINE = 1.22
"""The height of a line of text, in sizes of its letters."""

_LONGEST = 400
_FONT = ["DejaVu Sans", "Verdana"]

_SETTINGS: dict[Any, Any] = {
    # A fixed salt gives the same ids, and so the same bytes, at every publication.
    "svg.hashsalt": "heatproof",
    # Text stays text: small, quick, searchable, and in the reader's letters where DejaVu has none.
    # Where it is not installed, Verdana is as wide, and all others are narrower than was measured.
    "svg.fonttype": "none", "font.family": "sans-serif", "font.sans-serif": _FONT,
    "font.size": 8, "hatch.linewidth": 0.5,
    # Hinted letters are wider than those that are measured, and than those of a browser.
    "text.hinting": "none", "text.parse_math": False}


Point = tuple[float, float]


@dataclass(frozen=True)
class Plot:
    """A figure that is still to be drawn, and what the page says of it.

    track: its slug, empty for what belongs to none. file: without a suffix. cost: how long it
    takes, in panels or so.
    """

    track: str
    title: str
    what: str
    file: str
    datasets: list[str]
    draw: Callable[[], Figure]
    cost: float

    def facts(self) -> dict[str, Any]:
        """What the page says of it."""
        return {"track": self.track, "title": self.title, "what": self.what, "file": self.file,
                "datasets": self.datasets}


@contextmanager
def style() -> Iterator[None]:
    """Within, figures look alike, and text in foreign letters is drawn without a complaint."""
    with mpl.rc_context(_SETTINGS), warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph .* missing from", UserWarning)
        yield


def save(figure: Figure, path: Path) -> None:
    """Writes path.svg and path.png (160 dots an inch), the same bytes for the same figure."""
    figure.savefig(path.with_name(f"{path.name}.svg"), metadata={"Date": None, "Creator": None})
    figure.savefig(path.with_name(f"{path.name}.png"), dpi=160, metadata={"Software": None})


class Sheet:
    """A figure whose places are inches from its upper left corner; y runs down.

    What is drawn alike is gathered and becomes one artist: matplotlib takes as long for a line as
    for a thousand, and much longer for axes with their ticks, so that there are none.
    """

    def __init__(self, width: float, height: float) -> None:
        self.width, self.height = width, height
        self._figure = Figure(figsize=(width, height))
        self._page = self._figure.add_axes((0, 0, 1, 1))
        self._page.set_axis_off()
        self._page.set(xlim=(0, width), ylim=(height, 0), autoscale_on=False)
        self._strokes: dict[tuple[tuple[str, Any], ...], list[Any]] = {}
        self._areas: dict[tuple[tuple[str, Any], ...], list[Any]] = {}
        self._marks: dict[tuple[tuple[str, Any], ...], list[Point]] = {}

    def line(self, points: Iterable[Point], **style: Any) -> None:
        """A line through points, which ends and begins again where one is not finite."""
        piece: list[Point] = []
        for point in (*points, (math.nan, math.nan)):
            if math.isfinite(point[0] + point[1]):
                piece.append(point)
                continue
            if len(piece) > 1:
                self._strokes.setdefault(tuple(style.items()), []).append(piece)
            piece = []

    def area(self, corners: Sequence[Point], **style: Any) -> None:
        """A filled polygon."""
        self._areas.setdefault(tuple(style.items()), []).append(corners)

    def box(self, left: float, top: float, width: float, height: float, **style: Any) -> None:
        """A filled rectangle."""
        self.area([(left, top), (left + width, top), (left + width, top + height),
                   (left, top + height)], **style)

    def mark(self, points: Iterable[Point], **style: Any) -> None:
        """A sign at each point."""
        self._marks.setdefault(tuple(style.items()), []).extend(points)

    def say(self, x: float, y: float, text: str, **style: Any) -> None:
        """Text that begins at a place, and is centred on it from top to bottom."""
        self._page.text(x, y, text, clip_on=False, **{"va": "center", "linespacing": 1.1, **style})

    def picture(
        self, pixels: np.ndarray[Any, np.dtype[np.uint8]], left: float, top: float, width: float,
        height: float,
    ) -> None:
        """Pixels (H, W, 3) as they are: none is smoothed."""
        self._page.imshow(pixels, extent=(left, left + width, top + height, top), aspect="auto",
                          interpolation="none")

    def rule(
        self, scale: Scale, marks: Mapping[float, str], *, start: float, end: float, title: str,
    ) -> None:
        """An axis below a panel that reaches from start down to end, with a grid and a title."""
        for at, label in marks.items():
            x = scale(at)
            self.line([(x, start), (x, end)], color=GRID, linewidth=0.7, zorder=0.5)
            self.line([(x, end), (x, end + 0.035)], color=EDGE, linewidth=0.8, zorder=1)
            self.say(x, end + 0.05, label, ha="center", va="top", size=7.5, color=SOFT)
        self.line([(scale.start, end), (scale.end, end)], color=EDGE, linewidth=0.8, zorder=1)
        self.say((scale.start + scale.end) / 2, end + 0.2, title, ha="center", va="top",
                 color=SOFT)

    def rise(self, scale: Scale, marks: Mapping[float, str], *, start: float, end: float) -> None:
        """An axis to the left of a panel that reaches from start to end, with a grid."""
        for at, label in marks.items():
            y = scale(at)
            self.line([(start, y), (end, y)], color=GRID, linewidth=0.7, zorder=0.5)
            self.line([(start - 0.035, y), (start, y)], color=EDGE, linewidth=0.8, zorder=1)
            self.say(start - 0.06, y, label, ha="right", size=7.5, color=SOFT)
        self.line([(start, scale.start), (start, scale.end)], color=EDGE, linewidth=0.8, zorder=1)

    def key(self, x: float, y: float, entries: Sequence[tuple[str, str, str]]) -> None:
        """A legend in a line: a sign, its colour, and what it stands for."""
        for sign, colour, words in entries:
            self.say(x, y, sign, color=colour, size=8)
            x += measured(sign, 8) + 0.05
            self.say(x, y, words, color="0.35", size=7.5)
            x += measured(words, 7.5) + 0.18

    def figure(self) -> Figure:
        """All that was drawn."""
        for style, areas in self._areas.items():
            self._page.add_collection(PolyCollection(
                areas, **{"linewidth": 0, "clip_on": False, **dict(style)}), autolim=False)
        for style, strokes in self._strokes.items():
            self._page.add_collection(LineCollection(
                strokes, clip_on=False, **dict(style)), autolim=False)
        for style, points in self._marks.items():
            self._page.add_line(Line2D(*zip(*points, strict=True), **{
                "linestyle": "none", "clip_on": False, "zorder": 3, **dict(style)}))
        return self._figure


@dataclass(frozen=True)
class Scale:
    """From values to inches: low stands at start and high at end."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Where a value stands."""
        return self.start + (self.end - self.start) * (value - self.low) / (self.high - self.low)


@cache
def measured(text: str, size: float, *, bold: bool = False) -> float:
    """The width of one line of text, in inches."""
    font = FontProperties(family=_FONT[:1], size=size, weight="bold" if bold else "normal")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return float(text_to_path.get_text_width_height_descent(text, font, ismath=False)[0]) / 72


def widest(text: str, size: float, *, bold: bool = False) -> float:
    """The width of the longest line of a text, in inches."""
    return max(measured(line, size, bold=bold) for line in text.split("\n"))


def tall(text: str, size: float) -> float:
    """The height of a text of some lines, in inches."""
    return (text.count("\n") + 1) * size * LINE / 72


def plain(text: object) -> str:
    """A name as one line that can be drawn: without line breaks and signs that have no shape."""
    shown = "".join(sign if sign.isprintable() else " " for sign in str(text))
    return " ".join(shown.split())


@cache
def wrapped(text: str, inches: float, size: float, *, bold: bool = False, most: int = 3) -> str:
    """Text in lines of at most that width: broken between words, and where a name has a joint.

    What does not fit into `most` lines ends in an ellipsis.
    """
    shown = plain(text)
    shown = shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]}…"
    lines = [""]
    for piece in re.findall(r"[^\s\-@/_]*[\s\-@/_]?", shown):
        if measured(lines[-1] + piece.rstrip(), size, bold=bold) <= inches:
            lines[-1] += piece
            continue
        lines.append("")
        for sign in piece:
            if lines[-1] and measured(lines[-1] + sign, size, bold=bold) > inches:
                lines.append("")
            lines[-1] += sign
    lines = [line.rstrip() for line in lines if line.strip()] or [""]
    if len(lines) <= most:
        return "\n".join(lines)
    last = lines[most - 1]
    while last and measured(f"{last}…", size, bold=bold) > inches:
        last = last[:-1]
    return "\n".join([*lines[:most - 1], f"{last}…"])


def number(value: float) -> str:
    """A number as it stands at an axis or in a cell: short, with a true minus."""
    return f"{value:.6g}".replace("-", "−")


def span(values: Sequence[float], room: float = 0.06) -> tuple[float, float]:
    """The ends of an axis that shows all finite values, with some room at both."""
    finite = np.asarray(values, float)
    finite = finite[np.isfinite(finite)]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    spare = (high - low) * room or abs(high) * 0.1 or 0.5
    return low - spare, high + spare


def ticks(low: float, high: float, most: int) -> Mapping[float, str]:
    """Round numbers between two ends, and how they are written."""
    found = MaxNLocator(nbins=most, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    return {float(at): number(round(float(at), 12) + 0.0) for at in found if low <= at <= high}


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Places in ascending order near the wanted ones, `gap` apart, between two ends if they fit.

    The least squares answer: what stands too close shares its mean (pool adjacent violators).
    """
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    blocks: list[tuple[float, int]] = []
    for place, i in enumerate(order):
        mean, count = wanted[i] - place * gap, 1
        while blocks and blocks[-1][0] > mean:
            before, n = blocks.pop()
            mean, count = (before * n + mean * count) / (n + count), n + count
        blocks.append((mean, count))
    flat = [mean for mean, count in blocks for _ in range(count)]
    top = max(high - (len(wanted) - 1) * gap, low)
    found = [0.0] * len(wanted)
    for place, i in enumerate(order):
        found[i] = min(max(flat[place], low), top) + place * gap
    return found


def ink(colour: tuple[float, ...]) -> str:
    """Black or white, whichever can be read on a colour."""
    red, green, blue = colour[:3]
    return "white" if 0.299 * red + 0.587 * green + 0.114 * blue < 0.55 else "0.1"
