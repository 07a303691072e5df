"""SoftCAM: the official code's numbers, the exact conversion, and what a backbone must have."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from official import uniform, weights
from torch import nn
from torch.nn import functional

from bench import nets, plugins, run, suite, testing
from bench.core import Batch, HeatproofError, Method
from bench.explain import explained
from bench.spec import Backbone
from bench.store import Cache

FIXTURES = Path(__file__).parent / "fixtures"
DENSE = Backbone("densenet121", options={"growth_rate": 4, "block_config": [1, 1, 1, 1]})
EFFICIENT = Backbone("test_efficientnet")
PARTS = [pytest.param(testing.TINY, id="resnet"), pytest.param(DENSE, id="densenet"),
         pytest.param(EFFICIENT, id="efficientnet")]


def tiny_vgg() -> nn.Module:
    """A VGG of timm's with few channels; its head is still of 7×7 cells and 4096 numbers."""
    from timm.models import VGG

    return VGG(cfg=[8, "M", 8, "M", 8, "M", 8, "M", 12, "M"], num_classes=3, mlp_ratio=0.01)


def made(
    name: str = "softcam", backbone: Backbone | Callable[[], nn.Module] = testing.TINY,
    classes: int = 3, **train,
) -> tuple[Method, Batch]:
    """The method on a backbone, and a batch of four colour images of 64 pixels."""
    card, batch = testing.tiny_batch(3, size=64)
    card = replace(card, classes=tuple("abcdefgh"[:classes]))
    make = nets.maker(backbone, card, 0) if isinstance(backbone, Backbone) else backbone
    return plugins.methods[name](card, make, train=train), batch


def filled(net: nn.Module) -> nn.Module:
    """The network with weights by the rule, so that no norm does nothing; frozen."""
    net.load_state_dict(weights(net.state_dict()))
    return net.eval().requires_grad_(False)


def converted(backbone: Backbone) -> tuple[Method, nn.Module, nn.Module]:
    """The converting trainer, a plain classifier, and what the trainer makes of it."""
    method, _ = made("softcam-converted", backbone)
    base, net = filled(method.backbone()), method.network().eval()
    method.start(net, base)
    return method, base, net


# --- the official code

BUILT = {
    "resnet-small": Backbone("resnet50", options={"layers": [1, 1, 1, 1], "base_width": 8}),
    "densenet-small": Backbone(
        "densenet121", options={"growth_rate": 8, "block_config": [2, 2, 2, 2]}),
    "resnet18": Backbone("resnet18"), "resnet50": Backbone("resnet50"),
    "densenet121": Backbone("densenet121"), "vgg11": Backbone("vgg11")}
GAIN = {"resnet-small": 1.0, "resnet18": 1.0, "resnet50": 0.5}
PENALTIES = {"eval dense": (0.0, 0.0), "eval lasso": (3e-3, 0.0), "eval ridge": (0.0, 0.5),
             "train elastic": (3e-3, 0.5)}
"""λ1 and λ2 by mode and variant. Training comes last, since it moves running statistics."""


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=() if name.endswith("small") else pytest.mark.slow) for name in BUILT])
def test_the_official_code_gives_the_same_maps_losses_and_gradients(name: str) -> None:
    """kdjoumessi/SoftCAM at b5e9048: FullyConvModel of modules/models.py on torchvision's model of
    that name (small: Bottlenecks [1, 1, 1, 1] of width 8 a group; blocks [2, 2, 2, 2] with growth
    8), four classes, in float64, with weights by the rule under its own names, on three images
    "input" in [-1, 1). Loss: lines 69 to 71 of train.py. Gradients: of the evidence layer's weight
    (every 32nd channel) and of the first convolution's (every 397th number).
    """
    kept = np.load(FIXTURES / f"softcam_{name}.npz")
    state = published(kept, GAIN.get(name, 2.0))
    x = 2 * uniform("input", tuple(kept["input"])).double() - 1
    batch = replace(made()[1][[0, 1, 2]], x=x, y=torch.from_numpy(kept["y"]))
    method, _ = made(backbone=BUILT[name], classes=4)
    net = method.network().double().eval()
    net.load_state_dict(method.published(state))
    with torch.no_grad():
        assert_equal(net.maps(x), kept["eval maps"])
        assert_equal(net(x), kept["eval logits"])
    first = next(net.parameters())
    for case, (lasso, ridge) in PENALTIES.items():
        if f"{case} loss" not in kept:  # a VGG in training draws its dropout
            continue
        method, _ = made(backbone=BUILT[name], lasso=lasso, ridge=ridge, first_sample=True)
        net.train(case.startswith("train")).zero_grad()
        loss = method.loss(net, batch)
        loss.backward()
        assert_equal(loss.detach(), kept[f"{case} loss"])
        assert_equal(net.evidence.weight.grad[:, ::32, 0, 0], kept[f"{case} gradient"])
        assert_equal(first.grad.flatten()[::397], kept[f"{case} first"])


def published(kept, gain: float) -> dict[str, torch.Tensor]:
    """An official checkpoint: weights by the rule under the official names."""
    like = {str(name): torch.empty(
        json.loads(str(shape)), dtype=torch.int64 if "num_batches" in str(name) else torch.float32)
        for name, shape in zip(kept["names"], kept["shapes"], strict=True)}
    return weights(like, gain)


def assert_equal(ours: torch.Tensor, official: np.ndarray) -> None:
    expected = torch.from_numpy(official)
    assert ours.shape == expected.shape
    assert float((ours - expected).abs().max()) <= 1e-11 * max(1.0, float(expected.abs().max()))


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "densenet121", "vgg11"])
def test_every_name_of_an_official_checkpoint_finds_its_place(name: str) -> None:
    kept = np.load(FIXTURES / f"softcam_{name}.npz")
    with torch.device("meta"):
        method, _ = made(backbone=BUILT[name], classes=4)
        own = method.network().state_dict()
    official = {str(n): torch.empty(json.loads(str(s)), device="meta")
                for n, s in zip(kept["names"], kept["shapes"], strict=True)}
    renamed = method.published(official)
    assert {key: value.shape for key, value in renamed.items()} == {
        key: value.shape for key, value in own.items()}


@pytest.mark.parametrize("backbone", [*PARTS, pytest.param(tiny_vgg, id="vgg")])
def test_a_checkpoint_of_our_own_names_is_taken_as_it_is(backbone) -> None:
    method, _ = made(backbone=backbone, **({"hidden": [5, 4]} if backbone is tiny_vgg else {}))
    state = method.network().state_dict()
    assert list(method.published(state)) == list(state)


@pytest.mark.parametrize(("name", "width", "grids"), [
    ("resnet50", 2048, (16, 16)), ("vgg16", 4096, (16, 15)),
    pytest.param("densenet121", 1024, (16, 15), marks=pytest.mark.slow),
    pytest.param("tf_efficientnetv2_m", 1280, (16, 16), marks=pytest.mark.slow)])
def test_the_maps_have_the_papers_sizes_at_512_and_496_pixels(name, width, grids) -> None:
    """The authors' notebooks print (5, 16, 16) of ResNet-50 and VGG-16, (4, 15, 15) of VGG-16."""
    with torch.device("meta"):  # on shapes alone
        net = made(backbone=Backbone(name), classes=5)[0].network()
        for size, grid in zip((512, 496), grids, strict=True):
            assert net.maps(torch.empty(1, 3, size, size)).shape == (1, 5, grid, grid)
    assert net.evidence.in_channels == width


# --- the evidence and its penalties

@pytest.mark.parametrize("backbone", [*PARTS, pytest.param(tiny_vgg, id="vgg")])
def test_the_mean_of_the_evidence_is_the_logit_wherever_it_lies(backbone) -> None:
    method, batch = made(backbone=backbone, **({"hidden": [5, 4]} if backbone is tiny_vgg else {}))
    net = filled(method.network())
    evidence, logits = net.maps(batch.x), net(batch.x)
    assert torch.allclose(evidence.mean((2, 3)), logits, atol=1e-6)
    for target in range(3):
        target_maps = method.explain(net, batch, torch.full((4,), target))
        assert torch.equal(target_maps, evidence[:, target])

    class Shuffled(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x).flatten(2)[:, :, order].reshape(len(x), -1, *grid)

    grid = evidence.shape[2:]
    order = torch.randperm(grid[0] * grid[1], generator=torch.Generator().manual_seed(1))
    net.backbone = Shuffled(net.backbone)
    assert torch.allclose(net.maps(batch.x).flatten(2), evidence.flatten(2)[:, :, order], atol=1e-5)
    assert torch.allclose(net(batch.x), logits, atol=1e-5)


def test_what_all_classes_share_changes_the_penalties_and_no_probability() -> None:
    method, batch = made()
    net = filled(method.network())
    before, penalties = net(batch.x).softmax(1), [penalty(net, batch, kind) for kind in KINDS]
    net.evidence.weight += uniform("shared", tuple(net.evidence.weight[:1].shape))
    assert torch.allclose(net(batch.x).softmax(1), before, atol=1e-5)
    for kind, was in zip(KINDS, penalties, strict=True):
        assert abs(penalty(net, batch, kind) - was) > 0.1


KINDS = ({"lasso": 1.0}, {"ridge": 1.0}, {"ridge": 1.0, "squared": True})


def penalty(net: nn.Module, batch: Batch, train: dict[str, float]) -> float:
    loss = made(**train)[0].loss(net, batch)
    return float(loss - functional.cross_entropy(net(batch.x), batch.y))


def test_without_penalties_the_loss_is_the_cross_entropy_to_the_bit() -> None:
    method, batch = made(lasso=0, ridge=0.0)
    net = filled(method.network())
    assert torch.equal(method.loss(net, batch), functional.cross_entropy(net(batch.x), batch.y))


@pytest.mark.parametrize(("train", "power"), list(zip(KINDS, (1, 1, 2), strict=True)))
def test_a_penalty_grows_with_the_evidence(train: dict[str, float], power: int) -> None:
    method, batch = made()
    net = filled(method.network()).double()
    batch = replace(batch, x=batch.x.double())
    once = penalty(net, batch, train)
    by_hand = {1: net.maps(batch.x).abs().sum((1, 2, 3)).mean() if "lasso" in train
               else net.maps(batch.x).square().sum((1, 2, 3)).sqrt().mean(),
               2: net.maps(batch.x).square().sum((1, 2, 3)).mean()}[power]
    assert once == pytest.approx(float(by_hand))
    for parameter in (net.evidence.weight, net.evidence.bias):
        parameter *= 3
    assert penalty(net, batch, train) == pytest.approx(3**power * once)


def test_the_batchs_mean_is_what_the_first_samples_are_in_expectation() -> None:
    _, batch = made()
    net = filled(made()[0].network())
    for kind in KINDS:
        firsts = [penalty(net, batch[[i]], {**kind, "first_sample": True}) for i in range(4)]
        assert penalty(net, batch, kind) == pytest.approx(sum(firsts) / 4, rel=1e-4)
        assert penalty(net, batch, {**kind, "first_sample": True}) == pytest.approx(
            firsts[0], rel=1e-4)


def test_a_ridge_has_a_gradient_where_all_evidence_is_nothing() -> None:
    method, batch = made(ridge=1.0)
    net = method.network()
    nn.init.zeros_(net.evidence.weight)
    nn.init.zeros_(net.evidence.bias)
    method.loss(net, batch).backward()
    assert all(p.grad.isfinite().all() for p in net.parameters() if p.grad is not None)


# --- the exact conversion

@pytest.mark.parametrize("backbone", PARTS)
def test_a_converted_classifier_has_the_same_logits_at_every_size(backbone: Backbone) -> None:
    _, base, net = converted(backbone)
    for height, width in ((64, 64), (33, 33), (47, 80)):
        x = 2 * uniform("x", (2, 3, height, width)) - 1
        logits = base(x)
        assert logits.std() > 0.01
        assert torch.allclose(net(x), logits, atol=1e-5, rtol=1e-5)
    own = {id(value.untyped_storage()) for value in net.state_dict().values()}
    assert not own & {id(value.untyped_storage()) for value in base.state_dict().values()}


@pytest.mark.parametrize("backbone", PARTS)
def test_converted_evidence_is_the_class_activation_map_plus_the_bias(backbone: Backbone) -> None:
    _, base, net = converted(backbone)
    x = made()[1].x
    layer = base.get_classifier()
    cam = torch.einsum("cd,ndhw->nchw", layer.weight, nets.feature_map(base, x))
    assert torch.allclose(net.maps(x), cam + layer.bias[:, None, None], atol=1e-5)


@pytest.mark.parametrize("backbone", PARTS)
def test_grad_cam_is_the_same_on_both_and_the_evidence_less_its_bias(backbone: Backbone) -> None:
    method, base, net = converted(backbone)
    _, batch = made()
    evidence = method.explain(net, batch, batch.y)
    expected = (evidence - net.evidence.bias[batch.y][:, None, None]) / evidence[0].numel()
    gradcam, _ = made("gradcam")
    for classifier in (net, base):
        cam = explained(gradcam, classifier, batch, batch.y)
        assert torch.allclose(cam, expected, atol=1e-6)


def test_a_densenet_without_its_last_relu_is_another_network() -> None:
    _, base, net = converted(DENSE)
    x = made()[1].x
    official = made(backbone=DENSE)[0].network().eval()
    kept = made(backbone=DENSE, last_relu=True)[0].network().eval()
    for other, same in ((official, False), (kept, True)):
        other.load_state_dict(net.state_dict())
        assert torch.allclose(other(x), base(x), atol=1e-5) is same
    assert official.backbone(x).min() < 0 <= kept.backbone(x).min()


@pytest.mark.parametrize(("backbone", "why"), [
    (tiny_vgg, "VGG has no exact SoftCAM, as its last layer sees 4096 numbers and not the means of "
               "its 12 feature channels"),
    (Backbone("test_convnext"), "ConvNeXt has no exact SoftCAM, as more than a mean"),
    (Backbone("resnet18", options={**testing.TINY.options, "global_pool": "max"}),
     "more than a mean stands between"),
    (Backbone("resnet18", options={**testing.TINY.options, "global_pool": "catavgmax"}),
     "sees 32 numbers and not the means of its 16"),
])
def test_what_cannot_be_converted_exactly_is_refused_before_it_is_trained(backbone, why) -> None:
    with pytest.raises(HeatproofError, match=why) as error:
        made("softcam-converted", backbone)[0].network()
    assert "choose 'softcam'" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_conversion_is_trained_on_from_the_plain_network_of_its_suite(
    tiny: Path, tmp_path: Path,
) -> None:
    tiny.write_text(tiny.read_text().replace('"noise"', '"softcam-converted"') + """
[dataset.digits.trainer.softcam-converted]
recipe = { epochs = 0 }
""")
    runs = {found.contestant.name: found for found in suite.read(str(tiny)).runs}
    place = run.Place(tmp_path, Cache(tmp_path))
    net, base = (run.network(runs[name], place).net for name in ("softcam-converted", "gradcam"))
    x = torch.randn(3, 1, 32, 32)
    assert torch.allclose(net(x), base(x), atol=1e-5)


# --- backbones

def test_a_vgg_has_hidden_convolutions_in_the_place_of_its_fully_connected_layers() -> None:
    method, batch = made(backbone=tiny_vgg, hidden=[5, 4])
    net = method.network()
    kinds = [nn.Conv2d, nn.ReLU, nn.Dropout] * 2
    assert [type(layer) for layer in net.hidden] == kinds
    assert [layer.out_channels for layer in net.hidden[::3]] == [5, 4]
    assert {layer.p for layer in net.hidden[2::3]} == {0.5}
    assert not [name for name in net.state_dict() if "pre_logits" in name or "head" in name]
    assert net.maps(batch.x).shape == (4, 3, 2, 2)
    assert method.loss(net, batch).isfinite()


def test_a_network_without_fully_connected_layers_has_no_hidden_convolutions() -> None:
    assert len(made(hidden=[5, 4])[0].network().hidden) == 0


@pytest.mark.parametrize("name", ["test_convnext", "mobilenetv3_small_050"])
def test_what_followed_the_pooling_sees_each_cell_by_itself(name: str) -> None:
    method, batch = made(backbone=Backbone(name))
    net = method.network().eval()
    assert net.maps(batch.x).shape[:2] == (4, 3)
    assert torch.allclose(net(batch.x), net.maps(batch.x).mean((2, 3)), atol=1e-6)
    assert explained(made("gradcam")[0], net, batch, batch.y).shape == net.maps(batch.x)[:, 0].shape


def test_timms_dropout_stands_before_the_evidence() -> None:
    # The official EfficientNet has 0.3 there.
    net = made(backbone=replace(EFFICIENT, options={"drop_rate": 0.3}))[0].network()
    x = made()[1].x
    dropped = (net.train().backbone(x) == 0).float().mean()
    assert 0.25 < dropped < 0.35
    assert (net.eval().backbone(x) == 0).float().mean() < 0.01


@pytest.mark.parametrize("backbone", [
    Backbone("test_vit"), Backbone("efficientvit_b0"),
    Backbone("swin_tiny_patch4_window7_224", options={"depths": [1, 1, 1, 1]})])
def test_a_backbone_without_a_pooled_map_is_refused(backbone: Backbone) -> None:
    with torch.device("meta"):
        make = partial(nets.build, backbone, channels=3, classes=3)
        for trainer in ("softcam", "softcam-converted"):
            with pytest.raises(HeatproofError, match="choose") as error:
                made(trainer, make)[0].network()
            assert "\n" not in str(error.value)


def test_evidence_is_read_from_an_evidence_network_alone() -> None:
    method, _ = made()
    own = method.network()
    assert method.supports(own) is None
    assert made("softcam-converted")[0].supports(own) is None
    for name in ("cape", "gradcam"):
        other = made(name)[0].network()
        assert method.supports(other) == "the network has no evidence layer"
