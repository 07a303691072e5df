"""Batch-CAM: the maps of a batch at once, what draws them, and the training that remembers it."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import skimage.metrics
import torch
from captum.attr import LayerGradCam
from official import weights
from torch import Tensor, nn
from torch.nn import functional

from bench import nets, plugins, run, suite, testing
from bench.core import HeatproofError, Plain
from bench.methods import batchcam
from bench.spec import Backbone, RunSpec
from bench.store import Cache

RESNET = Backbone("resnet18", stem="small", options={
    "layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16], "output_stride": 16})
CONVNEXT = Backbone("convnextv2_atto", stem="small", options={
    "depths": [1, 1, 1, 1], "dims": [8, 8, 16, 16], "output_stride": 16})
both = pytest.mark.parametrize("backbone", [RESNET, CONVNEXT], ids=["resnet", "convnext"])


def made(backbone: Backbone = RESNET, *, n: int = 6, **params):
    """A method without a delay, its network in evaluation mode with lively maps, and a batch."""
    card, batch = testing.tiny_batch(size=28, n=n)
    params["train"] = {"delay": 0.0, **params.get("train", {})}
    method = batchcam.BatchCAM(card, nets.maker(backbone, card, 0), **params)
    net = method.network()
    state = {k: v for k, v in weights(net.state_dict(), 2.0).items() if "memory" not in k}
    net.load_state_dict(state, strict=False)
    return method, net.eval(), batch


def prepared(**params):
    method, net, batch = made(**params)
    method.prepare(net, [batch])
    return method, net, batch


def gradients(net: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    net.zero_grad(set_to_none=True)
    loss.backward()
    return {k: p.grad.clone() for k, p in net.named_parameters() if p.grad is not None}


@both
@pytest.mark.parametrize("relu", [True, False])
def test_the_maps_of_a_batch_are_captums_of_each_image_alone(backbone, relu: bool) -> None:
    method, net, batch = made(backbone, explain={"relu": relu})
    captum = LayerGradCam(net, nets.feature_layer(net))
    alone = torch.cat([
        captum.attribute(batch.x[[i]].requires_grad_(), target=int(batch.y[i]),
                         relu_attributions=relu) for i in range(len(batch))])[:, 0]
    maps = method.explain(net, batch, batch.y)
    assert maps.shape == (6, 7, 7)
    assert alone.abs().amax((1, 2)).max() > 1e-2
    assert torch.allclose(maps, alone, rtol=0, atol=1e-6)


@both
def test_an_image_has_its_map_whatever_else_is_in_the_batch(backbone) -> None:
    method, net, batch = made(backbone)
    maps = method.explain(net, batch, batch.y)
    order = [3, 0, 5, 1, 4, 2]
    assert torch.allclose(method.explain(net, batch[order], batch.y[order]), maps[order], atol=1e-6)
    x = batch.x.clone()
    x[2] = 9.0
    changed = method.explain(net, replace(batch, x=x), batch.y)
    rest = [0, 1, 3, 4, 5]
    assert torch.allclose(changed[rest], maps[rest], atol=1e-6)
    assert not torch.allclose(changed[2], maps[2], atol=1e-3)
    one = method.explain(net, batch[[0]], batch.y[[0]])
    assert torch.allclose(one, maps[[0]], atol=1e-6)


def test_above_a_pooling_and_a_linear_layer_the_map_is_the_class_activation_map() -> None:
    method, net, batch = made(explain={"relu": False})
    features = nets.feature_map(net, batch.x)
    cam = torch.einsum("nd,ndhw->nhw", net.fc.weight[batch.y], features) / features[0, 0].numel()
    assert torch.allclose(method.explain(net, batch, batch.y), cam, atol=1e-6)


def test_explaining_touches_no_gradient_and_needs_no_callers_leave() -> None:
    method, net, batch = made(explain={"normalised": True})
    for p in net.parameters():
        p.grad = torch.full_like(p, 7.0)
    with torch.no_grad():
        maps = method.explain(net, batch, batch.y)
    assert all(p.grad.eq(7).all() for p in net.parameters())
    assert maps.min() == 0
    assert maps.max() <= 1
    assert not maps.requires_grad


def test_one_gradient_makes_the_maps_of_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    method, net, batch = prepared()
    calls, grad = [], torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *a, **k: calls.append(a) or grad(*a, **k))
    method.loss(net, batch)
    assert len(calls) == 1


class Own(nn.Module):
    """A network of two convolutions and what lies between the last map and the pooling."""

    def __init__(self, above: nn.Module) -> None:
        super().__init__()
        self.first, self.feature_layer = nn.Conv2d(1, 4, 3, 2, 1), nn.Conv2d(4, 6, 3, 2, 1)
        self.above, self.fc = above, nn.Linear(6, 3)
        self.load_state_dict(weights(self.state_dict(), 2.0))
        self.memory = batchcam.Memory(3, 28, 28)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.above(self.feature_layer(self.first(x))).mean((2, 3)))


def test_an_activation_in_place_above_the_layer_changes_nothing() -> None:
    method, _, batch = prepared()
    found = []
    for inplace in (False, True):
        net = Own(nn.ReLU(inplace=inplace))
        method.prepare(net, [batch])
        found.append((method.explain(net, batch, batch.y), gradients(net, method.loss(net, batch))))
    (maps, learnt), (maps_in_place, learnt_in_place) = found
    assert torch.equal(maps, maps_in_place)
    assert all(torch.equal(learnt[k], learnt_in_place[k]) for k in learnt)


def test_a_batch_norm_above_the_layer_mixes_the_batch_and_is_refused() -> None:
    method, _, batch = made()
    net = Own(nn.BatchNorm2d(6)).train()
    x = batch.x.clone()
    x[2] = 9.0
    maps, changed = (batchcam.gradcam(net, each, batch.y)[1] for each in (batch.x, x))
    alone = batchcam.gradcam(net, batch.x[:1], batch.y[:1])[1]
    assert not torch.allclose(maps[0], changed[0], atol=1e-3)
    assert not torch.allclose(maps[0], alone[0], atol=1e-3)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    with pytest.raises(HeatproofError, match="mixes the images of a batch"):
        method.prepare(net, [batch])
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    method.prepare(Own(nn.GroupNorm(2, 6)), [batch])


def test_a_map_of_one_cell_is_refused() -> None:
    method, net, batch = made(Backbone("resnet18", options={"layers": [1, 1, 1, 1]}))
    with pytest.raises(HeatproofError, match=r"1×1.*smaller stem"):
        method.prepare(net, [batch])


def test_without_weights_the_gradients_are_the_plain_ones_to_the_bit() -> None:
    card, _ = testing.tiny_batch(size=28)
    for train, delay in [({"lambda_proto": 0.0, "lambda_batch": 0.0}, 0.0), ({}, 1.0)]:
        method, net, batch = prepared(train={**train, "delay": delay})
        net.train()
        plain = gradients(net, Plain(card, method.backbone).loss(net, batch))
        own = gradients(net, method.loss(net, batch))
        assert all(torch.equal(plain[k], own[k]) for k in plain), train
        assert set(plain) == set(own)


@both
def test_the_prototype_loss_moves_what_lies_before_the_layer(backbone) -> None:
    for detach in (False, True):
        train = {"lambda_batch": 0.0, "detach_alpha": detach}
        method, net, batch = prepared(backbone=backbone, train=train)
        plain = functional.cross_entropy(net(batch.x), batch.y)
        moved = gradients(net, method.loss(net, batch) - plain)
        first = "stem.0.weight" if backbone is CONVNEXT else "conv1.weight"
        head = "head.fc.weight" if backbone is CONVNEXT else "fc.weight"
        assert moved[first].abs().max() > 1e-4
        assert (moved[head].abs().max() < 1e-6) == detach


def naive(method: batchcam.BatchCAM, net: nn.Module, batch) -> tuple[float, float]:
    """Both losses by the formulas, an image at a time."""
    params = method.train_params
    _, cam = batchcam.gradcam(net, batch.x, batch.y)
    maps = []
    for one in cam.detach().clamp(min=0):
        big = functional.interpolate(one[None, None], (28, 28), mode="bilinear")[0, 0]
        maps.append((big - big.min()) / (big.max() - big.min() + 1e-8))
    assert all(one.max() > 0.5 for one in maps)

    def distance(a: Tensor, b: Tensor) -> float:
        if params["distance"] == "l1":
            return float((a - b).abs().mean())
        if params["distance"] == "l2":
            return float((a - b).square().mean())
        return 1 - skimage.metrics.structural_similarity(
            a.numpy(), b.numpy(), data_range=1.0, gaussian_weights=True,
            use_sample_covariance=False)

    y = batch.y.tolist()
    prototypes = net.memory.prototype[:, 0]
    proto = [distance(one, prototypes[label]) for one, label in zip(maps, y, strict=True)]
    means = {c: torch.stack([m for m, label in zip(maps, y, strict=True) if label == c]).mean(0)
             for c in set(y)}
    if params["batch_loss"] == "within":
        terms = [distance(m, means[c]) for m, c in zip(maps, y, strict=True) if y.count(c) > 1]
    else:
        terms = [distance(mean, prototypes[c]) for c, mean in means.items()]
    return float(np.mean(proto)), float(np.mean(terms))


@pytest.mark.parametrize("distance", ["l1", "l2", "ssim"])
@pytest.mark.parametrize("batch_loss", ["within", "prototype"])
def test_the_loss_is_what_the_formulas_say(distance: str, batch_loss: str) -> None:
    train = {"lambda_proto": 0.3, "lambda_batch": 0.7, "distance": distance,
             "batch_loss": batch_loss}
    method, net, batch = prepared(train=train, n=12)
    _, cam = batchcam.gradcam(net, batch.x, batch.y)
    alive = (cam.amax((1, 2)) > 0).nonzero()[:, 0].tolist()
    # An uneven batch: three of one class, two of another, one of the third.
    by_class = [[i for i in alive if batch.y[i] == c] for c in range(3)]
    chosen = batch[by_class[0][:3] + by_class[1][:2] + by_class[2][:1]]
    assert len(chosen) == 6
    proto, within = naive(method, net, chosen)
    loss = method.loss(net, chosen) - functional.cross_entropy(net(chosen.x), chosen.y)
    assert loss.item() == pytest.approx(0.3 * proto + 0.7 * within, abs=2e-6)


def test_there_is_no_batch_loss_where_nothing_can_disagree() -> None:
    method, net, batch = prepared(train={"lambda_proto": 0.0})
    same = replace(batch, x=batch.x[:1].expand(6, -1, -1, -1), y=torch.zeros(6, dtype=torch.int64))
    for shown in (batch[[0, 1, 2]], batch[[0]], same):
        plain = functional.cross_entropy(net(shown.x), shown.y)
        assert (method.loss(net, shown) - plain).item() == pytest.approx(0, abs=1e-6)
    assert method.loss(net, batch) > functional.cross_entropy(net(batch.x), batch.y) + 1e-3


def test_maps_that_are_dead_draw_nothing_and_harm_nothing() -> None:
    method, net, batch = prepared()
    with torch.no_grad():
        net.fc.weight.abs_().neg_()
    assert not method.explain(net, batch, batch.y).any()
    loss = method.loss(net, batch)
    assert torch.equal(loss, functional.cross_entropy(net(batch.x), batch.y))
    assert all(g.isfinite().all() for g in gradients(net, loss).values())


def test_a_distance_is_0_to_oneself_and_keeps_its_range() -> None:
    draw = torch.Generator().manual_seed(0)
    a, b = torch.rand((2, 20, 1, 28, 28), generator=draw)
    for kind, largest in (("l1", 1), ("l2", 1), ("ssim", 2)):
        method = made(train={"distance": kind})[0]
        assert torch.equal(method._distance(a, a), torch.zeros(20))
        assert method._distance(a, b).min() > 0
        assert method._distance(a, b).max() <= largest
        assert method._distance(a, 1 - a).max() <= largest
    small = torch.rand((3, 1, 6, 9), generator=draw)
    assert torch.equal(batchcam.ssim(small, small), torch.ones(3))  # a window of 5
    by_hand = [skimage.metrics.structural_similarity(
        x[0].double().numpy(), y[0].double().numpy(), data_range=1.0, gaussian_weights=True,
        use_sample_covariance=False) for x, y in zip(a, b, strict=True)]
    assert np.allclose(batchcam.ssim(a.double(), b.double()).numpy(), by_hand, atol=1e-12)


def test_a_prototype_is_the_mean_image_of_its_class_in_any_order() -> None:
    card, batch = testing.tiny_batch(3, size=28, n=9)
    card = replace(card, mean=(0.5, 0.2, 0.1), std=(0.5, 0.3, 0.7))
    method = batchcam.BatchCAM(card, nets.maker(RESNET, card, 0))
    net, again = method.network(), method.network()
    method.prepare(net, iter([batch[:4], batch[4:8], batch[8:]]))
    order = [8, 3, 1, 7, 0, 2, 6, 5, 4]
    method.prepare(again, iter([batch[order[:5]], batch[order[5:]]]))
    found = net.memory.prototype
    assert found.shape == (3, 1, 28, 28)
    assert torch.equal(found, again.memory.prototype)
    mean, std = (torch.tensor(v)[:, None, None] for v in (card.mean, card.std))
    for c in range(3):
        grey = (batch.x[batch.y == c] * std + mean).mean((0, 1))
        assert torch.allclose(found[c, 0], (grey - grey.min()) / (grey.max() - grey.min()),
                              atol=1e-6)
    with pytest.raises(HeatproofError, match=r"no training image shows c, .* samples"):
        method.prepare(net, [batch[[0, 1, 3]]])


def test_a_prototype_of_maps_follows_them_while_training_alone() -> None:
    train = {"prototype": "cam_ema", "momentum": 0.9, "lambda_batch": 0.0}
    method, net, batch = made(train=train)
    method.prepare(net, [batch[[0, 1, 3, 4]]])
    assert not net.memory.known.any()
    method.loss(net, batch)
    assert not net.memory.known.any()
    for module in net.modules():
        module.training = not isinstance(module, nn.BatchNorm2d)  # the same maps each time
    shown = batch[[0, 3]]
    plain = functional.cross_entropy(net(shown.x), shown.y)
    assert torch.equal(method.loss(net, shown), plain)  # no prototype yet
    assert net.memory.known.tolist() == [True, False, False]
    first = net.memory.prototype[0].clone()
    assert method.loss(net, batch[[0]]) > functional.cross_entropy(net(batch.x[:1]), batch.y[:1])
    _, cam = batchcam.gradcam(net, batch.x[:1], batch.y[:1])
    one = batchcam.normalised(functional.interpolate(cam.relu()[None], (28, 28), mode="bilinear"))
    assert torch.allclose(net.memory.prototype[0], 0.9 * first + 0.1 * one[0], atol=1e-5)


def test_the_losses_count_when_the_delay_is_over() -> None:
    method, net, batch = made(train={"delay": 1.5})
    method.prepare(net, [batch[:2], batch[2:4], batch[4:]])  # an epoch of three: four and a half
    assert method.wait == 4
    assert method.loss(net, batch) > Plain.loss(method, net, batch) + 1e-3  # in evaluation
    net.train()
    counted = [(method.loss(net, batch) > Plain.loss(method, net, batch) + 1e-3).item()
               for _ in range(6)]
    assert counted == [False] * 4 + [True] * 2


class Stop(BaseException):
    """Something that no handler catches, like a kill."""


def stopping(what: str, done: int, total: int) -> None:
    if done == 2:
        raise Stop


@pytest.fixture
def spec(tiny_text: str, tmp_path: Path) -> RunSpec:
    path = tmp_path / "own.toml"
    text = re.sub(r"contestants = .*", 'contestants = ["batchcam"]', tiny_text)
    for old, new in (("epochs = 2", "epochs = 3"), ("size = 32", "size = 20"), ("= 96", "= 40")):
        assert old in text
        text = text.replace(old, new)
    path.write_text(text + '\n[method.batchcam.train]\nprototype = "cam_ema"\n')
    return suite.read(str(path)).runs[0]


def test_a_training_that_was_killed_remembers_its_prototypes(spec, tmp_path: Path) -> None:
    whole = run.network(spec, run.Place(tmp_path, Cache(tmp_path / "whole")))
    assert whole.net.memory.known.all()
    assert int(whole.net.memory.batches) == 6
    cut = Cache(tmp_path / "cut")
    with pytest.raises(Stop):
        run.network(spec, run.Place(tmp_path, cut, progress=stopping))
    resumed = run.network(spec, run.Place(tmp_path, cut))
    assert resumed.checkpoint == whole.checkpoint


def test_a_choice_that_does_not_exist_is_told() -> None:
    with pytest.raises(HeatproofError, match="distance must be 'l1' or 'l2' or 'ssim', not 'l3'"):
        made(train={"distance": "l3"})
    assert made(explain={"relu": False})[0].signed
    assert not made()[0].signed
    assert not made(explain={"relu": False, "normalised": True})[0].signed


def test_what_make_bench_sets_side_by_side_can_be_trained() -> None:
    for params in plugins.methods["batchcam"].ablations.values():
        method, net, batch = prepared(train=params)
        assert method.loss(net, batch).isfinite()
