"""What a source knows of a data set before a pixel is decoded, and the split of each image."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bench.core import Card, HeatproofError, number_from, unknown
from bench.data.images import Array

Decode = Callable[[int], Array]
IN_FLIGHT = 16
"""How many rows in a row may be under way at once where a catalogue is decoded."""
_SHARE = re.compile(r"(\d+(?:\.\d+)?)-(\d+(?:\.\d+)?)")


@dataclass(frozen=True)
class Catalogue:
    """All images of a card, in order, none of them decoded.

    key: N distinct strings, stable when a folder gains a file. label: N class numbers.
    image: row -> (1 or C, H, W) uint8, of the size that lies in the file; grey serves as any C.
    mask: row -> (H, W) uint8 of the image's size, or None; 0 background, 1.. parts, 255 ignore
    (`drawn` makes one of boxes). Both raise HeatproofError naming the file, and several threads
    may call them at once.
    told: the publisher's word on the split of each image, or empty. group: the patient or scan of
    each, or empty where none is known. rows: a split's rows, where the source alone can tell.
    files: the files that an image and its mask are read from, a tuple a row, or empty; common:
    the files that all rows share. When one of either changes, images are decoded again.
    flips: planted sets alone: what is flipped ("region" decides the class; nothing else does)
    -> row -> the image with that, and that alone, as it is in another class.
    """

    key: tuple[str, ...]
    label: tuple[int, ...]
    image: Decode
    mask: Decode | None = None
    told: tuple[str, ...] = ()
    group: tuple[str, ...] = ()
    rows: Mapping[str, Sequence[int]] = field(default_factory=dict)
    files: tuple[tuple[Path, ...], ...] = ()
    common: tuple[Path, ...] = ()
    flips: Mapping[str, Decode] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.key)


def parted(card: Card, catalogue: Catalogue) -> dict[str, Array]:
    """The rows of every split of a card, in the order of the catalogue.

    A split is what the catalogue's `rows` say; else a share of the groups (without groups, of the
    images) by a hash of their names, "0.00-0.60"; else one of the publisher's words; else a list,
    of groups where the card has them, of the publisher's words where not. Raises HeatproofError
    for a name that is not there, a split without an image, a group or an image in two splits, and
    a card that splits by image where groups are known.
    """
    if catalogue.group and not card.group and len(set(catalogue.group)) < len(catalogue):
        raise HeatproofError(
            f"card {card.name} splits by image, but it is known which images belong together; "
            "give the card a group, like group = \"patient\"")
    if card.group and not (catalogue.group and all(catalogue.group)):
        raise HeatproofError(f"{card.name}: the card groups images by {card.group}, but not every "
                             "image has one")
    parts = {split: _part(card, split, catalogue) for split in card.splits}
    units = catalogue.group if card.group else catalogue.key
    split_of: dict[str, str] = {}
    for split, rows in parts.items():
        if not len(rows):
            raise HeatproofError(f"{card.name}: split {split} has no image; correct the card's "
                                 f"splits, or lay out what is missing. {card.layout}".strip())
        for unit in dict.fromkeys(units[row] for row in rows):
            if split_of.setdefault(unit, split) != split:
                raise HeatproofError(
                    f"{card.name}: {card.group or 'image'} {unit} lies in split "
                    f"{split_of[unit]} and in split {split}; give it to one of them")
    return parts


def _part(card: Card, split: str, catalogue: Catalogue) -> Array:
    if split in catalogue.rows:
        return np.asarray(catalogue.rows[split], np.int64)
    wanted, what = card.splits[split], f"card {card.name}: split {split}"
    if isinstance(wanted, str) and (share := _SHARE.fullmatch(wanted)):
        low, high = float(share[1]), float(share[2])
        units = catalogue.group if card.group else catalogue.key
        at = {unit: number_from(card.source, unit) / 2**63 for unit in dict.fromkeys(units)}
        return np.array([row for row, unit in enumerate(units) if low <= at[unit] < high], np.int64)
    if isinstance(wanted, str):
        kind, names, of = "split", [wanted], catalogue.told
    elif isinstance(wanted, list | tuple):
        kind, names, of = (card.group, list(wanted), catalogue.group) if card.group else (
            "split", list(wanted), catalogue.told)
    else:
        raise HeatproofError(f"{what} must be a share like \"0.0-0.6\", a word or a list, not "
                             f"{wanted!r}")
    if not of:
        raise HeatproofError(
            f"{what} is {wanted!r}, and nothing in the files tells splits; give a share, like "
            "\"0.0-0.6\"")
    for name in names:
        if name not in of:
            raise unknown(f"{kind} in split {split} of {card.name}", name, set(of))
    chosen = set(names)
    return np.array([row for row, told in enumerate(of) if told in chosen], np.int64)


def drawn(boxes: Sequence[tuple[float, float, float, float]], size: tuple[int, int]) -> Array:
    """The mask (H, W) of boxes (left, top, width, height) in pixels: 1 inside, 0 outside.

    Edges are rounded to whole pixels, and no box is narrower than one; what lies outside the
    image is cut off. Raises HeatproofError for a box that is no box or lies outside altogether.
    """
    mask = np.zeros(size, np.uint8)
    for left, top, width, height in boxes:
        if not (np.isfinite([left, top, width, height]).all() and width > 0 and height > 0):
            raise HeatproofError(f"the box {left:g}, {top:g}, {width:g}, {height:g} (left, top, "
                                 "width, height) is none; correct it")
        x, y = min(round(left), size[1] - 1), min(round(top), size[0] - 1)
        right, low = max(round(left + width), x + 1), max(round(top + height), y + 1)
        if left >= size[1] or top >= size[0] or right <= 0 or low <= 0:
            raise HeatproofError(f"the box {left:g}, {top:g}, {width:g}, {height:g} (left, top, "
                                 f"width, height) lies outside the image ({size[1]} × {size[0]})")
        mask[max(y, 0):low, max(x, 0):right] = 1
    return mask
