"""The IDX files of MNIST and its kin (LeCun's format), gzipped, as published."""

from __future__ import annotations

import gzip
import zlib
from bisect import bisect_right
from pathlib import Path
from typing import Any

import numpy as np

from bench.core import Card, HeatproofError
from bench.data.catalogue import Catalogue
from bench.data.files import absent, content, home
from bench.plugins import source
from bench.store import Cache

_TYPES: dict[int, np.dtype[Any]] = {
    0x08: np.dtype(">u1"), 0x09: np.dtype(">i1"), 0x0B: np.dtype(">i2"), 0x0C: np.dtype(">i4"),
    0x0D: np.dtype(">f4"), 0x0E: np.dtype(">f8")}


@source("idx", version="2")
def read(card: Card) -> Catalogue:
    """Images and labels; a split names its two files: [images, labels].

    The folder is `HEATPROOF_DATA/NAME/`; without one, torchvision downloads the class that the
    card's `options.torchvision` names into the cache.
    """
    folder = found(card)
    key: list[str] = []
    label: list[int] = []
    images: list[np.ndarray[Any, Any]] = []
    rows: dict[str, range] = {}
    for split, files in card.splits.items():
        if not isinstance(files, list | tuple) or len(files) != 2:
            raise HeatproofError(
                f"card {card.name}: split {split} must name [images, labels] files")
        x = read_idx(folder / files[0], card.sha256.get(files[0], ""))
        y = read_idx(folder / files[1], card.sha256.get(files[1], ""))
        if x.ndim != 3 or y.ndim != 1 or len(x) != len(y):
            raise HeatproofError(
                f"{folder}: {files[0]} holds {x.shape}, {files[1]} {y.shape}; they need as many "
                "images as labels")
        stem = files[0].partition("-")[0]
        rows[split] = range(len(key), len(key) + len(y))
        key += [f"{stem}-{number:05d}" for number in range(len(y))]
        label += y.tolist()
        images.append(x)
    starts = [part.start for part in rows.values()]

    def image(row: int) -> np.ndarray[Any, Any]:
        part = bisect_right(starts, row) - 1
        return np.asarray(images[part][row - starts[part]][None])

    return Catalogue(key=tuple(key), label=tuple(label), image=image, rows=rows, common=tuple(
        folder / file for files in card.splits.values() for file in files))


def found(card: Card) -> Path:
    """The folder that holds a card's files. Raises if there is none and none can be fetched."""
    if home(card).is_dir():
        return home(card)
    kind = str(card.options.get("torchvision", ""))
    if not kind:
        raise absent(card)
    root = Cache().root / "data"
    raw = root / kind / "raw"
    if not all((raw / file).is_file() for files in card.splits.values() for file in files):
        import torchvision

        try:
            getattr(torchvision.datasets, kind)(root=root, download=True)
        except Exception as error:  # torchvision raises what its mirrors raise
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise absent(card, f", and torchvision could not download it ({reason})") from error
    return raw


def read_idx(path: Path, sha256: str = "") -> np.ndarray[Any, Any]:
    """The array in a gzipped IDX file. Raises HeatproofError if missing, altered or truncated."""
    packed = content(path, sha256)
    try:
        whole = gzip.decompress(packed)
    except (OSError, EOFError, zlib.error) as error:
        raise HeatproofError(f"{path} is truncated or no gzip file ({error}); fetch it again"
                             ) from None
    if len(whole) < 4 or whole[:2] != b"\0\0" or whole[2] not in _TYPES:
        raise HeatproofError(f"{path} is no IDX file; fetch the original")
    kind, dims = _TYPES[whole[2]], whole[3]
    shape = tuple(np.frombuffer(whole, ">u4", dims, 4)) if len(whole) >= 4 + 4 * dims else ()
    body = whole[4 + 4 * dims:]
    need = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
    if len(body) != need or not shape:
        raise HeatproofError(
            f"{path} is truncated: {len(body)} bytes of data, its header says {need}; "
            "fetch it again")
    array = np.frombuffer(body, kind).reshape(tuple(int(n) for n in shape))
    return array.astype(kind.newbyteorder("="))
