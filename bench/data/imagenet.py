"""ImageNet (ILSVRC 2012) as Kaggle or torchvision lay it out; its boxes, or ImageNet-S's masks."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from bench.core import Card, HeatproofError, filled
from bench.data.catalogue import Catalogue, drawn
from bench.data.files import absent, content, home
from bench.data.images import Array
from bench.data.pixels import SUFFIXES, opened
from bench.plugins import source

SOLUTION = "LOC_val_solution.csv"
IGNORED = 1000
"""ImageNet-S's number for pixels that nobody gave a class."""
_DECODED = 32
"""Images kept for their masks' sizes: more than there are threads."""
Boxes = Sequence[tuple[str, float, float, float, float]]
"""WNID, left, top, right, bottom."""


@dataclass(frozen=True)
class Layout:
    """The `options` of a card: the classes that have no number in ImageNet-S's masks."""

    unsegmented: tuple[str, ...] = ()


@dataclass(frozen=True)
class Part:
    """A split: its folder, and how many images must lie in it."""

    folder: str
    images: int


@source("imagenet")
def read(card: Card) -> Catalogue:
    """Photographs in FOLDER/WNID/, or in FOLDER/ with their classes in LOC_val_solution.csv.

    FOLDER lies in `HEATPROOF_DATA/NAME/ILSVRC/Data/CLS-LOC/` (Kaggle) or in
    `HEATPROOF_DATA/NAME/` (torchvision, timm, ImageNet-S); the key is the file's name. The truth
    is the boxes of the image's class, from that table, else from the XML in Annotations; or its
    pixels in FOLDER-segmentation/WNID/ (ImageNet-S: Gao et al., arXiv 2106.03149; its README).
    Images of split train have empty masks: no training sees one. Raises HeatproofError for a
    folder, a table, a box or a class that is missing, and a split of another size.
    """
    layout = filled(Layout, card.options, f"options of card {card.name}")
    root = home(card)
    if not root.is_dir():
        raise absent(card)
    kaggle = root / "ILSVRC" / "Data" / "CLS-LOC"
    data = kaggle if kaggle.is_dir() else root
    classes = {wnid: number for number, wnid in enumerate(card.classes)}
    key: list[str] = []
    label: list[int] = []
    at: list[Path] = []
    rows: dict[str, range] = {}

    @cache
    def solution() -> Mapping[str, Boxes]:
        return _solution(root / SOLUTION, card.sha256.get(SOLUTION, ""))

    for split, told in card.splits.items():
        part = filled(Part, told, f"card {card.name}: split {split}")
        start = len(key)
        for folder, names in _folders(data / part.folder, card):
            flat = folder == data / part.folder
            wnids = [_row(solution(), name, root)[0][0] if flat else folder.name for name in names]
            for wnid in set(wnids) - classes.keys():
                raise HeatproofError(f"{folder} holds images of {wnid}, which is no class of card "
                                     f"{card.name}; take them away, or correct the card's classes")
            key += names
            label += [classes[wnid] for wnid in wnids]
            at += [folder] * len(names)
        rows[split] = range(start, len(key))
        if len(rows[split]) != part.images:
            raise HeatproofError(f"{data / part.folder} holds {len(rows[split])} images, card "
                                 f"{card.name} says {part.images}; unpack the original again")
    _distinct(key, at)

    @lru_cache(maxsize=_DECODED)
    def image(row: int) -> Array:
        return opened(at[row] / key[row], grey=False)

    train, beside = rows.get("train", range(0)), _beside(card, root, data)
    segmented = sorted(classes.keys() - set(layout.unsegmented))

    def mask(row: int) -> Array:
        photograph, wnid = at[row] / key[row], card.classes[label[row]]
        height, width = image(row).shape[1:]
        if row in train:
            return np.zeros((height, width), np.uint8)
        told = beside(photograph)
        if card.truth == "pixels":
            return _segmented(told, wnid, segmented)
        if told.name == SOLUTION:
            return _boxed(_row(solution(), photograph.name, root), wnid, (height, width),
                          f"{told}, {photograph.stem}")
        return _boxed(_xml(told), wnid, (height, width), str(told))

    # The state of each of 1.3 million files would take minutes: that of their folder must do.
    folders = {folder: (folder,) for folder in dict.fromkeys(at)}
    return Catalogue(
        key=tuple(key), label=tuple(label), image=image, rows=rows,
        mask=None if card.truth == "none" else mask,
        files=tuple(folders[folder] if row in train else (folder / name, beside(folder / name))
                    for row, (folder, name) in enumerate(zip(at, key, strict=True))))


def _folders(folder: Path, card: Card) -> Iterator[tuple[Path, list[str]]]:
    """The class folders, or the one folder of all classes, with the sorted names of its images."""
    if not folder.is_dir():
        raise HeatproofError(f"{card.name}: there is no folder {folder}. {card.layout}".strip())
    with os.scandir(folder) as entries:
        wnids = sorted(entry.name for entry in entries
                       if entry.is_dir() and not entry.name.startswith("."))
    for path in [folder / wnid for wnid in wnids] or [folder]:
        with os.scandir(path) as entries:
            yield path, sorted(entry.name for entry in entries if not entry.name.startswith(".")
                               and entry.name.lower().endswith(SUFFIXES))


def _distinct(key: list[str], at: list[Path]) -> None:
    if len(set(key)) == len(key):
        return
    first: dict[str, Path] = {}
    for name, folder in zip(key, at, strict=True):
        if name in first:
            raise HeatproofError(f"{first[name] / name} and {folder / name} have the same name; "
                                 "an image of ImageNet lies in one folder alone: keep that one")
        first[name] = folder


def _solution(path: Path, sha256: str) -> Mapping[str, Boxes]:
    """The boxes of every image by its number, from the table of Kaggle's challenge."""
    try:
        lines = list(csv.reader(io.StringIO(content(path, sha256).decode())))
    except (UnicodeDecodeError, csv.Error) as error:
        raise HeatproofError(f"{path} is no CSV in UTF-8 ({error}); fetch the original") from None
    if not lines or lines[0] != ["ImageId", "PredictionString"]:
        raise HeatproofError(f"{path} does not begin with ImageId,PredictionString; fetch the "
                             "original")
    found: dict[str, Boxes] = {}
    for at, line in enumerate(lines[1:], 2):
        cells = line[1].split() if len(line) == 2 else []
        if not cells or len(cells) % 5 or line[0] in found:
            raise HeatproofError(f"{path}, line {at}: not a new image with WNID left top right "
                                 "bottom, once or more; fetch the original")
        try:
            found[line[0]] = [_box(cells[n:n + 5]) for n in range(0, len(cells), 5)]
        except ValueError as error:
            raise HeatproofError(f"{path}, line {at}: {error}; fetch the original") from None
    return found


def _box(cells: Sequence[str]) -> tuple[str, float, float, float, float]:
    left, top, right, bottom = map(float, cells[1:])
    return cells[0], left, top, right, bottom


def _row(solution: Mapping[str, Boxes], name: str, root: Path) -> Boxes:
    number = name.rpartition(".")[0]
    if number not in solution:
        raise HeatproofError(f"{root / SOLUTION} does not name {number}; fetch the original")
    return solution[number]


def _xml(path: Path) -> Boxes:
    """The boxes in a file of PASCAL VOC's format."""
    try:
        objects = ElementTree.fromstring(content(path)).iter("object")  # noqa: S314  expat is bounded
        return [_box([str(one.findtext(tag)) for tag in (
            "name", "bndbox/xmin", "bndbox/ymin", "bndbox/xmax", "bndbox/ymax")])
            for one in objects]
    except (ElementTree.ParseError, ValueError) as error:
        raise HeatproofError(f"{path} is no annotation in PASCAL VOC's format ({error}); fetch "
                             "the original") from None


def _beside(card: Card, root: Path, data: Path) -> Callable[[Path], Path]:
    """An image's path -> the file that tells its truth."""
    if card.truth == "pixels":
        def drawing(image: Path) -> Path:
            folder, *below = image.relative_to(data).with_suffix(".png").parts
            return data.joinpath(f"{folder}-segmentation", *below)
        return drawing
    if card.truth == "none" or (root / SOLUTION).is_file():
        return lambda _: root / SOLUTION
    for notes in (root / "ILSVRC" / "Annotations" / "CLS-LOC", root / "Annotations"):
        if notes.is_dir():
            return lambda image: notes / image.relative_to(data).parts[0] / f"{image.stem}.xml"
    raise HeatproofError(
        f"{card.name}: neither {root / SOLUTION} nor {root / 'Annotations'} tells the boxes; put "
        "one of them there, or set the card's truth to \"none\"")


def _boxed(boxes: Boxes, wnid: str, size: tuple[int, int], where: str) -> Array:
    mine = [(left, top, right - left, bottom - top)
            for of, left, top, right, bottom in boxes if of == wnid]
    if not mine:
        raise HeatproofError(f"{where} has no box of {wnid}, the image's class; fetch the original")
    try:
        return drawn(mine, size)
    except HeatproofError as error:
        raise HeatproofError(f"{where}: {error}") from None


def _segmented(path: Path, wnid: str, segmented: Sequence[str]) -> Array:
    """1 where R + 256 G is the number of the class, 255 where nobody gave a class, else 0."""
    colours = opened(path, grey=False).astype(np.int64)
    if len(colours) != 3:
        raise HeatproofError(f"{path} is grey; a mask of ImageNet-S tells a class in red and "
                             "green: fetch the original")
    if wnid not in segmented:
        raise HeatproofError(f"{path}: the card's options.unsegmented say that {wnid} has no "
                             "masks; correct them")
    numbers = colours[0] + 256 * colours[1]
    if (odd := numbers[(numbers > len(segmented)) & (numbers != IGNORED)]).size:
        raise HeatproofError(f"{path} tells class {odd[0]} of {len(segmented)}; correct the card's "
                             "options.unsegmented, or fetch the original")
    mine = numbers == segmented.index(wnid) + 1
    return np.where(numbers == IGNORED, 255, mine).astype(np.uint8)
