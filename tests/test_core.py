"""The nouns: ids, cards, batches, and errors that help."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bench import suite
from bench.core import Card, HeatproofError, Plain, canonical, digest, number_from, unknown
from bench.testing import tiny_batch

CARD = """
name = "own"
title = "Own"
source = "idx"
classes = ["a", "b"]
image = [1, 8, 8]
mean = [0.5]
std = [0.5]
splits = { train = 1, test = 2 }
"""


def card(tmp_path: Path, text: str) -> Card:
    path = tmp_path / "own.toml"
    path.write_text(text)
    return Card.read(path)


def test_canonical_json_has_one_spelling() -> None:
    assert canonical({"b": 1, "a": (1, 2)}) == canonical({"a": [1, 2], "b": 1})
    assert digest({"a": 1}) != digest({"a": 2})


def test_numbers_from_names_are_fixed_for_ever() -> None:
    # Data, draws and subsets hang on this; a change would silently change every result.
    assert number_from("digits", 0, "0001") == 1297167247340085207
    assert number_from("a", 1) != number_from("a", 2)
    assert 0 <= number_from("x") < 2**63


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    assert "did you mean 'gradcam'" in str(unknown("method", "grad-cam", ["gradcam", "softcam"]))


@pytest.mark.parametrize(("old", "new", "says"), [
    ("title", "titel", "did you mean 'title'"),
    ("mean = [0.5]", "mean = [0.5, 0.5]", "mean needs 1 values"),
    ("image = [1, 8, 8]", "image = [8, 8]", "[C, H, W]"),
    ('classes = ["a", "b"]', 'classes = "ab"', "must be of type"),
    ('name = "own"', 'name = "other"', "calls itself"),
    ("title", 'truth = "masks"\ntitle', "unknown truth"),
    ("[0.5]", "[0.5", "not valid TOML"),
])
def test_a_bad_card_is_told_in_one_line(tmp_path: Path, old: str, new: str, says: str) -> None:
    assert card(tmp_path, CARD).name == "own"
    with pytest.raises(HeatproofError) as error:
        card(tmp_path, CARD.replace(old, new, 1))
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_a_cards_prose_does_not_enter_its_fingerprint(tmp_path: Path) -> None:
    own = card(tmp_path, CARD)
    assert replace(own, citation="Someone, 1999").fingerprint == own.fingerprint
    assert replace(own, mean=(0.4,)).fingerprint != own.fingerprint


def test_a_batch_is_cut_with_everything_that_belongs_to_it() -> None:
    _, batch = tiny_batch()
    part = batch[[2, 0]]
    assert part.key == ("2", "0")
    assert torch.equal(part.x, batch.x[[2, 0]])
    assert torch.equal(part.seed, batch.seed[[2, 0]])
    assert part.mask is not None
    assert len(batch[1:3]) == 2


def test_ids_depend_on_what_they_name_and_on_nothing_else(tiny_suite: suite.Suite) -> None:
    by_name = {run.contestant.name: run for run in tiny_suite.runs}
    plain, own = by_name["gradcam"], by_name["softcam"]
    assert plain.model_id == by_name["noise"].model_id
    assert plain.maps_id != by_name["noise"].maps_id
    assert own.model_id == by_name["gradcam@softcam"].model_id != plain.model_id
    assert replace(plain, media=9).maps_id == plain.maps_id
    assert replace(plain, samples=9).model_id == plain.model_id
    assert replace(plain, protocol="2").maps_id == plain.maps_id
    assert replace(plain, protocol="2").id != plain.id
    newer = replace(plain.contestant, explainer_version="newer")
    assert replace(plain, contestant=newer).model_id == plain.model_id
    assert replace(plain, contestant=newer).maps_id != plain.maps_id
    assert replace(plain, recipe=replace(plain.recipe, epochs=3)).model_id != plain.model_id
    assert replace(plain, suite="other").model_id == plain.model_id


def test_a_cost_is_told_in_the_numbers_of_the_parameters() -> None:
    class Sampler(Plain):
        passes = "2 · samples forward, steps backward"

    assert Sampler.cost({"samples": 30, "steps": 4}) == "2 · 30 forward, 4 backward"
    assert Sampler.cost({"steps": "many"}) == "2 · samples forward, steps backward"
    assert Plain.cost({}) == "1 forward"
