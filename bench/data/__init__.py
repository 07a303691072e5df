"""Cards and what they stand for: `card(name)`, then `load(card, split)` gives Images."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from bench import plugins
from bench.core import HOME, Card, unknown

if TYPE_CHECKING:
    from pathlib import Path

    from bench.data.images import Images


def cards() -> dict[str, Path]:
    """Every data set's name with the file of its card."""
    return {path.stem: path for path in sorted((HOME / "datasets").glob("*.toml"))}


def card(name: str) -> Card:
    """The card of a data set. Raises HeatproofError for an unknown name or a bad card."""
    known = cards()
    if name not in known:
        raise unknown("data set", name, known)
    return Card.read(known[name])


def fingerprint(card: Card) -> str:
    """What enters the ids for the data: the card's own hash and its source's version."""
    return f"{card.fingerprint}-{card.source}-{plugins.sources[card.source][1]}"


def load(card: Card, split: str) -> Images:
    """All images of one split of a card, checked against what the card promises.

    Raises HeatproofError for a missing file, a wrong checksum, an image of another size, a label
    that is no class, or a mask of another size.
    """
    if split not in card.splits:
        raise unknown(f"split of {card.name}", split, card.splits)
    read, _ = plugins.sources[card.source]
    images: Images = read(card, split)
    images.check(card, split)
    return images


@lru_cache(maxsize=6)
def held(name: str, split: str, fold: int = 0) -> Images:
    """Like `load(card(name).fold(fold), split)`, kept in memory: runs in one process share it."""
    return load(card(name).fold(fold), split)
