"""RSNA's radiographs by their card: DICOM of every depth, boxes, official lists and shares."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRLittleEndian, JPEGBaseline8Bit

from bench import data
from bench.core import Card, HeatproofError, number_from
from bench.data.dicom import radiograph

WORDS = {"a1": "Normal", "b2": "Lung Opacity", "c3": "No Lung Opacity / Not Normal",
         "d4": "Lung Opacity", "e5": "Normal", "f6": "Lung Opacity"}
BOXES = {"b2": [(1, 2, 3, 2)], "d4": [(0, 0, 2, 2), (4, 4, 2, 4)], "f6": [(6, 6, 5, 5)]}
LISTS = {"train": ["a1", "b2"], "val": ["d4"], "test": ["e5", "f6"]}


def pixels(name: str) -> np.ndarray:
    return np.random.default_rng(ord(name[0])).integers(0, 256, (8, 8), np.uint8)


def dicom(path: Path, stored: np.ndarray, *, kind: str = "MONOCHROME2", bits: int = 0,
          jpeg: bytes = b"", **more: Any) -> Path:
    """A DICOM file of one image, with only what its pixels need."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    meta.MediaStorageSOPInstanceUID = "1.2.3"
    meta.TransferSyntaxUID = JPEGBaseline8Bit if jpeg else ExplicitVRLittleEndian
    dataset = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.Rows, dataset.Columns = stored.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, kind
    dataset.BitsAllocated = stored.itemsize * 8
    dataset.BitsStored = bits or dataset.BitsAllocated
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(stored.dtype.kind == "i")
    dataset.PixelData = encapsulate([jpeg]) if jpeg else stored.tobytes()
    for name, value in more.items():
        setattr(dataset, name, value)
    dataset.save_as(path, enforce_file_format=True)
    return path


def tables(folder: Path) -> None:
    """The challenge's two tables, a row a box."""
    labels, words = ["patientId,x,y,width,height,Target"], ["patientId,class"]
    for name, word in WORDS.items():
        for box in BOXES.get(name, [()]):
            cells = ",".join(f"{edge:.1f}" for edge in box) or ",,,"
            labels.append(f"{name},{cells},{int(bool(box))}")
            words.append(f"{name},{word}")
    (folder / "stage_2_train_labels.csv").write_text("\n".join(labels) + "\n")
    (folder / "stage_2_detailed_class_info.csv").write_text("\n".join(words) + "\n")


def official(folder: Path, split: str, names: list[str], **labels: int) -> None:
    rows = [f"{name}.png,,,,,Test,{labels.get(name, int(name in BOXES))},0" for name in names]
    (folder / f"{split}.csv").write_text(
        "\n".join(["filename,x,y,width,height,type,bin_target,target", *rows]) + "\n")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the set, in which six radiographs lie."""
    monkeypatch.setenv("HEATPROOF_DATA", str(tmp_path))
    folder = tmp_path / "rsna-pneumonia"
    (folder / "stage_2_train_images").mkdir(parents=True)
    for name in WORDS:
        dicom(folder / "stage_2_train_images" / f"{name}.dcm", pixels(name))
    tables(folder)
    for split, names in LISTS.items():
        official(folder, split, names)
    return folder


def card(**changes: Any) -> Card:
    """The published card, of six tiny radiographs."""
    known = data.card("rsna-pneumonia")
    splits = {split: wanted | {"images": counts} for (split, wanted), counts in zip(
        known.splits.items(), ([1, 1], [0, 1], [1, 1]), strict=True)}
    options = {**known.options, "side": 8, **changes.pop("options", {})}
    return replace(known, **{"image": (3, 8, 8), "splits": splits, "options": options} | changes)


ALL = {"splits": {"test": "0.0-1.0"}}


def test_the_official_lists_part_the_images(home: Path) -> None:
    for split, names in (("train", ["a1", "b2"]), ("validation", ["d4"]), ("test", ["e5", "f6"])):
        images = data.load(card(), split)
        assert list(images.key) == names == list(images.group)
        assert images.y.tolist() == [int(name in BOXES) for name in names]
        for row, name in enumerate(names):
            assert np.array_equal(images.x[row], np.stack([pixels(name)] * 3))


def test_a_mask_is_all_the_boxes_of_its_image_and_normal_images_have_none(home: Path) -> None:
    images = data.load(card(**ALL), "test")
    assert images.key == ("a1", "b2", "d4", "e5", "f6")
    for row, name in enumerate(images.key):
        wanted = np.zeros((8, 8), np.uint8)
        for left, top, width, height in BOXES.get(name, []):
            wanted[top:top + height, left:left + width] = 1
        assert np.array_equal(images.mask[row], wanted)


def test_the_image_and_its_boxes_are_stretched_alike(home: Path) -> None:
    images = data.load(card(**ALL, image=(3, 4, 4)), "test")
    row = images.key.index("d4")
    assert images.mask[row].tolist() == [[1, 0, 0, 0], [0] * 4, [0, 0, 1, 0], [0, 0, 1, 0]]


def test_softcams_png_files_serve_without_dicom_and_boxes_follow_their_size(home: Path) -> None:
    shutil.rmtree(home / "stage_2_train_images")
    (home / "png_images").mkdir()
    for name in WORDS:
        Image.fromarray(pixels(name)[::2, ::2].copy()).save(home / "png_images" / f"{name}.png")
    images = data.load(card(**ALL, image=(3, 4, 4)), "test")
    row = images.key.index("d4")
    assert np.array_equal(images.x[row, 0], pixels("d4")[::2, ::2])
    assert images.mask[row].tolist() == [[1, 0, 0, 0], [0] * 4, [0, 0, 1, 0], [0, 0, 1, 0]]


def test_the_third_class_can_be_asked_for(home: Path) -> None:
    words = ["Normal", "Lung Opacity", "No Lung Opacity / Not Normal"]
    images = data.load(card(
        **ALL, classes=("normal", "opacity", "neither"), options={"classes": words}), "test")
    assert images.y.tolist() == [0, 1, 2, 1, 0, 1]


def test_shares_are_of_the_nihs_patients_where_their_table_lies_there(home: Path) -> None:
    told = [{"subset_img_id": name, "img_id": f"{number // 3:08d}_{number:03d}.png"}
            for number, name in enumerate(WORDS)]
    (home / "map.json").write_text(json.dumps(told))
    at = [number_from("rsna", name) / 2**63 for name in ("00000000", "00000001")]
    cut = f"{sum(at) / 2:.6f}"
    shares = card(splits={"train": f"0.0-{cut}", "test": f"{cut}-1.0"},
                  options={"patients": "map.json"})
    first, second = (data.load(shares, split) for split in ("train", "test"))
    if at[0] > at[1]:
        first, second = second, first
    assert first.group == ("00000000",) * 2
    assert first.key == ("a1", "b2")
    assert second.group == ("00000001",) * 3
    with pytest.raises(HeatproofError, match="splits by image"):
        data.load(replace(shares, group=""), "test")
    with pytest.raises(HeatproofError, match="patient 00000001 lies in split validation and in"):
        data.load(card(options={"patients": "map.json"}), "test")
    (home / "map.json").write_text(json.dumps(told[1:]))
    with pytest.raises(HeatproofError, match=r"map\.json does not tell the patient of a1"):
        data.load(shares, "test")
    (home / "map.json").write_text('{"a": 1}')
    with pytest.raises(HeatproofError, match="is no list of objects with subset_img_id"):
        data.load(shares, "test")


def test_shares_without_that_table_are_of_the_challenges_patients(home: Path) -> None:
    shares = card(splits={"train": "0.0-0.5", "test": "0.5-1.0"})
    found = data.catalogue(shares)
    assert found.group == found.key
    for split in LISTS:
        (home / f"{split}.csv").unlink()
    assert len(data.load(card(**ALL), "test")) == 5


DEEP = np.array([[0, 1024], [2048, 4095]], np.uint16)


@pytest.mark.parametrize(("stored", "facts", "shown"), [
    (np.array([[0, 7], [128, 255]], np.uint8), {}, [[0, 7], [128, 255]]),
    (np.array([[0, 7], [128, 255]], np.uint8), {"kind": "MONOCHROME1"}, [[255, 248], [127, 0]]),
    (DEEP, {"bits": 12}, [[0, 64], [128, 255]]),
    (DEEP, {"bits": 12, "kind": "MONOCHROME1"}, [[255, 191], [127, 0]]),
    (DEEP * 16, {}, [[0, 64], [128, 255]]),
    (DEEP, {"bits": 12, "WindowCenter": 2048, "WindowWidth": 2048}, [[0, 0], [128, 255]]),
    (DEEP, {"bits": 12, "WindowCenter": [2048, 5], "WindowWidth": [2048, 2]}, [[0, 0], [128, 255]]),
    (DEEP, {"bits": 12, "RescaleSlope": 2, "RescaleIntercept": -1000,
            "WindowCenter": 3096, "WindowWidth": 4096}, [[0, 0], [128, 255]]),
    (DEEP, {"bits": 12, "RescaleSlope": 2, "RescaleIntercept": -1000}, [[0, 64], [128, 255]]),
    (np.array([[-2048, -1024], [0, 2047]], np.int16), {"bits": 12}, [[0, 64], [128, 255]]),
])
def test_any_depth_becomes_8_bits_as_a_monitor_shows_it(
    stored: np.ndarray, facts: dict[str, Any], shown: list[list[int]], tmp_path: Path,
) -> None:
    found = radiograph(dicom(tmp_path / "Röntgen.dcm", stored, **facts))
    assert found.dtype == np.uint8
    assert np.abs(found[0].astype(int) - shown).max() <= 1
    if stored.itemsize == 1:
        assert found[0].tolist() == shown


def test_a_radiograph_that_is_packed_as_jpeg_is_read(home: Path) -> None:
    smooth = np.add.outer(np.arange(8), np.arange(8)).astype(np.uint8) * 15
    packed = io.BytesIO()
    Image.fromarray(smooth).save(packed, "JPEG", quality=95)
    path = dicom(home / "stage_2_train_images" / "a1.dcm", smooth, jpeg=packed.getvalue())
    assert pydicom.dcmread(path).file_meta.TransferSyntaxUID == JPEGBaseline8Bit
    images = data.load(card(), "train")
    assert np.array_equal(images.x[0, 0], np.asarray(Image.open(packed)))
    assert np.abs(images.x[0, 0].astype(int) - smooth).max() < 9


def xray(folder: Path) -> Path:
    return folder / "stage_2_train_images" / "b2.dcm"


def swap(folder: Path, name: str, old: str, new: str) -> None:
    text = (folder / name).read_text()
    assert old in text
    (folder / name).write_text(text.replace(old, new, 1))


LABELS, INFO = "stage_2_train_labels.csv", "stage_2_detailed_class_info.csv"


@pytest.mark.parametrize(("harm", "says"), [
    (lambda f: f.rename(f.with_name("x")), "there is no folder .*Put the challenge's stage_2"),
    (lambda f: xray(f).unlink(), "lacks stage_2_train_images/b2.dcm. Put the"),
    (lambda f: shutil.rmtree(xray(f).parent), "lacks stage_2_train_images/a1.dcm and 4 more. Put"),
    (lambda f: xray(f).write_bytes(xray(f).read_bytes()[:-9]), "b2.dcm is damaged"),
    (lambda f: xray(f).write_bytes(b""), "b2.dcm is damaged or no DICOM image"),
    (lambda f: xray(f).write_bytes(b"\x89PNG" * 99), "b2.dcm is damaged or no DICOM image"),
    (lambda f: dicom(xray(f), pixels("b2"), kind="RGB"), "b2.dcm is RGB, not one grey image"),
    (lambda f: dicom(xray(f), pixels("b2"), NumberOfFrames=2), "not one grey image"),
    (lambda f: dicom(xray(f), pixels("b2"), jpeg=b"\xff\xd8 no jpeg"), "b2.dcm is damaged"),
    (lambda f: dicom(xray(f), pixels("b2"), RescaleSlope=0, RescaleIntercept=1), "Slope is 0"),
    (lambda f: dicom(xray(f), pixels("b2"), VOILUTSequence=[pydicom.Dataset()]), "table of val"),
    (lambda f: (f / "train.csv").unlink(), "there is no list .*train.csv. .*csv_files/RSNA of git"),
    (lambda f: official(f, "train", []), r"train.csv lists \[0, 0\] images of normal, opacity"),
    (lambda f: official(f, "train", ["a1", "e5"]), r"lists \[2, 0\] images .* card says \[1, 1\]"),
    (lambda f: official(f, "train", ["a1", "c3"]), "train.csv lists c3, which is no image of"),
    (lambda f: official(f, "train", ["a1", "b2"], b2=0), r"b2 has bin_target 0, .* is 1 \(opac"),
    (lambda f: official(f, "train", ["a1", "a1", "b2"]), "train.csv, row 3: a1 is there twice"),
    (lambda f: official(f, "val", ["b2"]), "patient b2 lies in split train and in split validat"),
    (lambda f: (f / LABELS).unlink(), "cannot read .*stage_2_train_labels.csv"),
    (lambda f: (f / INFO).unlink(), "cannot read .*stage_2_detailed_class_info.csv"),
    (lambda f: (f / INFO).write_bytes(b"\xff\xfe\x00"), "is no CSV file in UTF-8"),
    (lambda f: (f / INFO).write_text("id,class\n"), "unknown column of .*'patientId'"),
    (lambda f: swap(f, INFO, "a1,Normal", "a1,Healthy"), "row 2: a1 is of class 'Healthy', which"),
    (lambda f: swap(f, INFO, "d4,Lung Opacity", "d4,Normal"), "d4 is of class 'Lung Opacity' and"),
    (lambda f: swap(f, LABELS, "a1,,,,,0", "x1,,,,,0"), "labels.csv lacks a1, which stage_2_det"),
    (lambda f: swap(f, LABELS, "a1,,,,,0", "a1,,,,,1"), "a1 has Target 1 and 0 boxes, its class"),
    (lambda f: swap(f, LABELS, "b2,1.0,2.0,3.0,2.0,1", "b2,,,,,1"), "b2 has Target 1 and 0 boxes"),
    (lambda f: swap(f, LABELS, "b2,1.0,2.0", "b2,90.0,2.0"), "labels.csv: b2: the box 90, 2, 3"),
    (lambda f: swap(f, LABELS, "b2,1.0,2.0", "b2,1.0,no"), "is not four numbers"),
])
def test_what_is_wrong_with_the_files_is_told_in_one_line(home: Path, harm, says) -> None:
    harm(home)
    with pytest.raises(HeatproofError, match=says) as error:
        data.load(card(), "train")
    assert "\n" not in str(error.value)


def test_what_is_wrong_with_the_card_is_told_in_one_line(
    home: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    for options, says in (
        ({"classes": ["Normal"]}, "1 words in options.classes for 2 classes"),
        ({"classes": ["normal", "Lung Opacity"]}, "unknown class .* did you mean 'Normal'"),
        ({"side": "1024"}, "side must be of type int"),
    ):
        with pytest.raises(HeatproofError, match=says):
            data.load(card(options=options), "train")
    with pytest.raises(HeatproofError, match=r"a1\.dcm is 8 × 8 pixels, .* says 9 × 9"):
        data.load(card(image=(3, 9, 9), fit=""), "train")
    with pytest.raises(HeatproofError, match=r"b2\.dcm has checksum .*not the original"):
        data.load(card(sha256={"stage_2_train_images/b2.dcm": "0" * 64}), "train")
    monkeypatch.setitem(__import__("sys").modules, "pydicom", None)
    with pytest.raises(HeatproofError, match=r"pydicom is needed .* 'heatproof\[data\]'"):
        data.load(card(), "train")
