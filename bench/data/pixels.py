"""From the pixels of a file to the pixels that a card promises."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from bench.core import Card, HeatproofError
from bench.data.files import content
from bench.data.images import Array

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
_FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")
_DEEP = ("I;16", "I;16B", "I;16L", "I;16N", "I")


def opened(
    path: Path | str, *, grey: bool, sha256: str = "", packed: bytes | None = None,
) -> Array:
    """The pixels of an image file, (1, H, W) uint8 if `grey`, else (1 or 3, H, W).

    packed: the bytes of the file where it lies inside another; `path` then serves errors alone.
    16 bits of grey are divided by 257; a palette is looked up; alpha is dropped, as torchvision's
    loader drops it; CMYK becomes RGB; a turn told by EXIF is not made, since boxes and masks are
    told of the stored pixels. Colour is not turned into grey unless its channels are equal.
    Raises HeatproofError for a file that is missing, altered, damaged or no image.
    """
    with _told(path, sha256, packed) as image:
        if image.mode in _DEEP:
            deep = np.asarray(image).astype(np.int64)
            if deep.min() < 0 or deep.max() > 65535:
                raise HeatproofError(f"{path} holds {deep.min()} to {deep.max()}, not 16 bits; "
                                     "convert it to 8 or 16 bits a pixel")
            return ((deep + 128) // 257).astype(np.uint8)[None]
        if image.mode in ("F", "LAB", "HSV"):
            raise HeatproofError(f"{path} is of mode {image.mode}; convert it to grey or RGB, 8 or "
                                 "16 bits a pixel")
        if image.mode in ("L", "1", "LA"):
            return np.asarray(image.convert("L"))[None]
        pixels = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
    if not grey:
        return pixels
    if (pixels[0] != pixels[1]).any() or (pixels[0] != pixels[2]).any():
        raise HeatproofError(f"{path} is in colour, the card's images are grey; convert it, or "
                             "give the card three channels")
    return pixels[:1]


def labelled(path: Path | str, sha256: str = "", packed: bytes | None = None) -> Array:
    """The values of a mask file, (H, W) uint8: grey levels or indices into a palette, unchanged.

    Two levels of one bit are 0 and 1. Raises HeatproofError as `opened` does, and for colour.
    """
    with _told(path, sha256, packed) as image:
        if image.mode == "1":
            return np.asarray(image).astype(np.uint8)
        if image.mode not in ("L", "P"):
            raise HeatproofError(f"{path} is of mode {image.mode}; a mask must be 8-bit grey or "
                                 "have a palette: convert it")
        return np.asarray(image)


class _told:  # noqa: N801  it reads as a word in a with statement
    """An open Pillow image, all of it loaded; what goes wrong is told in one line."""

    def __init__(self, path: Path | str, sha256: str, packed: bytes | None) -> None:
        self.path = path
        self.packed = content(Path(path), sha256) if packed is None else packed

    def __enter__(self) -> Image.Image:
        if not self.packed:
            raise HeatproofError(f"{self.path} is empty; fetch it again")
        try:
            self.image = Image.open(io.BytesIO(self.packed), formats=_FORMATS)
            self.image.load()
        except UnidentifiedImageError:
            raise HeatproofError(
                f"{self.path} is no image (PNG, JPEG, BMP, TIFF, WebP); fetch the original"
            ) from None
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            reason = str(error).partition("\n")[0]
            raise HeatproofError(f"{self.path} is damaged ({reason}); fetch it again") from None
        return self.image

    def __exit__(self, *error: object) -> None:
        self.image.close()


def by_peak(image: Array) -> Array:
    """An image (C, H, W) as uint8, its largest value 255 and 0 still 0; what is below is cut."""
    peak = max(image.max(), 1e-30)
    return np.asarray(np.clip(image, 0, None) * (255 / peak) + 0.5).astype(np.uint8)


def conformed(image: Array, card: Card, what: str) -> Array:
    """An image (1 or C, H, W) uint8 as the card promises it: its channels, its size.

    `what` names it in errors. Without the card's `fit` it must have the size; "stretch" scales
    both sides; "crop" scales the shorter side to `resize` (or just as far as needed) and cuts the
    middle out; "pad" scales the longer side and puts black around. Scaling is Pillow's bilinear,
    and a crop is, pixel for pixel, torchvision's Resize and CenterCrop.
    """
    channels, height, width = card.image
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[0] not in (1, channels):
        raise HeatproofError(
            f"{what} is {image.dtype} of shape {image.shape}, card {card.name} says uint8 of "
            f"{channels} channels; correct the card's image, or convert the file")
    fitted = np.stack([_fitted(plane, card, Image.Resampling.BILINEAR, what) for plane in image])
    return np.broadcast_to(fitted, (channels, height, width))


def conformed_mask(mask: Array, image: Array, card: Card, what: str) -> Array:
    """A mask (H, W) uint8 of an image (C, H, W) as the card promises it; no value is made up."""
    if mask.dtype != np.uint8 or mask.shape != image.shape[1:]:
        raise HeatproofError(
            f"{what}: its mask is {mask.dtype} {' × '.join(map(str, mask.shape))}, the image "
            f"{' × '.join(map(str, image.shape[1:]))}; a mask must have the size of its image")
    return _fitted(mask, card, Image.Resampling.NEAREST, what)


def _fitted(plane: Array, card: Card, how: Image.Resampling, what: str) -> Array:
    height, width = card.image[1:]
    h, w = plane.shape
    # With `resize` the border is cut off even where the image has the size already.
    if (h, w) == (height, width) and not (card.fit == "crop" and card.resize):
        return plane
    if not card.fit:
        raise HeatproofError(
            f"{what} is {h} × {w} pixels, card {card.name} says {height} × {width}; resize it, "
            "or give the card a fit (stretch, crop or pad)")
    picture: Any = Image.fromarray(np.ascontiguousarray(plane))
    if card.fit == "stretch":
        return np.asarray(picture.resize((width, height), how))
    if card.fit == "crop":
        # Rounded as torchvision's Resize and CenterCrop round.
        by_height = h <= w if card.resize else height * w >= width * h
        side = card.resize or (height if by_height else width)
        tall, wide = (side, side * w // h) if by_height else (side * h // w, side)
        top, left = round((tall - height) / 2), round((wide - width) / 2)
        return np.asarray(picture.resize((wide, tall), how))[top:top + height, left:left + width]
    scale = min(height / h, width / w)
    tall = min(max(round(h * scale), 1), height)
    wide = min(max(round(w * scale), 1), width)
    padded = np.zeros((height, width), np.uint8)
    top, left = (height - tall) // 2, (width - wide) // 2
    padded[top:top + tall, left:left + wide] = np.asarray(picture.resize((wide, tall), how))
    return padded
