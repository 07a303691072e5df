"""CUB-200-2011 as published: lists, photographs of birds, a box each; and its segmentations."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath

import numpy as np

from bench.core import Card, HeatproofError, filled
from bench.data.catalogue import Catalogue, drawn
from bench.data.files import absent, content, home
from bench.data.images import Array
from bench.data.pixels import opened
from bench.plugins import source

_DECODED = 32
"""Images kept for their masks' sizes: more than there are threads."""


@dataclass(frozen=True)
class Layout:
    """The `options` of a card whose truth is pixels.

    segmentations: the folder of their files. agreed: the share of the annotators (a grey level,
    255 all of them) who must have marked a pixel as bird.
    """

    segmentations: str = "segmentations"
    agreed: float = 0.5


@dataclass(frozen=True)
class Part:
    """A split: its value in train_test_split.txt, and how many images must have it."""

    value: int
    images: int


@source("cub")
def read(card: Card) -> Catalogue:
    """All images of `HEATPROOF_DATA/NAME/CUB_200_2011/`; the key is CLASS/NAME.

    A mask is the image's box where the card's truth is boxes, what enough annotators marked where
    it is pixels (Wah et al., CNS-TR-2011-001, and the README of the set). Raises HeatproofError
    for a list that is missing or broken, that disagrees with another, with the folders or with
    the card's classes, and for a split of another size.
    """
    layout = filled(Layout, card.options, f"options of card {card.name}")
    if not 0 < layout.agreed <= 1:
        raise HeatproofError(f"options of card {card.name}: agreed is a share of the annotators, "
                             f"above 0 and up to 1, not {layout.agreed:g}")
    root = home(card)
    if not root.is_dir():
        raise absent(card)
    lists = {name: root / "CUB_200_2011" / f"{name}.txt" for name in (
        "classes", "images", "image_class_labels", "train_test_split",
        *(["bounding_boxes"] if card.truth == "boxes" else []))}
    tables = {name: _table(card, path, 4 if name == "bounding_boxes" else 1)
              for name, path in lists.items()}
    classes = {number: name for number, (name,) in tables["classes"].items()}
    if tuple(classes.values()) != card.classes:
        raise HeatproofError(f"{lists['classes']} names other classes than card {card.name}; fetch "
                             "the original, or correct the card's classes")
    for name, table in tables.items():
        if name != "classes" and (odd := tables["images"].keys() ^ table.keys()):
            raise HeatproofError(
                f"{lists[name]} and {lists['images'].name} do not list the same images ({min(odd)} "
                "is in one alone); fetch the original")
    names = [PurePosixPath(name) for name, in tables["images"].values()]
    folders = [classes.get(tables["image_class_labels"][number][0], "")
               for number in tables["images"]]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise HeatproofError(f"{lists['images']} lists {twice} twice; fetch the original")
    for file, folder in zip(names, folders, strict=True):
        if file.parent.name != folder:
            raise HeatproofError(f"{lists['image_class_labels']} says that {file} is of class "
                                 f"{folder or 'none'}; fetch the original")
    photographs = [root / "CUB_200_2011" / "images" / name for name in names]
    voted = [root / layout.segmentations / name.with_suffix(".png") for name in names]
    told = [tables["train_test_split"][number][0] for number in tables["images"]]

    @lru_cache(maxsize=_DECODED)
    def image(row: int) -> Array:
        return opened(photographs[row], grey=False)

    numbers = list(tables["images"])

    def boxed(row: int) -> Array:
        try:
            left, top, width, height = map(float, tables["bounding_boxes"][numbers[row]])
            return drawn([(left, top, width, height)], image(row).shape[1:])
        except (ValueError, HeatproofError) as error:
            raise HeatproofError(f"{lists['bounding_boxes']}, {names[row]}: {error}") from None

    def agreed(row: int) -> Array:
        votes = opened(voted[row], grey=True)[0]
        return np.asarray(votes >= 255 * layout.agreed, np.uint8)

    return Catalogue(
        key=tuple(str(name.with_suffix("")) for name in names),
        label=tuple(card.classes.index(folder) for folder in folders), image=image,
        mask={"boxes": boxed, "pixels": agreed}.get(card.truth), rows=_rows(card, told, lists),
        files=tuple(zip(photographs, voted, strict=True)) if card.truth == "pixels" else tuple(
            zip(photographs, strict=True)),
        common=tuple(lists.values()))


def _rows(card: Card, told: list[str], lists: dict[str, Path]) -> dict[str, list[int]]:
    rows = {}
    for split, wanted in card.splits.items():
        part = filled(Part, wanted, f"card {card.name}: split {split}")
        rows[split] = [row for row, value in enumerate(told) if value == str(part.value)]
        if len(rows[split]) != part.images:
            raise HeatproofError(
                f"{lists['train_test_split']} gives {len(rows[split])} images the value "
                f"{part.value}, card {card.name} says {part.images}; fetch the original")
    return rows


def _table(card: Card, path: Path, columns: int) -> dict[str, list[str]]:
    """The number that begins a line -> the columns behind it, in the order of the file."""
    try:
        lines = content(path, card.sha256.get(path.name, "")).decode().splitlines()
    except UnicodeDecodeError:
        raise HeatproofError(f"{path} is no text in UTF-8; fetch the original") from None
    table: dict[str, list[str]] = {}
    for at, line in enumerate(lines, 1):
        number, *cells = line.split() or [""]
        if len(cells) != columns:
            raise HeatproofError(f"{path}, line {at}: {len(cells)} columns behind the number, not "
                                 f"{columns}; fetch the original")
        if number in table:
            raise HeatproofError(f"{path}, line {at}: {number} is there twice; fetch the original")
        table[number] = cells
    if not table:
        raise HeatproofError(f"{path} is empty; fetch the original")
    return table
