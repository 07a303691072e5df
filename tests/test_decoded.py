"""Images are decoded once, by one process, whole or not at all; splits never tear a group."""

from __future__ import annotations

import errno
import multiprocessing
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench import data, plugins
from bench.core import Card, HeatproofError
from bench.data import decoded
from bench.data.catalogue import Catalogue, drawn, parted
from bench.store import Cache

N = 150
CARD = Card(
    name="striped", title="Striped", source="striped", classes=("a", "b"), image=(3, 4, 5),
    mean=(0.5,) * 3, std=(0.25,) * 3, splits={"train": "0.0-0.7", "test": "0.7-1.0"},
    truth="pixels")


def striped(row: int) -> np.ndarray:
    return np.full((1, 4, 5), row, np.uint8)


@pytest.fixture
def asked(tmp_path: Path) -> Iterator[list[int]]:
    """A source of 150 grey images, and the rows that it was asked to decode."""
    rows: list[int] = []
    table = tmp_path / "table.csv"
    table.write_text("one")

    def image(row: int) -> np.ndarray:
        rows.append(row)
        return striped(row)

    def read(card: Card) -> Catalogue:
        return Catalogue(
            key=tuple(f"{n:03d}" for n in range(N)), label=tuple(n % 2 for n in range(N)),
            image=image, mask=lambda row: striped(row)[0] % 3, common=(table,))

    plugins.sources.add("striped", (read, "1"), "test")
    yield rows
    del plugins.sources.things["striped"], plugins.sources.origins["striped"]


def test_what_was_decoded_once_is_mapped_ever_after(asked: list[int]) -> None:
    first = data.load(CARD, "train")
    assert sorted(asked) == [int(key) for key in first.key]
    again = data.load(CARD, "train")
    assert len(asked) == len(first)
    assert isinstance(again.x, np.memmap)
    assert not again.x.flags.writeable
    for images in (first, again):
        for n, key in enumerate(images.key):
            assert (images.x[n] == int(key)).all()
            assert images.mask is not None
            assert (images.mask[n] == int(key) % 3).all()
    assert first.content == again.content != data.load(CARD, "test").content


def test_a_changed_file_is_decoded_again(asked: list[int], tmp_path: Path) -> None:
    n = len(data.load(CARD, "train"))
    (tmp_path / "table.csv").write_text("another")
    data.load(CARD, "train")
    assert len(asked) == 2 * n


def test_another_size_is_another_decoding(asked: list[int]) -> None:
    data.load(CARD, "train")
    wide = replace(CARD, image=(3, 8, 10), fit="stretch")
    assert data.load(wide, "train").x.shape[1:] == (3, 8, 10)


def test_a_stopped_decoding_goes_on_where_it_was(
    asked: list[int], monkeypatch: pytest.MonkeyPatch,
) -> None:
    def stop(done: int, total: int) -> None:
        if done == 64:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        data.load(CARD, "train", progress=stop)
    assert len(asked) == 64
    images = data.load(CARD, "train")
    assert sorted(asked) == [int(key) for key in images.key]
    whole = data.load(replace(CARD, splits={"train": "0.0-0.7", "test": "0.7-0.9"}), "train")
    assert whole.content == images.content
    assert np.array_equal(images.x[:, 0, 0, 0], [int(key) for key in images.key])


def test_rows_that_a_torn_file_lost_are_decoded_again(asked: list[int], cache: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done == 64:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        data.load(CARD, "train", progress=stop)
    (torn,) = cache.glob("decoded/wip/*/mask.npy")
    torn.write_bytes(torn.read_bytes()[:-1])
    images = data.load(CARD, "train")
    assert np.array_equal(images.x[:, 0, 0, 0], [int(key) for key in images.key])


def test_a_full_disk_is_one_line_and_keeps_what_was_decoded(
    asked: list[int], monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun = decoded._begun

    def full(path: Path, *args: object) -> object:
        file = begun(path, *args)  # type: ignore[arg-type]

        class Full:
            def __enter__(self) -> Full:
                return self

            def __exit__(self, *error: object) -> None:
                file.close()

            def write(self, content: bytes) -> int:
                if len(asked) > 64:
                    raise OSError(errno.ENOSPC, "No space left on device")
                return file.write(content)

            def __getattr__(self, name: str) -> object:
                return getattr(file, name)

        return Full()

    monkeypatch.setattr(decoded, "_begun", full)
    with pytest.raises(HeatproofError, match=r"No space left.*make room") as error:
        data.load(CARD, "train")
    assert "\n" not in str(error.value)
    monkeypatch.setattr(decoded, "_begun", begun)
    before = len(asked)
    images = data.load(CARD, "train")
    assert len(asked) - before == len(images) - 64


def _read(root: Path, told: Path) -> None:
    def image(row: int) -> np.ndarray:
        with told.open("a") as file:
            file.write(f"{row}\n")
        time.sleep(0.002)
        return striped(row)

    plugins.load()
    found = Catalogue(key=tuple(map(str, range(N))), label=(0,) * N, image=image)
    card = replace(CARD, source="idx")
    images = decoded.read(card, found, np.arange(N), cache=Cache(root))
    assert np.array_equal(images.x[:, 0, 0, 0], np.arange(N))


def test_of_two_processes_one_decodes_and_the_other_waits(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    both = [context.Process(target=_read, args=(tmp_path / "cache", tmp_path / "told"))
            for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(60)
    assert [process.exitcode for process in both] == [0, 0]
    assert sorted(map(int, (tmp_path / "told").read_text().split())) == list(range(N))


def test_masks_of_nothing_but_255_are_refused(asked: list[int]) -> None:
    found = replace(data.catalogue(CARD), mask=lambda row: np.full((4, 5), 255, np.uint8))
    with pytest.raises(HeatproofError, match="255, which means ignore"):
        decoded.read(CARD, found, np.arange(4))


def grouped(**changes: object) -> Catalogue:
    whole = Catalogue(
        key=tuple(map(str, range(40))), label=(0,) * 40, image=striped,
        group=tuple(f"p{n // 4}" for n in range(40)), told=("a", "b") * 20)
    return replace(whole, **changes)  # type: ignore[arg-type]


def test_a_share_takes_whole_groups_and_every_image_once() -> None:
    found, card = grouped(), replace(CARD, group="patient")
    parts = parted(card, found)
    assert sorted(np.concatenate(list(parts.values()))) == list(range(40))
    train, test = ({found.group[row] for row in rows} for rows in parts.values())
    assert train
    assert test
    assert not train & test


def test_a_share_of_a_group_stays_when_another_patient_comes() -> None:
    card, few = replace(CARD, group="patient"), grouped()
    more = grouped(key=(*few.key, "40"), label=(*few.label, 0), group=(*few.group, "p99"),
                   told=(*few.told, "a"))
    for split, rows in parted(card, few).items():
        assert set(rows) <= set(parted(card, more)[split])


@pytest.mark.parametrize(("card", "found", "says"), [
    (CARD, grouped(), "splits by image, but it is known which images belong together"),
    (replace(CARD, group="patient"), grouped(group=()), "not every image has one"),
    (replace(CARD, group="patient"), grouped(group=("",) * 40), "not every image has one"),
    (replace(CARD, group="patient", splits={"train": "a", "test": "b"}), grouped(),
     "patient p0 lies in split train and in split test"),
    (replace(CARD, group="patient", splits={"train": ["p1"], "test": ["p1"]}), grouped(),
     "patient p1 lies in split train and in split test"),
    (replace(CARD, group="patient", splits={"train": ["p1"], "test": ["q1"]}), grouped(),
     "unknown patient in split test.*'q1'"),
    (replace(CARD, splits={"train": "a", "test": "c"}), grouped(group=()),
     "unknown split in split test.*'c'"),
    (replace(CARD, splits={"train": "a", "test": "b"}), grouped(group=(), told=()),
     "nothing in the files tells splits"),
    (replace(CARD, splits={"train": "0.0-0.00001", "test": "b"}), grouped(group=()),
     "split train has no image"),
    (replace(CARD, splits={"train": 3, "test": "b"}), grouped(group=()), "must be a share"),
])
def test_a_split_that_cannot_be_made_is_one_line(card: Card, found: Catalogue, says: str) -> None:
    with pytest.raises(HeatproofError, match=says) as error:
        parted(card, found)
    assert "\n" not in str(error.value)


def test_boxes_are_drawn_to_whole_pixels_and_cut_at_the_edge() -> None:
    assert np.array_equal(np.argwhere(drawn([(1, 2, 2, 1)], (4, 5))), [[2, 1], [2, 2]])
    assert drawn([(0.4, 0.4, 0.2, 0.2)], (4, 5)).sum() == 1
    assert drawn([(3, 3, 9, 9), (-2, 0, 3, 1)], (4, 5)).sum() == 2 + 1
    assert drawn([(4.6, 3.5, 0.4, 0.5)], (4, 5))[3, 4] == 1  # rounded to what there is
    for box in ((0, 0, 0, 3), (0, 0, 3, -1), (float("nan"), 0, 1, 1), (9, 0, 2, 2), (0, -5, 2, 2)):
        with pytest.raises(HeatproofError, match="the box"):
            drawn([box], (4, 5))
