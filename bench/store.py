"""Files that are whole or absent: atomic writes, and the content-addressed cache.

Layout of the cache: `KIND/ab/ab….safetensors` for what is finished (`models`, and beside each what
its training cost, `….cost.json`; `maps`), and `wip/ID.safetensors` for a training under way.
Nothing in it is a pickle. What names its content is written once: of two writers the first wins,
and a reader keeps the file that it opened.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from bench.core import HeatproofError, canonical

Arrays = Mapping[str, np.ndarray[Any, Any]]


@contextmanager
def told(path: Path, verb: str = "write") -> Iterator[None]:
    """Turns an error of the file system into one line that names the file and the cure."""
    try:
        yield
    except (PermissionError, FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise HeatproofError(
            f"cannot {verb} {path}: {error.strerror}; "
            "give another folder (--out for results, HEATPROOF_CACHE for the cache)") from error
    except OSError as error:
        raise HeatproofError(
            f"cannot {verb} {path}: {error.strerror or error}; what was finished is kept, "
            "so make room and run the same command again") from error


def write_bytes(path: Path, content: bytes, *, once: bool = False) -> bool:
    """Puts `content` at `path`, whole or not at all: temporary name, fsync, rename.

    `once` leaves a file that is there already, also one that another process puts there at the same
    time. Returns whether the content is ours.
    """
    with told(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            if once:
                return _linked(temporary, path)
            temporary.replace(path)
            return True
        finally:
            temporary.unlink(missing_ok=True)


def _linked(temporary: Path, path: Path) -> bool:
    """Gives a file its name unless the name is taken; whether it was given."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError:  # a file system without links
        if path.exists():
            return False
        temporary.replace(path)
    return True


def write_json(path: Path, value: object) -> None:
    """Puts `value` at `path` as indented JSON with sorted keys."""
    text = json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False)
    write_bytes(path, (text + "\n").encode())


def read_json(path: Path) -> Any:
    """The content of a JSON file. Raises HeatproofError if it is missing or torn."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise HeatproofError(f"there is no file {path}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise HeatproofError(f"{path} is damaged ({error}); delete it and run again") from None


def write_arrays(
    path: Path, arrays: Arrays, facts: object = None, *, once: bool = False,
) -> bool:
    """Puts arrays, and facts as JSON, at `path` as safetensors: the same input, the same bytes.

    `once` and what is returned are those of `write_bytes`.
    """
    whole = {name: np.asarray(array, order="C") for name, array in sorted(arrays.items())}
    return write_bytes(path, save(whole, metadata={"facts": canonical(facts)}), once=once)


def read_arrays(path: Path) -> tuple[dict[str, np.ndarray[Any, Any]], Any]:
    """The arrays and the facts of a safetensors file. Raises HeatproofError if it is damaged."""
    try:
        with safe_open(path, framework="numpy") as file:
            facts = json.loads((file.metadata() or {}).get("facts", "null"))
            return {name: file.get_tensor(name) for name in file.keys()}, facts  # noqa: SIM118
    except FileNotFoundError:
        raise HeatproofError(f"there is no file {path}") from None
    except (SafetensorError, ValueError) as error:
        raise HeatproofError(f"{path} is damaged ({error}); delete it and run again") from None


class Cache:
    """The content-addressed store of checkpoints and maps, shared by all suites.

    By default it lies in `HEATPROOF_CACHE`, else in the user's cache folder.
    """

    def __init__(self, root: Path | None = None) -> None:
        fallback = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "heatproof"
        self.root = root or Path(os.environ.get("HEATPROOF_CACHE") or fallback)

    def path(self, kind: str, name: str) -> Path:
        """Where the finished artefact `name` of a kind lies, or would lie."""
        return self.root / kind / name[:2] / f"{name}.safetensors"

    def wip(self, name: str) -> Path:
        """Where the progress of a training lies until it is finished."""
        return self.root / "wip" / f"{name}.safetensors"

    def has(self, kind: str, name: str) -> bool:
        """Whether the artefact is finished."""
        return self.path(kind, name).is_file()
