"""Folders of images: a folder a class; masks, boxes, a table or the official lists beside them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np

from bench.core import Card, HeatproofError, filled, unknown
from bench.data import lists
from bench.data.catalogue import Catalogue, drawn
from bench.data.files import absent, home
from bench.data.images import Array
from bench.data.lists import Columns, Listed, Row
from bench.data.pixels import SUFFIXES, labelled, opened
from bench.plugins import source


@dataclass(frozen=True)
class Layout:
    """The `options` of a card: its folders, and the columns of its tables.

    images: the folders that make the channels, in order; each holds grey or RGB images (C tells
    which), and the same files: CLASS/NAME.png, or SPLIT/CLASS/NAME.png where there is no table.
    masks: the folder of the masks, the same files again. values: what a stored value of a mask
    means here (0 background, 1.. parts, 255 ignore); without it, values are as stored.
    metadata: a CSV file of all images, where no split has a list. file, label, split: columns for
    the path below a folder of images, the class (where the folder does not tell it), and the
    split. box or corners: the columns of a box, as `lists.Columns` says. sha256: folder -> the
    column with the checksums of its files.
    The card's `group` is a column too, unless the file's name tells it: group_pattern is a regular
    expression whose one group is found in it; block makes groups of so many consecutive numbers,
    the last in the name, where neighbours are alike and nobody says who is who.
    """

    images: tuple[str, ...]
    masks: str = ""
    values: Mapping[str, int] = field(default_factory=dict)
    metadata: str = ""
    file: str = "file"
    label: str = ""
    split: str = ""
    box: tuple[str, ...] = ()
    corners: tuple[str, ...] = ()
    group_pattern: str = ""
    block: int = 0
    sha256: Mapping[str, str] = field(default_factory=dict)

    @property
    def folders(self) -> list[str]:
        """All folders, the masks last."""
        return [*self.images, *([self.masks] if self.masks else [])]

    def columns(self, card: Card, label: str) -> Columns:
        """The columns to read of a table."""
        by_name = self.group_pattern or self.block
        return Columns(
            file=self.file, label=label, split=self.split, group="" if by_name else card.group,
            box=tuple(self.box), corners=tuple(self.corners), sha256=self.sha256)


@source("folder", version="2")
def read(card: Card) -> Catalogue:
    """The images below `HEATPROOF_DATA/NAME/`, laid out as `Layout` says.

    The key is the path below the folder (or in the list), without suffix. A split is what
    `catalogue.parted` takes, of the words in the split column (without a table: the names of the
    outermost folders of SPLIT/CLASS/NAME), or a table as `lists.Listed` says. Raises
    HeatproofError for a file that is missing, unexpected, damaged or of another size or kind, a
    list that does not hold what the card says, and a class that the card does not name.
    """
    layout = filled(Layout, card.options, f"options of card {card.name}")
    depth, values = _checked(card, layout)
    root = home(card)
    if not root.is_dir():
        raise absent(card)
    files = {folder: _files(root / folder) for folder in layout.folders}
    rows, parts = _listed(card, layout, root)
    if parts:
        tables = [card.splits[split]["list"] for split in parts]
        files = {folder: lists.located(found, rows, root / folder)
                 for folder, found in files.items()}
        for table, listed in zip(tables, parts.values(), strict=True):
            _lacking(files, listed, root, table)
    else:
        tables = [layout.metadata] if layout.metadata else []
        rows = _table(card, layout, root) if tables else _folders(files[layout.images[0]])
        by = layout.metadata or layout.images[0]
        _lacking(files, rows, root, by)
        _spare(files, rows, root, by)
    key = tuple(sorted(rows))
    number = {name: row for row, name in enumerate(key)}
    label = tuple(_label(card, name, rows[name], root) for name in key)
    if "train" in card.splits and (none := set(range(len(card.classes))) - set(label)):
        raise HeatproofError(
            f"{root} has no image of class {_some([card.classes[c] for c in sorted(none)])}; put "
            "them there, or take the class out of the card")
    told = tuple(rows[name].split for name in key)
    group = tuple(_group(card, layout, name, rows[name]) for name in key)
    pixels = _Pixels(card, layout, root, tuple(rows[name] for name in key), tuple(
        {folder: files[folder][name] for folder in layout.folders} for name in key), depth, values)
    return Catalogue(
        key=key, label=label, image=pixels.image,
        mask=pixels.mask if layout.masks else pixels.boxes if card.truth == "boxes" else None,
        told=told if all(told) else (), group=group if any(group) else (),
        rows={split: sorted(number[name] for name in listed) for split, listed in parts.items()},
        files=tuple(tuple(paths.values()) for paths in pixels.paths),
        common=tuple(root / table for table in tables))


@dataclass(frozen=True)
class _Pixels:
    """The images and masks of all rows, each read when it is asked for."""

    card: Card
    layout: Layout
    root: Path
    rows: tuple[Row, ...]
    paths: tuple[Mapping[str, Path], ...]
    depth: int
    values: Array | None

    def sha256(self, row: int, folder: str) -> str:
        known = self.card.sha256.get(self.paths[row][folder].relative_to(self.root).as_posix(), "")
        return self.rows[row].sha256.get(folder, known)

    def image(self, row: int) -> Array:
        parts: list[Array] = []
        for folder in self.layout.images:
            path = self.paths[row][folder]
            parts.append(opened(path, grey=self.depth == 1, sha256=self.sha256(row, folder)))
            if (size := parts[-1].shape[1:]) != (first := parts[0].shape[1:]):
                raise HeatproofError(
                    f"{path} is {size[0]} × {size[1]} pixels, "
                    f"{self.paths[row][self.layout.images[0]]} is {first[0]} × {first[1]}; the "
                    "channels of an image must have one size")
        if len(parts) == 1:
            return parts[0]
        return np.concatenate([np.broadcast_to(part, (self.depth, *part.shape[1:]))
                               for part in parts])

    def mask(self, row: int) -> Array:
        path = self.paths[row][self.layout.masks]
        mask = labelled(path, self.sha256(row, self.layout.masks))
        if self.values is None:
            return mask
        ours = self.values[mask]
        if (ours < 0).any():
            raise HeatproofError(
                f"{path} has the value {int(mask[ours < 0].min())}, which the card's "
                "options.values do not name; add it, or correct the mask")
        return np.asarray(ours, np.uint8)

    def boxes(self, row: int) -> Array:
        size = self.image(row).shape[1:]
        try:
            return drawn(self.rows[row].boxes, (size[0], size[1]))
        except HeatproofError as error:
            path = self.paths[row][self.layout.images[0]]
            raise HeatproofError(f"{path}: {error}") from None


def _checked(card: Card, layout: Layout) -> tuple[int, Array | None]:
    """The channels that a folder makes, and the meaning of a mask's values, -1 for none."""
    depth = card.image[0] // (len(layout.images) or 1)
    if depth not in (1, 3) or depth * len(layout.images) != card.image[0]:
        raise HeatproofError(
            f"card {card.name}: {len(layout.images)} folders of images do not make "
            f"{card.image[0]} channels; name one grey folder a channel, or one RGB folder for "
            "three")
    for folder in layout.sha256:
        if folder not in layout.folders:
            raise unknown(f"folder in options.sha256 of card {card.name}", folder, layout.folders)
    names = layout.box or layout.corners
    if names and (layout.masks or card.truth != "boxes"):
        raise HeatproofError(
            f"card {card.name} has columns of boxes; they need truth = \"boxes\" and no masks")
    if names and (len(names) not in (1, 4) or (layout.box and layout.corners)):
        raise HeatproofError(
            f"card {card.name}: give the columns of boxes as box or as corners, four or one")
    if card.truth == "boxes" and not (names or layout.masks):
        raise HeatproofError(
            f"card {card.name}: its truth is boxes; name the columns of a table that tell them as "
            "options.box or options.corners, or a folder as options.masks")
    if names and not (layout.metadata or _by_lists(card)):
        raise HeatproofError(
            f"card {card.name} has columns of boxes and no table; name it as options.metadata")
    try:
        brackets = re.compile(layout.group_pattern).groups
    except re.error as error:
        raise HeatproofError(f"card {card.name}: options.group_pattern {layout.group_pattern!r} is "
                             f"no regular expression ({error}); correct it") from None
    if layout.group_pattern and brackets != 1:
        raise HeatproofError(f"card {card.name}: options.group_pattern {layout.group_pattern!r} "
                             "needs one pair of brackets, around what names the group")
    if not layout.values:
        return depth, None
    values = np.full(256, -1)
    values[0] = 0
    for stored, ours in layout.values.items():
        if not (stored.isdecimal() and int(stored) < 256 and type(ours) is int
                and 0 <= ours < 256):
            raise HeatproofError(f"card {card.name}: options.values must map 0 to 255 to 0 to "
                                 f"255, not {stored} to {ours!r}")
        values[int(stored)] = ours
    return depth, values


def _files(folder: Path) -> dict[str, Path]:
    """The images below a folder by their keys."""
    if not folder.is_dir():
        raise HeatproofError(
            f"there is no folder {folder}; put it there, or correct the card's options")
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in SUFFIXES:
            key = lists.key_of(path.relative_to(folder))
            if key in found:
                raise HeatproofError(f"{path} has the key of {found[key].name}; keep one of them")
            found[key] = path
    return found


def _folders(found: Iterable[str]) -> dict[str, Row]:
    """What the folders tell: the split is the outermost of SPLIT/CLASS/NAME."""
    return {key: Row(split=key.partition("/")[0] if key.count("/") > 1 else "") for key in found}


def _table(card: Card, layout: Layout, root: Path) -> dict[str, Row]:
    return lists.read(root / layout.metadata, layout.columns(card, layout.label),
                      card.sha256.get(layout.metadata, ""))


def _by_lists(card: Card) -> bool:
    return any(isinstance(told, Mapping) for told in card.splits.values())


def _listed(
    card: Card, layout: Layout, root: Path,
) -> tuple[dict[str, Row], dict[str, list[str]]]:
    """The rows of all lists, and the keys of each; none where the splits are told otherwise."""
    rows: dict[str, Row] = {}
    parts: dict[str, list[str]] = {}
    if not _by_lists(card):
        return rows, parts
    for split, told in card.splits.items():
        of = filled(Listed, told, f"split {split} of card {card.name}")
        path = root / of.list
        found = lists.read(path, layout.columns(card, of.label), card.sha256.get(of.list, ""))
        if twice := sorted(rows.keys() & found.keys()):
            raise HeatproofError(f"{path} lists {_some(twice)}, which is in another split's list "
                                 "too; fetch the original lists")
        counts = np.bincount([_label(card, key, row, path) for key, row in found.items()],
                             minlength=len(card.classes)).tolist()
        if counts != list(of.images):
            raise HeatproofError(f"{path} lists {counts} images of the classes, card {card.name} "
                                 f"says {list(of.images)}; fetch the original list")
        rows |= found
        parts[split] = list(found)
    return rows, parts


def _lacking(
    files: Mapping[str, Mapping[str, Path]], keys: Iterable[str], root: Path, by: str,
) -> None:
    for folder, found in files.items():
        if lost := sorted(set(keys) - found.keys()):
            raise HeatproofError(
                f"{root / folder} lacks {_some(lost)} ({', '.join(SUFFIXES)}), which {root / by} "
                "has; fetch the original")


def _spare(
    files: Mapping[str, Mapping[str, Path]], rows: Mapping[str, Row], root: Path, by: str,
) -> None:
    for folder, found in files.items():
        if spare := sorted(found.keys() - rows.keys()):
            raise HeatproofError(
                f"{root / folder} has {_some(spare)}, which {root / by} lacks; take it away, or "
                "add what is missing")


def _some(keys: list[str]) -> str:
    return keys[0] if len(keys) == 1 else f"{keys[0]} and {len(keys) - 1} more"


def _label(card: Card, key: str, row: Row, where: Path) -> int:
    """The class by its name, in a column also by its number."""
    told = row.label or PurePosixPath(key).parent.name
    if told in card.classes:
        return card.classes.index(told)
    if row.label.isdecimal() and int(row.label) < len(card.classes):
        return int(row.label)
    raise HeatproofError(
        f"{where}: {key} is of class {told!r}, which card {card.name} does not name "
        f"({', '.join(card.classes)}); add it to the card's classes, or take its images away")


def _group(card: Card, layout: Layout, key: str, row: Row) -> str:
    """What must not be torn from this image, empty where nothing tells it."""
    name = PurePosixPath(key).name
    if layout.group_pattern:
        if not (found := re.search(layout.group_pattern, name)) or not found[1]:
            raise HeatproofError(
                f"{card.name}: options.group_pattern {layout.group_pattern!r} finds nothing in "
                f"{key}; correct it, or rename the file")
        return found[1]
    if layout.block:
        if not (numbers := re.findall(r"\d+", name)):
            raise HeatproofError(f"{card.name}: {key} has no number, and options.block makes "
                                 "groups of numbers; rename it")
        first = int(numbers[-1]) // layout.block * layout.block
        return f"{first}-{first + layout.block - 1}"
    return row.group
