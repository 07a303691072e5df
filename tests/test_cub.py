"""CUB-200-2011 in its published layout: lists, boxes, segmentations; what is wrong is one line."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench import data
from bench.core import Card, HeatproofError

CLASSES = ("001.Black_footed_Albatross", "002.Laysan_Albatross")
NAMES = ("001.Black_footed_Albatross/One_0001_1", "002.Laysan_Albatross/Zwei_ä_0002_2",
         "001.Black_footed_Albatross/Three_0003_3")
GREY = 1
BOXES = ("1.0 2.0 3.0 2.0", "0.0 0.0 2.4 1.0", "4.0 3.0 9.0 9.0")
CUB = "cub-200-2011/CUB_200_2011"


def numbered(*cells: object) -> str:
    return "".join(f"{number} {cell}\n" for number, cell in enumerate(cells, 1))


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three images, 5 high and 6 wide, the second of them grey, in two classes."""
    folder = tmp_path / CUB
    draws = np.random.default_rng(0)
    for row, name in enumerate(NAMES):
        photograph = folder / "images" / f"{name}.jpg"
        photograph.parent.mkdir(parents=True, exist_ok=True)
        pixels = draws.integers(0, 256, (5, 6) if row == GREY else (5, 6, 3), np.uint8)
        Image.fromarray(pixels).save(photograph, quality=95)
        votes = tmp_path / "cub-200-2011" / "segmentations" / f"{name}.png"
        votes.parent.mkdir(parents=True, exist_ok=True)
        levels = np.array([0, 51, 102, 153, 204, 255], np.uint8)
        Image.fromarray(np.tile(levels, (5, 1))).save(votes)
    for name, cells in {
        "classes": CLASSES, "images": [f"{name}.jpg" for name in NAMES],
        "image_class_labels": (1, 2, 1), "train_test_split": (1, 0, 0), "bounding_boxes": BOXES,
    }.items():
        (folder / f"{name}.txt").write_text(numbered(*cells), encoding="utf-8")
    monkeypatch.setenv("HEATPROOF_DATA", str(tmp_path))
    return tmp_path


def tiny(name: str = "cub-200-2011", **changes: object) -> Card:
    """The card for images of 6 × 5."""
    facts: dict[str, object] = {
        "image": (3, 5, 6), "fit": "", "resize": 0, "classes": CLASSES,
        "splits": {"train": {"value": 1, "images": 1}, "test": {"value": 0, "images": 2}}}
    return dataclasses.replace(data.card(name), **facts | changes)


def rewrite(root: Path, name: str, *cells: object) -> None:
    (root / CUB / f"{name}.txt").write_text(numbered(*cells))


def test_images_labels_and_the_official_split_are_read_as_published(root: Path) -> None:
    train, test = (data.load(tiny(), split) for split in ("train", "test"))
    assert train.key == (NAMES[0],)
    assert test.key == (NAMES[1], NAMES[2])
    assert (train.y.tolist(), test.y.tolist()) == ([0], [1, 0])
    for images, row, name in ((train, 0, NAMES[0]), (test, 1, NAMES[2])):
        stored = np.asarray(Image.open(root / CUB / "images" / f"{name}.jpg"))
        assert np.array_equal(images.x[row], stored.transpose(2, 0, 1))


def test_a_grey_photograph_serves_as_three_equal_channels(root: Path) -> None:
    grey = data.load(tiny(), "test").x[0]
    stored = np.asarray(Image.open(root / CUB / "images" / f"{NAMES[GREY]}.jpg"))
    assert np.array_equal(grey, np.stack([stored] * 3))


def test_a_box_is_x_y_width_height_in_pixels_and_is_cut_at_the_border(root: Path) -> None:
    masks = [*data.load(tiny(), "train").mask, *data.load(tiny(), "test").mask]
    wanted = np.zeros((3, 5, 6), np.uint8)
    wanted[0, 2:4, 1:4] = wanted[1, 0:1, 0:2] = wanted[2, 3:, 4:] = 1
    assert np.array_equal(masks, wanted)


def test_a_pixel_is_bird_where_half_of_the_annotators_marked_it(root: Path) -> None:
    name = "cub-200-2011-segmentation"
    mask = data.load(tiny(name), "train").mask
    assert mask.tolist() == [[[0, 0, 0, 1, 1, 1]] * 5]
    all_five = data.load(tiny(name, options={"agreed": 1.0}), "train").mask
    assert all_five.tolist() == [[[0, 0, 0, 0, 0, 1]] * 5]


def test_box_and_image_are_scaled_and_cropped_alike(root: Path) -> None:
    pixels = np.zeros((5, 6, 3), np.uint8)
    pixels[2:4, 1:4] = 255
    Image.fromarray(pixels).save(root / CUB / "images" / f"{NAMES[0]}.jpg", quality=100)
    cropped = data.load(tiny(image=(3, 16, 16), fit="crop", resize=20), "train")
    bright = cropped.x[0].mean(0) > 127
    assert (bright == cropped.mask[0]).mean() > 0.85
    assert 0.1 < bright.mean() < 0.9


def test_the_lists_are_joined_by_the_number_of_the_image_not_by_their_order(root: Path) -> None:
    wanted = data.load(tiny(), "test")
    for name in ("image_class_labels", "train_test_split", "bounding_boxes"):
        path = root / CUB / f"{name}.txt"
        path.write_text("".join(reversed(path.read_text().splitlines(keepends=True))))
    found = data.load(tiny(), "test")
    assert found.key == wanted.key
    assert found.y.tolist() == wanted.y.tolist()
    assert np.array_equal(found.mask, wanted.mask)


def test_both_cards_share_classes_recipe_and_official_counts() -> None:
    boxes, pixels = data.card("cub-200-2011"), data.card("cub-200-2011-segmentation")
    for name in ("classes", "image", "fit", "resize", "mean", "std", "splits"):
        assert getattr(boxes, name) == getattr(pixels, name)
    assert len(set(boxes.classes)) == 200
    assert sum(part["images"] for part in boxes.splits.values()) == 11_788


HARM: dict[str, tuple[Callable[[Path], object], str]] = {
    "no list": (lambda p: (p / CUB / "images.txt").unlink(), "cannot read .*images.txt"),
    "empty list": (lambda p: (p / CUB / "images.txt").write_text(""), "images.txt is empty"),
    "no text": (lambda p: (p / CUB / "images.txt").write_bytes(b"1 \xff\n"), "no text in UTF-8"),
    "truncated line": (lambda p: (p / CUB / "bounding_boxes.txt").write_text("1 2.0 3.0\n"),
                       "line 1: 2 columns behind the number, not 4"),
    "number twice": (lambda p: (p / CUB / "classes.txt").write_text("1 a\n1 b\n"),
                     "line 2: 1 is there twice"),
    "other classes": (lambda p: rewrite(p, "classes", *reversed(CLASSES)), "names other classes"),
    "fewer labels": (lambda p: rewrite(p, "image_class_labels", 1, 2), "3 is in one alone"),
    "unknown class": (lambda p: rewrite(p, "image_class_labels", 1, 2, 7), "is of class none"),
    "wrong label": (lambda p: rewrite(p, "image_class_labels", 1, 2, 2), "002.Laysan_Albatross"),
    "duplicate name": (lambda p: rewrite(p, "images", *[f"{NAMES[0]}.jpg"] * 3), "twice"),
    "other split": (lambda p: rewrite(p, "train_test_split", 1, 1, 0),
                    "gives 2 images the value 1, card cub-200-2011 says 1"),
    "no number": (lambda p: rewrite(p, "bounding_boxes", "1 2 three 4", *BOXES[1:]),
                  "One_0001_1.jpg: could not convert"),
    "box without area": (lambda p: rewrite(p, "bounding_boxes", "1 2 0 4", *BOXES[1:]),
                         "One_0001_1.jpg: the box 1, 2, 0, 4"),
    "no photograph": (lambda p: (p / CUB / "images" / f"{NAMES[0]}.jpg").unlink(), "cannot read"),
    "truncated photograph": (
        lambda p: (p / CUB / "images" / f"{NAMES[0]}.jpg").write_bytes(b"\xff\xd8\xff\xe0"),
        "One_0001_1.jpg is"),
}


@pytest.mark.parametrize("harm", HARM)
def test_what_is_wrong_is_told_in_one_line(root: Path, harm: str) -> None:
    break_it, says = HARM[harm]
    break_it(root)
    with pytest.raises(HeatproofError, match=says) as error:
        data.load(tiny(), "train")
    assert "\n" not in str(error.value)


def test_a_missing_folder_is_told_with_the_way_to_lay_it_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HEATPROOF_DATA", str(tmp_path))
    with pytest.raises(HeatproofError, match=r"no folder .*cub-200-2011\. Unpack CUB_200_2011.tgz"):
        data.load(tiny(), "train")


def test_a_segmentation_that_is_missing_or_of_another_size_is_told(root: Path) -> None:
    card = tiny("cub-200-2011-segmentation")
    votes = root / "cub-200-2011" / "segmentations" / f"{NAMES[0]}.png"
    Image.fromarray(np.zeros((6, 5), np.uint8)).save(votes)
    with pytest.raises(HeatproofError, match="must have the size of its image"):
        data.load(card, "train")
    votes.unlink()
    with pytest.raises(HeatproofError, match=r"cannot read .*One_0001_1\.png"):
        data.load(card, "train")


@pytest.mark.parametrize(("options", "says"), [
    ({"agreed": 0.0}, "above 0 and up to 1"), ({"votes": 3}, "unknown key"),
    ({"agreed": "half"}, "must be of type float")])
def test_an_option_that_cannot_be_is_told(root: Path, options: dict, says: str) -> None:
    with pytest.raises(HeatproofError, match=says):
        data.load(tiny("cub-200-2011-segmentation", options=options), "train")


def test_a_split_without_its_count_is_told(root: Path) -> None:
    for wanted, says in ({"value": 1}, "images"), ("0.0-0.5", "must be a table"):
        with pytest.raises(HeatproofError, match=says):
            data.load(tiny(splits={"test": wanted}), "test")
