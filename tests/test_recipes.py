"""Recipes: learning rates, accumulation, clipping, augmentation, and the epoch that is kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bench import run, suite, train
from bench.augment import augmentation
from bench.core import HeatproofError
from bench.data.images import Images
from bench.spec import Recipe, RunSpec
from bench.store import Cache


@pytest.fixture
def spec(tiny_suite: suite.Suite) -> RunSpec:
    return next(run for run in tiny_suite.runs if run.contestant.name == "gradcam")


def fitted(spec: RunSpec, cache: Cache, progress=lambda *_: None) -> train.Fitted:
    return run.network(spec, run.Place(Path("nowhere"), cache, progress=progress))


def rates(recipe: Recipe, steps: int = 10) -> list[float]:
    return [train.learning_rate(recipe, step, steps) for step in range(recipe.epochs * steps)]


def test_the_learning_rate_rises_and_falls_as_the_recipe_says() -> None:
    found = rates(Recipe(epochs=4, lr=1.0, warmup=1.0))
    assert found[0] == pytest.approx(0.1)
    assert max(found) == pytest.approx(1.0)
    assert found[9] == found[10] == pytest.approx(1.0)
    assert found[-1] < 0.01
    assert set(rates(Recipe(epochs=4, lr=1.0, schedule="constant"))) == {1.0}


def test_softcams_rate_moves_with_the_epoch_and_rests_at_its_floor() -> None:
    found = rates(Recipe(epochs=50, lr=1e-3, every="epoch", floor=1e-4))
    by_epoch = [found[10 * epoch] for epoch in range(50)]
    assert all(len(set(found[10 * e:10 * e + 10])) == 1 for e in range(50))
    assert by_epoch[:2] == pytest.approx([1e-3, 0.0009990133642141358])
    assert by_epoch[39] > 1e-4
    assert by_epoch[40:] == pytest.approx([1e-4] * 10, rel=0.05)  # 40 is the last above the floor
    assert set(by_epoch[41:]) == {1e-4}


def test_capes_rate_drops_tenfold_every_thirty_epochs() -> None:
    found = rates(Recipe(epochs=70, lr=1e-3, schedule="step", drop=30))
    assert found[299] == 1e-3
    assert found[300] == pytest.approx(1e-4)
    assert found[-1] == pytest.approx(1e-5)


def test_two_batches_that_make_one_step_are_one_batch(spec: RunSpec, tmp_path: Path) -> None:
    one = replace(spec, recipe=Recipe(
        epochs=1, batch_size=48, samples=96, clip=1e9, schedule="constant"))
    two = replace(spec, recipe=replace(one.recipe, batch_size=24, accumulate=2))
    weights = []
    for each in (one, two):
        method = suite.trainer_of(each)
        method.loss = lambda net, batch: net.fc(batch.x[:, 0, :4, :4].flatten(1)).square().mean()
        net = train.fitted(
            method, each, run.material(each, run.Place(Path(), Cache(tmp_path / "no"))),
            Cache(tmp_path / str(each.recipe.accumulate)), device=torch.device("cpu"),
            progress=lambda *_: None).net
        weights.append(net.fc.weight)
    assert torch.allclose(weights[0], weights[1], atol=1e-6)
    start = suite.trainer_of(one).network().fc.weight
    assert not torch.allclose(weights[0], start, atol=1e-4)


def test_a_clipped_gradient_moves_no_weight_by_more_than_its_limit(
    spec: RunSpec, tmp_path: Path,
) -> None:
    recipe = Recipe(epochs=1, batch_size=96, samples=96, lr=1.0, momentum=0.0, nesterov=False,
                    weight_decay=0.0, clip=1e-4)
    before = suite.trainer_of(spec).network().state_dict()
    after = fitted(replace(spec, recipe=recipe), Cache(tmp_path)).net.state_dict()
    moved = [(after[k] - before[k]).abs().max() for k in ("fc.weight", "fc.bias")]
    assert 0 < max(moved) <= 1.01e-4


def test_each_image_is_augmented_by_itself_and_the_same_way_again() -> None:
    change = augmentation([{"name": "RandomCrop", "size": 8, "padding": 2}])
    x = torch.rand(1, 1, 8, 8).repeat(40, 1, 1, 1)
    moved = change(x, 3)
    assert len({image.numpy().tobytes() for image in moved}) > 5
    assert torch.equal(moved, change(x, 3))
    assert not torch.equal(moved, change(x, 4))


def test_a_transform_without_a_probability_of_its_own_is_given_one() -> None:
    x = torch.rand(60, 1, 8, 8)
    change = augmentation([{"name": "ColorJitter", "p": 0.5, "brightness": [3.0, 3.0]}])
    same = [torch.equal(a, b) for a, b in zip(change(x, 0), x, strict=True)]
    assert 15 < sum(same) < 45
    flipped = augmentation([{"name": "RandomHorizontalFlip", "p": 1.0}])(x, 0)
    assert torch.equal(flipped, x.flip(-1))


@pytest.mark.parametrize(("table", "says"), [
    ({"name": "RandomHorizontalFlop"}, "did you mean 'RandomHorizontalFlip'"),
    ({"name": "RandomCrop"}, "cannot be made of"),
    ({"name": "RandomRotation", "degrees": -5}, "cannot be made of"),
    ({"p": 0.5}, "unknown transform"),
])
def test_a_transform_that_cannot_be_made_is_told(table: dict, says: str) -> None:
    with pytest.raises(HeatproofError, match=says) as error:
        augmentation([table])
    assert "\n" not in str(error.value)


def test_no_training_sees_a_mask(spec: RunSpec, tmp_path: Path) -> None:
    material = run.material(replace(spec, recipe=replace(spec.recipe, select="accuracy",
                                                         validation=0.2)),
                            run.Place(Path(), Cache(tmp_path)))
    for batches in (material.images(), material.validation()):
        assert batches.batch([0, 1]).mask is None


def test_the_best_epoch_is_kept_also_by_a_training_that_was_killed(
    spec: RunSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    chosen = replace(spec, recipe=replace(spec.recipe, epochs=4, select="accuracy"))
    scores: list[float] = []
    judge = train._judged

    def judged(*args) -> float:
        # The second epoch is the best, whatever the network does.
        judge(*args)
        scores.append([0.1, 0.9, 0.9, 0.2][len(scores)])
        return scores[-1]

    monkeypatch.setattr(train, "_judged", judged)
    whole = fitted(chosen, Cache(tmp_path / "whole"))
    scores.clear()
    second = fitted(replace(chosen, recipe=replace(chosen.recipe, select="last")),
                    Cache(tmp_path / "last"))
    assert second.checkpoint != whole.checkpoint

    class Stop(BaseException):
        pass

    def stop(what: str, done: int, total: int) -> None:
        if done == 3:
            raise Stop

    cut = Cache(tmp_path / "cut")
    with pytest.raises(Stop):
        fitted(chosen, cut, stop)
    assert len(scores) == 3
    assert fitted(chosen, cut).checkpoint == whole.checkpoint


def test_the_epoch_with_the_lowest_median_loss_can_be_kept(spec: RunSpec, tmp_path: Path) -> None:
    recipe = replace(spec.recipe, select="loss", validation=0.1)
    assert fitted(replace(spec, recipe=recipe), Cache(tmp_path)).trained


def test_images_are_parted_by_whole_groups() -> None:
    images = Images(
        x=np.zeros((12, 1, 2, 2), np.uint8), y=np.arange(12) % 2, key=tuple(map(str, range(12))),
        group=tuple("abcd"[i % 4] for i in range(12)))
    rest, part = images.parted(0.25, "x")
    assert len(set(part.group)) == 1
    assert not set(rest.group) & set(part.group)
    assert set(rest.key) | set(part.key) == set(images.key)
    alone = replace(images, group=())
    rest, part = alone.parted(0.25, "x")
    assert (len(rest), len(part)) == (9, 3)
    with pytest.raises(HeatproofError, match="change the recipe's validation"):
        alone.parted(0.01, "x")
