"""Class activation maps: equal to grad-cam's own, and to each other where they must be."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from explained_nets import NETWORKS
from torch import Tensor, nn

from bench import nets, plugins, testing
from bench.core import HeatproofError
from bench.explain import explained, unsupported
from bench.passes import counted
from bench.randomness import seeded

plugins.load()

CARD, BATCH = testing.tiny_batch(3, n=3)
LIBRARY = {"gradcam": "GradCAM", "gradcam++": "GradCAMPlusPlus", "xgradcam": "XGradCAM",
           "hirescam": "HiResCAM", "layercam": "LayerCAM", "eigencam": "EigenCAM",
           "eigengradcam": "EigenGradCAM", "scorecam": "ScoreCAM", "ablationcam": "AblationCAM"}
CAMS = ("cam", *LIBRARY)


def made(name: str, **params: object):
    return plugins.methods[name](CARD, nn.Identity, explain=params)


def network(name: str = "resnet") -> nn.Module:
    with seeded(0):
        return NETWORKS[name](CARD).eval()


def maps(name: str, net: nn.Module, **params: object) -> Tensor:
    return explained(made(name, **params), net, BATCH, BATCH.y)


def logits(net: nn.Module) -> Tensor:
    """Those of the targets."""
    with torch.no_grad():
        return net(BATCH.x).gather(1, BATCH.y[:, None])[:, 0]


def close(one: Tensor, other: Tensor, tolerance: float = 1e-5) -> bool:
    """Whether two maps are alike, to a share of the other's peak."""
    return bool((one - other).abs().max() <= tolerance * other.abs().max())


class Head(nn.Module):
    """A convolution, what `after` makes of it, pooling and a linear layer."""

    def __init__(self, after: nn.Module) -> None:
        super().__init__()
        with seeded(0):
            self.feature_layer = nn.Conv2d(3, 6, 5, stride=4)
            self.after = after
            self.fc = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.after(self.feature_layer(x)).mean((2, 3)))


def in_library(name: str, net: nn.Module) -> tuple[Tensor, Tensor]:
    """grad-cam's maps (N, h, w) before it finishes them, and after (N, H, W)."""
    import pytorch_grad_cam
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    net, raw, shown = deepcopy(net), [], []
    cls = getattr(pytorch_grad_cam, LIBRARY[name])

    class Kept(cls):
        def get_cam_image(self, *args, **params):
            raw.append(super().get_cam_image(*args, **params))
            return raw[-1]

    for x, y in zip(BATCH.x, BATCH.y, strict=True):
        cam = Kept(net, [nets.feature_layer(net)])
        shown.append(cam(x[None], [ClassifierOutputTarget(int(y))]))
    return torch.from_numpy(np.concatenate(raw)), torch.from_numpy(np.concatenate(shown))


def finished(cam: Tensor) -> Tensor:
    """Maps as grad-cam finishes them: rectified, resized, scaled from 0 to 1."""
    from pytorch_grad_cam.base_cam import BaseCAM
    from pytorch_grad_cam.utils.image import scale_cam_image

    scaled = scale_cam_image(cam.relu().numpy(), (32, 32))[:, None]
    return torch.from_numpy(BaseCAM.aggregate_multi_layers(SimpleNamespace(), [scaled]))


# In a feature map with negative values grad-cam ablates a channel to -1e7, and not to 0.
@pytest.mark.parametrize(("name", "net"), [
    (name, net) for name in LIBRARY for net in ("resnet", "softcam", "convnext-v2", "gp-unet")
    if (name, net) != ("ablationcam", "convnext-v2")])
def test_a_map_that_is_finished_as_in_grad_cam_is_grad_cams(name: str, net: str) -> None:
    method, model = made(name), network(net)
    raw, shown = in_library(name, model)
    cam = torch.cat([
        explained(method, model, BATCH[[i]], BATCH.y[[i]]) for i in range(len(BATCH))])
    # Where the sign in grad-cam is not that of a heatmap, ours departs in the sign alone.
    signs = {"eigencam": (cam * raw).sum((1, 2)), "eigengradcam": (cam * raw).sum((1, 2)),
             "ablationcam": logits(model)}.get(name, torch.ones(len(cam))).sign()
    cam = cam * signs[:, None, None]
    # What an ablated channel loses is small beside the logit, which grad-cam reads in float32.
    tolerance = 5e-6 if name == "ablationcam" else 1e-6
    assert close(cam, raw, tolerance)
    assert (finished(cam) - shown).abs().max() < tolerance


def test_on_average_pooling_and_a_linear_layer_four_of_them_are_one() -> None:
    net = network()
    cam = maps("cam", net)
    cells = cam.shape[1] * cam.shape[2]
    assert close(cam.mean((1, 2)) + net.fc.bias[BATCH.y], logits(net))
    for name in ("gradcam", "hirescam", "xgradcam"):
        assert close(cells * maps(name, net), cam)


def test_there_layercam_is_the_cam_of_the_positive_weights() -> None:
    net = network()
    layercam = maps("layercam", net)
    net.fc.weight.data.clamp_(min=0)
    assert close(layercam * layercam[0].numel(), maps("cam", net))


def test_the_epsilon_of_grad_cam_decides_the_weights_of_gradcam_plus_plus() -> None:
    net = network()
    features = nets.feature_map(net, BATCH.x)
    slope = net.fc.weight.detach()[BATCH.y] / features[0, 0].numel()
    total = features.sum((2, 3)) * slope**3
    made = {}
    for epsilon in (1e-6, 0):
        share = slope**2 / (2 * slope**2 + total + epsilon)
        weights = features[0, 0].numel() * slope.relu() * share
        made[epsilon] = torch.einsum("nd,ndhw->nhw", weights, features)
    assert close(maps("gradcam++", net), made[1e-6])
    assert not close(made[0], made[1e-6], 0.01)


def test_the_cam_of_a_softcam_network_is_its_evidence_less_the_bias() -> None:
    net = network("softcam")
    evidence = net.maps(BATCH.x)[torch.arange(3), BATCH.y].detach()
    assert close(maps("cam", net), evidence - net.evidence.bias[BATCH.y][:, None, None])


@pytest.mark.parametrize(("name", "of"), [("eigencam", None), ("eigengradcam", "hirescam")])
def test_a_principal_component_points_where_the_sum_of_the_channels_does(name, of) -> None:
    for net in map(network, NETWORKS):
        total = maps(of, net) if of else nets.feature_map(net, BATCH.x).sum(1)
        total = total - total.mean((1, 2), keepdim=True)
        assert ((maps(name, net) * total).sum((1, 2)) > 0).all()


def test_a_principal_component_makes_no_matrix_of_all_pairs_of_cells() -> None:
    x = torch.rand(1, 3, 1600, 1600)  # 160,000 cells, whose pairs would take 100 GB
    cam = made("eigencam").explain(Head(nn.Identity()), replace(BATCH[[0]], x=x), BATCH.y[:1])
    assert cam.shape == (1, 399, 399)


def test_a_feature_map_that_is_not_finite_gives_no_map() -> None:
    net = Head(nn.Identity())
    net.feature_layer.bias.data[0] = torch.nan
    for name in ("eigencam", "eigengradcam"):
        assert maps(name, net).isnan().all()


@pytest.mark.parametrize("net", ["resnet", "convnext-v2", "cape"])
def test_an_ablated_channel_is_zero_and_more_evidence_is_larger(net: str) -> None:
    model = network(net)
    features, scores = nets.feature_map(model, BATCH.x), logits(model)
    hook = nets.feature_layer(model).register_forward_hook(lambda *_: given)
    losses = torch.zeros(features.shape[:2])
    for channel in range(features.shape[1]):
        given = features.clone()
        given[:, channel] = 0
        losses[:, channel] = scores - logits(model)
    hook.remove()
    weights = losses / scores.abs()[:, None]
    assert (scores < 0).any()
    assert close(maps("ablationcam", model), torch.einsum("nd,ndhw->nhw", weights, features), 1e-4)


@pytest.mark.parametrize("name", CAMS)
def test_relu_cuts_the_negative_part_off(name: str) -> None:
    net = network("softcam")
    cut = made(name, relu=True)
    assert (made(name).signed, cut.signed) == (True, False)
    assert torch.equal(explained(cut, net, BATCH, BATCH.y), maps(name, net).relu())


@pytest.mark.parametrize("name", CAMS)
def test_an_activation_that_works_in_place_changes_no_map(name: str) -> None:
    inplace, apart = (Head(nn.ReLU(inplace=way)) for way in (True, False))
    if name != "cam":
        assert torch.equal(maps(name, inplace), maps(name, apart))
    assert torch.equal(nets.feature_map(apart, BATCH.x), apart.feature_layer(BATCH.x))


@pytest.mark.parametrize(("name", "forward", "backward"), [
    ("cam", 1, 0), ("gradcam", 1, 1), ("gradcam++", 1, 1), ("xgradcam", 1, 1), ("hirescam", 1, 1),
    ("layercam", 1, 1), ("eigencam", 1, 0), ("eigengradcam", 1, 1), ("scorecam", 17, 0),
    ("ablationcam", 18, 0)])
def test_the_passes_are_those_that_it_names(name: str, forward: int, backward: int) -> None:
    net = network()
    with counted(net) as passes:
        maps(name, net)
    once = forward > 1  # to see how many images fit
    assert (passes.forward, passes.backward) == (3 * forward + once, 3 * backward)


def test_grad_cam_draws_no_progress_bar(capfd: pytest.CaptureFixture[str]) -> None:
    from pytorch_grad_cam import ablation_cam, score_cam

    bars = score_cam.tqdm, ablation_cam.tqdm
    for name in ("scorecam", "ablationcam"):
        maps(name, network("softcam"))
    assert capfd.readouterr() == ("", "")
    assert (score_cam.tqdm, ablation_cam.tqdm) == bars


class Broken(Head):
    """It breaks down when it is asked often."""

    def forward(self, x: Tensor) -> Tensor:
        logits = super().forward(x)
        self.left[0] -= 1
        if not self.left[0]:
            raise ArithmeticError
        return logits


@pytest.mark.parametrize(("name", "calls"), [
    ("cam", 1), ("gradcam", 1), ("xgradcam", 1), ("eigencam", 1), ("scorecam", 3),
    ("ablationcam", 4)])
def test_nothing_is_left_of_a_map_that_was_broken_off(name: str, calls: int) -> None:
    net = Broken(nn.Identity()).eval()
    net.left = [calls]
    before = testing._traces(net)
    with pytest.raises(ArithmeticError):
        maps(name, net)
    after = testing._traces(net)
    assert before.keys() == after.keys()
    assert all(testing._alike(before[what], after[what]) for what in before)


@pytest.mark.parametrize("net", ["vgg", "convnext-v2", "cape", "gp-unet"])
def test_cam_needs_a_linear_layer_of_the_mean_feature_map(net: str) -> None:
    assert "no linear layer of the spatial mean" in unsupported(made("cam"), network(net))


@pytest.mark.parametrize(("after", "fits"), [
    (nn.Identity(), True), (nn.AvgPool2d(7), True), (nn.MaxPool2d(7), False), (nn.ReLU(), False)])
def test_cam_is_asked_what_a_network_does_and_not_what_it_is_called(after, fits) -> None:
    assert (unsupported(made("cam"), Head(after).eval()) is None) == fits


class Twice(Head):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + super().forward(-x)


class Aside(Head):
    def forward(self, x: Tensor) -> Tensor:
        self.feature_layer(x)
        return self.fc(x.mean((2, 3)).repeat(1, 2))


class Joined(Head):
    def forward(self, x: Tensor) -> Tensor:
        pooled = [self.feature_layer(x).mean((2, 3)), x.mean((2, 3))]
        return self.fc(torch.cat(pooled, 1)[:, :6])


class Flat(Head):
    def __init__(self, after: nn.Module) -> None:
        super().__init__(after)
        self.feature_layer, self.fc = nn.Flatten(), nn.Linear(3072, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.feature_layer(x))


@pytest.mark.parametrize(("names", "make", "reason"), [
    (CAMS, Twice, "runs 2 times in one pass"),
    (CAMS, Flat, "gives (2, 3072), and a CAM reads a map (N, D, h, w)"),
    (CAMS, lambda _after: nn.Linear(1, 1), "give the network an attribute feature_layer"),
    (("gradcam", "layercam", "eigengradcam"), Aside, "have no gradient"),
    (("ablationcam",), Aside, "does not run by itself"),
    (("ablationcam",), Joined, "does not run by itself"),
])
def test_a_network_that_a_cam_cannot_read_is_said_to_be_so(names, make, reason) -> None:
    for name in names:
        assert reason in unsupported(made(name), make(nn.Identity()).eval())


def test_relu_is_true_or_false() -> None:
    for name in CAMS:
        with pytest.raises(HeatproofError, match="relu must be true or false, not 'yes'"):
            made(name, relu="yes")
