"""What `bench.speed` compares: `speed.toml`, read and checked, and a contest set up by it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from bench import nets, plugins
from bench.core import Batch, Card, HeatproofError, filled, number_from, read_toml, unknown
from bench.explain import explained, explainer, unsupported
from bench.measure import Explained, Metric
from bench.metrics import score
from bench.metrics.maps import Array
from bench.metrics.quantus_run import QuantusMetric
from bench.metrics.sharing import answers
from bench.shared import Shared
from bench.spec import Backbone

FILE = Path(__file__).with_name("speed.toml")
CLASSES = 10


@dataclass(frozen=True)
class Case:
    """One network and its images. n: how many; target: Quantus's time over ours, at least."""

    title: str
    backbone: str
    image: tuple[int, ...]
    device: str
    n: int
    rounds: int
    target: float
    numbers: Mapping[str, Any]


@dataclass(frozen=True)
class Pair:
    """What one of our metrics is compared with. cases: those that it is in; none named is all."""

    quantus: str = ""
    params: Mapping[str, Any] = field(default_factory=dict)
    its: Mapping[str, Any] = field(default_factory=dict)
    cases: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """The parameter file. case, pair, apart: tables of `Case` and `Pair`, by name."""

    about: str
    seed: int
    operator: str
    one: str
    batch_sizes: tuple[int, ...]
    floor: float
    patches: tuple[str, ...]
    contestants: Mapping[str, Mapping[str, Any]]
    case: Mapping[str, Any]
    pair: Mapping[str, Any]
    apart: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path = FILE) -> Plan:
        """The file. Raises HeatproofError for a metric, parameter or key that does not exist."""
        plugins.load()
        plan = filled(cls, read_toml(path), path.name)
        tables: dict[str, type] = {"case": Case, "pair": Pair, "apart": Pair}
        made: dict[str, Any] = {key: {
            name: filled(kind, table, f"{path.name}, {key}.{name}")
            for name, table in getattr(plan, key).items()} for key, kind in tables.items()}
        plan = replace(plan, **made)
        for name in plan.contestants:
            if name not in plugins.methods:
                raise unknown(f"contestant in {path.name}", name, plugins.methods)
        if plan.one not in plan.contestants:
            raise unknown(f"contestant `one` in {path.name}", plan.one, plan.contestants)
        for case in plan.case:
            plan.matches(case)
            plan.lacking(case)
        return plan

    def matches(self, case: str) -> list[tuple[Metric, Metric]]:
        """Ours and Quantus's metric of each pair in that case, with their parameters."""
        return [(self._metric(name, pair.params, case),
                 whole_batch(self._metric(pair.quantus, pair.its, case)))
                for name, pair in self.pair.items() if not pair.cases or case in pair.cases]

    def lacking(self, case: str) -> list[Metric]:
        """Our metrics that Quantus has not."""
        return [self._metric(name, pair.params, case) for name, pair in self.apart.items()]

    def _metric(self, name: str, params: Mapping[str, Any], case: str) -> Metric:
        if name not in plugins.metrics:
            raise unknown("metric in the speed file", name, plugins.metrics)
        numbers = {**self.case[case].numbers, "operator": self.operator}
        for value in params.values():
            if isinstance(value, str) and value[:1] == "$" and value[1:] not in numbers:
                raise unknown(f"number of case {case!r}", value[1:], numbers)
        return plugins.metrics[name].with_params({
            key: numbers[value[1:]] if isinstance(value, str) and value[:1] == "$" else value
            for key, value in params.items()})


def whole_batch(metric: Metric) -> Metric:
    """A metric of the quantus track, called once with all samples even if it pools them."""
    row = metric.score
    if not isinstance(row, QuantusMetric) or row.apart != "calls":
        return metric
    return replace(metric, score=replace(row, apart="together", reduce={"mean": _pooled}))


def _pooled(answer: Any, flawed: Array) -> tuple[Array, None]:
    return np.full(flawed.shape[1], np.mean(list(answer.values()))), None


@dataclass(frozen=True)
class Contest:
    """One network, its images, and each contestant's maps (n, h, w) and way to make them again."""

    network: nn.Module
    batch: Batch
    logits: Tensor
    maps: Mapping[str, Tensor]
    explain: Mapping[str, Callable[..., Tensor]]

    @classmethod
    def of(cls, plan: Plan, case: Case, n: int) -> Contest:
        """The contest on `n` drawn images. Raises HeatproofError for an explainer that cannot."""
        card = Card(name="speed", title="Drawn images", source="", image=case.image,
                    classes=tuple(str(k) for k in range(CLASSES)), splits={"test": {}},
                    mean=(0.5,) * case.image[0], std=(0.25,) * case.image[0])
        net = network(case.backbone, card, plan.seed).to(case.device)
        batch = drawn(n, case.image, plan.seed).to(case.device)
        with torch.no_grad():
            logits = net(batch.x)
        target = logits.argmax(1)
        maps, again = dict[str, Tensor](), dict[str, Callable[..., Tensor]]()
        for name, params in plan.contestants.items():
            method = plugins.methods[name](card, lambda: net, explain=params)
            if why := unsupported(method, net):
                raise HeatproofError(f"contestant {name!r} cannot be timed on {case.title}: {why}")
            maps[name] = explained(method, net, batch, target)
            again[name] = explainer(method, net, batch, target)
        return cls(net, replace(batch, y=target), logits, maps, again)

    def seen(self, name: str, shared: Shared | None = None) -> Explained:
        """What the metrics see of one contestant; nothing is computed yet but what is shared."""
        return Explained(
            network=self.network, batch=self.batch, logits=self.logits, target=self.batch.y,
            maps=self.maps[name], explain=self.explain[name], classes=CLASSES,
            device=str(self.batch.x.device), shared=shared or Shared())

    def ready(self) -> Shared:
        """What is made once for a network, whatever is scored: the quicker copy of it."""
        shared = Shared()
        answers(self.seen(next(iter(self.maps)), shared))
        return shared

    def battery(self, metrics: Sequence[Metric]) -> None:
        """All metrics of all contestants, sharing whatever the engine shares."""
        shared = Shared()
        for name in self.maps:
            seen = self.seen(name, shared)
            for metric in metrics:
                score(metric, seen)


class SmallCNN(nn.Sequential):
    """Two convolutions with pooling and two linear layers, for images (N, C, H, W)."""

    def __init__(self, channels: int, size: tuple[int, int]) -> None:
        super().__init__(
            nn.Conv2d(channels, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
            nn.Linear(32 * (size[0] // 4) * (size[1] // 4), 64), nn.ReLU(), nn.Linear(64, CLASSES))

    @property
    def feature_layer(self) -> nn.Module:
        """The last map before it is flattened."""
        return self[5]


def network(backbone: str, card: Card, seed: int) -> nn.Module:
    """The network with fresh weights, ready to be explained: "cnn" is ours, others are timm's."""
    if backbone == "cnn":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            net: nn.Module = SmallCNN(card.image[0], (card.image[1], card.image[2]))
    else:
        net = nets.maker(Backbone(backbone), card, seed)()
    return net.eval().requires_grad_(False)


def drawn(n: int, image: Sequence[int], seed: int) -> Batch:
    """Smooth images with a little noise, and a square object in one of four corners."""
    channels, height, width = image
    draw = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n, channels, 7, 7, generator=draw)
    x = functional.interpolate(coarse, (height, width), mode="bilinear", align_corners=False)
    x = 0.9 * x + 0.1 * torch.rand(x.shape, generator=draw)
    mask = torch.zeros(n, height, width, dtype=torch.uint8)
    for i in range(n):
        top, left = height // 2 * (i // 2 % 2), width // 2 * (i % 2)
        mask[i, top:top + height // 2, left:left + width // 2] = 1
    return Batch(x=(x - 0.5) / 0.25, y=torch.zeros(n, dtype=torch.int64), mask=mask,
                 key=tuple(str(i) for i in range(n)), group=("",) * n,
                 seed=torch.tensor([number_from("speed", seed, i) for i in range(n)]))
