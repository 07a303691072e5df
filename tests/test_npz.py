"""MedMNIST's npz files: what is read, what leaks, and what is wrong told in one line."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import data, testing
from bench.core import Card, HeatproofError

SIZE = (6, 5)
COUNTS = {"train": 8, "val": 4, "test": 4}
Arrays = dict[str, np.ndarray]


def arrays(shape: tuple[int, ...] = SIZE) -> Arrays:
    draws, found = np.random.default_rng(1), {}
    for part, n in COUNTS.items():
        found[f"{part}_images"] = draws.integers(0, 256, (n, *shape), np.uint8)
        found[f"{part}_labels"] = (np.arange(n) % 2).astype(np.uint8)[:, None]
    return found


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """HEATPROOF_DATA/pneumoniamnist/pneumoniamnist.npz as published, but tiny."""
    monkeypatch.setenv("HEATPROOF_DATA", str(tmp_path))
    path = tmp_path / "pneumoniamnist" / "pneumoniamnist.npz"
    path.parent.mkdir()
    np.savez_compressed(path, **arrays())
    return path


def card(**more: Any) -> Card:
    return replace(data.card("pneumoniamnist"), **{"image": (1, *SIZE), **more})


def test_images_labels_and_splits_are_the_publishers(path: Path) -> None:
    wanted = arrays()
    for split, part in (("train", "train"), ("validation", "val"), ("test", "test")):
        images = data.load(card(), split)
        assert images.key == tuple(f"{part}-{n:05d}" for n in range(COUNTS[part]))
        assert np.array_equal(images.x[:, 0], wanted[f"{part}_images"])
        assert np.array_equal(images.y, wanted[f"{part}_labels"][:, 0])
        assert images.mask is None


def test_colour_images_have_their_channels_first(path: Path) -> None:
    np.savez(path, **arrays((*SIZE, 3)))
    images = data.load(card(image=(3, *SIZE), mean=(0.5,) * 3, std=(0.5,) * 3), "test")
    assert np.array_equal(images.x, arrays((*SIZE, 3))["test_images"].transpose(0, 3, 1, 2))


def test_a_larger_size_is_another_file_of_the_card(path: Path) -> None:
    np.savez(path.with_name("pneumoniamnist_64.npz"), **arrays((8, 8)))
    larger = card(options={"file": "pneumoniamnist_64.npz"})
    assert data.load(replace(larger, image=(1, 8, 8)), "test").x.shape == (4, 1, 8, 8)
    with pytest.raises(HeatproofError, match="is 8 × 8 pixels, card pneumoniamnist says 6 × 5"):
        data.load(larger, "test")


def test_what_leaks_is_left_out_of_what_is_trained_on(path: Path) -> None:
    found = arrays()
    found["train_images"][[2, 5]] = found["val_images"][1]
    found["train_images"][3] = found["test_images"][0]
    found["train_images"][7] = found["train_images"][6]  # a repeat within a split is no leak
    found["val_images"][0] = found["test_images"][2]
    np.savez(path, **found)
    assert len(data.load(card(), "train")) == 8
    clean = card(options={"file": path.name, "drop_leaks": True})
    keys = {split: data.load(clean, split).key for split in clean.splits}
    assert keys["train"] == tuple(f"train-{n:05d}" for n in (0, 1, 4, 6, 7))
    assert keys["validation"] == tuple(f"val-{n:05d}" for n in (1, 2, 3))
    assert len(keys["test"]) == 4
    assert np.array_equal(data.load(clean, "train").x[2, 0], found["train_images"][4])


def changed(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    def harm(path: Path) -> None:
        found = arrays()
        found[name] = change(found[name])
        np.savez(path, **found)
    return harm


def without(name: str) -> Callable[[Path], None]:
    def harm(path: Path) -> None:
        np.savez(path, **{key: array for key, array in arrays().items() if key != name})
    return harm


def altered(path: Path) -> None:
    """One byte of the packed training images, which the zip's own checksum then contradicts."""
    with zipfile.ZipFile(path) as file:
        start = file.getinfo("train_images.npy").header_offset
    packed = bytearray(path.read_bytes())
    packed[start + 200] ^= 255
    path.write_bytes(bytes(packed))


@pytest.mark.parametrize(("harm", "says"), [
    (lambda p: p.unlink(), "cannot read .*pneumoniamnist.npz"),
    (lambda p: p.write_bytes(p.read_bytes()[:-90]), "truncated or no npz file"),
    (lambda p: p.write_bytes(b""), "truncated or no npz file"),
    (lambda p: p.write_bytes(b"no zip at all"), "truncated or no npz file"),
    (lambda p: np.save(p.open("wb"), np.zeros(3)), "truncated or no npz file"),
    (altered, "train_images is damaged"),
    (without("val_labels"), "has no val_labels, only train_images"),
    (without("test_images"), "has no test_images"),
    (changed("train_images", lambda a: a.astype(np.float32)), "train_images are float32"),
    (changed("train_images", lambda a: a[:-1]), "train has 7 images and 8 labels"),
    (changed("train_images", lambda a: a[0]), r"of shape \(6, 5\), not \(N, H, W\)"),
    (changed("train_images", lambda a: a[..., None].repeat(7, 3)), "are volumes"),
    (changed("train_labels", lambda a: a.repeat(14, 1)), r"are 14 an image \(multi-label\)"),
    (changed("train_labels", lambda a: a + 0.5), "not one whole number an image"),
    (changed("train_labels", lambda a: a + 1), "label 2 is none of the card's 2 classes"),
    (changed("train_labels", lambda a: a.astype(object)), "is damaged .*pickle|Object arrays"),
])
def test_a_harmed_file_is_told_in_one_line(
    path: Path, harm: Callable[[Path], object], says: str,
) -> None:
    harm(path)
    with pytest.raises(HeatproofError, match=says) as error:
        data.load(card(), "train")
    assert "\n" not in str(error.value)


def test_an_altered_file_and_a_missing_folder_are_told(
    path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(HeatproofError, match="not the original"):
        data.load(card(sha256={path.name: "0" * 64}), "train")
    with pytest.raises(HeatproofError, match="did you mean 'file'"):
        data.load(card(options={"fil": path.name}), "train")
    monkeypatch.setenv("HEATPROOF_DATA", "/nowhere")
    with pytest.raises(HeatproofError, match=r"Put pneumoniamnist\.npz from"):
        data.load(card(), "train")


@pytest.mark.data
def test_on_the_real_file_no_picture_is_in_two_splits(real_data: Path) -> None:
    real = data.card("chest-xray-pneumoniamnist")
    assert all(finding.ok for finding in testing.check_card(real))
    counts = {split: np.bincount(data.load(real, split).y).tolist() for split in real.splits}
    assert counts == {"train": [1214, 3484], "validation": [135, 389], "test": [234, 390]}


@pytest.mark.data
def test_the_official_card_owns_to_the_leaks_of_the_publishers_splits(real_data: Path) -> None:
    official = data.card("pneumoniamnist")
    own = data.card("chest-xray-pneumoniamnist")
    same = replace(official, path=own.name, sha256=own.sha256,
                   options={"file": own.options["file"]})
    train, validation, test = (
        {image.tobytes() for image in data.load(same, split).x} for split in same.splits)
    assert len(train & validation) + len((train | validation) & test) == official.leaks
