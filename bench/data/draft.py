"""A card for a folder of images of one's own, drafted from what lies in it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bench import data
from bench.core import Card, HeatproofError, number_from
from bench.data import audit, lists
from bench.data.catalogue import Catalogue, parted
from bench.data.decoded import Progress, silent
from bench.data.pixels import SUFFIXES
from bench.store import write_bytes

TABLE, MASKS, IMAGES = "metadata.csv", "masks", "images"
SPLITS = {"train": "train", "training": "train", "val": "validation", "valid": "validation",
          "validation": "validation", "dev": "validation", "test": "test", "testing": "test"}
"""What people call the splits -> what a card calls them."""
SHARES = {"train": "0.00-0.70", "validation": "0.70-0.85", "test": "0.85-1.00"}
FILES = ("file", "filename", "file_name", "image", "path")
LABELS = ("label", "class", "category", "diagnosis")
BOXES = (("x", "y", "width", "height"), ("left", "top", "width", "height"), ("x", "y", "w", "h"))
CORNERS = (("x0", "y0", "x1", "y1"), ("x1", "y1", "x2", "y2"), ("xmin", "ymin", "xmax", "ymax"),
           ("x_min", "y_min", "x_max", "y_max"), ("left", "top", "right", "bottom"))
_GREY = ("1", "L", "LA", "I", "I;16", "I;16B", "I;16L", "I;16N")


@dataclass(frozen=True)
class Draft:
    """A card that has been read through its source; `remark` says what is to be mended by hand."""

    card: Card
    remark: str = ""

    @property
    def text(self) -> str:
        """The card as TOML."""
        return _toml(self.card, self.remark)


def draft(folder: Path, *, name: str = "", progress: Progress = silent) -> Draft:
    """The card of a folder: CLASS/NAME, SPLIT/CLASS/NAME or a folder a channel with these.

    Masks lie in `masks/`, the same files again; `metadata.csv` may tell classes, splits, groups
    and boxes. Sizes, mean and deviation are measured on the files, by the very source that will
    read them. Raises HeatproofError for what it cannot make out, and as the source does.
    """
    root = folder.resolve()
    if not root.is_dir():
        raise HeatproofError(f"there is no folder {folder}")
    images, paths = _images(root)
    options: dict[str, Any] = {"images": images}
    if (root / MASKS).is_dir():
        options["masks"] = MASKS
    table = _columns(root, options)
    card = Card(
        name=name or root.name, title="", source="folder", classes=_classes(paths, table),
        splits={"test": "0.00-1.00"}, **_size(paths, len(images)), path=str(root),
        truth="pixels" if "masks" in options else "boxes" if (
            options.keys() & {"box", "corners"}) else "none",
        group=next((group for group in lists.GROUPS if group in table), ""), options=options)
    catalogue = data.catalogue(card)
    seen = audit.seen(card, catalogue, progress)
    for found in seen.values():
        if isinstance(found, str):
            raise HeatproofError(found)
    whole = {row: found for row, found in seen.items() if isinstance(found, audit.Seen)}
    values = frozenset[int]().union(*(found.values or () for found in whole.values()))
    if "masks" in options and values <= {0, 255}:
        card = replace(card, options=options | {"values": {"255": 1}})
    card, remark = _split(card, catalogue)
    rows = range(len(catalogue)) if remark or "train" not in card.splits else (
        parted(card, catalogue)["train"])
    mean, std = audit.measured([whole[int(row)] for row in rows])
    return Draft(replace(
        card, path="" if card.name == root.name else root.name,
        mean=tuple(mean.round(3).tolist()),
        std=tuple(np.maximum(std, 1e-3).round(3).tolist())), remark)


def write(folder: Path, drafted: Draft) -> Path:
    """Puts the card at FOLDER/card.toml. Raises HeatproofError if there is one already."""
    path = folder / "card.toml"
    if path.exists():
        raise HeatproofError(f"{path} is there already; take it away first, or print the draft "
                             "without --write")
    if drafted.card.name != folder.resolve().name:
        raise HeatproofError(f"the card in {folder} must be named {folder.resolve().name}, as its "
                             "folder is; leave --name out, or rename the folder")
    write_bytes(path, drafted.text.encode())
    return path


def _images(root: Path) -> tuple[list[str], list[Path]]:
    """The folders that make the channels, and the images of the first."""
    below: dict[str, list[Path]] = {}
    for path in sorted(root.rglob("*")):
        if path.suffix.lower() in SUFFIXES and path.is_file():
            parts = path.relative_to(root).parts
            if len(parts) > 1 and parts[0] != MASKS:
                below.setdefault(parts[0], []).append(path)
    if not below:
        raise HeatproofError(f"{root} has no folder with images ({', '.join(SUFFIXES)}); put them "
                             f"into {root / IMAGES}/CLASS/")
    if IMAGES in below:
        return [IMAGES], below[IMAGES]
    keys = [{lists.key_of(path.relative_to(root / top)) for path in paths}
            for top, paths in below.items()]
    deep = all("/" in key for some in keys for key in some)
    if deep and not below.keys() <= SPLITS.keys() and all(some == keys[0] for some in keys):
        return list(below), next(iter(below.values()))
    if (root / MASKS).is_dir():
        raise HeatproofError(f"{root} has masks beside folders of classes; put those folders into "
                             f"{root / IMAGES}/, and the like into {root / MASKS}/")
    if deep and not below.keys() <= SPLITS.keys():
        raise HeatproofError(f"{root} has folders that are neither classes nor splits nor channels "
                             f"with the same files ({', '.join(below)}); put CLASS/NAME or "
                             f"SPLIT/CLASS/NAME into {root / IMAGES}/")
    return ["."], [path for paths in below.values() for path in paths]


def _columns(root: Path, options: dict[str, Any]) -> dict[str, set[str]]:
    """The table's columns, with what is in them; what the source needs to know goes to options."""
    if not (root / TABLE).is_file():
        return {}
    lines, names = lists.lines_of(root / TABLE, "")
    file = next((name for name in FILES if name in names), "")
    if not file:
        raise HeatproofError(f"{root / TABLE} has no column of files ({', '.join(FILES)}); name "
                             "it file: the path below the folder of images")
    options["metadata"] = TABLE
    options |= {} if file == "file" else {"file": file}
    if label := next((name for name in LABELS if name in names), ""):
        options["label"] = label
    if "split" in names:
        options["split"] = "split"
    if "masks" not in options:
        for key, known in (("box", BOXES), ("corners", CORNERS)):
            if found := next((four for four in known if set(four) <= set(names)), ()):
                options.setdefault(key, list(found))
                break
    return {name: {line[name] or "" for line in lines} for name in names}


def _classes(paths: Sequence[Path], table: Mapping[str, set[str]]) -> tuple[str, ...]:
    label = next((name for name in LABELS if name in table), "")
    found = table[label] if label else {path.parent.name for path in paths}
    if all(name.isdecimal() for name in found):
        return tuple(sorted(found, key=int))
    return tuple(sorted(found))


def _size(paths: Sequence[Path], folders: int) -> dict[str, Any]:
    """The commonest size, the channels, and what is to be done with images of other sizes."""
    sizes: Counter[tuple[int, int]] = Counter()
    grey = True
    for path in paths:
        try:
            with Image.open(path) as image:  # its head alone: no pixel is decoded
                sizes[image.height, image.width] += 1
                grey &= image.mode in _GREY
        except OSError as error:
            raise HeatproofError(f"{path} cannot be read as an image ({error})") from None
    channels = folders * (1 if grey else 3)
    (size, _), *others = sizes.most_common()
    return {"image": (channels, *size), "fit": "crop" if others else "",
            "mean": (0.0,) * channels, "std": (1.0,) * channels}


def _split(card: Card, catalogue: Catalogue) -> tuple[Card, str]:
    """The card with splits, and a remark where they have to be mended by hand."""
    words = {word: SPLITS[word.lower()] for word in sorted(set(catalogue.told))
             if word.lower() in SPLITS}
    if "test" in words.values():
        splits: dict[str, Any] = {split: [word for word, of in words.items() if of == split]
                                  for split in SHARES}
        splits = {split: found[0] if len(found) == 1 else found
                  for split, found in splits.items() if found}
    else:
        splits = dict(SHARES)
    card = replace(card, splits=splits)
    try:
        parted(card, catalogue)
    except HeatproofError as error:
        units = sorted(set(catalogue.group), key=lambda unit: number_from(card.source, unit))
        if splits != SHARES or len(units) < len(SHARES):
            return card, str(error)
        # So few groups that a share of them may be empty: each split gets at least one.
        part = max(1, round(len(units) * 0.15))
        listed = {"train": units[2 * part:], "validation": units[:part],
                  "test": units[part:2 * part]}
        return replace(card, splits={split: sorted(some) for split, some in listed.items()}), ""
    return card, ""


def _toml(card: Card, remark: str) -> str:
    value = json.dumps  # a string, a number and a list of them are spelled alike in TOML

    def told(key: str, comment: str = "") -> str:
        of = getattr(card, key)
        text = value(list(of) if isinstance(of, tuple) else of, ensure_ascii=False)
        return f"{key} = {text}{f'      # {comment}' if comment else ''}"

    lines = [*([f"# TODO {remark}"] if remark else []), told("name"),
             told("title", "TODO what these images are, in one line"), told("source"),
             told("task", "TODO the question that the classes answer"), told("classes"),
             told("image", "channels, height, width")]
    if card.fit:
        lines.append(told("fit", "sizes differ: the middle is cut out; or stretch, or pad"))
    lines += ["# Measured on the training images.", told("mean"), told("std"), told("truth")]
    lines += [told("path")] if card.path else []
    lines += [told("group", "no two splits have one in common")] if card.group else [
        "# TODO If several images are of one patient, name the column that tells it: group = …"]
    lines += [told("licence", "TODO"), told("citation", "TODO"), "", "[splits]"]
    lines += [f"{split} = {value(found, ensure_ascii=False)}"
              for split, found in card.splits.items()]
    lines += ["", "[options]"]
    for key, found in card.options.items():
        text = value(found, ensure_ascii=False) if not isinstance(found, Mapping) else (
            "{ " + ", ".join(f"{k} = {v}" for k, v in found.items()) + " }")
        lines.append(f"{key} = {text}")
    return "\n".join(lines) + "\n"
