"""What looks at the training images, and what cannot be explained, in a suite that runs through."""

from __future__ import annotations

import html
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import board, data, page, plugins, results, run, suite
from bench.core import HeatproofError
from bench.results import Folder, write_plan
from bench.spec import RunSpec
from bench.store import Cache, read_arrays, read_json

PLUGIN = '''
import torch
from bench import Method, method

PREPARED, STUDIED = [], []


@method("looks")
class Looks(Method):
    """The mean of all training images; notes what it is shown, for training and after."""

    title, family, version, passes = "Looks", "control", "1", "none"
    classwise = False

    def prepare(self, net, batches):
        PREPARED.append(list(batches))

    def study(self, batches):
        STUDIED.append(list(batches))
        self.mean = torch.cat([batch.x for batch in STUDIED[-1]]).mean((0, 1))

    def explain(self, net, batch, target):
        return self.mean.expand(len(batch), -1, -1)


class Sightless(torch.nn.Module):
    def __init__(self, inputs, classes):
        super().__init__()
        self.fc = torch.nn.Linear(inputs, classes)

    def forward(self, x):
        return self.fc(x.detach().flatten(1))


@method("blind")
class Blind(Method):
    """A classifier that gives its image no gradient."""

    title, family, version = "Blind", "inherent", "1"

    def network(self):
        return Sightless(1024, len(self.card.classes))

    def explain(self, net, batch, target):
        return batch.x[:, 0]
'''

SUITE = """
title = "Study"
protocol = "study-1"
seeds = [0]
contestants = ["looks", "class-mean", "gradcam", "gradcam-reinitialised", "looks-reinitialised",
               "ig@blind", "gradcam-vit", "oracle-native", "oracle-4"]
metrics = ["accuracy", "random-logit"]
[contestant.gradcam-reinitialised]
method = "reinitialised"
[contestant.looks-reinitialised]
method = "reinitialised@looks"
explain = { method = "gradcam", params = { relu = true } }
[contestant.gradcam-vit]
method = "gradcam"
[contestant.oracle-4]
method = "oracle-native"
explain = { grid = 4 }

[dataset.two]
samples = 4
folds = 2
[dataset.two.backbone]
name = "resnet18"
stem = "half"
options = { layers = [1, 1, 1, 1], channels = [8, 8, 8, 8], stem_type = "deep", stem_width = 4, output_stride = 8 }
[dataset.two.trainer.gradcam-vit.backbone]
name = "vit_tiny_patch16_224"
stem = "stock"
options = { img_size = 32, patch_size = 8, embed_dim = 16, depth = 1, num_heads = 2 }
[dataset.two.recipe]
epochs = 1
batch_size = 20
samples = 40
"""  # noqa: E501

UNSUPPORTED = {
    "ig@blind": "the logits of Sightless have no gradient with respect to the image, and "
                "Integrated Gradients reads it",
    "gradcam-vit": "VisionTransformer pools no feature map (N, D, h, w), as most transformers; "
                   "choose a CNN, such as resnet18 or densenet121"}


CARD = """
name = "two"
title = "Two folds"
source = "sklearn-digits"
classes = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]
image = [1, 32, 32]
mean = [0.304]
std = [0.323]
truth = "pixels"
[splits]
train = "0.0-0.5"
test = "0.8-1.0"
[[folds]]
train = "0.3-0.8"
test = "0.0-0.2"
[options]
stroke = 0.5
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of the suite, run once: its file, its results and its cache."""
    home = tmp_path_factory.mktemp("study")
    for name, text in (("study.toml", SUITE), ("two.toml", CARD), ("looks.py", PLUGIN)):
        (home / name).write_text(text)
    before = [(dict(r.things), dict(r.origins)) for r in plugins._ALL]
    known = data.cards()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "cards", lambda: {**known, "two": home / "two.toml"})
        plugins.load([home / "looks.py"])
        execute(home, home / "out", home / "cache")
        yield home
    for registry, (things, origins) in zip(plugins._ALL, before, strict=True):
        registry.things, registry.origins = things, origins


def execute(home: Path, out: Path, cache: Path, *only: str) -> dict[str, str]:
    """Runs the suite, or some contestants of it: how each cell ended."""
    found = suite.read(str(home / "study.toml"))
    write_plan(out, found.plan())
    place = run.Place(out, Cache(cache))
    ended = [run.run(spec, found.metrics_of("two"), place) for spec in found.only(only)]
    assert not [outcome.failures for outcome in ended if outcome.failures]
    return {outcome.cell: outcome.status for outcome in ended}


def specs(home: Path) -> dict[tuple[str, int], RunSpec]:
    """The suite's runs by contestant and fold."""
    return {(spec.contestant.name, spec.fold): spec
            for spec in suite.read(str(home / "study.toml")).runs}


def facts(home: Path) -> dict[str, dict[str, Any]]:
    """The run.json of each contestant, of either fold."""
    return {name: read_json(Folder.of(spec, home / "out").path / "run.json")
            for (name, _), spec in specs(home).items()}


def written(out: Path, name: str) -> dict[str, bytes]:
    """The scores and samples of a contestant."""
    folder = out / "study" / "two" / name
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.parquet")}


def maps(spec: RunSpec, cache: Path) -> np.ndarray:
    return read_arrays(Cache(cache).path("maps", spec.maps_id))[0]["maps"]


def test_a_study_is_shown_the_training_images_of_its_fold_and_no_mask(home: Path) -> None:
    shown = vars(sys.modules[plugins.methods["looks"].__module__])
    assert len(shown["STUDIED"]) == len(shown["PREPARED"]) == 2
    for fold in (0, 1):
        card = data.card("two").fold(fold)
        train, test = (set(data.load(card, split).key) for split in ("train", "test"))
        prepared, studied = ({key for batch in shown[what][fold] for key in batch.key}
                             for what in ("PREPARED", "STUDIED"))
        assert studied == prepared  # what the network was trained on, and no more
        assert len(studied) == 40
        assert studied <= train
        assert not studied & test
        assert all(batch.mask is None for batch in shown["STUDIED"][fold])


def test_the_class_mean_is_that_of_its_fold(home: Path) -> None:
    means = []
    for fold in (0, 1):
        card, spec = data.card("two").fold(fold), specs(home)["class-mean", fold]
        train, test = (data.load(card, split) for split in ("train", "test"))
        rows = train.order("two/train")[:40]
        label = test.y[test.order("two/test")[0]]
        mean = train.x[[row for row in rows if train.y[row] == label]].mean((0, 1)) / 255
        found = maps(spec, home / "cache")
        assert np.abs(found[0] - mean).max() < 1e-6
        means.append(found)
    assert not np.array_equal(*means)


def test_a_second_run_is_the_same_with_maps_made_anew_or_read(home: Path, tmp_path: Path) -> None:
    names = ("class-mean", "gradcam-reinitialised")
    shutil.copytree(home / "cache", tmp_path / "cache")
    for where in ("read", "anew"):
        assert set(execute(home, tmp_path / where, tmp_path / "cache", *names).values()) == {"done"}
        for name in names:
            assert len(written(home / "out", name)) == 6
            assert written(tmp_path / where, name) == written(home / "out", name)
            for fold in (0, 1):
                spec = specs(home)[name, fold]
                found = maps(spec, tmp_path / "cache")
                assert np.array_equal(found, maps(spec, home / "cache"))
        shutil.rmtree(tmp_path / "cache" / "maps")


def test_a_run_tells_what_its_maps_cost(home: Path) -> None:
    cost = {name: info["measured"].get("passes") for name, info in facts(home).items()}
    one = {"forward": 1.0, "backward": 1.0}
    assert cost["gradcam"] == cost["gradcam-reinitialised"] == cost["looks-reinitialised"] == one
    assert cost["class-mean"] == cost["oracle-4"] == {"forward": 0.0, "backward": 0.0}
    assert cost["oracle-native"] == {"forward": 0.25, "backward": 0.0}  # one for four images
    assert cost["gradcam-vit"] is None


def test_unsupported_pairs_are_told_and_the_rest_runs_on(home: Path, tmp_path: Path) -> None:
    assert {name: info["unsupported"] for name, info in facts(home).items()
            if info["unsupported"]} == UNSUPPORTED
    found = results.read(home / "out" / "study")
    ranked = board.rank(found)
    missing = ranked.missing.groupby("contestant")["reason"].agg(set).to_dict()
    assert missing == {name: {reason} for name, reason in UNSUPPORTED.items()}
    whole = ranked.estimates.groupby("contestant")["complete"].all()
    assert set(whole[whole].index) == set(facts(home)) - set(UNSUPPORTED)
    text = html.unescape(page.write(ranked, found, tmp_path).read_text())
    assert all(reason in text for reason in UNSUPPORTED.values())


def test_reinitialised_maps_are_controls_and_oracles_ceilings(home: Path) -> None:
    told = facts(home)
    kinds = {name: (info["contestant"]["control"], info["contestant"]["ceiling"])
             for name, info in told.items()}
    assert {name for name, kind in kinds.items() if kind == (False, True)} == {
        "oracle-native", "oracle-4"}
    assert {name for name, kind in kinds.items() if kind == (True, False)} == {
        "looks", "class-mean", "gradcam-reinitialised", "looks-reinitialised"}
    assert told["oracle-native"]["classifier"]["grid"] == told["gradcam"]["classifier"]["grid"]
    assert told["oracle-4"]["classifier"]["grid"] == [4, 4]


def test_another_version_of_a_method_makes_its_reinitialised_maps_anew(
    home: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = specs(home)
    monkeypatch.setattr(plugins.methods["gradcam"], "version", "another")
    after = specs(home)
    changed = {name for name, fold in before
               if before[name, fold].maps_id != after[name, fold].maps_id}
    assert changed == {"gradcam", "gradcam-vit", "gradcam-reinitialised", "looks-reinitialised"}
    assert {spec.model_id for spec in before.values()} == {s.model_id for s in after.values()}


def test_a_method_that_cannot_be_reinitialised_is_told_before_anything_runs(
    home: Path, tmp_path: Path,
) -> None:
    path = tmp_path / "study.toml"
    for method, says in (("gradcan", "did you mean 'gradcam'"), ("class-mean", "reads nothing")):
        path.write_text(SUITE.replace('explain = { method = "gradcam", params = { relu = true } }',
                                      f'explain = {{ method = "{method}" }}'))
        with pytest.raises(HeatproofError, match=says):
            suite.read(str(path))
