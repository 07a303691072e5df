"""Folders of images: what is read, how patients are parted, and what is wrong told in one line."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from folders import SIZE, pixels, refused, rows_of, save, table
from PIL import Image

from bench import data, testing
from bench.core import Card

PATIENTS = ("ann", "bob", "cyd")
FOLDS = tuple(
    {"train": [PATIENTS[k - 2]], "validation": [PATIENTS[k - 1]], "test": [PATIENTS[k]]}
    for k in range(3))
CARD = Card(
    name="slices", title="Slices", source="folder", classes=("clear", "tumour"), image=(2, *SIZE),
    mean=(0.5, 0.5), std=(0.25, 0.25), splits=FOLDS[0], folds=FOLDS[1:], truth="pixels",
    group="patient", layout="Put the folders there.",
    options={"images": ["flair", "t1c"], "masks": "masks", "metadata": "metadata.csv",
             "sha256": {"flair": "sha256_flair"}})


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """HEATPROOF_DATA/slices: two sequences and masks of three patients, two slices a class."""
    monkeypatch.setenv("HEATPROOF_DATA", str(tmp_path))
    home, rows = tmp_path / "slices", []
    for patient in PATIENTS:
        for n in range(4):
            name = f"{CARD.classes[n % 2]}/{patient}_z{n}.png"
            for folder in ("flair", "t1c"):
                save(home / folder / name, pixels(folder + name))
            save(home / "masks" / name, pixels(name, 5) * (n % 2))
            rows.append({
                "file": name, "patient": patient, "kind": CARD.classes[n % 2], "part": "ab"[n // 2],
                "sha256_flair": hashlib.sha256((home / "flair" / name).read_bytes()).hexdigest()})
    table(home, rows)
    return home


def test_each_folder_is_a_channel_and_the_masks_keep_their_parts(root: Path) -> None:
    images = data.load(CARD, "test")
    assert images.key == ("clear/ann_z0", "clear/ann_z2", "tumour/ann_z1", "tumour/ann_z3")
    assert images.y.tolist() == [0, 0, 1, 1]
    assert images.group == ("ann",) * 4
    assert images.mask is not None
    for n, key in enumerate(images.key):
        assert np.array_equal(images.x[n, 0], pixels(f"flair{key}.png"))
        assert np.array_equal(images.x[n, 1], pixels(f"t1c{key}.png"))
        assert np.array_equal(images.mask[n], pixels(f"{key}.png", 5) * images.y[n])
    assert set(np.unique(images.mask)) == {0, 1, 2, 3, 4}


def test_no_patient_is_in_two_splits_of_a_fold_and_each_is_tested_once(root: Path) -> None:
    tested = []
    for k in range(3):
        card = CARD.fold(k)
        groups = [set(data.load(card, split).group) for split in card.splits]
        assert not (groups[0] & groups[1] or groups[0] & groups[2] or groups[1] & groups[2])
        tested += data.load(card, "test").group
        assert all(finding.ok for finding in testing.check_card(card))
    assert sorted(tested) == sorted(PATIENTS * 4)


def test_a_key_stays_when_a_folder_gains_a_file(root: Path) -> None:
    before = data.load(CARD, "test")
    for folder in ("flair", "t1c", "masks"):
        save(root / folder / "clear" / "ann_z00.png", pixels("new") * (folder != "masks"))
    added = {**rows_of(root)[0], "file": "clear/ann_z00.png", "sha256_flair": hashlib.sha256(
        (root / "flair" / "clear" / "ann_z00.png").read_bytes()).hexdigest()}
    table(root, [added, *rows_of(root)])
    after = data.load(CARD, "test")
    kept = [after.key.index(key) for key in before.key]
    assert len(after) == 5
    assert np.array_equal(after.x[kept], before.x)


def test_columns_can_tell_class_and_split(root: Path) -> None:
    flat = replace(
        CARD, folds=(), splits={"train": "ann", "test": "bob"},
        options={**CARD.options, "label": "kind", "split": "patient"})
    assert data.load(flat, "train").y.tolist() == [0, 0, 1, 1]
    rows = [{**row, "kind": "tumour"} if row["patient"] == "bob" else row for row in rows_of(root)]
    table(root, rows)
    assert data.load(flat, "test").y.tolist() == [1, 1, 1, 1]
    assert set(data.load(flat, "test").group) == {"bob"}


def test_without_a_table_a_split_is_the_outermost_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HEATPROOF_DATA", str(tmp_path))
    home = tmp_path / "birds"
    for split, suffix in (("train", "png"), ("val", "JPG")):
        for label in ("crow", "wren"):
            save(home / split / label / f"1.{suffix}", pixels(label, shape=(*SIZE, 3)))
            save(home / split / label / f"2.{suffix}", pixels(label))
    card = replace(
        CARD, name="birds", classes=("crow", "wren"), image=(3, *SIZE), mean=(0, 0, 0),
        std=(1, 1, 1), splits={"train": "train", "test": "val"}, folds=(), truth="none", group="",
        options={"images": ["."]})
    images = data.load(card, "train")
    assert images.key == ("train/crow/1", "train/crow/2", "train/wren/1", "train/wren/2")
    assert images.y.tolist() == [0, 0, 1, 1]
    assert not images.group
    assert np.array_equal(images.x[0], pixels("crow", shape=(*SIZE, 3)).transpose(2, 0, 1))
    assert np.array_equal(images.x[1], np.repeat(pixels("crow")[None], 3, axis=0))  # grey as RGB
    assert len(data.load(card, "test")) == 4
    refused(replace(card, splits={"train": "trian", "test": "val"}), "did you mean 'train'")


def test_folders_that_tell_no_split_want_shares(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HEATPROOF_DATA", str(tmp_path))
    for n in range(12):
        save(tmp_path / "birds" / ("crow", "Wåldlaubsänger")[n % 2] / f"β{n}.png", pixels(str(n)))
    card = replace(
        CARD, name="birds", classes=("crow", "Wåldlaubsänger"), image=(1, *SIZE), mean=(0,),
        std=(1,), splits={"train": "0.0-0.5", "test": "0.5-1.0"}, folds=(), truth="none", group="",
        options={"images": ["."]})
    parts = [data.load(card, split) for split in card.splits]
    assert sorted(parts[0].key + parts[1].key) == sorted(
        f"{('crow', 'Wåldlaubsänger')[n % 2]}/β{n}" for n in range(12))
    refused(replace(card, splits={"train": "crow", "test": "0.5-1.0"}), "nothing in the files")
    save(tmp_path / "birds" / "stray.png", pixels("stray"))
    refused(card, "stray is of class '', which card birds does not name")
    (tmp_path / "birds" / "stray.png").unlink()
    for path in (tmp_path / "birds" / "crow").iterdir():
        path.unlink()
    refused(card, "birds has no image of class crow; put them there")


def test_a_mask_with_a_palette_or_of_two_values_keeps_its_numbers(root: Path) -> None:
    wanted = pixels("palette", 4)
    image = Image.frombytes("P", wanted.shape[::-1], wanted.tobytes())
    image.putpalette([9, 9, 9, 255, 0, 0, 0, 255, 0, 0, 0, 255])
    image.save(root / "masks/tumour/ann_z1.png")
    save(root / "masks/tumour/ann_z3.png", (wanted > 1) * np.uint8(255), "1")
    masks = data.load(CARD, "test").mask
    assert masks is not None
    assert np.array_equal(masks[2], wanted)
    assert np.array_equal(masks[3], wanted > 1)


def test_values_of_a_mask_are_what_the_card_says_they_mean(root: Path) -> None:
    for path in (root / "masks").rglob("*.png"):
        save(path, np.array([0, 128, 255], np.uint8)[pixels(path.stem, 3)])
    card = replace(CARD, options={**CARD.options, "values": {"255": 1, "128": 255}})
    images = data.load(card, "test")
    for key, mask in zip(images.key, images.mask, strict=True):
        assert np.array_equal(mask, np.array([0, 255, 1])[pixels(Path(key).name, 3)])
    save(root / "masks/clear/ann_z0.png", pixels("seven", 1) + 7)
    refused(card, "masks/clear/ann_z0.png has the value 7, which .* options.values", "test")
    for wrong in ({"256": 1}, {"a": 1}, {"255": "1"}, {"255": -1}, {"255": True}):
        refused(replace(card, options={**CARD.options, "values": wrong}), "must map 0 to 255")


def test_sixteen_bits_of_grey_serve_as_a_channel(root: Path) -> None:
    deep = pixels("deep").astype(np.uint16) * 257
    Image.fromarray(deep).save(root / "t1c/clear/ann_z0.png")
    assert np.array_equal(data.load(CARD, "test").x[0, 1], deep // 257)


def test_a_folder_of_colour_may_be_one_of_several(root: Path) -> None:
    save(root / "t1c/clear/ann_z0.png", pixels("colour", shape=(*SIZE, 3)))
    card = replace(CARD, image=(6, *SIZE), mean=(0,) * 6, std=(1,) * 6)
    x = data.load(card, "test").x[0]
    assert np.array_equal(x[:3], np.repeat(pixels("flairclear/ann_z0.png")[None], 3, 0))
    assert np.array_equal(x[3:], pixels("colour", shape=(*SIZE, 3)).transpose(2, 0, 1))


SCAN = "flair/tumour/cyd_z1.png"


def cut(root: Path) -> None:
    (root / "t1c/tumour/cyd_z1.png").write_bytes((root / SCAN).read_bytes()[:60])


def ignored(root: Path) -> None:
    for path in (root / "masks").rglob("*.png"):
        save(path, (pixels(path.name) > 99) * np.uint8(255))


def edited(change: Callable[[list[dict[str, str]]], object]) -> Callable[[Path], None]:
    def harm(root: Path) -> None:
        rows = rows_of(root)
        change(rows)
        table(root, rows)
    return harm


@pytest.mark.parametrize(("harm", "says"), [
    (lambda r: (r / "t1c/tumour/ann_z1.png").unlink(), r"t1c lacks tumour/ann_z1 .*fetch"),
    (lambda r: [p.unlink() for p in (r / "masks/clear").iterdir()], "masks lacks clear/.* 5 more"),
    (lambda r: [p.unlink() for p in (r / "masks").rglob("*.png")], "masks lacks .* 11 more"),
    (lambda r: (r / "t1c").rename(r / "t1"), "there is no folder .*t1c"),
    (lambda r: (r / "metadata.csv").unlink(), "cannot read .*metadata.csv"),
    (lambda r: save(r / "flair/clear/new.png", pixels("new")), "clear/new, which .* lacks"),
    (lambda r: save(r / "flair/clear/ann_z0.jpg", pixels("twice")), "keep one of them"),
    (edited(lambda rows: rows.pop()), "has tumour/cyd_z3, which .*metadata.csv lacks"),
    (edited(lambda rows: rows.append(rows[0])), "row 14: clear/ann_z0 is there twice"),
    (edited(lambda rows: rows[2].update(patient="")), "row 4: patient is empty"),
    (edited(lambda rows: [row.pop("patient") for row in rows]), "unknown column .*'patient'"),
    (edited(lambda rows: [row.update(file="oedema" + row["file"][5:]) for row in rows[:1]]),
     "lacks oedema"),
    (lambda r: (r / "metadata.csv").write_bytes(b"file,\xff\n"), "no CSV file in UTF-8"),
    (lambda r: (r / "metadata.csv").write_text(""), "unknown column .*'file'"),
    (cut, "cyd_z1.png is damaged"),
    (lambda r: (r / "t1c/tumour/cyd_z1.png").write_text("x"), "t1c/tumour/cyd_z1.png is no image"),
    (lambda r: (r / "t1c/tumour/cyd_z1.png").write_bytes(b""), "t1c/tumour/cyd_z1.png is empty"),
    (lambda r: save(r / "t1c/tumour/cyd_z1.png", pixels("a", shape=(*SIZE, 3))), "is in colour"),
    (lambda r: save(r / "t1c/tumour/cyd_z1.png", pixels("wide", shape=(6, 7))),
     "t1c/tumour/cyd_z1.png is 6 × 7 pixels, .*flair/tumour/cyd_z1.png is 6 × 5"),
    (lambda r: save(r / "masks/tumour/cyd_z1.png", pixels("wide", shape=(7, 5))),
     "tumour/cyd_z1.png: its mask is uint8 7 × 5, the image 6 × 5"),
    (lambda r: save(r / "masks/tumour/cyd_z1.png", pixels("m", shape=(*SIZE, 3))), "mode RGB"),
    (ignored, "nothing but 255, which means ignore"),
    (lambda r: (r / "metadata.csv").write_text("file,patient,sha256_flair\n"),
     "metadata.csv lacks"),
    (lambda r: save(r / SCAN, pixels("other")), "cyd_z1.png has checksum .* not the original"),
])
def test_what_is_wrong_with_the_files_is_told_in_one_line(
    root: Path, harm: Callable[[Path], object], says: str,
) -> None:
    harm(root)
    refused(CARD.fold(1), says)  # fold 1 trains on cyd


def test_a_class_that_the_card_does_not_name_is_told(root: Path) -> None:
    refused(replace(CARD, classes=("clear", "lesion")),
            "tumour/ann_z1 is of class 'tumour', which card slices does not name")
    refused(replace(CARD, classes=("no", "yes"), options={**CARD.options, "label": "kind"}),
            "class 'clear'")


@pytest.mark.parametrize(("change", "says"), [
    ({"splits": {"train": ["ann", "bob"], "test": ["bob"]}},
     "patient bob lies in split train and in split test"),
    ({"splits": {"train": ["ann"], "validation": ["ann"], "test": ["bob"]}}, "patient ann lies in"),
    ({"splits": {"train": ["anne"], "test": ["bob"]}}, "unknown patient .* did you mean 'ann'"),
    ({"splits": {"train": "a", "test": "b"}}, "split train is 'a', and nothing in the files tells"),
    ({"splits": {"train": 0.8, "test": 0.2}}, "must be a share .* a word or a list, not 0.8"),
    ({"group": ""}, "splits by image, but it is known which images belong together; give"),
    ({"group": "", "splits": {"train": "0.0-0.5", "test": "0.5-1.0"}}, "splits by image, but it"),
    ({"group": "scanner"}, "unknown column .*'scanner'"),
    ({"options": {"images": ["flair", "t1c"]}}, "groups images by patient, but not every image"),
    ({"image": (2, 7, 5)}, "flair/.*.png is 6 × 5 pixels, card slices says 7 × 5"),
    ({"options": {**CARD.options, "image": ["flair"]}}, "did you mean 'images'"),
    ({"options": {**CARD.options, "images": ["flair"]}}, "1 folders .* do not make 2 channels"),
    ({"options": {**CARD.options, "sha256": {"flare": "x"}}}, "did you mean 'flair'"),
    ({"options": {**CARD.options, "file": "files"}}, "did you mean 'file'"),
    ({"sha256": {"metadata.csv": "0" * 64}}, "metadata.csv has checksum"),
    ({"sha256": {"t1c/clear/bob_z0.png": "0" * 64}}, "bob_z0.png has checksum"),
    ({"options": {"images": ["flair", "t1c"], "metadata": "metadata.csv"}}, "no mask was read"),
    ({"truth": "none"}, "has masks, the card's truth says none"),
    ({"classes": ("clear", "tumour", "cyst")}, "slices has no image of class cyst"),
    ({"classes": ("clear", "tumour", "cyst", "scar")}, "no image of class cyst and 1 more"),
    ({"path": "elsewhere"}, "there is no folder .*elsewhere. Put the folders there"),
])
def test_a_card_that_does_not_fit_the_files_is_told_in_one_line(
    root: Path, change: dict[str, object], says: str,
) -> None:
    assert len(data.load(CARD, "train")) == 4
    refused(replace(CARD, **change), says)


def test_a_split_column_that_tears_a_patient_is_refused(root: Path) -> None:
    torn = replace(CARD, folds=(), splits={"train": "a", "test": "b"},
                   options={**CARD.options, "split": "part"})
    refused(torn, "patient ann lies in split train and in split test")


def real(root: Path, name: str) -> Card:
    """The card of a set, or a skip where its files are not there."""
    if not (root / name).is_dir():
        pytest.skip(f"HEATPROOF_DATA has no {name}")
    return data.card(name)


@pytest.fixture
def brats(real_data: Path) -> Card:
    return real(real_data, "brain-tumour-brats2015")


@pytest.mark.data
def test_the_real_slices_are_as_their_card_says(brats: Card) -> None:
    parts = [data.held(brats.name, split) for split in brats.splits]
    x = np.concatenate([images.x for images in parts])
    assert [len(images) for images in parts] == [213, 116, 99]
    assert np.bincount(np.concatenate([images.y for images in parts])).tolist() == [144, 284]
    assert np.allclose(x.mean((0, 2, 3)) / 255, brats.mean, atol=5e-5)
    assert np.allclose(x.std((0, 2, 3)) / 255, brats.std, atol=5e-5)
    assert parts[2].key[0] == "no_tumour/pat0001_z025"
    for images in parts:
        assert images.mask is not None
        assert set(np.unique(images.mask)) == {0, 1, 2, 3, 4}
        marked = (images.mask > 0).sum((1, 2))
        assert (marked[images.y == 1] >= 200).all()
        assert not marked[images.y == 0].any()


@pytest.mark.data
def test_each_real_patient_is_tested_once_and_never_torn(brats: Card) -> None:
    tested = set()
    for k in range(4):
        card = brats.fold(k)
        groups = {split: set(data.held(brats.name, split, k).group) for split in card.splits}
        assert [len(found) for found in groups.values()] == [2, 1, 1]
        assert len(set.union(*groups.values())) == 4
        tested |= groups["test"]
    assert tested == {"pat0001", "pat0003", "pat0005", "pat0006"}
    assert len({data.fingerprint(brats.fold(k)) for k in range(4)}) == 4
    assert all(finding.ok for finding in testing.check_card(brats.fold(3)))


@pytest.mark.data
def test_the_real_boxes_lie_on_every_slice_and_no_block_is_torn(real_data: Path) -> None:
    card = real(real_data, "brain-tumour-cheng")
    parts = {split: data.held(card.name, split) for split in card.splits}
    assert [len(images) for images in parts.values()] == [507, 142, 251]
    assert sum(np.bincount(images.y) for images in parts.values()).tolist() == [300, 300, 300]
    assert all((np.bincount(images.y) >= 20).all() for images in parts.values())
    assert len(set.union(*(set(i.group) for i in parts.values()))) == sum(
        len(set(i.group)) for i in parts.values()) == 95
    train = parts["train"]
    assert abs(train.x.mean() / 255 - card.mean[0]) < 5e-5
    assert abs(train.x.std() / 255 - card.std[0]) < 5e-5
    for images in parts.values():
        assert images.mask is not None
        share = (images.mask == 1).mean((1, 2))
        assert share.min() > 0.001
        assert share.max() < 0.25
    where = train.key.index("meningioma/0001")
    box = np.argwhere(train.mask[where] == 1)
    assert [*box.min(0), *box.max(0)] == [177, 266, 252, 378]  # 266 177 379 253, edges
    assert all(finding.ok for finding in testing.check_card(card))


@pytest.mark.data
def test_the_real_photographs_keep_their_objects(real_data: Path) -> None:
    card = real(real_data, "natural-coco")
    assert list(card.splits) == ["test"]
    images = data.held(card.name, "test")
    assert np.bincount(images.y).tolist() == [2, 13, 9, 8, 4, 15, 5, 4, 24, 13]
    assert images.mask is not None
    assert set(np.unique(images.mask)) == {0, 1, 255}
    share = (images.mask == 1).mean((1, 2))
    assert share.min() > 0.01  # stretching loses none: as in the originals
    told = {row["file"].removesuffix(".jpg"): float(row["mask_fraction"])
            for row in rows_of(real_data / card.name)}
    assert np.allclose(share, [told[key] for key in images.key], atol=0.005)
    assert all(finding.ok for finding in testing.check_card(card))
