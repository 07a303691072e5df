"""BraTS by its cards: NIfTI and MetaImage volumes, cut into slices, patients never torn."""

from __future__ import annotations

import gzip
import shutil
import time
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK

from bench import data
from bench.core import Card, HeatproofError
from bench.data import decoded, volumes
from bench.data.catalogue import Catalogue

SIZE = (4, 6, 5)  # channels, rows, columns of a tiny slice
GRADES = {"001": "HGG", "002": "LGG", "003": "HGG"}
PEAK = {"t1": 100, "t2": 400, "t1ce": 200, "flair": 300}


def slices(contrast: str, patient: str) -> np.ndarray:
    """Four upright slices (4, 6, 5): empty, healthy, tumour, tumour."""
    found = np.random.default_rng(len(contrast) + int(patient)).integers(
        1, PEAK[contrast], (4, *SIZE[1:])).astype(np.int16)
    found[:, 0, 0] = PEAK[contrast]
    found[:, 0, -1] = 0
    found[0] = 0
    return found


def labels() -> np.ndarray:
    found = np.zeros((4, *SIZE[1:]), np.int16)
    found[2, 1:3, 2:4] = [[1, 2], [4, 4]]
    found[3, 5, 0] = 2
    return found


def nifti(path: Path, upright: np.ndarray, turn: str = "LPS") -> None:
    """Stores upright slices as BraTS does (axes to the left, the back, the head), or turned."""
    image = nibabel.Nifti1Image(upright.T, np.diag([-1.0, -1.0, 1.0, 1.0]))
    there = nibabel.orientations.axcodes2ornt(tuple(turn))
    here = nibabel.orientations.axcodes2ornt(("L", "P", "S"))
    nibabel.save(image.as_reoriented(nibabel.orientations.ornt_transform(here, there)), path)


def patient(folder: Path, number: str, suffix: str = ".nii.gz") -> Path:
    home = folder / f"BraTS20_Training_{number}"
    home.mkdir(parents=True)
    for contrast in PEAK:
        nifti(home / f"{home.name}_{contrast}{suffix}", slices(contrast, number))
    nifti(home / f"{home.name}_seg{suffix}", labels())
    return home


def table(folder: Path, grades: dict[str, str]) -> None:
    rows = [f"{grade},x,BraTS20_Training_{number}" for number, grade in grades.items()]
    (folder / "name_mapping.csv").write_text(
        "\n".join(["Grade,BraTS_2019_subject_ID,BraTS_2020_subject_ID", *rows]) + "\n")


@pytest.fixture
def brats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of BraTS 2020, in which three patients lie."""
    monkeypatch.setenv("HEATPROOF_DATA", str(tmp_path))
    folder = tmp_path / "MICCAI_BraTS2020_TrainingData"
    for number in GRADES:
        patient(folder, number, ".nii" if number == "002" else ".nii.gz")
    table(folder, GRADES)
    return folder


def card(**changes: object) -> Card:
    """The published card, with tiny slices and all of them in the test split."""
    known = data.card("brats2020")
    options = {**known.options, **changes.pop("options", {})}  # type: ignore[dict-item]
    return replace(known, image=SIZE, splits={"test": "0.0-1.0"}, options=options, **changes)


def test_a_slice_is_upright_and_255_is_its_largest_value_over_all_contrasts(brats: Path) -> None:
    images = data.load(card(), "test")
    assert images.key[0] == "BraTS20_Training_001/001"
    for row, z in enumerate((1, 2, 3)):
        stored = np.stack([slices(name, "001")[z] for name in ("t1", "t2", "t1ce", "flair")])
        assert stored.max() == 400
        assert np.array_equal(images.x[row], (stored * (255 / 400) + 0.5).astype(np.uint8))
        assert np.abs(images.x[row] / 255 - stored / 400).max() <= 1 / 510 + 1e-9
        assert np.array_equal(images.mask[row], labels()[z])


def test_the_class_is_the_patients_grade_where_a_voxel_is_labelled(brats: Path) -> None:
    images = data.load(card(), "test")
    assert [card().classes[y] for y in images.y] == [
        "Healthy", "HGG", "HGG", "Healthy", "LGG", "LGG", "Healthy", "HGG", "HGG"]
    assert images.group == tuple(
        f"BraTS20_Training_{number}" for number in GRADES for _ in range(3))
    assert [int((mask > 0).any()) for mask in images.mask] == [0, 1, 1] * 3


def test_a_slice_without_label_is_left_out_where_the_first_contrast_is_empty(brats: Path) -> None:
    home = brats / "BraTS20_Training_001"
    empty = slices("t1", "001")
    empty[:] = 0
    nifti(home / f"{home.name}_t1.nii.gz", empty)
    keys = data.load(card(), "test").key
    assert [key for key in keys if "001/" in key] == [f"{home.name}/002", f"{home.name}/003"]


def test_shares_are_of_patients_and_no_patient_is_torn(tmp_path: Path, brats: Path) -> None:
    shares = replace(card(), splits={"train": "0.0-0.5", "test": "0.5-1.0"})
    for number in range(4, 9):
        patient(brats, f"{number:03d}")
    table(brats, GRADES | {f"{number:03d}": "LGG" for number in range(4, 9)})
    parts = {split: data.load(shares, split) for split in shares.splits}
    groups = [set(images.group) for images in parts.values()]
    assert groups[0] and groups[1] and not groups[0] & groups[1]
    assert sum(map(len, parts.values())) == 24
    with pytest.raises(HeatproofError, match="splits by image"):
        data.load(replace(shares, group=""), "test")


@pytest.mark.parametrize("turn", ["RAS", "LAS", "SPL", "PIR"])
def test_the_header_tells_which_way_is_up(brats: Path, turn: str) -> None:
    before = data.load(card(), "test")
    home = brats / "BraTS20_Training_001"
    for contrast in PEAK:
        nifti(home / f"{home.name}_{contrast}.nii.gz", slices(contrast, "001"), turn)
    nifti(home / f"{home.name}_seg.nii.gz", labels(), turn)
    stored = nibabel.load(home / f"{home.name}_t1.nii.gz")
    assert "".join(nibabel.aff2axcodes(stored.affine)) == turn
    after = data.load(card(), "test")
    assert np.array_equal(before.x, after.x)
    assert np.array_equal(before.mask, after.mask)


def test_by_volume_the_percentiles_of_what_is_not_0_become_1_and_255(brats: Path) -> None:
    images = data.load(card(options={"scale": "volume"}), "test")
    for channel, name in enumerate(("t1", "t2", "t1ce", "flair")):
        volume = slices(name, "001")
        low, high = np.percentile(volume[volume != 0], (0.5, 99.5))
        share = np.clip((volume - low) / (high - low), 0, 1)
        wanted = np.where(volume == 0, 0, np.rint(1 + 254 * share))[1:]
        assert np.abs(images.x[:3, channel] - wanted).max() <= 1
        assert np.array_equal(images.x[:3, channel] == 0, wanted == 0)
        assert images.x[:3, channel].max() == 255
    assert not volumes._spread(np.zeros((2, 3, 3))).any()


def test_values_below_0_are_cut_and_a_black_slice_stays_black() -> None:
    below = np.array([[[-5, 0], [1, 2]]], np.int16)
    assert volumes.by_peak(below).tolist() == [[[0, 0], [128, 255]]]
    assert not volumes.by_peak(np.zeros((4, 2, 2), np.float32)).any()
    assert not volumes.by_peak(np.full((1, 2, 2), -3.0)).any()


def test_what_slices_show_is_looked_up_once_and_again_when_a_file_changes(
    brats: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    read: list[str] = []
    look = volumes.opened

    def counted(path: Path, card: Card) -> np.ndarray:
        read.append(path.name)
        return look(path, card)

    monkeypatch.setattr(volumes, "opened", counted)
    found = data.catalogue(card())
    assert len(read) == 2 * len(GRADES)
    assert data.catalogue(card()).key == found.key
    assert len(read) == 2 * len(GRADES)
    nifti(brats / "BraTS20_Training_003" / "BraTS20_Training_003_seg.nii.gz", labels() * 0)
    assert len(data.catalogue(card()).key) == len(found.key)
    assert len(read) == 2 * len(GRADES) + 2
    assert [data.catalogue(card()).label[row] for row in (-1, -2)] == [0, 0]


def test_every_volume_is_read_once_for_all_slices_of_its_patient(
    brats: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    data.catalogue(card())
    read: list[Path] = []
    look = volumes.opened

    def counted(path: Path, card: Card) -> np.ndarray:
        read.append(path)
        return look(path, card)

    decode = decoded.decode

    def one_straggles(card: Card, catalogue: Catalogue, row: int) -> dict[str, np.ndarray]:
        if row == 1:  # while the other threads go on to the last patient
            time.sleep(.3)
        return decode(card, catalogue, row)

    monkeypatch.setattr(volumes, "opened", counted)
    monkeypatch.setattr(decoded, "decode", one_straggles)
    data.load(card(), "test")
    assert len(read) == len(set(read)) == 5 * len(GRADES)


def test_the_mask_of_patient_355_has_another_name_and_a_path_any_letters(
    brats: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = data.load(card(), "test")
    home = brats / "BraTS20_Training_001"
    (home / f"{home.name}_seg.nii.gz").rename(home / "W39_1998.09.19_Segm.nii.gz")
    shutil.copytree(tmp_path, tmp_path / "Köpfe 頭")
    monkeypatch.setenv("HEATPROOF_DATA", str(tmp_path / "Köpfe 頭"))
    after = data.load(card(), "test")
    assert np.array_equal(before.x, after.x)
    assert np.array_equal(before.mask, after.mask)


def of(folder: Path, what: str) -> Path:
    return next((folder / "BraTS20_Training_001").glob(f"*_{what}.nii*"))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def short(path: Path) -> None:
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-20]))


def labelled(folder: Path, value: float) -> None:
    found = labels().astype(np.float32)
    found[3, 5, 0] = value
    nifti(of(folder, "seg"), found)


@pytest.mark.parametrize(("harm", "says"), [
    (lambda f: shutil.rmtree(f), "there is no folder .*Register with the challenge"),
    (lambda f: [shutil.rmtree(p) for p in f.glob("BraTS20*")], "holds no folder BraTS20_Tr"),
    (lambda f: of(f, "t2").unlink(), r"001 lacks \*_t2\.nii\*; fetch"),
    (lambda f: shutil.copy(of(f, "t2"), of(f, "t2").with_suffix("")), "keep one of them"),
    (lambda f: cut(of(f, "t1")), "001_t1.nii.gz is damaged"),
    (lambda f: cut(of(f, "flair")), "001_flair.nii.gz is damaged"),
    (lambda f: short(of(f, "seg")), "001_seg.nii.gz is damaged .*Expected"),
    (lambda f: of(f, "seg").write_bytes(b"hello " * 200), "001_seg.nii.gz is damaged or no vol"),
    (lambda f: of(f, "seg").write_bytes(b""), "001_seg.nii.gz is damaged or no volume"),
    (lambda f: labelled(f, 3), r"001_seg.nii.gz holds 3, a mask .* 0 or 1, 2, 4"),
    (lambda f: labelled(f, 0.5), "holds 0.5, a mask"),
    (lambda f: labelled(f, 257), "holds 257, a mask"),
    (lambda f: labelled(f, float("nan")), "holds voxels that are no number"),
    (lambda f: nifti(of(f, "seg"), labels()[:3]), "001_seg.nii.gz is 3 × 6 × 5 voxels, .*_t1"),
    (lambda f: nifti(of(f, "t2"), slices("t2", "001")[:, 1:]), r"001_t2.nii.gz is 4 × 5 × 5 voxe"),
    (lambda f: nibabel.save(nibabel.Nifti1Image(np.zeros((5, 6, 4, 2)), np.eye(4)), of(f, "t1")),
     r"001_t1.nii.gz is float64 of shape \(2, 4, 6, 5\), not one volume"),
    (lambda f: table(f, {"001": "HGG", "002": "LGG"}), "does not tell the grade of .*_003"),
    (lambda f: table(f, GRADES | {"009": "LGG"}), "lacks BraTS20_Training_009, of which name_"),
    (lambda f: table(f, GRADES | {"001": "III"}), "001 is of grade 'III', which is none of"),
    (lambda f: table(f, GRADES | {"001": "Healthy"}), "001 is of grade 'Healthy'"),
    (lambda f: table(f, GRADES | {"001": ""}), "row 2: Grade is empty"),
    (lambda f: (f / "name_mapping.csv").unlink(), "cannot read .*name_mapping.csv"),
    (lambda f: (f / "name_mapping.csv").write_text("Grade,ID\nHGG,1\n"), "unknown column"),
])
def test_what_is_wrong_with_the_files_is_told_in_one_line(brats: Path, harm, says) -> None:
    harm(brats)
    with pytest.raises(HeatproofError, match=says) as error:
        data.load(card(), "test")
    assert "\n" not in str(error.value)
    assert str(brats) in str(error.value)


def test_what_is_wrong_with_the_card_is_told_in_one_line(brats: Path) -> None:
    for options, says in (
        ({"contrasts": ["*_t1.nii*"]}, "1 contrasts do not make 4 channels"),
        ({"scale": "slices"}, "did you mean 'slice'"),
        ({"labels": [0, 1000]}, "labels must be numbers from 1 to 255"),
        ({"healthy": "healthy"}, "did you mean 'Healthy'"),
        ({"contrast": []}, "did you mean 'contrasts'"),
    ):
        with pytest.raises(HeatproofError, match=says) as error:
            data.load(card(options=options), "test")
        assert "\n" not in str(error.value)
    with pytest.raises(HeatproofError, match=r"_t1\.nii\.gz is 6 × 5 pixels, .* says 9 × 9"):
        data.load(replace(card(), image=(4, 9, 9)), "test")
    name = "BraTS20_Training_001/BraTS20_Training_001_t2.nii.gz"
    with pytest.raises(HeatproofError, match=r"_t2\.nii\.gz has checksum .*not the original"):
        data.load(replace(card(), sha256={name: "0" * 64}), "test")


def metaimage(folder: Path, kind: str, upright: np.ndarray) -> Path:
    path = folder / f"VSD.Brain{kind}.54513" / f"VSD.Brain{kind}.54513.mha"
    path.parent.mkdir(parents=True)
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(upright), str(path), True)
    return path


@pytest.fixture
def older(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of BraTS 2015: a patient seen twice, and one name in both grades."""
    monkeypatch.setenv("HEATPROOF_DATA", str(tmp_path))
    folder = tmp_path / "BRATS2015_Training"
    for scan in ("HGG/brats_tcia_pat153_0002", "HGG/brats_tcia_pat153_0109",
                 "HGG/brats_2013_pat0001_1", "LGG/brats_2013_pat0001_1", "LGG/brats_tcia_pat99_1"):
        for name, told in zip(PEAK, ("T1", "T2", "T1c", "Flair"), strict=True):
            metaimage(folder / scan, f".XX.O.MR_{told}", slices(name, "7"))
        where = "XX" if "2013" in scan else "O"  # the masks' names differ in the original too
        metaimage(folder / scan, f"_3more.XX.{where}.OT", labels().clip(0, 3))
    return folder


def test_brats_2015_is_read_from_the_challenges_own_layout(older: Path) -> None:
    known = replace(data.card("brats2015"), image=SIZE, splits={"test": "0.0-1.0"})
    images = data.load(known, "test")
    stored = np.stack([slices(name, "7")[2] for name in ("t1", "t2", "t1ce", "flair")])
    assert images.key[1] == "HGG/brats_2013_pat0001_1/002"
    assert np.array_equal(images.x[1], (stored * (255 / 400) + 0.5).astype(np.uint8))
    assert np.array_equal(images.mask[1], labels()[2].clip(0, 3))
    assert [known.classes[y] for y in images.y] == ["Healthy", "HGG", "HGG"] * 3 + [
        "Healthy", "LGG", "LGG"] * 2
    assert set(images.group) == {"brats_2013_pat0001", "brats_tcia_pat153", "brats_tcia_pat99"}


@pytest.mark.parametrize("harm", [
    cut, lambda path: path.write_bytes(b""), lambda path: path.write_bytes(b"NDims = 3\n")])
def test_a_harmed_metaimage_is_told_in_one_line(older: Path, harm, capfd) -> None:
    path = next(older.glob("HGG/*/*MR_T1.*/*.mha"))
    harm(path)
    with pytest.raises(HeatproofError, match="is damaged or no volume; fetch it again") as error:
        data.load(replace(data.card("brats2015"), image=SIZE), "test")
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("library", ["nibabel", "SimpleITK"])
def test_a_library_that_is_not_installed_is_named(
    library: str, brats: Path, older: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(__import__("sys").modules, library, None)
    known = card() if library == "nibabel" else replace(data.card("brats2015"), image=SIZE)
    with pytest.raises(HeatproofError, match=rf"{library} is needed .* 'heatproof\[data\]'"):
        data.load(known, "test")
