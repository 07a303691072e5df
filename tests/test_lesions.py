"""SoftCAM's own measures, beside the numbers of the authors' code and by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from official import uniform
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from bench import plugins
from bench.core import Batch, HeatproofError
from bench.measure import Explained
from bench.metrics import lesions, score
from bench.metrics.evidence import grained, order
from bench.metrics.known import Additive, explained, known_answer, noise, oracle, planted
from bench.metrics.removal import ranks

FIXTURE = Path(__file__).parent / "fixtures" / "softcam_measures.npz"
N = 4
plugins.load()


def scored(name: str, sample: Explained, **params: Any) -> Any:
    return score(plugins.metrics[f"paper/{name}"].with_params(params), sample)


class Readout(nn.Module):
    """A linear readout of the means of 8 × 8 regions."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = uniform("readout", (3, 3 * 64)) - 0.5

    def forward(self, x: Tensor) -> Tensor:
        return 20 * adaptive_avg_pool2d(x, 8).flatten(1) @ self.weight.T


def fundus(*, interior: bool) -> Explained:
    """What the authors' code was run on: 512 pixels, 16 × 16 maps in [-5, 3), one lesion each."""
    maps = 8 * uniform("maps", (N, 16, 16)) - 5
    if interior:
        maps[:, [0, 1, -2, -1]] = -5
        maps[:, :, [0, 1, -2, -1]] = -5
    mask = torch.zeros(N, 512, 512, dtype=torch.uint8)
    for i in range(N):
        mask[i, 60 + 40 * i:200 + 60 * i, 300 - 70 * i:420 - 50 * i] = 1
    x = 2 * uniform("images", (N, 3, 512, 512)) - 1
    logits = Readout()(x)
    batch = Batch(x=x, y=logits.argmax(1), key=tuple("abcd"), seed=torch.arange(N),
                  group=("",) * N, mask=mask)
    return Explained(network=Readout().eval(), batch=batch, logits=logits, target=batch.y,
                     maps=maps, explain=lambda **_: maps, classes=3)


def visited(sample: Explained) -> np.ndarray[Any, Any]:
    """The cells (N, 60, 60) whose patches count at the authors' sizes."""
    values = lesions.bicubic(sample.maps, (60, 60))
    visit = order(grained(values).flatten(1), sample.batch.seed)
    spared = lesions.spared(ranks(visit).view_as(values), 4)
    return (spared & (values > 1)).numpy()


def test_the_numbers_are_those_of_the_authors_code() -> None:
    """kdjoumessi/SoftCAM at b5e9048, the helpers kept as editor checkpoints under utils:
    topK_patches and get_patch_location by get_precision and get_topk_precision (xchest=True, which
    reads masks [row, column]) with 60 cells, patches of 33 at stride 8 and threshold 1;
    get_activation_precision_v3 at 512 pixels; on OpenCV 5.0. Maps are 8 uniform("maps") - 5 with
    their two outer rings at -5.
    """
    official, sample = np.load(FIXTURE), fundus(interior=True)
    found = scored("patch-precision", sample)
    cells = np.unpackbits(official["interior_cells"]).reshape(N, 60, 60)
    assert np.array_equal(visited(sample), cells)
    assert np.array_equal(found.value, official["interior_precision"])
    assert np.array_equal(found.curve, official["interior_topk"])
    for row, name in enumerate(("activation-precision", "activation-sensitivity")):
        off = scored(name, sample).value - official["interior_activation"][row]
        assert np.abs(off).max() < 1e-8


def test_a_neighbourhood_ends_at_the_edge_where_the_authors_runs_on() -> None:
    """As above with the rings left in: their neighbourhood of a cell at the right border goes on
    at the left border, one row below, and the reverse.
    """
    official, sample = np.load(FIXTURE), fundus(interior=False)
    cells = np.unpackbits(official["maps_cells"]).reshape(N, 60, 60)
    where = np.argwhere(visited(sample) != cells)
    assert 0 < len(where) <= 6
    assert set(where[:, 2]) <= {0, 59}
    assert np.abs(scored("patch-precision", sample).value
                  - official["maps_precision"]).max() == pytest.approx(0.0091, abs=1e-4)


def test_deletion_is_that_of_the_authors_code() -> None:
    """kdjoumessi/SoftCAM at b5e9048: get_multi_non_overlap_patches_scores on white images, so that
    all rows count, get_multi_deletion_analysis (k = 1..14) with get_prediction_v2, their rounding
    to four digits switched off; the area as in plot_multi_deletion_curve_v2. The fourth image flips
    to another class on the way.
    """
    official, sample = np.load(FIXTURE), fundus(interior=False)
    energy = lesions.tiled(lesions.bicubic(sample.maps, (512, 512)), 33).flatten(1)
    falling = energy.argsort(dim=1, descending=True)
    assert np.array_equal(falling.numpy(), official["tiles"])
    assert np.abs(energy.gather(1, falling)[:, :20].numpy() - official["energy"]).max() < 1e-6
    last = replace(sample, batch=sample.batch[[3]], maps=sample.maps[[3]],
                   target=sample.target[[3]], logits=sample.logits[[3]])
    top = scored("patch-deletion", last, confidence="top-1")
    assert np.abs(top.curve - official["deletion_top1"][[3]]).max() < 1e-6
    assert np.abs(top.value - official["deletion_area"][[3]]).max() < 1e-6
    same = official["deletion_class"][[3]] == last.target.numpy()[:, None]
    decision = scored("patch-deletion", last, confidence="decision")
    assert np.array_equal(decision.curve[:, 1:], same)
    fixed = scored("patch-deletion", last)
    assert np.array_equal(fixed.curve == top.curve, [[True, *same[0]]])
    assert top.value[0] - fixed.value[0] > 0.005


def test_the_cells_are_as_many_as_the_patches_that_fit() -> None:
    assert lesions.scaled(33, (512, 512), 512, "patch") == 33
    for side, cells in ((512, 60), (496, 58)):
        patch, stride = (lesions.scaled(p, (side, side), side, "patch") for p in (33, 8))
        assert (side - patch) // stride + 1 == cells
    assert [lesions.scaled(33, (s, 2 * s), 512, "patch") for s in (224, 28, 4)] == [14, 2, 1]


def greedy(values: np.ndarray[Any, Any], visit: list[int]) -> set[int]:
    """The cells that are left when each visited cell, skipped or not, rules out its neighbours."""
    width = values.shape[1]
    chosen, ruled_out = set(), set()
    for cell in visit:
        row, column = divmod(cell, width)
        if (row, column) not in ruled_out:
            chosen.add(cell)
        ruled_out |= {(row + i, column + j) for i in (-2, -1, 0, 1) for j in (-1, 0, 1, 2)}
    return chosen


def test_a_cell_near_one_visited_before_is_skipped() -> None:
    values = torch.rand(3, 12, 15, dtype=torch.float64,
                        generator=torch.Generator().manual_seed(1))
    visit = order(values.flatten(1), torch.arange(3))
    spared = lesions.spared(ranks(visit).view_as(values), 4)
    for i in range(3):
        expected = greedy(values[i].numpy(), visit[i].tolist())
        assert set(spared[i].flatten().nonzero()[:, 0].tolist()) == expected
    assert lesions.spared(ranks(visit).view_as(values), 1).all()


def test_precision_of_the_first_patches_uses_all_where_there_are_fewer() -> None:
    hit = torch.tensor([[True, True, False, True, False]])
    taken = torch.tensor([[True, False, True, True, False]])
    value, curve = lesions.precisions(hit, taken, 5)
    assert value.tolist() == [2 / 3]
    assert curve.tolist() == [[1, 1 / 2, 2 / 3, 2 / 3, 2 / 3]]
    value, curve = lesions.precisions(hit, torch.zeros_like(taken), 2)
    assert value.isnan().all()
    assert curve.isnan().all()


def test_activation_is_stretched_to_the_unit_interval() -> None:
    values = torch.tensor([[-3.0, 1.0, 2.0, 4.0]]).double()
    inside = torch.tensor([[1.0, 0.0, 1.0, 1.0]]).double()
    precision, sensitivity = lesions.activation(values, inside, 1 - inside)
    assert precision.tolist() == [6 / 7]
    assert sensitivity.tolist() == [1.5 / 3]
    # Where all evidence is positive, the least of it becomes 0.
    precision, sensitivity = lesions.activation(values + 4, inside, 1 - inside)
    assert precision.tolist() == pytest.approx([12 / 16])
    assert sensitivity.tolist() == pytest.approx([12 / 7 / 3])


def test_the_last_tiles_are_cut_off_by_the_edge() -> None:
    values = torch.arange(25.0).reshape(1, 5, 5)
    tiles = lesions.tiled(values, 2)
    assert tiles.tolist() == [[[6, 8, 9], [16, 18, 19], [21, 23, 24]]]
    assert torch.equal(lesions.spread(tiles, 2, (5, 5))[0, 3:], torch.tensor(
        [[16.0, 16, 18, 18, 19], [21, 21, 23, 23, 24]]))


def test_deletion_sets_the_strongest_tiles_to_the_mean_colour() -> None:
    batch = planted(2, 3)
    sample = explained(Additive(), batch, oracle)
    found = scored("patch-deletion", sample, patch=4, tiles=3, side=16)
    x = batch.x.clone()
    best = lesions.tiled(sample.maps.double(), 4)
    curve = [sample.logits.double().softmax(1).gather(1, batch.y[:, None])[:, 0]]
    ranking = best.flatten(1).argsort(dim=1, descending=True)
    for k in range(3):
        for i in range(2):
            row, column = divmod(int(ranking[i, k]), 4)
            x[i, :, 4 * row:4 * row + 4, 4 * column:4 * column + 4] = 0
        curve.append(Additive()(x).double().softmax(1).gather(1, batch.y[:, None])[:, 0])
    expected = (torch.stack(curve, 1) / curve[0][:, None]).clamp(max=1).detach().numpy()
    assert np.allclose(found.curve, expected, atol=1e-6)
    assert np.allclose(found.value, np.trapezoid(expected, np.linspace(0, 1, 4), axis=1), atol=1e-6)


def test_a_wrong_decision_has_no_share_to_lose() -> None:
    sample = explained(Additive(), planted(3, 1), oracle)
    target = sample.target.clone()
    target[1] = (target[1] + 1) % 4
    found = scored("patch-deletion", replace(sample, target=target), confidence="decision")
    assert found.reason == (None, "the untouched image is not taken for the explained class", None)


def test_evidence_below_the_threshold_makes_no_patch() -> None:
    sample = explained(Additive(), planted(2, 1), noise)
    assert scored("patch-precision", sample).reason == ("no evidence above the threshold",) * 2
    found = scored("patch-precision", replace(sample, maps=3 * sample.maps))
    assert found.reason == (None, None)
    # The threshold is in the map's own unit, so the same map in another unit has other patches.
    assert not np.array_equal(
        found.value, scored("patch-precision", replace(sample, maps=1.1 * sample.maps)).value)


@pytest.mark.parametrize("name", ["patch-precision", "activation-precision",
                                  "activation-sensitivity", "patch-deletion"])
def test_degenerate_maps_and_masks_have_a_reason(name: str) -> None:
    sample = explained(Additive(), planted(5, 1), noise)
    maps = 5 * sample.maps
    maps[0], maps[1, 3, 3], maps[2] = 2, torch.nan, -maps[2]
    assert sample.batch.mask is not None
    sample.batch.mask[3] = 0
    found = scored(name, replace(sample, maps=maps))
    negative = {"patch-precision": "no evidence above the threshold", "patch-deletion": None}
    masked = None if name == "patch-deletion" else "empty mask"
    assert found.reason == ("constant map", "NaN in the map",
                            negative.get(name, "no positive evidence"), masked, None)


@pytest.mark.parametrize("name", ["patch-precision", "activation-precision",
                                  "activation-sensitivity"])
def test_where_the_truth_is_unknown_nothing_counts(name: str) -> None:
    sample = explained(Additive(), planted(2, 1), noise)
    assert sample.batch.mask is not None
    sample.batch.mask[:, :, 12:] = 255
    sizes = {"patch": 1, "stride": 1, "neighbourhood": 1} if name == "patch-precision" else {}
    louder = 5 * sample.maps
    louder[:, :, 12:] *= 3
    value, other = (scored(name, replace(sample, maps=maps), **sizes).value
                    for maps in (5 * sample.maps, louder))
    assert np.allclose(value, other, atol=1e-9)


@pytest.mark.parametrize("params", [
    {"patch": 0}, {"stride": "8"}, {"side": -1}, {"k": 0}, {"neighbourhood": 2.5}])
def test_a_size_that_is_none_is_refused(params: Any) -> None:
    with pytest.raises(HeatproofError, match=next(iter(params))):
        scored("patch-precision", explained(Additive(), planted(1, 1), noise), **params)


def test_a_confidence_that_is_none_is_refused() -> None:
    with pytest.raises(HeatproofError, match="top-1"):
        scored("patch-deletion", explained(Additive(), planted(1, 1), noise), confidence="top")


@pytest.mark.parametrize("name", ["activation-precision", "activation-sensitivity",
                                  "patch-deletion", "patch-precision"])
def test_the_known_answer_holds(name: str) -> None:
    found = list(known_answer(plugins.metrics[f"paper/{name}"], channels=3, n=64))
    # The authors' neighbourhood of four cells reaches further to one side than to the other.
    lopsided = {"map and mask mirrored"} if name == "patch-precision" else set()
    assert found
    assert {f.name for f in found if not f.ok} <= lopsided
