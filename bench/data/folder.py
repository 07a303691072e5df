"""Folders of 8-bit images: a folder a class, masks and a table beside them."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath, PurePosixPath

import numpy as np
from PIL import Image, UnidentifiedImageError

from bench.core import Card, HeatproofError, filled, unknown
from bench.data.files import absent, content, home
from bench.data.images import Array, Images
from bench.plugins import source

SUFFIXES = (".png", ".jpg", ".jpeg")
GROUPS = ("group", "patient", "patient_id", "subject", "subject_id", "scan")
"""Columns that tell which images belong together, whatever the card says."""


@dataclass(frozen=True)
class Layout:
    """The `options` of a card: its folders, and the columns of its table.

    images: the folders that make the channels, in order; each holds grey or RGB images (C tells
    which), and the same files: CLASS/NAME.png, or SPLIT/CLASS/NAME.png where there is no table.
    masks: the folder of the masks (0 background, 1.. parts, 255 ignore), the same files again.
    metadata: a CSV file, one row an image. file, label, split: its columns for the path below a
    folder of images, the class (where the folder does not tell it), and the split. The card's
    `group` is a column too. sha256: folder -> the column with the checksums of its files.
    """

    images: tuple[str, ...]
    masks: str = ""
    metadata: str = ""
    file: str = "file"
    label: str = ""
    split: str = ""
    sha256: Mapping[str, str] = field(default_factory=dict)

    @property
    def folders(self) -> list[str]:
        """All folders, the masks last."""
        return [*self.images, *([self.masks] if self.masks else [])]


@dataclass(frozen=True)
class Row:
    """What is known of one image before it is read; `sha256` maps a folder to its checksum."""

    label: str
    split: str
    group: str = ""
    sha256: Mapping[str, str] = field(default_factory=dict)


@source("folder")
def read(card: Card, split: str) -> Images:
    """The images of one split from `HEATPROOF_DATA/NAME/`, laid out as `Layout` says.

    A split is a list of groups, or a value of the split column (without a table: the name of the
    outermost folder). The key is the path below the folder, without suffix. Raises HeatproofError
    for a file that is missing, unexpected, damaged or of another size or mode, for a class that
    the card does not name, and for a group that lies in two splits.
    """
    layout = filled(Layout, card.options, f"options of card {card.name}")
    root, mode = home(card), _mode(card, layout)
    if not root.is_dir():
        raise absent(card)
    files = {folder: _files(root / folder) for folder in layout.folders}
    rows = _table(card, layout, root) if layout.metadata else {
        key: Row(PurePath(key).parent.name, key.partition("/")[0])
        for key in files[layout.images[0]]}
    _same_files(files, rows, root, layout.metadata or layout.images[0])
    labels = {key: _label(card, key, row, root) for key, row in rows.items()}
    keys = _parted(card, layout, rows)[split]

    def decoded(folder: str, key: str, modes: tuple[str, ...]) -> Array:
        path = files[folder][key]
        told = card.sha256.get(path.relative_to(root).as_posix(), "")
        return _decoded(path, card, modes, rows[key].sha256.get(folder, told))

    x = np.empty((len(keys), *card.image), np.uint8)
    depth = card.image[0] // len(layout.images)
    for n, key in enumerate(keys):
        for channel, folder in enumerate(layout.images):
            x[n, channel * depth:(channel + 1) * depth] = decoded(folder, key, mode)
    mask = np.empty((len(keys), *card.image[1:]), np.uint8) if layout.masks else None
    if mask is not None:
        for n, key in enumerate(keys):
            mask[n] = decoded(layout.masks, key, ("L", "P", "1"))[0]
        if (mask == 255).any() and not ((mask > 0) & (mask < 255)).any():
            raise HeatproofError(
                f"{root / layout.masks} marks nothing but 255, which means ignore; write the "
                "parts as 1, 2, …")
    return Images(
        x=x, y=np.array([labels[key] for key in keys], np.int64), key=tuple(keys),
        group=tuple(rows[key].group for key in keys) if card.group else (), mask=mask)


def _mode(card: Card, layout: Layout) -> tuple[str, ...]:
    """Pillow's modes that an image may have; grey serves as RGB with three equal channels."""
    modes = {1: ("L",), 3: ("RGB", "L")}
    for depth, mode in modes.items():
        if depth * len(layout.images) == card.image[0]:
            return mode
    raise HeatproofError(
        f"card {card.name}: {len(layout.images)} folders of images do not make {card.image[0]} "
        "channels; name one grey folder a channel, or one RGB folder for three")


def _files(folder: Path) -> dict[str, Path]:
    """The images below a folder by their keys."""
    if not folder.is_dir():
        raise HeatproofError(
            f"there is no folder {folder}; put it there, or correct the card's options")
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in SUFFIXES:
            key = _key(path.relative_to(folder))
            if key in found:
                raise HeatproofError(f"{path} has the key of {found[key].name}; keep one of them")
            found[key] = path
    return found


def _key(path: PurePath) -> str:
    return (path.parent / path.stem).as_posix()


def _table(card: Card, layout: Layout, root: Path) -> dict[str, Row]:
    """The rows of the metadata by key."""
    path = root / layout.metadata
    try:
        text = content(path, card.sha256.get(layout.metadata, "")).decode("utf-8-sig")
        table = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        lines, columns = list(table), list(table.fieldnames or ())
    except (UnicodeDecodeError, csv.Error) as error:
        raise HeatproofError(f"{path} is no CSV file in UTF-8 ({error}); fetch it again") from None
    for folder in layout.sha256:
        if folder not in layout.folders:
            raise unknown(f"folder in options.sha256 of card {card.name}", folder, layout.folders)
    for column in filter(None, (layout.file, layout.label, layout.split, card.group,
                                *layout.sha256.values())):
        if column not in columns:
            raise unknown(f"column of {path}", column, columns)
    if not card.group and (torn := [column for column in columns if column in GROUPS]):
        raise HeatproofError(
            f"{path} has a column {torn[0]!r} and card {card.name} splits by image; name it as "
            f"the card's group, so that no {torn[0]} is torn between splits")
    rows: dict[str, Row] = {}
    for number, line in enumerate(lines, 2):
        def cell(column: str, line: Mapping[str, str] = line, number: int = number) -> str:
            if not line[column]:
                raise HeatproofError(f"{path}, row {number}: {column} is empty; fill it in")
            return line[column]

        key = _key(PurePosixPath(cell(layout.file)))
        if key in rows:
            raise HeatproofError(f"{path}, row {number}: {key} is there twice; keep one row")
        rows[key] = Row(
            label=cell(layout.label) if layout.label else PurePath(key).parent.name,
            split=cell(layout.split) if layout.split else "",
            group=cell(card.group) if card.group else "",
            sha256={folder: cell(column) for folder, column in layout.sha256.items()})
    return rows


def _same_files(
    files: Mapping[str, Mapping[str, Path]], rows: Mapping[str, Row], root: Path, by: str,
) -> None:
    """Raises where a folder lacks a file that the table (or the first folder) has, or has more."""
    for folder, found in files.items():
        if lost := sorted(rows.keys() - found.keys()):
            raise HeatproofError(
                f"{root / folder} lacks {_some(lost)} (png, jpg or jpeg), which {root / by} has; "
                "fetch the original")
        if spare := sorted(found.keys() - rows.keys()):
            raise HeatproofError(
                f"{root / folder} has {_some(spare)}, which {root / by} lacks; take it away, or "
                "add what is missing")


def _some(keys: list[str]) -> str:
    return keys[0] if len(keys) == 1 else f"{keys[0]} and {len(keys) - 1} more"


def _label(card: Card, key: str, row: Row, root: Path) -> int:
    if row.label in card.classes:
        return card.classes.index(row.label)
    raise HeatproofError(
        f"{root}: {key} is of class {row.label!r}, which card {card.name} does not name "
        f"({', '.join(card.classes)}); add it to the card's classes, or take its images away")


def _parted(card: Card, layout: Layout, rows: Mapping[str, Row]) -> dict[str, list[str]]:
    """The sorted keys of every split. Raises where one, or the group it is of, lies in two."""
    parts = {split: _part(card, split, layout, rows) for split in card.splits}
    split_of: dict[str, str] = {}
    for split, keys in parts.items():
        for key in keys:
            unit = rows[key].group if card.group else key
            if split_of.setdefault(unit, split) != split:
                raise HeatproofError(
                    f"{card.name}: {card.group or 'image'} {unit} lies in split "
                    f"{split_of[unit]} and in split {split}; give it to one of them")
    return parts


def _part(card: Card, split: str, layout: Layout, rows: Mapping[str, Row]) -> list[str]:
    wanted, what = card.splits[split], f"card {card.name}: split {split}"
    if isinstance(wanted, list | tuple):
        if not (card.group and layout.metadata):
            raise HeatproofError(
                f"{what} lists groups; name the card's group, a column of options.metadata")
        kind, names = card.group, list(wanted)
        of = {key: row.group for key, row in rows.items()}
    elif isinstance(wanted, str):
        if layout.metadata and not layout.split:
            raise HeatproofError(
                f"{what} is one word; name the column that tells it as options.split, or list "
                "groups")
        kind, names = layout.split or "folder", [wanted]
        of = {key: row.split for key, row in rows.items()}
    else:
        raise HeatproofError(f"{what} must be a list of groups or one word, not {wanted!r}")
    for name in names:
        if name not in of.values():
            raise unknown(f"{kind} in split {split} of {card.name}", name, set(of.values()))
    return sorted(key for key, told in of.items() if told in names)


def _decoded(path: Path, card: Card, modes: tuple[str, ...], sha256: str) -> Array:
    """The pixels of one file, (1 or 3, H, W) uint8; where RGB is the first mode, always 3."""
    packed = content(path, sha256)
    try:
        with Image.open(io.BytesIO(packed), formats=("PNG", "JPEG")) as image:
            height, width = card.image[1:]
            if image.size != (width, height):
                raise HeatproofError(
                    f"{path} is {image.height} × {image.width} pixels, card {card.name} says "
                    f"{height} × {width}; resize it, or correct the card's image")
            if image.mode not in modes:
                raise HeatproofError(
                    f"{path} is of mode {image.mode}, not {' or '.join(modes)}; convert it to "
                    f"8-bit {'RGB' if modes[0] == 'RGB' else 'grey'}")
            image.load()
            pixels = np.asarray(image.convert("RGB") if modes[0] == "RGB" else image)
    except UnidentifiedImageError:
        raise HeatproofError(f"{path} is no PNG or JPEG image; fetch the original") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = str(error).partition("\n")[0]
        raise HeatproofError(f"{path} is damaged ({reason}); fetch it again") from None
    return (pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)).astype(np.uint8)
