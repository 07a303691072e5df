"""Gradient explainers: known answers on linear networks, captum's own numbers, draws held."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from captum.attr import GradientShap, NoiseTunnel, Saliency
from explained_nets import NETWORKS
from torch import Tensor, nn

from bench import plugins, testing
from bench.chunks import TargetScore, at_most
from bench.core import Batch, HeatproofError, Method
from bench.explain import explained, unsupported
from bench.methods import gradients
from bench.passes import counted
from bench.randomness import seeded

plugins.load()
pytestmark = pytest.mark.filterwarnings("error")

DRAWING = ("gradientshap", "smoothgrad", "vargrad")
NAMES = ("saliency", "input-x-gradient", "ig", *DRAWING)


class Linear(nn.Module):
    """Three logits, each a weighed sum of the pixels, and a bias."""

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(5)
        self.weight = nn.Parameter(torch.randn(3, channels, size, size, generator=draw))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("nchw,kchw->nk", x, self.weight) + 2


def made(name: str, kind: str = "resnet", *, n: int = 4, **params: object,
         ) -> tuple[Method, nn.Module, Batch]:
    """A method that has studied its own batch, a network, and the batch."""
    linear = kind == "linear"
    card, batch = testing.tiny_batch(3, size=8 if linear else 32, n=n)
    with seeded(0):
        net = Linear(3, 8) if linear else NETWORKS[kind](card)
    few = {"samples": 6} if name in DRAWING else {}
    method = plugins.methods[name](card, lambda: net, explain={**few, **params})
    if method.studies():
        method.study([batch])
    return method, net.eval().requires_grad_(False), batch


def maps_of(name: str, kind: str = "resnet", **params: object) -> Tensor:
    method, net, batch = made(name, kind, **params)
    return explained(method, net, batch, batch.y)


def gain(net: nn.Module, batch: Batch, other: Tensor) -> Tensor:
    """By how much the explained logit is larger than for other images."""
    return (net(batch.x) - net(other)).gather(1, batch.y[:, None])[:, 0]


# ---- the gradient itself

def test_saliency_of_a_linear_network_is_its_largest_weight() -> None:
    _, net, batch = made("saliency", "linear")
    assert torch.equal(maps_of("saliency", "linear"), net.weight[batch.y].abs().amax(1))


def test_input_x_gradient_of_a_linear_network_adds_up_to_the_logit_less_its_bias() -> None:
    _, net, batch = made("input-x-gradient", "linear")
    total = maps_of("input-x-gradient", "linear").sum((1, 2))
    assert torch.allclose(total, gain(net, batch, torch.zeros_like(batch.x)), atol=1e-4)


def test_input_x_gradient_is_integrated_gradients_from_the_mean_on_a_linear_network() -> None:
    product = maps_of("input-x-gradient", "linear")
    assert torch.allclose(product, maps_of("ig", "linear", baseline="mean", steps=3), atol=1e-5)
    assert not torch.allclose(product, maps_of("ig", "linear", baseline="black"), atol=1e-1)


# ---- Integrated Gradients

@pytest.mark.parametrize(("kind", "baseline", "value"), [
    ("resnet", "black", -1.0), ("convnext-v2", "black", -1.0), ("gp-unet", "mean", 0.0)])
def test_integrated_gradients_are_complete_the_better_the_more_steps(
    kind: str, baseline: str, value: float,
) -> None:
    _, net, batch = made("ig", kind, n=2)
    whole = gain(net, batch, torch.full_like(batch.x, value))
    few, many = (
        float((maps_of("ig", kind, n=2, baseline=baseline, steps=steps).sum((1, 2)) - whole)
              .abs().max() / whole.abs().max()) for steps in (5, 200))
    assert 2 * many < few
    assert many < 5e-3


def test_integrated_gradients_do_not_depend_on_how_many_images_fit(monkeypatch) -> None:
    asked = []

    class Watched(TargetScore):
        def __call__(self, x: Tensor, target: Tensor) -> Tensor:
            asked.append(len(x))
            return super().__call__(x, target)

    maps = maps_of("ig")
    monkeypatch.setattr(gradients, "TargetScore", Watched)
    for fits, most in ((1, 4), (9, 8)):
        asked.clear()
        monkeypatch.setattr(gradients, "fitting", lambda net, x, fits=fits: fits)
        assert torch.allclose(maps_of("ig"), maps, rtol=0, atol=1e-6 * float(maps.abs().max()))
        assert (max(asked), sum(asked)) == (most, 4 * 50)


# ---- GradientSHAP

def test_gradientshap_adds_up_to_the_gain_over_the_training_images_it_drew() -> None:
    method, net, batch = made("gradientshap", "linear", samples=40)
    total = explained(method, net, batch, batch.y).sum((1, 2))
    for i in range(len(batch)):
        with seeded(int(batch.seed[i])):
            drawn = np.random.choice(len(method.background), 40)  # captum's own draw
        logits = net(method.background[drawn])[:, batch.y[i]]
        assert torch.isclose(total[i], net(batch.x[[i]])[0, batch.y[i]] - logits.mean(), atol=1e-3)


def test_gradientshap_of_one_training_image_is_exact_on_a_linear_network() -> None:
    method, net, batch = made("gradientshap", "linear", background=1)
    assert torch.equal(method.background, batch.x[:1])
    maps = explained(method, net, batch, batch.y)
    share = (net.weight[batch.y] * (batch.x - batch.x[:1])).sum(1)
    assert torch.allclose(maps, share, atol=1e-5)


def test_gradientshap_is_captums_one_sample_at_a_time() -> None:
    method, net, batch = made("gradientshap")
    maps = explained(method, net, batch, batch.y)
    for i in range(2):
        with seeded(int(batch.seed[i])):
            other = GradientShap(net).attribute(
                batch.x[[i]], method.background, n_samples=6, target=batch.y[[i]])
        assert torch.allclose(maps[[i]], other.sum(1).detach(), rtol=1e-4, atol=1e-7)


def test_the_first_training_images_are_kept_and_no_batch_is_read_after_them() -> None:
    card, batch = testing.tiny_batch(3, n=5)
    read = []

    def batches():
        for start in (0, 2, 4):
            read.append(start)
            yield batch[slice(start, start + 2)]

    for most, kept, seen in ((3, 3, [0, 2]), (2, 2, [0]), (100, 5, [0, 2, 4])):
        read.clear()
        method = plugins.methods["gradientshap"](
            card, nn.Identity, explain={"background": most})
        method.study(batches())
        assert torch.equal(method.background, batch.x[:kept])
        assert read == seen


def test_a_method_that_needs_training_images_says_so_when_it_was_shown_none() -> None:
    _, net, batch = made("gradientshap")
    method = plugins.methods["gradientshap"](testing.tiny_batch(3)[0], nn.Identity)
    with pytest.raises(HeatproofError, match=r"call study\(batches\) before explain"):
        explained(method, net, batch, batch.y)
    with pytest.raises(HeatproofError, match="no training image"):
        method.study([])


# ---- the gradient under noise

def test_smoothgrad_without_noise_is_saliency() -> None:
    assert torch.allclose(maps_of("smoothgrad", noise=0), maps_of("saliency"), rtol=1e-5)
    assert not torch.allclose(maps_of("smoothgrad"), maps_of("saliency"), rtol=1e-2)


def test_noise_changes_nothing_of_a_linear_network() -> None:
    assert torch.allclose(maps_of("smoothgrad", "linear"), maps_of("saliency", "linear"))
    assert float(maps_of("vargrad", "linear").max()) < 1e-14


@pytest.mark.parametrize("name", ["smoothgrad", "vargrad"])
def test_maps_under_noise_are_captums_on_a_network_of_float64(name: str) -> None:
    maps = maps_of(name)
    _, net, batch = made(name)
    net, x = net.double(), batch.x.double()
    for i in range(2):
        with seeded(int(batch.seed[i])):
            other = NoiseTunnel(Saliency(net)).attribute(
                x[[i]], nt_type=name, nt_samples=6, target=batch.y[[i]], abs=False,
                stdevs=0.15 * float(x[i].max() - x[i].min()))
        assert torch.allclose(maps[i].double(), other[0].abs().amax(0), rtol=1e-3, atol=1e-8)


def test_a_small_variance_beside_a_large_gradient_survives() -> None:
    class Bent(Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 1000 * super().forward(x) + x.square().sum((1, 2, 3))[:, None]

    method, _, batch = made("vargrad", "linear", samples=50)
    net = Bent(3, 8).requires_grad_(False)
    maps = explained(method, net, batch, batch.y)
    for i in range(2):
        spread = 0.15 * float(batch.x[i].max() - batch.x[i].min())
        with seeded(int(batch.seed[i])):
            noise = torch.normal(0, torch.full((50, 3, 8, 8), spread)).double()
        with seeded(int(batch.seed[i])):
            captums = NoiseTunnel(Saliency(net)).attribute(
                batch.x[[i]], nt_type="vargrad", nt_samples=50, target=batch.y[[i]], abs=False,
                stdevs=spread)[0].amax(0)
        # The gradient is 1000 times the weights, plus twice the noisy image.
        true = (2 * noise).var(0, correction=0).amax(0)
        assert torch.allclose(maps[i].double(), true, rtol=1e-2)
        assert float((captums / true - 1).abs().max()) > 0.2  # which sums in float32


# ---- chance, memory, cost

@pytest.mark.parametrize("name", DRAWING)
def test_what_a_sample_draws_depends_on_its_own_seed_alone(name: str) -> None:
    method, net, batch = made(name, "softcam")
    maps = explained(method, net, batch, batch.y)
    state = torch.get_rng_state(), np.random.get_state()[1].tobytes(), random.getstate()
    turned = method.explain(net, batch[[3, 1]], batch.y[[3, 1]])
    assert torch.equal(turned, maps[[3, 1]])
    assert torch.equal(torch.get_rng_state(), state[0])
    assert (np.random.get_state()[1].tobytes(), random.getstate()) == state[1:]
    other = replace(batch, seed=batch.seed + 1)
    assert not torch.allclose(explained(method, net, other, batch.y), maps, rtol=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_pieces_change_neither_draws_nor_maps(name: str) -> None:
    maps = maps_of(name, "softcam")
    for rows in (1, 4):
        with at_most(rows):
            other = maps_of(name, "softcam")
        assert torch.allclose(other, maps, rtol=0, atol=1e-5 * float(maps.abs().max()))


@pytest.mark.parametrize(("name", "each", "probes"), [
    ("saliency", 1, 0), ("input-x-gradient", 1, 0), ("ig", 50, 1),
    ("gradientshap", 6, 1), ("smoothgrad", 6, 1), ("vargrad", 6, 1)])
def test_the_passes_are_what_the_method_says(name: str, each: int, probes: int) -> None:
    method, net, batch = made(name)
    with counted(net) as passes:
        explained(method, net, batch, batch.y)
    # A probe tells, once a network, how many images fit.
    assert (passes.forward, passes.backward) == (4 * each + probes, 4 * each)


# ---- what cannot be

@pytest.mark.parametrize(("name", "params", "says"), [
    ("ig", {"steps": 0}, "ig: steps must be a whole number of at least 1, not 0"),
    ("ig", {"steps": 2.5}, "steps must be a whole number"),
    ("ig", {"baseline": "white"}, "baseline must be 'black' or 'mean', not 'white'"),
    ("gradientshap", {"samples": 0}, "samples must be a whole number of at least 1"),
    ("gradientshap", {"background": 0}, "background must be a whole number of at least 1"),
    ("smoothgrad", {"samples": True}, "samples must be a whole number of at least 1"),
    ("smoothgrad", {"noise": -0.1}, "smoothgrad: noise must be a number from 0, not -0.1"),
    ("vargrad", {"noise": float("nan")}, "noise must be a number from 0, not nan"),
    ("vargrad", {"noise": "0.1"}, "noise must be a number from 0, not '0.1'")])
def test_a_bad_parameter_is_answered_with_what_is_allowed(
    name: str, params: dict[str, object], says: str,
) -> None:
    with pytest.raises(HeatproofError, match=says):
        maps_of(name, "linear", **params)


@pytest.mark.parametrize("name", NAMES)
def test_a_network_without_a_gradient_is_said_to_be_unsupported(name: str) -> None:
    class Cut(Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.detach())

    method, net, _ = made(name, "linear")
    assert unsupported(method, net) is None
    reason = unsupported(method, Cut(3, 8).requires_grad_(False))
    assert reason == ("the logits of Cut have no gradient with respect to the image, and "
                      f"{method.title} reads it")
