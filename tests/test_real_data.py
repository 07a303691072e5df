"""Every real data set runs through the whole line, from its files to the page."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import board, data, page, pool, results, suite

SETS = {
    "fashion-mnist": "MIT (copyright 2017 Zalando SE)", "mnist": "CC BY-SA 3.0",
    "brain-tumour-brats2015": "CC BY-NC-SA 3.0", "brain-tumour-cheng": "CC BY 4.0",
    "natural-coco": "CC BY", "chest-xray-pneumoniamnist": "CC BY 4.0"}


@pytest.mark.data
@pytest.mark.parametrize("name", SETS)
def test_a_real_data_set_runs_through_the_line(
    name: str, tiny: Path, tmp_path: Path, real_data: Path,
) -> None:
    card = data.card(name)
    text = tiny.read_text().replace("[dataset.digits", f"[dataset.{name}")
    if card.image[1] > 100:  # few and small, but of the size that the card promises
        text = text.replace("samples = 96", "samples = 24").replace("batch_size = 32",
                                                                    "batch_size = 8")
        text = text.replace("samples = 6", "samples = 4")
    if "train" not in card.splits:
        text = text.replace("epochs = 2", "epochs = 0")
    tiny.write_text(text.replace("epochs = 2", "epochs = 1"))
    found = suite.read(str(tiny))
    settings = pool.prepare(found, found.runs, pool.Settings(tmp_path / "out", "cpu", 2))
    for outcome in pool.execute(found, found.runs, settings, lambda event: None):
        assert not outcome.failures, outcome.failures
    read = results.read(tmp_path / "out" / "tiny")
    ranked = board.rank(read)
    lacks = "oracle needs masks; " + name + " has none" in set(ranked.missing["reason"])
    assert lacks == (card.truth == "none")
    assert ranked.certificates["certified"].isna().all()
    html = page.write(ranked, read, tmp_path / "board").read_text()
    assert SETS[name] in html
    assert ("uncertified truth" in html) == (card.truth != "none")
