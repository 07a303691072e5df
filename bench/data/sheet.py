"""A contact sheet: samples of every class, with masks or boxes drawn in, as one PNG."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from bench import data
from bench.core import Card, HeatproofError
from bench.data.catalogue import Catalogue, parted
from bench.data.decoded import Progress, decode, silent
from bench.data.images import Array, Images
from bench.store import told

CLASSES = 20
"""Rows at most; of more classes, the first are shown."""
SIDES = 128, 160
"""The longer side of a picture: small images are enlarged by a whole number to at least the first,
large ones are reduced to the second."""
COLOURS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178),
           (213, 94, 0), (204, 121, 167))
"""Of the parts of a mask, in turn: the colours of Okabe and Ito, told apart by the colour-blind."""
IGNORED = (150, 150, 150)
TINT = 0.22
_MARGIN, _GAP, _BLOCK, _LABEL = 28, 6, 18, 180
_INK, _GREY = (25, 25, 25), (105, 105, 105)


@dataclass(frozen=True)
class Sheet:
    """What was written: where, and of how many classes; `left` are not on it."""

    path: Path
    classes: int
    left: int


def write(
    card: Card, path: Path, *, fold: int = 0, samples: int = 6, progress: Progress = silent,
) -> Sheet:
    """Draws the first test images of every class, in the order in which suites take them.

    Only these are decoded, at the card's size. Raises HeatproofError for a missing or damaged
    file, and a path that cannot be written.
    """
    if samples < 1:
        raise HeatproofError(f"--samples must be at least 1, not {samples}")
    part = card.fold(fold)
    catalogue = data.catalogue(part)
    rows = parted(part, catalogue)["test"]
    chosen = _chosen(part, catalogue, rows, samples)
    wanted = [row for some in chosen for row in some]
    pictures: dict[int, list[Image.Image]] = {}
    parts: set[int] = set()
    for n, row in enumerate(wanted):
        progress(n, len(wanted))
        arrays = decode(part, catalogue, row)
        mask = arrays.get("mask")
        parts |= set() if mask is None else set(np.unique(mask).tolist()) - {0}
        pictures[row] = [_picture(plane, mask, card.truth) for plane in _planes(arrays["x"])]
    progress(len(wanted), len(wanted))
    counts = np.bincount([catalogue.label[row] for row in rows], minlength=len(card.classes))
    size = " × ".join(map(str, card.image))
    number = f", fold {fold}" if card.folds else ""
    about = (f"{card.name} · test split{number}: {len(rows):,} images of {len(card.classes)} "
             f"classes · {size}")
    left = len(card.classes) - len(chosen)
    if left:
        about += f" · the first {len(chosen)} classes are shown"
    labels = [(name, f"{int(n):,} image{'' if n == 1 else 's'}")
              for name, n in zip(card.classes, counts, strict=True)]
    sheet = _composed(card, about, labels[:len(chosen)],
                      [[pictures[row] for row in some] for some in chosen], sorted(parts))
    with told(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(path, "PNG")
    return Sheet(path, len(chosen), left)


def _chosen(card: Card, catalogue: Catalogue, rows: Array, samples: int) -> list[list[int]]:
    """The rows to show of each class that is shown."""
    images = Images(np.empty((len(rows), 0), np.uint8),
                    np.array([catalogue.label[row] for row in rows]),
                    tuple(catalogue.key[row] for row in rows))
    ordered = rows[images.order(f"{card.name}/test")]
    shown = range(min(len(card.classes), CLASSES))
    return [[int(row) for row in ordered if catalogue.label[row] == label][:samples]
            for label in shown]


def _planes(x: Array) -> list[Array]:
    """What is drawn of an image (C, H, W): (H, W) of grey, (H, W, 3) of RGB, else each channel."""
    return [x.transpose(1, 2, 0)] if len(x) == 3 else list(x)


def _picture(plane: Array, mask: Array | None, truth: str) -> Image.Image:
    """A plane at the size of the sheet, its mask outlined and tinted; boxes are only outlined."""
    height, width = plane.shape[:2]
    least, most = SIDES
    times = -(-least // max(height, width))
    if max(height, width) <= most:
        size = width * times, height * times
    else:
        size = tuple(max(round(n * most / max(height, width)), 1) for n in (width, height))
    how = Image.Resampling.NEAREST if max(height, width) <= most else Image.Resampling.BOX
    image = Image.fromarray(np.ascontiguousarray(plane)).convert("RGB").resize(size, how)
    if mask is None or not mask.any():
        return image
    pixels = np.asarray(image).astype(np.float64)
    large = np.asarray(Image.fromarray(np.ascontiguousarray(mask)).resize(
        size, Image.Resampling.NEAREST))
    y, x = np.indices(large.shape)
    for part in np.unique(large[large > 0]).tolist():
        inside, colour = large == part, _colour(part)
        if part == 255:
            pixels[inside & ((x + y) % 8 < 3)] = colour
        elif truth == "pixels":
            pixels[inside] = pixels[inside] * (1 - TINT) + np.array(colour) * TINT
        # A dark line around it, since photographs may have any colour themselves.
        pixels[_grown(inside) & (large == 0)] = 0
        outside = np.pad(~inside, 1, constant_values=True)  # also what lies beyond the picture
        pixels[inside & _grown(_grown(outside))[1:-1, 1:-1]] = colour
    return Image.fromarray(pixels.round().astype(np.uint8))


def _colour(part: int) -> tuple[int, int, int]:
    return IGNORED if part == 255 else COLOURS[(part - 1) % len(COLOURS)]


def _grown(inside: Array) -> Array:
    """The pixels inside, and those beside them."""
    padded = np.pad(inside, 1)
    return np.asarray(inside | padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2]
                      | padded[1:-1, 2:])


def _font(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    import matplotlib as mpl  # not at the top: every verb loads the sources, few draw

    # Matplotlib brings the font along, so that a sheet looks alike on every machine.
    name = f"DejaVuSans{'-Bold' if bold else ''}.ttf"
    return ImageFont.truetype(str(Path(mpl.get_data_path()) / "fonts" / "ttf" / name), size)


def _composed(
    card: Card, about: str, labels: Sequence[tuple[str, str]],
    rows: Sequence[Sequence[Sequence[Image.Image]]], parts: Sequence[int],
) -> Image.Image:
    """The whole sheet. rows: class -> sample -> channel -> picture."""
    wide, tall = next(pictures[0].size for row in rows for pictures in row)
    channels = max(len(pictures) for row in rows for pictures in row)
    across = max(len(row) for row in rows)
    block = channels * wide + (channels - 1) * _GAP
    between = _BLOCK if channels > 1 else _GAP
    width = max(2 * _MARGIN + _LABEL + across * block + (across - 1) * between, 760)
    title = textwrap.wrap(card.title, (width - 2 * _MARGIN) // 14)
    head = textwrap.wrap(about, (width - 2 * _MARGIN) // 9)
    foot = [line for text in (f"Licence: {card.licence or 'not stated'}", card.citation)
            for line in textwrap.wrap(text, (width - 2 * _MARGIN) // 8)]
    top = _MARGIN + 30 * len(title) + 20 * len(head) + 12
    top += 28 * bool(parts) + 20 * (channels > 1)
    step = max(tall, 56) + _GAP
    height = top + step * len(rows) + 10 + 18 * len(foot) + _MARGIN
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    y = _MARGIN - 6
    for line in title:
        draw.text((_MARGIN, y), line, _INK, _font(23, bold=True))
        y += 30
    for line in head:
        draw.text((_MARGIN, y), line, _GREY, _font(15))
        y += 20
    if parts:
        _legend(draw, y + 6, parts, card.truth)
    for at, row in enumerate(rows):
        y = top + at * step
        _label(draw, y, *labels[at])
        for place, pictures in enumerate(row):
            for channel, picture in enumerate(pictures):
                x = _MARGIN + _LABEL + place * (block + between) + channel * (wide + _GAP)
                sheet.paste(picture, (x, y))
                if channels > 1 and not at:
                    draw.text((x, y - 20), f"channel {channel + 1}", _GREY, _font(12))
    y = top + step * len(rows) + 10
    for line in foot:
        draw.text((_MARGIN, y), line, _GREY, _font(13))
        y += 18
    return sheet


def _label(draw: ImageDraw.ImageDraw, y: int, name: str, count: str) -> None:
    lines = textwrap.wrap(name.replace("_", " "), 18)[:2]
    for line in lines:
        draw.text((_MARGIN, y), line, _INK, _font(15, bold=True))
        y += 19
    draw.text((_MARGIN, y), count, _GREY, _font(13))


def _legend(draw: ImageDraw.ImageDraw, y: int, parts: Sequence[int], truth: str) -> None:
    """A swatch for every part of the masks."""
    only = "box" if truth == "boxes" else "mask"
    named = {255: "ignored"} | ({1: only} if set(parts) <= {1, 255} else {})
    x = _MARGIN
    for part in parts:
        draw.rectangle((x, y + 2, x + 14, y + 16), _colour(part), _GREY)
        name = named.get(part, f"part {part}")
        draw.text((x + 20, y), name, _GREY, _font(14))
        x += 34 + round(draw.textlength(name, _font(14)))
