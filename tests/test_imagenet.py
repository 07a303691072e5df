"""ImageNet as Kaggle and as torchvision lay it out, and ImageNet-S; what is wrong is one line."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench import data
from bench.core import Card, HeatproofError
from bench.data.catalogue import parted

FISH, SHARK, HEN = "n01440764", "n01484850", "n01514859"
CLASSES = (FISH, SHARK, HEN)
VAL = {"ILSVRC2012_val_00000001": SHARK, "ILSVRC2012_val_00000002": FISH,
       "ILSVRC2012_val_00000003": SHARK}
TRAIN = {"n01440764_10": FISH, "n01440764_9": FISH, "n01484850_7": SHARK, "n01514859_1": HEN}
SOLUTION = f"""ImageId,PredictionString
ILSVRC2012_val_00000003,{SHARK} 0 0 2 1 {SHARK} 4 3 6 5\x20
ILSVRC2012_val_00000001,{SHARK} 1 2 4 4\x20
ILSVRC2012_val_00000002,{FISH} 0 0 6 5\x20
"""
BOX = np.zeros((5, 6), np.uint8)
BOX[2:4, 1:4] = 1
TWO = np.zeros((5, 6), np.uint8)
TWO[:1, :2] = TWO[3:, 4:] = 1


def photograph(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), np.uint8)
    Image.fromarray(pixels).save(path, quality=95)


def note(*boxes: tuple[str, int, int, int, int]) -> str:
    objects = "".join(
        f"<object><name>{wnid}</name><bndbox><xmin>{x}</xmin><ymin>{y}</ymin><xmax>{right}</xmax>"
        f"<ymax>{low}</ymax></bndbox></object>" for wnid, x, y, right, low in boxes)
    return f"<annotation><size><width>6</width><height>5</height></size>{objects}</annotation>"


@pytest.fixture
def kaggle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The challenge's download: class folders for training, one folder and a table for the rest."""
    root = tmp_path / "imagenet-1k"
    images = root / "ILSVRC" / "Data" / "CLS-LOC"
    for seed, (name, wnid) in enumerate(TRAIN.items()):
        photograph(images / "train" / wnid / f"{name}.JPEG", seed)
    for seed, name in enumerate(VAL, 10):
        photograph(images / "val" / f"{name}.JPEG", seed)
    (root / "LOC_val_solution.csv").write_text(SOLUTION)
    monkeypatch.setenv("HEATPROOF_DATA", str(tmp_path))
    return root


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """torchvision's arrangement: class folders for both, and the boxes as XML."""
    root = tmp_path / "imagenet-1k"
    for seed, (name, wnid) in enumerate(VAL.items(), 10):
        photograph(root / "val" / wnid / f"{name}.JPEG", seed)
    notes = root / "Annotations" / "val"
    notes.mkdir(parents=True)
    for name, boxes in zip(VAL, ([(SHARK, 1, 2, 4, 4)], [(FISH, 0, 0, 6, 5)],
                                 [(SHARK, 0, 0, 2, 1), (HEN, 0, 0, 6, 5), (SHARK, 4, 3, 6, 5)]),
                           strict=True):
        (notes / f"{name}.xml").write_text(note(*boxes))
    monkeypatch.setenv("HEATPROOF_DATA", str(tmp_path))
    return root


@pytest.fixture
def segmented(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """ImageNet-S with two of the three classes, numbered 1 and 2, as its own script makes it."""
    root = tmp_path / "imagenet-s" / "ImageNetS919"
    numbers = np.zeros((5, 6), np.int64)
    numbers[0], numbers[1], numbers[2, :3] = 1, 2, 1000
    for seed, (name, wnid) in enumerate(VAL.items(), 10):
        photograph(root / "validation" / wnid / f"{name}.JPEG", seed)
        write_numbers(root / "validation-segmentation" / wnid / f"{name}.png", numbers)
    monkeypatch.setenv("HEATPROOF_DATA", str(tmp_path))
    return root


def write_numbers(path: Path, numbers: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    colours = np.stack([numbers % 256, numbers // 256, 0 * numbers], -1).astype(np.uint8)
    Image.fromarray(colours).save(path)


def tiny(name: str = "imagenet-1k-validation", **changes: object) -> Card:
    """The card for images of 6 × 5 and three classes."""
    found = data.card(name)
    count = {"train": len(TRAIN), "val": len(VAL), "validation": len(VAL)}
    facts: dict[str, object] = {
        "image": (3, 5, 6), "fit": "", "resize": 0, "classes": CLASSES,
        "splits": {split: {"folder": part["folder"], "images": count[part["folder"]]}
                   for split, part in found.splits.items()},
        "options": {"unsegmented": [SHARK]} if name == "imagenet-s" else {}}
    return dataclasses.replace(found, **facts | changes)


def test_kaggles_layout_is_read_with_its_classes_and_all_boxes_of_an_image(kaggle: Path) -> None:
    train, test = (data.load(tiny("imagenet-1k"), split) for split in ("train", "test"))
    assert train.key == tuple(f"{name}.JPEG" for name in sorted(TRAIN))
    assert train.y.tolist() == [0, 0, 1, 2]
    assert not train.mask.any()
    assert test.key == tuple(f"{name}.JPEG" for name in VAL)
    assert test.y.tolist() == [1, 0, 1]
    assert np.array_equal(test.mask, [BOX, np.ones_like(BOX), TWO])
    stored = np.asarray(Image.open(kaggle / "ILSVRC/Data/CLS-LOC/val" / test.key[0]))
    assert np.array_equal(test.x[0], stored.transpose(2, 0, 1))


def test_torchvisions_arrangement_gives_the_same_images_labels_and_masks(folders: Path) -> None:
    test = data.load(tiny(), "test")
    assert dict(zip(test.key, test.y.tolist(), strict=True)) == {
        f"{name}.JPEG": CLASSES.index(wnid) for name, wnid in VAL.items()}
    mask = dict(zip(test.key, test.mask, strict=True))
    assert np.array_equal(mask["ILSVRC2012_val_00000001.JPEG"], BOX)
    assert np.array_equal(mask["ILSVRC2012_val_00000003.JPEG"], TWO)  # the hen's box is not its


def test_the_table_tells_boxes_of_class_folders_too(folders: Path) -> None:
    (folders / "LOC_val_solution.csv").write_text(SOLUTION)
    for path in (folders / "Annotations" / "val").iterdir():
        path.unlink()
    test = data.load(tiny(), "test")
    assert np.array_equal(test.mask[test.key.index("ILSVRC2012_val_00000003.JPEG")], TWO)


def test_the_validation_card_needs_no_training_images_and_does_not_list_them(
    kaggle: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    listed: list[str] = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: listed.append(str(path)) or scandir(path))
    wanted = data.load(tiny(), "test")
    assert not [path for path in listed if "train" in path]
    assert np.array_equal(wanted.x, data.load(tiny("imagenet-1k"), "test").x)


def test_both_cards_share_the_decoded_test_images(kaggle: Path, cache: Path) -> None:
    data.load(tiny(), "test")
    data.load(tiny("imagenet-1k"), "test")
    assert len(list((cache / "decoded").rglob("x.npy"))) == 1


def test_training_images_are_not_looked_at_one_by_one(kaggle: Path) -> None:
    card = tiny("imagenet-1k")
    found = data.catalogue(card)
    states = [found.files[row] for row in parted(card, found)["train"]]
    assert {path.name for files in states for path in files} == set(CLASSES)


def test_imagenet_s_numbers_its_classes_without_the_unsegmented_ones(segmented: Path) -> None:
    card = tiny("imagenet-s", options={"unsegmented": [HEN]})
    test = data.load(card, "test")
    fish, shark = test.mask[test.y == 0][0], test.mask[test.y == 1][0]
    assert fish.tolist() == [[1] * 6, [0] * 6, [255] * 3 + [0] * 3, [0] * 6, [0] * 6]
    assert shark.tolist() == [[0] * 6, [1] * 6, [255] * 3 + [0] * 3, [0] * 6, [0] * 6]


def test_a_number_above_255_lies_in_green(segmented: Path) -> None:
    many = tuple(f"n{number:08d}" for number in range(300))
    wnid = many[299]
    photograph(segmented / "validation" / wnid / "one.JPEG", 0)
    write_numbers(segmented / "validation-segmentation" / wnid / "one.png", np.full((5, 6), 300))
    card = tiny("imagenet-s", classes=(*many, *CLASSES), options={}, splits={
        "test": {"folder": "validation", "images": 4}})
    test = data.load(card, "test")
    assert test.mask[test.key.index("one.JPEG")].all()


def test_the_cards_have_the_official_classes_in_their_sorted_order() -> None:
    one, validation, with_masks = map(data.card, (
        "imagenet-1k", "imagenet-1k-validation", "imagenet-s"))
    assert one.classes == validation.classes == with_masks.classes == tuple(sorted(one.classes))
    assert len(set(one.classes)) == 1000
    unsegmented = with_masks.options["unsegmented"]
    assert len(set(one.classes) - set(unsegmented)) == 919 == 1000 - len(unsegmented)


def test_the_cards_classes_are_timms() -> None:
    from timm.data import ImageNetInfo

    assert tuple(ImageNetInfo("imagenet-1k").label_names()) == data.card("imagenet-1k").classes


IMAGES = "ILSVRC/Data/CLS-LOC"
ONE = f"{IMAGES}/val/ILSVRC2012_val_00000001.JPEG"


def rewrite(root: Path, old: str, new: str) -> None:
    path = root / "LOC_val_solution.csv"
    path.write_text(path.read_text().replace(old, new))


HARM: dict[str, tuple[Callable[[Path], object], str]] = {
    "no table": (lambda p: (p / "LOC_val_solution.csv").unlink(), "cannot read .*LOC_val_solution"),
    "other table": (lambda p: (p / "LOC_val_solution.csv").write_text("a,b\n"), "does not begin"),
    "no text": (lambda p: (p / "LOC_val_solution.csv").write_bytes(b"\xff\xfe\x00"), "no CSV"),
    "image not in table": (lambda p: rewrite(p, "val_00000001", "val_00000009"),
                           "does not name ILSVRC2012_val_00000001"),
    "image twice": (lambda p: rewrite(p, "val_00000001", "val_00000002"), "line 4: not a new"),
    "half a box": (lambda p: rewrite(p, "1 2 4 4", "1 2 4"), "line 3: not a new image"),
    "no number": (lambda p: rewrite(p, "1 2 4 4", "1 2 4 x"), "line 3: could not convert"),
    "box outside": (lambda p: rewrite(p, "1 2 4 4", "7 2 9 4"), "00000001: the box 7, 2.* outside"),
    "unknown class": (lambda p: rewrite(p, f"{FISH} 0 0 6 5", "n99 0 0 6 5"),
                      "holds images of n99, which is no class"),
    "no images": (lambda p: (p / IMAGES / "val").rename(p / "elsewhere"),
                  "no folder .*val. Put val/WNID/"),
    "an image fewer": (lambda p: (p / ONE).unlink(), "holds 2 images, card .* says 3"),
    "truncated": (lambda p: (p / ONE).write_bytes((p / ONE).read_bytes()[:200]),
                  "00000001.JPEG is damaged"),
    "empty": (lambda p: (p / ONE).write_bytes(b""), "00000001.JPEG is empty"),
}


@pytest.mark.parametrize("harm", HARM)
def test_what_is_wrong_is_told_in_one_line(kaggle: Path, harm: str) -> None:
    break_it, says = HARM[harm]
    break_it(kaggle)
    with pytest.raises(HeatproofError, match=says) as error:
        data.load(tiny(), "test")
    assert "\n" not in str(error.value)


def test_absent_training_images_are_told_with_the_card_that_needs_none(kaggle: Path) -> None:
    (kaggle / IMAGES / "train").rename(kaggle / "elsewhere")
    with pytest.raises(HeatproofError, match=r"no folder .*train.* card imagenet-1k-validation"):
        data.load(tiny("imagenet-1k"), "train")
    assert len(data.load(tiny(), "test")) == 3


def test_an_absent_folder_is_told_with_the_way_to_lay_it_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HEATPROOF_DATA", str(tmp_path))
    with pytest.raises(HeatproofError, match=r"no folder .*imagenet-1k\. Put val/WNID/"):
        data.load(tiny(), "test")


def test_class_folders_with_a_stranger_a_namesake_or_no_boxes_are_told(folders: Path) -> None:
    with pytest.raises(HeatproofError, match="tells the boxes"):
        (folders / "Annotations").rename(folders / "notes")
        data.load(tiny(), "test")
    assert data.load(tiny(truth="none"), "test").mask is None
    (folders / "notes").rename(folders / "Annotations")
    photograph(folders / "val" / FISH / "ILSVRC2012_val_00000001.JPEG", 0)
    four = {"test": {"folder": "val", "images": 4}}
    with pytest.raises(HeatproofError, match=r"00000001\.JPEG have the same name"):
        data.load(tiny(splits=four), "test")
    (folders / "val" / FISH).rename(folders / "val" / "größe")
    with pytest.raises(HeatproofError, match="größe holds images of größe, which is no class"):
        data.load(tiny(splits=four), "test")


@pytest.mark.parametrize(("text", "says"), [
    ("<annotation>", "no annotation"), (note((FISH, 0, 0, 6, 5)), f"has no box of {SHARK}"),
    (note((SHARK, 4, 0, 4, 5)), "is none"),
    ("<annotation><object><name>x</name></object></annotation>", "no annotation"),
])
def test_an_annotation_that_tells_no_box_of_the_class_is_told(
    folders: Path, text: str, says: str,
) -> None:
    path = folders / "Annotations" / "val" / "ILSVRC2012_val_00000001.xml"
    path.write_text(text)
    with pytest.raises(HeatproofError, match=f"00000001.xml.*{says}"):
        data.load(tiny(), "test")
    path.unlink()
    with pytest.raises(HeatproofError, match=r"cannot read .*00000001\.xml"):
        data.load(tiny(), "test")


def test_a_mask_of_imagenet_s_that_cannot_be_is_told(segmented: Path) -> None:
    path = segmented / "validation-segmentation" / FISH / "ILSVRC2012_val_00000002.png"
    card = tiny("imagenet-s", options={"unsegmented": [HEN]})
    for numbers, says in ((np.full((5, 6), 3), "tells class 3 of 2"),
                          (np.ones((6, 5), np.int64), "must have the size of its image")):
        write_numbers(path, numbers)
        with pytest.raises(HeatproofError, match=says):
            data.load(card, "test")
    Image.fromarray(np.zeros((5, 6), np.uint8)).save(path)
    with pytest.raises(HeatproofError, match="is grey"):
        data.load(card, "test")
    path.unlink()
    with pytest.raises(HeatproofError, match="cannot read"):
        data.load(card, "test")


def test_an_image_of_an_unsegmented_class_is_told(segmented: Path) -> None:
    with pytest.raises(HeatproofError, match=f"say that {SHARK} has no masks"):
        data.load(tiny("imagenet-s"), "test")
