"""The IDX files of MNIST and its kin (LeCun's format), gzipped, as published."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from bench.core import Card, HeatproofError
from bench.data.files import absent, content, home
from bench.data.images import Images
from bench.plugins import source
from bench.store import Cache

_TYPES: dict[int, np.dtype[Any]] = {
    0x08: np.dtype(">u1"), 0x09: np.dtype(">i1"), 0x0B: np.dtype(">i2"), 0x0C: np.dtype(">i4"),
    0x0D: np.dtype(">f4"), 0x0E: np.dtype(">f8")}


@source("idx")
def read(card: Card, split: str) -> Images:
    """Images and labels of one split; a split names its two files: [images, labels].

    The folder is `HEATPROOF_DATA/NAME/`; without one, torchvision downloads the class that the
    card's `options.torchvision` names into the cache.
    """
    files = card.splits[split]
    if not isinstance(files, list) or len(files) != 2:
        raise HeatproofError(f"card {card.name}: split {split} must name [images, labels] files")
    folder = found(card)
    x = read_idx(folder / files[0], card.sha256.get(files[0], ""))
    y = read_idx(folder / files[1], card.sha256.get(files[1], ""))
    if x.ndim != 3 or y.ndim != 1 or len(x) != len(y):
        raise HeatproofError(
            f"{folder}: {files[0]} holds {x.shape}, {files[1]} {y.shape}; they need as many "
            "images as labels")
    stem = files[0].partition("-")[0]
    return Images(
        x=x[:, None], y=y.astype(np.int64),
        key=tuple(f"{stem}-{number:05d}" for number in range(len(y))))


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
