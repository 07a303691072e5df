"""Suite files: crossed out into runs, and what is wrong with one told in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import plugins, suite
from bench.core import HeatproofError

plugins.load()


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
    controls = {"noise", "centre", "edges", "magnitude", "class-mean", "reinitialised", "oracle",
                "oracle-native"}
    common = {"gradcam", "ig"} | controls
    for dataset, own in (("digits", {"cape", "gp-reconresnet", "gradcam@cape"}),
                         ("phantom", {"softcam", "batchcam", "gradcam@softcam"})):
        runs = [run for run in demo.runs if run.dataset == dataset]
        assert {run.contestant.name for run in runs} == common | own
        assert len({run.model_id for run in runs}) == 6  # 2 seeds × plain and two trainers


@pytest.mark.parametrize("name", suite.suites())
def test_every_control_is_on_every_board(name: str) -> None:
    found = suite.read(name)
    controls = {name for name, cls in plugins.methods.items() if cls.family == "control"}
    assert len(controls) == 8
    for dataset in found.cards:
        runs = {run.contestant.explainer for run in found.runs if run.dataset == dataset}
        skipped = {skip.contestant for skip in found.skipped if skip.dataset == dataset}
        assert controls <= runs | skipped


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


def test_one_trainer_can_be_trained_otherwise(tiny: Path) -> None:
    tiny.write_text(tiny.read_text() + """
[dataset.digits.trainer.softcam]
recipe = { epochs = 3 }
train = { lasso = 1e-4 }
backbone = { stem = "small" }
""")
    runs = {run.contestant.name: run for run in suite.read(str(tiny)).runs}
    special, plain = runs["gradcam@softcam"], runs["gradcam"]
    assert (special.recipe.epochs, special.recipe.lr) == (3, 3e-3)
    assert special.backbone.stem == "small"
    assert special.contestant.train["lasso"] == 1e-4
    assert special.model_id == runs["softcam"].model_id
    assert (plain.recipe.epochs, plain.backbone.stem) == (2, "half")


def test_a_data_set_can_have_fewer_contestants_and_several_folds(tiny: Path) -> None:
    tiny.write_text(tiny.read_text().replace("[dataset.digits]", """[dataset.digits]
contestants = ["softcam", "noise"]"""))
    assert {run.contestant.name for run in suite.read(str(tiny)).runs} == {"softcam", "noise"}
    text = tiny.read_text().replace("digits", "brain-tumour-brats2015")
    tiny.write_text(text.replace("samples = 6", "samples = 6\nfolds = 4"))
    runs = suite.read(str(tiny)).runs
    assert sorted((run.contestant.name, run.fold) for run in runs) == [
        (name, fold) for name in ("noise", "softcam") for fold in range(4)]
    assert len({run.data for run in runs}) == 4
    assert "fold 2" in next(run.cell for run in runs if run.fold == 2)


@pytest.mark.parametrize(("table", "says"), [
    ("trainer.softcan]\nrecipe = {}", "did you mean 'softcam'"),
    ("trainer.noise]\nrecipe = {}", "no network of its own"),
    ("trainer.softcam]\nrecipe = { epoch = 3 }", "did you mean 'epochs'"),
    ("trainer.softcam]\nrecipe = { epochs = 0 }", "epochs must be positive"),
    ("trainer.softcam]\ntrain = { laso = 1 }", "did you mean 'lasso'"),
    ("trainer.softcam]\nweight = 'x'", "did you mean 'weights'"),
    ("trainer.plain]\nrecipe = { schedule = 'step' }", "needs drop"),
    ("trainer.plain]\nrecipe = { validation = 2.0 }", "share of the images"),
    ("trainer.plain]\nrecipe = { accumulate = 0 }", "must be positive"),
    ("trainer.plain]\nrecipe = { augment = [{ name = 'RandomCorp' }] }", "mean 'RandomCrop'"),
])
def test_a_bad_training_is_told_in_one_line(tiny: Path, table: str, says: str) -> None:
    tiny.write_text(tiny.read_text() + f"\n[dataset.digits.{table}\n")
    with pytest.raises(HeatproofError, match=says) as error:
        suite.read(str(tiny))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("line", "says"), [
    ("folds = 2", "folds is 2, and digits has 1"),
    ('normalise = "maximum"', "did you mean 'max'"),
    ('contestants = ["softcan"]', "did you mean 'softcam'"),
])
def test_a_bad_entry_is_told_in_one_line(tiny: Path, line: str, says: str) -> None:
    tiny.write_text(tiny.read_text().replace("samples = 6", f"samples = 6\n{line}"))
    with pytest.raises(HeatproofError, match=says):
        suite.read(str(tiny))


def test_the_epoch_can_be_chosen_only_where_there_are_images_to_choose_by(tiny: Path) -> None:
    text = tiny.read_text().replace("digits", "fashion-mnist")
    tiny.write_text(text.replace("epochs = 2", 'epochs = 2\nselect = "accuracy"'))
    with pytest.raises(HeatproofError, match="set validation to a share"):
        suite.read(str(tiny))
    tiny.write_text(tiny.read_text().replace("epochs = 2", "epochs = 2\nvalidation = 0.1"))
    assert suite.read(str(tiny)).runs[0].recipe.validation == 0.1


def test_images_divided_by_their_maximum_lie_in_the_unit_interval(tiny: Path) -> None:
    from bench import run

    tiny.write_text(tiny.read_text().replace("samples = 6", 'samples = 6\nnormalise = "max"'))
    spec = suite.read(str(tiny)).runs[0]
    batch = run._batches(spec, "test").batch()
    assert suite.card_of(spec).mean == (0.0,)
    assert batch.x.amax((1, 2, 3)).tolist() == [1.0] * 6
    assert batch.x.min() >= 0


def test_only_takes_contestants_of_the_suite(tiny: Path) -> None:
    found = suite.read(str(tiny))
    assert {r.contestant.name for r in found.only(["noise"])} == {"noise"}
    with pytest.raises(HeatproofError, match="did you mean 'noise'"):
        found.only(["nose"])
