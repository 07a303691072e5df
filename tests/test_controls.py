"""Controls: what knows nothing of what a network learned, and what knows the truth."""

from __future__ import annotations

import weakref
from dataclasses import replace
from itertools import accumulate, pairwise

import pytest
import timm
import torch
from explained_nets import NETWORKS
from torch.nn import functional

from bench import nets, plugins, testing
from bench.core import Batch, HeatproofError, Method
from bench.explain import explained, unsupported
from bench.measure import Explained
from bench.metrics.fair import outlines
from bench.passes import counted
from bench.randomness import seeded
from bench.stages import redrawn

CARD, BATCH = testing.tiny_batch(3)


def control(name: str, **params: object) -> Method:
    return plugins.methods[name](CARD, nets.maker(testing.TINY, CARD, 0), explain=params)


def network(name: str = "resnet") -> torch.nn.Module:
    with seeded(0):
        return NETWORKS[name](CARD).eval().requires_grad_(False)


def maps(name: str, net: torch.nn.Module | None = None, batch: Batch = BATCH, **params: object):
    return explained(control(name, **params), net or torch.nn.Identity(), batch, batch.y)


class Means(torch.nn.Module):
    """Its logits are multiples of the mean of the pixels, and have a gradient unless `blind`."""

    def __init__(self, blind: bool = False) -> None:
        super().__init__()
        self.blind = blind
        self.feature_layer = torch.nn.Flatten()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean = self.feature_layer(x).mean(1, keepdim=True)
        return (mean.detach() if self.blind else mean) * torch.tensor([1.0, 2.0, 3.0])


def test_the_controls_do_not_look_at_the_network() -> None:
    for name in ("noise", "centre", "edges", "oracle", "magnitude"):
        assert torch.equal(maps(name), maps(name, network())), name


def test_noise_follows_each_samples_own_seed() -> None:
    found = maps("noise")
    assert torch.equal(maps("noise", batch=BATCH[[3, 1]]), found[[3, 1]])
    assert not torch.equal(found[0], found[1])


def test_edges_see_edges() -> None:
    x = torch.zeros(1, 3, 32, 32)
    x[:, :, :, 16:] = 1
    found = maps("edges", batch=replace(BATCH[[0]], x=x))
    assert found[0, :, 15:17].min() == 4
    assert found[0, :, :15].max() == found[0, :, 17:].max() == 0


# The class's mean, and the image itself.

def shown(sizes: tuple[int, ...]) -> list[Batch]:
    """Forty images of three classes, in batches of these sizes."""
    x = torch.rand((40, 3, 32, 32), generator=torch.Generator().manual_seed(5)) * 2 - 1
    whole = Batch(x=x, y=torch.arange(40) % 3, key=tuple(map(str, range(40))),
                  seed=torch.arange(40), group=("",) * 40)
    return [whole[a:b] for a, b in pairwise(accumulate((0, *sizes)))]


def test_the_class_mean_is_the_mean_of_the_targets_training_images() -> None:
    method = control("class-mean")
    (whole,) = shown((40,))
    method.study(iter([whole]))
    target = torch.tensor([2, 0, 1, 1])
    found = explained(method, torch.nn.Identity(), BATCH, target)
    pixels = (whole.x.double() + 1) / 2
    for i, label in enumerate(target.tolist()):
        mean = pixels[whole.y == label].mean((0, 1))
        assert (found[i] - mean).abs().max() < 1e-7


def test_the_class_mean_is_the_same_for_any_batches_and_any_number_of_looks() -> None:
    method, found = control("class-mean"), []
    for sizes in ((40,), (1,) * 40, (7, 13, 20)):
        method.study(iter(shown(sizes)))
        found.append(explained(method, torch.nn.Identity(), BATCH, BATCH.y))
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_the_class_mean_keeps_no_image() -> None:
    alive: list[weakref.ref[torch.Tensor]] = []

    def batches():
        for batch in shown((10, 10, 10, 10)):
            x = batch.x.clone()
            alive.append(weakref.ref(x))
            batch = replace(batch, x=x)
            del x
            yield batch
            del batch
            assert sum(one() is not None for one in alive) <= 1

    control("class-mean").study(batches())
    assert len(alive) == 4
    assert not any(one() is not None for one in alive)


def test_images_divided_by_their_maximum_are_in_shares_of_it() -> None:
    card = replace(CARD, mean=(0.0,) * 3, std=(1.0,) * 3)
    batch = replace(BATCH, x=BATCH.x.abs() / BATCH.x.abs().amax((1, 2, 3), keepdim=True))
    for name in ("magnitude", "class-mean"):
        method = plugins.methods[name](card, torch.nn.Identity)
        method.study(iter([batch]))
        found = explained(method, torch.nn.Identity(), batch, batch.y)
        assert torch.allclose(found[1], batch.x[1].mean(0))


def test_a_class_mean_without_images_says_what_to_do() -> None:
    method = control("class-mean")
    with pytest.raises(HeatproofError, match=r"call study\(batches\) before explain"):
        method.explain(torch.nn.Identity(), BATCH, BATCH.y)
    method.study(iter([BATCH[[0, 1]]]))
    assert len(method.explain(torch.nn.Identity(), BATCH[[0, 1]], BATCH.y[:2])) == 2
    with pytest.raises(HeatproofError, match=r"class 'c' has no training image; raise") as error:
        method.explain(torch.nn.Identity(), BATCH, BATCH.y)
    assert "\n" not in str(error.value)


def test_magnitude_is_the_intensity_whatever_the_cards_mean() -> None:
    pixels = (BATCH.x + 1) / 2
    for mean, std in (((0.5,) * 3, (0.5,) * 3), ((0.1, 0.4, 0.8), (0.2, 0.3, 0.1))):
        card = replace(CARD, mean=mean, std=std)
        x = (pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
        method = plugins.methods["magnitude"](card, torch.nn.Identity)
        found = explained(method, torch.nn.Identity(), replace(BATCH, x=x), BATCH.y)
        assert torch.allclose(found, pixels.mean(1), atol=1e-6)
        assert found.min() >= 0
    darker = explained(control("magnitude"), torch.nn.Identity(),
                       replace(BATCH, x=torch.full_like(BATCH.x, -1.5)), BATCH.y)
    assert darker.abs().max() == 0


def test_integrated_gradients_from_black_come_down_to_magnitude() -> None:
    ig = explained(control("ig"), Means(), BATCH, BATCH.y)
    # Of each pixel C channels are added up, whose slope is k / (C · H · W) for class k − 1.
    slope = (BATCH.y + 1)[:, None, None] / CARD.std[0] / (32 * 32)
    assert torch.allclose(ig, maps("magnitude") * slope, atol=1e-6)


# The same method on a network drawn anew.

def scrambled(net: torch.nn.Module) -> torch.nn.Module:
    """A network with other parameters and statistics, as a training leaves them."""
    draw = torch.Generator().manual_seed(9)
    for tensor in net.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=draw) + 0.1)
    return net


@pytest.mark.parametrize("name", list(NETWORKS))
def test_a_reinitialised_map_is_the_same_whatever_the_network_learned(name: str) -> None:
    found = maps("reinitialised", network(name))
    assert torch.equal(found, maps("reinitialised", scrambled(network(name))))
    assert found.abs().max() > 0


def test_a_reinitialised_map_is_the_methods_on_the_network_drawn_anew() -> None:
    net = network()
    for draw in (0, 1):
        for name, params in (("gradcam", {"relu": True}), ("ig", {"steps": 3})):
            found = maps("reinitialised", net, method=name, params=params, draw=draw)
            assert torch.equal(found, maps(name, redrawn(net, draw), **params))
    assert not torch.equal(maps("reinitialised", net), maps("reinitialised", net, draw=1))
    assert not torch.allclose(maps("reinitialised", net), maps("gradcam", net))


def test_a_reinitialised_map_explains_the_target_and_costs_what_the_method_costs() -> None:
    net, method = network(), control("reinitialised", method="ig", params={"steps": 5})
    with counted(net) as passes:
        found = explained(method, net, BATCH, BATCH.y)
    with counted(net) as own:
        maps("ig", net, steps=5)
    assert passes == own
    assert own.backward == 5 * len(BATCH)
    other = explained(method, net, BATCH, (BATCH.y + 1) % 3)
    assert not torch.allclose(found, other)


def test_a_reinitialised_method_has_the_facts_of_the_method() -> None:
    assert control("reinitialised").signed
    assert control("reinitialised").needs_grad
    assert not plugins.methods["reinitialised"].needs_grad
    cape = control("reinitialised", method="cape")
    assert (cape.signed, cape.needs_grad) == (control("cape").signed, False)
    assert cape.additivity == "none"


def test_a_reinitialised_method_serves_the_networks_that_the_method_serves() -> None:
    soft = control("reinitialised", method="softcam")
    assert unsupported(soft, network()) == "the network has no evidence layer"
    assert unsupported(soft, network("softcam")) is None
    assert "which layer holds its features" in unsupported(
        control("reinitialised"), torch.nn.Linear(1, 1))
    assert "have no gradient" in unsupported(
        control("reinitialised", method="ig"), Means(blind=True))


def test_only_a_method_that_studies_is_handed_the_training_images(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def unread():
        pytest.fail("the training images were read for nothing")
        yield

    control("reinitialised").study(unread())
    seen: list[Batch] = []
    monkeypatch.setattr(plugins.methods["gradcam"], "study", lambda _self, b: seen.extend(b))
    control("reinitialised").study(iter(shown((20, 20))))
    assert [len(batch) for batch in seen] == [20, 20]


def test_what_a_reinitialised_method_calls_enters_its_version(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cls, params = plugins.methods["reinitialised"], control("reinitialised").explain_params
    before = plugins.version_of(cls, params)
    monkeypatch.setattr(plugins.methods["ig"], "version", "99")
    assert plugins.version_of(cls, params) == before
    assert plugins.version_of(cls, {**params, "method": "ig"}).endswith("+99")
    # What the method itself calls, by its own parameters, counts too.
    monkeypatch.setattr(plugins.methods["gradcam"], "calls",
                        classmethod(lambda _cls, own: ("noise", "ig")[own["relu"]:]))
    assert cls.calls(params) == ("gradcam", "noise", "ig")
    assert cls.calls({**params, "params": {"relu": True}}) == ("gradcam", "ig")


@pytest.mark.parametrize(("params", "says"), [
    ({"method": "gradcamm"}, "did you mean 'gradcam'"),
    ({"method": "oracle"}, "'oracle' reads nothing that a network learns"),
    ({"method": "noise"}, "name a method that explains one"),
    ({"method": "reinitialised"}, "'reinitialised' reads nothing"),
    ({"params": {"rel": True}}, "did you mean 'relu'"),
    ({"params": "relu"}, "a table of explain parameters of 'gradcam', not 'relu'"),
    ({"draw": "first"}, "draw must be a whole number, not 'first'"),
])
def test_a_method_that_cannot_be_reinitialised_is_told_in_one_line(params, says: str) -> None:
    with pytest.raises(HeatproofError, match=says) as error:
        control("reinitialised", **params)
    assert "\n" not in str(error.value)


# The oracles.

def test_the_oracle_is_the_mask_without_what_is_to_be_ignored() -> None:
    mask = torch.zeros(4, 32, 32, dtype=torch.uint8)
    mask[:, 0], mask[:, 1], mask[:, 2] = 1, 3, 255
    found = maps("oracle", batch=replace(BATCH, mask=mask))
    assert found[:, :2].min() == 1
    assert found[:, 2:].max() == 0


def masked() -> Batch:
    """The batch with ragged masks of two parts, a tenth of them unknown."""
    drawn = torch.rand((4, 32, 32), generator=torch.Generator().manual_seed(2))
    mask = (drawn * 3).to(torch.uint8)
    mask[drawn > 0.9] = 255
    mask[:, :8, :8] = 255
    return replace(BATCH, mask=mask)


def test_the_oracle_sees_the_grid_of_each_network() -> None:
    batch = masked()
    for name, side in (("resnet", 8), ("convnext-v2", 2), ("softcam", 8), ("gp-unet", 32)):
        found = maps("oracle-native", network(name), batch)
        assert found.shape == (4, side, side), name
        assert torch.equal(found, maps("oracle-native", batch=batch, grid=side)), name
    assert torch.equal(found, maps("oracle", batch=batch))


@pytest.mark.parametrize("side", [1, 4, 5, 7, 20, 31, 32])
def test_a_cell_has_the_objects_share_of_what_is_known_of_it(side: int) -> None:
    batch = masked()
    found = maps("oracle-native", batch=batch, grid=side)
    seen = Explained(network=torch.nn.Identity(), batch=batch, logits=torch.zeros(4, 3),
                     target=batch.y, maps=found, explain=explained, classes=3)
    assert (found - outlines(seen)).abs().max() < 1e-7
    assert 0 <= found.min() <= found.max() <= 1


def test_no_area_is_lost_or_counted_twice() -> None:
    inside = (BATCH.mask > 0).double()
    for side in (4, 7, 12):
        found = maps("oracle-native", grid=side).double()
        assert torch.allclose(found.mean((1, 2)), inside.mean((1, 2)), atol=1e-7)
    # Adaptive pooling has overlapping bins where the grid does not divide the image.
    off = functional.adaptive_avg_pool2d(inside, 7).mean((1, 2)) - inside.mean((1, 2))
    assert off.abs().min() > 1e-3


def test_the_oracle_at_a_grid_scores_the_ceiling_of_that_grid() -> None:
    net, batch = network(), masked()
    made = Explained(network=net, batch=batch, logits=net(batch.x), target=batch.y,
                     maps=maps("gradcam", net, batch), explain=explained, classes=3)
    oracle = replace(made, maps=maps("oracle-native", net, batch))
    for name, off in (("mass-inside", 1e-6), ("rank-accuracy", 1e-6), ("pointing-game", 1e-6),
                      ("auc", 1e-3)):  # maps are kept in float32, which parts some of its ties
        ceiling = plugins.metrics[f"ceiling/{name}"].score(made).value
        assert plugins.metrics[name].score(oracle).value == pytest.approx(ceiling, abs=off), name


def test_a_network_without_a_grid_is_told_and_a_given_grid_serves_it() -> None:
    vit = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=16,
                            depth=1, num_heads=2, num_classes=3).eval()
    method = control("oracle-native")
    assert "pools no feature map" in unsupported(method, vit)
    assert unsupported(method, Means()) == (
        "the features of Means are no map (N, D, h, w), but of shape (1, 3072)")
    assert unsupported(control("oracle-native", grid=4), vit) is None
    for name, net in (("resnet", network()), ("no parameters", Means())):
        before = [len(module._forward_hooks) for module in net.modules()]
        unsupported(method, net)
        assert [len(module._forward_hooks) for module in net.modules()] == before, name


@pytest.mark.parametrize("side", [33, -1, 2.5, "native", True])
def test_a_grid_that_is_none_is_told(side: object) -> None:
    with pytest.raises(HeatproofError, match="grid must be 0, for the network's own, or cells"):
        maps("oracle-native", network(), grid=side)


def test_an_oracle_without_a_mask_is_refused() -> None:
    for name in ("oracle", "oracle-native"):
        with pytest.raises(ValueError, match="given no mask"):
            control(name).explain(network(), replace(BATCH, mask=None), BATCH.y)
