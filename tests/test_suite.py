"""Suite files: crossed out into runs, and what is wrong with one told in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import suite
from bench.core import HeatproofError


def test_every_built_in_suite_is_sound() -> None:
    for name in suite.suites():
        found = suite.read(name)
        assert found.runs, name
        assert len({run.id for run in found.runs}) == len(found.runs)


def test_the_demo_is_as_large_as_it_says() -> None:
    demo = suite.read("demo")
    assert set(demo.cards) == {"digits", "phantom"}
    assert len({run.seed for run in demo.runs}) >= 2
    assert all(run.samples >= 32 for run in demo.runs)
    assert {run.contestant.name for run in demo.runs} == {
        "softcam", "gradcam", "ig", "gradcam@softcam", "ig@softcam",
        "noise", "centre", "edges", "oracle"}
    assert len({run.model_id for run in demo.runs}) == 8  # 2 sets × 2 seeds × plain and SoftCAM


def test_more_seeds_keep_the_ids_of_the_first(tiny: Path) -> None:
    one, three = suite.read(str(tiny)), suite.read(str(tiny), seeds=3)
    assert {run.id for run in one.runs} < {run.id for run in three.runs}
    assert len(three.runs) == 3 * len(one.runs)


def test_masks_that_are_not_there_are_skipped_with_a_reason(tiny: Path) -> None:
    tiny.write_text(tiny.read_text().replace("[dataset.digits", "[dataset.fashion-mnist"))
    found = suite.read(str(tiny))
    reasons = {(skip.contestant, skip.metric): skip.reason for skip in found.skipped}
    assert reasons["oracle", None] == "oracle needs masks; fashion-mnist has none"
    assert (None, "quantus/PointingGame") in reasons
    assert "oracle" not in {run.contestant.name for run in found.runs}
    assert found.plan()["contestants"]["oracle"]["title"] == "Oracle (the mask)"
    assert "quantus/PointingGame" not in {m.name for m in found.metrics_of("fashion-mnist")}


def test_a_variant_has_its_own_network_and_lends_it(tiny: Path) -> None:
    tiny.write_text(tiny.read_text().replace('"noise"', '"sparse", "gradcam@sparse"') + """
[contestant.sparse]
method = "softcam"
train = { lasso = 1e-3 }
""")
    runs = {run.contestant.name: run for run in suite.read(str(tiny)).runs}
    assert runs["sparse"].contestant.train["lasso"] == 1e-3
    assert runs["sparse"].model_id != runs["softcam"].model_id
    assert runs["sparse"].model_id == runs["gradcam@sparse"].model_id


def test_gradcam_on_the_plain_network_is_gradcam(tiny: Path) -> None:
    tiny.write_text(tiny.read_text().replace('"noise"', '"gradcam@plain"'))
    runs = {run.contestant.name: run for run in suite.read(str(tiny)).runs}
    assert runs["gradcam"].maps_id == runs["gradcam@plain"].maps_id


@pytest.mark.parametrize(("old", "new", "says"), [
    ('"gradcam",', '"gradcamm",', "did you mean 'gradcam'"),
    ('"gradcam@softcam"', '"gradcam@softcan"', "did you mean 'softcam'"),
    ('"gradcam@softcam"', '"gradcam@noise"', "no network of its own"),
    ("[dataset.digits]\n", "[dataset.digit]\n", "did you mean 'digits'"),
    ('"quantus/MPRT"]', '"quantus/MPR"]', "did you mean 'quantus/MPRT'"),
    ('"accuracy"', '"acuracy"', "did you mean 'accuracy'"),
    ("protocol", "protocoll", "did you mean 'protocol'"),
    ("samples = 6", "sample = 6", "did you mean 'samples'"),
    ("epochs = 2", "epoch = 2", "did you mean 'epochs'"),
    ("epochs = 2", 'epochs = "two"', "must be of type int"),
    ("epochs = 2", "epochs = 0", "must be positive"),
    ('optimizer = "adamw"', 'optimizer = "adamx"', "did you mean 'adam'"),
    ('stem = "half"', 'stems = "half"', "did you mean 'stem'"),
    ("steps = 8", "step = 8", "did you mean 'steps'"),
    ('[metric."quantus/MPRT"]', '[metric."quantus/Sparseness"]', "did you mean"),
    ('seeds = [0]', "seeds = []", "seeds is empty"),
    ('seeds = [0]', "seeds = [0, 0]", "twice"),
    ('seeds = [0]', 'seeds = [0]\ntarget = "labels"', "did you mean 'label'"),
    ('title = "Tiny"', "", "title"),
])
def test_a_bad_suite_is_told_in_one_line(tiny: Path, old: str, new: str, says: str) -> None:
    text = tiny.read_text()
    assert old in text
    tiny.write_text(text.replace(old, new, 1))
    with pytest.raises(HeatproofError, match=says) as error:
        suite.read(str(tiny))
    assert "\n" not in str(error.value)


def test_an_unknown_suite_or_file_is_told() -> None:
    with pytest.raises(HeatproofError, match="did you mean 'demo'"):
        suite.read("demmo")
    with pytest.raises(HeatproofError, match=r"there is no file nowhere\.toml"):
        suite.read("nowhere.toml")


def test_only_takes_contestants_of_the_suite(tiny: Path) -> None:
    found = suite.read(str(tiny))
    assert {r.contestant.name for r in found.only(["noise"])} == {"noise"}
    with pytest.raises(HeatproofError, match="did you mean 'noise'"):
        found.only(["nose"])
