"""GP nets: the official networks' numbers, the head's algebra, and what training may look at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from bench.methods.gp_nets.head import GlobalPoolingNet
from bench.methods.gp_nets.layers import sinc
from official import uniform, weights
from scipy.signal import resample
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor, nn
from torch.nn import functional

from bench import nets, plugins, testing
from bench.core import HeatproofError, Method
from bench.explain import explained

plugins.load()
NAMES = ("gp-unet", "gp-shuffleunet", "gp-reconresnet")
TINY = {"gp-unet": {"width": 8, "depth": 3}, "gp-shuffleunet": {"width": 4, "levels": 2},
        "gp-reconresnet": {"width": 4, "blocks": 2}}
FIXTURES = Path(__file__).parent / "fixtures"
CLASS_WEIGHTS = (0.6372, 8.9905, 0.7579)  # the authors', of BraTS 2020


def made(name: str, *, channels: int = 4, size: int = 32, **params: object) -> Method:
    """A method at its published sizes, but for `params`, for three classes."""
    card, _ = testing.tiny_batch(channels, size=size)
    return plugins.methods[name](card, nn.Identity, train={"dropout": 0.0, **params})


def tiny(name: str, **params: object) -> tuple[Method, GlobalPoolingNet, testing.Batch]:
    """A tiny method, its network in evaluation mode and a batch."""
    torch.manual_seed(0)
    method = made(name, **TINY[name], **params)
    net = method.network().eval()
    # At first a network may have no bias, and a small head: these could hide an error.
    net.head.load_state_dict(weights(net.head.state_dict(), 4.0))
    return method, net, testing.tiny_batch(4)[1]


def bare(*, pool: str = "max_before", width: int = 4) -> GlobalPoolingNet:
    """The head alone, over F itself."""
    net = GlobalPoolingNet(nn.Identity(), width, 3, pool=pool, activation="none")
    net.head.load_state_dict(weights(net.head.state_dict(), 4.0))
    return net


def officially(name: str, case: str) -> tuple[dict[str, np.ndarray], dict[str, Tensor]]:
    """What the official code gave, and its weights by its names."""
    with np.load(FIXTURES / f"{name.replace('-', '_')}.npz") as file:
        found = {key.removeprefix(f"{case}."): file[key] for key in file.files
                 if key.startswith(f"{case}.")}
    like = {}
    for line in found["state"]:
        key, _, shape = line.partition("|")
        dtype = torch.int64 if key.endswith("num_batches_tracked") else torch.float32
        like[key] = torch.zeros([int(n) for n in shape.split(",") if n], dtype=dtype)
    return found, weights(like, 2.0)


@pytest.mark.parametrize(("name", "case", "params"), [
    ("gp-unet", "sinc", {"width": 8}),
    ("gp-unet", "odd", {"width": 8}),
    ("gp-unet", "transposed", {"width": 8, "upsampling": "transposed"}),
    ("gp-unet", "bilinear", {"width": 8, "upsampling": "bilinear"}),
    ("gp-unet", "sigmoid", {"width": 8, "depth": 2, "activation": "sigmoid"}),
    ("gp-unet", "softmax", {"width": 8, "depth": 2, "activation": "softmax"}),
    ("gp-unet", "relu", {"width": 8, "depth": 2, "activation": "relu"}),
    pytest.param("gp-unet", "full", {}, marks=pytest.mark.slow),
    ("gp-shuffleunet", "small", {"width": 8}),
    ("gp-shuffleunet", "two", {"width": 8, "levels": 2}),
    pytest.param("gp-shuffleunet", "full", {}, marks=pytest.mark.slow),
    ("gp-reconresnet", "small", {"width": 8, "blocks": 3}),
    ("gp-reconresnet", "odd", {"width": 8, "blocks": 2}),
    ("gp-reconresnet", "tanh", {"width": 8, "blocks": 1, "activation": "tanh"}),
    pytest.param("gp-reconresnet", "full", {}, marks=pytest.mark.slow),
])
def test_it_is_the_official_network(name: str, case: str, params: dict[str, object]) -> None:
    """Logits, heatmaps, the weighed loss and all gradients are the official code's, in float64.

    The fixtures come from soumickmj/GPModels c6243a4 with soumickmj/pytorch-complex d037bbe and
    soumickmj/Tricorder 4a72b02: `GP_UNet`, `GP_ShuffleUNet(d=2)` and `GP_ReconResNet`, up_mode and
    upinterp_algo "sinc" unless the case says otherwise, without dropout; weights by
    `official.weights` of gain 2 under the official names, images by `official.uniform`. Maps hold
    every fourth row and column; of each gradient the sum and the absolute sum.
    """
    found, state = officially(name, case)
    method = made(name, **params)
    net = method.network()
    net.load_state_dict(method.published(state))
    net.double()
    batch = images(tuple(found["input"]), torch.tensor([2, 0]))

    x = batch.x.requires_grad_()
    logits, maps = net.eval()(x), net.maps(x)
    (gradient,) = torch.autograd.grad(logits.gather(1, batch.y[:, None]).sum(), x)
    close(logits, found["logits"])
    close(maps[:, :, ::4, ::4], found["maps"])
    close(sums(maps, (2, 3)), found["maps_sum"].transpose(1, 2, 0))
    close(sums(gradient, (1, 2, 3)), found["input_grad"])

    net.train()
    close(net(x), found["train_logits"])
    method.class_weights = torch.tensor(CLASS_WEIGHTS, dtype=torch.float64)
    loss = method.loss(net, batch)
    close(loss, found["loss"])
    loss.backward()
    theirs = dict(zip(state, torch.from_numpy(found["grads"])[:, None], strict=True))
    ours = method.published(theirs)
    for key, weight in net.named_parameters():
        close(sums(weight.grad), ours[key].sum(0), scale=float(ours[key].sum(0)[1]) + 1)


def images(shape: tuple[int, ...], y: Tensor) -> testing.Batch:
    """Images in float64 by the rule."""
    _, batch = testing.tiny_batch(n=shape[0])
    return replace(batch, x=uniform("input", shape).double(), y=y, mask=None)


def sums(values: Tensor, dims: tuple[int, ...] | None = None) -> Tensor:
    """The sum and the absolute sum, last."""
    return torch.stack([values.sum(dims), values.abs().sum(dims)], -1)


def close(ours: Tensor, theirs: np.ndarray | Tensor, scale: float | None = None) -> None:
    """Equal but for the rounding of float64."""
    expected = torch.as_tensor(theirs)
    assert ours.shape == expected.shape
    scale = float(expected.abs().max()) if scale is None else scale
    assert float((ours.detach() - expected).abs().max()) <= 1e-11 * scale


@pytest.mark.parametrize("name", NAMES)
def test_the_authors_checkpoints_fit_whatever_is_wrapped_around_them(name: str) -> None:
    case, params = {"gp-unet": ("sinc", {}), "gp-shuffleunet": ("small", {}),
                    "gp-reconresnet": ("small", {"blocks": 3})}[name]
    _, state = officially(name, case)
    method = made(name, width=8, **params)
    own = method.network().state_dict()
    native = method.published(state)
    assert {k: v.shape for k, v in native.items()} == {k: v.shape for k, v in own.items()}
    # The trainer and the hub wrap the network as `net`; the trainer keeps its class weights, too.
    wrapped = {f"net.{key}": value for key, value in reversed(state.items())}
    again = method.published({"loss.weight": torch.ones(3), **wrapped})
    assert all(torch.equal(again[key], native[key]) for key in own)
    assert set(again) == set(own)


@pytest.mark.parametrize(("name", "count"), [
    ("gp-unet", 1_740_675), ("gp-shuffleunet", 26_371_587), ("gp-reconresnet", 17_272_918)])
def test_the_published_sizes_have_the_official_number_of_weights(name: str, count: int) -> None:
    assert sum(weight.numel() for weight in made(name).network().parameters()) == count


@pytest.mark.parametrize("name", NAMES)
def test_a_heatmap_is_as_large_as_the_image(name: str) -> None:
    _, net, _ = tiny(name)
    for size in [(240, 240), (64, 32)] + [(33, 47), (28, 29)] * (name != "gp-shuffleunet"):
        x = uniform("input", (1, 4, *size))
        with torch.no_grad():
            assert net.maps(x).shape == (1, 3, *size)
            assert net(x).shape == (1, 3)
        assert nets.feature_map(net, x).shape == (1, TINY[name]["width"], *size)


@pytest.mark.parametrize("name", NAMES)
def test_logits_and_heatmap_are_one_convolution_of_the_same_features(name: str) -> None:
    _, net, batch = tiny(name)
    features = nets.feature_map(net, batch.x)
    weight, bias = net.head.weight[:, :, 0, 0], net.head.bias
    maps = torch.einsum("ck,nkij->ncij", weight, features) + bias[:, None, None]
    assert torch.allclose(net.maps(batch.x), maps, atol=1e-5)
    assert torch.allclose(net(batch.x), features.amax((2, 3)) @ weight.T + bias, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_training_mode_without_dropout_and_batch_norm_gives_the_same_logits(name: str) -> None:
    _, net, batch = tiny(name)
    expected = net(batch.x)
    net.train()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    assert torch.equal(net(batch.x), expected)


@pytest.mark.parametrize("name", NAMES)
def test_dropout_is_a_probability_and_works_while_training_alone(name: str) -> None:
    _, net, batch = tiny(name, dropout=0.5)
    assert torch.equal(net(batch.x), net(batch.x))
    net.train()
    assert not torch.allclose(net(batch.x), net(batch.x))
    for wrong in (True, 1.0, -0.1, "0.5"):
        with pytest.raises(HeatproofError, match=f"{name}: dropout must be a probability"):
            made(name, dropout=wrong)


def test_a_logit_bounds_its_heatmap_only_if_all_its_weights_are_positive() -> None:
    features = uniform("F", (5, 4, 6, 7)) - 0.5
    net = bare()
    assert bool((net(features) < net.maps(features).amax((2, 3)) - 1e-3).any())
    net.head.weight.data.abs_()
    assert bool((net(features) >= net.maps(features).amax((2, 3)) - 1e-6).all())


def test_a_logit_is_the_heatmaps_maximum_if_one_pixel_or_one_channel_speaks() -> None:
    net = bare()
    pixel = uniform("F", (5, 4, 1, 1))
    assert torch.allclose(net(pixel), net.maps(pixel).amax((2, 3)))
    net.head.weight.data.abs_()[:, 1:] = 0
    features = uniform("F", (5, 4, 6, 7))
    assert torch.allclose(net(features), net.maps(features).amax((2, 3)))


def test_two_channels_that_peak_at_two_pixels_make_a_logit_that_no_pixel_has() -> None:
    net = bare(width=2)
    net.head.weight.data.fill_(1.0)
    net.head.bias.data.zero_()
    features = torch.tensor([[[[3.0, 0.0]], [[0.0, 5.0]]]])
    assert net.maps(features).tolist() == [[[[3.0, 5.0]]] * 3]
    assert net(features).tolist() == [[8.0] * 3]


@pytest.mark.parametrize("pool", ["max_before", "max_after", "mean"])
def test_a_logit_does_not_see_where_a_feature_lies(pool: str) -> None:
    net = bare(pool=pool)
    features = uniform("F", (2, 4, 6, 7))
    order = uniform("order", (42,)).argsort()
    moved = features.flatten(2)[:, :, order].unflatten(2, (6, 7))
    assert torch.allclose(net(moved), net(features), atol=1e-6)
    assert torch.allclose(net.maps(moved).flatten(2), net.maps(features).flatten(2)[:, :, order],
                          atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_the_other_poolings_read_the_heatmap_and_only_the_mean_adds_up(name: str) -> None:
    for pool, additivity in [("max_before", "none"), ("max_after", "none"), ("mean", "mean")]:
        method, net, batch = tiny(name, pool=pool)
        assert method.additivity == additivity
        maps = net.maps(batch.x)
        expected = {"max_after": maps.amax((2, 3)), "mean": maps.mean((2, 3))}
        if pool in expected:
            assert torch.allclose(net(batch.x), expected[pool], atol=1e-6)


def test_the_activation_follows_the_heatmap_and_the_logits() -> None:
    _, plain, batch = tiny("gp-unet")
    for name, function in [("sigmoid", torch.sigmoid), ("relu", torch.relu), ("tanh", torch.tanh),
                           ("softmax", lambda values: values.softmax(1))]:
        method, net, _ = tiny("gp-unet", activation=name)
        assert method.signed is (name == "tanh")
        net.load_state_dict(plain.state_dict())
        assert torch.allclose(net.maps(batch.x), function(plain.maps(batch.x)), atol=1e-6)
        assert torch.allclose(net(batch.x), function(plain(batch.x)), atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_gradcam_on_the_features_is_the_heatmap_less_its_bias(name: str) -> None:
    # Each channel's maximum is one pixel, so its mean gradient is its weight / (H·W).
    method, net, batch = tiny(name)
    gradcam = plugins.methods["gradcam"](method.card, nn.Identity)
    maps = explained(method, net, batch, batch.y)
    bias = net.head.bias.detach()[batch.y][:, None, None]
    cam = explained(gradcam, net, batch, batch.y)
    assert torch.allclose(cam, (maps - bias) / maps[0].numel(), atol=1e-7)


def test_among_equal_maxima_one_pixel_gets_the_gradient() -> None:
    features = torch.zeros(1, 4, 3, 3, requires_grad=True)
    bare()(features)[0, 0].backward()
    assert (features.grad.flatten(2) != 0).sum(2).tolist() == [[1, 1, 1, 1]]


@pytest.mark.parametrize("name", NAMES)
def test_the_map_is_the_raw_heatmap_of_the_target(name: str) -> None:
    method, net, batch = tiny(name)
    maps = net.maps(batch.x)
    for target in range(3):
        found = method.explain(net, batch, torch.full((len(batch),), target))
        assert torch.equal(found, maps[:, target])
        assert not found.requires_grad
    assert bool((maps < 0).any())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_tiny_network_keeps_the_contract(name: str, channels: int) -> None:
    cls = plugins.methods[name]
    small = {"train_params": {**cls.train_params, **TINY[name], "pool": "mean"}}
    findings = testing.check_method(type("Tiny", (cls,), small), channels=(channels,))
    assert [f for f in findings if f.expected.startswith("mean of the map = logit")]
    assert not [finding for finding in findings if not finding.ok]


@pytest.mark.parametrize("name", NAMES)
def test_a_mask_moves_no_weight(name: str) -> None:
    def trained(mask: Tensor | None) -> list[Tensor]:
        method, net, batch = tiny(name)
        batch = replace(batch, mask=mask)
        method.prepare(net, [batch])
        method.loss(net.train(), batch).backward()
        return [weight.grad for weight in net.parameters()]

    truth = testing.tiny_batch(4)[1].mask
    for without, given in zip(trained(None), trained(truth), strict=True):
        assert torch.equal(without, given)


def labelled(y: Mapping[int, int]) -> list[testing.Batch]:
    """Batches of three in which each class occurs so many times."""
    labels = torch.tensor([label for label, n in y.items() for _ in range(n)])
    _, batch = testing.tiny_batch(4, n=3)
    return [replace(batch, y=part) for part in labels.split(3)]


def test_balanced_class_weights_add_up_to_the_training_images() -> None:
    batches = labelled({0: 5, 1: 1, 2: 9})
    method = made("gp-unet")
    method.prepare(nn.Identity(), batches)
    y = torch.cat([batch.y for batch in batches]).numpy()
    expected = compute_class_weight("balanced", classes=np.arange(3), y=y)
    assert np.allclose(method.class_weights.numpy(), expected)
    assert float(method.class_weights @ torch.tensor([5.0, 1, 9]).double()) == pytest.approx(15)


def test_the_loss_weighs_classes_unless_told_not_to() -> None:
    batches = labelled({0: 5, 1: 1, 2: 9})
    for kind in ("balanced", "none"):
        method, net, batch = tiny("gp-unet", class_weights=kind)
        method.prepare(net, batches)
        share = 15 / (3 * torch.tensor([5.0, 1, 9])) if kind == "balanced" else torch.ones(3)
        each = functional.cross_entropy(net(batch.x), batch.y, reduction="none")
        expected = (share[batch.y] * each).sum() / share[batch.y].sum()
        assert torch.isclose(method.loss(net, batch), expected), kind


def test_a_class_without_a_training_image_has_no_balanced_weight() -> None:
    batches = labelled({0: 5, 2: 9})
    with pytest.raises(HeatproofError, match="class 'b' has no training image"):
        made("gp-unet").prepare(nn.Identity(), batches)
    made("gp-unet", class_weights="none").prepare(nn.Identity(), batches)


@pytest.mark.parametrize(("h", "w"), [(8, 8), (7, 9), (6, 7)])
def test_sinc_is_exact_for_a_band_limited_periodic_signal(h: int, w: int) -> None:
    def wave(height: int, width: int) -> Tensor:
        y = torch.arange(height, dtype=torch.float64)[:, None] / height * 2 * torch.pi
        x = torch.arange(width, dtype=torch.float64) / width * 2 * torch.pi
        return (0.3 + torch.cos(2 * y + 0.4) * torch.sin(2 * x) + torch.cos(x - y))[None, None]

    for size in [(2 * h, 2 * w), (2 * h - 1, 2 * w - 1), (h, 3 * w)]:
        assert torch.allclose(sinc(wave(h, w), size), wave(*size), atol=1e-12)


def test_sinc_is_scipys_resample_for_any_signal() -> None:
    for h, w, size in [(6, 8, (12, 16)), (5, 7, (9, 14)), (1, 4, (2, 7)), (6, 5, (6, 10))]:
        x = uniform("signal", (2, 3, h, w)).double()
        expected = resample(resample(x.numpy(), size[0], axis=2), size[1], axis=3)
        assert np.allclose(sinc(x, size).numpy(), expected, atol=1e-12)


def test_sinc_has_a_gradient_and_gives_the_same_bits_twice() -> None:
    x = uniform("signal", (1, 2, 4, 5)).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: sinc(x, (8, 9)), x)
    assert torch.equal(sinc(x, (8, 9)), sinc(x, (8, 9)))


@pytest.mark.parametrize(("size", "cure"), [(28, "set levels = 2"), (27, "give it images of such")])
def test_a_side_that_cannot_be_halved_often_enough_is_answered_with_the_cure(
    size: int, cure: str,
) -> None:
    net = made("gp-shuffleunet", width=4).network()
    with pytest.raises(HeatproofError, match=f"divisible by 8, not {size}×{size}; {cure}"):
        net(torch.zeros(1, 4, size, size))


def test_an_image_too_small_for_the_depth_is_answered_with_the_cure() -> None:
    net = made("gp-unet", width=4, depth=6).network()
    with pytest.raises(HeatproofError, match="32 pixels a side or more, not 28×28; lower its dep"):
        net(torch.zeros(1, 4, 28, 28))
    assert net(torch.zeros(1, 4, 32, 40)).shape == (1, 3)


@pytest.mark.parametrize("key", ["pool", "activation", "class_weights", "upsampling"])
def test_an_unknown_choice_is_answered_with_what_there_is(key: str) -> None:
    with pytest.raises(HeatproofError, match=f"gp-unet: {key} must be one of .*, not 'sync'"):
        made("gp-unet", **{key: "sync"})


def test_it_says_why_it_cannot_serve_another_network() -> None:
    method, net, _ = tiny("gp-unet")
    assert method.supports(net) is None
    assert method.supports(nn.Linear(1, 1)) == "the network has no GP head"
