"""A data set without training images: its networks are loaded, or taken as they are made."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bench import data, pool, results, suite
from bench.core import HeatproofError
from bench.run import splits_of


@pytest.fixture
def alone(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tiny suite on digits that have nothing but test images."""
    card = data.card("digits")
    only = replace(card, splits={"test": card.splits["test"]})
    monkeypatch.setattr(data, "card", lambda name: only)
    monkeypatch.setattr(data, "_held", {})
    tiny.write_text(tiny.read_text().replace("epochs = 2", "epochs = 0").replace(
        '"noise"', '"noise", "class-mean"'))
    return tiny


def test_it_runs_on_networks_as_they_are_made(alone: Path, tmp_path: Path) -> None:
    found = suite.read(str(alone))
    specs = found.only(["gradcam", "softcam", "noise"])
    assert {splits_of(spec) for spec in specs} == {("test",)}
    settings = pool.prepare(found, specs, pool.Settings(tmp_path / "out", "cpu", 1))
    for outcome in pool.execute(found, specs, settings, lambda event: None):
        assert not outcome.failures, outcome.failures
    runs = results.read(tmp_path / "out" / "tiny").runs
    assert set(runs["contestant"]) == {"gradcam", "softcam", "noise"}


def test_what_studies_training_images_is_skipped_with_the_reason(alone: Path) -> None:
    found = suite.read(str(alone))
    assert "class-mean" not in {run.contestant.name for run in found.runs}
    (skip,) = [skip for skip in found.skipped if skip.contestant == "class-mean"]
    assert skip.reason == "class-mean looks at training images; digits has none"


def test_a_training_that_it_cannot_give_is_told_with_the_cure(alone: Path) -> None:
    alone.write_text(alone.read_text().replace("epochs = 0", "epochs = 2"))
    with pytest.raises(HeatproofError, match=r"for evaluation alone.*weights.*epochs = 0") as error:
        suite.read(str(alone))
    assert "\n" not in str(error.value)


def test_a_card_with_training_images_still_has_to_train(tiny: Path) -> None:
    tiny.write_text(tiny.read_text().replace("epochs = 2", "epochs = 0"))
    with pytest.raises(HeatproofError, match="epochs must be positive"):
        suite.read(str(tiny))


def test_training_images_are_read_only_where_something_needs_them(tiny: Path) -> None:
    tiny.write_text(tiny.read_text().replace('"noise"', '"noise", "class-mean"'))
    spec = suite.read(str(tiny)).only(["gradcam"])[0]
    assert "train" in splits_of(spec)
    published = replace(spec, weights="weights.safetensors")
    assert splits_of(published) == ("validation", "test")
    studied = suite.read(str(tiny)).only(["class-mean"])[0]
    assert "train" in splits_of(replace(studied, weights="weights.safetensors"))
