"""CAPE: the authors' numbers, and what must hold of any network (methods.md 2.8)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from official import uniform, weights
from torch import Tensor, nn
from torch.nn import functional

from bench import nets, plugins, testing
from bench.core import Batch, HeatproofError, Method
from bench.explain import explained
from bench.randomness import seeded
from bench.spec import Backbone

FIXTURES = Path(__file__).parent / "fixtures"
TEMPERATURES = {"t1.T": -0.5, "t2.T": -1.5, "t3.T": 0.8}
OUTPUTS, LOSSES, GRADIENTS = (2e-5, 1e-12), (1e-3, 1e-11), (1e-2, 1e-9)
"""How far from the authors' numbers, in float32 and float64, another processor may lead."""
BOTH = pytest.mark.parametrize("name", ["cape", "cape-pf"])


def made(name: str, **params) -> tuple[Method, nn.Module, Batch]:
    """A method with its own tiny network in float64, no two temperatures alike, and a batch."""
    card, batch = testing.tiny_batch(3)
    method = plugins.methods[name](card, nets.maker(testing.TINY, card, 0), **params)
    with seeded(0), torch.no_grad():
        net = method.network().double()
        if hasattr(net, "cape"):
            net.orig.weight *= 3  # so that no softmax is flat
            net.cape.weight *= 3
            for t, value in zip((net.t1, net.t2, net.t3), TEMPERATURES.values(), strict=True):
                t.fill_(value)
    return method, net.eval(), replace(batch, x=batch.x.double())


def pairwise(scores: Tensor, t1: Tensor, t2: Tensor) -> Tensor:
    """Contributions as exp(class c at p + weight at q), over their sum over all classes and q."""
    at_p = (scores / t1.exp()).flatten(2)
    at_q = (scores / t2.exp()).mean(1, keepdim=True).flatten(2)
    pairs = (at_p[..., :, None] + at_q[..., None, :]).exp()
    return ((at_p + at_q).exp() / pairs.sum((1, 3))[:, None]).reshape(scores.shape)


@pytest.fixture(scope="module", params=["resnet18", "resnet50"])
def official(request) -> tuple[str, Mapping[str, np.ndarray], dict[str, Tensor]]:
    """A backbone, the authors' outputs, and their state dict filled by the rule."""
    with np.load(FIXTURES / f"cape_{request.param}.npz") as file:
        expected = dict(file)
    like = {}
    for line in expected["state"]:
        name, *shape = str(line).split()
        counts = name.endswith("num_batches_tracked")
        like[name] = torch.empty([int(n) for n in shape], dtype=torch.int64 if counts else None)
    state = weights(like)
    for name, value in TEMPERATURES.items():
        state[name].fill_(value)
    return request.param, expected, state


def rebuilt(name: str, backbone: str, dtype: torch.dtype) -> tuple[Method, nn.Module, Batch]:
    card, batch = testing.tiny_batch(3, n=2)
    card = replace(card, classes=tuple("abcdefg"), image=(3, 64, 96))
    method = plugins.methods[name](
        card, lambda: nets.build(Backbone(backbone), channels=3, classes=7))
    x = (2 * uniform("input", (2, 3, 64, 96)) - 1).to(dtype)
    return method, method.network(), replace(batch, x=x, y=torch.tensor([1, 4]))


def close(found: Tensor, expected: np.ndarray, limits: tuple[float, float]) -> None:
    """Whether all numbers are equal up to a limit, one for float32 and one for float64."""
    known = torch.from_numpy(expected)
    assert found.shape == known.shape
    assert found.dtype == known.dtype
    assert (found - known).abs().max() <= limits[found.dtype == torch.float64]


def same_gradients(method: Method, net: nn.Module, names: np.ndarray, sums: np.ndarray) -> None:
    """Compares the sum and the absolute sum of each gradient, in units of the latter."""
    own = method.published({name: torch.empty(1) for name in names})
    assert set(own) == {name for name, p in net.named_parameters() if p.grad is not None}
    grads = [net.get_parameter(name).grad for name in own]
    found = torch.stack([torch.stack([g.sum(), g.abs().sum()]) for g in grads])
    size = sums[:, 1:].clip(1e-3)
    close(found / torch.from_numpy(size), sums / size, GRADIENTS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_outputs_losses_and_gradients_are_the_authors_own(official, dtype) -> None:
    """AIML-MED/CAPE, commit d8fb2ac: models/model.py `Net` and models/losses.py.

    `Net` of resnet18 or resnet50, pretrained False, 7 classes, was filled by the rule (gain 1) and
    TEMPERATURES; float64 is torch's default dtype where it is the network's. Outputs are of eval
    mode, losses and gradients of a TS step of trainer.py (train mode, CrossEntropyLoss and
    SoftTargetKDLoss(T=2), each of weight 1, labels 1 and 4).
    """
    backbone, expected, state = official
    tag = "64" if dtype == torch.float64 else "32"
    method, net, batch = rebuilt("cape", backbone, dtype)
    net.load_state_dict(method.published(state))
    net.to(dtype).eval()
    with torch.no_grad():
        features = net.backbone(batch.x)
        for found, name in [
            (net.cape(features), "cape.cls_map"), (net.orig(features), "orig.cls_map"),
            (net(batch.x).softmax(1), "cape.outcome"), (net(batch.x).exp(), "cape.outcome"),
            (net.log_contributions(features, soft=True).exp().sum((2, 3)), "cape.outcome_soft"),
            (net.maps(batch.x), "cape.weighted_contribution"),
            (net.mu(batch.x), "cape.logcampe_clip0"),
            (net.vanilla_logits(batch.x), "orig.outcome"),
        ]:
            close(found, expected[f"{name}.{tag}"], OUTPUTS)
        # generate_cam_maps.py shows the vanilla head's map after a ReLU.
        close(net.cam(batch.x), expected[f"orig.weighted_contribution.{tag}"].clip(0), OUTPUTS)
    net.train()
    for alpha, beta, name in [(1.0, 0.0, "ts.ce"), (0.0, 1.0, "ts.kd"), (1.0, 1.0, "ts.loss")]:
        method.train_params = {"alpha": alpha, "beta": beta, "temperature": 2.0}
        loss = method.loss(net, batch)
        close(loss[None], expected[f"{name}.{tag}"], LOSSES)
    loss.backward()
    same_gradients(method, net, expected["names"], expected[f"ts.gradients.{tag}"])


def test_post_fitting_starts_and_steps_as_the_authors_does(official) -> None:
    """The same `Net` in main.py's PF: the orig head loaded into cape, both frozen, `net` in eval.

    Loss and gradients of one step of trainer.py, with weights 0 and 1, in float64.
    """
    backbone, expected, state = official
    method, net, batch = rebuilt("cape-pf", backbone, torch.float64)
    ours = method.published(state)
    base = method.backbone()
    base.load_state_dict(
        {name.removeprefix("backbone."): v for name, v in ours.items() if "backbone." in name}
        | {"fc.weight": ours["orig.weight"][..., 0, 0], "fc.bias": ours["orig.bias"]})
    method.start(net, base)
    net.load_state_dict({name: ours[name] for name in ("t1", "t2", "t3")}, strict=False)
    net.double().train()
    close(net(batch.x).exp(), expected["pf.outcome.64"], OUTPUTS)
    loss = method.loss(net, batch)
    loss.backward()
    close(loss[None], expected["pf.loss.64"], LOSSES)
    same_gradients(method, net, expected["pf.names"], expected["pf.gradients.64"])


def test_our_own_checkpoint_is_taken_as_it_is() -> None:
    method, net, _ = made("cape")
    own = net.state_dict()
    taken = method.published(own)
    assert list(taken) == list(own)
    assert all(taken[name] is own[name] for name in own)


@BOTH
def test_contributions_add_up_to_the_probabilities_and_those_to_one(name: str) -> None:
    _, net, batch = made(name)
    maps, shares = net.maps(batch.x), net(batch.x).softmax(1)
    assert maps.min() >= 0
    assert torch.allclose(maps.sum((2, 3)), shares, rtol=0, atol=1e-12)
    assert torch.allclose(maps.sum((1, 2, 3)), torch.ones(len(batch)).double(), atol=1e-12)
    single = net.float().maps(batch.x.float())
    assert torch.allclose(single.sum((1, 2, 3)), torch.ones(len(batch)), rtol=0, atol=1e-6)
    assert torch.allclose(single.sum((2, 3)), shares.float(), rtol=0, atol=1e-6)


def test_a_contribution_is_the_cells_share_of_the_class_times_the_cells_weight() -> None:
    _, net, batch = made("cape")
    maps = net.maps(batch.x)
    scores = net.cape(net.backbone(batch.x))
    cells = (scores.mean(1) / net.t2.exp()).flatten(1).softmax(1).reshape(maps[:, 0].shape)
    assert torch.allclose(maps.sum(1), cells, atol=1e-14)
    assert torch.allclose(maps / cells[:, None], (scores / net.t1.exp()).softmax(1), atol=1e-12)


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
@pytest.mark.parametrize("soft", [False, True])
def test_the_two_factors_are_the_papers_pairs_of_cells(dtype, limit: float, soft: bool) -> None:
    _, net, batch = made("cape")
    net.to(dtype)
    features = net.backbone(batch.x.to(dtype))
    more = net.t3 if soft else 0
    expected = pairwise(net.cape(features), net.t1 + more, net.t2 + more)
    found = net.log_contributions(features, soft=soft).exp()
    assert torch.allclose(found, expected, rtol=0, atol=limit)
    assert found.std((2, 3)).min() > 1e-4


def test_features_alike_everywhere_give_the_softmax_of_the_scores() -> None:
    _, net, batch = made("cape")
    features = net.backbone(batch.x).mean((2, 3), keepdim=True)
    net.cape.load_state_dict(net.orig.state_dict())
    with torch.no_grad():
        for side, t1 in [(1, 0.0), (5, 0.0), (1, -0.5), (5, -0.5)]:
            net.t1.fill_(t1)
            here = features.expand(-1, -1, side, side)
            found = net.log_contributions(here).logsumexp((2, 3)).exp()
            expected = (net.vanilla_logits(batch.x) / net.t1.exp()).softmax(1)
            assert torch.allclose(found, expected, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_scores_of_a_thousand_leave_outputs_loss_and_gradients_finite(dtype) -> None:
    method, net, batch = made("cape")
    batch = replace(batch, x=batch.x.to(dtype))
    net.to(dtype)
    with torch.no_grad():
        for head in (net.orig, net.cape):
            head.bias.zero_()
            head.weight[1] = -head.weight[0]
            head.weight[2] = 0
            head.weight *= 1e3 / head(net.backbone(batch.x)).abs().max()
    scores = net.cape(net.backbone(batch.x))
    assert scores.max().item() == pytest.approx(1e3)
    assert scores.min().item() == pytest.approx(-1e3)
    loss = method.loss(net.train(), batch) + net(batch.x).sum()
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad.isfinite().all() for p in net.parameters())


def test_heads_begin_by_kaimings_rule_and_temperatures_at_one() -> None:
    card, _ = testing.tiny_batch(3)
    card = replace(card, classes=tuple(map(str, range(2000))))
    with seeded(0):
        net = plugins.methods["cape"](card, nets.maker(testing.TINY, card, 0)).network()
    width = nets.width(net.backbone)
    for head in (net.orig, net.cape):
        assert head.weight.std().item() == pytest.approx((2 / width) ** 0.5, rel=0.02)
        assert head.bias.abs().max() <= width ** -0.5
        assert head.bias.std() > 0
    assert not torch.equal(net.orig.weight, net.cape.weight)
    assert net.t1.item() == net.t2.item() == net.t3.item() == 0


def reached(net: nn.Module) -> set[str]:
    """The parts of a network that a gradient has moved."""
    return {name.partition(".")[0] for name, p in net.named_parameters()
            if p.grad is not None and bool(p.grad.abs().max() > 0)}


@pytest.mark.parametrize(("alpha", "beta", "parts"), [
    (1.0, 0.0, {"backbone", "orig"}), (0.0, 1.0, {"cape", "t1", "t2", "t3"})])
def test_labels_and_teacher_each_move_their_own_weights_alone(alpha, beta, parts) -> None:
    method, net, batch = made("cape", train={"alpha": alpha, "beta": beta})
    method.loss(net.train(), batch).backward()
    assert reached(net) == parts


def test_an_explainer_gets_its_gradient_through_the_cape_head_into_the_backbone() -> None:
    _, net, batch = made("cape")
    net(batch.x)[:, 0].sum().backward()
    assert reached(net) == {"backbone", "cape", "t1", "t2"}
    gradcam, _, batch = made("gradcam")
    assert gradcam.supports(net) is None
    net.requires_grad_(False)
    maps = explained(gradcam, net, batch, batch.y)
    assert maps.shape[1:] == net.backbone(batch.x).shape[2:]
    assert maps.abs().max() > 0


def test_the_loss_is_the_sum_of_two_and_its_parameters_weigh_them() -> None:
    method, net, batch = made("cape")
    z = net.vanilla_logits(batch.x)
    soft = net.log_contributions(net.backbone(batch.x), soft=True).logsumexp((2, 3))
    named = functional.cross_entropy(z, batch.y)
    for alpha, beta, temperature in [(1.0, 1.0, 2.0), (0.3, 2.0, 5.0)]:
        teacher = (z / temperature).softmax(1)
        taught = temperature**2 * (teacher * (teacher.log() - soft)).sum(1).mean()
        method.train_params = {"alpha": alpha, "beta": beta, "temperature": temperature}
        assert torch.isclose(method.loss(net, batch), alpha * named + beta * taught, rtol=1e-12)


def test_the_distillation_is_nought_only_where_cape_agrees_with_its_teacher() -> None:
    method, net, batch = made("cape", train={"alpha": 0.0})
    assert method.loss(net, batch) > 1e-3
    # Features alike everywhere, the teacher's head and the teacher's temperature: nothing to learn.
    net.cape.load_state_dict(net.orig.state_dict())
    with torch.no_grad():
        net.t1.zero_()
        net.t3.fill_(np.log(2))
    flat = net.backbone(batch.x).mean((2, 3), keepdim=True).detach()
    net.backbone = nn.Identity()
    assert abs(method.loss(net, replace(batch, x=flat))) < 1e-14


def test_the_loss_cannot_tell_a_shift_between_temperatures_and_the_maps_can() -> None:
    method, net, batch = made("cape")
    loss, logits = method.loss(net, batch), net(batch.x)
    for t, shift in ((net.t1, 0.4), (net.t2, 0.4), (net.t3, -0.4)):
        t.data += shift
    assert torch.isclose(method.loss(net, batch), loss, rtol=1e-13)
    assert not torch.allclose(net(batch.x), logits, atol=1e-2)


def trained(method: Method, net: nn.Module, batch: Batch, steps: int) -> None:
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], 0.05,
                                momentum=0.9, nesterov=True, weight_decay=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        method.loss(net, batch).backward()
        optimizer.step()


def test_under_sgd_the_third_temperature_is_the_sum_of_the_others() -> None:
    method, net, batch = made("cape")
    for t in (net.t1, net.t2, net.t3):
        nn.init.zeros_(t)
    trained(method, net.train(), batch, 12)
    assert abs(net.t1) > 1e-3
    assert abs(net.t2) > 1e-3
    assert torch.allclose(net.t3, net.t1 + net.t2, rtol=0, atol=1e-12)


def test_post_fitting_begins_at_the_classifier_and_leaves_it_as_it_was() -> None:
    method, net, batch = made("cape-pf")
    base = nets.maker(testing.TINY, method.card, 7)().double()
    base.train()(batch.x + 1)  # its batch norms have seen other images
    base.eval()
    before = {name: value.clone() for name, value in base.state_dict().items()}
    method.start(net, base)
    logits = base(batch.x)
    assert torch.allclose(net.vanilla_logits(batch.x), logits, atol=1e-12)
    for own in (net.orig, net.cape):
        assert torch.equal(own.weight[..., 0, 0], base.fc.weight)
        assert torch.equal(own.bias, base.fc.bias)
    frozen = {name: value.clone() for name, value in net.state_dict().items()
              if name.startswith(("backbone.", "orig."))}
    first = method.loss(net.train(), batch).item()
    trained(method, net, batch, 12)
    after = net.state_dict()
    assert all(torch.equal(after[name], value) for name, value in frozen.items())
    assert not torch.equal(after["cape.weight"], after["orig.weight"])
    assert method.loss(net, batch).item() < first
    assert torch.allclose(net.eval().vanilla_logits(batch.x), logits, atol=1e-12)
    assert all(torch.equal(base.state_dict()[name], value) for name, value in before.items())


def test_only_the_cape_head_and_the_temperatures_learn_in_post_fitting() -> None:
    net = made("cape-pf")[0].network()
    learn = {name for name, p in net.named_parameters() if p.requires_grad}
    assert learn == {"cape.weight", "cape.bias", "t1", "t2", "t3"}
    for _ in ("as it is made", "as it is trained"):
        assert net.training
        assert not any(part.training for part in (*net.backbone.modules(), net.orig))
        net.train()


@pytest.mark.parametrize("backbone", [
    Backbone("convnext_atto", options={"depths": [1, 1, 1, 1], "dims": [8, 8, 8, 8]}),
    Backbone("resnet18", options={"global_pool": "max"})])
def test_post_fitting_refuses_a_classifier_that_its_vanilla_head_cannot_be(backbone) -> None:
    card, _ = testing.tiny_batch(3, size=64)
    method = plugins.methods["cape-pf"](card, nets.maker(backbone, card, 0))
    with pytest.raises(HeatproofError, match="average pooling and a linear layer"):
        method.start(method.network(), method.backbone())


@BOTH
def test_each_kind_shows_its_own_map_of_the_target(name: str) -> None:
    for kind in ("cape", "mu", "cam"):
        method, net, batch = made(name, explain={"kind": kind})
        maps = {"cape": net.maps, "mu": net.mu, "cam": net.cam}[kind](batch.x)
        for target in range(3):
            found = method.explain(net, batch, torch.full((len(batch),), target))
            assert torch.equal(found, maps[:, target])
        assert maps.min() >= 0
        assert not method.signed
        assert method.additivity == ("sum" if kind == "cape" else "none")


def test_mu_is_the_clipped_logarithm_of_a_contributions_numerator() -> None:
    _, net, batch = made("cape")
    scores = net.cape(net.backbone(batch.x))
    by_class = (scores / net.t1.exp()).logsumexp(1, keepdim=True)
    by_cell = (scores.mean(1, keepdim=True) / net.t2.exp()).logsumexp((2, 3), keepdim=True)
    expected = net.maps(batch.x).log() + by_class + by_cell
    assert (expected < 0).any()
    assert (expected > 0).any()
    assert torch.allclose(net.mu(batch.x), expected.relu(), atol=1e-12)


@BOTH
def test_an_unknown_kind_is_answered_with_those_there_are(name: str) -> None:
    with pytest.raises(HeatproofError, match=f"{name}: kind must be 'cape', 'mu' or 'cam'"):
        made(name, explain={"kind": "mu-cape"})


@BOTH
def test_only_a_network_with_a_cape_head_is_served(name: str) -> None:
    method, net, _ = made(name)
    assert method.supports(net) is None
    assert method.supports(made("cape" if name == "cape-pf" else "cape-pf")[1]) is None
    for other in ("softcam", "gradcam"):
        assert method.supports(made(other)[1]) == "the network has no CAPE head"
