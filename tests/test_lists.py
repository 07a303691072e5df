"""Beside a folder of images: boxes, official lists, groups by name, and a card of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from folders import SIZE, pixels, refused, rows_of, save, table

from bench import data
from bench.core import Card

BOXED = Card(
    name="boxed", title="Boxed", source="folder", classes=("clear", "tumour"), image=(1, *SIZE),
    mean=(0.5,), std=(0.25,), splits={"train": "a", "test": "b"}, truth="boxes",
    options={"images": ["images"], "metadata": "metadata.csv", "split": "part",
             "box": ["x", "y", "w", "h"]})


@pytest.fixture
def boxed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """HEATPROOF_DATA/boxed: four images a split; the second has two boxes, the third none."""
    monkeypatch.setenv("HEATPROOF_DATA", str(tmp_path))
    home, rows = tmp_path / "boxed", []
    boxes = {1: [(0, 0, 2, 1), (3, 2, 2, 4)], 3: [(1, 1, 3, 2)]}
    for part in "ab":
        for n in range(4):
            file = f"{BOXED.classes[n % 2]}/{part}{n}.png"
            save(home / "images" / file, pixels(file))
            rows += [{"file": file, "part": part} | dict(zip("xywh", map(str, box), strict=True))
                     for box in boxes.get(n, [("",) * 4])]
    table(home, rows)
    return home


def drawn(*boxes: tuple[int, int, int, int]) -> np.ndarray:
    mask = np.zeros(SIZE, np.uint8)
    for x, y, w, h in boxes:
        mask[y:y + h, x:x + w] = 1
    return mask


def test_rows_of_one_file_are_its_boxes(boxed: Path) -> None:
    images = data.load(BOXED, "train")
    assert images.key == ("clear/a0", "clear/a2", "tumour/a1", "tumour/a3")
    assert images.mask is not None
    assert not images.mask[:2].any()
    assert np.array_equal(images.mask[2], drawn((0, 0, 2, 1), (3, 2, 2, 4)))
    assert np.array_equal(images.mask[3], drawn((1, 1, 3, 2)))


@pytest.mark.parametrize("columns", [["x", "y", "r", "b"], ["boxes"]])
def test_a_box_may_be_told_by_its_corners(boxed: Path, columns: list[str]) -> None:
    before = data.load(BOXED, "train").mask
    rows: dict[str, dict[str, str]] = {}
    for row in rows_of(boxed):
        x, y, w, h = (row[name] for name in "xywh")
        corners = [x, y, str(int(x) + int(w)), str(int(y) + int(h))] if x else [""] * 4
        row |= dict(zip(("x", "y", "r", "b"), corners, strict=True))
        here = " ".join(corners).strip()
        told = rows.get(row["file"], {}).get("boxes", "")
        if len(columns) == 1 and told:
            rows[row["file"]]["boxes"] = f"{told};{here}"
        else:
            rows[row["file"] + ("" if len(columns) == 1 else str(len(rows)))] = row | {
                "boxes": here}
    table(boxed, list(rows.values()))
    card = replace(BOXED, options={
        k: v for k, v in BOXED.options.items() if k != "box"} | {"corners": columns})
    assert np.array_equal(data.load(card, "train").mask, before)


def test_a_box_is_scaled_with_its_image(boxed: Path) -> None:
    card = replace(BOXED, image=(1, 12, 10), fit="stretch")
    small, large = data.load(BOXED, "train").mask, data.load(card, "train").mask
    assert small is not None
    assert np.array_equal(large, small.repeat(2, 1).repeat(2, 2))


def edited(**cells: str) -> Callable[[Path], None]:
    def harm(root: Path) -> None:
        rows = rows_of(root)
        rows[1].update(cells)
        table(root, rows)
    return harm


@pytest.mark.parametrize(("harm", "says"), [
    (edited(x="a"), "row 3: the box 'a 0 2 1' .*is not four numbers"),
    (edited(x=""), "row 3: the box '0 2 1' .*is not four numbers"),
    (edited(w="0"), "images/tumour/a1.png: the box 0, 0, 0, 1 .* is none"),
    (edited(w="nan"), "images/tumour/a1.png: the box .* is none"),
    (edited(x="50"), r"images/tumour/a1.png: the box 50, .* outside the image \(5 × 6\)"),
    (edited(part="b"), "row 4: tumour/a1 is there twice"),
    (lambda r: table(r, [*rows_of(r), rows_of(r)[0]]), "clear/a0 is there twice"),
])
def test_a_wrong_box_is_told_in_one_line(
    boxed: Path, harm: Callable[[Path], object], says: str,
) -> None:
    harm(boxed)
    refused(BOXED, says)


@pytest.mark.parametrize(("change", "says"), [
    ({"options": {**BOXED.options, "box": ["x", "y"]}}, "four or one"),
    ({"options": {**BOXED.options, "corners": ["x", "y", "w", "h"]}}, "four or one"),
    ({"options": {**BOXED.options, "box": ["x", "y", "w", "high"]}}, "unknown column .*'high'"),
    ({"options": {**BOXED.options, "box": []}}, "truth is boxes; name the columns"),
    ({"options": {**BOXED.options, "metadata": ""}}, "has columns of boxes and no table"),
    ({"options": {**BOXED.options, "masks": "images"}}, "need truth = \"boxes\" and no masks"),
    ({"truth": "pixels"}, "need truth = \"boxes\" and no masks"),
])
def test_a_card_that_tells_boxes_wrongly_is_refused(
    boxed: Path, change: dict[str, object], says: str,
) -> None:
    refused(replace(BOXED, **change), says)


EYES = Card(
    name="eyes", title="Eyes", source="folder", classes=("healthy", "ill"), image=(1, *SIZE),
    mean=(0.5,), std=(0.25,), group="patient",
    splits={"train": {"list": "lists/train.csv", "label": "onset", "images": [3, 1]},
            "test": {"list": "lists/test.csv", "label": "onset", "images": [1, 1]}},
    options={"images": ["images"], "file": "filename", "group_pattern": r"^(\d+)_"})
LISTS = {"train": {"1_left": "0", "1_right": "1", "2_left": "0", "3_left": "healthy"},
         "test": {"4_left": "0", "4_right": "ill"}}


def listed(home: Path, lists: dict[str, dict[str, str]], suffix: str = ".png") -> None:
    for split, labels in lists.items():
        table(home, [{"filename": name + suffix, "onset": label, "patient": "p" + name[0]}
                     for name, label in labels.items()], f"lists/{split}.csv")


@pytest.fixture
def eyes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """HEATPROOF_DATA/eyes: the lists say .png, the files are JPEG, and two are in no list."""
    monkeypatch.setenv("HEATPROOF_DATA", str(tmp_path))
    home = tmp_path / "eyes"
    for name in [*LISTS["train"], *LISTS["test"], "9_left", "x_left"]:
        save(home / "images" / ("old", "new")[name < "3"] / f"{name}.jpeg", pixels(name))
    listed(home, LISTS)
    return home


def test_a_list_tells_split_class_and_patient(eyes: Path) -> None:
    train, test = data.load(EYES, "train"), data.load(EYES, "test")
    assert train.key == ("1_left", "1_right", "2_left", "3_left")
    assert train.y.tolist() == [0, 1, 0, 0]
    assert train.group == ("1", "1", "2", "3")
    assert test.key == ("4_left", "4_right")
    assert test.y.tolist() == [0, 1]
    assert len({image.tobytes() for image in (*train.x, *test.x)}) == 6


def test_a_column_may_tell_the_patient(eyes: Path) -> None:
    options = {k: v for k, v in EYES.options.items() if k != "group_pattern"}
    assert data.load(replace(EYES, options=options), "test").group == ("p4", "p4")
    refused(replace(EYES, options=options, group=""), "it is known which images belong together")


def test_a_list_may_name_more_or_fewer_folders_than_there_are(eyes: Path) -> None:
    deep = {split: {f"set/new/{name}" if name < "3" else f"set/old/{name}": label
                    for name, label in labels.items()} for split, labels in LISTS.items()}
    listed(eyes, deep)
    card = replace(EYES, options={**EYES.options, "group_pattern": r"(\d)_"})
    images = data.load(card, "train")
    assert images.key == ("set/new/1_left", "set/new/1_right", "set/new/2_left", "set/old/3_left")
    assert images.y.tolist() == [0, 1, 0, 0]
    listed(eyes, {"test": {"new/4_left": "0", "old/4_right": "ill"}})
    refused(card, "images lacks new/4_left .*which .*lists/test.csv has", "test")


@pytest.mark.parametrize(("change", "says"), [
    ({"train": {**LISTS["train"], "1_left": "1"}}, r"train.csv lists \[2, 2\] .* says \[3, 1\]"),
    ({"train": {**LISTS["train"], "1_left": "2"}}, "train.csv: 1_left is of class '2'"),
    ({"train": {**LISTS["train"], "1_left": ""}}, "train.csv, row 2: onset is empty"),
    ({"train": {"1_left": "0", "1_right": "1", "5_left": "0", "3_left": "0"}},
     "images lacks 5_left .*which .*lists/train.csv has"),
    ({"train": {"1_left": "0", "1_right": "1", "x_left": "0", "3_left": "0"}},
     "'.*' finds nothing in x_left"),
    ({"test": {"4_left": "0", "1_right": "1"}}, "test.csv lists 1_right, .*another split's list"),
    ({"test": {"1_left": "0", "4_right": "1"}, "train": {
        "4_left": "0", "1_right": "1", "2_left": "0", "3_left": "0"}},
     "patient 1 lies in split train and in split test"),
])
def test_a_list_that_is_wrong_is_told_in_one_line(
    eyes: Path, change: dict[str, dict[str, str]], says: str,
) -> None:
    listed(eyes, change)
    refused(EYES, says)


def test_an_accent_may_be_spelt_in_two_ways(eyes: Path) -> None:
    save(eyes / "images" / "2_Zoe\u0301.png", pixels("zoe"))
    listed(eyes, {"train": {"1_left": "0", "1_right": "1", "3_left": "0", "2_Zo\u00e9": "0"}})
    images = data.load(EYES, "train")
    assert np.array_equal(images.x[images.key.index("2_Zo\u00e9"), 0], pixels("zoe"))


def test_two_files_that_a_list_could_mean_are_told(eyes: Path) -> None:
    save(eyes / "images" / "copy" / "1_left.jpeg", pixels("copy"))
    refused(EYES, "copy/1_left.jpeg and .*new/1_left.jpeg could both be the listed 1_left")
    (eyes / "images" / "copy" / "1_left.jpeg").unlink()
    listed(eyes, {"train": {"a/new/1_left": "0", "b/new/1_left": "0", "3_left": "0",
                            "1_right": "1"}})
    card = replace(EYES, options={**EYES.options, "group_pattern": r"(\d)_"})
    refused(card, "1_left.jpeg is listed as a/new/1_left and as b/new/1_left")


@pytest.mark.parametrize(("change", "says"), [
    ({"splits": {**EYES.splits, "test": "0.5-1.0"}}, "split test of card eyes must be a table"),
    ({"splits": {**EYES.splits, "test": {"list": "lists/test.csv", "label": "onset"}}},
     "split test of card eyes: .*'images'"),
    ({"splits": {**EYES.splits, "test": {**EYES.splits["test"], "list": "test.csv"}}},
     "cannot read .*eyes/test.csv"),
    ({"sha256": {"lists/test.csv": "0" * 64}}, "lists/test.csv has checksum"),
    ({"options": {**EYES.options, "group_pattern": "("}}, r"'\(' is no regular expression"),
    ({"options": {**EYES.options, "group_pattern": r"\d"}}, "needs one pair of brackets"),
])
def test_a_card_that_tells_its_lists_wrongly_is_refused(
    eyes: Path, change: dict[str, object], says: str,
) -> None:
    refused(replace(EYES, **change), says)


def test_consecutive_numbers_stay_together_where_nobody_tells_patients(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HEATPROOF_DATA", str(tmp_path))
    for n in range(24):
        save(tmp_path / "series" / "ab"[n % 2] / f"scan7_{n:03}.png", pixels(str(n)))
    card = Card(
        name="series", title="Series", source="folder", classes=("a", "b"), image=(1, *SIZE),
        mean=(0,), std=(1,), splits={"train": "0.0-0.5", "test": "0.5-1.0"}, group="block",
        options={"images": ["."], "block": 4})
    train, test = data.load(card, "train"), data.load(card, "test")
    assert set(train.group) | set(test.group) == {f"{n}-{n + 3}" for n in range(0, 24, 4)}
    assert not set(train.group) & set(test.group)
    assert all(train.group.count(group) == 4 for group in train.group)
    save(tmp_path / "series" / "a" / "scan.png", pixels("none"))
    refused(card, "a/scan has no number, and options.block")


OWN = """
name = "own"
title = "A folder with a card of its own"
source = "folder"
classes = ["clear", "tumour"]
image = [1, 6, 5]
mean = [0.5]
std = [0.25]
truth = "boxes"
group = "patient"
[splits]
train = "a"
test = "b"
[options]
images = ["images"]
metadata = "metadata.csv"
split = "part"
corners = ["left", "top", "right", "bottom"]
"""


def test_a_folder_may_bring_a_card_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HEATPROOF_DATA", str(tmp_path))
    home, rows = tmp_path / "own", []
    for n in range(6):
        file = f"{('clear', 'tumour')[n % 2]}/{n}.png"
        for folder in ("images", "masks"):
            save(home / folder / file, pixels(folder + file, 3 if folder == "masks" else 256))
        rows.append({"file": file, "patient": f"p{n // 2}", "part": "aab"[n // 2],
                     "left": "1", "top": "2", "right": "3", "bottom": "6"})
    table(home, rows)
    (home / "card.toml").write_text(OWN)
    images = data.load(data.card("own"), "test")
    assert images.group == ("p2", "p2")
    assert images.mask is not None
    assert images.mask.sum() == 2 * 2 * 4
    assert images.mask[:, 2:6, 1:3].all()
    masked = OWN.replace('"boxes"', '"pixels"').replace("corners = ", 'masks = "masks" #')
    (home / "card.toml").write_text(masked)
    images = data.load(data.card("own"), "train")
    assert len(images) == 4
    assert np.array_equal(images.mask[0], pixels("masksclear/0.png", 3))
    assert "own" in data.cards()
