"""Whether a data set is what its card says: every file, every pixel, every split of every fold."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from bench import data
from bench.core import Card, HeatproofError
from bench.data.catalogue import Catalogue, parted
from bench.data.decoded import Progress, decode, silent
from bench.data.files import content, home
from bench.data.images import Array

SHOWN = 50
"""Lines that one kind of problem gets at most; the others are counted."""
PAIRS = 5
"""Pairs of identical images that are named; the others are counted."""
PARTS = 64
"""Values in one mask above which it is no mask, but a blurred or a JPEG-compressed one."""
OFF = 0.02
"""How far the training images' mean or deviation may be from the card's without a note."""
_CHUNK = 512


class Check(NamedTuple):
    """One thing that must hold of a data set, and whether it does.

    name: what was looked at; expected: what must hold, or a note; found: counts, or one problem
    with the name of the file.
    """

    name: str
    expected: str
    found: str
    ok: bool


@dataclass(frozen=True)
class Seen:
    """What remains of a decoded image: enough to compare it, and too little to fill the memory.

    pixels: a hash of them. sums: (2, C), of the values in [0, 1] and of their squares. constant:
    whether all pixels of all channels are one value. values: those in the mask, or None.
    """

    pixels: bytes
    sums: Array
    constant: bool
    values: frozenset[int] | None


def files(card: Card) -> str:
    """"here", "not here", "incomplete", or "by download" at first use; nothing is downloaded."""
    if not home(card).is_dir() and (
            "torchvision" in card.options or (card.source == "hub" and not card.options.get(
                "builder"))):
        return "by download"
    try:
        data.catalogue(card)
    except HeatproofError:
        return "incomplete" if home(card).is_dir() else "not here"
    return "here"


def check(card: Card, progress: Progress = silent) -> list[Check]:
    """All that holds of a data set, and a line for each thing that does not; it stops at none.

    Every image is decoded once, whatever the number of folds, also those that are in no split.
    Raises HeatproofError if the files are not here at all.
    """
    checks = list(_checksums(card))
    try:
        catalogue = replace(data.catalogue(card), flips={})
    except HeatproofError as error:
        if not home(card).is_dir():
            raise
        if str(error) not in [problem.found for problem in checks]:
            checks.append(Check(card.name, "its files are laid out as the card says", str(error),
                                False))
        return checks
    checks += _listed(card, catalogue)
    folds = []
    for number in range(1 + len(card.folds)):
        what = f"{card.name}, fold {number}" if card.folds else card.name
        try:
            folds.append(parted(card.fold(number), catalogue))
        except HeatproofError as error:
            checks.append(Check(what, "its splits are as the card says", str(error), False))
        else:
            checks += _splits(card, catalogue, folds[-1], what)
    spare = len(catalogue) - len({int(row) for parts in folds for rows in parts.values()
                                  for row in rows})
    if spare and folds:
        checks.append(_note(card, f"{_images(spare)} are in no split"))
    looked = seen(card, catalogue, progress)
    whole = {row: image for row, image in looked.items() if isinstance(image, Seen)}
    checks += _each(card, "every image and mask can be decoded, at the card's size",
                    [found for found in looked.values() if isinstance(found, str)],
                    _images(len(whole)))
    checks += _repeated(card, catalogue, folds, whole)
    checks += _masks(card, catalogue, folds, whole)
    checks += _values(card, catalogue, folds, whole)
    return checks


def seen(card: Card, catalogue: Catalogue, progress: Progress) -> dict[int, Seen | str]:
    """Row -> what was seen of it, or the problem with its file."""
    def look(row: int) -> Seen | str:
        try:
            arrays = decode(card, catalogue, row)
        except HeatproofError as error:
            return str(error)
        x = arrays["x"].reshape(card.image[0], -1)
        # Counts of the 256 values give all sums exactly, and in one pass over the pixels.
        counts = np.stack([np.bincount(plane, minlength=256) for plane in x])
        level = np.arange(256) / 255
        sums = np.stack([counts @ level, counts @ level**2]) / x.shape[1]
        values = frozenset(np.unique(arrays["mask"]).tolist()) if "mask" in arrays else None
        return Seen(hashlib.blake2b(np.ascontiguousarray(x).data, digest_size=16).digest(), sums,
                    int(counts.any(0).sum()) == 1, values)

    found: dict[int, Seen | str] = {}
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for start in range(0, len(catalogue), _CHUNK):
            progress(start, len(catalogue))
            rows = range(start, min(start + _CHUNK, len(catalogue)))
            found.update(zip(rows, pool.map(look, rows), strict=True))
    progress(len(catalogue), len(catalogue))
    return found


def measured(images: Sequence[Seen]) -> tuple[Array, Array]:
    """The mean and the standard deviation of all pixels, (C,) each, in units of [0, 1]."""
    mean, square = np.mean([image.sums for image in images], 0)
    return mean, np.sqrt(np.maximum(square - mean**2, 0))


def _checksums(card: Card) -> Iterator[Check]:
    """Those on the card itself; a table's are verified as its images are decoded."""
    if not card.sha256 or not home(card).is_dir():
        return
    problems = []
    for name, sha256 in card.sha256.items():
        try:
            content(home(card) / name, sha256)
        except HeatproofError as error:
            problems.append(str(error))
    yield from _each(card, "files have the checksums of the card", problems,
                     f"{len(card.sha256)} of them")


def _listed(card: Card, catalogue: Catalogue) -> Iterator[Check]:
    """What the catalogue says before a pixel is decoded."""
    classes = len(card.classes)
    yield from _each(card, "labels are classes of the card", [
        f"{_where(catalogue, row)}: label {label} is none of the card's {classes} classes"
        for row, label in enumerate(catalogue.label) if not 0 <= label < classes],
        f"{classes} classes")
    rows_of = defaultdict(list)
    for row, key in enumerate(catalogue.key):
        rows_of[key].append(row)
    yield from _each(card, "no two images have the same key", [
        " and ".join(_where(catalogue, row) for row in rows) + f" are both {key}"
        for key, rows in rows_of.items() if len(rows) > 1], "")
    if (card.truth == "none") != (catalogue.mask is None):
        found = "there are no masks" if catalogue.mask is None else "there are masks"
        yield Check(card.name, f"the truth is {card.truth}, as the card says", found, False)


def _splits(
    card: Card, catalogue: Catalogue, parts: dict[str, Array], what: str,
) -> Iterator[Check]:
    groups: dict[str, int] = {}
    for split, rows in parts.items():
        labels = [catalogue.label[row] for row in rows]
        counts = np.bincount([n for n in labels if 0 <= n < len(card.classes)],
                             minlength=len(card.classes))
        found = f"{_images(len(rows))}, {counts.min()} to {counts.max()} a class"
        if lacking := [name for name, n in zip(card.classes, counts, strict=True) if not n]:
            found += f"; none of {_some(lacking)}"
        yield Check(f"{what} ({split})", "every class has an image", found, not lacking)
        if card.group:
            groups[split] = len({catalogue.group[row] for row in rows})
    if card.group:
        yield Check(what, f"no {card.group} is in two splits",
                    ", ".join(f"{n} in {split}" for split, n in groups.items()), True)


def _repeated(
    card: Card, catalogue: Catalogue, folds: Sequence[dict[str, Array]], seen: dict[int, Seen],
) -> Iterator[Check]:
    """Images whose pixels are the same: between splits, of two classes, within a split."""
    rows_of = defaultdict(list)
    for row, found in seen.items():
        rows_of[found.pixels].append(row)
    alike = [rows for rows in rows_of.values() if len(rows) > 1]
    torn: dict[int, str] = {}
    within: dict[int, str] = {}
    for parts in folds:
        split_of = {int(row): split for split, rows in parts.items() for row in rows}
        for rows in alike:
            first: dict[str, int] = {}
            for row in rows:
                if (split := split_of.get(row)) in first:
                    within[row] = _pair(catalogue, first[split], row)
                elif split:
                    first[split] = row
            if len(first) > 1:
                torn.setdefault(rows[0], " = ".join(
                    f"{_where(catalogue, row)} ({split})" for split, row in first.items()))
    expected = "no image is in two splits"
    if card.leaks and len(torn) == card.leaks:
        yield Check(card.name, expected,
                    f"but {card.leaks} of the publisher's, which the card owns to: leaks = "
                    f"{card.leaks}", True)
    elif torn or card.leaks:
        yield Check(card.name, expected,
                    f"{_images(len(torn))} are, the card says leaks = {card.leaks}", False)
        yield from (Check(card.name, expected, pair, False) for pair in _first(torn.values()))
    elif folds:
        yield Check(card.name, expected, "", True)
    two = [_pair(catalogue, rows[0], row) for rows in alike for row in rows[1:]
           if catalogue.label[row] != catalogue.label[rows[0]]]
    if two:
        yield _note(card, f"identical images of two classes: {len(two)}",
                    "; ".join(_first(two)))
    if within:
        yield _note(card, f"images that repeat another one of their split: {len(within)}",
                    "; ".join(_first(within.values())))


def _masks(
    card: Card, catalogue: Catalogue, folds: Sequence[dict[str, Array]], seen: dict[int, Seen],
) -> Iterator[Check]:
    values = {row: found.values for row, found in seen.items() if found.values is not None}
    if not values:
        return
    here = frozenset().union(*values.values())
    parts = sorted(here - {0, 255})
    problems = [f"{_where(catalogue, row)}: its mask has {len(found)} values; write the parts as "
                "1, 2, …, not blurred and not as JPEG"
                for row, found in values.items() if len(found) > PARTS]
    if 255 in here and not parts:
        problems.append("masks mark nothing but 255, which means ignore; write the parts as 1, 2, "
                        "…, or say in the card's options.values what 255 means")
    marks = f"parts: {_some(map(str, parts))}" if parts else "no part"
    yield from _each(card, "masks hold 0, parts and 255 for what is ignored", problems,
                     marks + ("; 255 is there" if 255 in here else ""))
    empty = {row for row, found in values.items() if not found - {0, 255}}
    bare = {split: "" for fold in folds for split, rows in fold.items()
            if all(int(row) in empty for row in rows)}
    yield from _each(card, "every split has masks that mark something", [
        f"all masks of split {split} are empty" for split in bare],
        f"{len(values) - len(empty)} of {len(values)} masks do")
    shares = []
    for label, name in enumerate(card.classes):
        rows = [row for row in values if catalogue.label[row] == label]
        if share := np.mean([row in empty for row in rows]) if rows else 0:
            shares.append(f"{name} {share:.0%}")
    if shares:
        yield _note(card, "empty masks by class", _some(shares, 10))


def _values(
    card: Card, catalogue: Catalogue, folds: Sequence[dict[str, Array]], seen: dict[int, Seen],
) -> Iterator[Check]:
    """Images of one value, and the mean and deviation of the training images."""
    flat = [_where(catalogue, row) for row, found in seen.items() if found.constant]
    yield from _each(card, "no image is of one value only", flat, "")
    rows = [int(row) for row in folds[0].get("train", ()) if int(row) in seen] if folds else []
    if not rows:
        return
    mean, std = measured([seen[row] for row in rows])
    off = max(np.abs(mean - card.mean).max(), np.abs(std - card.std).max())
    told = f"mean {_numbers(mean)}, deviation {_numbers(std)}"
    if off > OFF:
        yield _note(card, f"training images have {told}",
                    f"the card says {_numbers(card.mean)} and {_numbers(card.std)}")
    else:
        yield Check(card.name, "training images have the card's mean and deviation", told, True)


def _each(card: Card, expected: str, problems: Sequence[str], found: str) -> Iterator[Check]:
    """A line for each problem, or one that there is none."""
    if not problems:
        yield Check(card.name, expected, found, True)
    for problem in problems[:SHOWN]:
        yield Check(card.name, expected, problem, False)
    if len(problems) > SHOWN:
        yield Check(card.name, expected, f"and {len(problems) - SHOWN} more", False)


def _note(card: Card, what: str, found: str = "") -> Check:
    return Check(card.name, f"note: {what}", found, True)


def _where(catalogue: Catalogue, row: int) -> str:
    """What a person finds an image by: its file, where it has one of its own."""
    return str(catalogue.files[row][0]) if catalogue.files else catalogue.key[row]


def _pair(catalogue: Catalogue, one: int, other: int) -> str:
    return f"{_where(catalogue, one)} = {_where(catalogue, other)}"


def _first(lines: Iterable[str]) -> list[str]:
    known = list(lines)
    more = [f"and {len(known) - PAIRS} more"] if len(known) > PAIRS else []
    return known[:PAIRS] + more


def _some(names: Iterable[str], shown: int = 20) -> str:
    known = list(names)
    more = f" and {len(known) - shown} more" if len(known) > shown else ""
    return ", ".join(known[:shown]) + more


def _images(n: int) -> str:
    return f"{n} image{'' if n == 1 else 's'}"


def _numbers(values: Iterable[float]) -> str:
    return ", ".join(f"{value:.3f}" for value in values)
