"""`heatproof data list` and `data check`: what is whole, and what is not, by its file."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bench import data, testing
from bench.core import Card
from bench.data import audit

SIZE = (6, 5)
PATIENTS = ("ann", "bob", "cyd")
CARD = Card(
    name="slices", title="Slices", source="folder", classes=("clear", "tumour"), image=(1, *SIZE),
    mean=(0.5,), std=(0.29,), truth="pixels", group="patient", layout="Put the folders there.",
    splits={"train": ["ann"], "test": ["bob", "cyd"]},
    folds=({"train": ["ann", "bob"], "test": ["cyd"]},),
    options={"images": ["images"], "masks": "masks", "metadata": "metadata.csv"})


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """HEATPROOF_DATA/slices: four slices with masks of each of three patients."""
    monkeypatch.setenv("HEATPROOF_DATA", str(tmp_path))
    home, draws = tmp_path / "slices", np.random.default_rng(0)
    lines = []
    for patient in PATIENTS:
        for n in range(4):
            name = f"{CARD.classes[n % 2]}/{patient}_{n}.png"
            save(home / "images" / name, draws.integers(0, 256, SIZE, np.uint8))
            save(home / "masks" / name, draws.integers(1, 4, SIZE, np.uint8) * np.uint8(n % 2))
            lines.append((name, patient))
    table(home, lines)
    return home


def table(home: Path, lines: list[tuple[str, str]]) -> None:
    with (home / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("file", "patient"), *lines])


def told(card: Card, *, ok: bool) -> list[str]:
    return [f"{check.name}: {check.expected} ({check.found})"
            for check in audit.check(card) if check.ok == ok]


def copy(root: Path, one: str, other: str) -> None:
    (root / "images" / other).write_bytes((root / "images" / one).read_bytes())


def test_a_whole_set_has_an_ok_line_for_all_that_was_looked_at(root: Path) -> None:
    assert told(CARD, ok=False) == []
    lines = "\n".join(told(CARD, ok=True))
    for what in (
            "slices, fold 0 (train): every class has an image (4 images, 2 to 2 a class)",
            "slices, fold 1 (test): every class has an image (4 images, 2 to 2 a class)",
            "fold 1: no patient is in two splits (2 in train, 1 in test)",
            "can be decoded, at the card's size (12 images)", "no image is in two splits",
            "(parts: 1, 2, 3)", "every split has masks that mark something (6 of 12 masks do)",
            "note: empty masks by class (clear 100%)", "no image is of one value only"):
        assert what in lines


def test_the_same_is_found_by_the_contract_of_strangers(root: Path) -> None:
    (root / "images" / "clear" / "ann_0.png").write_bytes(b"no image")
    assert [tuple(vars(found).values()) for found in testing.check_card(CARD)] == [
        tuple(check) for check in audit.check(CARD)]


def test_it_goes_on_after_each_problem_and_names_every_file(root: Path) -> None:
    images, masks = root / "images", root / "masks"
    (images / "clear" / "ann_0.png").write_bytes(b"no image")
    packed = (images / "tumour" / "ann_1.png").read_bytes()
    (images / "tumour" / "ann_1.png").write_bytes(packed[:50])
    (images / "clear" / "bob_0.png").write_bytes(b"")
    save(images / "clear" / "bob_2.png", np.zeros((7, 5), np.uint8))
    save(masks / "tumour" / "bob_1.png", np.zeros((6, 6), np.uint8))
    save(images / "clear" / "cyd_0.png", np.full(SIZE, 9, np.uint8))
    copy(root, "tumour/ann_3.png", "tumour/cyd_3.png")
    failed = told(CARD, ok=False)
    for file, why in (("clear/ann_0.png", "is no image"), ("tumour/ann_1.png", "damaged"),
                      ("clear/bob_0.png", "is empty"), ("clear/bob_2.png", "7 × 5"),
                      ("tumour/bob_1.png", "a mask must have the size of its image"),
                      ("clear/cyd_0.png", "of one value only"),
                      ("tumour/cyd_3.png (test)", "tumour/ann_3.png (train) = ")):
        assert len([line for line in failed if file in line and why in line]) == 1, file
    assert all("\n" not in line for line in failed)
    assert "(5 images)" not in "".join(told(CARD, ok=True))


def test_an_image_in_two_splits_of_any_fold_must_be_owned_to_by_the_card(root: Path) -> None:
    copy(root, "clear/ann_0.png", "clear/bob_0.png")  # fold 0 parts them, fold 1 does not
    copy(root, "clear/bob_2.png", "clear/cyd_2.png")  # fold 1 parts them, fold 0 does not
    failed = told(CARD, ok=False)
    assert "slices: no image is in two splits (2 images are, the card says leaks = 0)" in failed
    assert sum("ann_0.png (train) = " in line and "bob_0.png (test)" in line
               for line in failed) == 1
    assert len(failed) == 3
    owned = told(replace(CARD, leaks=2), ok=True)
    assert any("the card owns to: leaks = 2" in line for line in owned)
    assert told(replace(CARD, leaks=2), ok=False) == []
    assert "2 images are, the card says leaks = 3" in told(replace(CARD, leaks=3), ok=False)[0]


def test_a_leak_that_is_gone_is_told_too(root: Path) -> None:
    assert "0 images are, the card says leaks = 1" in told(replace(CARD, leaks=1), ok=False)[0]


def test_repeats_in_a_split_and_of_two_classes_are_notes(root: Path) -> None:
    copy(root, "clear/ann_0.png", "clear/ann_2.png")
    copy(root, "clear/bob_0.png", "tumour/bob_1.png")
    assert told(CARD, ok=False) == []
    notes = [line for line in told(CARD, ok=True) if "note:" in line]
    assert any("identical images of two classes: 1" in line
               and "clear/bob_0.png = " in line and "tumour/bob_1.png" in line for line in notes)
    assert any("images that repeat another one of their split: 2" in line
               and "clear/ann_0.png = " in line for line in notes)


def test_of_many_problems_of_one_kind_fifty_are_shown_and_the_others_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HEATPROOF_DATA", str(tmp_path))
    for split in ("train", "test"):
        for n in range(30):
            save(tmp_path / "flat" / split / "a" / f"{n}.png", np.full(SIZE, n, np.uint8))
    card = Card(name="flat", title="Flat", source="folder", classes=("a",), image=(1, *SIZE),
                mean=(0.5,), std=(0.2,), splits={"train": "train", "test": "test"},
                options={"images": ["."]})
    flat = [line for line in told(card, ok=False) if "one value" in line]
    assert len(flat) == 51
    assert flat[-1].endswith("(and 10 more)")
    torn = [line for line in told(card, ok=False) if "two splits" in line]
    assert torn[0].endswith("(30 images are, the card says leaks = 0)")
    assert len(torn) == 7
    assert torn[-1].endswith("(and 25 more)")


@pytest.mark.parametrize(("harm", "says"), [
    (lambda p: (p / "masks" / "clear" / "ann_0.png").unlink(), "masks lacks clear/ann_0"),
    (lambda p: (p / "images" / "clear" / "bob_0.png").unlink(), "images lacks clear/bob_0"),
    (lambda p: table(p, [("clear/ann_0.png", "ann")]), "which .*metadata.csv lacks"),
    (lambda p: (p / "metadata.csv").write_bytes(b"\xff\xfe"), "no CSV file"),
])
def test_a_layout_that_cannot_be_listed_is_one_failure(
    root: Path, harm: Callable[[Path], Any], says: str,
) -> None:
    harm(root)
    (line,) = told(CARD, ok=False)
    assert re.search(f"laid out as the card says .*{says}", line)


def test_masks_that_are_blurred_or_mark_nothing_are_told(root: Path) -> None:
    whole = replace(CARD, image=(1, 20, 20), fit="stretch")
    for path in sorted((root / "images").rglob("*.png")):
        below = path.relative_to(root / "images")
        pixels = np.random.default_rng(len(str(path)) + ord(path.name[0]) * 7 + ord(path.name[4]))
        save(path, pixels.integers(0, 256, (20, 20), np.uint8))
        save(root / "masks" / below, np.zeros((20, 20), np.uint8))
    failed = told(whole, ok=False)
    assert any("all masks of split train are empty" in line for line in failed)
    assert any("all masks of split test are empty" in line for line in failed)
    blurred = root / "masks" / "clear" / "ann_0.png"
    save(blurred, (np.arange(400) % 200).astype(np.uint8).reshape(20, 20))
    assert any(f"{blurred}" in line or "ann_0" in line for line in told(whole, ok=False)
               if "200 values" in line)
    for path in sorted((root / "masks").rglob("*.png")):
        save(path, np.full((20, 20), 255, np.uint8))
    assert any("nothing but 255" in line for line in told(whole, ok=False))


def test_checksums_labels_groups_and_empty_classes_are_told(root: Path) -> None:
    wrong = replace(CARD, sha256={"metadata.csv": "0" * 64, "gone.csv": "1" * 64})
    failed = told(wrong, ok=False)
    assert sum("metadata.csv has checksum" in line for line in failed) == 1
    assert sum("gone.csv: No such file" in line for line in failed) == 1
    torn = replace(CARD, splits={"train": ["ann", "bob"], "test": ["bob"]})
    assert any("fold 0: its splits are as the card says" in line and "patient bob lies in" in line
               for line in told(torn, ok=False))
    table(root, [(f"{'clear' if n % 2 == 0 else 'tumour'}/{patient}_{n}.png",
                  f"{patient}{n % 2}") for patient in PATIENTS for n in range(4)])
    lone = replace(CARD, splits={"train": ["ann0", "ann1"], "test": ["bob0"]}, folds=())
    failed = told(lone, ok=False)
    assert any("0 to 2 a class; none of tumour" in line for line in failed)
    assert any("note: 6 images are in no split" in line for line in told(lone, ok=True))


def test_a_mean_that_is_not_the_training_images_is_a_note(root: Path) -> None:
    off = told(replace(CARD, mean=(0.9,)), ok=True)
    assert any("note: training images have mean 0." in line and "the card says 0.900" in line
               for line in off)


def test_every_row_is_decoded_once_whatever_the_number_of_folds(
    root: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows, decode = [], audit.decode
    monkeypatch.setattr(audit, "decode",
                        lambda card, found, row: rows.append(row) or decode(card, found, row))
    steps: list[tuple[int, int]] = []
    audit.check(CARD, lambda done, total: steps.append((done, total)))
    assert sorted(rows) == list(range(12))
    assert steps[0] == (0, 12)
    assert steps[-1] == (12, 12)


def test_the_verb_prints_each_line_and_ends_with_1_where_one_failed(
    heatproof, root: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(data, "card", lambda name: replace(CARD, name=name))
    done = heatproof("data", "check", "slices")
    assert done.code == 0, done.out
    assert "ok   slices: every image and mask can be decoded" in done.out
    (root / "images" / "clear" / "ann_0.png").write_bytes(b"no image")
    done = heatproof("data", "check", "slices")
    assert done.code == 1
    (line,) = [line for line in done.out.splitlines() if line.startswith("FAIL")]
    assert "clear/ann_0.png is no image" in line


def test_a_missing_folder_is_bad_input_and_no_finding(
    heatproof, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HEATPROOF_DATA", str(tmp_path))
    done = heatproof("data", "check", "cub-200-2011")
    assert done.code == 2
    assert f"there is no folder {tmp_path / 'cub-200-2011'}" in done.err
    assert done.out == ""
    assert heatproof("data", "check", "nowhere").code == 2


def test_the_list_says_which_files_are_here_and_downloads_none(
    heatproof, root: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    import torchvision

    def download(*args: object, **options: object) -> None:
        raise AssertionError("it must not download")

    monkeypatch.setattr(torchvision.datasets, "MNIST", download)
    (root.parent / "cub-200-2011").mkdir()
    states = {name: audit.files(data.card(name))
              for name in ("digits", "mnist", "cub-200-2011", "brain-tumour-brats2015")}
    assert states == {"digits": "here", "mnist": "by download", "cub-200-2011": "incomplete",
                      "brain-tumour-brats2015": "not here"}
    assert audit.files(CARD) == "here"
    done = heatproof("data", "list")
    assert done.code == 0, done.out
    for name in data.cards():
        assert name in done.out
    assert "4 folds" in done.out
