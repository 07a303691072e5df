"""Image and mask files: each kind is converted as documented, or refused in one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from folders import SIZE, pixels, save
from PIL import Image

from bench.core import Card, HeatproofError
from bench.data.pixels import conformed, conformed_mask, labelled, opened

GREY = pixels("grey")
COLOUR = pixels("colour", shape=(*SIZE, 3))
RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)


def card(
    fit: str = "", *, size: tuple[int, int] = SIZE, channels: int = 1, resize: int = 0,
) -> Card:
    return Card(
        name="tiny", title="Tiny", source="folder", classes=("a",), image=(channels, *size),
        mean=(0,) * channels, std=(1,) * channels, splits={"test": "0.0-1.0"}, fit=fit,
        resize=resize)


def refused(read: Callable[[], object], says: str) -> None:
    with pytest.raises(HeatproofError, match=says) as error:
        read()
    assert "\n" not in str(error.value)


def test_eight_bits_are_read_as_they_are(tmp_path: Path) -> None:
    for suffix in ("png", "bmp", "tif", "webp"):
        path = tmp_path / f"Größe α.{suffix}"
        Image.fromarray(COLOUR).save(path, **({"lossless": True} if suffix == "webp" else {}))
        assert np.array_equal(opened(path, grey=False), COLOUR.transpose(2, 0, 1)), suffix
    save(tmp_path / "grey.png", GREY)
    for grey in (True, False):
        assert np.array_equal(opened(tmp_path / "grey.png", grey=grey), GREY[None])


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_of_grey_are_divided_by_257(tmp_path: Path, suffix: str) -> None:
    for part in range(256):
        deep = (part * 256 + np.arange(256)).astype(np.uint16).reshape(16, 16)
        if part in (0, 1, 127, 128, 254, 255):
            path = tmp_path / f"{part}.{suffix}"
            Image.fromarray(deep).save(path)
            assert np.array_equal(opened(path, grey=True)[0], np.round(deep / 257)), part


def test_thirty_two_bits_are_read_where_they_hold_sixteen(tmp_path: Path) -> None:
    path = tmp_path / "wide.tif"
    Image.fromarray(RAMP.astype(np.int32) * 257).save(path)
    assert np.array_equal(opened(path, grey=True)[0], RAMP)
    for worst in (65536, -1):
        Image.fromarray(np.full(SIZE, worst, np.int32)).save(path)
        refused(lambda: opened(path, grey=True), f"wide.tif holds {worst} to {worst}, not 16 bits")


def test_a_palette_is_looked_up(tmp_path: Path) -> None:
    index = pixels("index", 3)
    colours = np.array([[9, 8, 7], [255, 0, 3], [1, 2, 250]], np.uint8)
    image = Image.frombytes("P", SIZE[::-1], index.tobytes())
    image.putpalette(colours.tobytes())
    image.save(tmp_path / "p.png")
    assert np.array_equal(opened(tmp_path / "p.png", grey=False), colours[index].transpose(2, 0, 1))
    image.putpalette(np.repeat(np.array([[9], [255], [1]], np.uint8), 3, 1).tobytes())
    image.save(tmp_path / "p.png")
    assert np.array_equal(opened(tmp_path / "p.png", grey=True)[0], np.array([9, 255, 1])[index])


def test_alpha_is_dropped(tmp_path: Path) -> None:
    alpha = pixels("alpha")
    save(tmp_path / "rgba.png", np.dstack([COLOUR, alpha]))
    save(tmp_path / "la.png", np.dstack([GREY, alpha]))
    assert np.array_equal(opened(tmp_path / "rgba.png", grey=False), COLOUR.transpose(2, 0, 1))
    assert np.array_equal(opened(tmp_path / "la.png", grey=True)[0], GREY)


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    for name, colour in (("red", (230, 20, 30)), ("white", (255, 255, 255)), ("black", (0, 0, 0))):
        flat = np.broadcast_to(np.uint8(colour), (16, 16, 3))
        Image.fromarray(flat).convert("CMYK").save(tmp_path / f"{name}.jpg", quality=100)
        found = opened(tmp_path / f"{name}.jpg", grey=False).astype(int)
        assert found.shape == (3, 16, 16)
        assert np.abs(found - np.array(colour)[:, None, None]).max() <= 4, name


def test_one_bit_is_black_and_white(tmp_path: Path) -> None:
    save(tmp_path / "bit.png", (GREY > 99) * np.uint8(255), "1")
    assert np.array_equal(opened(tmp_path / "bit.png", grey=True)[0], (GREY > 99) * 255)
    assert np.array_equal(labelled(tmp_path / "bit.png"), GREY > 99)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (7, 1)])
def test_an_image_may_be_one_pixel_high_or_wide(tmp_path: Path, size: tuple[int, int]) -> None:
    save(tmp_path / "thin.png", pixels("thin", shape=size))
    image = opened(tmp_path / "thin.png", grey=True)
    assert np.array_equal(image[0], pixels("thin", shape=size))
    for fit in ("stretch", "crop", "pad"):
        found = conformed(image, card(fit, size=(4, 4), channels=3), "thin")
        assert found.shape == (3, 4, 4), fit
        mask = conformed_mask(image[0] % 2, image, card(fit, size=(4, 4)), "thin")
        assert mask.shape == (4, 4), fit


def test_a_turn_told_by_exif_is_not_made(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(GREY).save(tmp_path / "turned.png", exif=exif)
    assert np.array_equal(opened(tmp_path / "turned.png", grey=True)[0], GREY)


def test_colour_is_not_turned_into_grey_unless_it_is_grey(tmp_path: Path) -> None:
    save(tmp_path / "a.png", COLOUR)
    refused(lambda: opened(tmp_path / "a.png", grey=True), "a.png is in colour")
    save(tmp_path / "b.png", np.repeat(GREY[..., None], 3, 2))
    assert np.array_equal(opened(tmp_path / "b.png", grey=True), GREY[None])


def cut(path: Path, suffix: str) -> None:
    Image.fromarray(pixels("cut", shape=(64, 64, 3))).save(path, suffix)
    path.write_bytes(path.read_bytes()[:-len(path.read_bytes()) // 3])


@pytest.mark.parametrize(("harm", "says"), [
    (lambda p: None, "cannot read .*é.png"),
    (lambda p: p.write_bytes(b""), "é.png is empty"),
    (lambda p: p.write_text("hello"), "é.png is no image"),
    (lambda p: p.write_bytes(b"\x89PNG\r\n\x1a\n"), "é.png is"),
    (lambda p: cut(p, "png"), "é.png is damaged"),
    (lambda p: cut(p, "jpeg"), "é.png is damaged"),
    (lambda p: cut(p, "tiff"), "é.png is"),
    (lambda p: cut(p, "webp"), "é.png is"),
    (lambda p: Image.fromarray(GREY).save(p, "gif"), "é.png is no image"),
    (lambda p: p.mkdir(), "cannot read .*é.png"),
])
def test_a_harmed_file_is_told_in_one_line(
    tmp_path: Path, harm: Callable[[Path], object], says: str,
) -> None:
    path = tmp_path / "é.png"
    harm(path)
    refused(lambda: opened(path, grey=False), says)
    refused(lambda: labelled(path), says)


def test_an_altered_file_and_an_unknown_mode_are_told(tmp_path: Path) -> None:
    save(tmp_path / "a.png", GREY)
    refused(lambda: opened(tmp_path / "a.png", grey=True, sha256="0" * 64), "a.png has checksum")
    Image.fromarray(GREY.astype(np.float32)).save(tmp_path / "f.tif")
    refused(lambda: opened(tmp_path / "f.tif", grey=True), "f.tif is of mode F; convert it")


def test_a_mask_keeps_its_numbers(tmp_path: Path) -> None:
    index = pixels("index", 5)
    save(tmp_path / "l.png", index)
    assert np.array_equal(labelled(tmp_path / "l.png"), index)
    image = Image.frombytes("P", SIZE[::-1], index.tobytes())
    image.putpalette([9, 9, 9, 255, 0, 0, 0, 255, 0, 1, 1, 1, 2, 2, 2])
    image.save(tmp_path / "p.png")
    assert np.array_equal(labelled(tmp_path / "p.png"), index)


@pytest.mark.parametrize(("array", "mode"), [
    (COLOUR, "RGB"), (np.dstack([COLOUR, GREY]), "RGBA"), (np.dstack([GREY, GREY]), "LA"),
    (GREY.astype(np.uint16), "I;16"),
])
def test_a_mask_of_colours_or_of_sixteen_bits_is_refused(
    tmp_path: Path, array: np.ndarray, mode: str,
) -> None:
    save(tmp_path / "mask.png", array)
    refused(lambda: labelled(tmp_path / "mask.png"), f"mask.png is of mode {mode}; a mask must")


def test_without_a_fit_another_size_is_told() -> None:
    refused(lambda: conformed(GREY[None, :, :4], card(), "x.png"),
            "x.png is 6 × 4 pixels, card tiny says 6 × 5")
    refused(lambda: conformed(COLOUR.transpose(2, 0, 1), card(), "x.png"), r"\(3, 6, 5\).* 1 chan")
    refused(lambda: conformed_mask(GREY[:5], GREY[None], card(), "x.png"),
            "x.png: its mask is uint8 5 × 5, the image 6 × 5")
    assert np.array_equal(conformed(GREY[None], card(channels=3), "x.png"), [GREY] * 3)


def test_stretching_moves_image_and_mask_alike() -> None:
    left = np.zeros((4, 8), np.uint8)
    left[:, :4] = 200
    fitted = conformed(left[None], card("stretch", size=(8, 8)), "x")[0]
    mask = conformed_mask(left // 200 * 3, left[None], card("stretch", size=(8, 8)), "x")
    assert np.array_equal(mask, (fitted > 100) * 3)
    assert np.array_equal(mask[:, :4], np.full((8, 4), 3))


def test_cropping_takes_the_middle() -> None:
    wide = np.zeros((4, 10), np.uint8)
    wide[:, 3:7] = pixels("middle", shape=(4, 4))
    fitted = conformed(wide[None], card("crop", size=(4, 4)), "x")[0]
    assert np.array_equal(fitted, pixels("middle", shape=(4, 4)))
    assert np.array_equal(conformed_mask(wide, wide[None], card("crop", size=(4, 4)), "x"), fitted)
    tall = wide.T
    assert np.array_equal(conformed(tall[None], card("crop", size=(4, 4)), "x")[0], fitted.T)


def test_a_crop_scales_the_shorter_side_first() -> None:
    image = np.zeros((8, 16), np.uint8)
    image[2:6, 6:10] = 250            # the middle: at twice the size, 8 × 8 of 16 × 32
    found = card("crop", size=(8, 8), resize=16)
    assert (conformed(image[None], found, "x")[0] > 100).all()
    assert (conformed_mask(image, image[None], found, "x") == 250).all()
    same = np.zeros((8, 8), np.uint8)
    same[2:6, 2:6] = 250              # of the card's size already: the border goes all the same
    assert (conformed_mask(same, same[None], found, "x") == 250).all()


@pytest.mark.parametrize("size", [(31, 43), (43, 31), (16, 16), (20, 23), (5, 60), (97, 20)])
@pytest.mark.parametrize("resize", [0, 20])
def test_a_crop_is_what_torchvision_does(size: tuple[int, int], resize: int) -> None:
    from torchvision import transforms

    whole = pixels("photograph", shape=(*size, 3))
    published = transforms.Compose([transforms.Resize(resize or 16), transforms.CenterCrop(16)])
    ours = conformed(whole.transpose(2, 0, 1),
                     card("crop", size=(16, 16), channels=3, resize=resize), "x")
    assert np.array_equal(ours, np.asarray(published(Image.fromarray(whole))).transpose(2, 0, 1))


def test_a_crop_to_no_square_keeps_as_much_as_it_can() -> None:
    for size in ((7, 30), (30, 7), (31, 43), (3, 2)):
        whole = pixels("whole", shape=size)
        found = conformed(whole[None], card("crop", size=(9, 13)), "x")
        assert found.shape == (1, 9, 13), size


def test_padding_keeps_everything_and_puts_black_around() -> None:
    wide = np.full((2, 8), 90, np.uint8)
    fitted = conformed(wide[None], card("pad", size=(8, 8)), "x")[0]
    mask = conformed_mask(wide // 90, wide[None], card("pad", size=(8, 8)), "x")
    assert np.array_equal(fitted[3:5], wide)
    assert fitted.sum() == wide.sum()
    assert np.array_equal(mask, fitted // 90)


@pytest.mark.parametrize("fit", ["stretch", "crop", "pad"])
@pytest.mark.parametrize("size", [(9, 14), (3, 4), (8, 8)])
def test_no_fit_makes_up_a_value_of_a_mask(fit: str, size: tuple[int, int]) -> None:
    mask = np.array([0, 4, 255], np.uint8)[pixels("mask", 3, size)]
    found = conformed_mask(mask, mask[None], card(fit, size=(7, 7)), "x")
    assert set(np.unique(found)) <= {0, 4, 255}
