"""Hugging Face's sets: parquet as the hub lays it out, image folders, and what is refused."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet
import pytest
from PIL import Image

from bench import data
from bench.core import Card, HeatproofError

SIZE = (6, 5)
CLASSES = ("angular_leaf_spot", "bean_rust", "healthy")
COUNTS = {"train": 6, "validation": 3, "test": 4}
hugging: Any = import_module("datasets")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """HEATPROOF_DATA/beans, empty; Hugging Face's cache lies beside it."""
    monkeypatch.setenv("HEATPROOF_DATA", str(tmp_path))
    monkeypatch.setattr(hugging.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    (tmp_path / "beans").mkdir()
    return tmp_path / "beans"


def pixels(number: int, shape: tuple[int, ...] = (*SIZE, 3)) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, shape, np.uint8)


def png(array: np.ndarray) -> bytes:
    packed = io.BytesIO()
    Image.fromarray(array).save(packed, "png")
    return packed.getvalue()


def rows(n: int, first: int = 0) -> dict[str, list[Any]]:
    """The columns of a small set: image, labels, mask, patient, part."""
    return {
        "image": [{"bytes": png(pixels(first + k)), "path": f"{k}.png"} for k in range(n)],
        "labels": [k % 3 for k in range(n)],
        "mask": [{"bytes": png(pixels(first + k, SIZE) % 3), "path": None} for k in range(n)],
        "patient": [f"p{(first + k) // 2}" for k in range(n)],
        "part": ["fit" if k % 2 else "judge" for k in range(n)]}


def features(**more: Any) -> Any:
    return hugging.Features({
        "image": hugging.Image(), "labels": hugging.ClassLabel(names=list(CLASSES)),
        "mask": hugging.Image(), "patient": hugging.Value("string"),
        "part": hugging.Value("string"), **more})


def save(home: Path, change: Callable[[str, dict[str, list[Any]]], Any] = lambda _, rows: None,
         kinds: Any = None, keep: tuple[str, ...] = ("image", "labels", "mask", "part")) -> None:
    """Parquet files as the hub holds them, data/SPLIT-00000-of-00001.parquet."""
    kinds = kinds or features()
    for split, n in COUNTS.items():
        columns = rows(n, 100 * len(split))
        change(split, columns)
        chosen = {name: columns[name] for name in keep}
        table = hugging.Dataset.from_dict(
            chosen, features=hugging.Features({name: kinds[name] for name in keep}))
        path = home / "data" / f"{split}-00000-of-00001.parquet"
        path.parent.mkdir(exist_ok=True)
        parquet.write_table(table.data.table, path)


def card(builder: str = "parquet", **more: Any) -> Card:
    options = {"builder": builder, "label": "labels"} | more.pop("options", {})
    return replace(data.card("beans"), **{
        "path": "", "image": (3, *SIZE), "fit": "", "options": options, **more})


def refused(one: Card, says: str, split: str = "train") -> None:
    with pytest.raises(HeatproofError, match=says) as error:
        data.load(one, split)
    assert "\n" not in str(error.value)


def test_parquet_of_the_hub_is_read_by_its_splits(home: Path) -> None:
    save(home)
    for split, n in COUNTS.items():
        images = data.load(card(), split)
        assert images.key == tuple(f"{split}-{k:05d}" for k in range(n))
        wanted = np.stack([pixels(100 * len(split) + k) for k in range(n)]).transpose(0, 3, 1, 2)
        assert np.array_equal(images.x, wanted)
        assert images.y.tolist() == [k % 3 for k in range(n)]
        assert images.mask is None


def test_masks_and_words_on_splits_come_from_columns(home: Path) -> None:
    save(home)
    one = card(truth="pixels", options={"mask": "mask", "split": "part"},
               splits={"train": "fit", "test": "judge"})
    images = data.load(one, "train")
    assert images.key[:4] == ("train-00001", "train-00003", "train-00005", "validation-00001")
    assert images.mask is not None
    assert np.array_equal(images.mask[0], pixels(501, SIZE) % 3)


def test_no_patient_of_a_column_is_torn(home: Path) -> None:
    keep = ("image", "labels", "patient")
    save(home, keep=keep)
    refused(card(splits={"train": "0.0-0.5", "test": "0.5-1.0"}), "splits by image")
    grouped = card(group="patient", splits={"train": "0.0-0.5", "test": "0.5-1.0"})
    train, test = data.load(grouped, "train"), data.load(grouped, "test")
    assert not set(train.group) & set(test.group)
    assert len(train) + len(test) == sum(COUNTS.values())
    listed = replace(grouped, splits={"train": ["p250", "p251"], "test": ["p200"]})
    assert data.load(listed, "train").group == ("p250", "p250", "p251", "p251")

    def torn(split: str, columns: dict[str, list[Any]]) -> None:
        columns["patient"][0] = "ann"

    save(home, torn, keep=keep)
    refused(card(group="patient"), "patient ann lies in split train and in split validation")
    save(home, lambda _, columns: columns["patient"].__setitem__(1, None), keep=keep)
    refused(card(group="patient"), "not every image has one")


@pytest.mark.parametrize("kind", ["string", "int64"])
def test_labels_may_be_names_or_numbers(home: Path, kind: str) -> None:
    def told(split: str, columns: dict[str, list[Any]]) -> None:
        if kind == "string":
            columns["labels"] = [CLASSES[k] for k in columns["labels"]]

    save(home, told, features(labels=hugging.Value(kind)))
    assert data.load(card(), "test").y.tolist() == [0, 1, 2, 0]
    refused(card(classes=CLASSES[:2]), "train-00002 has the label ('healthy'|2), which is none of")


def test_a_split_without_labels_harms_no_other(home: Path) -> None:
    def unlabelled(split: str, columns: dict[str, list[Any]]) -> None:
        if split == "test":
            columns["labels"] = [-1] * COUNTS["test"]

    save(home, unlabelled)
    assert len(data.load(card(splits={"train": "train", "test": "validation"}), "train")) == 6
    refused(card(), "test-00000 has no label")


def write_folder(home: Path, metadata: bool) -> None:
    for split, n in (("train", 4), ("test", 3)):
        table = []
        for k in range(n):
            name = f"{CLASSES[k % 2]}/höhe {k}.png"
            for file, array in ((name, pixels(k)), (f"mask/{k}.png", pixels(k, SIZE) % 2)):
                if file == name or metadata:
                    path = home / split / file
                    path.parent.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(array).save(path)
            table.append({"file_name": name, "mask_file_name": f"mask/{k}.png",
                          "labels": CLASSES[k % 3], "patient": f"{split}{k // 2}"})
        if metadata:
            with (home / split / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, list(table[0]))
                writer.writeheader()
                writer.writerows(table)


def test_an_image_folder_gives_classes_by_its_folders_and_keys_by_its_paths(home: Path) -> None:
    write_folder(home, metadata=False)
    one = card("imagefolder", options={"label": "label"}, classes=CLASSES[:2],
               splits={"train": "train", "test": "test"})
    images = data.load(one, "test")
    assert dict(zip(images.key, images.y.tolist(), strict=True)) == {
        "test/angular_leaf_spot/höhe 0.png": 0, "test/bean_rust/höhe 1.png": 1,
        "test/angular_leaf_spot/höhe 2.png": 0}
    row = images.key.index("test/bean_rust/höhe 1.png")
    assert np.array_equal(images.x[row], pixels(1).transpose(2, 0, 1))
    path = home / "train" / "bean_rust" / "höhe 3.png"
    path.write_bytes(path.read_bytes()[:40])
    refused(one, "höhe 3.png is damaged|höhe 3.png is no image")


def test_an_image_folders_metadata_gives_labels_masks_and_groups(home: Path) -> None:
    write_folder(home, metadata=True)
    one = card("imagefolder", truth="pixels", group="patient", options={"mask": "mask"},
               splits={"train": "train", "test": "test"})
    images = data.load(one, "train")
    row = images.key.index("train/angular_leaf_spot/höhe 2.png")
    assert (images.y[row], images.group[row]) == (2, "train1")
    assert images.mask is not None
    assert np.array_equal(images.mask[row], pixels(2, SIZE) % 2)


def test_files_may_tell_the_splits_by_patterns(home: Path) -> None:
    save(home)
    (home / "data" / "test-00000-of-00001.parquet").rename(home / "data" / "held_out.parquet")
    files = {"train": "data/train-*.parquet", "held": "data/held_out.parquet"}
    one = card(options={"files": files}, splits={"train": "train", "test": "held"})
    assert [len(data.load(one, split)) for split in ("train", "test")] == [6, 4]


def spoil(name: str, value: Any) -> Callable[[str, dict[str, list[Any]]], Any]:
    return lambda _, columns: columns[name].__setitem__(2, value)


@pytest.mark.parametrize(("change", "says"), [
    (spoil("image", {"bytes": b"no image", "path": None}), r"train-00002 \(image\) is no image"),
    (spoil("image", {"bytes": png(pixels(1))[:60], "path": None}), "train-00002 .* is damaged"),
    (spoil("image", {"bytes": b"", "path": None}), "train-00002 has no image|is empty"),
    (spoil("image", None), "train-00002 has no image"),
    (spoil("image", {"bytes": png(pixels(1, (7, 5, 3))), "path": None}), "7 × 5 pixels"),
    (spoil("image", {"bytes": None, "path": "/nowhere/2.png"}), "cannot read /nowhere/2.png"),
    (spoil("labels", None), "train-00002 has no label"),
])
def test_a_bad_row_is_told_in_one_line(
    home: Path, change: Callable[[str, dict[str, list[Any]]], Any], says: str,
) -> None:
    save(home, change)
    refused(card(), says)


def test_a_bad_mask_is_told_in_one_line(home: Path) -> None:
    masked = card(truth="pixels", options={"mask": "mask"})
    for cell, says in ((None, "train-00002 has no mask"),
                       ({"bytes": png(pixels(2)), "path": None}, "train-00002 .*mode RGB"),
                       ({"bytes": png(pixels(2, (5, 6))), "path": None}, "size of its image")):
        save(home, spoil("mask", cell))
        refused(masked, says)


def test_classes_in_another_order_are_refused(home: Path) -> None:
    save(home)
    refused(card(classes=CLASSES[::-1]), "class 0 is 'angular_leaf_spot', not 'healthy'")
    refused(card(classes=CLASSES[:2]), "it has 3 classes, not 2")


def test_a_column_or_a_split_that_is_not_there_is_answered_with_the_nearest(home: Path) -> None:
    save(home)
    refused(card(options={"label": "label"}), "unknown column .*did you mean 'labels'")
    refused(card(options={"mask": "masks"}), "did you mean 'mask'")
    refused(card(group="patients"), "unknown column .*'patients'")
    refused(card(splits={"train": "train", "test": "tset"}), "did you mean 'test'")
    refused(card("parket"), "did you mean 'parquet'")
    refused(card(options={"image": "part"}), "cannot read judge|cannot read fit")


def test_files_that_no_builder_reads_are_told(home: Path) -> None:
    refused(card(), "beans cannot be read by parquet")
    save(home)
    path = home / "data" / "test-00000-of-00001.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    refused(card(), "beans cannot be read by parquet")
    refused(card(sha256={"data/train-00000-of-00001.parquet": "0" * 64}), "not the original")
    refused(card(path="nowhere"), "there is no folder")


def test_the_hub_is_asked_for_the_cards_id_and_revision(
    home: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    save(home)
    here = hugging.load_dataset
    asked = []

    def load_dataset(path: str, config: str | None, **more: Any) -> Any:
        asked.append((path, config, more["revision"], more["data_dir"]))
        return here("parquet", data_dir=str(home))

    monkeypatch.setattr(hugging, "load_dataset", load_dataset)
    one = replace(card(""), revision="abc", path="AI-Lab-Makerere/beans")
    assert len(data.load(one, "test")) == 4
    assert asked == [("AI-Lab-Makerere/beans", None, "abc", None)]
    refused(replace(one, path=""), "give the set's id on the hub as path")
    refused(replace(one, sha256={"a": "0" * 64}), "give it a revision instead")


@pytest.mark.parametrize(("error", "says"), [
    (ConnectionError("Couldn't reach 'AI-Lab-Makerere/beans' on the Hub\nmore"), "reach"),
    (hugging.exceptions.DatasetNotFoundError("Dataset 'x' doesn't exist on the Hub"), "exist"),
    (ValueError("Config name is missing."), "Config name is missing"),
])
def test_a_set_that_the_hub_does_not_give_is_one_line_with_the_cure(
    error: Exception, says: str, monkeypatch: pytest.MonkeyPatch,
) -> None:
    def load_dataset(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr(hugging, "load_dataset", load_dataset)
    refused(data.card("beans"), f"beans cannot be had from the Hugging Face hub.*{says}.*HF_HOME")
