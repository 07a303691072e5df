"""The resolution-fair track and the ceilings: sums lose nothing, and resolution decides nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, interpolate

from bench import plugins
from bench.core import Batch, HeatproofError
from bench.measure import Explained
from bench.metrics import complexity, fair, localisation, score
from bench.metrics.known import Additive, explained, known_answer, noise, oracle, planted

MAPS = ("fair/pointing-game", "fair/mass-inside", "fair/rank-accuracy", "fair/auc",
        "fair/sparseness", "fair/complexity")
NAMES = (*MAPS, "fair/region-aopc")
CEILINGS = tuple(f"ceiling/{name}" for name in localisation.MEASURES)
plugins.load()


def scored(name: str, sample: Explained, **params: Any) -> Any:
    return score(plugins.metrics[name].with_params(params), sample)


def ellipses(n: int = 8, size: int = 64) -> tuple[Tensor, Tensor]:
    """Objects on images, and the exact evidence of each of their pixels."""
    draw = torch.Generator().manual_seed(0)
    place = (torch.arange(size) + 0.5) / size
    centre = 0.3 + 0.4 * torch.rand(n, 2, 1, 1, generator=draw)
    radius = 0.1 + 0.1 * torch.rand(n, 2, 1, 1, generator=draw)
    off = ((torch.stack(torch.meshgrid(place, place, indexing="ij")) - centre) / radius)
    mask = (off.square().sum(1) <= 1).to(torch.uint8)
    return mask, mask * (0.8 + 0.2 * torch.rand(n, size, size, generator=draw)).double()


def sample_of(maps: Tensor, mask: Tensor) -> Explained:
    n = len(maps)
    batch = Batch(x=torch.zeros(n, 1, *mask.shape[1:]), y=torch.zeros(n).long(),
                  key=tuple(map(str, range(n))), seed=torch.arange(n), group=("",) * n, mask=mask)
    return Explained(network=torch.nn.Identity().eval(), batch=batch, logits=torch.zeros(n, 2),
                     target=batch.y, maps=maps, explain=lambda **_: maps, classes=2)


@pytest.mark.parametrize("sizes", [(3, 2), (16, 7), (224, 7), (31, 31), (5, 1), (14, 4)])
def test_every_native_cell_is_shared_out_wholly_and_evenly(sizes: tuple[int, int]) -> None:
    shares = fair.shares(*sizes)
    assert torch.allclose(shares.sum(0), torch.ones(sizes[0]).double(), atol=1e-15)
    assert torch.allclose(shares.sum(1), torch.full((sizes[1],), sizes[0] / sizes[1]).double(),
                          atol=1e-13)


def test_a_cell_between_two_others_goes_half_to_each() -> None:
    assert fair.shares(3, 2).tolist() == [[1, 0.5, 0], [0, 0.5, 1]]
    map_ = torch.tensor([[[1.0, 2, 4], [8, 16, 32], [64, 128, 256]]])
    assert fair.pooled(map_, (2, 2)).tolist() == [[[10, 25], [136, 340]]]


def test_sums_lose_no_evidence_and_keep_signs() -> None:
    maps = torch.randn(3, 17, 30).double()
    for size in ((7, 7), (17, 30), (1, 1), (4, 28)):
        assert torch.allclose(fair.pooled(maps, size).sum((1, 2)), maps.sum((1, 2)), atol=1e-12)
    assert torch.equal(fair.pooled(maps, (17, 30)), maps)
    assert torch.allclose(fair.pooled(maps[:, :16, :16], (4, 4)),
                          16 * adaptive_avg_pool2d(maps[:, :16, :16], 4), atol=1e-13)


def test_a_grid_finer_than_the_map_is_refused() -> None:
    with pytest.raises(HeatproofError, match="choose a coarser"):
        fair.pooled(torch.zeros(1, 4, 8), (4, 9))


@pytest.mark.parametrize("name", MAPS)
def test_the_same_information_at_two_resolutions_scores_the_same(name: str) -> None:
    mask, fine = ellipses()
    coarse = fair.pooled(fine, (8, 8))
    nearest = interpolate(coarse[:, None], (64, 64))[:, 0]
    for grid in (4, 8):
        found = [scored(name, sample_of(maps, mask), grid=grid).value
                 for maps in (fine, coarse, nearest)]
        assert np.allclose(found[1], found[0], atol=1e-9, rtol=0)
        assert np.allclose(found[2], found[0], atol=1e-9, rtol=0)
    if name != "fair/pointing-game":
        pixels = [scored(name.removeprefix("fair/"), sample_of(maps, mask)).value.mean()
                  for maps in (fine, coarse, nearest)]
        assert min(abs(pixels[a] - pixels[b]) for a, b in ((0, 1), (0, 2), (1, 2))) > 1e-4


def test_how_a_coarse_map_is_drawn_moves_its_pixel_ranks_and_not_its_fair_ones() -> None:
    mask, fine = ellipses()
    coarse = fair.pooled(fine, (8, 8))[:, None]
    both = [sample_of(interpolate(coarse, (64, 64), mode=mode)[:, 0], mask)
            for mode in ("nearest", "bilinear")]
    pixel = [scored("rank-accuracy", sample).value.mean() for sample in both]
    cells = [scored("fair/rank-accuracy", sample, grid=8).value.mean() for sample in both]
    assert pixel[1] - pixel[0] > 0.1
    assert abs(cells[1] - cells[0]) < 0.01


@pytest.mark.parametrize("name", MAPS)
def test_the_curve_has_a_rung_for_every_grid_that_the_map_has(name: str) -> None:
    mask, fine = ellipses(3)
    found = scored(name, sample_of(fine, mask))
    assert found.curve.shape == (3, len(fair.LADDER))
    assert np.isfinite(found.curve[:, :5]).all()
    assert np.isnan(found.curve[:, 5:]).all()
    for rung in (4, 7, 14, 28, 56):
        alone = scored(name, sample_of(fine, mask), grid=rung).value
        assert np.array_equal(found.curve[:, fair.LADDER.index(rung)], alone)
    assert np.array_equal(found.value, found.curve[:, 1])


@pytest.mark.parametrize("name", NAMES)
def test_a_map_coarser_than_the_grid_is_not_scored(name: str) -> None:
    sample = explained(Additive(), planted(2, 1), noise)
    found = scored(name, replace(sample, maps=torch.rand(2, 6, 16)))
    assert found.reason == ("the map of 6 × 16 is coarser than the grid of 7 × 7",) * 2
    assert np.isfinite(scored(name, replace(sample, maps=torch.rand(2, 7, 16))).value).all()


def test_at_the_image_grid_the_fair_score_is_the_pixel_score() -> None:
    sample = explained(Additive(), planted(5, 1), noise)
    for name in MAPS:
        fine = scored(name, sample, grid=16).value
        assert np.allclose(fine, scored(name.removeprefix("fair/"), sample).value, atol=1e-12)


def test_evidence_for_and_against_in_one_cell_cancels_before_it_is_clipped() -> None:
    maps = torch.zeros(1, 8, 8)
    maps[0, 0, :2] = torch.tensor([3.0, -2.0])
    maps[0, 6, 6] = 3.0
    mask = torch.zeros(1, 8, 8, dtype=torch.uint8)
    mask[0, :2, :2] = 1
    sample = sample_of(maps, mask)
    assert scored("mass-inside", sample).value[0] == 3 / 6
    assert scored("fair/mass-inside", sample, grid=4).value[0] == pytest.approx(1 / 4)


@pytest.mark.parametrize("name", MAPS)
def test_degenerate_maps_and_masks_have_a_reason(name: str) -> None:
    sample = explained(Additive(), planted(4, 1), noise)
    maps = sample.maps.clone()
    maps[0], maps[1, 3, 3] = 0, torch.nan
    assert sample.batch.mask is not None
    sample.batch.mask[2] = 0
    found = scored(name, replace(sample, maps=maps))
    masked = "mask" in plugins.metrics[name].needs
    assert found.reason == (
        "constant map", "NaN in the map", "empty mask" if masked else None, None)
    assert np.isfinite(found.curve[3, :3]).all()


def test_cells_count_by_their_known_area() -> None:
    draw = torch.Generator().manual_seed(2)
    maps = torch.rand(1, 8, 8, generator=draw)
    mask = torch.zeros(1, 8, 8, dtype=torch.uint8)
    mask[0, :4, :6] = 1
    mask[0, :, 7] = 255
    sample = sample_of(maps, mask)
    cells = fair.pooled(maps, (4, 4)).flatten(1)
    inside, outside = (fair.pooled(area, (4, 4)).flatten(1)
                       for area in localisation.areas(mask))
    assert float((inside + outside).sum()) == 56
    for name, measure in localisation.MEASURES.items():
        expected = float(measure.score(cells, inside, outside))
        assert scored(f"fair/{name}", sample, grid=4).value[0] == pytest.approx(expected, abs=1e-9)
    expected = float(complexity.gini(cells))
    assert scored("fair/sparseness", sample, grid=4).value[0] == pytest.approx(expected, abs=1e-9)


def test_images_need_not_be_square() -> None:
    mask, fine = ellipses(2)
    mask, fine = mask[:, :40], fine[:, :40]
    for name in MAPS:
        assert np.isfinite(scored(name, sample_of(fine, mask)).value).all()
    for name in CEILINGS:
        assert np.isfinite(scored(name, sample_of(torch.rand(2, 5, 8), mask)).value).all()


@pytest.mark.parametrize("params", [{"grid": 0}, {"grid": 7.0}, {"grid": True}, {"ladder": []},
                                    {"ladder": [4, "7"]}, {"ladder": 7}])
def test_a_grid_that_is_none_is_refused(params: Any) -> None:
    with pytest.raises(HeatproofError, match=r"grid|ladder"):
        scored("fair/auc", explained(Additive(), planted(1, 1), noise), **params)


def test_region_aopc_ranks_cells_by_the_sum_of_the_native_map() -> None:
    sample = explained(Additive(), planted(4, 3), noise)
    # Where the native map has the image's pixels, both tracks sum the same.
    assert np.array_equal(scored("fair/region-aopc", sample, grid=8).value,
                          scored("region-aopc", sample, grid=8).value)
    coarse = fair.pooled(sample.maps, (8, 8))
    for grid in (4, 8):
        found = scored("fair/region-aopc", replace(sample, maps=coarse), grid=grid)
        assert np.array_equal(found.value, scored("fair/region-aopc", sample, grid=grid).value)
        assert found.curve.shape == (4, grid**2 + 1)


def test_a_ceiling_is_what_the_mask_gets_at_that_resolution() -> None:
    mask, _ = ellipses()
    grids = (4, 8, 16, 64)
    for name in CEILINGS:
        means = [scored(name, sample_of(torch.rand(8, grid, grid), mask)).value.mean()
                 for grid in grids]
        assert means == sorted(means)
        assert means[-1] == 1
        plain = name.removeprefix("ceiling/")
        native = fair.pooled(mask.double(), (8, 8)) / 64
        assert np.allclose(scored(name, sample_of(torch.rand(8, 8, 8), mask)).value,
                           scored(plain, sample_of(native, mask)).value, atol=1e-12)
    # A map that marks the core alone has more of its mass inside than the outline has.
    core = (native == native.amax((1, 2), keepdim=True)).double()
    ceiling = scored("ceiling/mass-inside", sample_of(core, mask)).value.mean()
    assert scored("mass-inside", sample_of(core, mask)).value.mean() > ceiling


def test_the_outline_of_an_object_leaves_unknown_pixels_out() -> None:
    mask = torch.zeros(1, 4, 4, dtype=torch.uint8)
    mask[0, :, 0], mask[0, :2, 1], mask[0, 2:, 2:] = 1, 255, 255
    sample = sample_of(torch.rand(1, 2, 2), mask)
    assert fair.outlines(sample).tolist() == [[[1, 0], [0.5, 0]]]


def test_a_ceiling_depends_on_the_grid_of_the_maps_alone() -> None:
    mask, _ = ellipses(3)
    mask[0] = 0
    for name in CEILINGS:
        one, other = (scored(name, sample_of(maps, mask))
                      for maps in (torch.rand(3, 8, 8), torch.full((3, 8, 8), torch.nan)))
        assert one.reason == other.reason == ("empty mask", None, None)
        assert np.array_equal(one.value, other.value, equal_nan=True)


@pytest.mark.parametrize("name", NAMES)
def test_a_score_does_not_depend_on_its_batch_or_on_colour(name: str) -> None:
    for explainer in (noise, oracle):
        batch = planted(5, 1)
        whole = scored(name, explained(Additive(), batch, explainer)).value
        for i in (0, 4):
            alone = explained(Additive(), batch[[i]], explainer)
            assert np.allclose(scored(name, alone).value, whole[[i]], atol=1e-6)
        grey = explained(Additive(), batch, explainer)
        colour = replace(grey, batch=replace(batch, x=batch.x.expand(-1, 3, -1, -1)))
        assert np.allclose(scored(name, colour).value, whole, atol=1e-6)


@pytest.mark.parametrize("name", (*NAMES, *CEILINGS))
def test_the_known_answer_holds(name: str) -> None:
    found = list(known_answer(plugins.metrics[name], channels=3, n=64))
    assert found
    assert all(f.ok for f in found), [f for f in found if not f.ok]
