"""RISE: the authors' masks and maps, and what its map is in expectation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from official import uniform, weights
from torch import Tensor, nn

from bench import plugins, testing
from bench.core import Batch, Card, Method
from bench.explain import explained

plugins.load()

FIXTURE = Path(__file__).parent / "fixtures" / "rise.npz"
SIZES = {"square": (32, 32), "oblong": (30, 41)}


def made(card: Card, **params) -> Method:
    return plugins.methods["rise"](card, nn.Identity, explain=params)


def grey(size: int = 16) -> tuple[Card, Batch]:
    """Four white images: what the network sees is the mask."""
    card, batch = testing.tiny_batch(1, size=size)
    return card, replace(batch, x=torch.ones_like(batch.x), y=torch.zeros_like(batch.y))


class Spot(nn.Module):
    """Its first class has the probability 0.2 + 0.6 · the value of one pixel."""

    def forward(self, x: Tensor) -> Tensor:
        chance = 0.2 + 0.6 * x[:, 0, 3, 5]
        return torch.stack([chance.log(), (1 - chance).log()], 1)


@pytest.fixture(scope="module")
def official() -> dict[str, np.ndarray]:
    with np.load(FIXTURE) as arrays:
        return dict(arrays)


@pytest.mark.parametrize("kind", list(SIZES))
def test_the_masks_are_the_authors(official: dict[str, np.ndarray], kind: str) -> None:
    """eclique/RISE, commit d91ea00: explanations.py `RISE.generate_masks`, after np.random.seed(1).

    The grids and shifts are what it drew; of its masks every third row and fourth column.
    """
    from bench.methods.rise import enlarged

    grids, shifts = (torch.from_numpy(official[f"{kind}_{what}"]) for what in ("grids", "shifts"))
    masks = enlarged(grids.double(), shifts, SIZES[kind]).numpy()
    assert np.abs(masks[:, ::3, ::4] - official[f"{kind}_masks"]).max() < 1e-6
    assert np.abs(masks.sum((1, 2)) - official[f"{kind}_mask_sums"]).max() < 1e-4


@pytest.mark.parametrize("kind", list(SIZES))
def test_the_maps_are_the_authors(
    official: dict[str, np.ndarray], kind: str, monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same commit: `RISE.forward` on those masks, for every class of a small network."""
    size = SIZES[kind]
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(4),
                        nn.Flatten(), nn.Linear(64, 5))
    net.load_state_dict(weights(net.state_dict(), 8.0))
    net.eval().requires_grad_(False)
    card, batch = testing.tiny_batch(3, n=5)
    card = replace(card, image=(3, *size), classes=tuple("abcde"))
    batch = replace(batch, x=(uniform("input", (1, 3, *size)) * 2 - 1).expand(5, -1, -1, -1))
    grids, shifts = (torch.from_numpy(official[f"{kind}_{what}"]) for what in ("grids", "shifts"))
    method = made(card, masks=len(grids), keep=float(official[f"{kind}_keep"]))
    monkeypatch.setattr(method, "_drawn", lambda *_: (grids, shifts))
    maps = explained(method, net, batch, torch.arange(5)).numpy()
    assert np.abs(maps[:, ::2, ::2] - official[f"{kind}_map"]).max() < 1e-6
    assert np.abs(maps.sum((1, 2), dtype=np.float64) - official[f"{kind}_map_sums"]).max() < 1e-4


def test_every_pixel_is_shown_as_often_as_a_cell_is_kept() -> None:
    from bench.methods.rise import enlarged

    card, _ = grey()
    grids, shifts = made(card, cells=4)._drawn(4000, 0.3, (16, 19), 2)
    assert shifts.amax(0).tolist() == [3, 4]
    masks = enlarged(grids.double(), shifts, (16, 19))
    assert float(masks.min()) >= 0
    assert float(masks.max()) <= 1 + 1e-12
    assert torch.allclose(masks.mean(0), torch.tensor(0.3).double(), atol=0.03)
    whole = enlarged(torch.ones(grids.shape), shifts, (16, 19))
    assert torch.allclose(whole, torch.tensor(1.0))


def test_the_map_is_the_expected_probability_where_a_pixel_is_shown() -> None:
    from bench.methods.rise import enlarged

    card, batch = grey()
    found = explained(made(card, masks=8000, cells=4), Spot(), batch[:1], batch.y[:1])[0]
    # Of the pixel that it reads: by the spread of the mask there, over all shifts of the 4 × 4
    # pixels of a cell. Of one that has no cell in common with it: what it is without condition.
    single = torch.eye(16).view(16, 4, 4)
    shares = torch.stack([
        enlarged(single, torch.tensor([[down, right]]).expand(16, 2), (16, 16))[:, 3, 5]
        for down in range(4) for right in range(4)])
    spread = float(shares.square().sum(1).mean())
    assert float(found[3, 5]) == pytest.approx(0.2 + 0.6 * (0.5 + 0.5 * spread), abs=0.02)
    assert float(found[14, 14]) == pytest.approx(0.5, abs=0.02)
    assert found.flatten().topk(9).indices.tolist().count(3 * 16 + 5)


def test_masks_that_hide_nothing_give_the_probability_of_the_image() -> None:
    card, batch = grey()
    found = explained(made(card, masks=3, keep=1.0), Spot(), batch, batch.y)
    assert torch.allclose(found, torch.tensor(0.8))


def test_a_network_that_sees_nothing_has_a_map_of_its_masks_alone() -> None:
    card, batch = grey()
    net = nn.Sequential(nn.Flatten(), nn.Linear(256, 3)).requires_grad_(False)
    net[1].weight.zero_()
    probability = net[1].bias.softmax(0)[1]
    found = explained(made(card, cells=4), net, batch, torch.ones_like(batch.y))
    assert torch.allclose(found, probability.expand_as(found), rtol=0.06)


def test_what_a_mask_hides_becomes_the_baseline() -> None:
    card, batch = grey()  # its black is −1 after normalisation
    hidden = []

    def look(_net: nn.Module, inputs: tuple[Tensor], _logits: Tensor) -> None:
        hidden.append(float(inputs[0].detach().min()))

    net = Spot()
    net.register_forward_hook(look)
    for baseline, value in (("mean", 0.0), ("black", -1.0)):
        hidden.clear()
        explained(made(card, masks=50, baseline=baseline), net, batch[:1], batch.y[:1])
        assert min(hidden) == pytest.approx(value, abs=1e-6)
