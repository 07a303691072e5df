"""What all tests share: plugins loaded, one thread, a cache of their own, and a tiny suite."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from bench import plugins, suite

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


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, in the environment."""
    folder = tmp_path_factory.mktemp("cache")
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
