"""The IDX files of MNIST and its kin (LeCun's format), gzipped, as published."""

from __future__ import annotations

import gzip
import hashlib
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from bench.core import Card, HeatproofError
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
    name = card.path or card.name
    home = os.environ.get("HEATPROOF_DATA")
    if home and (Path(home) / name).is_dir():
        return Path(home) / name
    wanted = f"{Path(home) / name}" if home else f"$HEATPROOF_DATA/{name}"
    kind = str(card.options.get("torchvision", ""))
    if not kind:
        raise HeatproofError(f"{card.name}: there is no folder {wanted}. {card.layout}".strip())
    root = Cache().root / "data"
    raw = root / kind / "raw"
    if not all((raw / file).is_file() for files in card.splits.values() for file in files):
        import torchvision

        try:
            getattr(torchvision.datasets, kind)(root=root, download=True)
        except Exception as error:  # torchvision raises what its mirrors raise
            raise HeatproofError(
                f"{card.name}: there is no folder {wanted}, and torchvision could not download it "
                f"({str(error).splitlines()[0] if str(error) else type(error).__name__}). "
                f"{card.layout}".strip()) from error
    return raw


def read_idx(path: Path, sha256: str = "") -> np.ndarray[Any, Any]:
    """The array in a gzipped IDX file. Raises HeatproofError if missing, altered or truncated."""
    try:
        packed = path.read_bytes()
    except OSError as error:
        raise HeatproofError(f"cannot read {path}: {error.strerror}; fetch the original") from None
    if sha256 and (got := hashlib.sha256(packed).hexdigest()) != sha256:
        raise HeatproofError(
            f"{path} has checksum {got[:12]}…, the card expects {sha256[:12]}…; the file is "
            "damaged or not the original: fetch it again")
    try:
        content = gzip.decompress(packed)
    except (OSError, EOFError, zlib.error) as error:
        raise HeatproofError(f"{path} is truncated or no gzip file ({error}); fetch it again"
                             ) from None
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in _TYPES:
        raise HeatproofError(f"{path} is no IDX file; fetch the original")
    kind, dims = _TYPES[content[2]], content[3]
    shape = tuple(np.frombuffer(content, ">u4", dims, 4)) if len(content) >= 4 + 4 * dims else ()
    body = content[4 + 4 * dims:]
    need = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
    if len(body) != need or not shape:
        raise HeatproofError(
            f"{path} is truncated: {len(body)} bytes of data, its header says {need}; "
            "fetch it again")
    array = np.frombuffer(body, kind).reshape(tuple(int(n) for n in shape))
    return array.astype(kind.newbyteorder("="))
