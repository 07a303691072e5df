"""Every registered method keeps the contract; the known methods give their known maps."""

from __future__ import annotations

import pytest
import torch

from bench import nets, plugins, testing
from bench.core import HeatproofError, Method
from bench.explain import additivity, explained
from bench.randomness import seeded

plugins.load()


def made(name: str, **params) -> tuple[Method, torch.nn.Module, testing.Batch]:
    """A method with its own network, or the plain one, and a batch."""
    card, batch = testing.tiny_batch(3)
    method = plugins.methods[name](card, nets.maker(testing.TINY, card, 0), **params)
    with seeded(0):
        net = method.network()
    return method, net.eval().requires_grad_(False), batch


@pytest.mark.parametrize("name", list(plugins.methods))
def test_every_method_keeps_the_contract(name: str) -> None:
    findings = testing.check_method(plugins.methods[name])
    assert len(findings) >= 20
    assert not [finding for finding in findings if not finding.ok]


@pytest.mark.parametrize("name", list(plugins.methods))
def test_every_method_says_what_it_is(name: str) -> None:
    cls = plugins.methods[name]
    assert cls.title
    assert cls.family in ("inherent", "cam", "gradient", "perturbation", "control")
    assert cls.paper or cls.family == "control"
    assert cls.version


def test_the_contract_catches_a_method_that_breaks_it() -> None:
    class Bad(Method):
        name = "bad"

        def explain(self, net, batch, target):
            net.fc.weight.data.add_(1)
            torch.rand(1)
            net.register_forward_hook(lambda *_: None)
            return torch.rand(len(batch), 4, 4) + batch.x.mean() * len(batch)

    broken = {f.expected for f in testing.check_method(Bad, channels=(1,)) if not f.ok}
    assert broken >= {"weights, modules, hooks, gradients and modes are as they were",
                      "a batch of n equals n batches of one (1e-5 of the peak)"}


def test_the_contract_catches_a_map_that_does_not_add_up() -> None:
    class Off(plugins.methods["softcam"]):
        def explain(self, net, batch, target):
            return super().explain(net, batch, target) + 0.1

    broken = [f.expected for f in testing.check_method(Off, channels=(1,)) if not f.ok]
    assert broken == ["mean of the map = logit (1e-04)"]


class Bypassed(plugins.methods["softcam"]):
    """Its logits get something that its map does not show."""

    def network(self):
        net = super().network()
        kind = type(net)
        net.secret = torch.nn.Linear(self.card.image[0], 3)
        net.__class__ = type("Bypass", (kind,), {
            "forward": lambda net, x: kind.forward(net, x) + 0.01 * net.secret(x.mean((2, 3)))})
        return net


def test_a_head_with_a_hidden_bypass_is_caught() -> None:
    broken = [f.expected for f in testing.check_method(Bypassed, channels=(1,)) if not f.ok]
    assert broken == ["mean of the map = logit (1e-04)"]
    card, batch = testing.tiny_batch(3)
    for cls, holds in ((plugins.methods["softcam"], True), (Bypassed, False)):
        method = cls(card, nets.maker(testing.TINY, card, 0))
        net = method.network().eval()
        maps = explained(method, net, batch, batch.y)
        found = additivity(method.additivity, maps, net(batch.x), batch.y)
        assert (found["holds"], found["images"]) == (holds, 4)


def test_additivity_is_measured_on_the_explained_class_of_each_image() -> None:
    maps = torch.tensor([[[1.0, 3.0]], [[-400.0, 0.0]]])
    logits = torch.tensor([[2.0, 9.0], [9.0, -200.1]])
    found = additivity("mean", maps, logits, torch.tensor([0, 1]))
    # The first adds up; the second is off by 0.1 where the output is 200.1.
    assert found == {"declared": "mean", "largest": pytest.approx(0.1 / 200.1, rel=1e-4),
                     "tolerance": 1e-4, "holds": False, "images": 2}
    assert additivity("mean", maps[:1], logits[:1], torch.tensor([0]))["holds"] is True
    assert additivity("mean", maps[:1], logits[:1], torch.tensor([1]))["largest"] == 7 / 9


def test_a_sum_is_compared_with_the_probability() -> None:
    logits = torch.tensor([[0.0, 0.0, 0.0]])
    maps = torch.full((1, 2, 2), 1 / 12)
    assert additivity("sum", maps, logits, torch.tensor([2]))["holds"] is True
    assert additivity("sum", maps * 1.001, logits, torch.tensor([2]))["holds"] is False


def test_the_rounding_of_float32_is_no_deviation() -> None:
    maps = torch.randn(8, 224, 224, generator=torch.Generator().manual_seed(0)) * 100
    logits = maps.mean((1, 2))[:, None]
    found = additivity("mean", maps, logits, torch.zeros(8, dtype=torch.int64))
    assert 0 < found["largest"] < 1e-5
    assert found["holds"] is True


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_does_not_add_up(bad: float) -> None:
    maps = torch.tensor([[[0.0]], [[bad]]])
    for logits in (torch.zeros(2, 1), torch.tensor([[0.0], [bad]])):
        found = additivity("mean", maps, logits, torch.zeros(2, dtype=torch.int64))
        assert (found["largest"], found["holds"]) == (None, False)


def test_a_map_that_declares_nothing_is_not_measured() -> None:
    found = additivity("none", torch.ones(2, 1, 1), torch.zeros(2, 1), torch.zeros(2).long())
    assert (found["largest"], found["holds"]) == (None, None)
    with pytest.raises(HeatproofError, match="'mean', 'sum' or 'none', not 'max'"):
        additivity("max", torch.ones(2, 1, 1), torch.zeros(2, 1), torch.zeros(2).long())


def test_softcam_shows_the_target_class() -> None:
    method, net, batch = made("softcam")
    maps = net.maps(batch.x)
    for target in range(3):
        found = method.explain(net, batch, torch.full((len(batch),), target))
        assert torch.equal(found, maps[:, target])
    assert torch.allclose(net(batch.x), maps.mean((2, 3)), atol=1e-6)


def test_gradcam_on_softcam_is_the_evidence_less_its_bias() -> None:
    # methods.md 1.10, invariant 4: the pooling is a mean, so every cell's weight is 1 / (h·w).
    method, net, batch = made("softcam")
    evidence = method.explain(net, batch, batch.y)
    gradcam = explained(made("gradcam")[0], net, batch, batch.y)
    cells = evidence.shape[1] * evidence.shape[2]
    bias = net.evidence.bias[batch.y][:, None, None]
    assert torch.allclose(gradcam, (evidence - bias) / cells, atol=1e-6)


def test_softcams_penalties_are_what_the_formula_says() -> None:
    plain = made("softcam")
    _, net, batch = plain
    maps = net.maps(batch.x)
    base = plain[0].loss(net, batch)
    assert torch.isclose(base, torch.nn.functional.cross_entropy(maps.mean((2, 3)), batch.y))
    for params, extra in [
        ({"lasso": 0.5}, 0.5 * maps.abs().sum((1, 2, 3)).mean()),
        ({"ridge": 2.0}, 2.0 * maps.square().sum((1, 2, 3)).sqrt().mean()),
        ({"lasso": 0.5, "first_sample": True}, 0.5 * maps[0].abs().sum()),
        ({"ridge": 2.0, "first_sample": True}, 2.0 * maps[0].square().sum().sqrt()),
    ]:
        loss = made("softcam", train=params)[0].loss(net, batch)
        assert torch.isclose(loss, base + extra, rtol=1e-5), params


def test_softcam_says_why_it_cannot_serve_another_network() -> None:
    method = made("softcam")[0]
    assert method.supports(made("gradcam")[1]) == "the network has no evidence layer"
    assert made("gradcam")[0].supports(torch.nn.Linear(1, 1)) is not None


def test_integrated_gradients_are_complete() -> None:
    method, net, batch = made("ig", explain={"steps": 200})
    maps = explained(method, net, batch, batch.y)
    black = torch.full_like(batch.x, -1.0)
    gain = (net(batch.x) - net(black)).gather(1, batch.y[:, None])[:, 0]
    assert torch.allclose(maps.sum((1, 2)), gain, atol=5e-3 * float(gain.abs().max()) + 1e-4)


def test_a_different_target_changes_a_class_specific_map() -> None:
    for name in ("softcam", "gradcam", "ig"):
        method, net, batch = made(name)
        one = explained(method, net, batch, batch.y)
        other = explained(method, net, batch, (batch.y + 1) % 3)
        assert not torch.allclose(one, other), name


def test_a_mask_reaches_only_who_declares_that_it_needs_it() -> None:
    seen = []

    class Peek(Method):
        name = "peek"

        def explain(self, net, batch, target):
            seen.append(batch.mask)
            return batch.x[:, 0]

    card, batch = testing.tiny_batch()
    explained(Peek(card, lambda: torch.nn.Identity()), torch.nn.Identity(), batch, batch.y)
    assert seen == [None]


def test_a_map_of_another_shape_names_the_method() -> None:
    class Flat(Method):
        name = "flat"

        def explain(self, net, batch, target):
            return batch.x.flatten(1)

    card, batch = testing.tiny_batch()
    with pytest.raises(HeatproofError, match=r"'flat' returned maps of shape \(4, 1024\)"):
        explained(Flat(card, lambda: torch.nn.Identity()), torch.nn.Identity(), batch, batch.y)


def test_an_unknown_parameter_is_answered_with_the_nearest() -> None:
    with pytest.raises(HeatproofError, match="did you mean 'steps'"):
        made("ig", explain={"step": 3})
    with pytest.raises(HeatproofError, match="'black' or 'mean'"):
        method, net, batch = made("ig", explain={"baseline": "blak"})
        method.explain(net, batch, batch.y)
