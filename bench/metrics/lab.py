"""What the lab of known answers is made of: toy networks, planted images, made-up explainers."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.core import Batch, number_from
from bench.measure import Explained

SIZE = 16
CLASSES = 4
_HELD = 8
"""How many validation images the lab has: two of each class."""
_GRAIN = 0.05
"""The noise on the weights of the network in layers, as a share of what drawn ones would be."""
_ASTRAY = 0.05
"""The mean square of a channel's change from which on an image is another one; the noise that
metrics add stays below 0.02, and a channel that is lost is above 0.1."""

Explainer = Callable[[nn.Module, Tensor, Tensor, Batch], Tensor]
"""A constructed explainer: network, images (n, C, H, W), classes (n,), batch, to maps (n, h, w)."""


class Additive(nn.Module):
    """A classifier whose logit is the weighted sum of its class's own region.

    It averages the channels that it reads: all but the first, if there are more than one.
    """

    def __init__(self, gain: float = 8.0) -> None:
        super().__init__()
        # Not the constructor, which would draw first weights from the global generator.
        self.readout: nn.Linear = nn.utils.skip_init(  # type: ignore[no-untyped-call]
            nn.Linear, SIZE * SIZE, CLASSES, bias=False)
        weight = gain * regions().flatten(1) / regions().flatten(1).sum(1, keepdim=True)
        self.readout.weight = nn.Parameter(weight)

    def forward(self, x: Tensor) -> Tensor:
        """Images (n, C, 16, 16) to logits (n, 4)."""
        return self.readout(_read(x).flatten(1))  # type: ignore[no-any-return]


class Convolutional(nn.Module):
    """The same classifier in several layers, which can be randomised one after the other.

    A little noise on its weights, always the same, leaves no two pixels alike.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(number_from("convolutional", channels) % 2**31)
            first, second, last = (
                nn.Conv2d(channels, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1),
                nn.Linear(4 * SIZE * SIZE, CLASSES))
        self.body = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.Flatten(), last)
        with torch.no_grad():
            for weight in self.parameters():
                weight.mul_(_GRAIN)
            first.weight[:, min(1, channels - 1):, 1, 1] += 1 / max(1, channels - 1)
            second.weight[:, :, 1, 1] += 1 / 4
            last.weight += Additive().readout.weight.repeat(1, 4) / 4

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

    Where there are several channels the first is a decoy, which shows the next class's region: who
    sees that channel alone sees another class than the network does. The i-th sample of a name is
    the same whatever `n` is.
    """
    y = torch.arange(n) % CLASSES
    seed = torch.tensor([number_from(name, i) for i in range(n)])
    x = torch.stack([_uniform(s, (channels, SIZE, SIZE)) for s in seed.tolist()])
    shown = torch.stack([(y + 1) % CLASSES if c == 0 and channels > 1 else y
                         for c in range(channels)], 1)
    own = regions()[shown]
    other = (1 - own) * regions().sum(0)
    x = torch.where(own > 0, 0.8 + 0.2 * x, torch.where(other > 0, 0.1 + 0.3 * x, 0.2 * x))
    return Batch(x=x, y=y, key=tuple(f"{name}-{i}" for i in range(n)), seed=seed,
                 group=("",) * n, mask=regions()[y].to(torch.uint8))


def oracle(net: nn.Module, x: Tensor, target: Tensor, batch: Batch) -> Tensor:  # noqa: ARG001
    """The exact share of each pixel in the logit of an Additive network."""
    assert isinstance(net, Additive)
    return net.readout.weight.detach()[target].reshape(-1, SIZE, SIZE) * _read(x)


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


def classwise(net: nn.Module, x: Tensor, target: Tensor, batch: Batch) -> Tensor:  # noqa: ARG001
    """One fixed pattern for each class."""
    return _uniform(0, (CLASSES, SIZE, SIZE))[target]


def chaos(net: nn.Module, x: Tensor, target: Tensor, batch: Batch) -> Tensor:  # noqa: ARG001
    """A map that the slightest change of the image turns over."""
    return torch.sin(1e4 * x.mean(1))


def point(net: nn.Module, x: Tensor, target: Tensor, batch: Batch) -> Tensor:
    """All evidence on one pixel."""
    best = oracle(net, x, target, batch).flatten(1).argmax(1)
    return functional.one_hot(best, SIZE * SIZE).reshape(-1, SIZE, SIZE).to(x.dtype)


def in_logits(explainer: Explainer) -> Explainer:
    """The same maps in the unit of a class activation map: the mean, not the sum, is the logit."""
    def explain(net: nn.Module, x: Tensor, target: Tensor, batch: Batch) -> Tensor:
        return explainer(net, x, target, batch) * SIZE**2
    return explain


EXPLAINERS: Mapping[str, Explainer] = {
    "oracle": oracle, "inverse": inverse, "noise": noise, "gradient": gradient, "image": image,
    "pattern": pattern, "classwise": classwise, "chaos": chaos, "point": point,
    "oracle in logits": in_logits(oracle), "noise in logits": in_logits(noise),
    "inverse in logits": in_logits(inverse)}
"""The constructed explainers that a metric's card may put in order."""


def at_home(explainer: Explainer, away: Explainer) -> Explainer:
    """An explainer of the samples' own images, noise on them included; of any other it is `away`.

    It tells a metric that explains again, but not the image that it should.
    """
    def explain(net: nn.Module, x: Tensor, target: Tensor, batch: Batch) -> Tensor:
        change = (x - batch.x).square().mean((2, 3)).amax(1)[:, None, None]
        return torch.where(change > _ASTRAY, away(net, x, target, batch),
                           explainer(net, x, target, batch))
    return explain


def by_sample(usual: Explainer, others: Mapping[str, Explainer]) -> Explainer:
    """An explainer that is another one for the samples whose keys are named."""
    def explain(net: nn.Module, x: Tensor, target: Tensor, batch: Batch) -> Tensor:
        maps = usual(net, x, target, batch).clone()
        for other in set(others.values()):
            here = [i for i, key in enumerate(batch.key) if others.get(key) is other]
            if here:
                maps[here] = other(net, x[here], target[here], batch[here])
        return maps
    return explain


def scaled(explainer: Explainer) -> Explainer:
    """The same maps in units that lie up to 2^55 apart, drawn from the samples' seeds."""
    def explain(net: nn.Module, x: Tensor, target: Tensor, batch: Batch) -> Tensor:
        unit = torch.tensor([1.0, 2.0**10, 2.0**-45])[batch.seed % 3]
        return explainer(net, x, target, batch) * unit[:, None, None]
    return explain


def mirrored(explainer: Explainer) -> Explainer:
    """The same maps, left and right exchanged."""
    def explain(net: nn.Module, x: Tensor, target: Tensor, batch: Batch) -> Tensor:
        return explainer(net, x, target, batch).flip(2)
    return explain


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


def _read(x: Tensor) -> Tensor:
    return x[:, min(1, x.shape[1] - 1):].mean(1)


def _uniform(seed: int, shape: tuple[int, ...]) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))
