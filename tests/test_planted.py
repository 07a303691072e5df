"""Planted sets: what decides the class is known, and flipping it, and it alone, is exact."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest

from bench import data
from bench.core import Card, HeatproofError
from bench.data.anatomy import Draws, Slice
from bench.data.images import Images
from bench.data.planted import ENOUGH, LESIONS, MARKS, lesion_in

SETS = {
    "phantom": {"region", "elsewhere"},
    "planted-shortcut": {"region", "distractor", "elsewhere"},
    "planted-distractor": {"region", "distractor", "elsewhere"},
    "planted-suppressor": {"region", "suppressor", "elsewhere"},
    "planted-lesion": {"region", "elsewhere"},
}
N = 18


def card(name: str, n: int = N) -> Card:
    """A planted card with few test images."""
    known = data.card(name)
    return replace(known, splits={"train": known.splits["train"], "test": [100000, n]})


def shown(name: str) -> Images:
    return data.load(card(name), "test")


def changed(images: Images, flip: str) -> np.ndarray:
    """Where (N, H, W) a flip changed a pixel."""
    return (images.flips[flip] != images.x)[:, 0]


def masks(images: Images) -> np.ndarray:
    assert images.mask is not None
    return images.mask == 1


@pytest.mark.parametrize("name", SETS)
def test_the_classes_of_every_split_are_balanced_and_no_number_is_in_two(name: str) -> None:
    known = data.card(name)
    catalogue = data.catalogue(known)
    assert set(catalogue.flips) == SETS[name]
    assert set(catalogue.rows) == {"train", "validation", "test"}
    for rows in catalogue.rows.values():
        counts = np.bincount([catalogue.label[row] for row in rows])
        assert len(counts) == len(known.classes)
        assert counts.min() == counts.max()
    assert len(set(catalogue.key)) == len(catalogue) == sum(n for _, n in known.splits.values())


@pytest.mark.parametrize("name", SETS)
def test_each_flip_changes_its_own_pixels_alone(name: str) -> None:
    images = shown(name)
    where = {flip: changed(images, flip) for flip in images.flips}
    for flip, pixels in where.items():
        assert pixels.any((1, 2)).all(), flip
        assert pixels.mean() < 0.1, flip
        for other in set(where) - {flip}:
            assert not (pixels & where[other]).any(), (flip, other)
        if flip != "region":
            assert not (pixels & masks(images)).any(), flip


@pytest.mark.parametrize("name", SETS)
def test_flipping_elsewhere_changes_about_as_much_as_flipping_the_region(name: str) -> None:
    images = shown(name)

    def energy(flip: str) -> float:
        return float(((images.flips[flip].astype(float) - images.x) ** 2).sum())

    assert changed(images, "elsewhere").mean((1, 2)).min() >= ENOUGH
    assert 1 / 4 < energy("elsewhere") / energy("region") < 4


@pytest.mark.parametrize(("name", "stream"), [
    ("phantom", "phantom"), ("planted-distractor", "planted")])
def test_the_flipped_region_is_the_lesion_of_the_next_class_on_the_same_slice(
    name: str, stream: str,
) -> None:
    images = shown(name)
    for row, key in enumerate(images.key):
        head = Slice(Draws(stream, f"1/{key}"), 64)
        lesion = lesion_in(head, LESIONS[(images.y[row] + 1) % len(LESIONS)])
        expected = (head.taken(head.tissue + lesion) * 255 + 0.5).astype(np.uint8)
        place = (lesion != 0) | masks(images)[row]
        assert np.array_equal(images.flips["region"][row, 0][place], expected[place])
        assert not (changed(images, "region")[row] & ~place).any()


def test_a_lesion_is_added_to_a_healthy_slice_and_removed_from_another() -> None:
    images, size = shown("planted-lesion"), 64
    healthy = images.y == 0
    assert not masks(images)[healthy].any()
    assert masks(images)[~healthy].any((1, 2)).all()
    # Without its lesion a slice is what the same anatomy gives by itself.
    for row in range(len(images)):
        head = Slice(Draws("planted", f"1/{images.key[row]}"), size)
        bare = (head.taken(head.tissue) * 255 + 0.5).astype(np.uint8)
        without = images.x if healthy[row] else images.flips["region"]
        assert np.array_equal(without[row, 0], bare)
    assert changed(images, "region").sum((1, 2)).min() > 30


def test_shortcut_and_distractor_are_the_same_images_under_other_labels() -> None:
    shortcut, distractor = shown("planted-shortcut"), shown("planted-distractor")
    assert np.array_equal(shortcut.x, distractor.x)
    assert shortcut.key == distractor.key
    assert np.array_equal(shortcut.flips["region"], distractor.flips["distractor"])
    assert np.array_equal(shortcut.flips["distractor"], distractor.flips["region"])
    assert not (masks(shortcut) & masks(distractor)).any()
    # Every form of a mark lies on the plate that is its mask.
    assert not (changed(shortcut, "region") & ~masks(shortcut)).any()
    pairs = np.bincount(shortcut.y * len(LESIONS) + distractor.y)
    assert (pairs == N // (len(MARKS) * len(LESIONS))).all()


def test_the_suppressor_tells_nothing_of_the_class_and_much_of_what_disturbs_it() -> None:
    images = data.load(card("planted-suppressor", 120), "test")
    both = (masks(images), changed(images, "suppressor"))
    lesion, tube = (np.array([np.median(x[0][where]) for x, where in zip(
        images.x, pixels, strict=True)]) for pixels in both)
    assert abs(np.corrcoef(tube, images.y)[0, 1]) < 0.15
    for label in (0, 1):
        assert np.corrcoef(tube[images.y == label], lesion[images.y == label])[0, 1] > 0.7
    # To know it helps: what is left of the class, once both are known, is less.
    left = {}
    for name, known in (("lesion", [lesion]), ("both", [lesion, tube])):
        table = np.stack([*known, np.ones(len(images))], 1)
        weight, rest, _, _ = np.linalg.lstsq(table, images.y.astype(float), rcond=None)
        left[name] = rest[0]
    assert left["both"] < 0.7 * left["lesion"]
    assert weight[1] < 0 < weight[0]


def test_the_suppressors_flip_leaves_the_lesion_and_its_own_place_as_they_are() -> None:
    images = shown("planted-suppressor")
    tube = images.flips["suppressor"].astype(int) - images.x
    assert (np.abs(tube).max((1, 2, 3)) > 10).all()
    for difference in tube:  # brighter everywhere, or darker everywhere: it did not move
        assert (difference >= 0).all() or (difference <= 0).all()
    assert np.array_equal(changed(images, "region") | masks(images), masks(images))


BYTES = {
    "planted-shortcut": "98450337d6a03926",
    "planted-distractor": "818da9713ba68c4b",
    "planted-suppressor": "0b250c56a803b641",
    "planted-lesion": "d50ca27a272d9f95",
}


@pytest.mark.parametrize("name", BYTES)
def test_planted_sets_are_the_same_bytes_on_every_machine(name: str) -> None:
    images = shown(name)
    found = hashlib.sha256(images.x.tobytes() + masks(images).tobytes())
    for flip in sorted(images.flips):
        found.update(images.flips[flip].tobytes())
    assert found.hexdigest()[:16] == BYTES[name]


@pytest.mark.parametrize(("wrong", "line"), [
    ({"classes": ("ring", "plus", "bars")}, "needs classes"),
    ({"image": (1, 64, 32)}, r"image \[1, n, n\]"),
    ({"image": (3, 64, 64), "mean": (0.5,) * 3, "std": (0.5,) * 3}, r"image \[1, n, n\]"),
    ({"splits": {"test": "0.0-0.5"}}, r"split test must be \[first number, how many\]"),
    ({"splits": {"test": [5]}}, r"must be \[first number, how many\], not \[5\]"),
    ({"splits": {"test": [0, True]}}, "must be"),
    ({"splits": {"test": [0, -1]}}, "must be"),
    ({"splits": {"test": [0, 0]}}, "split test has no image"),
    ({"splits": {"test": [0, 9], "train": [8, 9]}}, "image 000008 lies in split"),
    ({"options": {"sead": 1}}, "did you mean 'seed'"),
    ({"options": {"seed": "1"}}, "seed must be of type int"),
])
def test_a_card_that_asks_for_something_else_is_told_so_in_one_line(
    wrong: dict, line: str,
) -> None:
    with pytest.raises(HeatproofError, match=line) as told:
        data.load(replace(data.card("planted-shortcut"), **wrong), "test")
    assert "\n" not in str(told.value)
