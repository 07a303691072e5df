"""Hugging Face `datasets`: sets of the hub by id and revision, and its folders and parquet files.

What is fetched lies where the user's `HF_HOME` says.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.core import Card, HeatproofError, filled, unknown
from bench.data.catalogue import Catalogue
from bench.data.files import absent, content, home
from bench.data.images import Array
from bench.data.lists import GROUPS
from bench.data.pixels import labelled, opened
from bench.plugins import source


@dataclass(frozen=True)
class Layout:
    """The `options` of a card: where its rows come from, and what their columns tell.

    builder: "" for the hub, where the card's `path` is the id and its `revision` the commit;
    "imagefolder" or "parquet" for files below `HEATPROOF_DATA/NAME/`, as the builder of that name
    reads them. config: which of several sets of one id. files: split -> patterns of files, where
    neither their names nor the hub tell it.
    image, label, mask: columns; label is a class by number or by name, mask an image (0 background,
    1.. parts, 255 ignore). The card's `group` is a column too. split: a column with the
    publisher's word on the split; without it, `datasets` tells it.
    """

    builder: str = ""
    config: str = ""
    files: Mapping[str, Any] = field(default_factory=dict)
    image: str = "image"
    label: str = "label"
    mask: str = ""
    split: str = ""


@source("hub")
def read(card: Card) -> Catalogue:
    """The rows of a set that Hugging Face's `datasets` reads, as `Layout` says.

    Of the hub's splits, those are read that the card names (all, where it names none of them). The
    key is the split and the row's number in it, in an image folder the path of the file. Raises
    HeatproofError for a set, a column or a file that cannot be had, and for classes that are not
    the card's, in its order.
    """
    datasets = _library()
    layout = filled(Layout, card.options, f"options of card {card.name}")
    parts = _named(card, layout, _parts(card, layout))
    columns = _columns(card, layout, parts)
    words = [word for word, part in parts.items() for _ in range(len(part))]
    key = [f"{word}-{number:05d}" for word, part in parts.items() for number in range(len(part))]
    where = [f"{card.name}: {name}" for name in key]
    try:
        table = datasets.concatenate_datasets(
            [part.select_columns(sorted(columns)) for part in parts.values()])
        label = table.features[layout.label]
        pictures = {name: table.select_columns([name]).cast_column(
            name, datasets.Image(decode=False)) for name in (layout.image, layout.mask) if name}
    except (ValueError, TypeError) as error:  # pyarrow's errors are of these kinds too
        raise HeatproofError(f"{card.name}: its columns are not as the card says ({_line(error)}); "
                             "correct options.image and options.mask") from None
    if names := getattr(label, "names", None):
        _same_classes(card, layout, tuple(names))
    told = table.remove_columns(list(pictures))[:]
    if layout.builder == "imagefolder":
        key = [Path(os.path.relpath(one["path"], home(card))).as_posix()
               for one in pictures[layout.image][:][layout.image]]

    def cell(row: int, column: str) -> tuple[Path | str, bytes | None]:
        found = pictures[column][row][column] or {}
        if not (found.get("bytes") or found.get("path")):
            raise HeatproofError(f"{where[row]} has no {column}; correct the set, or take the row "
                                 "away")
        if found.get("bytes") is None:
            return Path(found["path"]), None
        return f"{where[row]} ({column})", found["bytes"]

    def image(row: int) -> Array:
        path, packed = cell(row, layout.image)
        return opened(path, grey=card.image[0] == 1, packed=packed)

    def mask(row: int) -> Array:
        path, packed = cell(row, layout.mask)
        return labelled(path, packed=packed)

    group = card.group or next((name for name in GROUPS if name in columns), "")
    return Catalogue(
        key=tuple(key), image=image, mask=mask if layout.mask else None,
        label=tuple(_class(card, value, what)
                    for value, what in zip(told[layout.label], where, strict=True)),
        told=tuple(map(str, told[layout.split])) if layout.split else tuple(words),
        group=tuple("" if one is None else str(one) for one in told[group]) if group else (),
        common=tuple(Path(file["filename"])
                     for part in parts.values() for file in part.cache_files))


def _parts(card: Card, layout: Layout) -> dict[str, Any]:
    """Split -> datasets.Dataset, nothing decoded."""
    if layout.builder not in ("", "imagefolder", "parquet"):
        raise unknown(f"builder in options of card {card.name}", layout.builder,
                      ("imagefolder", "parquet"))
    if layout.builder and not home(card).is_dir():
        raise absent(card)
    if not layout.builder and not card.path:
        raise HeatproofError(f"card {card.name}: give the set's id on the hub as path, like "
                             "\"owner/name\"")
    if card.sha256 and not layout.builder:
        raise HeatproofError(f"card {card.name} has checksums, but its files are the hub's; give "
                             "it a revision instead")
    for name, checksum in card.sha256.items():
        content(home(card) / name, checksum)
    try:
        found = _library().load_dataset(
            layout.builder or card.path, layout.config or None,
            data_dir=str(home(card)) if layout.builder else None,
            data_files=dict(layout.files) or None, revision=card.revision or None)
    except Exception as error:  # noqa: BLE001  hub, network and builders each raise their own
        if layout.builder:
            raise HeatproofError(f"{home(card)} cannot be read by {layout.builder} "
                                 f"({_line(error)}). {card.layout}".strip()) from None
        raise HeatproofError(
            f"{card.name}: {card.path} cannot be had from the Hugging Face hub ({_line(error)}); "
            "correct the card's path and revision, log in where its terms must be accepted, or "
            "fetch it where there is a network and name that cache in HF_HOME") from None
    return dict(found)


def _library() -> Any:
    """Hugging Face's `datasets`, silent. Typed as anything: to mypy, the name is our own folder."""
    library: Any = importlib.import_module("datasets")
    hub: Any = importlib.import_module("huggingface_hub.utils")
    for one in (library, hub):
        one.disable_progress_bars()
        one.logging.set_verbosity_error()
    return library


def _line(error: BaseException) -> str:
    """What went wrong first, in one line."""
    while error.__cause__:
        error = error.__cause__
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _named(card: Card, layout: Layout, parts: dict[str, Any]) -> dict[str, Any]:
    """The parts that the card's splits name, so that a part without labels does no harm."""
    named = {word for told in card.splits.values()
             for word in (told if isinstance(told, list | tuple) else [told])}
    if layout.split or not named <= parts.keys():
        return parts
    return {word: part for word, part in parts.items() if word in named}


def _columns(card: Card, layout: Layout, parts: Mapping[str, Any]) -> set[str]:
    """The columns that are read. Raises HeatproofError where a part lacks one."""
    wanted = {name for name in (layout.image, layout.label, layout.mask, layout.split, card.group)
              if name}
    for word, part in parts.items():
        for name in sorted(wanted):
            if name not in part.column_names:
                raise unknown(f"column in split {word} of {card.name}", name, part.column_names)
    every = set.intersection(*(set(part.column_names) for part in parts.values()))
    return wanted | (set() if card.group else every & set(GROUPS))


def _same_classes(card: Card, layout: Layout, names: tuple[str, ...]) -> None:
    if names == card.classes:
        return
    if len(names) == len(card.classes):
        at = next(n for n, both in enumerate(zip(names, card.classes, strict=True))
                  if both[0] != both[1])
        what = f"class {at} is {names[at]!r}, not {card.classes[at]!r}"
    else:
        what = f"it has {len(names)} classes, not {len(card.classes)}"
    raise HeatproofError(f"{card.name}: in column {layout.label} {what}; give the card the classes "
                         "of the set, in its order")


def _class(card: Card, value: object, what: str) -> int:
    if isinstance(value, str) and value in card.classes:
        return card.classes.index(value)
    if type(value) is int and 0 <= value < len(card.classes):
        return value
    if value is None or value == -1:
        raise HeatproofError(f"{what} has no label; name splits that have some in the card")
    raise HeatproofError(f"{what} has the label {value!r}, which is none of the card's "
                         f"{len(card.classes)} classes; correct options.label, or the classes")
