"""Heatmap to segmentation, and the two measures of the classifier that belong to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from official import uniform
from sklearn.metrics import f1_score
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, one_hot

from bench import plugins
from bench.core import Batch, HeatproofError
from bench.measure import Explained, Scores
from bench.metrics import known, score
from bench.metrics.evidence import IGNORE
from bench.metrics.segmentation import best_offset, cleaned, overlap, thresholds

plugins.load()
FIXTURE = Path(__file__).parent / "fixtures" / "segmentation_gpmodels.npz"
SIZE = (64, 56)
HOW = {"unit": "otsu", "channel": "target", "clean": False, "min_object": 64, "min_hole": 128,
       "closing_radius": 2}


def field(name: str) -> Any:
    """Smoothed noise (64, 56) around 0.5: sums of 24-bit numbers, so exact on every machine."""
    noise = uniform(f"segmentation/{name}", (1, 1, SIZE[0] + 7, SIZE[1] + 7)).double()
    return avg_pool2d(noise, 8, 1)[0, 0].numpy()


def official_cases() -> dict[str, tuple[Any, Any]]:
    """The heatmaps, signed as a network gives them, and truths that the fixture was made of."""
    smooth = {"faint": 4.0, "logits": 32.0, "logits-2": 32.0, "strong": 256.0}
    maps = {name: scale * (field(name) - 0.5) for name, scale in smooth.items()}
    base = maps["logits"]
    maps["three levels"] = (base > 0.5) + 1.0 * (base > 1.5)
    maps["two levels"] = 0.25 + (base > 1.0)
    maps["zero"], maps["constant"] = np.zeros(SIZE), np.full(SIZE, 0.7)
    maps["negative"] = -1.0 - np.abs(base)
    return {name: (heatmap, 0.75 * field(name if name in smooth else "logits")
                   + 0.25 * field(f"{name} truth") > 0.53) for name, heatmap in maps.items()}


def seen(
    maps: Tensor, mask: Tensor, *, size: int | None = None, logits: Tensor | None = None,
    explain: Callable[..., Tensor] | None = None, validation: Explained | None = None,
) -> Explained:
    """Maps and masks as a metric sees them; the classes are two and the explained one is 0."""
    n, side = len(maps), size or maps.shape[-1]
    y = torch.zeros(n, dtype=torch.int64)
    batch = Batch(x=torch.zeros(n, 1, side, side), y=y, key=tuple(map(str, range(n))),
                  seed=torch.arange(n), group=("",) * n, mask=mask)
    return Explained(
        network=nn.Identity().eval(), batch=batch,
        logits=torch.tensor([[1.0, 0.0]]).repeat(n, 1) if logits is None else logits, target=y,
        maps=maps, explain=explain or (lambda **_: maps), classes=2,
        validation=None if validation is None else lambda: validation)


def planted(n: int = 4, name: str = "a") -> tuple[Tensor, Tensor]:
    """Smooth maps (n, 32, 32) and masks that agree with them in part."""
    noise = uniform(name, (2, n, 39, 39)).double()
    smooth = avg_pool2d(noise, 8, 1)
    return smooth[0] - 0.5, (0.75 * smooth[0] + 0.25 * smooth[1] > 0.52).to(torch.uint8)


def scored(name: str, explained: Explained, **params: Any) -> Scores:
    return score(plugins.metrics[f"segmentation/{name}"].with_params(params), explained)


def test_threshold_cleaning_dice_and_iou_are_those_of_the_authors() -> None:
    """soumickmj/GPModels at c6243a4, run with scikit-image 0.25.2 (0.26.0 drops objects of exactly
    the least size too: its issue 8001). Of utils.py: threshold_heatmap_to_mask (out_act "None", a
    network name without an offset of its own), clean_binary_mask and segscores, in float64, on
    maps whose negative values were set to 0, which that file no longer does. The lines of
    Local_Post-Processing.py that set them to 0, threshold and subtract gave the same masks wherever
    they do not raise (as they do for fewer than three values); so did utilities/utils.py's
    segscores the same numbers.
    """
    expected = np.load(FIXTURE)
    cases, offsets = official_cases(), expected["offsets"].tolist()
    assert list(cases) == expected["names"].tolist()
    shape = (len(cases), len(offsets), *SIZE)
    masks, neat = (np.unpackbits(expected[name], count=int(np.prod(shape))).reshape(shape) > 0
                   for name in ("found", "cleaned"))
    for i, (heatmap, truth) in enumerate(cases.values()):
        heatmap = heatmap.clip(min=0)
        cuts = thresholds(heatmap, offsets, "map")
        np.testing.assert_allclose(cuts, expected["threshold"][i], rtol=1e-12, atol=0)
        for k, cut in enumerate(cuts):
            found = heatmap > cut
            assert np.array_equal(found, masks[i, k])
            assert np.array_equal(cleaned(found), neat[i, k])
            # The authors count in float32.
            for mask, kind in ((found, ""), (cleaned(found), "cleaned_")):
                np.testing.assert_allclose(
                    overlap(mask, truth),
                    (expected[f"{kind}dice"][i, k], expected[f"{kind}iou"][i, k]), atol=1e-7)


def test_a_map_of_three_levels_segments_its_top_level_without_an_offset() -> None:
    heatmap = np.zeros((20, 20))
    heatmap[4:16, 4:16] = 1
    heatmap[8:12, 8:12] = 2
    assert np.array_equal(heatmap > thresholds(heatmap, [0.0]), heatmap == 2)


@pytest.mark.parametrize("unit", ["otsu", "map"])
def test_the_mask_grows_with_the_offset_and_the_threshold_is_never_below_0(unit: str) -> None:
    heatmap = planted(1)[0][0].numpy().clip(min=0)
    cuts = thresholds(heatmap, [0.0, 0.01, 0.02, 0.5, 1.0, 3.0], unit)
    assert (np.diff(cuts) <= 0).all()
    assert cuts[0] > cuts[2] > 0 == cuts[-1]
    assert np.array_equal(heatmap > cuts[-1], heatmap > 0)


def test_an_offset_in_shares_of_the_threshold_knows_no_scale() -> None:
    maps, mask = planted()
    one = scored("dice", seen(maps, mask), offset=0.3)
    other = scored("dice", seen(maps * 1024, mask), offset=0.3)
    assert np.array_equal(one.value, other.value)
    assert not np.array_equal(
        one.value, scored("dice", seen(maps * 1024, mask), offset=0.3, unit="map").value)


def test_empty_and_equal_masks_overlap_wholly() -> None:
    empty, some = np.zeros((4, 4), bool), np.eye(4) > 0
    assert overlap(empty, empty) == (1, 1)
    assert overlap(some, some) == (1, 1)
    assert overlap(some, some[::-1]) == (1 / 9, 1 / 9)
    assert overlap(some, np.ones((4, 4), bool)) == (9 / 21, 5 / 17)


@pytest.mark.parametrize("name", ["dice", "iou", "dice-tuned-on-truth", "iou-tuned-on-truth"])
@pytest.mark.parametrize("dark", [-1.0, 0.0, 0.7])
def test_a_map_without_contrast_is_an_empty_segmentation(name: str, dark: float) -> None:
    maps, mask = planted(2)
    maps[1] = dark
    # As interpolation leaves it: no histogram can part such values.
    maps[1, :16] = dark * (1 + 2**-52)
    found = scored(name, seen(maps, mask, validation=seen(*planted(3, "b"))))
    assert found.reason == (None, None)
    assert found.value[1] == 1 / (1 + int(mask[1].sum()))


@pytest.mark.parametrize("name", ["dice", "iou-tuned-on-truth"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_map_with_nan_has_a_reason_and_touches_nobody(name: str, bad: float) -> None:
    maps, mask = planted(3)
    hurt = maps.clone()
    hurt[1, 3, 4] = bad
    held = seen(*planted(3, "b"))
    found = scored(name, seen(hurt, mask, validation=held))
    assert found.reason == (None, "NaN in the map", None)
    if name == "dice":
        sound = scored(name, seen(maps, mask, validation=held))
        assert np.array_equal(found.value[[0, 2]], sound.value[[0, 2]])
    lost = scored(name, seen(torch.full_like(maps, bad), mask, validation=held))
    assert lost.reason == ("NaN in the map",) * 3


def test_only_images_with_an_object_are_scored() -> None:
    maps, mask = planted(3)
    mask[0], mask[2] = 0, IGNORE
    found = scored("dice", seen(maps, mask), offset=0.5)
    assert found.reason == ("no object in the mask", None, "no object in the mask")
    assert np.isnan(found.curve[[0, 2]]).all()  # type: ignore[index]


def test_pixels_of_unknown_truth_count_on_neither_side() -> None:
    maps, mask = planted(1)
    found = maps[0].numpy() > thresholds(maps[0].numpy().clip(min=0), [0.5])[0]
    truth = mask[0].numpy() > 0
    assert (found & ~truth).any()
    mask[0, :, :16] = IGNORE
    inside = (found & truth)[:, 16:].sum()
    all_ = found[:, 16:].sum() + truth[:, 16:].sum()
    assert scored("dice", seen(maps, mask), offset=0.5).value == (2 * inside + 1) / (all_ + 1)


def test_a_coarse_map_is_upsampled_bilinearly_to_the_image() -> None:
    coarse = avg_pool2d(planted(3)[0][:, None], 4)[:, 0]
    mask = planted(3)[1]
    fine = interpolate(coarse[:, None], (32, 32), mode="bilinear", align_corners=False)[:, 0]
    assert np.array_equal(scored("iou", seen(coarse, mask, size=32), offset=0.4).value,
                          scored("iou", seen(fine, mask), offset=0.4).value)


def test_the_offset_is_chosen_on_validation_images_alone() -> None:
    maps, mask = planted(3)
    held = seen(*planted(5, "b"))
    first = scored("dice", seen(maps, mask, validation=held))
    other = scored("dice", seen(maps, mask.flip(1), validation=held))
    assert np.array_equal(first.curve, other.curve)  # type: ignore[arg-type]
    best = max((i / 10 for i in range(11)), key=lambda offset: scored(
        "dice", held, offset=offset).value.mean())
    assert (first.curve[:, 0] == best).all()  # type: ignore[index]
    assert np.array_equal(first.value, scored("dice", seen(maps, mask), offset=best).value)
    strict = seen(held.maps, (held.maps > 0.09).to(torch.uint8))
    assert scored("dice", seen(maps, mask, validation=strict)).curve[0, 0] < best  # type: ignore[index]


def test_of_equally_good_offsets_the_smallest_is_chosen_and_dice_decides_for_iou() -> None:
    maps = torch.zeros(1, 16, 16)
    maps[0, 4:8, 4:8] = torch.linspace(0.8, 1, 16).reshape(4, 4)
    held = seen(maps, (maps > 0).to(torch.uint8))
    assert best_offset(held, (0.9, 0.7, 0.5, 0.0), **HOW) == 0.5
    dice, iou = (scored(name, seen(*planted(3), validation=held)) for name in ("dice", "iou"))
    assert np.array_equal(dice.curve, iou.curve)  # type: ignore[arg-type]


def test_without_validation_masks_the_offset_must_be_set_by_hand() -> None:
    maps, mask = planted(2)
    bare = seen(maps, mask)
    bare = replace(bare, batch=replace(bare.batch, mask=None))
    for held in (None, bare, seen(maps, torch.zeros_like(mask))):
        found = scored("dice", seen(maps, mask, validation=held))
        assert found.reason == ("no validation images with masks; set offset",) * 2
    unsound = seen(torch.full_like(maps, torch.nan), mask, validation=seen(maps * torch.nan, mask))
    assert scored("dice", unsound).reason == ("NaN in the map",) * 2
    by_hand = scored("dice", seen(maps, mask), offset=0.25)
    assert (by_hand.curve[:, 0] == 0.25).all()  # type: ignore[index]
    assert np.isfinite(by_hand.value).all()


def test_what_is_tuned_on_the_truth_says_so_and_is_no_worse_than_any_one_offset() -> None:
    maps, mask = planted(5)
    tuned = scored("dice-tuned-on-truth", seen(maps, mask)).value.mean()
    fixed = [scored("dice", seen(maps, mask), offset=k / 10).value.mean() for k in range(11)]
    assert tuned == max(fixed) > min(fixed)
    for name in ("dice", "iou"):
        metric = plugins.metrics[f"segmentation/{name}-tuned-on-truth"]
        assert "leaks the truth" in metric.about
        assert metric.track != plugins.metrics[f"segmentation/{name}"].track == "proven"


def test_the_sweep_of_the_authors_is_a_choice_of_parameters() -> None:
    maps, mask = planted(3)
    grid = [0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    found = scored("dice-tuned-on-truth", seen(maps * 40, mask), offsets=grid, unit="map")
    heatmaps = (maps * 40).numpy().clip(min=0)
    means = [np.mean([overlap(h > thresholds(h, [o], "map")[0], t > 0)[0]
                      for h, t in zip(heatmaps, mask.numpy(), strict=True)]) for o in grid]
    assert (found.curve[:, 0] == grid[int(np.argmax(means))]).all()  # type: ignore[index]
    assert found.value.mean() == max(means)


def test_the_channel_is_the_explained_class_the_predicted_one_or_the_sum() -> None:
    maps, mask = planted(3)
    rival = maps.flip(1)

    def explain(*, target: Tensor, index: list[int] | None = None) -> Tensor:
        chosen = torch.arange(3) if index is None else torch.tensor(index)
        return torch.where(target[:, None, None] == 0, maps[chosen], rival[chosen])

    logits = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    explained = seen(maps, mask, logits=logits, explain=explain)
    own, other = (scored("dice", seen(m, mask), offset=0.5).value for m in (maps, rival))
    assert np.array_equal(scored("dice", explained, offset=0.5).value, own)
    predicted = scored("dice", explained, offset=0.5, channel="predicted").value
    assert predicted.tolist() == [own[0], other[1], own[2]]
    absolute = {"offset": 0.03, "unit": "map"}
    both = scored("dice", seen(maps + rival, mask), **absolute).value
    assert np.array_equal(scored("dice", explained, channel="sum", **absolute).value, both)
    halved = scored("dice", seen((maps + rival) / 2, mask), **absolute).value
    assert not np.array_equal(halved, both)
    assert len({*own, *other}) == 6


def test_cleaning_drops_specks_fills_holes_and_keeps_the_largest_object() -> None:
    mask = np.zeros((60, 60), bool)
    mask[5:25, 5:25] = True
    mask[12:15, 12:15] = False          # a hole
    mask[40:52, 40:52] = True           # smaller
    mask[2, 50] = True                  # a speck
    whole = np.zeros_like(mask)
    whole[5:25, 5:25] = True
    assert np.array_equal(cleaned(mask), whole)
    assert cleaned(mask, min_object=391).sum() == 400
    assert cleaned(mask, min_object=392).sum() == 0
    assert not cleaned(mask, min_hole=9, radius=0)[13, 13]
    assert cleaned(mask, min_hole=10, radius=0)[13, 13]
    assert not cleaned(np.zeros_like(mask)).any()
    explained = seen(torch.from_numpy(mask[None].astype(float)), torch.from_numpy(whole[None]))
    assert scored("dice", explained, offset=0.0, clean=True).value == 1
    assert scored("dice", explained, offset=0.0).value < 1


@pytest.mark.parametrize("name", ["dice", "iou"])
def test_a_sample_scores_the_same_in_every_batch_and_scoring_changes_nothing(name: str) -> None:
    whole = known.explained(known.Additive(), known.planted(8, 1), known.noise)
    before = whole.maps.clone()
    values = [scored(name, known.explained(
        known.Additive(), known.planted(n, 1), known.noise)).value[0] for n in (1, 3, 8)]
    assert len(set(values)) == 1
    scored(name, whole)
    assert torch.equal(whole.maps, before)


@pytest.mark.parametrize(("params", "says"), [
    ({"offset": "validaton"}, "offset must be 'validation' or a number"),
    ({"offset": True}, "offset must be 'validation' or a number"),
    ({"offsets": []}, "offsets must be a list of numbers"),
    ({"offsets": 0.4}, "offsets must be a list of numbers"),
    ({"offset": 0.1, "unit": "otsus"}, "did you mean 'otsu'"),
    ({"offset": 0.1, "channel": "predict"}, "did you mean 'predicted'")])
def test_a_wrong_parameter_is_told_with_its_cure(params: dict[str, Any], says: str) -> None:
    with pytest.raises(HeatproofError, match=says):
        scored("dice", seen(*planted(2)), **params)


def classified(label: Any, predicted: Any, classes: int) -> Explained:
    """A classifier's labels and predictions as a metric sees them."""
    n = len(label)
    base = seen(torch.zeros(n, 2, 2), torch.zeros(n, 2, 2, dtype=torch.uint8))
    return replace(base, batch=replace(base.batch, y=torch.as_tensor(label)), classes=classes,
                   logits=one_hot(torch.as_tensor(predicted), classes).float())


def drawn(n: int, classes: int, hit: float) -> tuple[Any, Any]:
    """Labels of unequal frequency, and predictions that are right with a probability."""
    rng = np.random.default_rng(3)
    share = np.arange(1, classes + 1) / np.arange(1, classes + 1).sum()
    label = rng.choice(classes, n, p=share)
    return label, np.where(rng.random(n) < hit, label, rng.choice(classes, n))


@pytest.mark.parametrize(("label", "predicted"), [
    drawn(200, 4, 0.7), drawn(7, 5, 0.2), ([1], [1]), ([0], [2]), ([0, 0, 1], [0, 2, 1])])
def test_the_mean_of_the_shares_is_the_macro_f1(label: Any, predicted: Any) -> None:
    found = score(plugins.metrics["f1"], classified(label, predicted, 6))
    expected = f1_score(label, predicted, average="macro")
    assert found.value.mean() == pytest.approx(expected, abs=1e-12)


def test_the_shares_spread_as_f1_itself_does_under_the_bootstrap() -> None:
    label, predicted = drawn(400, 4, 0.7)
    shares = score(plugins.metrics["f1"], classified(label, predicted, 4)).value
    rows = np.random.default_rng(0).integers(400, size=(120, 400))
    direct = [f1_score(label[r], predicted[r], average="macro") for r in rows]
    by_shares = shares[rows].mean(1)
    assert by_shares.std() == pytest.approx(np.std(direct), rel=0.05)
    assert np.corrcoef(direct, by_shares)[0, 1] > 0.98


def test_logits_that_are_not_finite_take_no_part_in_f1() -> None:
    label, predicted = drawn(30, 3, 0.6)
    explained = classified(label, predicted, 3)
    explained.logits[4, 1] = torch.nan
    found = score(plugins.metrics["f1"], explained)
    rest = np.arange(30) != 4
    assert found.reason[4] == "the logits are not finite"
    assert found.value[rest].mean() == pytest.approx(
        f1_score(label[rest], predicted[rest], average="macro"))
    lost = replace(explained, logits=torch.full_like(explained.logits, torch.inf))
    assert np.isnan(score(plugins.metrics["f1"], lost).value).all()


def test_accuracy_on_objects_asks_only_images_whose_mask_has_one() -> None:
    explained = classified([0, 1, 0, 1], [0, 0, 0, 1], 2)
    mask = torch.zeros(4, 2, 2, dtype=torch.uint8)
    mask[0, 0, 0], mask[1, 1, 1], mask[2] = 1, 2, IGNORE
    explained = replace(explained, batch=replace(explained.batch, mask=mask))
    found = score(plugins.metrics["accuracy-on-objects"], explained)
    assert found.value[:2].tolist() == [1, 0]
    assert found.reason == (None, None, "no object in the mask", "no object in the mask")
    explained.logits[0] = torch.nan
    found = score(plugins.metrics["accuracy-on-objects"], explained)
    assert found.reason[:2] == ("the logits are not finite", None)
