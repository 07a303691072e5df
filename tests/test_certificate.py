"""A certificate is given to a network that decides by the planted region, and to no other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bench import data, suite, train
from bench.certificate import certify
from bench.core import Card, HeatproofError
from bench.data.images import Batches, Images
from bench.store import Cache

N = 18


def card(name: str, n: int = N) -> Card:
    """A planted card with few test images."""
    known = data.card(name)
    return replace(known, splits={"train": known.splits["train"], "test": [100000, n]})


def batches(name: str, **more: int) -> Batches:
    small = card(name)
    return Batches(data.load(small, "test"), small, seed=0, **more)


class Template(nn.Module):
    """Reads which mark is in a corner: the best match of each form in any place of a corner."""

    def __init__(self) -> None:
        super().__init__()
        line = torch.arange(-5, 6) / 32
        v, u = torch.meshgrid(line, line, indexing="ij")
        r = (u * u + v * v).sqrt()
        far = torch.stack([
            torch.maximum(torch.minimum(u.abs(), v.abs()) - 0.025,
                          torch.maximum(u.abs(), v.abs()) - 0.11),
            (r - 0.085).abs() - 0.025,
            torch.maximum((v.abs() - 0.07).abs() - 0.025, u.abs() - 0.11)])
        forms = (1 - far / 0.03).clamp(0, 1)
        forms = forms - forms.mean((1, 2), keepdim=True)
        self.forms = (forms / forms.flatten(1).norm(dim=1)[:, None, None])[:, None]

    def forward(self, x: Tensor) -> Tensor:
        corners = [x[:, :, rows, columns] for rows in (slice(0, 13), slice(51, 64))
                   for columns in (slice(0, 13), slice(51, 64))]
        return torch.stack([nn.functional.conv2d(c, self.forms).amax((2, 3))
                            for c in corners]).amax(0)


class Constant(nn.Module):
    """Has one answer to all."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros(len(x), 3)


class Jumpy(nn.Module):
    """Has another answer when anything changes: the least bits of all pixels decide."""

    def forward(self, x: Tensor) -> Tensor:
        total = (x * 997).sum((1, 2, 3)).long()
        return nn.functional.one_hot(total % 3, 3).float()


def test_a_network_that_reads_the_mark_alone_is_certified_where_the_mark_decides() -> None:
    shown = batches("planted-shortcut")
    found = certify(Template(), shown)
    clean, flipped = shown.batch(), shown.batch(flipped="region")
    assert torch.equal(Template()(clean.x).argmax(1), clean.y)
    assert torch.equal(Template()(flipped.x).argmax(1), (clean.y + 1) % 3)
    assert found is not None
    assert found["certified"]
    assert found["n"] == N
    assert list(found["flips"]) == ["region", "distractor", "elsewhere"]
    region, *rest = found["flips"].values()
    assert region["changed"] == region["high"] == 1
    # Clopper and Pearson have this end in closed form where all, or none, changed.
    assert region["low"] == pytest.approx(0.025 ** (1 / N))
    assert region["must"] == "at least 95 %"
    for flip in rest:
        assert flip["changed"] == flip["low"] == 0
        assert flip["high"] == pytest.approx(1 - 0.025 ** (1 / N))
        assert flip["must"] == "at most 5 %"


def test_the_same_network_is_not_certified_on_the_same_images_where_the_lesion_decides() -> None:
    found = certify(Template(), batches("planted-distractor"))
    assert found is not None
    assert not found["certified"]
    assert found["flips"]["region"]["changed"] == 0
    assert found["flips"]["distractor"]["changed"] == 1


def test_a_network_with_one_answer_to_all_is_not_certified() -> None:
    found = certify(Constant(), batches("planted-shortcut"))
    assert found is not None
    assert not found["certified"]
    assert {flip["changed"] for flip in found["flips"].values()} == {0}


def test_a_network_that_anything_unsettles_is_not_certified() -> None:
    found = certify(Jumpy(), batches("planted-shortcut"))
    assert found is not None
    assert not found["certified"]
    assert found["flips"]["elsewhere"]["changed"] > 0.3


def test_nothing_is_certified_once_the_plant_is_removed() -> None:
    shown = batches("planted-shortcut")
    bare = replace(shown.images, x=without_marks(shown.images.x),
                   flips={k: without_marks(flip) for k, flip in shown.images.flips.items()})
    found = certify(Template(), Batches(bare, shown.card, seed=0))
    assert found is not None
    assert not found["certified"]
    assert found["flips"]["region"]["changed"] == 0


def without_marks(x: np.ndarray) -> np.ndarray:
    """The images with all four corners black, wherever the mark was."""
    bare = np.array(x)
    for rows in (slice(0, 13), slice(51, 64)):
        for columns in (slice(0, 13), slice(51, 64)):
            bare[:, :, rows, columns] = 0
    return bare


@pytest.mark.parametrize(("hits", "certified"), [(19, True), (18, False)])
def test_nineteen_answers_of_twenty_are_enough_and_eighteen_are_not(
    hits: int, certified: bool,
) -> None:
    """Pixel 0 is the answer; the region flips it in `hits` images of 20, elsewhere in none."""
    small, x = tiny(20)
    flipped = x.copy()
    flipped[:hits, 0, 0, 0] = 255
    found = certify(First(), Batches(Images(
        x, np.arange(20) % 2, tuple(map(str, range(20))),
        flips={"elsewhere": x, "region": flipped}), small, seed=0))
    assert found is not None
    assert found["flips"]["region"]["changed"] == hits / 20
    assert found["certified"] is certified


@pytest.mark.parametrize(("hits", "certified"), [(1, True), (2, False)])
def test_one_answer_of_twenty_may_change_with_what_is_elsewhere_and_two_may_not(
    hits: int, certified: bool,
) -> None:
    small, x = tiny(20)
    region, elsewhere = x.copy(), x.copy()
    region[:, 0, 0, 0] = elsewhere[:hits, 0, 0, 0] = 255
    found = certify(First(), Batches(Images(
        x, np.arange(20) % 2, tuple(map(str, range(20))),
        flips={"region": region, "elsewhere": elsewhere}), small, seed=0))
    assert found is not None
    assert found["certified"] is certified


class First(nn.Module):
    """Answers 1 where the first pixel is above the mean."""

    def forward(self, x: Tensor) -> Tensor:
        first = x[:, 0, 0, 0]
        return torch.stack([-first, first], 1)


def tiny(n: int) -> tuple[Card, np.ndarray]:
    small = Card("tiny", "Tiny", "planted", ("a", "b"), (1, 2, 2), (0.5,), (0.25,), {"test": 0})
    return small, np.zeros((n, 1, 2, 2), np.uint8)


def test_only_the_chosen_images_are_asked_in_the_order_and_scale_of_the_run() -> None:
    seen: list[Tensor] = []

    class Spy(Constant):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x)
            return super().forward(x)

    shown = batches("planted-suppressor", samples=4)
    found = certify(Spy(), shown)
    assert found is not None
    assert found["n"] == 4
    flips = shown.images.flips
    for x, pixels in zip(seen, (shown.images.x, flips["region"], flips["suppressor"],
                                flips["elsewhere"]), strict=True):
        expected = torch.from_numpy(np.array(pixels[shown.index])).float() / 255
        assert torch.allclose(x, (expected - shown.mean) / shown.std)


def test_no_mask_is_told_of_an_image_in_which_something_is_flipped() -> None:
    shown = batches("planted-shortcut", samples=2)
    assert shown.batch().mask is not None
    assert shown.batch(flipped="region").mask is None


def test_where_nothing_is_planted_there_is_no_certificate() -> None:
    small, x = tiny(4)
    images = Images(x, np.arange(4) % 2, tuple("abcd"))
    assert certify(First(), Batches(images, small, seed=0)) is None


def test_flips_without_a_region_are_told_in_one_line() -> None:
    small, x = tiny(4)
    images = Images(x, np.arange(4) % 2, tuple("abcd"), flips={"elsewhere": x})
    with pytest.raises(HeatproofError, match="tiny flips elsewhere and no region"):
        certify(First(), Batches(images, small, seed=0))


SUITE = """
title = "Planted"
protocol = "planted-test-1"
seeds = [0]
contestants = ["gradcam"]
metrics = ["accuracy"]
[dataset.planted-shortcut.backbone]
name = "resnet18"
[dataset.planted-shortcut.backbone.options]
layers = [1, 1, 1, 1]
channels = [8, 16, 24, 32]
stem_type = "deep"
stem_width = 4
output_stride = 8
[dataset.planted-shortcut.recipe]
epochs = 4
batch_size = 12
optimizer = "adamw"
lr = 6e-3
weight_decay = 0.01
warmup = 0.5
"""


@pytest.mark.slow
def test_a_trained_network_is_certified_and_one_trained_without_the_plant_is_not(
    tmp_path: Path,
) -> None:
    (tmp_path / "planted.toml").write_text(SUITE)
    (spec,) = suite.read(str(tmp_path / "planted.toml")).runs
    small = replace(data.card("planted-shortcut"),
                    splits={"train": [0, 900], "test": [100000, 90]})
    shown = data.load(small, "train")
    asked = Batches(data.load(small, "test"), small, seed=0)

    def certificate(images: Images, name: str) -> dict:
        def refused() -> None:
            raise AssertionError("not asked for")

        fitted = train.fitted(
            suite.trainer_of(spec), spec,
            train.Material(lambda: Batches(images, small, seed=0, name="train"), refused, refused),
            Cache(tmp_path / name), device=torch.device("cpu"), progress=lambda *_: None)
        found = certify(fitted.net, asked)
        assert found is not None
        return found

    assert certificate(shown, "planted")["certified"]
    bare = certificate(replace(shown, x=without_marks(shown.x)), "bare")
    assert not bare["certified"]
    assert bare["flips"]["region"]["changed"] < 0.9
