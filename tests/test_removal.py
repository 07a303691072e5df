"""Removing parts of images, in order, and what stands in for them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.sparse
import scipy.sparse.linalg
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn
from torch.nn.functional import interpolate

from bench.core import HeatproofError
from bench.metrics.faithfulness import pixel_ranks
from bench.metrics.removal import (
    CHUNK,
    Outputs,
    even_cuts,
    forwards,
    ordered,
    percent_cuts,
    ranks,
    whole,
)
from bench.metrics.replacement import (
    BLUR,
    NOISE,
    OPERATORS,
    blurred,
    interpolated,
    replacement,
)

torch.set_num_threads(1)
CHANNELS = pytest.mark.parametrize("channels", [1, 3], ids=["grey", "rgb"])


class Sum(nn.Module):
    """Two logits, the sum of the image and its opposite; it remembers how many images it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(len(x))
        total = x.flatten(1).sum(1)
        return torch.stack([total, -total], 1)


def images(n: int, channels: int, size: tuple[int, int], seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(n, channels, *size, generator=draw)


def direct(x: Tensor, removed: Tensor) -> Tensor:
    """ROAD's linear system of one image (C, H, W), assembled and solved outright."""
    height, width = removed.shape
    hole = removed.numpy()
    place = -np.ones(hole.shape, int)
    place[hole] = np.arange(hole.sum())
    system = scipy.sparse.lil_matrix((hole.sum(), hole.sum()))
    right = np.zeros((hole.sum(), len(x)))
    for i, j in zip(*np.nonzero(hole), strict=True):
        here = place[i, j]
        for a in range(max(0, i - 1), min(height, i + 2)):
            for b in range(max(0, j - 1), min(width, j + 2)):
                if (a, b) != (i, j):
                    weight = 1 / 6 if a == i or b == j else 1 / 12
                    system[here, here] += weight
                    if hole[a, b]:
                        system[here, place[a, b]] -= weight
                    else:
                        right[here] += weight * x[:, a, b].numpy()
    found = x.clone()
    found[:, removed] = torch.from_numpy(
        scipy.sparse.linalg.splu(system.tocsc()).solve(right)).T
    return found


def test_each_step_replaces_the_units_of_a_rank_below_its_cut() -> None:
    x = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    rank = torch.tensor([[[[2, 0], [1, 3]]]])
    found = ordered(Sum(), x, rank, [0, 1, 2, 4], torch.full_like(x, 10.0))
    assert found[0, :, 0].tolist() == [10.0, 18.0, 25.0, 40.0]
    assert found.shape == (1, 4, 2)


def test_features_may_have_ranks_of_their_own() -> None:
    x = torch.tensor([[[[1.0, 2.0]], [[4.0, 8.0]]]])
    rank = torch.tensor([[[[0, 3]], [[2, 1]]]])
    found = ordered(Sum(), x, rank, range(5), torch.zeros_like(x))
    assert found[0, :, 0].tolist() == [15.0, 14.0, 6.0, 2.0, 0.0]


def test_insertion_is_removal_with_the_roles_swapped() -> None:
    x, canvas = images(2, 3, (4, 4)), images(2, 3, (4, 4), seed=1)
    order = torch.stack([torch.randperm(16), torch.randperm(16)])
    first = ranks(order).view(2, 1, 4, 4)
    inserted = ordered(Sum(), canvas, first, range(17), x)
    removed = ordered(Sum(), x, 15 - first, range(17), canvas)
    torch.testing.assert_close(inserted, removed.flip(1))


def test_no_forward_sees_more_images_than_a_chunk_and_each_image_is_seen_once() -> None:
    net = Sum()
    ordered(net, images(5, 1, (8, 8)), torch.arange(64).view(1, 1, 8, 8).expand(5, -1, -1, -1),
            even_cuts(64, 32), torch.zeros(5, 1, 8, 8))
    assert sum(net.seen) == 5 * 33
    assert max(net.seen) == CHUNK


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_the_size_of_a_chunk_changes_no_number(operator: str, chunk: int) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3))
    x, seed = images(3, 3, (8, 8)), torch.tensor([5, 6, 7])
    rank = pixel_ranks(images(3, 1, (8, 8), seed=2)[:, 0].double(), seed)
    usual, other = (
        ordered(net, x, rank, even_cuts(64, 5), replacement(operator, x, seed), chunk=size)
        for size in (CHUNK, chunk))
    torch.testing.assert_close(usual, other, atol=1e-6, rtol=0)


def test_what_is_read_of_the_logits_is_kept_for_its_own_sample() -> None:
    found = forwards(Sum(), lambda sample, step: (10.0 * sample + step)[:, None], 3, 2,
                     device="cpu", read=lambda logits, sample: logits[:, 0] + sample, chunk=4)
    assert found.tolist() == [[0.0, 1.0], [11.0, 12.0], [22.0, 23.0]]


def test_outputs_are_those_of_the_explained_class() -> None:
    target = torch.tensor([1, 0])
    net = Sum()
    found = Outputs.of(ordered(
        net, torch.tensor([[[[1.0]]], [[[2.0]]]]), torch.zeros(2, 1, 1, 1, dtype=torch.int64),
        [0, 1], torch.full((2, 1, 1, 1), -3.0), read=Outputs.read(target)))
    assert found.logit.tolist() == [[-1.0, 3.0], [2.0, -3.0]]
    assert found.predicted.tolist() == [[0, 1], [0, 1]]
    np.testing.assert_allclose(found.probability[0, 0], 1 / (1 + math.exp(2)), rtol=1e-12)
    assert found.logit.dtype == found.probability.dtype == torch.float64
    np.testing.assert_array_equal(found.followed("standardised", 2.0), found.logit / 2)
    with pytest.raises(HeatproofError, match="'logit'"):
        found.followed("logits", 1.0)


def test_cuts_are_rounded_shares_and_refuse_what_is_no_share() -> None:
    assert even_cuts(10, 4) == [0, 2, 5, 8, 10]
    assert even_cuts(3, 3) == [0, 1, 2, 3]
    assert percent_cuts(256, (10, 50, 100)) == [26, 128, 256]
    for steps in (0, 11, 2.5, True):
        with pytest.raises(HeatproofError, match="whole number from 1 to 10"):
            even_cuts(10, steps)
    for percentages in ((), (0,), (101,), 10, ("10",)):
        with pytest.raises(HeatproofError, match="percentages must be"):
            percent_cuts(10, percentages)
    with pytest.raises(HeatproofError, match="grid must be"):
        whole("grid", "8", 8)


def test_pixels_are_ranked_by_signed_evidence_and_ties_by_the_seed() -> None:
    values = torch.tensor([[[0.5, -1.0], [1.0, 0.0]]], dtype=torch.float64)
    assert pixel_ranks(values, torch.tensor([3]))[0, 0].tolist() == [[1, 3], [0, 2]]
    flat = torch.zeros(2, 6, 6, dtype=torch.float64)
    one, other = pixel_ranks(flat, torch.tensor([1, 2]))
    assert not torch.equal(one, other)
    assert one.flatten().sort().values.tolist() == list(range(36))


def test_cells_are_ranked_by_the_evidence_of_the_pixels_that_go_with_them() -> None:
    values = torch.zeros(1, 5, 6, dtype=torch.float64)
    values[0, 4, 0], values[0, 0, 3], values[0, 2, 2] = 3.0, 2.0, -1.0
    rank = pixel_ranks(values, torch.tensor([0]), cells=2)[0, 0]
    # Row 2 is covered by both halves alike; it goes with the lower one.
    assert (rank[2:, :3] == 0).all()
    assert (rank[:2, 3:] == 1).all()
    assert {int(rank[0, 0]), int(rank[4, 5])} == {2, 3}
    assert (rank[:2, :3] == rank[0, 0]).all()


def test_cells_of_equal_evidence_tie_however_their_sums_are_rounded() -> None:
    row = torch.tensor([0.1, 0.2, 0.3, 0.3, 0.2, 0.1], dtype=torch.float64)
    assert 0.1 + 0.2 + 0.3 != 0.3 + 0.2 + 0.1
    rank = pixel_ranks(row.expand(40, 2, 6), torch.arange(40), cells=2)
    assert {int(first) for first in rank[:, 0, 0, 0]} == {0, 1, 2, 3}


@CHANNELS
def test_operators_fill_by_their_definitions(channels: int) -> None:
    x, seed = images(2, channels, (12, 9)), torch.tensor([1, 2])
    removed = images(2, 1, (12, 9), seed=1) < 0
    both = torch.arange(2)
    mean = replacement("mean", x, seed)(both, removed)
    torch.testing.assert_close(mean[1, 0, 3, 3], x[1, 0].mean())
    torch.testing.assert_close(replacement("zero", x, seed)(both, removed), torch.zeros_like(x))
    torch.testing.assert_close(replacement("blur", x, seed)(both, removed), blurred(x, BLUR))
    linear = replacement("linear", x, seed)(both, removed)
    noise = (linear - interpolated(x, removed)) / NOISE
    assert 0.7 < noise.std() < 1.3
    assert float((noise[0] - noise[1]).abs().max()) > 1
    with pytest.raises(HeatproofError, match="did you mean 'blur'"):
        replacement("blurr", x, seed)


def test_blur_is_a_gaussian_that_keeps_a_constant_up_to_the_border() -> None:
    x = images(1, 2, (40, 48)).double()
    sigma = 0.05 * 40
    wanted = np.stack([gaussian_filter(c, sigma, truncate=20, mode="constant")
                       for c in x[0].numpy()])
    inside = slice(14, -14)
    np.testing.assert_allclose(blurred(x, 0.05)[0, :, inside, inside],
                               wanted[:, inside, inside], atol=1e-10)
    torch.testing.assert_close(blurred(torch.ones(1, 1, 5, 7), 0.5), torch.ones(1, 1, 5, 7))


@CHANNELS
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("kind", ["scattered", "patch"])
def test_linear_imputation_equals_a_direct_solve(channels: int, share: float, kind: str) -> None:
    x = images(2, channels, (32, 24)).double()
    score = images(2, 1, (32, 24), seed=3)
    if kind == "patch":
        score = interpolate(images(2, 1, (4, 4), seed=3), (32, 24), mode="bilinear")
    count = round(share * 32 * 24)
    removed = (score.flatten(1).argsort(1).argsort(1) < count).view(2, 1, 32, 24)
    found = interpolated(x, removed)
    wanted = torch.stack([direct(x[i], removed[i, 0]) for i in range(2)])
    assert float((found - wanted).abs().max()) <= 5e-6


def test_a_single_removed_pixel_is_its_neighbours_weighted_mean() -> None:
    x = images(1, 1, (3, 3)).double()
    removed = torch.zeros(1, 1, 3, 3, dtype=torch.bool)
    removed[..., 1, 1] = True
    weight = torch.tensor([[1, 2, 1], [2, 0, 2], [1, 2, 1]]).double() / 12
    found = interpolated(x, removed)
    torch.testing.assert_close(found[0, 0, 1, 1], (weight * x[0, 0]).sum())
    corner = torch.zeros_like(removed)
    corner[..., 0, 0] = True
    near = (2 * x[0, 0, 0, 1] + 2 * x[0, 0, 1, 0] + x[0, 0, 1, 1]) / 5
    torch.testing.assert_close(interpolated(x, corner)[0, 0, 0, 0], near)


def test_one_pixel_that_is_left_fills_the_image_and_none_leaves_the_mean() -> None:
    x = images(2, 3, (9, 16)).double()
    removed = torch.ones(2, 1, 9, 16, dtype=torch.bool)
    removed[0, 0, 2, 3] = False
    found = interpolated(x, removed)
    torch.testing.assert_close(
        found[0], x[0, :, 2, 3][:, None, None].expand(3, 9, 16), atol=5e-6, rtol=0)
    torch.testing.assert_close(found[1], x[1].mean((1, 2), keepdim=True).expand(3, 9, 16))


def test_nothing_removed_or_a_constant_image_is_left_as_it_is() -> None:
    x = images(1, 1, (8, 8)).double()
    assert torch.equal(interpolated(x, torch.zeros(1, 1, 8, 8, dtype=torch.bool)), x)
    removed = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(1)) < 0.7
    torch.testing.assert_close(interpolated(torch.zeros_like(x), removed), torch.zeros_like(x))
    torch.testing.assert_close(interpolated(torch.full_like(x, 3.0), removed),
                               torch.full_like(x, 3.0), atol=1e-6, rtol=0)


def test_an_imputed_image_does_not_depend_on_those_beside_it() -> None:
    x, seed = images(4, 3, (16, 16)), torch.tensor([4, 5, 6, 7])
    removed = torch.stack([torch.rand(1, 16, 16, generator=torch.Generator().manual_seed(i)) < p
                           for i, p in enumerate((0.1, 0.5, 0.9, 1.1))])
    together = replacement("linear", x, seed)(torch.arange(4), removed)
    for i in range(4):
        fill = replacement("linear", x[[i]], seed[[i]])
        alone = fill(torch.tensor([0]), removed[[i]])
        torch.testing.assert_close(alone[0], together[i], atol=1e-6, rtol=0)
