"""The one converter: native signed maps in, what Quantus is given out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from bench.core import HeatproofError
from bench.metrics import evidence, maps


def test_ties_are_broken_by_the_samples_own_seed() -> None:
    flat = torch.zeros(2, 4, 4)
    flat[:, 0, 0] = 1
    first = maps.converted(flat, (4, 4), "ranks", torch.tensor([1, 2])).array
    swapped = maps.converted(flat, (4, 4), "ranks", torch.tensor([2, 1])).array
    assert np.array_equal(first, swapped[::-1])
    assert not np.array_equal(first[0], first[1])
    assert (first[:, 0, 0, 0] == 1).all()
    assert sorted(first[0].ravel() * 16) == list(range(1, 17))


def test_a_value_that_interpolation_splits_is_one_value() -> None:
    native = torch.full((1, 3, 3), 0.1)
    native[0, 0, 0] = 0.7
    array = evidence.upsampled(native, (16, 16))
    assert len(np.unique(array[0, 9:, 9:])) >= 1
    grained = maps.converted(native, (16, 16), "signed", torch.tensor([1])).array
    assert len(np.unique(grained[0, 0, 9:, 9:])) == 1


def test_maps_are_upsampled_bilinearly_to_the_image() -> None:
    native = torch.rand(2, 4, 4)
    expected = interpolate(native[:, None].double(), (16, 16), mode="bilinear")
    raw = maps.converted(native, (16, 16), "raw", torch.tensor([1, 2]))
    assert np.array_equal(raw.array, expected.numpy())
    assert raw.array.shape == (2, 1, 16, 16)


@pytest.mark.parametrize("kind", ["signed", "positive", "absolute", "ranks"])
def test_every_converted_map_has_its_own_peak_at_one(kind: Any) -> None:
    native = torch.randn(3, 4, 4) * torch.tensor([1e-6, 1.0, 1e6])[:, None, None]
    array = maps.converted(native, (8, 8), kind, torch.tensor([1, 2, 3])).array
    assert np.array_equal(np.abs(array).max((1, 2, 3)), np.ones(3))
    assert kind == "signed" or array.min() >= 0


def test_a_map_finer_than_the_image_is_refused() -> None:
    with pytest.raises(HeatproofError, match="no finer than the image"):
        maps.converted(torch.rand(1, 32, 32), (16, 16), "raw", torch.tensor([1]))
    with pytest.raises(HeatproofError, match="absolute"):
        maps.converted(torch.rand(1, 8, 8), (16, 16), "absolut", torch.tensor([1]))  # type: ignore[arg-type]
