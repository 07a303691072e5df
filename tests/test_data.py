"""Images: embedded, drawn, and from IDX files; what is wrong with them is told in one line."""

from __future__ import annotations

import gzip
import hashlib
import shutil
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bench import data, plugins, suite, testing
from bench.core import Card, HeatproofError
from bench.data.idx import read_idx
from bench.data.images import Batches, Images
from bench.data.planted import LESIONS, draw


def idx(array: np.ndarray, kind: int = 0x08) -> bytes:
    head = struct.pack(">BBBB", 0, 0, kind, array.ndim)
    return gzip.compress(head + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes(),
                         mtime=0)


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Card:
    """A card whose IDX files lie in HEATPROOF_DATA/small."""
    folder = tmp_path / "small"
    folder.mkdir()
    draws = np.random.default_rng(0)
    for stem, n in (("train", 20), ("t10k", 8)):
        images = draws.integers(0, 256, (n, 6, 6), np.uint8)
        (folder / f"{stem}-images.gz").write_bytes(idx(images))
        (folder / f"{stem}-labels.gz").write_bytes(idx((np.arange(n) % 4).astype(np.uint8)))
    monkeypatch.setenv("HEATPROOF_DATA", str(tmp_path))
    return Card(
        name="small", title="Small", source="idx", classes=("a", "b", "c", "d"), image=(1, 6, 6),
        mean=(0.5,), std=(0.25,), splits={"train": ["train-images.gz", "train-labels.gz"],
                                          "test": ["t10k-images.gz", "t10k-labels.gz"]})


@pytest.mark.parametrize("name", ["digits", "phantom"])
def test_an_embedded_card_keeps_the_contract(name: str) -> None:
    assert all(finding.ok for finding in testing.check_card(data.card(name)))


def test_the_phantom_is_the_same_bytes_on_every_machine() -> None:
    images = data.held("phantom", "test")
    assert hashlib.sha256(images.x[:50].tobytes()).hexdigest()[:16] == "ecc4ea3682cac5ca"
    assert images.mask is not None
    assert hashlib.sha256(images.mask[:50].tobytes()).hexdigest()[:16] == "e8e5d800b8be9dd9"


def test_digits_are_the_same_bytes_on_every_machine() -> None:
    images = data.held("digits", "test")
    assert hashlib.sha256(images.x.tobytes()).hexdigest()[:16] == "639a552303a1a5d2"


@pytest.mark.parametrize("lesion", LESIONS)
def test_the_phantoms_mask_is_exactly_what_the_lesion_changed(lesion: str) -> None:
    for number in range(8):
        with_it, change = draw(f"test/{number}", lesion, 64)
        without, nothing = draw(f"test/{number}", None, 64)
        assert not nothing.any()
        assert np.array_equal(with_it != without, (change != 0) & (with_it != without))
        inside = change != 0
        assert (with_it != without)[inside].mean() > 0.9
        assert 0.005 < inside.mean() < 0.1


def test_the_phantoms_classes_differ_in_nothing_but_the_lesion() -> None:
    same, _ = draw("one", "solid", 64)
    other, _ = draw("one", "ring", 64)
    _, where_same = draw("one", "solid", 64)
    _, where_other = draw("one", "ring", 64)
    outside = (where_same == 0) & (where_other == 0)
    assert np.array_equal(same[outside], other[outside])


def test_the_digits_mask_is_the_pen_stroke() -> None:
    images = data.held("digits", "test")
    assert images.mask is not None
    ink = images.x[:, 0]
    assert ink[images.mask == 1].min() >= 127
    assert ink[images.mask == 0].max() <= 128


def test_a_longer_subset_contains_the_shorter_and_balances_the_classes() -> None:
    images = data.held("digits", "test")
    order = images.order("x")
    assert sorted(order) == list(range(len(images)))
    assert np.array_equal(np.bincount(images.y[order[:40]]), np.full(10, 4))
    fewer = Images(images.x[:-9], images.y[:-9], images.key[:-9], mask=images.mask[:-9])
    kept = [fewer.key[i] for i in fewer.order("x")]
    assert [key for key in (images.key[i] for i in order) if key in set(kept)][:5] == kept[:5]


def test_batches_normalise_and_seed_each_sample_by_its_key(small: Card) -> None:
    images = data.load(small, "test")
    whole = Batches(images, small, seed=1).batch()
    assert whole.x.dtype == torch.float32
    row = images.key.index(whole.key[3])
    assert torch.allclose(whole.x[3] * 0.25 + 0.5, torch.tensor(images.x[row]).float() / 255)
    part = Batches(images, small, seed=1, samples=3).batch([2])
    assert part.seed[0] == whole.seed[2]
    assert Batches(images, small, seed=2).batch().seed[0] != whole.seed[0]
    assert [len(b) for b in Batches(images, small, seed=1).in_order(3)] == [3, 3, 2]


def test_a_shuffled_epoch_shows_every_image_at_most_once(small: Card) -> None:
    batches = Batches(data.load(small, "train"), small, seed=0, name="train")
    keys = [k for b in batches.shuffled(6, torch.Generator().manual_seed(1)) for k in b.key]
    assert len(keys) == 18 == len(set(keys))


def test_idx_files_are_read_as_they_were_written(small: Card, tmp_path: Path) -> None:
    images = data.load(small, "train")
    assert images.x.shape == (20, 1, 6, 6)
    assert images.key[3] == "train-00003"
    for kind, dtype in ((0x0B, ">i2"), (0x0D, ">f4"), (0x0E, ">f8")):
        array = np.arange(6, dtype=dtype).reshape(2, 3)
        (tmp_path / "x.gz").write_bytes(idx(array, kind))
        assert np.array_equal(read_idx(tmp_path / "x.gz"), array)


def packed(path: Path) -> bytes:
    return gzip.decompress(path.read_bytes())


@pytest.mark.parametrize(("harm", "says"), [
    (lambda p: p.unlink(), "cannot read"),
    (lambda p: p.write_bytes(p.read_bytes()[:-30]), "truncated"),
    (lambda p: p.write_bytes(gzip.compress(packed(p)[:-5])), "its header says"),
    (lambda p: p.write_bytes(b"no gzip at all"), "no gzip file"),
    (lambda p: p.write_bytes(gzip.compress(b"hello world")), "no IDX file"),
    (lambda p: p.write_bytes(b""), "no IDX file"),
    (lambda p: p.write_bytes(idx(np.zeros((20, 7, 7), np.uint8))), "7 × 7 pixels"),
    (lambda p: p.write_bytes(idx(np.zeros((19, 6, 6), np.uint8))), "as many images as labels"),
])
def test_a_harmed_image_file_is_told_in_one_line(small: Card, tmp_path: Path, harm, says) -> None:
    harm(tmp_path / "small" / "train-images.gz")
    with pytest.raises(HeatproofError, match=says) as error:
        data.load(small, "train")
    assert "\n" not in str(error.value)


def test_a_label_that_is_no_class_and_a_wrong_checksum_are_told(small: Card) -> None:
    with pytest.raises(HeatproofError, match="none of the card's 2 classes"):
        data.load(replace(small, classes=("a", "b")), "train")
    with pytest.raises(HeatproofError, match="not the original"):
        data.load(replace(small, sha256={"train-images.gz": "0" * 64}), "train")
    with pytest.raises(HeatproofError, match="unknown split"):
        data.load(small, "tset")


def test_a_mask_of_another_size_and_a_key_twice_are_told(small: Card) -> None:
    x, y = np.zeros((2, 1, 6, 6), np.uint8), np.zeros(2, np.int64)
    masked = replace(small, truth="pixels")
    with pytest.raises(HeatproofError, match="size of its image"):
        Images(x, y, ("a", "b"), mask=np.zeros((2, 5, 6), np.uint8)).check(masked, "train")
    with pytest.raises(HeatproofError, match="no mask was read"):
        Images(x, y, ("a", "b")).check(masked, "train")
    with pytest.raises(HeatproofError, match="same key"):
        Images(x, y, ("a", "a")).check(small, "train")


def test_without_a_folder_the_files_come_by_torchvision(
    small: Card, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path,
) -> None:
    import torchvision

    def download(root: Path, *, download: bool) -> None:
        assert download
        shutil.copytree(tmp_path / "small", Path(root) / "FashionMNIST" / "raw")

    monkeypatch.setenv("HEATPROOF_DATA", "")
    monkeypatch.setattr(torchvision.datasets, "FashionMNIST", download)
    card = replace(small, options={"torchvision": "FashionMNIST"})
    assert len(data.load(card, "train")) == 20
    assert len(data.load(card, "test")) == 8  # without a second download


def test_no_folder_and_no_network_is_one_line_with_the_cure(
    small: Card, monkeypatch: pytest.MonkeyPatch,
) -> None:
    import torchvision

    def offline(root: Path, *, download: bool) -> None:
        raise RuntimeError("Error downloading train-images-idx3-ubyte.gz\nmore")

    monkeypatch.setenv("HEATPROOF_DATA", "/nowhere")
    monkeypatch.setattr(torchvision.datasets, "MNIST", offline)
    card = replace(small, options={"torchvision": "MNIST"}, layout="Put the files there.")
    with pytest.raises(HeatproofError, match=r"/nowhere/small.*Put the files there") as error:
        data.load(card, "train")
    assert "\n" not in str(error.value)


def test_each_fold_has_ids_of_its_own_that_another_fold_does_not_change(small: Card) -> None:
    turned = {"train": small.splits["test"], "test": small.splits["train"]}
    two = replace(small, folds=(turned,))
    three = replace(small, folds=(turned, small.splits))
    assert two.fold(0).splits == small.splits
    assert two.fold(1).splits == turned
    assert small.fingerprint == two.fingerprint == two.fold(0).fingerprint
    assert two.fold(1).fingerprint == three.fold(1).fingerprint != two.fingerprint
    assert len(data.load(two.fold(1), "test")) == 20


def test_a_fold_that_is_not_there_or_lacks_a_split_is_told(small: Card) -> None:
    with pytest.raises(HeatproofError, match="has no fold 1; it has fold 0 alone"):
        small.fold(1)
    with pytest.raises(HeatproofError, match="has no fold -1; it has 3 folds, 0 to 2"):
        replace(small, folds=(small.splits,) * 2).fold(-1)
    with pytest.raises(HeatproofError, match="fold 1 lacks test"):
        replace(small, folds=({"train": 1},))
    with pytest.raises(HeatproofError, match="fold 1 must be a table of splits, not 3"):
        replace(small, folds=(3,))


def test_what_is_held_is_held_for_each_fold(
    small: Card, monkeypatch: pytest.MonkeyPatch,
) -> None:
    turned = {"train": small.splits["test"], "test": small.splits["train"]}
    monkeypatch.setattr(data, "card", lambda name: replace(small, folds=(turned,)))
    assert [len(data.held("own", "test", fold)) for fold in (0, 1)] == [8, 20]
    assert data.held("own", "test", 1) is data.held("own", "test", 1)


def test_a_card_with_groups_wants_one_for_every_image(small: Card) -> None:
    grouped, x, y = replace(small, group="patient"), np.zeros((2, 1, 6, 6), np.uint8), np.arange(2)
    Images(x, y, ("a", "b"), group=("ann", "ann")).check(grouped, "train")
    for group in ((), ("ann", "")):
        with pytest.raises(HeatproofError, match="groups images by patient"):
            Images(x, y, ("a", "b"), group=group).check(grouped, "train")


def test_every_card_can_be_planned_with(tiny: Path) -> None:
    text = tiny.read_text()
    for name in data.cards():
        card = data.card(name)
        told = text.replace("[dataset.digits", f"[dataset.{name}")
        if "train" not in card.splits:
            told = told.replace("epochs = 2", "epochs = 0")
        tiny.write_text(told)
        found = suite.read(str(tiny))
        assert {run.dataset for run in found.runs} == {name}
        assert found.plan()["datasets"][name]["classes"]


def test_every_card_says_what_it_is_and_where_to_get_it() -> None:
    for name in data.cards():
        card = data.card(name)
        assert card.source in plugins.sources, name
        for fact in ("title", "task", "citation", "layout"):
            assert getattr(card, fact), (name, fact)


def test_the_official_lists_count_every_class() -> None:
    for name in ("kaggle-dr", "kaggle-dr-binary", "kermany-oct", "kermany-oct-binary",
                 "rsna-pneumonia"):
        card = data.card(name)
        for split in card.splits.values():
            assert len(split["images"]) == len(card.classes), name
            if card.source == "folder":
                assert split["list"] in card.sha256, name
    fine, binary = data.card("kaggle-dr"), data.card("kaggle-dr-binary")
    for split, told in fine.splits.items():
        healthy, *ill = told["images"]
        assert binary.splits[split]["images"] == [healthy, sum(ill)]
    assert len(set(data.card("cub-200-2011").classes)) == 200


def test_an_unknown_data_set_is_answered_with_the_nearest() -> None:
    with pytest.raises(HeatproofError, match="did you mean 'fashion-mnist'"):
        data.card("fashion_mnist")


@pytest.mark.data
@pytest.mark.parametrize("name", ["fashion-mnist", "mnist"])
def test_the_original_files_keep_the_contract(name: str, real_data: Path) -> None:
    findings = testing.check_card(data.card(name))
    assert all(finding.ok for finding in findings), findings
    assert [len(data.held(name, split)) for split in ("train", "test")] == [60_000, 10_000]
