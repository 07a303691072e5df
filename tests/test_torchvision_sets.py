"""Sets that torchvision reads: Oxford-IIIT Pet as published, and what torchvision refuses."""

from __future__ import annotations

import dataclasses
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torchvision
from PIL import Image

from bench import data
from bench.core import Card, HeatproofError

PETS = {"Abyssinian_1": (1, 1), "american_bulldog_10": (2, 2), "Abyssinian_2": (1, 1),
        "american_bulldog_11": (2, 2)}
LISTS = {"trainval": ["Abyssinian_1", "american_bulldog_10"],
         "test": ["american_bulldog_11", "Abyssinian_2"]}
TRIMAP = np.array([[1, 1, 3, 2, 2, 2]] * 5, np.uint8)
INNER = "oxford-iiit-pet"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four pets, 5 high and 6 wide, in the folders of the two published archives."""
    folder = tmp_path / "data" / INNER / INNER
    (folder / "images").mkdir(parents=True)
    (folder / "annotations" / "trimaps").mkdir(parents=True)
    for seed, name in enumerate(PETS):
        pixels = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{name}.jpg", quality=95)
        Image.fromarray(TRIMAP).save(folder / "annotations" / "trimaps" / f"{name}.png")
    for name, pets in LISTS.items():
        lines = [f"{pet} {PETS[pet][0]} {PETS[pet][1]} 1\n" for pet in pets]
        (folder / "annotations" / f"{name}.txt").write_text("".join(lines))
    monkeypatch.setenv("HEATPROOF_DATA", str(tmp_path / "data"))
    return tmp_path / "data" / INNER


def tiny(name: str = "oxford-iiit-pet", **changes: object) -> Card:
    """The card for images of 6 × 5, and two breeds."""
    found = data.card(name)
    classes = found.classes if name.endswith("species") else found.classes[:2]
    facts: dict[str, object] = {"image": (3, 5, 6), "fit": "", "resize": 0, "classes": classes}
    return dataclasses.replace(found, **facts | changes)


def test_pets_are_read_with_their_breeds_trimaps_and_official_lists(root: Path) -> None:
    train, test = (data.load(tiny(), split) for split in ("train", "test"))
    assert train.key == (f"{INNER}/images/Abyssinian_1", f"{INNER}/images/american_bulldog_10")
    assert (train.y.tolist(), test.y.tolist()) == ([0, 1], [1, 0])
    stored = np.asarray(Image.open(root / INNER / "images" / "american_bulldog_11.jpg"))
    assert np.array_equal(test.x[0], stored.transpose(2, 0, 1))


def test_a_trimap_is_animal_background_and_a_border_to_ignore(root: Path) -> None:
    mask = data.load(tiny(), "test").mask
    assert np.array_equal(mask, [[[1, 1, 255, 0, 0, 0]] * 5] * 2)


def test_a_second_card_tells_the_species_of_the_same_images(root: Path) -> None:
    train = data.load(tiny("oxford-iiit-pet-species"), "train")
    assert data.card("oxford-iiit-pet-species").classes == ("Cat", "Dog")
    assert train.y.tolist() == [0, 1]
    assert np.array_equal(train.x, data.load(tiny(), "train").x)


def test_the_breeds_are_named_as_torchvision_names_them() -> None:
    classes = data.card("oxford-iiit-pet").classes
    assert len(set(classes)) == 37
    assert all(name == name.title() for name in classes)
    assert list(classes) == sorted(classes)


def test_a_gif_that_calls_itself_jpg_is_read_as_torchvision_reads_it(root: Path) -> None:
    path = root / INNER / "images" / "Abyssinian_1.jpg"
    Image.fromarray(np.full((5, 6), 7, np.uint8)).save(path, format="GIF")
    assert (data.load(tiny(), "train").x[0] == 7).all()


def test_a_changed_photograph_is_decoded_again(root: Path) -> None:
    before = data.load(tiny(), "train").x.copy()
    Image.fromarray(np.zeros((5, 6, 3), np.uint8)).save(root / INNER / "images/Abyssinian_1.jpg")
    after = data.load(tiny(), "train").x
    assert not after[0].any()
    assert np.array_equal(after[1], before[1])


def write_cifar(root: Path) -> np.ndarray:
    """CIFAR-10's python archive with two images a batch."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3072), np.uint8)
    for name in (*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"):
        (folder / name).write_bytes(pickle.dumps({"data": pixels, "labels": [3, 1]}))
    names = ["airplane", "automobile", "bird", "cat"]
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": names}))
    return pixels.reshape(2, 3, 32, 32)


def cifar() -> Card:
    return Card(
        name="cifar", title="CIFAR", source="torchvision", image=(3, 32, 32), mean=(0.5,) * 3,
        std=(0.25,) * 3, classes=("airplane", "automobile", "bird", "cat"),
        splits={"train": {"train": True}, "test": {"train": False}},
        options={"dataset": "CIFAR10"}, layout="Put the batches there.")


def test_images_that_lie_in_arrays_have_numbers_for_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HEATPROOF_DATA", str(tmp_path))
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "_check_integrity", lambda _: True)
    monkeypatch.setattr(torchvision.datasets.cifar, "check_integrity", lambda *_: True)
    pixels = write_cifar(tmp_path / "cifar")
    test = data.load(cifar(), "test")
    assert np.array_equal(test.x, pixels)
    assert test.y.tolist() == [3, 1]
    assert test.key == ("test-000000", "test-000001")
    assert len(data.load(cifar(), "train")) == 10


def test_without_a_folder_torchvision_downloads_once_into_the_cache(
    root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    downloads: list[Path] = []

    def download(pets: torchvision.datasets.OxfordIIITPet) -> None:
        downloads.append(Path(pets.root))
        shutil.copytree(root / INNER, pets._base_folder, dirs_exist_ok=True)

    monkeypatch.setenv("HEATPROOF_DATA", "")
    monkeypatch.setattr(torchvision.datasets.OxfordIIITPet, "_download", download)
    assert len(data.load(tiny(), "train")) == len(data.load(tiny(), "test")) == 2
    assert downloads == [cache / "data" / "OxfordIIITPet"]


def test_no_folder_and_no_network_is_one_line_with_the_cure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    def offline(_: object) -> None:
        raise OSError("no route to host\nmore")

    monkeypatch.setenv("HEATPROOF_DATA", str(tmp_path))
    monkeypatch.setattr(torchvision.datasets.OxfordIIITPet, "_download", offline)
    with pytest.raises(HeatproofError, match=r"could not download it \(no route.*Unpack") as error:
        data.load(tiny(), "train")
    assert "\n" not in str(error.value)


HARM: dict[str, tuple[Callable[[Path], object], str]] = {
    "no archives": (lambda p: shutil.rmtree(p / "images"), "Dataset not found.*Unpack images"),
    "no list": (lambda p: (p / "annotations/test.txt").unlink(), "cannot read OxfordIIITPet"),
    "truncated list": (lambda p: (p / "annotations/test.txt").write_text("Abyssinian_2 1\n"),
                       "cannot read OxfordIIITPet there .not enough values"),
    "empty list": (lambda p: (p / "annotations/test.txt").write_text(""), "are not the card's"),
    "other breeds": (lambda p: (p / "annotations/test.txt").write_text("größe_1 1 1 1\n"),
                     "Größe, …; correct the card"),
    "twice in a list": (
        lambda p: (p / "annotations/trainval.txt").write_text(
            (p / "annotations/test.txt").read_text()), "lies in split train and in split test"),
    "no photograph": (lambda p: (p / "images/Abyssinian_2.jpg").unlink(),
                      "Abyssinian_2.jpg cannot be read .*No such file"),
    "truncated photograph": (
        lambda p: (p / "images/Abyssinian_2.jpg").write_bytes(b"\xff\xd8\xff"),
        "Abyssinian_2.jpg cannot be read .*cannot identify"),
    "no trimap": (lambda p: (p / "annotations/trimaps/Abyssinian_2.png").unlink(),
                  "cannot read .*Abyssinian_2.png"),
    "other trimap": (
        lambda p: Image.fromarray(TRIMAP + 1).save(p / "annotations/trimaps/Abyssinian_2.png"),
        "Abyssinian_2.png holds 4, which options.values"),
    "trimap of another size": (
        lambda p: Image.fromarray(TRIMAP.T).save(p / "annotations/trimaps/Abyssinian_2.png"),
        "must have the size of its image"),
}


@pytest.mark.parametrize("harm", HARM)
def test_what_is_wrong_is_told_in_one_line(root: Path, harm: str) -> None:
    break_it, says = HARM[harm]
    break_it(root / INNER)
    with pytest.raises(HeatproofError, match=says) as error:
        data.load(tiny(), "test")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("options", "says"), [
    ({"dataset": "OxfordPet"}, "did you mean 'OxfordIIITPet'"),
    ({"dataset": "OxfordIIITPet", "label": "_labels"}, "unknown key"),
    ({"dataset": "OxfordIIITPet", "labels": "breeds"}, "tells no breeds of OxfordIIITPet without"),
    ({"dataset": "OxfordIIITPet", "labels": "classes"}, "names no class numbers"),
    ({"dataset": "OxfordIIITPet", "masks": "breeds"}, "tells no breeds of OxfordIIITPet without"),
    ({"dataset": "OxfordIIITPet", "values": {"one": 1}}, "not 'one' to 1"),
])
def test_options_that_cannot_be_are_told(root: Path, options: dict, says: str) -> None:
    with pytest.raises(HeatproofError, match=says):
        data.load(tiny(options=options), "test")


@pytest.mark.parametrize(("part", "says"), [
    ("test", "must be a table of arguments"), ({"split": "tset"}, "Unknown value 'tset'"),
    ({"fold": 1}, "unexpected keyword argument 'fold'")])
def test_arguments_that_cannot_be_are_told(root: Path, part: object, says: str) -> None:
    with pytest.raises(HeatproofError, match=says):
        data.load(tiny(splits={"test": part}), "test")
