"""COCO's annotations: which class a photograph gets, what its mask marks, and what is refused."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bench import data
from bench.core import Card, HeatproofError

# pycocotools asks numpy in a way that numpy 2 will not answer forever.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

H, W = 10, 20
CATEGORIES = [{"id": 1, "name": "cat", "supercategory": "animal"},
              {"id": 4, "name": "dog", "supercategory": "animal"},
              {"id": 9, "name": "car", "supercategory": "vehicle"}]
HARM = Callable[[dict[str, Any]], Any]


def box(left: int, top: int, width: int, height: int) -> list[list[float]]:
    """The polygon of a box."""
    right, low = left + width, top + height
    return [[left, top, right, top, right, low, left, low]]


def thing(number: int, image: int, category: int, at: tuple[int, int, int, int],
          **more: Any) -> dict[str, Any]:
    """An annotation as COCO writes them."""
    return {"id": number, "image_id": image, "category_id": category, "bbox": list(at),
            "area": at[2] * at[3], "iscrowd": 0, "segmentation": box(*at), **more}


def crowd(mask: np.ndarray) -> dict[str, Any]:
    """COCO's run lengths: columns first, beginning with zeros."""
    flat = mask.ravel(order="F")
    edges = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *edges, flat.size]).tolist()
    return {"size": list(mask.shape), "counts": [0, *counts] if flat[0] else counts}


def table(images: list[int], annotations: list[dict[str, Any]]) -> dict[str, Any]:
    return {"info": {}, "licenses": [], "categories": CATEGORIES, "annotations": annotations,
            "images": [{"id": number, "file_name": f"{number:012d}.jpg", "height": H, "width": W}
                       for number in images]}


FEW = np.zeros((H, W), np.uint8)
FEW[0:4, 6:14] = 1  # in part over a car
TRAIN = table([1, 2, 3, 4], [
    thing(11, 1, 1, (0, 0, 6, 6)), thing(12, 1, 4, (10, 5, 4, 4)), thing(13, 1, 9, (0, 6, 10, 4)),
    thing(21, 2, 9, (0, 0, 5, 8)), thing(22, 2, 9, (3, 0, 5, 8)),
    thing(23, 2, 9, (0, 0, W, 4), iscrowd=1, segmentation=crowd(FEW)),
    thing(31, 3, 1, (0, 0, 1, 1)), thing(41, 4, 1, (0, 0, W, H))])
VAL = table([7, 8], [thing(71, 7, 4, (2, 2, 8, 5)), thing(81, 8, 9, (2, 2, 8, 5))])


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """HEATPROOF_DATA/coco-2017 in the published layout: four images to train on, two to test."""
    monkeypatch.setenv("HEATPROOF_DATA", str(tmp_path))
    home = tmp_path / "coco-2017"
    for part, told in (("train2017", TRAIN), ("val2017", VAL)):
        write(home, part, told)
        (home / part).mkdir()
        for one in told["images"]:
            pixels = np.full((H, W, 3), one["id"] * 20, np.uint8)
            Image.fromarray(pixels).save(home / part / one["file_name"], quality=95)
    return home


def write(home: Path, part: str, told: object) -> None:
    path = home / "annotations" / f"instances_{part}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(told))


def card(**more: Any) -> Card:
    return replace(data.card("coco-2017"), image=(3, H, W), **more)


def categories(**more: Any) -> Card:
    return card(classes=("cat", "dog", "car"), options={"classes": "category"}, **more)


def filled(*at: tuple[int, int, int, int]) -> np.ndarray:
    mask = np.zeros((H, W), np.uint8)
    for left, top, width, height in at:
        mask[top:top + height, left:left + width] = 1
    return mask


def test_the_group_that_covers_most_gives_the_class_and_all_its_objects_the_mask(
    root: Path,
) -> None:
    images = data.load(card(), "train")
    names = [data.card("coco-2017").classes[label] for label in images.y]
    assert dict(zip(images.key, names, strict=True)) == {
        "000000000001": "animal", "000000000002": "vehicle"}
    assert images.mask is not None
    assert np.array_equal(images.mask[0], filled((0, 0, 6, 6), (10, 5, 4, 4)))
    assert (images.x[1] == 40).all()
    assert list(data.load(card(), "test").key) == ["000000000007", "000000000008"]


def test_among_categories_another_class_may_win(root: Path) -> None:
    images = data.load(categories(), "train")
    assert images.y.tolist() == [2, 2]  # 40 pixels of car, 36 of cat, 16 of dog
    assert images.mask is not None
    assert np.array_equal(images.mask[0], filled((0, 6, 10, 4)))


def test_a_crowd_is_ignored_where_no_object_lies_and_counts_for_no_class(root: Path) -> None:
    images = data.load(card(), "train")
    assert images.mask is not None
    objects = filled((0, 0, 8, 8))
    assert np.array_equal(images.mask[1], np.where(objects, 1, FEW * 255))
    everything = np.ones((H, W), np.uint8)
    told = table([1], [thing(1, 1, 1, (0, 0, 5, 5)),
                       thing(2, 1, 9, (0, 0, W, H), iscrowd=1, segmentation=crowd(everything))])
    write(root, "train2017", told)
    assert data.load(categories(), "train").y.tolist() == [0]


def test_objects_that_overlap_are_counted_once(root: Path) -> None:
    write(root, "train2017", table([1], [
        thing(1, 1, 1, (0, 0, 6, 6)), thing(2, 1, 1, (0, 0, 6, 6)), thing(3, 1, 9, (8, 0, 5, 10))]))
    assert data.load(categories(), "train").y.tolist() == [2]


def test_a_line_of_two_points_covers_nothing(root: Path) -> None:
    line, whole = [0, 0, 9, 9], box(0, 0, 5, 5)
    write(root, "train2017", table([1], [
        thing(1, 1, 1, (0, 0, 5, 5), segmentation=[line, *whole]),
        thing(2, 1, 9, (0, 0, 9, 9), segmentation=[line])]))
    images = data.load(categories(), "train")
    assert images.y.tolist() == [0]
    assert images.mask is not None
    assert np.array_equal(images.mask[0], filled((0, 0, 5, 5)))


def test_the_shares_that_leave_an_image_out_are_options(root: Path) -> None:
    options = {"classes": "category", "smallest": 0.0, "largest": 1.0}
    every = replace(categories(), options=options)
    assert len(data.load(every, "train")) == 4
    with pytest.raises(HeatproofError, match="in no image do objects of one class"):
        data.load(replace(every, options={**options, "smallest": 0.99, "largest": 0.995}), "train")


def test_where_the_truth_is_boxes_the_mask_is_the_boxes(root: Path) -> None:
    told = table([1], [thing(1, 1, 1, (0, 0, 6, 6), segmentation=[]),
                       thing(2, 1, 1, (9, 9, 0, 0), segmentation=[])])
    write(root, "train2017", told)
    images = data.load(categories(truth="boxes"), "train")
    assert images.mask is not None
    assert np.array_equal(images.mask[0], filled((0, 0, 6, 6)))
    assert data.load(categories(truth="boxes"), "test").mask is not None
    with pytest.raises(HeatproofError, match=r"annotation 1 has no outline.*\"boxes\""):
        data.load(categories(), "train")
    write(root, "train2017", TRAIN)
    assert data.load(categories(truth="none"), "train").mask is None


def test_one_file_can_be_parted_by_shares(root: Path) -> None:
    own = replace(categories(), options={"classes": "category", "parts": ["val2017"]},
                  splits={"test": "0.0-1.0"})
    assert len(data.load(own, "test")) == 2


def test_a_stretched_mask_keeps_its_values(root: Path) -> None:
    images = data.load(replace(card(), image=(3, 5, 5)), "train")
    assert images.mask is not None
    assert set(np.unique(images.mask)) <= {0, 1, 255}
    assert images.mask.any((1, 2)).all()


@pytest.mark.parametrize(("harm", "says"), [
    (lambda t: t.pop("images"), "no file of COCO's annotations .*images"),
    (lambda t: t["annotations"][0].pop("image_id"), "no file of COCO's annotations"),
    (lambda t: t["annotations"][0].update(image_id=99), "annotation 11 is of image 99"),
    (lambda t: t["annotations"][0].update(category_id=99), "no file of COCO's annotations .*99"),
    (lambda t: t["annotations"][0].update(segmentation=[[1, 2, 3, 4, 5]]), "11 has a bad outline"),
    (lambda t: t["annotations"][0].update(segmentation=[[1, 2, 3, 4, 5, 1e9]]), "bad outline"),
    (lambda t: t["annotations"][0].update(segmentation=[[1, 2, 3, 4, 5, float("nan")]]), "bad out"),
    (lambda t: t["annotations"][0].update(segmentation=[["a", "b", "c", "d"]]), "no file of COCO"),
    (lambda t: t["annotations"][5]["segmentation"].update(size=[W, H]), "23 needs run lengths"),
    (lambda t: t["annotations"][5]["segmentation"]["counts"].append(7), "23 needs run lengths"),
    (lambda t: t["annotations"][5]["segmentation"].update(counts="zz"), "23 needs run lengths"),
    (lambda t: t["images"][1].update(id=1), "no file|two images of one id|is of image 2"),
    (lambda t: t["images"][1].update(file_name="000000000001.jpg"), "same key|two images"),
    (lambda t: t["images"][0].update(height=H + 1), "size of its image"),
    (lambda t: t["categories"][2].update(supercategory="beast"), "unknown class .*'beast'"),
])
def test_a_harmed_annotation_file_is_told_in_one_line(root: Path, harm: HARM, says: str) -> None:
    told = json.loads(json.dumps(TRAIN))
    harm(told)
    write(root, "train2017", told)
    with pytest.raises(HeatproofError, match=says) as error:
        data.load(card(), "train")
    assert "\n" not in str(error.value)


def test_files_that_are_missing_or_truncated_are_told_by_name(root: Path) -> None:
    path = root / "annotations" / "instances_train2017.json"
    path.write_text(path.read_text()[:-40])
    with pytest.raises(HeatproofError, match=r"instances_train2017\.json is no file of COCO"):
        data.load(card(), "train")
    path.unlink()
    with pytest.raises(HeatproofError, match=r"cannot read .*instances_train2017\.json"):
        data.load(card(), "train")
    write(root, "train2017", TRAIN)
    photograph = root / "train2017" / "000000000002.jpg"
    photograph.write_bytes(photograph.read_bytes()[:100])
    with pytest.raises(HeatproofError, match=r"000000000002\.jpg"):
        data.load(card(), "train")
    photograph.unlink()
    with pytest.raises(HeatproofError, match=r"cannot read .*000000000002\.jpg"):
        data.load(card(), "train")


def test_without_the_folder_the_card_says_how_to_lay_it_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HEATPROOF_DATA", str(tmp_path))
    with pytest.raises(HeatproofError, match=r"no folder .*coco-2017.*2017 Train images"):
        data.load(card(), "test")


def test_options_that_do_not_exist_are_answered_with_the_nearest(root: Path) -> None:
    with pytest.raises(HeatproofError, match="did you mean 'supercategory'"):
        data.load(card(options={"classes": "supercategories"}), "train")
    with pytest.raises(HeatproofError, match="did you mean 'smallest'"):
        data.load(card(options={"smalest": 0.1}), "train")


@pytest.mark.data
def test_on_real_photographs_classes_and_masks_are_those_drawn_independently(
    real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    # natural-coco's masks were drawn by another tool, outlines included, its classes by category.
    stored = real_data / "natural-coco"
    home = tmp_path / "coco-2017"
    (home / "val2017").mkdir(parents=True)
    (home / "annotations").mkdir()
    (home / "annotations/instances_val2017.json").symlink_to(stored / "instances.json")
    for path in stored.glob("images/*/*.jpg"):
        (home / "val2017" / path.name).symlink_to(path)
    monkeypatch.setenv("HEATPROOF_DATA", str(tmp_path))
    with (stored / "metadata.csv").open(newline="") as file:
        told = {Path(row["file"]).stem: row for row in csv.DictReader(file)}
    names = tuple(sorted({row["category"] for row in told.values()}))
    found = data.catalogue(card(
        classes=names, splits={"test": "val2017"},
        options={"parts": ["val2017"], "classes": "category"}))
    assert len(found) == 96  # one more covers 1.0 % with its outlines and a little less without
    assert [names[label] for label in found.label] == [told[key]["category"] for key in found.key]
    agree, union, both = [], 0, 0
    for row, key in enumerate(found.key):
        assert found.mask is not None
        mask = found.mask(row)
        with Image.open(stored / "masks" / told[key]["label"] / f"{key}.png") as image:
            theirs = np.asarray(image)
        agree.append((mask == np.select([theirs == 255, theirs == 128], [1, 255])).mean())
        union += np.sum((mask == 1) | (theirs == 255))
        both += np.sum((mask == 1) & (theirs == 255))
    assert min(agree) > 0.98
    assert both / union > 0.98
