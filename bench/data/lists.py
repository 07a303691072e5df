"""Tables beside folders of images: one of all images, or the official list of each split."""

from __future__ import annotations

import csv
import io
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath, PurePosixPath

from bench.core import HeatproofError, unknown
from bench.data.files import content
from bench.data.pixels import SUFFIXES

Box = tuple[float, float, float, float]
GROUPS = ("group", "patient", "patient_id", "subject", "subject_id", "scan")
"""Columns that tell which images belong together, whatever the card says."""


@dataclass(frozen=True)
class Listed:
    """A split of a card by a list: `{ list = "val.csv", label = "level", images = [9, 4] }`.

    list: a CSV file in the data set's folder. label: its column of classes, by number or by name.
    images: how many of each class it holds.
    """

    list: str
    label: str
    images: tuple[int, ...]


@dataclass(frozen=True)
class Columns:
    """The columns of a table by what they tell; an empty one is not told.

    box: left, top, width and height in pixels; corners: left, top, right and bottom. Either is
    four columns, or one that holds four numbers a box and a semicolon between boxes. sha256: by
    the folder whose files have the checksums.
    """

    file: str
    label: str = ""
    split: str = ""
    group: str = ""
    box: tuple[str, ...] = ()
    corners: tuple[str, ...] = ()
    sha256: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """What is told of one image: boxes are (left, top, width, height), sha256 is by folder."""

    label: str = ""
    split: str = ""
    group: str = ""
    boxes: tuple[Box, ...] = ()
    sha256: Mapping[str, str] = field(default_factory=dict)


def key_of(path: PurePath) -> str:
    """The path without an image's suffix, in one of the two spellings that an accent may have."""
    bare = path.with_suffix("") if path.suffix.lower() in SUFFIXES else path
    return unicodedata.normalize("NFC", bare.as_posix())


def read(path: Path, columns: Columns, sha256: str = "") -> dict[str, Row]:
    """The rows of a table by the key of their file; rows of one file are its boxes.

    Without a column for the group, one that is named like a group is taken. Raises HeatproofError
    for a file that is no CSV, a column or a cell that is missing, a file that is there twice, and
    a box that is not four numbers.
    """
    lines, names = lines_of(path, sha256)
    for column in (columns.file, columns.label, columns.split, columns.group, *columns.box,
                   *columns.corners, *columns.sha256.values()):
        if column and column not in names:
            raise unknown(f"column of {path}", column, names)
    guess = next((name for name in GROUPS if name in names), "")
    rows: dict[str, Row] = {}
    for number, line in enumerate(lines, 2):
        where = f"{path}, row {number}"

        def cell(column: str, line: Mapping[str, str] = line, where: str = where) -> str:
            if column and not line[column]:
                raise HeatproofError(f"{where}: {column} is empty; fill it in")
            return line[column] if column else ""

        key = key_of(PurePosixPath(cell(columns.file)))
        row = Row(
            label=cell(columns.label), split=cell(columns.split),
            group=cell(columns.group) or (line[guess] or "" if guess else ""),
            boxes=_boxes(columns, line, where),
            sha256={folder: cell(column) for folder, column in columns.sha256.items()})
        if before := rows.get(key):
            if not (before.boxes and replace(before, boxes=row.boxes) == row):
                raise HeatproofError(f"{where}: {key} is there twice; keep one row")
            row = replace(row, boxes=before.boxes + row.boxes)
        rows[key] = row
    return rows


def lines_of(path: Path, sha256: str) -> tuple[list[dict[str, str]], list[str]]:
    """The rows of a CSV file and its columns. Raises HeatproofError if it is none in UTF-8."""
    try:
        text = content(path, sha256).decode("utf-8-sig")
        table = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        return list(table), list(table.fieldnames or ())
    except (UnicodeDecodeError, csv.Error) as error:
        raise HeatproofError(f"{path} is no CSV file in UTF-8 ({error}); fetch it again") from None


def _boxes(columns: Columns, line: Mapping[str, str], where: str) -> tuple[Box, ...]:
    """The boxes of one row; a row whose cells are empty has none."""
    names = columns.box or columns.corners
    cells = [line[name] or "" for name in names]
    if not any(cells):
        return ()
    boxes: list[Box] = []
    for part in (" ".join(cells).split(";") if len(names) == 1 else ["\n".join(cells)]):
        try:
            left, top, right, bottom = map(float, part.split("\n" if len(names) > 1 else None))
        except ValueError:
            raise HeatproofError(
                f"{where}: the box {' '.join(part.split())!r} ({', '.join(names)}) is not four "
                "numbers; correct it") from None
        if columns.corners:
            right, bottom = right - left, bottom - top
        boxes.append((left, top, right, bottom))
    return tuple(boxes)


def located(found: Mapping[str, Path], keys: Iterable[str], folder: Path) -> dict[str, Path]:
    """The files of listed keys, found by their own; what is not there is left out.

    The path in a list and the path below the folder may differ in suffix and in how far out they
    begin: one is the end of the other. Raises HeatproofError where two files could be meant, or
    one is meant twice.
    """
    alike: dict[str, list[str]] = {}
    for there in found:
        alike.setdefault(PurePosixPath(there).name, []).append(there)
    chosen: dict[str, Path] = {}
    taken: dict[str, str] = {}
    for key in keys:
        ends = [key] if key in found else [
            there for there in alike.get(PurePosixPath(key).name, ())
            if f"/{there}".endswith(f"/{key}") or f"/{key}".endswith(f"/{there}")]
        if len(ends) > 1:
            raise HeatproofError(
                f"{folder}: {found[ends[0]]} and {found[ends[1]]} could both be the listed {key}; "
                "keep one of them")
        for there in ends:
            if taken.setdefault(there, key) != key:
                raise HeatproofError(
                    f"{found[there]} is listed as {taken[there]} and as {key}; put the files into "
                    "the folders that the list names")
            chosen[key] = found[there]
    return chosen
