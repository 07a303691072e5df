"""Volumes of MRI in several contrasts, cut into axial slices: NIfTI and MetaImage."""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path, PurePath
from threading import Lock
from typing import Any, Literal

import numpy as np

from bench.core import Card, HeatproofError, digest, filled, unknown
from bench.data import lists
from bench.data.catalogue import IN_FLIGHT, Catalogue
from bench.data.files import absent, content, home, lacking
from bench.data.images import Array
from bench.data.pixels import by_peak
from bench.plugins import source, sources
from bench.store import Cache, read_json, write_json

TUMOUR, NONE, EMPTY = "t", "n", "-"
"""What a slice shows: a labelled voxel, none, nothing at all."""


@dataclass(frozen=True)
class Layout:
    """The `options` of a card: where its volumes lie, and what is told of its patients.

    scans: the pattern of the scans' folders. contrasts: the pattern below such a folder of each
    contrast's file, in the order of the channels; mask: that of the labels. labels: the values
    that a mask may have beside 0. healthy: the class of a slice without a labelled voxel; all
    others have the scan's grade, which is its class. grades: a CSV file with the grade of each
    scan, and its columns; without one, the grade is the name of the folder around the scan's.
    visits: a scan's folder is called PATIENT_VISIT, not just PATIENT. scale: what becomes 255,
    "slice" (the slice's largest value over all contrasts; 0 stays 0) or "volume" (the percentile
    99.5 of each contrast of a scan over its voxels that are not 0, and 0.5 becomes 1).
    """

    scans: str
    contrasts: tuple[str, ...]
    mask: str
    labels: tuple[int, ...]
    healthy: str
    grades: str = ""
    scan: str = ""
    grade: str = ""
    visits: bool = False
    scale: Literal["slice", "volume"] = "slice"


@dataclass(frozen=True)
class Scan:
    """One scan of one patient; files are its contrasts and then its mask."""

    name: str
    patient: str
    label: int
    files: tuple[Path, ...]


@source("volumes")
def read(card: Card) -> Catalogue:
    """Axial slices, from the feet to the head, each with as many channels as there are contrasts.

    A slice is left out where it has no labelled voxel and its first contrast is 0 throughout, as
    the authors of GP-UNet do (soumickmj/GPModels, c6243a4, Brats_PreprocessingV2.py). Key: the
    scan's folder and the number of the slice; group: the patient. Which slice shows what is found
    once and kept in the cache. Raises HeatproofError for a scan that lacks a file or has two, is
    missing in the table of grades or in the folder, whose volumes differ in shape, whose mask has
    other values, and for a damaged file.
    """
    layout = _layout(card)
    scans = _scans(card, layout)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        shown = list(pool.map(lambda scan: _shown(card, layout, scan), scans))
    healthy = card.classes.index(layout.healthy)
    rows = [(scan, z, healthy if kind == NONE else scan.label)
            for scan, kinds in zip(scans, shown, strict=True)
            for z, kind in enumerate(kinds) if kind != EMPTY]
    lock = Lock()  # several threads ask for slices of one scan, and one shall read it
    held = lru_cache(maxsize=_at_once([scan for scan, _, _ in rows]))

    @held
    def contrasts(scan: Scan) -> Array:
        stack = [opened(path, card) for path in scan.files[:-1]]
        for path, volume in zip(scan.files[1:-1], stack[1:], strict=True):
            _same_shape(path, volume, scan.files[0], stack[0])
        return np.stack(stack if layout.scale == "slice" else [_spread(one) for one in stack])

    @held
    def labels(scan: Scan) -> Array:
        return _labels(scan.files[-1], card, layout)

    def image(row: int) -> Array:
        scan, z, _ = rows[row]
        with lock:
            stack = contrasts(scan)
        return by_peak(stack[:, z]) if layout.scale == "slice" else stack[:, z]

    def mask(row: int) -> Array:
        scan, z, _ = rows[row]
        with lock:
            volume = labels(scan)
        return np.asarray(volume[z])

    return Catalogue(
        key=tuple(f"{scan.name}/{z:03d}" for scan, z, _ in rows),
        label=tuple(label for _, _, label in rows), image=image, mask=mask,
        group=tuple(scan.patient for scan, _, _ in rows),
        files=tuple(scan.files for scan, _, _ in rows))


def _at_once(scans: list[Scan]) -> int:
    """How many scans those may be at who read slice after slice, some sooner than others."""
    new = [one is not other for one, other in pairwise(scans)]
    return 1 + max((sum(new[row:row + IN_FLIGHT]) for row in range(len(new))), default=0)


def _layout(card: Card) -> Layout:
    layout = filled(Layout, card.options, f"options of card {card.name}")
    if len(layout.contrasts) != card.image[0]:
        raise HeatproofError(f"card {card.name}: {len(layout.contrasts)} contrasts do not make "
                             f"{card.image[0]} channels; name one a channel")
    if layout.scale not in ("slice", "volume"):
        raise unknown(f"scale of card {card.name}", layout.scale, ("slice", "volume"))
    if not all(isinstance(label, int) and 0 < label < 256 for label in layout.labels):
        raise HeatproofError(f"card {card.name}: labels must be numbers from 1 to 255, not "
                             f"{list(layout.labels)}")
    if layout.healthy not in card.classes:
        raise unknown(f"healthy class of card {card.name}", layout.healthy, card.classes)
    return layout


def _scans(card: Card, layout: Layout) -> list[Scan]:
    root = home(card)
    if not root.is_dir():
        raise absent(card)
    folders = sorted(path for path in root.glob(layout.scans) if path.is_dir())
    if not folders:
        raise HeatproofError(f"{root} holds no folder {layout.scans}. {card.layout}".strip())
    found = []
    for folder, grade in _grades(card, layout, folders).items():
        if grade not in card.classes or grade == layout.healthy:
            raise HeatproofError(
                f"{folder} is of grade {grade!r}, which is none of card {card.name} "
                f"({', '.join(card.classes)}); correct it, or take it away")
        visited = folder.name.rpartition("_")[0] if layout.visits else ""
        found.append(Scan(
            name=folder.relative_to(root).as_posix(), patient=visited or folder.name,
            label=card.classes.index(grade),
            files=tuple(_one(folder, what) for what in (*layout.contrasts, layout.mask))))
    return found


def _grades(card: Card, layout: Layout, folders: list[Path]) -> dict[Path, str]:
    """The grade of every scan, by the table or by the folder around it."""
    if not layout.grades:
        return {folder: folder.parent.name for folder in folders}
    table = home(card) / layout.grades
    told = lists.read(table, lists.Columns(file=layout.scan, label=layout.grade),
                      card.sha256.get(layout.grades, ""))
    names = {folder: lists.key_of(PurePath(folder.name)) for folder in folders}
    if lost := sorted(told.keys() - set(names.values())):
        raise HeatproofError(
            f"{home(card)} lacks {lost[0]}{f' and {len(lost) - 1} more' if lost[1:] else ''}, of "
            f"which {table.name} tells the grade; fetch it, or take its row away")
    if spare := sorted(set(names.values()) - told.keys()):
        raise HeatproofError(f"{table} does not tell the grade of {spare[0]}; fetch the original, "
                             "or take its folder away")
    return {folder: told[name].label for folder, name in names.items()}


def _one(folder: Path, pattern: str) -> Path:
    found = sorted(path for path in folder.glob(pattern) if path.is_file())
    if len(found) != 1:
        raise HeatproofError(
            f"{folder} lacks {pattern}; fetch the original" if not found else
            f"{folder} has {found[0].name} and {found[1].name}, both {pattern}; keep one of them")
    return found[0]


def _shown(card: Card, layout: Layout, scan: Scan) -> str:
    """What every slice of a scan shows, a letter a slice."""
    def look() -> str:
        first, labels = opened(scan.files[0], card), _labels(scan.files[-1], card, layout)
        _same_shape(scan.files[-1], labels, scan.files[0], first)
        return "".join(
            TUMOUR if tumour.any() else NONE if tissue.any() else EMPTY
            for tumour, tissue in zip(labels, first, strict=True))

    files = (scan.files[0], scan.files[-1])
    return str(remembered(look, files, sources[card.source][1], layout.labels, dict(card.sha256)))


def remembered(find: Callable[[], Any], files: Iterable[Path], *facts: object) -> Any:
    """What `find()` returns, as JSON in the cache until a file changes in size or date.

    facts: what else decides it.
    """
    state = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    name = digest([find.__module__, find.__qualname__, state, facts])
    path = Cache().root / "catalogues" / name[:2] / f"{name}.json"
    if not path.is_file():
        write_json(path, find())
    return read_json(path)


def _labels(path: Path, card: Card, layout: Layout) -> Array:
    found = opened(path, card)
    with np.errstate(invalid="ignore"):
        labels = found.astype(np.uint8)
    known = np.bincount(labels.ravel(), minlength=256)
    known[[0, *layout.labels]] = 0
    if known.any() or (labels != found).any():
        raise HeatproofError(
            f"{path} holds {found[(labels != found) | (known[labels] > 0)][0]:g}, a mask of card "
            f"{card.name} 0 or {', '.join(map(str, layout.labels))}; correct one of them")
    return labels


def _same_shape(path: Path, volume: Array, other: Path, first: Array) -> None:
    if volume.shape != first.shape:
        raise HeatproofError(
            f"{path} is {' × '.join(map(str, volume.shape))} voxels, {other.name} "
            f"{' × '.join(map(str, first.shape))} (slices, rows, columns); fetch the originals")


def _spread(volume: Array) -> Array:
    """A volume as uint8: 0 where it is 0, elsewhere 1..255 by its percentiles."""
    inside = volume != 0
    if not inside.any():
        return np.zeros(volume.shape, np.uint8)
    low, high = np.percentile(volume[inside], (0.5, 99.5))
    share = np.clip((volume - low) / max(high - low, 1e-30), 0, 1)
    return np.where(inside, share * 254 + 1.5, 0).astype(np.uint8)


def opened(path: Path, card: Card) -> Array:
    """A volume as upright axial slices (Z, H, W), as a radiologist looks at them.

    Slices run from the feet to the head, rows from the face to the back of the head, columns from
    the patient's right to the left. The file's header tells how the stored axes lie; the nearest
    of the 48 turns is taken, so no value is interpolated. Raises HeatproofError for a file that is
    missing, altered, damaged, no volume, or holds what is no number.
    """
    told = card.sha256.get(path.relative_to(home(card)).as_posix(), "")
    volume = _nifti(path, told) if path.name.endswith((".nii", ".nii.gz")) else _metaimage(
        path, told)
    if volume.ndim != 3 or not volume.size or volume.dtype.kind not in "iuf":
        raise HeatproofError(f"{path} is {volume.dtype} of shape {volume.shape}, not one volume of "
                             "numbers; fetch the original")
    if volume.dtype.kind == "f" and not np.isfinite(volume).all():
        raise HeatproofError(f"{path} holds voxels that are no number; fetch the original")
    return volume


def _nifti(path: Path, sha256: str) -> Array:
    try:
        import nibabel
        from nibabel.filebasedimages import ImageFileError
        from nibabel.orientations import OrientationError
        from nibabel.spatialimages import HeaderDataError
        from nibabel.wrapstruct import WrapStructError
    except ImportError:
        raise lacking("nibabel", path) from None
    try:
        raw = content(path, sha256)
        if raw[:2] == b"\x1f\x8b":
            raw = gzip.decompress(raw)
        image = nibabel.Nifti1Image.from_bytes(raw)
        image = nibabel.as_closest_canonical(image)  # type: ignore[no-untyped-call]
        # Canonical axes run to the right, the front and the head of the patient.
        return np.asarray(image.dataobj).T[:, ::-1, ::-1]
    except (OSError, EOFError, ValueError, zlib.error, np.linalg.LinAlgError, HeaderDataError,
            ImageFileError, OrientationError, WrapStructError) as error:
        reason = str(error).partition("\n")[0]
        raise HeatproofError(
            f"{path} is damaged or no volume ({reason}); fetch it again") from None


def _metaimage(path: Path, sha256: str) -> Array:
    try:
        import SimpleITK
    except ImportError:
        raise lacking("SimpleITK", path) from None
    if sha256:
        content(path, sha256)
    try:
        # Axes that run to the left, the back and the head; arrays have them the other way about.
        image = SimpleITK.DICOMOrient(  # type: ignore[no-untyped-call]
            SimpleITK.ReadImage(str(path)), "LPS")
        return np.asarray(SimpleITK.GetArrayFromImage(image))
    except RuntimeError:  # whose words are of another file, or of none
        raise HeatproofError(f"{path} is damaged or no volume; fetch it again") from None
