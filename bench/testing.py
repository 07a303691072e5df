"""The contract, for us and for strangers: `check(NAME)`, and one function a kind of thing."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from bench import data, plugins, suite
from bench.chunks import at_most
from bench.core import Batch, Card, Method, unknown
from bench.data import audit
from bench.explain import additivity, explained, unsupported
from bench.measure import Metric
from bench.metrics.known import Finding
from bench.nets import maker
from bench.passes import Passes, counted
from bench.proofs import findings
from bench.randomness import seeded
from bench.spec import Backbone

__all__ = ["Finding", "check", "check_card", "check_method", "check_metric", "tiny_batch"]

TINY = Backbone("resnet18", stem="half", options={
    "layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16], "stem_type": "deep", "stem_width": 4,
    "output_stride": 8})
"""A network small enough for tests, with a map a quarter of the image's side."""


def check(name: str) -> list[Finding]:
    """Puts the method, metric, data set or suite of that name through its contract."""
    if name in plugins.methods:
        return check_method(plugins.methods[name])
    if name in plugins.metrics:
        return check_metric(plugins.metrics[name])
    if name in data.cards():
        return check_card(data.card(name))
    if name in suite.suites() or name.endswith(".toml"):
        return check_suite(name)
    raise unknown("method, metric, data set or suite", name, [
        *plugins.methods, *plugins.metrics, *data.cards(), *suite.suites()])


def check_metric(metric: Metric) -> list[Finding]:
    """The known answers of a metric, for grey and colour images, one, three and many.

    One with a defect is put to the proof too: what fails is the defect.
    """
    return list(findings(metric))


def check_suite(name: str) -> list[Finding]:
    """Whether every name in a suite is known; its unknown names raise."""
    found = suite.read(name)
    return [Finding(f"suite {found.name}", "every name and parameter is known",
                    f"{len(found.runs)} runs, {len(found.metrics)} metrics", True)]


def check_card(card: Card) -> list[Finding]:
    """All that `heatproof data check` looks at: files, pixels, masks, labels, splits, repeats."""
    return [Finding(*found) for found in audit.check(card)]


def tiny_batch(channels: int = 1, *, size: int = 32, n: int = 4) -> tuple[Card, Batch]:
    """A card and a batch of random images with masks, for a network of three classes."""
    card = Card(
        name="tiny", title="Tiny", source="none", classes=("a", "b", "c"),
        image=(channels, size, size), mean=(0.5,) * channels, std=(0.5,) * channels,
        splits={"train": 0, "test": 0}, truth="pixels")
    draw = torch.Generator().manual_seed(3)
    mask = torch.zeros(n, size, size, dtype=torch.uint8)
    mask[:, size // 4:size // 2, size // 4:size // 2] = 1
    return card, Batch(
        x=torch.rand((n, channels, size, size), generator=draw) * 2 - 1, y=torch.arange(n) % 3,
        key=tuple(map(str, range(n))), seed=torch.arange(n) + 11, group=("",) * n, mask=mask)


def check_method(
    cls: type[Method], *, channels: tuple[int, ...] = (1, 3),
    network: Callable[[Card], nn.Module] | None = None,
) -> list[Finding]:
    """What every method must keep, on a small untrained network.

    network: makes what it explains, a classifier for a card of images of 32 px; by default its own
    or the plain one. A network that it does not support is its one finding, which is not ok.
    """
    return [finding for c in channels for finding in _method(cls, c, network)]


def _method(
    cls: type[Method], channels: int, network: Callable[[Card], nn.Module] | None,
) -> Iterator[Finding]:
    card, batch = tiny_batch(channels)
    own = network is None and cls.trains()
    method = cls(card, maker(TINY, card, 0), train=cls.check_params if own else None,
                 explain=cls.check_explain)
    with seeded(0):
        net = network(card) if network else method.network()
    if own:
        yield from _training(method, net, batch)
    net.eval().requires_grad_(False)
    kind = f"{cls.name}, {channels} channels"
    if reason := unsupported(method, net):
        yield Finding(kind, "serves the network it is checked on", reason, False)
        return
    if cls.studies():
        method.study(iter([batch]))
    before, state = _traces(net), _global_state()
    with counted(net) as passes:
        maps = explained(method, net, batch, batch.y)
    yield Finding(kind, "passes through the network for one map", _cost(passes, len(batch)), True)
    grid = tuple(maps.shape[1:])
    yield Finding(kind, "maps are (N, h, w), no finer than the image", f"{tuple(maps.shape)}",
                  min(grid) >= 1 and max(grid) <= batch.x.shape[-1])
    yield Finding(kind, "maps are finite", "", bool(maps.isfinite().all()))
    yield Finding(kind, "an unsigned map has no negative value", f"least {float(maps.min()):.2g}",
                  method.signed or float(maps.min()) >= 0)
    again = explained(method, net, batch, batch.y)
    yield Finding(kind, "the same call gives the same bits", "", bool(torch.equal(maps, again)))
    single = torch.cat([
        explained(method, net, batch[[i]], batch.y[[i]]) for i in range(len(batch))])
    with at_most(3):
        pieces = explained(method, net, batch, batch.y)
    peak = max(float(maps.abs().max()), 1e-12)
    for what, other in {"a batch of n equals n batches of one": single,
                        "pieces of another size give the same map": pieces}.items():
        off = _largest(other, maps) / peak
        yield Finding(kind, f"{what} (1e-5 of the peak)", f"differs by {off:.1e}", off <= 1e-5)
    moved = _largest(explained(method, net, batch, (batch.y + 1) % len(card.classes)), maps) / peak
    expected = "another target gives another map" if cls.classwise else "it ignores the target"
    yield Finding(kind, expected, f"differs by {moved:.1e}", (moved > 1e-5) == cls.classwise)
    after = _traces(net)
    changed = [what for what in before if not _alike(before[what], after.get(what))]
    changed += [f"{what} is new" for what in after if what not in before]
    yield Finding(kind, "weights, modules, hooks, gradients and modes are as they were",
                  ", ".join(changed), not changed)
    yield Finding(kind, "the global random state is unchanged", "",
                  all(map(_alike, state, _global_state())))
    yield from _additivity(method, net, batch, maps, kind)


def _cost(passes: Passes, n: int) -> str:
    return f"{passes.forward / n:g} forward, {passes.backward / n:g} backward"


def _traces(net: nn.Module) -> dict[str, object]:
    """All of a network that an explainer might change, by what it is called."""
    found: dict[str, object] = {k: v.clone() for k, v in net.state_dict().items()}
    for name, module in net.named_modules():
        for key, value in vars(module).items():
            what = f"{name}.{key}".strip(".")
            if key.endswith("_hooks"):
                found[what] = len(value)
            elif key == "_modules":
                found[what] = [(child, id(part)) for child, part in value.items()]
            elif not key.startswith("_"):
                found[what] = value
    for name, parameter in net.named_parameters():
        found[f"{name}.grad"] = parameter.grad is None, parameter.requires_grad
    return found


def _global_state() -> tuple[object, ...]:
    drawn = np.random.get_state()  # noqa: NPY002
    return torch.get_rng_state(), bytes(drawn[1]), drawn[2], random.getstate()  # type: ignore[index]


def _alike(one: object, other: object) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return torch.equal(one, other)
    return one is other or repr(one) == repr(other)


def _training(method: Method, net: nn.Module, batch: Batch) -> Iterator[Finding]:
    kind = f"{method.name} training"
    logits = net.eval()(batch.x)
    yield Finding(kind, "logits are (N, classes)", str(tuple(logits.shape)),
                  logits.shape == (len(batch), len(method.card.classes)))
    method.prepare(net, [batch])
    net.train()
    loss = method.loss(net, batch)
    yield Finding(kind, "the loss is one finite number", str(tuple(loss.shape)),
                  loss.ndim == 0 and bool(loss.isfinite()))
    loss.backward()  # type: ignore[no-untyped-call]
    reached = [p for p in net.parameters() if p.grad is not None and p.grad.abs().sum() > 0]
    yield Finding(kind, "the loss reaches weights", f"{len(reached)} tensors", bool(reached))
    net.zero_grad(set_to_none=True)
    if method.splits:
        yield _splits(method, net.eval(), batch)


def _splits(method: Method, net: nn.Module, batch: Batch) -> Finding:
    """Whether processes may share a batch. In evaluation, so that only the loss is looked at."""
    def loss(part: Batch) -> float:
        return float(method.loss(net, part).detach())

    parts = [batch[:1], batch[1:]]
    mean = np.average(list(map(loss, parts)), weights=list(map(method.weight, parts)))
    off = abs(mean - loss(batch)) / max(1.0, abs(mean))
    return Finding(
        f"{method.name} training", "the loss is the mean of its parts', or splits = False (1e-5)",
        f"differs by {off:.1e}", bool(off <= 1e-5))


def _additivity(
    method: Method, net: nn.Module, batch: Batch, maps: Tensor, kind: str,
) -> Iterator[Finding]:
    with torch.no_grad():
        logits = net(batch.x)
    found = additivity(method.additivity, maps, logits, batch.y)
    if found["holds"] is not None:
        says = {"mean": "mean of the map = logit", "sum": "sum of the map = probability"}
        off = "by no finite number" if found["largest"] is None else f"by {found['largest']:.1e}"
        yield Finding(kind, f"{says[method.additivity]} ({found['tolerance']:.0e})",
                      f"differs {off}", found["holds"])


def _largest(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max()) if a.shape == b.shape else float("inf")
