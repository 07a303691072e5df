"""Files are whole or absent, whatever happens while they are written."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest

from bench import store
from bench.core import HeatproofError


def test_a_full_disk_leaves_the_old_file_whole_and_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "a" / "file"
    store.write_bytes(path, b"old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store.os, "fsync", full)
    with pytest.raises(HeatproofError, match=r"No space left on device.*make room"):
        store.write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in path.parent.iterdir()] == ["file"]


def test_the_same_arrays_give_the_same_bytes(tmp_path: Path) -> None:
    arrays = {"b": np.arange(6.0).reshape(2, 3)[:, ::2], "a": np.array(7)}
    store.write_arrays(tmp_path / "one", arrays, {"x": 1})
    store.write_arrays(tmp_path / "two", dict(reversed(arrays.items())), {"x": 1})
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    found, facts = store.read_arrays(tmp_path / "one")
    assert facts == {"x": 1}
    assert found["a"].shape == ()
    assert np.array_equal(found["b"], arrays["b"])


@pytest.mark.parametrize("content", [b"", b"torn", b"\x10" + b"\0" * 7 + b"{}"])
def test_a_damaged_file_of_arrays_names_itself(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(HeatproofError, match="is damaged"):
        store.read_arrays(tmp_path / "x")
    with pytest.raises(HeatproofError, match="there is no file"):
        store.read_arrays(tmp_path / "absent")


def test_damaged_json_names_itself(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"a": ')
    with pytest.raises(HeatproofError, match="is damaged"):
        store.read_json(tmp_path / "x.json")


def test_the_cache_lies_where_the_environment_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> None:
    monkeypatch.setenv("HEATPROOF_CACHE", str(tmp_path / "own"))
    assert store.Cache().root == tmp_path / "own"
    monkeypatch.delenv("HEATPROOF_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert store.Cache().root == tmp_path / "heatproof"
    cache = store.Cache(tmp_path)
    assert not cache.has("maps", "ab12")
    store.write_arrays(cache.path("maps", "ab12"), {})
    assert cache.has("maps", "ab12")


def test_a_reader_keeps_the_file_that_it_opened(tmp_path: Path) -> None:
    store.write_bytes(tmp_path / "x", b"old" * 1000)
    with (tmp_path / "x").open("rb") as reader:
        store.write_bytes(tmp_path / "x", b"new")
        assert reader.read() == b"old" * 1000
    assert (tmp_path / "x").read_bytes() == b"new"
