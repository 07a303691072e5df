"""`heatproof data show`: the counts, and a contact sheet that shows what a suite would see."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from bench import cli, data
from bench.core import Card, HeatproofError
from bench.data import sheet
from bench.data.images import Array

CARD = Card(
    name="tiny", title="Tiny – Größe", source="folder", classes=("a", "b"), image=(1, 6, 5),
    mean=(0.5,), std=(0.2,), splits={"train": "train", "test": "test"}, licence="CC0",
    options={"images": ["images"]})
ORANGE, BLUE, GREY = sheet.COLOURS[0], sheet.COLOURS[1], sheet.IGNORED


def save(path: Path, array: Array) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """HEATPROOF_DATA/tiny: SPLIT/CLASS/NAME, each image of a grey of its own, and masks."""
    monkeypatch.setenv("HEATPROOF_DATA", str(tmp_path))
    home, level = tmp_path / "tiny", 10
    for split, n in (("train", 4), ("test", 3)):
        for name in CARD.classes:
            for number in range(n):
                level += 5
                below = f"{split}/{name}/{number}.png"
                save(home / "images" / below, np.full((6, 5), level, np.uint8))
                mask = np.zeros((6, 5), np.uint8)
                mask[1:4, 1:4] = 1 + (name == "b")
                mask[5] = 255
                save(home / "masks" / below, mask)
    return home


def drawn(card: Card, path: Path, **options: int) -> Array:
    sheet.write(card, path, **options)
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image)


def has(pixels: Array, colour: tuple[int, int, int]) -> bool:
    return bool((pixels == np.array(colour)).all(-1).any())


def test_it_shows_the_first_test_images_in_the_order_of_suites(root: Path, tmp_path: Path) -> None:
    pixels = drawn(CARD, tmp_path / "sheet.png", samples=2)
    images = data.load(CARD, "test")
    ordered = [int(images.x[row, 0, 0, 0]) for row in images.order("tiny/test")]
    # Letters have grey edges too, so that a picture is told by its area.
    shown = [level for level in ordered if (pixels == level).all(-1).sum() > 5000]
    assert shown == ordered[:4]


def test_only_what_is_shown_is_decoded(root: Path, tmp_path: Path) -> None:
    for path in (root / "images" / "train").rglob("*.png"):
        path.write_bytes(b"no image")
    steps: list[int] = []
    written = sheet.write(CARD, tmp_path / "new" / "sheet.png", samples=1,
                          progress=lambda done, total: steps.append(done))
    assert steps == [0, 1, 2]
    assert written == sheet.Sheet(tmp_path / "new" / "sheet.png", 2, 0)


def test_masks_are_outlined_and_tinted_by_part_and_boxes_only_outlined(
    root: Path, tmp_path: Path,
) -> None:
    masked = replace(CARD, truth="pixels", options={"images": ["images"], "masks": "masks"})
    pixels = drawn(masked, tmp_path / "sheet.png")
    assert has(pixels, ORANGE)
    assert has(pixels, BLUE)
    assert has(pixels, GREY)
    level = int(data.load(masked, "test").x[0, 0, 0, 0])
    tint = tuple((level * (1 - sheet.TINT) + np.array(ORANGE) * sheet.TINT).round().astype(int))
    assert has(pixels, tint)
    assert not has(drawn(replace(masked, truth="boxes"), tmp_path / "boxes.png"), tint)
    assert not has(drawn(CARD, tmp_path / "none.png"), ORANGE)


def test_an_outline_is_closed_and_runs_inside_the_mask() -> None:
    mask = np.zeros((40, 32), np.uint8)
    mask[10:20, 8:20] = 1
    plane = np.full((40, 32), 100, np.uint8)
    pixels = np.asarray(sheet._picture(plane, mask, "boxes"))
    assert pixels.shape == (160, 128, 3)
    marked = (pixels == np.array(ORANGE)).all(-1)
    rows, columns = np.flatnonzero(marked.any(1)), np.flatnonzero(marked.any(0))
    assert (rows[0], rows[-1], columns[0], columns[-1]) == (40, 79, 32, 79)
    assert marked[40, 32:80].all()
    assert not marked[44:76, 36:76].any()


@pytest.mark.parametrize(("channels", "planes"), [(1, 1), (2, 2), (3, 1), (4, 4)])
def test_rgb_is_one_picture_and_other_channels_stand_beside_each_other(
    channels: int, planes: int,
) -> None:
    assert len(sheet._planes(np.zeros((channels, 6, 5), np.uint8))) == planes


def test_small_images_are_enlarged_by_a_whole_number_and_large_ones_reduced() -> None:
    sizes = {side: sheet._picture(np.zeros((side, side // 2), np.uint8), None, "none").size
             for side in (10, 28, 150, 600)}
    assert sizes == {10: (65, 130), 28: (70, 140), 150: (75, 150), 600: (80, 160)}


def test_a_class_without_a_test_image_keeps_its_row(root: Path, tmp_path: Path) -> None:
    for path in (root / "images" / "test" / "b").glob("*"):
        path.unlink()
    before = drawn(replace(CARD, classes=("a", "b")), tmp_path / "sheet.png")
    assert before.shape[0] > 2 * sheet.SIDES[0]


def test_of_many_classes_the_first_are_shown_and_the_sheet_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HEATPROOF_DATA", str(tmp_path))
    names = tuple(f"c{n:02d}" for n in range(23))
    for name in names:
        save(tmp_path / "tiny" / "test" / name / "0.png", np.full((6, 5), 77, np.uint8))
    card = replace(CARD, classes=names, splits={"test": "test"}, options={"images": ["."]})
    monkeypatch.setattr(data, "card", lambda name: card)
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(cli.app, ["data", "show", "tiny", "--samples", "1"])
    assert done.exit_code == 0, done.output
    assert "the first 20 classes, 3 are left out" in done.output
    assert (tmp_path / "tiny.png").is_file()


def test_the_verb_counts_classes_and_groups_and_says_where_it_wrote(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    (root / "metadata.csv").write_text("file,patient,part\n" + "".join(
        f"{path.relative_to(root / 'images').as_posix()},{path.stem}{path.parts[-3]},"
        f"{path.parts[-3]}\n" for path in sorted((root / "images").rglob("*.png"))))
    card = replace(CARD, group="patient", folds=({"train": "test", "test": "train"},), options={
        "images": ["images"], "metadata": "metadata.csv", "split": "part"})
    monkeypatch.setattr(data, "card", lambda name: card)
    to = tmp_path / "out" / "sheet.png"
    done = CliRunner().invoke(
        cli.app, ["data", "show", "tiny", "--out", str(to), "--fold", "1"])
    assert done.exit_code == 0, done.output
    rows = {line.split()[0]: line.split()[-2:] for line in done.output.splitlines() if line.strip()}
    assert rows["class"] == ["train", "test"]
    assert rows["a"] == rows["b"] == ["3", "4"]
    assert rows["images"] == ["6", "8"]
    assert rows["groups"] == ["3", "4"]
    assert f"contact sheet: {to}" in done.output
    assert "licence: CC0" in done.output


def test_a_damaged_file_and_a_place_that_cannot_be_written_are_one_line(
    root: Path, tmp_path: Path,
) -> None:
    with pytest.raises(HeatproofError, match=r"cannot write /sys/x/sheet\.png"):
        sheet.write(CARD, Path("/sys/x/sheet.png"))
    with pytest.raises(HeatproofError, match="--samples must be at least 1"):
        sheet.write(CARD, tmp_path / "sheet.png", samples=0)
    (root / "images" / "test" / "a" / "0.png").write_bytes(b"no image")
    with pytest.raises(HeatproofError, match=r"a/0\.png is no image"):
        sheet.write(CARD, tmp_path / "sheet.png")
