"""`heatproof data draft`: a folder of one's own, drafted, is a set that can be read and checked."""

from __future__ import annotations

import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from bench import cli, data
from bench.core import Card, HeatproofError, filled
from bench.data import audit
from bench.data.draft import draft, write
from bench.data.images import Array

PATIENTS = [f"p{n:02d}" for n in range(30)]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """HEATPROOF_DATA/own, which is empty."""
    monkeypatch.setenv("HEATPROOF_DATA", str(tmp_path))
    (tmp_path / "own").mkdir()
    return tmp_path / "own"


def pixels(seed: int, shape: tuple[int, ...] = (6, 5)) -> Array:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def save(path: Path, array: Array, mode: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(path)


def drafted(home: Path) -> Card:
    """The card as it is read back from the text that was drafted."""
    text = draft(home).text
    assert "TODO" in text
    return filled(Card, tomllib.loads(text), "card")


def failed(card: Card) -> list[str]:
    return [check.found for check in audit.check(card) if not check.ok]


def test_class_folders_of_grey_images_are_split_by_shares(home: Path) -> None:
    for n in range(60):
        save(home / ("Löwe" if n % 2 else "ape") / f"{n}.png", pixels(n))
    card = drafted(home)
    assert card.classes == ("Löwe", "ape")
    assert (card.name, card.image, card.fit, card.truth) == ("own", (1, 6, 5), "", "none")
    assert card.splits == {"train": "0.00-0.70", "validation": "0.70-0.85", "test": "0.85-1.00"}
    assert (card.title, card.licence, card.citation, card.group, card.path) == ("",) * 5
    assert failed(card) == []
    parts = {split: data.load(card, split) for split in card.splits}
    assert sum(len(images) for images in parts.values()) == 60
    assert np.allclose(parts["train"].x.mean() / 255, card.mean, atol=1e-3)
    assert np.allclose(parts["train"].x.std() / 255, card.std, atol=1e-3)


def test_images_of_several_sizes_in_colour_get_the_commonest_size_and_a_crop(home: Path) -> None:
    for n in range(60):
        size = (9, 7) if n < 5 else (6, 5)
        save(home / "images" / "ab"[n % 2] / f"{n}.png", pixels(n, (*size, 3)))
    card = drafted(home)
    assert (card.image, card.fit) == ((3, 6, 5), "crop")
    assert len(card.mean) == len(card.std) == 3
    assert failed(card) == []


def table(home: Path, head: str, lines: list[str]) -> None:
    (home / "metadata.csv").write_text("\n".join([head, *lines]) + "\n", encoding="utf-8")


def test_masks_and_a_table_with_patients_are_recognised(home: Path) -> None:
    lines = []
    for n, patient in enumerate(PATIENTS * 2):
        name = f"{n}.png"
        save(home / "images" / name, pixels(n))
        mask = np.zeros((6, 5), np.uint8)
        mask[2:4, 1:3] = 255
        save(home / "masks" / name, mask)
        lines.append(f"{name},{patient},{n // 30}")
    table(home, "filename,patient_id,label", lines)
    card = drafted(home)
    assert (card.truth, card.group, card.classes) == ("pixels", "patient_id", ("0", "1"))
    assert card.options["values"] == {"255": 1}
    assert failed(card) == []
    images = data.load(card, "test")
    assert images.mask is not None
    assert set(np.unique(images.mask)) == {0, 1}
    assert set(images.group) < set(PATIENTS)


def test_few_patients_are_listed_so_that_every_split_has_one(home: Path) -> None:
    lines = []
    for n in range(16):
        save(home / "images" / "ab"[n // 4 % 2] / f"{n}.png", pixels(n))
        lines.append(f"{'ab'[n // 4 % 2]}/{n}.png,{('ann', 'bob', 'cyd', 'dan')[n % 4]}")
    table(home, "file,patient", lines)
    card = drafted(home)
    listed = [unit for units in card.splits.values() for unit in units]
    assert sorted(listed) == ["ann", "bob", "cyd", "dan"]
    assert [len(units) for units in card.splits.values()] == [2, 1, 1]
    assert failed(card) == []


def test_boxes_and_the_split_of_a_table_are_recognised(home: Path) -> None:
    lines = []
    for n, split in enumerate(["Train", "Train", "val", "test"] * 2):
        save(home / "images" / "ab"[n // 4] / f"{n}.png", pixels(n))
        lines.append(f"{'ab'[n // 4]}/{n}.png,{split},1,2,4,5")
    table(home, "file,split,xmin,ymin,xmax,ymax", lines)
    card = drafted(home)
    assert card.truth == "boxes"
    assert card.options["corners"] == ["xmin", "ymin", "xmax", "ymax"]
    assert card.splits == {"train": "Train", "validation": "val", "test": "test"}
    assert failed(card) == []
    mask = data.load(card, "test").mask
    assert mask is not None
    assert np.argwhere(mask[0]).tolist() == [[y, x] for y in (2, 3, 4) for x in (1, 2, 3)]


def test_folders_of_splits_and_folders_of_channels_are_told_apart(home: Path) -> None:
    for n in range(8):
        save(home / ("train", "test")[n // 4] / "ab"[n % 2] / f"{n}.png", pixels(n))
    card = drafted(home)
    assert card.splits == {"train": "train", "test": "test"}
    assert card.options["images"] == ["."]
    assert failed(card) == []
    two = home.parent / "two"
    for n in range(60):
        for folder in ("flair", "t1c"):
            save(two / folder / "ab"[n % 2] / f"{n}.png", pixels(n + 100 * (folder == "t1c")))
    card = drafted(two)
    assert card.image == (2, 6, 5)
    assert card.options["images"] == ["flair", "t1c"]
    assert failed(card) == []


def test_too_few_images_for_shares_are_told_on_the_card(home: Path) -> None:
    for n in range(2):
        save(home / "ab"[n] / f"{n}.png", pixels(n))
    assert draft(home).text.startswith("# TODO own: split ")


def test_what_cannot_be_made_out_is_one_line_with_the_cure(home: Path) -> None:
    with pytest.raises(HeatproofError, match="there is no folder nowhere"):
        draft(Path("nowhere"))
    with pytest.raises(HeatproofError, match=r"no folder with images .* put them into .*CLASS/"):
        draft(home)
    save(home / "a" / "0.png", pixels(0))
    save(home / "masks" / "a" / "0.png", pixels(0))
    with pytest.raises(HeatproofError, match=r"put those folders into .*/images/"):
        draft(home)
    (home / "a").rename(home / "images")
    (home / "images" / "a").mkdir()
    (home / "images" / "0.png").rename(home / "images" / "a" / "0.png")
    table(home, "name,label", ["x,y"])
    with pytest.raises(HeatproofError, match="has no column of files"):
        draft(home)
    (home / "metadata.csv").unlink()
    (home / "images" / "a" / "0.png").write_bytes(b"no image")
    with pytest.raises(HeatproofError, match=r"a/0\.png"):
        draft(home)


def test_a_card_is_written_once_and_never_over_another(home: Path) -> None:
    for n in range(60):
        save(home / "ab"[n % 2] / f"{n}.png", pixels(n))
    other = draft(home, name="other")
    assert (other.card.name, other.card.path) == ("other", "own")
    with pytest.raises(HeatproofError, match="must be named own, as its folder is"):
        write(home, other)
    run = CliRunner().invoke
    done = run(cli.app, ["data", "draft", str(home)])
    assert done.exit_code == 0, done.output
    assert done.stdout == draft(home).text
    assert not (home / "card.toml").exists()
    assert run(cli.app, ["data", "draft", str(home), "--write"]).exit_code == 0
    text = (home / "card.toml").read_text(encoding="utf-8")
    again = run(cli.app, ["data", "draft", str(home), "--write"])
    assert "is there already" in str(again.exception)
    assert (home / "card.toml").read_text(encoding="utf-8") == text


def test_a_folder_elsewhere_can_be_drafted_and_the_way_to_use_it_is_told(
    home: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    for n in range(60):
        save(home / "ab"[n % 2] / f"{n}.png", pixels(n))
    monkeypatch.setenv("HEATPROOF_DATA", "/nowhere")
    done = CliRunner().invoke(cli.app, ["data", "draft", str(home)])
    assert f"let HEATPROOF_DATA be {home.parent}" in done.stderr


def test_a_written_card_is_a_data_set_like_any_other(home: Path) -> None:
    for n in range(60):
        save(home / "ab"[n % 2] / f"{n}.png", pixels(n))
    run = CliRunner().invoke
    assert run(cli.app, ["data", "draft", str(home), "--write"]).exit_code == 0
    assert len(data.load(data.card("own"), "train")) > 30
    assert "own" in run(cli.app, ["data", "list"]).output
    done = run(cli.app, ["data", "check", "own"])
    assert done.exit_code == 0, done.output
