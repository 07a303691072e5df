"""The lab of known answers: toy networks whose right explanation is known exactly.

A metric proves its direction here before anyone ranks by it: `known_answer(metric)`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.core import Batch, number_from, unknown
from bench.measure import Explained, Metric
from bench.metrics import score

SIZE = 16
CLASSES = 4
_HELD = 8
"""How many validation images the lab has: two of each class."""
_DRAWS = {"localisation": 32, "faithfulness": 4, "segmentation": 4}
"""How many noise maps a mean over noise is taken from, at least: a hit or miss needs many."""

Explainer = Callable[[nn.Module, Tensor, Tensor, Batch], Tensor]
"""A constructed explainer: network, images (n, C, H, W), classes (n,), batch, to maps (n, h, w)."""


@dataclass(frozen=True)
class Finding:
    """One thing that must hold of a metric, and whether it does.

    name: what was compared; expected: the order that must hold; found: the mean values.
    """

    name: str
    expected: str
    found: str
    ok: bool


class Additive(nn.Module):
    """A classifier whose logit is the weighted sum of its class's own region, channels averaged."""

    def __init__(self, gain: float = 8.0) -> None:
        super().__init__()
        self.readout = nn.Linear(SIZE * SIZE, CLASSES, bias=False)
        weight = gain * regions().flatten(1) / regions().flatten(1).sum(1, keepdim=True)
        self.readout.weight = nn.Parameter(weight)

    def forward(self, x: Tensor) -> Tensor:
        """Images (n, C, 16, 16) to logits (n, 4)."""
        return self.readout(x.mean(1).flatten(1))  # type: ignore[no-any-return]


class Convolutional(nn.Module):
    """A small random network with several layers that can be randomised one after the other."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(number_from("convolutional", channels) % 2**31)
            self.body = nn.Sequential(
                nn.Conv2d(channels, 4, 3, padding=1), nn.ReLU(),
                nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.Flatten(),
                nn.Linear(4 * SIZE * SIZE, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        """Images (n, C, 16, 16) to logits (n, 4)."""
        return self.body(x)  # type: ignore[no-any-return]


def regions() -> Tensor:
    """Where each class's evidence lies: (4, 16, 16) of 0 and 1, an eighth of the image each."""
    place = torch.zeros(CLASSES, SIZE, SIZE)
    for k in range(CLASSES):
        top, left = 2 + 8 * (k // 2), 8 * (k % 2)
        place[k, top:top + 4, left:left + 8] = 1
    return place


def planted(n: int, channels: int, name: str = "planted") -> Batch:
    """`n` images: one region bright, the label's, the others faint, on noise; mask is the region.

    The i-th sample of a name is the same whatever `n` is.
    """
    y = torch.arange(n) % CLASSES
    seed = torch.tensor([number_from(name, i) for i in range(n)])
    x = torch.stack([_uniform(s, (channels, SIZE, SIZE)) for s in seed.tolist()])
    own = regions()[y][:, None]
    other = (1 - own) * regions().sum(0)
    x = torch.where(own > 0, 0.8 + 0.2 * x, torch.where(other > 0, 0.1 + 0.3 * x, 0.2 * x))
    return Batch(x=x, y=y, key=tuple(f"{name}-{i}" for i in range(n)), seed=seed,
                 group=("",) * n, mask=own[:, 0].to(torch.uint8))


def oracle(net: nn.Module, x: Tensor, target: Tensor, batch: Batch) -> Tensor:  # noqa: ARG001
    """The exact share of each pixel in the logit of an Additive network."""
    assert isinstance(net, Additive)
    return net.readout.weight.detach()[target].reshape(-1, SIZE, SIZE) * x.mean(1)


def inverse(net: nn.Module, x: Tensor, target: Tensor, batch: Batch) -> Tensor:
    """The oracle upside down, still without a negative value."""
    right = oracle(net, x, target, batch)
    return right.amax((1, 2), keepdim=True) - right


def noise(
    net: nn.Module, x: Tensor, target: Tensor, batch: Batch, *, draw: int = 0,  # noqa: ARG001
) -> Tensor:
    """Uniform noise in [0, 1), drawn from the samples' seeds alone."""
    return torch.stack([
        _uniform(number_from("noise", s, draw), (SIZE, SIZE)) for s in batch.seed.tolist()])


def gradient(net: nn.Module, x: Tensor, target: Tensor, batch: Batch) -> Tensor:  # noqa: ARG001
    """Gradient times input, channels summed: it sees weights and class."""
    with torch.enable_grad():
        x = x.detach().clone().requires_grad_(True)
        chosen = net(x).gather(1, target[:, None]).sum()
        (slope,) = torch.autograd.grad(chosen, x)
    return (slope * x).sum(1).detach()


def image(net: nn.Module, x: Tensor, target: Tensor, batch: Batch) -> Tensor:  # noqa: ARG001
    """The image itself: blind to the class and to the network."""
    return x.mean(1)


def pattern(net: nn.Module, x: Tensor, target: Tensor, batch: Batch) -> Tensor:  # noqa: ARG001
    """One fixed pattern: blind to the image too."""
    return _uniform(0, (SIZE, SIZE)).expand(len(x), -1, -1)


def chaos(net: nn.Module, x: Tensor, target: Tensor, batch: Batch) -> Tensor:  # noqa: ARG001
    """A map that the slightest change of the image turns over."""
    return torch.sin(1e4 * x.mean(1))


def point(net: nn.Module, x: Tensor, target: Tensor, batch: Batch) -> Tensor:
    """All evidence on one pixel."""
    best = oracle(net, x, target, batch).flatten(1).argmax(1)
    return functional.one_hot(best, SIZE * SIZE).reshape(-1, SIZE, SIZE).to(x.dtype)


def explained(network: nn.Module, batch: Batch, explainer: Explainer) -> Explained:
    """One of these networks and explainers as a metric sees them; the target is the label.

    Its validation images are planted too, from other seeds.
    """
    network.eval()

    def explain(
        *, net: nn.Module | None = None, x: Tensor | None = None, target: Tensor | None = None,
        index: list[int] | None = None,
    ) -> Tensor:
        part = batch if index is None else batch[index]
        return explainer(network if net is None else net, part.x if x is None else x,
                         part.y if target is None else target, part)

    def validation() -> Explained:
        return explained(network, planted(_HELD, batch.x.shape[1], "validation"), explainer)

    with torch.no_grad():
        logits = network(batch.x)
    return Explained(network=network, batch=batch, logits=logits, target=batch.y, maps=explain(),
                     explain=explain, classes=CLASSES, validation=validation)


def known_answer(metric: Metric, *, channels: int = 1, n: int = 64) -> list[Finding]:
    """What must hold of a metric of its family, on `n` planted images; all `ok` if it is sound.

    faithfulness, localisation, segmentation: oracle better than noise better than inverse.
    randomisation: a map that is blind to the network (to the class, where the metric randomises
    nothing) is worse than one that sees it. complexity: one pixel better than noise. robustness: a
    pattern that ignores the image better than chaos. classifier: right and sure better than wrong
    and unsure.
    Raises HeatproofError for another family, and what the metric raises.
    """
    families: dict[str, Callable[[Metric, Batch], list[Finding]]] = {
        "faithfulness": _quality, "localisation": _quality, "segmentation": _quality,
        "randomisation": _randomisation, "complexity": _complexity, "robustness": _robustness,
        "classifier": _classifier}
    if metric.family not in families:
        raise unknown(f"family of metric {metric.name!r}", metric.family, families)
    return families[metric.family](metric, planted(n, channels))


def _quality(metric: Metric, batch: Batch) -> list[Finding]:
    right = _mean(metric, explained(Additive(), batch, oracle))
    wrong = _mean(metric, explained(Additive(), batch, inverse))
    draws = [
        _mean(metric, explained(Additive(), batch, partial(noise, draw=draw)))
        for draw in range(-(-_DRAWS[metric.family] // len(batch)))]
    drawn = math.fsum(draws) / len(draws)
    return [_order(metric, "oracle", right, "noise", drawn),
            _order(metric, "noise", drawn, "inverse", wrong)]


def _randomisation(metric: Metric, batch: Batch) -> list[Finding]:
    if "randomise" in metric.needs:
        net = Convolutional(batch.x.shape[1])
        return [_order(metric, "gradient × input", _mean(metric, explained(net, batch, gradient)),
                       "network-blind", _mean(metric, explained(net, batch, image)))]
    return [_order(metric, "oracle", _mean(metric, explained(Additive(), batch, oracle)),
                   "class-blind", _mean(metric, explained(Additive(), batch, image)))]


def _complexity(metric: Metric, batch: Batch) -> list[Finding]:
    return [_order(metric, "one pixel", _mean(metric, explained(Additive(), batch, point)),
                   "noise", _mean(metric, explained(Additive(), batch, noise)))]


def _robustness(metric: Metric, batch: Batch) -> list[Finding]:
    return [_order(metric, "image-blind", _mean(metric, explained(Additive(), batch, pattern)),
                   "chaos", _mean(metric, explained(Additive(), batch, chaos)))]


def _classifier(metric: Metric, batch: Batch) -> list[Finding]:
    sample = explained(Additive(), batch, oracle)
    right = functional.one_hot(batch.y, CLASSES).float()
    good = _mean(metric, replace(sample, logits=10 * right))
    bad = _mean(metric, replace(sample, logits=0.1 * right.roll(1, 1)))
    return [_order(metric, "right and sure", good, "wrong and unsure", bad)]


def _mean(metric: Metric, sample: Explained) -> float:
    value = score(metric, sample).value
    return float(value.mean())


def _order(metric: Metric, one: str, good: float, other: str, bad: float) -> Finding:
    gap = good - bad if metric.better == "higher" else bad - good
    return Finding(
        name=f"{one} against {other}", expected=f"{one} better ({metric.better}) than {other}",
        found=f"{one} {good:.4g}, {other} {bad:.4g}", ok=gap > 1e-6)


def _uniform(seed: int, shape: tuple[int, ...]) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))
