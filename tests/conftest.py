"""What all tests share: plugins loaded, one thread, caches, a tiny suite, and a board of it all."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import synthetic
import torch

from bench import board, cli, page, plugins, results, suite

TINY = """
title = "Tiny"
protocol = "tiny-1"
seeds = [0]
contestants = ["softcam", "gradcam", "gradcam@softcam", "noise", "oracle"]
metrics = ["accuracy", "quantus/PixelFlipping", "quantus/PointingGame", "quantus/MPRT"]

[metric."quantus/PixelFlipping"]
steps = 8
[metric."quantus/MPRT"]
skip_layers = true

[dataset.digits]
samples = 6
media = 2
[dataset.digits.backbone]
name = "resnet18"
stem = "half"
[dataset.digits.backbone.options]
layers = [1, 1, 1, 1]
channels = [8, 8, 16, 16]
stem_type = "deep"
stem_width = 4
output_stride = 8
[dataset.digits.recipe]
epochs = 2
batch_size = 32
samples = 96
optimizer = "adamw"
lr = 3e-3
"""


@pytest.fixture(scope="session", autouse=True)
def _loaded() -> None:
    torch.set_num_threads(1)
    plugins.load()
    assert not plugins.failures, plugins.failures


@pytest.fixture(scope="session", autouse=True)
def _volatile() -> Iterator[None]:
    """Nothing here has to outlive a power cut, and a disk takes long to promise that it will."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="session")
def caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for each cache; numbered here, as pytest lists all of them to number one more."""
    folder = tmp_path_factory.mktemp("caches")
    return (folder / str(n) for n in itertools.count())


@pytest.fixture(autouse=True)
def cache(caches: Iterator[Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, in the environment."""
    folder = next(caches)
    folder.mkdir()
    monkeypatch.setenv("HEATPROOF_CACHE", str(folder))
    return folder


@pytest.fixture(scope="session")
def tiny_text() -> str:
    """A suite that runs in seconds."""
    return TINY


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """The file of that suite."""
    path = tmp_path / "tiny.toml"
    path.write_text(TINY)
    return path


@pytest.fixture
def tiny_suite(tiny: Path) -> suite.Suite:
    """The same suite, read."""
    return suite.read(str(tiny))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real files, or a skip."""
    folder = os.environ.get("HEATPROOF_DATA", "")
    if not folder or not Path(folder).is_dir():
        pytest.skip("HEATPROOF_DATA names no folder of real files")
    return Path(folder)


@pytest.fixture
def door() -> Iterator[None]:
    """The registries of plugins, put back as they were."""
    before = [(dict(r.things), dict(r.origins)) for r in plugins._ALL]
    loaded, failures = dict(plugins._loaded), dict(plugins.failures)
    yield
    for registry, (things, origins) in zip(plugins._ALL, before, strict=True):
        registry.things, registry.origins = things, origins
    for now, then in ((plugins._loaded, loaded), (plugins.failures, failures)):
        now.clear()
        now.update(then)


class Done(NamedTuple):
    """How a command ended: its exit code, what it printed, and what it told on stderr."""

    code: int
    out: str
    err: str


@pytest.fixture
def heatproof(
    door: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> Callable[..., Done]:
    """The command in this process, which spares the seconds that torch takes to import."""
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # as the command sets it for good
    monkeypatch.setattr(cli.out, "_width", 200)

    def call(*args: object) -> Done:
        monkeypatch.setattr("sys.argv", ["heatproof", *map(str, args)])
        for remembered in ("_debugging", "_plugin_files"):
            monkeypatch.setattr(cli, remembered, [])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return Done(int(ended.value.code or 0), *capsys.readouterr())
    return call


@pytest.fixture(scope="session")
def found(tmp_path_factory: pytest.TempPathFactory) -> results.Results:
    """The synthetic suite, for all who only read it; who needs another defines their own."""
    return results.read(synthetic.build(tmp_path_factory.mktemp("synthetic")))


@pytest.fixture(scope="session")
def ranked(found: results.Results) -> board.Board:
    """Its board."""
    return board.rank(found)


@pytest.fixture(scope="session")
def index(
    found: results.Results, ranked: board.Board, tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Its page, without the plots, which are the slowest part."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page.plots, "write", lambda *_: [])
        return page.write(ranked, found, tmp_path_factory.mktemp("leaderboard"))


@pytest.fixture(scope="session")
def planted(tmp_path_factory: pytest.TempPathFactory) -> results.Results:
    """The same with few images, those of shapes planted, so that networks are certified."""
    return results.read(synthetic.build(
        tmp_path_factory.mktemp("planted"), images=8, planted=("shapes",)))


@pytest.fixture(scope="session")
def planted_board(planted: results.Results) -> board.Board:
    """The board of the planted suite."""
    return board.rank(planted)
