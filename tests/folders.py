"""Tiny folders of images, written by tests in the layout of the source `folder`."""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench import data
from bench.core import Card, HeatproofError

SIZE = (6, 5)


def pixels(name: str, high: int = 256, shape: tuple[int, ...] = SIZE) -> np.ndarray:
    """Random pixels that depend on the name alone."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
    return np.random.default_rng(seed).integers(0, high, shape, np.uint8)


def save(path: Path, array: np.ndarray, mode: str | None = None) -> None:
    """Writes an image, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(path)


def table(root: Path, rows: list[dict[str, str]], name: str = "metadata.csv") -> None:
    """Writes rows as a CSV file, and the folders above it."""
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    with (root / name).open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def rows_of(root: Path) -> list[dict[str, str]]:
    """The rows of metadata.csv."""
    with (root / "metadata.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def refused(card: Card, says: str, split: str = "train") -> None:
    """That the card's images cannot be read, and one line says why."""
    with pytest.raises(HeatproofError, match=says) as error:
        data.load(card, split)
    assert "\n" not in str(error.value)
