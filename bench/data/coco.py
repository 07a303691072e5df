"""COCO: photographs of many objects with outlines; what covers most of one gives its class."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal, TypeAlias

import numpy as np

from bench.core import Card, HeatproofError, filled, unknown
from bench.data.catalogue import Catalogue
from bench.data.files import absent, content, home
from bench.data.images import Array
from bench.data.pixels import opened
from bench.plugins import source

Region: TypeAlias = dict[str, Any]
"""A set of pixels as run lengths, as pycocotools keeps it."""
_FAR = 100_000
"""No outline goes so many pixels beyond its image; drawing it would take forever."""


@dataclass(frozen=True)
class Layout:
    """The `options` of a card of images with COCO's annotations.

    parts: the folders of images. What lies in PART/ is annotated in
    annotations/instances_PART.json, and PART is the publisher's word on its split.
    classes: whether the classes are COCO's categories or their supercategories. An image is of the
    one whose objects together cover most of it, and is left out where they cover less than the
    share `smallest` of it or more than `largest`.
    """

    parts: tuple[str, ...] = ("train2017", "val2017")
    classes: Literal["category", "supercategory"] = "supercategory"
    smallest: float = 0.01
    largest: float = 0.90


@dataclass(frozen=True)
class Photograph:
    """One image, the objects of its class, and the crowds of it that nobody outlined singly."""

    path: Path
    part: str
    label: int
    objects: Region
    crowd: Region | None


@source("coco")
def read(card: Card) -> Catalogue:
    """Images below `HEATPROOF_DATA/NAME/` with COCO's annotations, laid out as `Layout` says.

    The mask is 1 on all objects of the image's class, 255 on crowds of it and 0 elsewhere, drawn
    by pycocotools (Lin et al., arXiv:1405.0312; cocodataset/cocoapi) of outlines where the card's
    truth is pixels, of boxes where it is boxes. The key is the name of the file, without suffix.
    Raises HeatproofError for an annotation file that is missing, altered, none of COCO's or names
    what it does not hold, and an outline that cannot be drawn.
    """
    layout = filled(Layout, card.options, f"options of card {card.name}")
    if layout.classes not in ("category", "supercategory"):
        raise unknown(f"classes in options of card {card.name}", layout.classes,
                      ("category", "supercategory"))
    if not home(card).is_dir():
        raise absent(card)
    found = [one for part in layout.parts for one in _photographs(card, layout, part)]
    if not found:
        raise HeatproofError(f"{home(card)}: in no image do objects of one class cover "
                             f"{layout.smallest:g} to {layout.largest:g} of it; correct the card's "
                             "options")

    def mask(row: int) -> Array:
        drawn = _pixels(found[row].objects)
        crowd = found[row].crowd
        return drawn if crowd is None else np.where(drawn, drawn, _pixels(crowd) * np.uint8(255))

    return Catalogue(
        key=tuple(one.path.stem for one in found), label=tuple(one.label for one in found),
        image=lambda row: opened(found[row].path, grey=card.image[0] == 1),
        mask=None if card.truth == "none" else mask,
        told=tuple(one.part for one in found), files=tuple((one.path,) for one in found),
        common=tuple(_annotations(card, part) for part in layout.parts))


def _annotations(card: Card, part: str) -> Path:
    return home(card) / "annotations" / f"instances_{part}.json"


def _photographs(card: Card, layout: Layout, part: str) -> Iterator[Photograph]:
    """The images of a part in the order of their names, those left out that show no class."""
    path = _annotations(card, part)
    told = card.sha256.get(path.relative_to(home(card)).as_posix(), "")
    try:
        table = json.loads(content(path, told))
        kind = {one["id"]: str(one["name" if layout.classes == "category" else "supercategory"])
                for one in table["categories"]}
        images = {one["id"]: (str(one["file_name"]), int(one["height"]), int(one["width"]))
                  for one in table["images"]}
        regions: dict[Any, dict[tuple[str, bool], list[Region]]] = {
            image: defaultdict(list) for image in images}
        for one in table["annotations"]:
            image, what = one["image_id"], f"{path}: annotation {one['id']}"
            if image not in images:
                raise HeatproofError(f"{what} is of image {image}, which the file lacks; fetch the "
                                     "original")
            size = images[image][1:]
            regions[image][kind[one["category_id"]], bool(one.get("iscrowd"))] += (
                _box(one["bbox"], size, what) if card.truth == "boxes"
                else _outline(one.get("segmentation"), size, what))
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise HeatproofError(f"{path} is no file of COCO's annotations ({type(error).__name__}: "
                             f"{error}); fetch the original") from None
    if len(images) != len(table["images"]):
        raise HeatproofError(f"{path} has two images of one id; fetch the original")
    for image, (name, height, width) in sorted(images.items(), key=lambda item: item[1][0]):
        merged = {of: _union(parts) for of, parts in regions[image].items()}
        cover = {of: _area(region) / (height * width)
                 for (of, crowd), region in merged.items() if not crowd}
        most = max(sorted(cover), key=cover.__getitem__, default="")
        if not most or not layout.smallest <= cover[most] <= layout.largest:
            continue
        if most not in card.classes:
            raise unknown(f"class of {name} in {path}", most, card.classes)
        yield Photograph(
            path=home(card) / part / PurePosixPath(name), part=part,
            label=card.classes.index(most), objects=merged[most, False],
            crowd=merged.get((most, True)))


def _box(box: list[float], size: tuple[int, ...], what: str) -> list[Region]:
    """A box (left, top, width, height), of which COCO has some without a pixel."""
    if len(box) != 4 or not all(-_FAR < at < _FAR for at in box) or min(box[2:]) < 0:
        raise HeatproofError(f"{what} has a bad box, {box}; correct it, or take it away")
    return list(_tool().frPyObjects(np.array([box], np.float64), *size))


def _outline(outline: Any, size: tuple[int, ...], what: str) -> list[Region]:
    """Polygons, or the run lengths of a crowd."""
    if not outline:
        raise HeatproofError(f"{what} has no outline; fetch the annotations of instances, or give "
                             "the card truth = \"boxes\"")
    if isinstance(outline, dict):
        counts = outline["counts"]
        if not isinstance(counts, list) or tuple(outline["size"]) != size or (
                min(counts, default=0) < 0 or sum(counts) != size[0] * size[1]):
            raise HeatproofError(f"{what} needs run lengths as a list of counts that fill its "
                                 f"image, {size[1]} × {size[0]}; fetch the original")
        return [_tool().frPyObjects(outline, *size)]
    for polygon in outline:
        if len(polygon) % 2 or not all(-_FAR < at < _FAR for at in polygon):
            raise HeatproofError(f"{what} has a bad outline, like {str(polygon)[:60]}; correct it, "
                                 "or take it away")
    # Two points make no area, and pycocotools would take their four numbers for a box.
    polygons = [polygon for polygon in outline if len(polygon) > 4]
    return list(_tool().frPyObjects(polygons, *size)) if polygons else []


def _union(regions: list[Region]) -> Region:
    merged: Region = _tool().merge(regions)
    return merged


def _area(region: Region) -> float:
    return float(_tool().area(region))


def _pixels(region: Region) -> Array:
    return np.asarray(_tool().decode(region), np.uint8)


def _tool() -> Any:
    try:
        from pycocotools import mask
    except ImportError:
        raise HeatproofError(
            "COCO's outlines are drawn by pycocotools: pip install 'heatproof[data]'") from None
    return mask
