"""The files of a card: where they lie, and their bytes."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from bench.core import Card, HeatproofError


def data_root() -> Path:
    """The folder of all published data sets; one that cannot be there if none is named."""
    return Path(os.environ.get("HEATPROOF_DATA") or "$HEATPROOF_DATA")


def home(card: Card) -> Path:
    """The folder of a card's files, there or not: `HEATPROOF_DATA/` and its path, or its name."""
    return data_root() / (card.path or card.name)


def absent(card: Card, why: str = "") -> HeatproofError:
    """The error for a card's folder that is not there, with the card's own word on its layout."""
    return HeatproofError(
        f"{card.name}: there is no folder {home(card)}{why}. {card.layout}".strip())


def content(path: Path, sha256: str = "") -> bytes:
    """The bytes of a file. Raises HeatproofError if it cannot be read or has another checksum."""
    try:
        found = path.read_bytes()
    except OSError as error:
        raise HeatproofError(f"cannot read {path}: {error.strerror}; fetch the original") from None
    if sha256 and (got := hashlib.sha256(found).hexdigest()) != sha256:
        raise HeatproofError(
            f"{path} has checksum {got[:12]}…, not {sha256[:12]}… as expected; the file is damaged "
            "or not the original: fetch it again")
    return found


def lacking(library: str, path: Path) -> HeatproofError:
    """The error for a library that is not installed and that a file needs."""
    return HeatproofError(f"{library} is needed to read {path}: pip install 'heatproof[data]'")
