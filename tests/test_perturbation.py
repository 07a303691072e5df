"""Explainers that hide parts of the image: exact where the network is linear."""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bench import plugins, testing
from bench.core import Batch, Card, HeatproofError, Method
from bench.explain import explained, unsupported
from bench.passes import counted
from bench.randomness import seeded

plugins.load()

SUPERPIXELS = ("superpixel-ablation", "lime", "kernelshap")
CHEAP = {
    "occlusion": {"window": 0.25, "stride": 0.125}, "superpixel-ablation": {"segments": 16},
    "lime": {"segments": 16, "samples": 60}, "kernelshap": {"segments": 16, "samples": 60},
    "rise": {"masks": 60}}


def made(name: str, card: Card, **params) -> Method:
    return plugins.methods[name](card, nn.Identity, explain=params)


def coloured(size: int = 16, channels: int = 3) -> tuple[Card, Batch]:
    """Images whose channels have means and deviations of their own."""
    card, batch = testing.tiny_batch(channels, size=size)
    return replace(card, mean=(0.3, 0.5, 0.6)[:channels], std=(0.2, 0.3, 0.5)[:channels]), batch


def frozen(net: nn.Module) -> nn.Module:
    return net.eval().requires_grad_(False)


def linear(card: Card) -> nn.Module:
    with seeded(5):
        return frozen(nn.Sequential(nn.Flatten(), nn.Linear(math.prod(card.image), 3)))


def bent(card: Card) -> nn.Module:
    with seeded(6):
        return frozen(nn.Sequential(
            nn.Conv2d(card.image[0], 6, 3, padding=1), nn.Tanh(), nn.MaxPool2d(4), nn.Flatten(),
            nn.Linear(6 * math.prod(card.image[1:]) // 16, 3)))


def absent(card: Card, x: Tensor, baseline: str) -> Tensor:
    mean, std = (torch.tensor(v)[:, None, None] for v in (card.mean, card.std))
    return torch.zeros_like(x) if baseline == "mean" else (-mean / std).expand_as(x)


def worth(net: nn.Module, batch: Batch, hidden: Tensor) -> Tensor:
    """What each pixel of a linear network's image adds to the target's logit: (N, H, W)."""
    weight = net[1].weight[batch.y].view_as(batch.x)
    return (weight * (batch.x - hidden)).sum(1)


def superpixels(method: Method, batch: Batch) -> Tensor:
    return torch.stack([method._segments(x) for x in batch.x])


def sums(values: Tensor, segments: Tensor) -> Tensor:
    """At each pixel, the sum of the values (N, H, W) over its superpixel."""
    totals = torch.zeros(len(values), int(segments.max()) + 1).scatter_add(
        1, segments.flatten(1), values.flatten(1))
    return totals.gather(1, segments.flatten(1)).view_as(values)


@pytest.mark.parametrize("baseline", ["mean", "black"])
def test_occlusion_by_single_pixels_is_the_pixels_worth(baseline: str) -> None:
    card, batch = coloured()
    net = linear(card)
    method = made("occlusion", card, window=1 / 16, stride=1 / 16, baseline=baseline)
    found = explained(method, net, batch, batch.y)
    expected = worth(net, batch, absent(card, batch.x, baseline))
    assert torch.allclose(found, expected, atol=2e-6)
    assert float(expected.abs().max()) > 0.05


def test_occlusion_gives_a_pixel_the_mean_over_the_squares_that_hide_it() -> None:
    card, batch = coloured(size=14)
    batch = replace(batch, x=batch.x[..., :11])  # neither side is a multiple of the stride
    net = linear(replace(card, image=(3, 14, 11)))
    method = made("occlusion", card, window=5 / 11, stride=3 / 11)
    found = explained(method, net, batch, batch.y)
    pixels = worth(net, batch, torch.zeros_like(batch.x))
    total, count = torch.zeros_like(pixels), torch.zeros_like(pixels)
    for top, left in itertools.product(range(0, 10, 3), range(0, 7, 3)):
        square = (slice(None), slice(top, top + 5), slice(left, left + 5))
        total[square] += pixels[square].sum((1, 2))[:, None, None]
        count[square] += 1
    assert int(count.min()) == 1
    assert torch.allclose(found, total / count, atol=2e-6)


@pytest.mark.parametrize("baseline", ["mean", "black"])
def test_ablation_of_a_superpixel_is_the_sum_of_its_pixels_worth(baseline: str) -> None:
    card, batch = coloured()
    net = linear(card)
    method = made("superpixel-ablation", card, baseline=baseline, segments=16)
    found = explained(method, net, batch, batch.y)
    expected = sums(worth(net, batch, absent(card, batch.x, baseline)), superpixels(method, batch))
    assert torch.allclose(found, expected, atol=2e-6)


def test_kernel_shap_is_exact_on_a_linear_network() -> None:
    card, batch = coloured()
    net = linear(card)
    method = made("kernelshap", card, segments=16, samples=60)
    found = explained(method, net, batch, batch.y)
    expected = sums(worth(net, batch, torch.zeros_like(batch.x)), superpixels(method, batch))
    # A regression in float32, in which two of the rows weigh a million times as much.
    assert torch.allclose(found, expected, atol=1e-6)


def test_kernel_shap_comes_near_the_shapley_values_of_a_curved_network() -> None:
    card, batch = coloured()
    batch = batch[:1]
    net = bent(card)
    method = made("kernelshap", card, segments=8)
    segments = superpixels(method, batch)[0]
    count = int(segments.max()) + 1
    subsets = torch.tensor(list(itertools.product((0.0, 1.0), repeat=count)))
    value = net(batch.x * subsets[:, segments][:, None])[:, batch.y[0]]
    sizes, place = subsets.sum(1), 2 ** torch.arange(count - 1, -1, -1)
    shapley = []
    for i in range(count):
        without = torch.nonzero(subsets[:, i] == 0)[:, 0]
        chance = torch.tensor([1 / (count * math.comb(count - 1, int(k))) for k in sizes[without]])
        shapley.append(float((chance * (value[without + place[i]] - value[without])).sum()))
    exact = torch.tensor(shapley)
    found = explained(method, net, batch, batch.y)[0]
    assert count >= 6
    assert torch.allclose(found, exact[segments], atol=0.03 * float(exact.abs().max()))
    ablated = explained(made("superpixel-ablation", card, segments=8), net, batch, batch.y)[0]
    assert not torch.allclose(ablated, exact[segments], atol=0.1 * float(exact.abs().max()))


def test_lime_finds_the_worth_of_a_linear_networks_superpixels_and_shrinks_it() -> None:
    card, batch = coloured()
    batch = batch[:2]
    net = linear(card)
    method = made("lime", card, segments=16, alpha=1e-6, samples=200)
    expected = sums(worth(net, batch, torch.zeros_like(batch.x)), superpixels(method, batch))
    found = explained(method, net, batch, batch.y)
    assert torch.allclose(found, expected, atol=1e-5 * float(expected.abs().max()))
    shrunk = explained(made("lime", card, segments=16, samples=200), net, batch, batch.y)
    off = float((shrunk - expected).abs().max() / expected.abs().max())
    assert 0.01 < off < 0.1
    for pair in zip(shrunk, expected, strict=True):
        ranks = torch.stack([each.unique(return_inverse=True)[1].flatten() for each in pair])
        assert float(torch.corrcoef(ranks.float())[0, 1]) > 0.98


def test_lime_is_the_weighted_ridge_of_the_authors_explainer() -> None:
    card, batch = coloured()
    batch = batch[:1]
    net = bent(card)
    method = made("lime", card, segments=16, samples=80, kernel_width=0.3, alpha=2.0)
    segments = superpixels(method, batch)[0]
    count = int(segments.max()) + 1
    with seeded(int(batch.seed[0])):
        drawn = torch.cat([torch.ones(1, count, dtype=torch.int64)]
                          + [torch.randint(2, (1, count)) for _ in range(79)])
    logits = net(batch.x * drawn[:, segments][:, None])[:, batch.y[0]].double().numpy()
    shown = drawn.double().numpy()
    cosine = shown.sum(1) / (np.sqrt(shown.sum(1)) * math.sqrt(count))
    weight = np.sqrt(np.exp(-(1 - cosine) ** 2 / 0.3 ** 2))
    centred = shown - np.average(shown, axis=0, weights=weight)
    gap = logits - np.average(logits, weights=weight)
    expected = np.linalg.solve((centred.T * weight) @ centred + 2.0 * np.eye(count),
                               (centred.T * weight) @ gap)
    found = explained(method, net, batch, batch.y)[0].numpy()
    assert np.allclose(found, expected[segments.numpy()], atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("name", ["occlusion", *SUPERPIXELS])
def test_a_network_that_sees_nothing_has_a_map_of_zeros(name: str) -> None:
    card, batch = coloured()
    net = linear(card)
    net[1].weight.zero_()
    found = explained(made(name, card, **CHEAP[name]), net, batch, batch.y)
    assert float(found.abs().max()) < 1e-7


@pytest.mark.parametrize("name", ["lime", "kernelshap", "rise"])
def test_a_sample_draws_by_its_own_seed_whatever_its_neighbours(name: str) -> None:
    card, batch = coloured()
    net = bent(card)
    twins = batch[[0, 1, 0, 0]]
    twins = replace(twins, seed=torch.tensor([7, 8, 7, 9]))
    found = explained(made(name, card, **CHEAP[name]), net, twins, twins.y)
    assert torch.equal(found[0], found[2])
    assert not torch.allclose(found[0], found[3], rtol=1e-3)


@pytest.mark.parametrize("name", list(CHEAP))
def test_the_map_does_not_depend_on_how_many_perturbed_images_are_held(
    name: str, monkeypatch: pytest.MonkeyPatch,
) -> None:
    card, batch = coloured()
    net = bent(card)
    method = made(name, card, **CHEAP[name])
    expected = explained(method, net, batch, batch.y)
    seen = []
    hook = net.register_forward_hook(lambda _net, inputs, _logits: seen.append(len(inputs[0])))
    monkeypatch.setattr("bench.methods.perturbation.HELD", 5 * batch.x[0].nbytes)
    found = explained(method, net, batch, batch.y)
    hook.remove()
    assert max(seen) == 5
    assert torch.allclose(found, expected, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("name", list(CHEAP))
def test_explaining_leaves_the_global_generators_as_they_were(name: str) -> None:
    card, batch = coloured()
    net = bent(card)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    made(name, card, **CHEAP[name]).explain(net, batch, batch.y)
    after = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]


class NoGradient(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


@pytest.mark.parametrize("name", list(CHEAP))
def test_a_network_without_gradients_is_served(name: str) -> None:
    card, batch = coloured()
    net = bent(card)
    method, shut = made(name, card, **CHEAP[name]), frozen(NoGradient(net))
    assert unsupported(method, shut) is None
    found, expected = (explained(method, each, batch, batch.y) for each in (shut, net))
    assert torch.allclose(found, expected, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize(("name", "params", "passes"), [
    ("occlusion", {}, 1 + 15 ** 2),
    ("occlusion", {"window": 0.25, "stride": 0.25}, 1 + 4 ** 2),
    ("superpixel-ablation", {"segments": 16}, 1 + 16),
    ("lime", {"segments": 16, "samples": 70}, 70),
    ("kernelshap", {"segments": 16, "samples": 70}, 70),
    ("kernelshap", {"segments": 16}, 2 * 16 + 2048),
    ("rise", {"masks": 70}, 70)])
def test_a_map_costs_the_declared_passes(name: str, params: dict, passes: int) -> None:
    card, batch = coloured(size=32)
    batch = batch[:2]
    net = linear(card)
    with counted(net) as spent:
        explained(made(name, card, **params), net, batch, batch.y)
    # One more image for the whole batch, to see how much memory one takes.
    assert (spent.forward, spent.backward) == (2 * passes + 1, 0)


@pytest.mark.parametrize(("name", "params", "words"), [
    ("occlusion", {"window": 0}, "window must be a number above 0 and at most 1, not 0"),
    ("occlusion", {"window": 1.5}, "window must be a number above 0 and at most 1"),
    ("occlusion", {"stride": "half"}, "stride must be a number above 0"),
    ("occlusion", {"stride": 0.5}, "set stride to at most 0.125, not 0.5"),
    ("occlusion", {"baseline": "grey"}, "baseline must be 'black' or 'mean'"),
    ("superpixel-ablation", {"segments": 0}, "segments must be a whole number of at least 1"),
    ("lime", {"segments": 12.5}, "segments must be a whole number"),
    ("lime", {"samples": 1}, "samples must be a whole number of at least 2"),
    ("lime", {"kernel_width": 0}, "kernel_width must be a number above 0, not 0"),
    ("lime", {"alpha": -1}, "alpha must be a number above 0"),
    ("kernelshap", {"samples": True}, "samples must be a whole number of at least 0"),
    ("kernelshap", {"segments": 16, "samples": 9}, "set samples to more than 1[0-9], or to 0"),
    ("kernelshap", {"baseline": None}, "baseline must be 'black' or 'mean'"),
    ("rise", {"masks": 0}, "masks must be a whole number of at least 1"),
    ("rise", {"cells": 1}, "cells must be a whole number of at least 2"),
    ("rise", {"keep": 0.0}, "keep must be a number above 0 and at most 1"),
    ("rise", {"baseline": 0}, "baseline must be 'black' or 'mean'")])
def test_a_bad_parameter_is_told_in_one_line(name: str, params: dict, words: str) -> None:
    card, batch = coloured()
    with pytest.raises(HeatproofError, match=rf"^{name}: .*{words}") as error:
        explained(made(name, card, **params), linear(card), batch, batch.y)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["noise", "grey noise", "constant", "edges"])
def test_there_are_about_as_many_superpixels_as_asked_for(kind: str) -> None:
    card, batch = coloured(size=56, channels=1 if "grey" in kind else 3)
    x = {"constant": torch.zeros_like(batch.x), "edges": (batch.x > 0).float().cummax(-1).values,
         }.get(kind, batch.x)
    segments = superpixels(made("lime", card), replace(batch, x=x))
    for each in segments:
        assert each.unique().tolist() == list(range(int(each.max()) + 1))
        assert 35 <= int(each.max()) + 1 <= 65


def test_superpixels_follow_the_picture_and_not_its_normalisation() -> None:
    card, _ = coloured(size=28)
    mean, std = (torch.tensor(v)[:, None, None] for v in (card.mean, card.std))
    picture = torch.zeros(3, 28, 28)
    picture[:, 9:20, 5:18] = torch.tensor([0.9, 0.5, 0.2])[:, None, None]
    found = made("lime", card)._segments((picture - mean) / std)
    plain = replace(card, mean=(0.0,) * 3, std=(1.0,) * 3)
    assert torch.equal(found, made("lime", plain)._segments(picture))
    inside = picture[0] > 0
    assert not set(found[inside].tolist()) & set(found[~inside].tolist())
    grey = replace(plain, image=(1, 28, 28), mean=(0.0,), std=(1.0,))
    alike = made("lime", plain)._segments(picture[:1].expand(3, -1, -1))
    assert torch.equal(made("lime", grey)._segments(picture[:1]), alike)
    two = replace(plain, image=(2, 28, 28), mean=(0.0,) * 2, std=(1.0,) * 2)
    pair = torch.cat([torch.zeros(1, 28, 28), 2 * picture[:1]])
    assert torch.equal(made("lime", two)._segments(pair), alike)


def test_a_single_superpixel_has_all_of_the_fall() -> None:
    card, batch = coloured()
    net = bent(card)
    fall = (net(batch.x) - net(torch.zeros_like(batch.x))).gather(1, batch.y[:, None])[:, 0]
    for name in ("kernelshap", "superpixel-ablation"):
        found = explained(made(name, card, segments=1), net, batch, batch.y)
        assert torch.allclose(found, fall[:, None, None].expand_as(found), atol=1e-6)


@pytest.mark.parametrize("name", ["occlusion", *SUPERPIXELS])
@pytest.mark.parametrize("channels", [1, 3])
def test_an_oblong_image_is_explained_as_it_lies(name: str, channels: int) -> None:
    card, batch = coloured(channels=channels)
    card = replace(card, image=(channels, 16, 24))
    batch = replace(batch, x=torch.cat([batch.x, batch.x[..., :8]], -1))
    net = linear(card)
    net[1].weight.view(3, channels, 16, 24)[..., 12:] = 0
    found = explained(made(name, card, **CHEAP[name]), net, batch, batch.y).abs()
    assert found.shape == (4, 16, 24)
    assert float(found[..., :8].mean()) > 3 * float(found[..., -8:].mean())


def test_superpixels_are_found_once_an_image(monkeypatch: pytest.MonkeyPatch) -> None:
    import skimage.segmentation

    seen, slic = [], skimage.segmentation.slic

    def counted(image, **given):
        seen.append(given["n_segments"])
        return slic(image, **given)

    monkeypatch.setattr(skimage.segmentation, "slic", counted)
    card, batch = testing.tiny_batch(3)
    batch = replace(batch, x=batch.x + 0.01)                # no other test has met these
    first = superpixels(made("superpixel-ablation", card, segments=16), batch)
    assert torch.equal(first, superpixels(made("lime", card, segments=16, samples=60), batch))
    assert seen == [16] * len(batch)
    superpixels(made("superpixel-ablation", card, segments=8), batch)
    superpixels(made("superpixel-ablation", replace(card, mean=(.1,) * 3), segments=16), batch)
    assert seen == [16] * len(batch) + [8] * len(batch) + [16] * len(batch)
