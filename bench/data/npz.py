"""MedMNIST's npz files: small images of one size, the publisher's splits beside each other."""

from __future__ import annotations

import hashlib
import io
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from bench.core import Card, HeatproofError, filled
from bench.data.catalogue import Catalogue
from bench.data.files import absent, content, home
from bench.data.images import Array
from bench.plugins import source

PARTS = ("train", "val", "test")


@dataclass(frozen=True)
class Layout:
    """The `options` of a card in MedMNIST's format.

    file: the npz file; it holds PART_images (N, H, W) or (N, H, W, 3) uint8, and PART_labels (N, 1)
    of whole numbers, for the parts train, val and test, which are the publisher's words on the
    split. drop_leaks: leaves out each image of val whose pixels occur in test, and each of train
    whose pixels occur in val or test.
    """

    file: str
    drop_leaks: bool = False


@source("npz")
def read(card: Card) -> Catalogue:
    """The images of one npz file in `HEATPROOF_DATA/NAME/`, as `Layout` says; keys: train-00012.

    The format is MedMNIST's (Yang et al., Scientific Data 10, 2023; MedMNIST/MedMNIST). Raises
    HeatproofError for a file that is missing, altered or truncated, an array that is missing or of
    another type or shape, several labels an image, and volumes.
    """
    layout = filled(Layout, card.options, f"options of card {card.name}")
    if not home(card).is_dir():
        raise absent(card)
    path = home(card) / layout.file
    packed = Packed(path, card.sha256.get(layout.file, ""))
    labels = {part: _labels(packed, part) for part in PARTS}
    rows = _without_leaks(packed) if layout.drop_leaks else {
        part: range(len(labels[part])) for part in PARTS}
    at = [(part, row) for part in PARTS for row in rows[part]]

    def image(row: int) -> Array:
        pixels: Array = packed.images(at[row][0])[at[row][1]]
        return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)

    return Catalogue(
        key=tuple(f"{part}-{row:05d}" for part, row in at),
        label=tuple(int(labels[part][row]) for part, row in at), image=image,
        told=tuple(part for part, _ in at), common=(path,))


class Packed:
    """An npz file in memory. Arrays of images are unpacked when first asked for, once."""

    def __init__(self, path: Path, sha256: str) -> None:
        self.path, self.lock = path, Lock()
        self.unpacked: dict[str, Array] = {}
        try:
            self.file: Any = np.load(io.BytesIO(content(path, sha256)), allow_pickle=False)
        except (ValueError, EOFError, zipfile.BadZipFile):
            self.file = None
        if not isinstance(self.file, np.lib.npyio.NpzFile):
            raise HeatproofError(f"{path} is truncated or no npz file; fetch it again")

    def images(self, part: str) -> Array:
        """(N, H, W) or (N, H, W, 3) uint8."""
        with self.lock:
            if part not in self.unpacked:
                self.unpacked[part] = self.array(f"{part}_images")
        return self.unpacked[part]

    def array(self, name: str) -> Array:
        """One array. Raises HeatproofError if it is missing or damaged."""
        self.shape(name)
        try:
            return np.asarray(self.file[name])
        except (ValueError, OSError, EOFError, zlib.error, zipfile.BadZipFile) as error:
            raise self.damaged(name, error) from None

    def shape(self, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """The shape and type of an array that stays packed."""
        if name not in self.file:
            raise HeatproofError(f"{self.path} has no {name}, only {', '.join(self.file)}; fetch "
                                 "the original of MedMNIST's format")
        try:
            with self.file.zip.open(f"{name}.npy") as head:
                old = np.lib.format.read_magic(head) == (1, 0)
                told = (np.lib.format.read_array_header_1_0 if old
                        else np.lib.format.read_array_header_2_0)(head)
        except (ValueError, OSError, EOFError, zlib.error, zipfile.BadZipFile) as error:
            raise self.damaged(name, error) from None
        return told[0], told[2]

    def damaged(self, name: str, error: Exception) -> HeatproofError:
        """The error for an array that cannot be unpacked."""
        reason = str(error).partition("\n")[0]
        return HeatproofError(f"{self.path}: {name} is damaged ({reason}); fetch the file again")


def _labels(packed: Packed, part: str) -> Array:
    """The class numbers (N,) of a part whose images are as many and can be used."""
    shape, kind = packed.shape(f"{part}_images")
    where = f"{packed.path}: {part}"
    if kind != np.uint8:
        raise HeatproofError(f"{where}_images are {kind}, not uint8; fetch the original")
    if len(shape) == 4 and shape[3] != 3:
        raise HeatproofError(f"{where}_images are volumes {shape[1:]}; take a set of flat images")
    if len(shape) not in (3, 4):
        raise HeatproofError(f"{where}_images are of shape {shape}, not (N, H, W) or (N, H, W, 3); "
                             "fetch the original")
    labels = packed.array(f"{part}_labels")
    if labels.ndim == 2 and labels.shape[1] > 1:
        raise HeatproofError(f"{where}_labels are {labels.shape[1]} an image (multi-label); take a "
                             "set with one class an image")
    if labels.size != len(labels) or not np.issubdtype(labels.dtype, np.integer):
        raise HeatproofError(f"{where}_labels are {labels.dtype} {labels.shape}, not one whole "
                             "number an image; fetch the original")
    if len(labels) != shape[0]:
        raise HeatproofError(f"{where} has {shape[0]} images and {len(labels)} labels; fetch the "
                             "original")
    return labels.reshape(-1)


def _without_leaks(packed: Packed) -> dict[str, list[int]]:
    """The rows of each part whose pixels occur in no later part."""
    later: set[bytes] = set()
    rows: dict[str, list[int]] = {}
    for part in reversed(PARTS):
        found = [hashlib.sha256(image.tobytes()).digest() for image in packed.images(part)]
        rows[part] = [row for row, pixels in enumerate(found) if pixels not in later]
        later.update(found)
    return rows
