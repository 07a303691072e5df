"""Radiographs of the RSNA Pneumonia Detection Challenge: DICOM, classes and boxes in tables."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from bench.core import Card, HeatproofError, filled, unknown
from bench.data import lists
from bench.data.catalogue import Catalogue, drawn
from bench.data.files import absent, content, home, lacking
from bench.data.images import Array
from bench.data.pixels import opened
from bench.plugins import source

IMAGES = (("stage_2_train_images", ".dcm"), ("png_images", ".png"))
"""The folders of the images and what they hold: the challenge's own, and SoftCAM's copies."""
BOXES, CLASSES = "stage_2_train_labels.csv", "stage_2_detailed_class_info.csv"
WORDS = ("Normal", "Lung Opacity", "No Lung Opacity / Not Normal")
"""The challenge's own classes; the second alone has boxes."""


@dataclass(frozen=True)
class Layout:
    """The `options` of a card.

    classes: the challenge's words, in the order of the card's classes; images of another are left
    out. side: that of the originals in pixels, in which the boxes are told; where images were made
    smaller, so are their boxes. patients: RSNA's table of where the images lie in the NIH's
    collection, a JSON file; the group is then the NIH's patient. Without it the group is the
    challenge's patientId, of which every image has its own.
    """

    classes: tuple[str, ...]
    side: int
    patients: str = ""


@source("rsna")
def read(card: Card) -> Catalogue:
    """Radiographs of the card's classes, in the order of their patientId; masks are of the boxes.

    A split is a list in the folder (`lists.Listed`: a column `filename`, PATIENTID.png), as
    SoftCAM's are (kdjoumessi/SoftCAM, b5e9048, csv_files/RSNA), or a share of the groups. Raises
    HeatproofError for a table or an image that is missing, tables that contradict each other, and
    a list with an image that is not there, of another class, or of other counts than the card's.
    """
    layout = filled(Layout, card.options, f"options of card {card.name}")
    root = home(card)
    if not root.is_dir():
        raise absent(card)
    for word in layout.classes:
        if word not in WORDS:
            raise unknown(f"class in options of card {card.name}", word, WORDS)
    if len(layout.classes) != len(card.classes):
        raise HeatproofError(f"card {card.name}: {len(layout.classes)} words in options.classes "
                             f"for {len(card.classes)} classes; give one a class")
    words = _words(root / CLASSES, card.sha256.get(CLASSES, ""))
    boxes = _boxes(card, words)
    key = tuple(sorted(name for name, word in words.items() if word in layout.classes))
    label = tuple(layout.classes.index(words[name]) for name in key)
    folder, suffix = next((found for found in IMAGES if (root / found[0]).is_dir()), IMAGES[0])
    files = [root / folder / f"{name}{suffix}" for name in key]
    there = set((root / folder).glob(f"*{suffix}"))
    if lost := [path for path in files if path not in there]:
        raise HeatproofError(
            f"{root} lacks {lost[0].relative_to(root)}"
            f"{f' and {len(lost) - 1} more' if lost[1:] else ''}. {card.layout}".strip())

    @lru_cache(maxsize=16)  # the mask of an image needs its size, just after the image was read
    def image(row: int) -> Array:
        told = card.sha256.get(files[row].relative_to(root).as_posix(), "")
        return radiograph(files[row], told) if suffix == ".dcm" else opened(
            files[row], grey=True, sha256=told)

    def mask(row: int) -> Array:
        height, width = image(row).shape[1:]
        x, y = width / layout.side, height / layout.side
        try:
            return drawn([(left * x, top * y, wide * x, high * y)
                          for left, top, wide, high in boxes[key[row]]], (height, width))
        except HeatproofError as error:
            raise HeatproofError(f"{root / BOXES}: {key[row]}: {error}") from None

    return Catalogue(
        key=key, label=label, image=image, mask=mask, group=_groups(root, layout, card, key),
        rows={split: _rows(card, split, key, label) for split, wanted in card.splits.items()
              if isinstance(wanted, Mapping)},
        files=tuple((path,) for path in files), common=(root / BOXES, root / CLASSES))


def _words(path: Path, sha256: str) -> dict[str, str]:
    """The class of every image; an image has as many rows as boxes."""
    lines, columns = lists.lines_of(path, sha256)
    for column in ("patientId", "class"):
        if column not in columns:
            raise unknown(f"column of {path}", column, columns)
    words: dict[str, str] = {}
    for number, line in enumerate(lines, 2):
        name, word = line["patientId"], line["class"]
        if not name or word not in WORDS:
            raise HeatproofError(f"{path}, row {number}: {name or 'no patientId'} is of class "
                                 f"{word!r}, which is none of {', '.join(WORDS)}; fetch it again")
        if words.setdefault(name, word) != word:
            raise HeatproofError(f"{path}, row {number}: {name} is of class {word!r} and of class "
                                 f"{words[name]!r}; fetch it again")
    return words


def _boxes(card: Card, words: Mapping[str, str]) -> dict[str, tuple[lists.Box, ...]]:
    """The boxes (left, top, width, height) of every image, in pixels of the original."""
    path = home(card) / BOXES
    rows = lists.read(path, lists.Columns(
        file="patientId", label="Target", box=("x", "y", "width", "height")),
        card.sha256.get(BOXES, ""))
    for name, word in words.items():
        if name not in rows:
            raise HeatproofError(f"{path} lacks {name}, which {CLASSES} has; fetch both again")
        row, opaque = rows[name], word == WORDS[1]
        if (row.label, bool(row.boxes)) != ("1" if opaque else "0", opaque):
            raise HeatproofError(
                f"{path}: {name} has Target {row.label} and {len(row.boxes)} boxes, its class in "
                f"{CLASSES} is {word!r}; fetch both again")
    return {name: row.boxes for name, row in rows.items()}


def _groups(root: Path, layout: Layout, card: Card, key: tuple[str, ...]) -> tuple[str, ...]:
    if not layout.patients:
        return key
    path = root / layout.patients
    try:
        told = {str(one["subset_img_id"]): str(one["img_id"]).partition("_")[0]
                for one in json.loads(content(path, card.sha256.get(layout.patients, "")))}
    except (ValueError, TypeError, KeyError) as error:
        raise HeatproofError(f"{path} is no list of objects with subset_img_id and img_id "
                             f"({type(error).__name__}: {error}); fetch it again") from None
    if lost := [name for name in key if not told.get(name)]:
        raise HeatproofError(f"{path} does not tell the patient of {lost[0]}; fetch it again")
    return tuple(told[name] for name in key)


def _rows(
    card: Card, split: str, key: tuple[str, ...], label: tuple[int, ...],
) -> list[int]:
    """The rows of a split that the card gives by a list."""
    wanted = filled(lists.Listed, card.splits[split], f"card {card.name}: split {split}")
    path = home(card) / wanted.list
    if not path.is_file():
        raise HeatproofError(f"{card.name}: there is no list {path}. {card.layout}".strip())
    listed = lists.read(path, lists.Columns(file="filename", label=wanted.label),
                        card.sha256.get(wanted.list, ""))
    row_of = {name: row for row, name in enumerate(key)}
    counts = [0] * len(card.classes)
    for name, row in listed.items():
        if name not in row_of:
            raise HeatproofError(f"{path} lists {name}, which is no image of the card's classes "
                                 f"in {CLASSES}; fetch the original list")
        if row.label != str(label[row_of[name]]):
            raise HeatproofError(
                f"{path}: {name} has {wanted.label} {row.label}, by {CLASSES} it is "
                f"{label[row_of[name]]} ({card.classes[label[row_of[name]]]}); fetch the original")
        counts[label[row_of[name]]] += 1
    if tuple(counts) != tuple(wanted.images):
        raise HeatproofError(f"{path} lists {counts} images of {', '.join(card.classes)}, the "
                             f"card says {list(wanted.images)}; fetch the original list")
    return sorted(row_of[name] for name in listed)


def radiograph(path: Path, sha256: str = "") -> Array:
    """The pixels of a DICOM file of one grey image, (1, H, W) uint8, as a monitor shows them.

    Stored values go through the file's rescaling and its first window where it has them (DICOM
    PS3.3 C.11); what can be stored then becomes 0 to 255, so that 8 bits without a window stay as
    they are. MONOCHROME1 is turned, so that bone is bright. Raises HeatproofError for a file that
    is missing, altered, damaged or no such image, and for tables of values instead of a window.
    """
    try:
        import pydicom
        from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut
    except ImportError:
        raise lacking("pydicom", path) from None
    packed = content(path, sha256)
    try:
        dataset = pydicom.dcmread(io.BytesIO(packed))
        kind = str(dataset.get("PhotometricInterpretation", ""))
        if not kind.startswith("MONOCHROME") or int(dataset.get("NumberOfFrames") or 1) != 1:
            raise HeatproofError(f"{path} is {kind or 'no image'}, not one grey image; fetch the "
                                 "original")
        if "ModalityLUTSequence" in dataset or "VOILUTSequence" in dataset:
            raise HeatproofError(f"{path} has a table of values (LUT), which is not read; convert "
                                 "it to 8 bits")
        bits, signed = int(dataset.BitsStored), int(dataset.PixelRepresentation)
        ends = np.array([0, 2**bits - 1]) - signed * 2**(bits - 1)
        low, high = apply_modality_lut(ends, dataset)
        if low == high:
            raise ValueError("its RescaleSlope is 0")
        shown = apply_voi_lut(apply_modality_lut(dataset.pixel_array, dataset), dataset)
    except (pydicom.errors.InvalidDicomError, AttributeError, KeyError, NotImplementedError,
            OSError, EOFError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise HeatproofError(
            f"{path} is damaged or no DICOM image ({reason}); fetch it again") from None
    share = np.clip((shown.astype(np.float64) - low) / (high - low), 0, 1)
    if kind == "MONOCHROME1":
        share = 1 - share
    return np.asarray(share * 255 + 0.5).astype(np.uint8)[None]
