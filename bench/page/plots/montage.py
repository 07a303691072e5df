"""Galleries as one figure a data set: each image beside the maps of all contestants."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from bench.page.gallery import Gallery
from bench.page.plots.sheet import MARGIN, SOFT, Plot, Sheet, tall, widest, wrapped
from bench.page.tables import slug

ACROSS, DOWN = 8, 4
"""Maps side by side, of more the rest stand below; and images."""

_CELL, _GAP, _ROW = 0.82, 0.04, 0.7

Pixels = np.ndarray[Any, np.dtype[np.uint8]]


def planned(
    galleries: Mapping[str, Gallery], cards: Mapping[str, dict[str, Any]], root: Path,
) -> Iterator[Plot]:
    """A plot a data set that has a gallery; root: the folder to which its pictures are relative."""
    for dataset, gallery in galleries.items():
        yield Plot(
            "", f"Maps on {dataset}", "gallery", f"gallery-{slug(dataset)}", [dataset],
            partial(draw, gallery, cards.get(dataset, {}), root),
            cost=1 + len(gallery.columns) / 8)


def draw(gallery: Gallery, card: Mapping[str, Any], root: Path) -> Figure:
    """Images down, contestants across; a map is shown on its own grid and its own scale."""
    rows = gallery.rows[:DOWN]
    lines = math.ceil(len(gallery.columns) / ACROSS)
    # Balanced, so that no contestant stands alone in the last line.
    across = math.ceil(len(gallery.columns) / lines)
    strips = [gallery.columns[i:i + across] for i in range(0, len(gallery.columns), across)]
    labels = [wrapped(row["label"], _ROW - 0.06, 7, most=3) for row in rows]
    gutter = max(widest(label, 7) for label in labels) + 0.07
    width = 2 * MARGIN + gutter + (across + 1) * (_CELL + _GAP)
    heads = [[wrapped(name, _CELL, 7, most=3) for name in ("image", *strip)] for strip in strips]
    picture = Image.open(root / rows[0]["image"]).size
    high = _CELL * picture[1] / picture[0]
    note = wrapped(_attribution(gallery, card), width - 2 * MARGIN, 7, most=5)
    title = wrapped(gallery.dataset, width - 2 * MARGIN, 10, bold=True, most=1)
    tops = [max(tall(head, 7) for head in strip) + 0.08 for strip in heads]
    sheet = Sheet(width, MARGIN + 0.24 + sum(
        top + len(rows) * (high + _GAP) + 0.1 for top in tops) + tall(note, 7) + MARGIN)
    sheet.say(MARGIN, MARGIN + 0.08, title, size=10, weight="bold", color="0.1")
    y = MARGIN + 0.24
    for strip, head, top in zip(strips, heads, tops, strict=True):
        y += top
        for i, text in enumerate(head):
            sheet.say(MARGIN + gutter + i * (_CELL + _GAP) + _CELL / 2, y - 0.05, text, size=7,
                      ha="center", va="bottom", color="0.1")
        for label, row in zip(labels, rows, strict=True):
            sheet.say(MARGIN + gutter - 0.06, y + high / 2, label, size=7, ha="right", color=SOFT)
            for i, file in enumerate([row["image"], *(
                    (row["cells"].get(name) or {}).get("map") for name in strip)]):
                x = MARGIN + gutter + i * (_CELL + _GAP)
                if file:
                    sheet.picture(_read(root / file), x, y, _CELL, high)
                else:
                    sheet.say(x + _CELL / 2, y + high / 2, "–", ha="center", color=SOFT)
            y += high + _GAP
        y += 0.1
    sheet.say(MARGIN, sheet.height - MARGIN, note, size=7, va="bottom", color=SOFT)
    return sheet.figure()


def _attribution(gallery: Gallery, card: Mapping[str, Any]) -> str:
    """What the maps are, and whose the images are."""
    outlined = "; the line is the mask" if gallery.outlined else ""
    source = ". ".join(str(part).rstrip(".") for part in (
        card.get("title"), card.get("citation"), f"Licence: {card['licence']}"
        if card.get("licence") else "") if part)
    return (f"Seed {gallery.seed}; each map has its own scale, signed maps from blue over white "
            f"(0) to red, others from dark (0) to bright{outlined}. Images: {source or '–'}.")


def _read(path: Path) -> Pixels:
    return np.asarray(Image.open(path).convert("RGB"))
