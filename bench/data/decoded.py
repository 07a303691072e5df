"""Images decoded once: arrays in the cache, mapped into memory by every process that reads them.

`CACHE/decoded/ab/ab…/` holds x.npy, mask.npy where there are masks, flip-NAME.npy on planted sets,
and facts.json; `CACHE/decoded/wip/ab…/` is one under way, which the next reader goes on with.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
from filelock import FileLock

from bench.core import Card, HeatproofError, digest
from bench.data.catalogue import IN_FLIGHT, Catalogue
from bench.data.images import Array, Images
from bench.data.pixels import conformed, conformed_mask
from bench.plugins import sources
from bench.store import Cache, read_json, told, write_json

VERSION = "1"
"""Raise it when the same file would be decoded to other pixels."""
_CHUNK = 64
Progress = Callable[[int, int], None]


def silent(done: int, total: int) -> None:
    """Reports nothing."""


def decode(card: Card, catalogue: Catalogue, row: int) -> dict[str, Array]:
    """All arrays of one row as the card promises them: x, and mask and flip-NAME if any.

    Raises HeatproofError naming the file.
    """
    what = f"{card.name}: {catalogue.key[row]}"
    if catalogue.files:
        what = str(catalogue.files[row][0])
    image = catalogue.image(row)
    found = {"x": conformed(image, card, what)}
    if catalogue.mask:
        found["mask"] = conformed_mask(catalogue.mask(row), image, card, what)
    for name, flip in catalogue.flips.items():
        found[f"flip-{name}"] = conformed(flip(row), card, f"{what}, {name} flipped")
    return found


def read(
    card: Card, catalogue: Catalogue, rows: Array, *, cache: Cache | None = None,
    progress: Progress = silent, flips: bool = False,
) -> Images:
    """The images of some rows, from the cache; decoded into it if they are not there.

    Several processes may ask at once: one decodes, the others wait. A decoding that was stopped
    goes on where it was. Raises HeatproofError for what cannot be decoded or written.
    """
    if not flips:
        catalogue = replace(catalogue, flips={})
    name = _name(card, catalogue, rows)
    root = (cache or Cache()).root / "decoded"
    home, wip = root / name[:2] / name, root / "wip" / name
    if not (home / "facts.json").is_file():
        with told(wip):
            wip.parent.mkdir(parents=True, exist_ok=True)
            home.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(wip.with_suffix(".lock")):
            if not (home / "facts.json").is_file():
                _decode_all(card, catalogue, rows, wip, progress)
                with told(home):
                    wip.rename(home)
    return _opened(catalogue, rows, home)


def _name(card: Card, catalogue: Catalogue, rows: Array) -> str:
    """A hash of all that decides the pixels: the card, its source, the rows and their files."""
    facts = {k: v for k, v in asdict(card).items() if k in (
        "image", "fit", "resize", "options", "sha256", "source", "path")}
    keys = hashlib.sha256("\0".join(catalogue.key[row] for row in rows).encode()).hexdigest()
    state = hashlib.sha256()
    for path in catalogue.common:
        state.update(_state(path))
    if catalogue.files:  # many rows may stand for one folder or volume
        for path in dict.fromkeys(path for row in rows for path in catalogue.files[row]):
            state.update(_state(path))
    return digest({"card": facts, "keys": keys, "files": state.hexdigest(), "version": VERSION,
                   "source": sources[card.source][1], "mask": catalogue.mask is not None,
                   "flips": sorted(catalogue.flips)})


def _state(path: Path) -> bytes:
    """What tells a changed file without reading it."""
    try:
        stat = path.stat()
    except OSError:
        return f"{path}:absent\n".encode()
    return f"{path.name}:{stat.st_size}:{stat.st_mtime_ns}\n".encode()


def _decode_all(
    card: Card, catalogue: Catalogue, rows: Array, wip: Path, progress: Progress,
) -> None:
    shapes = {"x": card.image} | ({"mask": card.image[1:]} if catalogue.mask else {}) | {
        f"flip-{name}": card.image for name in catalogue.flips}
    with told(wip):
        wip.mkdir(exist_ok=True)
    done = _done(wip, shapes, len(rows))
    with ExitStack() as stack:
        files = {}
        for name, shape in shapes.items():
            with told(wip / f"{name}.npy"):
                files[name] = stack.enter_context(
                    _begun(wip / f"{name}.npy", len(rows), shape, done))
        pool = stack.enter_context(ThreadPoolExecutor(min(8, os.cpu_count() or 1)))
        while done < len(rows):
            progress(done, len(rows))
            chunk = rows[done:done + _CHUNK]
            for arrays in _in_order(pool, card, catalogue, chunk):
                for name, array in arrays.items():
                    with told(wip / f"{name}.npy"):
                        files[name].write(np.ascontiguousarray(array).tobytes())
            done += len(chunk)
            for name, file in files.items():
                with told(wip / f"{name}.npy"):
                    file.flush()
            (wip / "done").write_text(str(done), encoding="utf-8")
        for name, file in files.items():
            with told(wip / f"{name}.npy"):
                os.fsync(file.fileno())
    progress(len(rows), len(rows))
    write_json(wip / "facts.json", {"content": _content(wip, shapes, card)})
    (wip / "done").unlink()


def _in_order(
    pool: ThreadPoolExecutor, card: Card, catalogue: Catalogue, rows: Array,
) -> Iterator[dict[str, Array]]:
    """What `decode` makes of each row; nobody is IN_FLIGHT rows ahead of the slowest."""
    ahead: deque[Future[dict[str, Array]]] = deque()
    for row in rows:
        if len(ahead) == IN_FLIGHT:
            yield ahead.popleft().result()
        ahead.append(pool.submit(decode, card, catalogue, int(row)))
    while ahead:
        yield ahead.popleft().result()


def _done(wip: Path, shapes: Mapping[str, tuple[int, ...]], n: int) -> int:
    """How many rows an earlier decoding has written in full."""
    try:
        done = min(int((wip / "done").read_text(encoding="utf-8")), n)
        for name, shape in shapes.items():
            whole = len(_header(n, shape)) + done * int(np.prod(shape, dtype=np.int64))
            if (wip / f"{name}.npy").stat().st_size < whole:
                return 0
    except (OSError, ValueError):
        return 0
    return done


def _header(n: int, shape: tuple[int, ...]) -> bytes:
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        head, {"descr": "|u1", "fortran_order": False, "shape": (n, *shape)})
    return head.getvalue()


def _begun(path: Path, n: int, shape: tuple[int, ...], done: int) -> IO[bytes]:
    """A file of n uint8 arrays, open behind the first `done` of them.

    It is written in order and never mapped while it grows: a full disk is then an error that can
    be told, not the end of the process.
    """
    head = _header(n, shape)
    file = path.open("r+b" if done else "wb")
    if not done:
        file.write(head)
    file.seek(len(head) + done * int(np.prod(shape, dtype=np.int64)))
    file.truncate()
    return file


def _content(wip: Path, shapes: Mapping[str, tuple[int, ...]], card: Card) -> str:
    """A checksum of all arrays. Raises HeatproofError where masks mark nothing but 255."""
    found, seen = hashlib.sha256(), np.zeros(256, bool)
    for name in sorted(shapes):
        for part in _parts(np.load(wip / f"{name}.npy", mmap_mode="r")):
            found.update(np.ascontiguousarray(part).data)
            if name == "mask":
                seen |= np.bincount(part.ravel(), minlength=256) > 0
    if seen[255] and not seen[1:255].any():
        raise HeatproofError(
            f"{card.name}: its masks mark nothing but 255, which means ignore; write the parts as "
            "1, 2, …")
    return found.hexdigest()


def _parts(array: Array) -> Iterator[Array]:
    for start in range(0, len(array), 256):
        yield np.asarray(array[start:start + 256])


def _opened(catalogue: Catalogue, rows: Array, home: Path) -> Images:
    def array(name: str) -> Any:
        try:
            return np.load(home / f"{name}.npy", mmap_mode="r")
        except (OSError, ValueError) as error:
            raise HeatproofError(
                f"{home / name}.npy is damaged ({error}); delete that folder and run again"
            ) from None

    facts = read_json(home / "facts.json")
    return Images(
        x=array("x"), y=np.array([catalogue.label[row] for row in rows], np.int64),
        key=tuple(catalogue.key[row] for row in rows),
        group=tuple(catalogue.group[row] for row in rows) if catalogue.group else (),
        mask=array("mask") if catalogue.mask else None,
        flips={name: array(f"flip-{name}") for name in catalogue.flips},
        content=facts["content"])
