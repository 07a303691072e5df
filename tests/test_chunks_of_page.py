"""What the page's script loads: whole, small, harmless, and the same numbers as the board's."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from bench import page, stats
from bench.page import chunks, weights


@pytest.fixture(scope="module")
def data(index):
    return index.parent / "data"


def read(path):
    """The place that a chunk names, and its content."""
    call = re.fullmatch(r"heatproof\((\"[^\"]*\"), (.*)\);\n", path.read_text(encoding="ascii"))
    return json.loads(call[1]), json.loads(call[2])


def number(about, name, metric):
    """Where the samples of one number lie."""
    def file(kind, wanted):
        return next(one["file"] for one in about[kind] if one["name"] == wanted)
    return f"{file('contestants', name)}/{file('metrics', metric)}"


def test_every_chunk_names_its_place_has_the_keys_told_and_is_small(data):
    keys = {"board": chunks.BOARD, "images": chunks.IMAGES, "predictions": chunks.PREDICTIONS,
            "values": chunks.VALUES}
    paths = sorted(data.rglob("*.js"))
    assert len(paths) > 200
    for path in paths:
        place, content = read(path)
        assert data / f"{place}.js" == path
        kind = place.split("/")[1].partition(".")[0]
        assert set(content) == set(keys[kind]), place
        assert path.stat().st_size < 1_000_000


def test_the_mean_of_the_stored_values_is_the_published_mean_to_six_digits(data, ranked):
    compared = 0
    for dataset in ("shapes", "letters"):
        _, about = read(data / dataset / "board.js")
        for row in page.tables.records(ranked.estimates[ranked.estimates["dataset"] == dataset]):
            if np.isfinite(row["mean"]):
                _, chunk = read(data / dataset / "values"
                                / f"{number(about, row['contestant'], row['metric'])}.0.js")
                again = stats.means(np.array(chunk["values"], float))
                assert again == pytest.approx(row["mean"], rel=1e-6, abs=1e-9)
                compared += 1
    assert compared > 150


def test_the_images_that_all_networks_get_right_give_the_mean_of_that_subset(data, ranked):
    _, about = read(data / "shapes" / "board.js")
    _, images = read(data / "shapes" / "images.0.js")
    right = np.array([[sign == "1" for sign in row] for row in images["right"]])
    _, chunk = read(data / "shapes" / "values" / f"{number(about, 'softcam', 'dice')}.0.js")
    row = ranked.common[(ranked.common["dataset"] == "shapes")
                        & (ranked.common["metric"] == "dice")
                        & (ranked.common["contestant"] == "softcam")]
    assert stats.means(np.where(right, np.array(chunk["values"], float), np.nan)) == pytest.approx(
        row["mean"].item(), rel=1e-6)


def test_what_has_no_number_says_why(data):
    _, chunk = read(data / "shapes" / "values" / "gradcam" / "pointing.0.js")
    assert sorted(chunk["reasons"]) == [[s, i, "constant map"] for s in range(3)
                                        for i in range(3)]
    assert [seed[:3] for seed in chunk["values"]] == [[None] * 3] * 3


def test_curves_and_pictures_belong_to_each_other(data, found):
    _, about = read(data / "shapes" / "board.js")
    _, chunk = read(data / "shapes" / "values" / "softcam" / "pixel-flipping.0.js")
    media = about["media"]
    axis = next(m["axis"] for m in about["metrics"] if m["name"] == "pixel-flipping")
    assert axis == ["% of the image removed", [0, 25, 50, 75, 100]]
    assert [image for image, _ in chunk["curves"]] == list(range(len(media["images"])))
    scores = found.scores[(found.scores["contestant"] == "softcam") & (
        found.scores["metric"] == "pixel-flipping") & (found.scores["seed"] == media["seed"])]
    for image, points in chunk["curves"]:
        stored = scores[scores["key"] == media["images"][image]["key"]]["curve"].item()
        assert points == pytest.approx(list(stored), rel=1e-6)
    for image in media["images"]:
        assert (data.parent / image["image"]).is_file()
        assert all((data.parent / path).is_file() for path in image["maps"] if path)


def test_pictures_of_data_that_may_not_be_passed_on_are_not_named(data):
    assert read(data / "letters" / "board.js")[1]["media"] is None


def test_many_images_are_split_into_parts_that_join_again(found, ranked, tmp_path, monkeypatch):
    monkeypatch.setattr(chunks, "IMAGES_MOST", 10)
    chunks.write(ranked, found, {}, tmp_path)
    place = tmp_path / "shapes" / "values" / "gradcam"
    parts = [read(place / f"pointing.{k}.js")[1] for k in range(3)]
    assert [len(part["values"][0]) for part in parts] == [10, 10, 4]
    assert not (place / "pointing.3.js").exists()
    assert "against" in parts[0]
    assert "against" not in parts[1]
    assert not parts[1]["reasons"]


def test_nothing_in_a_chunk_ends_a_script():
    text = chunks.script("a/b", {"name": "</script><!--\u2028é"})
    assert text == 'heatproof("a/b", {"name":"\\u003c/script>\\u003c!--\\u2028\\u00e9"});\n'


def test_names_that_would_share_a_file_have_their_own():
    assert chunks.files(["a/b", "a-b", "A-B", "../x", ""]) == ["a-b", "a-b_", "A-B__", "x",
                                                               "unnamed"]


def test_at_equal_weights_the_combined_rank_is_the_mean_of_the_family_ranks(ranked):
    found = weights.weighing(ranked, "proven", {"shapes": "shapes", "letters": "letters"})
    whole, shapes, letters = found["tables"]
    rows = {row["name"]: row for group in shapes["groups"] for row in group["rows"]}
    families = ranked.families[(ranked.families["dataset"] == "shapes") & (
        ranked.families["track"] == "proven") & (ranked.families["family"] != "classifier")]
    for name, ranks in families.groupby("contestant")["rank"]:
        assert rows[name]["combined"] == f"{ranks.mean():.2f}"
    assert rows["softcam"]["place"] == "#1"
    assert rows["edges"]["place"] == "–"
    assert letters["groups"][0]["rows"][0]["shown"][1:] == ["–", "–"]  # it has no masks
    assert whole["title"] == "all data sets"


def test_who_is_first_in_every_family_wins_all_of_the_weights():
    share = weights._shares(np.array([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]]), "suite")
    assert share.tolist() == [1.0, 0.0, 0.0]


def test_the_share_of_weights_is_that_of_the_simplex_and_ties_are_shared():
    # The first has w + 3 (1 - w) against 2: it wins where w > 1/2, and then where w > 2/3.
    share = weights._shares(np.array([[1.0, 3.0], [2.0, 2.0]]), "suite")
    assert share == pytest.approx([0.5, 0.5], abs=0.04)
    share = weights._shares(np.array([[1.0, 4.0], [2.0, 2.0]]), "suite")
    assert share == pytest.approx([1 / 3, 2 / 3], abs=0.04)
    assert weights._shares(np.array([[1.0], [1.0]]), "suite").tolist() == [0.5, 0.5]
