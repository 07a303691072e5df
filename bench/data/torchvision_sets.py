"""The data sets that torchvision knows: its own reading, its official splits, its downloads."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from PIL import Image

from bench.core import Card, HeatproofError, filled, unknown
from bench.data.catalogue import Catalogue
from bench.data.files import absent, home
from bench.data.images import Array
from bench.data.pixels import labelled
from bench.plugins import source
from bench.store import Cache, told

_LABELS = ("targets", "labels", "_labels")
_PATHS = ("_images", "_image_files")


@dataclass(frozen=True)
class Layout:
    """The `options` of a card: a class of torchvision.datasets, and attributes of its objects.

    labels: the attribute with the class numbers (empty: targets, labels or _labels). classes: the
    one with the names of the classes, which must be the card's where there is one. masks: the one
    with the paths of mask files; values: their value -> ours (0 background, 1.. parts, 255
    ignore), empty where they are the same.
    """

    dataset: str
    labels: str = ""
    classes: str = "classes"
    masks: str = ""
    values: Mapping[str, int] = field(default_factory=dict)


@source("torchvision")
def read(card: Card) -> Catalogue:
    """All images of a class of torchvision.datasets; a split is the arguments that make it.

    Its root is `HEATPROOF_DATA/NAME/`; without that folder torchvision downloads into the cache.
    The key is the file's path below the root, or split and number where torchvision tells no
    files. Raises HeatproofError for a class that is not there or does not suit, for what
    torchvision refuses, and for classes that are not the card's.
    """
    import torchvision

    layout = filled(Layout, card.options, f"options of card {card.name}")
    kinds = {name: kind for name, kind in vars(torchvision.datasets).items()
             if inspect.isclass(kind)}
    if layout.dataset not in kinds:
        raise unknown(f"class of torchvision.datasets in card {card.name}", layout.dataset, kinds)
    values = _values(card, layout)
    places: list[tuple[Any, int]] = []
    key: list[str] = []
    label: list[int] = []
    images: list[Path] = []
    masks: list[Path] = []
    rows: dict[str, range] = {}
    root = home(card) if home(card).is_dir() else Cache().root / "data" / layout.dataset
    for split, arguments in card.splits.items():
        if not isinstance(arguments, Mapping):
            raise HeatproofError(f"card {card.name}: split {split} must be a table of arguments "
                                 f"of torchvision.datasets.{layout.dataset}, not {arguments!r}")
        part = _made(kinds[layout.dataset], card, root, arguments)
        names = getattr(part, layout.classes, card.classes)
        if tuple(names) != card.classes:
            raise HeatproofError(
                f"card {card.name}: torchvision's {layout.classes} of {layout.dataset} are not the "
                f"card's classes but {', '.join(map(str, names[:3]))}, …; correct the card")
        labels = _attribute(part, [layout.labels] if layout.labels else _LABELS, layout.dataset)
        files = [Path(path) for path in next(
            (getattr(part, name) for name in _PATHS if hasattr(part, name)), ())]
        drawings = _attribute(part, [layout.masks], layout.dataset) if layout.masks else []
        if {len(labels), len(files) or len(part), len(drawings) or len(part)} != {len(part)}:
            raise HeatproofError(
                f"{card.name}: torchvision tells {len(part)} images, {len(labels)} labels, "
                f"{len(drawings)} masks of split {split}; give the card the attributes that match")
        rows[split] = range(len(key), len(key) + len(part))
        places += [(part, at) for at in range(len(part))]
        key += [path.relative_to(root).with_suffix("").as_posix() for path in files] or [
            f"{split}-{at:06d}" for at in range(len(part))]
        try:
            label += [int(number) for number in labels]
        except (TypeError, ValueError) as error:
            raise HeatproofError(f"card {card.name}: options.labels names no class numbers "
                                 f"({error}); name another attribute") from None
        images += files
        masks += [Path(path) for path in drawings]

    def image(row: int) -> Array:
        part, at = places[row]
        what = images[row] if images else f"{root}, {key[row]},"
        try:
            picture = part[at][0]
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise HeatproofError(f"{what} cannot be read ({_reason(error)}); fetch it again"
                                 ) from None
        if not isinstance(picture, Image.Image):
            raise HeatproofError(f"{what} is no image but {type(picture).__name__}; card "
                                 f"{card.name} needs a class that gives Pillow's images")
        if picture.mode in ("1", "L"):
            return np.asarray(picture.convert("L"))[None]
        return np.asarray(picture.convert("RGB")).transpose(2, 0, 1)

    def mask(row: int) -> Array:
        found = labelled(masks[row])
        if not layout.values:
            return found
        if (odd := found[values[found] < 0]).size:
            raise HeatproofError(f"{masks[row]} holds {odd[0]}, which options.values of card "
                                 f"{card.name} do not name; add it, or fetch the original")
        return values[found].astype(np.uint8)

    return Catalogue(
        key=tuple(key), label=tuple(label), image=image, rows=rows,
        mask=mask if masks else None,
        files=tuple(zip(images, masks, strict=True)) if masks and images else tuple(
            zip(images, strict=True)),
        common=() if images else tuple(sorted(path for path in root.rglob("*") if path.is_file())))


def _made(kind: Any, card: Card, root: Path, arguments: Mapping[str, Any]) -> Any:
    """The data set of one split; downloaded only where the card has no folder."""
    try:
        return kind(root=root, **arguments)
    except Exception as error:  # noqa: BLE001  a class raises what its readers raise
        why = _reason(error)
    if root == home(card):
        raise HeatproofError(f"{root}: torchvision cannot read {kind.__name__} there ({why}). "
                             f"{card.layout}".strip())
    if "download" not in inspect.signature(kind).parameters:
        raise absent(card, ", and torchvision does not download it")
    with told(root):
        root.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(root.with_suffix(".lock")):
            return kind(root=root, download=True, **arguments)
    except Exception as error:  # torchvision raises what its mirrors raise
        raise absent(card, f", and torchvision could not download it ({_reason(error)})") from error


def _attribute(part: Any, names: Sequence[str], kind: str) -> list[Any]:
    for name in names:
        if (found := getattr(part, name, None)) is not None and hasattr(found, "__len__"):
            return list(found)
    import torchvision

    raise HeatproofError(
        f"torchvision {torchvision.__version__} tells no {' or '.join(names)} of {kind} without "
        "decoding its images; name another attribute in the card's options, or lay the images out "
        "as a folder a class and use source \"folder\"")


def _values(card: Card, layout: Layout) -> Array:
    """Ours by the value in the file; -1 where the card names none."""
    values = np.full(256, -1, np.int64)
    for name, ours in layout.values.items():
        if not (name.isdecimal() and int(name) < 256 and ours in range(256)):
            raise HeatproofError(f"options of card {card.name}: values maps 0 to 255 to such, not "
                                 f"{name!r} to {ours!r}")
        values[int(name)] = ours
    return values


def _reason(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
