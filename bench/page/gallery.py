"""Galleries: each image, its mask and every contestant's map side by side, as small PNG files."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from PIL import Image

from bench.board import Board
from bench.page.tables import KINDS, grid, records, slug
from bench.results import Results, read_media

Pixels = np.ndarray[Any, np.dtype[np.uint8]]

SIDES = 112, 224
"""The longer side of a thumbnail, in pixels: small images are enlarged by a whole number to at
least the first, large ones are reduced to the second. The page shows thumbnails as they are."""

SIGNED, UNSIGNED = "RdBu_r", "magma"
FULL = 0.995
"""The share of a map's cells that are below full colour; of fewer than 200 cells, all but one."""
OUTLINE: Pixels = np.array((0, 230, 160), np.uint8)
UNKNOWN: Pixels = np.array((128, 128, 128), np.uint8)


@dataclass(frozen=True)
class Gallery:
    """The pictures of one data set, all of one seed.

    columns: names of contestants. rows: {key, label, prediction, image, cells}; a cell is
    {map, prediction, right} or None, and every picture a path relative to the page.
    """

    dataset: str
    seed: int
    outlined: bool
    columns: list[str]
    rows: list[dict[str, Any]]


def write(board: Board, results: Results, folder: Path) -> dict[str, Gallery]:
    """The galleries by data set; only of cards that may be redistributed."""
    galleries = {}
    for dataset in dict.fromkeys(board.estimates["dataset"]):
        card = results.plan["datasets"].get(dataset, {})
        made = _gallery(board, results, card, dataset, folder) if card.get(
            "redistributable") else None
        if made is not None:
            galleries[dataset] = made
    return galleries


def _gallery(
    board: Board, results: Results, card: dict[str, Any], dataset: str, folder: Path,
) -> Gallery | None:
    table = grid(board, dataset)
    order = [name for kind in KINDS for name in table.rows[kind]]
    runs = results.runs[results.runs["dataset"] == dataset].sort_values(["seed", "fold"])
    media: dict[str, tuple[dict[str, Any], Any]] = {}
    seed = None
    for run in records(runs):
        # One seed for all: maps of two trainings are no comparison of two methods.
        if seed in (None, run["seed"]) and run["contestant"] not in media and (
                found := read_media(run["path"])):
            seed, media[run["contestant"]] = run["seed"], found
    columns = [name for name in order if name in media]
    if not columns or seed is None:
        return None
    place = folder / slug(dataset)
    place.mkdir(parents=True)
    rows: dict[str, dict[str, Any]] = {}
    for name in columns:
        arrays, facts = media[name]
        for i, key in enumerate(facts["keys"]):
            mask = arrays["mask"][i] if "mask" in arrays else None
            if key not in rows:
                file = place / f"{len(rows):02d}.png"
                _save(photograph(arrays["image"][i], mask), file)
                rows[key] = {"key": key, "label": _named(card, facts["labels"][i]), "cells": {},
                             "image": file.relative_to(folder.parent).as_posix(),
                             "number": len(rows)}
            file = place / f"{rows[key]['number']:02d}-{slug(name)}.png"
            signed = bool(board.contestants[name]["signed"])
            size = arrays["image"].shape[-2:]
            _save(heatmap(arrays["maps"][i], mask, size, signed=signed), file)
            rows[key]["cells"][name] = {
                "map": file.relative_to(folder.parent).as_posix(),
                "prediction": _named(card, facts["predictions"][i]),
                "right": facts["predictions"][i] == facts["labels"][i]}
    return Gallery(dataset, int(seed), any("mask" in media[name][0] for name in columns), columns,
                   list(rows.values()))


def photograph(image: Pixels, mask: Pixels | None) -> Pixels:
    """An image (C, H, W) as (h, w, 3) with its mask's outline; one channel is shown as grey."""
    channels = image if image.shape[0] == 3 else np.repeat(image[:1], 3, axis=0)
    height, width = _shown(image.shape[-2:])
    nearest = height >= image.shape[-2]
    pixels = np.asarray(Image.fromarray(channels.transpose(1, 2, 0)).resize(
        (width, height), Image.Resampling.NEAREST if nearest else Image.Resampling.BOX))
    return _outlined(pixels, mask, OUTLINE)


def heatmap(
    values: np.ndarray[Any, np.dtype[np.float32]], mask: Pixels | None, size: tuple[int, int], *,
    signed: bool,
) -> Pixels:
    """A native map (h, w) as (H, W, 3): its own grid in plain squares, nothing interpolated.

    Each map has its own scale, which ends where `FULL` of its cells are passed: of a fine map one
    pixel would else make all others pale. A signed one runs from blue over white (0) to red, an
    unsigned one from dark (0) to bright. What is not finite is grey.
    """
    finite = np.isfinite(values)
    known = np.where(finite, values, 0.0)
    size_of = np.abs(known)
    top = float(np.quantile(size_of, FULL, method="higher") or size_of.max()) or 1.0
    colours = mpl.colormaps[SIGNED if signed else UNSIGNED]
    shade = np.clip((known / top + 1) / 2 if signed else known / top, 0, 1)
    pixels: Pixels = (colours(shade)[..., :3] * 255).round().astype(np.uint8)
    pixels[~finite] = UNKNOWN
    line: Pixels = np.full(3, 0 if signed else 255, np.uint8)
    return _outlined(_spread(pixels, _shown(size)), mask, line)


def _shown(size: tuple[int, ...]) -> tuple[int, int]:
    least, most = SIDES
    factor: float = max(1, math.ceil(least / max(size)))
    factor = min(factor, most / max(size)) if max(size) > most else factor
    return round(size[0] * factor), round(size[1] * factor)


def _spread(array: Pixels, size: tuple[int, int]) -> Pixels:
    """Nearest neighbours: each square of the grid as large as the next, give or take a pixel."""
    down = np.arange(size[0]) * array.shape[0] // size[0]
    across = np.arange(size[1]) * array.shape[1] // size[1]
    return np.asarray(array[down][:, across])


def _outlined(pixels: Pixels, mask: Pixels | None, colour: Pixels) -> Pixels:
    """With a line of one pixel inside every part of the mask; 255 (ignore) has none."""
    if mask is None:
        return pixels
    part = ((mask > 0) & (mask < 255)).astype(np.uint8)
    inside = np.pad(_spread(part, (pixels.shape[0], pixels.shape[1])) > 0, 1)
    middle = inside[1:-1, 1:-1]
    kept = inside[:-2, 1:-1] & inside[2:, 1:-1] & inside[1:-1, :-2] & inside[1:-1, 2:]
    drawn = pixels.copy()
    drawn[middle & ~kept] = colour
    return drawn


def _named(card: dict[str, Any], number: int) -> str:
    classes = card.get("classes") or ()
    return str(classes[number]) if 0 <= number < len(classes) else str(number)


def _save(pixels: Pixels, path: Path) -> None:
    image = Image.fromarray(pixels)
    # Few colours make a small file, and a map on a coarse grid has few.
    if len(image.getcolors(maxcolors=pixels.size) or ()) <= 256:
        image = image.quantize(256, dither=Image.Dither.NONE)
    image.save(path, optimize=True)
