"""Cards and what they stand for: `card(name)`, then `load(card, split)` gives Images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench import plugins
from bench.core import HOME, Card, unknown
from bench.data import decoded
from bench.data.catalogue import parted
from bench.data.decoded import Progress, silent
from bench.data.files import data_root

if TYPE_CHECKING:
    from pathlib import Path

    from bench.data.catalogue import Catalogue
    from bench.data.images import Images


def cards() -> dict[str, Path]:
    """Every data set's name with the file of its card.

    Beside ours, a folder of `HEATPROOF_DATA` may hold a card of its own, NAME/card.toml.
    """
    ours = {path.stem: path for path in sorted((HOME / "datasets").glob("*.toml"))}
    own = {path.parent.name: path for path in sorted(data_root().glob("*/card.toml"))}
    return ours | {name: path for name, path in own.items() if name not in ours}


def card(name: str) -> Card:
    """The card of a data set. Raises HeatproofError for an unknown name or a bad card."""
    known = cards()
    if name not in known:
        raise unknown("data set", name, known)
    return Card.read(known[name])


def fingerprint(card: Card) -> str:
    """What enters the ids for the data: the card's own hash and its source's version."""
    return f"{card.fingerprint}-{card.source}-{plugins.sources[card.source][1]}"


def catalogue(card: Card) -> Catalogue:
    """All images of a card, none of them decoded.

    Raises HeatproofError for files that are missing or altered, and what they tell wrongly.
    """
    read, _ = plugins.sources[card.source]
    found: Catalogue = read(card)
    return found


def load(card: Card, split: str, *, progress: Progress = silent) -> Images:
    """All images of one split of a card, checked against what the card promises.

    They are decoded at the first call, and mapped from the cache ever after. Raises HeatproofError
    for a missing file, a wrong checksum, an image of another size, a label that is no class, or a
    mask of another size.
    """
    if split not in card.splits:
        raise unknown(f"split of {card.name}", split, card.splits)
    found = catalogue(card)
    rows = parted(card, found)[split]
    images = decoded.read(card, found, rows, progress=progress, flips=split == "test")
    images.check(card, split)
    return images


_HELD = 6
_held: dict[tuple[str, str, int], Images] = {}


def held(name: str, split: str, fold: int = 0, *, progress: Progress = silent) -> Images:
    """Like `load(card(name).fold(fold), split)`, kept open: runs in one process share it."""
    place = (name, split, fold)
    if place not in _held:
        images = load(card(name).fold(fold), split, progress=progress)
        if len(_held) >= _HELD:
            _held.pop(next(iter(_held)))
        _held[place] = images
    return _held[place]
