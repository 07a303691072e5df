"""Cheng's brain tumour slices by their card: MATLAB 7.3 files, upright, patients never torn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from bench import data
from bench.core import Card, HeatproofError
from bench.data import matlab

PATIENTS = ("100360", "100360", "MR031118A", "MR031118A", "112649", "Müller")


def slice_of(number: int) -> np.ndarray:
    """A slice of 6 rows and 5 columns, of 12 bits, and not alike either way about."""
    found = np.random.default_rng(number).integers(-20, 2000, (6, 5)).astype(np.int16)
    found[0, 4] = 2500 + number
    return found


def mask_of(number: int) -> np.ndarray:
    found = np.zeros((6, 5), np.uint8)
    found[1:3, 0:number % 3 + 1] = 1
    return found


def matrix(struct: h5py.Group, name: str, value: np.ndarray) -> None:
    """A matrix as MATLAB stores it: column by column, so that HDF5 sees it transposed."""
    if name in struct:
        del struct[name]
    struct[name] = value.T


def write(path: Path, number: int, **fields: Any) -> None:
    """A file as MATLAB writes it with -v7.3: a header of 512 bytes, and HDF5 behind it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    patient = PATIENTS[(number - 1) % len(PATIENTS)]
    told = {
        "label": np.array([[float((number - 1) // 2 % 3 + 1)]]),
        "PID": np.array([[ord(letter) for letter in patient]], np.uint16),
        "image": slice_of(number), "tumorMask": mask_of(number),
        "tumorBorder": np.ones((8, 1))} | fields
    with h5py.File(path, "w", userblock_size=512) as file:
        struct = file.create_group("cjdata")
        for name, value in told.items():
            if value is not None:
                matrix(struct, name, value)
    header = b"MATLAB 7.3 MAT-file, Platform: PCWIN64, Created on: Sat Aug 15 14:23:08 2015 HDF5 " \
             b"schema 1.00 ."
    with path.open("r+b") as file:
        file.write(header.ljust(124) + b"\x00\x02IM")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the set, in which six slices lie as they are unpacked."""
    monkeypatch.setenv("HEATPROOF_DATA", str(tmp_path))
    folder = tmp_path / "cheng"
    for number in range(1, 7):
        parts = "brainTumorDataPublic_1-766" if number < 4 else "brainTumorDataPublic_767-1532"
        write(folder / parts / f"{number}.mat", number)
    (folder / "cvind.mat").write_bytes(b"not a slice")
    return folder


def card(**changes: Any) -> Card:
    """The published card, of six tiny slices."""
    known = data.card("cheng")
    return replace(known, **{"image": (1, 6, 5), "splits": {"test": "0.0-1.0"},
                             "options": {"slices": 6}} | changes)


def test_slices_are_upright_and_255_is_the_largest_value(home: Path) -> None:
    images = data.load(card(), "test")
    assert images.key == ("0001", "0002", "0003", "0004", "0005", "0006")
    for row in range(6):
        stored = slice_of(row + 1).astype(float)
        wanted = stored.clip(0) / stored.max()
        assert np.abs(images.x[row, 0] / 255 - wanted).max() <= 1 / 510 + 1e-9
        assert images.x[row, 0, 0, 4] == 255
        assert np.array_equal(images.mask[row], mask_of(row + 1))


def test_labels_are_the_cards_classes_and_groups_the_patients(home: Path) -> None:
    images = data.load(card(), "test")
    assert [card().classes[y] for y in images.y] == [
        "meningioma", "meningioma", "glioma", "glioma", "pituitary tumour", "pituitary tumour"]
    assert images.group == PATIENTS


def test_shares_are_of_patients_and_no_patient_is_torn(home: Path) -> None:
    for number in range(7, 25):
        write(home / f"{number}.mat", number, PID=np.array([[65 + number // 2]], np.uint16))
    shares = card(splits={"train": "0.0-0.6", "test": "0.6-1.0"}, options={"slices": 24})
    parts = [data.load(shares, split) for split in shares.splits]
    groups = [set(images.group) for images in parts]
    assert groups[0] and groups[1] and not groups[0] & groups[1]
    assert sum(map(len, parts)) == 24
    with pytest.raises(HeatproofError, match="splits by image"):
        data.load(replace(shares, group=""), "test")


def test_a_slice_of_another_size_is_stretched_with_its_mask(home: Path) -> None:
    small, mask = np.full((3, 5), 7, np.int16), np.zeros((3, 5), np.uint8)
    small[0], mask[0] = 700, 1
    write(home / "brainTumorDataPublic_1-766" / "2.mat", 2, image=small, tumorMask=mask)
    images = data.load(card(), "test")
    assert images.mask[1].sum(1).tolist() == [5, 5, 0, 0, 0, 0]
    assert images.x[1, 0, 0].tolist() == [255] * 5
    assert images.x[1, 0, 5].tolist() == [3] * 5


def test_labels_and_patients_are_looked_up_once_and_again_when_a_file_changes(
    home: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    read: list[Path] = []
    told = matlab._told

    def counted(path: Path, card: Card) -> tuple[int, str]:
        read.append(path)
        return told(path, card)

    monkeypatch.setattr(matlab, "_told", counted)
    assert data.catalogue(card()).label == data.catalogue(card()).label == (0, 0, 1, 1, 2, 2)
    assert len(read) == 6
    write(home / "brainTumorDataPublic_1-766" / "1.mat", 1, label=np.array([[3.0]]),
          image=slice_of(1).repeat(40, 0), tumorMask=mask_of(1).repeat(40, 0))
    assert data.catalogue(card()).label == (2, 0, 1, 1, 2, 2)


def one(folder: Path) -> Path:
    return folder / "brainTumorDataPublic_1-766" / "1.mat"


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def without(name: str) -> Callable[[Path], None]:
    return lambda folder: write(one(folder), 1, **{name: None})


def having(**fields: np.ndarray) -> Callable[[Path], None]:
    return lambda folder: write(one(folder), 1, **fields)


@pytest.mark.parametrize(("harm", "says"), [
    (lambda f: f.rename(f.with_name("x")), "there is no folder .*Fetch the four archives"),
    (lambda f: one(f).unlink(), "lacks 1.mat of 6 slices. Fetch the four"),
    (lambda f: write(f / "7.mat", 1), "7.mat is none of the 6 slices"),
    (lambda f: write(f / "1.mat", 1), "1.mat is there as .*1.mat too; keep one"),
    (lambda f: cut(one(f)), "1.mat is damaged .*fetch it again"),
    (lambda f: one(f).write_bytes(b""), "1.mat is damaged"),
    (lambda f: one(f).write_bytes(b"MATLAB 5.0 MAT-file, Platform: GLNXA64"), "version 7 or older"),
    (without("tumorMask"), "lacks cjdata.tumorMask"),
    (without("PID"), "lacks cjdata.PID"),
    (having(label=np.array([[4.0]])), r"label is 4.0, not 1 to 3 \(meningioma"),
    (having(label=np.array([[1.0, 2.0]])), "label is 1.0 2.0, not 1 to 3"),
    (having(PID=np.zeros((2, 1), np.uint64)), "PID is no text"),
    (having(PID=np.array([[100360.0]])), "PID is no text"),
    (having(tumorMask=mask_of(1) * 255), "tumorMask holds 255, not 0 and 1"),
    (having(tumorMask=mask_of(1)[1:]), "1.mat: its mask is uint8 5 × 5, the image 6 × 5"),
    (having(image=np.zeros((2, 6, 5))), r"image is float64 of shape \(5, 6, 2\), no matrix"),
])
def test_what_is_wrong_with_the_files_is_told_in_one_line(home: Path, harm, says) -> None:
    harm(home)
    with pytest.raises(HeatproofError, match=says) as error:
        data.load(card(), "test")
    assert "\n" not in str(error.value)
    assert str(home) in str(error.value)


def test_what_is_wrong_with_the_card_is_told_in_one_line(
    home: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(HeatproofError, match="6 × 5 pixels, card cheng says 7 × 5"):
        data.load(card(image=(1, 7, 5), fit=""), "test")
    with pytest.raises(HeatproofError, match=r"2\.mat has checksum .* not the original"):
        data.load(card(sha256={"brainTumorDataPublic_1-766/2.mat": "0" * 64}), "test")
    with pytest.raises(HeatproofError, match="slices"):
        data.load(card(options={}), "test")
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(HeatproofError, match=r"h5py is needed .* 'heatproof\[data\]'"):
        data.load(card(), "test")
