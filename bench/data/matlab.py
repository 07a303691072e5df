"""The brain tumour slices of Cheng et al.: a MATLAB file (version 7.3, which is HDF5) a slice."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.core import Card, HeatproofError, filled
from bench.data.catalogue import Catalogue
from bench.data.files import absent, content, home, lacking
from bench.data.images import Array
from bench.data.pixels import by_peak
from bench.data.volumes import remembered
from bench.plugins import source, sources

FIELDS = ("label", "PID", "image", "tumorMask")


@dataclass(frozen=True)
class Layout:
    """The `options` of a card. slices: how many files there are, 1.mat and on."""

    slices: int


@source("cheng")
def read(card: Card) -> Catalogue:
    """The slices, in the order of their numbers, with the tumour's mask; the group is the patient.

    A slice's largest value becomes 255, as the authors of GP-UNet divide by it; what is below 0
    becomes 0. The files may lie in several folders, as they are unpacked; what is not called by a
    number (cvind.mat) is not read. Label and patient of each are found once and kept in the cache.
    Raises HeatproofError for a number that is missing or there twice, and for a file that is
    altered, damaged, of an older version, or lacks a field.
    """
    layout = filled(Layout, card.options, f"options of card {card.name}")
    files = _files(card, layout.slices)

    def look() -> list[tuple[int, str]]:
        return [_told(path, card) for path in files]

    told = remembered(look, files, sources[card.source][1], card.classes, dict(card.sha256))

    def image(row: int) -> Array:
        with _opened(files[row], card) as cjdata:
            return by_peak(_plane(cjdata, "image", files[row]))

    def mask(row: int) -> Array:
        with _opened(files[row], card) as cjdata:
            plane = _plane(cjdata, "tumorMask", files[row])[0]
        if not np.isin(plane, (0, 1)).all():
            raise HeatproofError(f"{files[row]}: tumorMask holds {plane.max():g}, not 0 and 1 "
                                 "alone; fetch the original")
        return np.asarray(plane, np.uint8)

    return Catalogue(
        key=tuple(f"{number:04d}" for number in range(1, len(files) + 1)),
        label=tuple(label for label, _ in told), group=tuple(patient for _, patient in told),
        image=image, mask=mask, files=tuple((path,) for path in files))


def _files(card: Card, slices: int) -> list[Path]:
    root = home(card)
    if not root.is_dir():
        raise absent(card)
    found: dict[int, Path] = {}
    for path in sorted(root.rglob("*.mat")):
        if path.stem.isdecimal():
            if other := found.get(int(path.stem)):
                raise HeatproofError(f"{path} is there as {other} too; keep one of them")
            found[int(path.stem)] = path
    if lost := sorted(set(range(1, slices + 1)) - found.keys()):
        raise HeatproofError(
            f"{root} lacks {lost[0]}.mat{f' and {len(lost) - 1} more' if lost[1:] else ''} of "
            f"{slices} slices. {card.layout}".strip())
    if spare := sorted(found.keys() - set(range(1, slices + 1))):
        raise HeatproofError(f"{found[spare[0]]} is none of the {slices} slices; take it away, or "
                             f"correct the card's slices")
    return [found[number] for number in sorted(found)]


def _told(path: Path, card: Card) -> tuple[int, str]:
    """The class and the patient of a slice."""
    with _opened(path, card) as cjdata:
        label, patient = np.asarray(cjdata["label"]), np.asarray(cjdata["PID"])
    if label.size != 1 or label.item() not in range(1, len(card.classes) + 1):
        raise HeatproofError(
            f"{path}: label is {' '.join(map(str, label.ravel()[:4]))}, not 1 to "
            f"{len(card.classes)} ({', '.join(card.classes)}); fetch the original")
    name = "".join(map(chr, patient.ravel())) if patient.dtype.kind == "u" else ""
    if not name.strip() or not name.isprintable():
        raise HeatproofError(f"{path}: PID is no text; fetch the original")
    return int(label.item()) - 1, name


def _plane(cjdata: Any, name: str, path: Path) -> Array:
    """A matrix of MATLAB as (1, H, W); HDF5 tells its columns first."""
    plane = np.asarray(cjdata[name])
    if plane.ndim != 2 or not plane.size or plane.dtype.kind not in "iuf":
        raise HeatproofError(f"{path}: {name} is {plane.dtype} of shape {plane.shape}, no matrix "
                             "of numbers; fetch the original")
    return plane.T[None]


@contextmanager
def _opened(path: Path, card: Card) -> Iterator[Any]:
    """The struct cjdata of a file; what goes wrong while it is read is told in one line."""
    try:
        import h5py
    except ImportError:
        raise lacking("h5py", path) from None
    packed = content(path, card.sha256.get(path.relative_to(home(card)).as_posix(), ""))
    if packed.startswith(b"MATLAB 5.0"):
        raise HeatproofError(f"{path} is a MATLAB file of version 7 or older; fetch the original, "
                             "or save it with -v7.3")
    try:
        with h5py.File(io.BytesIO(packed)) as file:
            cjdata = file.get("cjdata")
            lost = [name for name in FIELDS if not isinstance(cjdata, h5py.Group)
                    or not isinstance(cjdata.get(name), h5py.Dataset)]
            if lost:
                raise HeatproofError(f"{path} lacks cjdata.{lost[0]}; fetch the original")
            yield cjdata
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise HeatproofError(f"{path} is damaged ({reason}); fetch it again") from None
