"""`make bench`: ratios, each measured side by side in one run; absolute times mean little.

An epoch of the loader against a read of the bare array; training against a bare PyTorch loop; a
step of each trainer against one of the plain classifier; explainers and metrics in forward passes
of the same batch; our engine against Quantus (`bench.speed`). Each of these is the median of its
rounds, in one thread. Last, the seconds that it takes to publish a big suite, once.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from bench import board, data, metrics, nets, page, plugins, results, run, scale, speed, suite
from bench.core import PLAIN, Batch, HeatproofError, Method, Plain
from bench.data import decoded
from bench.data.catalogue import parted
from bench.data.images import Batches
from bench.explain import CHUNK, explained, explainer, unsupported
from bench.measure import Explained, Metric
from bench.passes import counted
from bench.shared import Shared
from bench.spec import RunSpec
from bench.speed import seconds, side_by_side
from bench.store import Cache

STEPS = 15
"""Rounds of single training steps, which take milliseconds."""
EPOCHS = 11
"""Rounds of whole trainings, of an epoch each: the median of three strays by a tenth."""
LOADED = 64
"""Images of a batch when the loader is timed."""
EXPLAINED = 4
"""Images that each explainer is timed on; the samplers send thousands through the network."""


def main() -> None:
    """Prints the tables."""
    torch.set_num_threads(1)
    plugins.load()
    console = Console()
    demo = suite.read("demo")
    for dataset in demo.cards:
        # bench names no method: the first post-hoc one on the plain network will do.
        spec = next(r for r in demo.runs if r.dataset == dataset and r.contestant.trainer == PLAIN)
        spec = replace(spec, recipe=replace(spec.recipe, epochs=1, samples=512))
        _loader(dataset, console)
        _training(spec, console)
        _steps(spec, console)
        net, batch = _prepared(spec)
        _explainers(spec, net, batch[list(range(EXPLAINED))], console)
        _costs(dataset, net, batch, _scoring(demo, spec, net, batch), console)
    speed.report(console)
    _publication(console)


def _batches(spec: RunSpec, split: str) -> Batches:
    samples = spec.recipe.samples if split == "train" else spec.samples
    return Batches(data.held(spec.dataset, split), data.card(spec.dataset), seed=0,
                   samples=samples, name=split)


def _loader(dataset: str, console: Console) -> None:
    """Images a second of a shuffled epoch, and of decoding, against reading the bare array."""
    card = data.card(dataset)
    found = data.catalogue(card)
    rows = parted(card, found)["train"]
    with tempfile.TemporaryDirectory() as folder:
        cache = Cache(Path(folder))
        decoding = seconds(lambda: decoded.read(card, found, rows, cache=cache))
        images = decoded.read(card, found, rows, cache=cache)
        batches = Batches(images, card, seed=0, name="train")
        whole = np.array(images.x)

        def epoch() -> None:
            for _ in batches.shuffled(LOADED, torch.Generator().manual_seed(0)):
                pass

        def bare() -> None:
            order = torch.randperm(len(whole)).numpy()
            for start in range(0, len(whole), LOADED):
                torch.from_numpy(whole[order[start:start + LOADED]]).float()

        epoch()  # the seeds of the images are made in the first
        ours, theirs = side_by_side(epoch, bare)
    n = len(rows)
    console.print(
        f"{dataset}: loader at {theirs / ours:.2f} × the images a second of a bare array in memory "
        f"({n / ours:.0f} against {n / theirs:.0f}); decoding, once, at {n / decoding:.0f}")


def _training(spec: RunSpec, console: Console) -> None:
    """Images a second of `run.network` against a loop with nothing but the arithmetic."""
    batches = _batches(spec, "train")

    def ours() -> None:
        with tempfile.TemporaryDirectory() as folder:
            run.network(spec, run.Place(Path(folder), Cache(Path(folder))))

    def bare() -> None:
        net = suite.trainer_of(spec).network()
        optimizer = torch.optim.AdamW(net.parameters(), spec.recipe.lr)
        order = torch.Generator().manual_seed(0)
        for batch in batches.shuffled(spec.recipe.batch_size, order):
            loss = nn.functional.cross_entropy(net(batch.x), batch.y)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()

    mine, theirs = side_by_side(ours, bare, rounds=EPOCHS)
    console.print(f"{spec.dataset}: training at {theirs / mine:.2f} × the images a second of a "
                  f"bare loop ({len(batches) / mine:.0f} against {len(batches) / theirs:.0f})")


def _steps(spec: RunSpec, console: Console) -> None:
    batch = _batches(spec, "train").batch(range(spec.recipe.batch_size))
    costs = steps(spec, batch)
    console.print(f"{spec.dataset}: training step on {len(batch)} images, in plain steps")
    table = Table(box=None, pad_edge=False)
    table.add_column("  name")
    table.add_column("steps", justify="right")
    table.add_column("ms", justify="right")
    for name, cost in costs.items():
        table.add_row(f"  {name}", f"{cost / costs[PLAIN]:.2f}", f"{1000 * cost:.1f}")
    console.print(table)


def steps(spec: RunSpec, batch: Batch, *, rounds: int = STEPS) -> dict[str, float]:
    """The seconds of one training step of the plain classifier, and of all whose twin it is.

    A step is loss, gradients and AdamW on the same batch. A trainer's `ablations`, if it has some,
    are train parameters by name; each is measured beside the default.
    """
    card = suite.card_of(spec)
    make = nets.maker(spec.backbone, card, 0)
    works = {PLAIN: _stepping(Plain(card, make), spec, batch)}
    for name, cls in plugins.methods.items():
        if cls.trains() and cls.twin == PLAIN:
            for what, params in {"": {}, **cls.ablations}.items():
                method = cls(card, make, train=params)
                works[f"{name}, {what}" if what else name] = _stepping(method, spec, batch)
    return dict(zip(works, side_by_side(*works.values(), rounds=rounds), strict=True))


def _stepping(method: Method, spec: RunSpec, batch: Batch) -> Callable[[], None]:
    net = method.network()
    if method.base:
        method.start(net, plugins.trainer(method.base)(method.card, method.backbone).network())
    method.prepare(net, [batch])
    net.train()
    optimizer = torch.optim.AdamW([p for p in net.parameters() if p.requires_grad], spec.recipe.lr)

    def step() -> None:
        optimizer.zero_grad()
        method.loss(net, batch).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    step()  # what the first call alone does: memory, AdamW's state, a delay
    return step


def _prepared(spec: RunSpec) -> tuple[nn.Module, Batch]:
    net = nets.maker(spec.backbone, data.card(spec.dataset), 0)()
    return net.eval().requires_grad_(False), _batches(spec, "test").batch()


def _explainers(spec: RunSpec, net: nn.Module, batch: Batch, console: Console) -> None:
    """What a map of each explainer costs: images sent through the network, and time."""
    console.print(f"{spec.dataset}: explainers, {len(batch)} images, in forward passes of them")
    table = Table(box=None, pad_edge=False)
    for head in ("  name", "forward", "backward", "time in passes", "ms an image"):
        table.add_column(head, justify="left" if head == "  name" else "right")

    def forward() -> None:
        with torch.no_grad():
            net(batch.x)

    for name, work in _explaining(spec, net, batch):
        with counted(net) as passes:
            work()
        one, whole = side_by_side(forward, work)
        counts = (f"{n / len(batch):.0f}" for n in (passes.forward, passes.backward))
        table.add_row(f"  {name}", *counts, f"{whole / one:.1f}",
                      f"{1000 * whole / len(batch):.2f}")
    console.print(table)


def _explaining(
    spec: RunSpec, net: nn.Module, batch: Batch,
) -> Iterator[tuple[str, Callable[[], object]]]:
    card = suite.card_of(spec)
    for name, cls in plugins.methods.items():
        method = cls(card, lambda: net)
        if not cls.trains() and unsupported(method, net) is None:
            method.study(_batches(spec, "train").in_order(CHUNK))
            yield name, lambda method=method: explained(method, net, batch, batch.y)  # type: ignore[misc]


def _scoring(
    demo: suite.Suite, spec: RunSpec, net: nn.Module, batch: Batch,
) -> Iterator[tuple[str, Callable[[], object]]]:
    card = data.card(spec.dataset)
    method = plugins.methods[spec.contestant.explainer](card, lambda: net)
    seen = Explained(
        network=net, batch=batch, logits=net(batch.x), target=batch.y,
        maps=explained(method, net, batch, batch.y),
        explain=explainer(method, net, batch, batch.y), classes=len(card.classes))
    for metric in demo.metrics_of(spec.dataset):
        def work(metric: Metric = metric) -> object:
            return metrics.score(metric, replace(seen, shared=Shared()))  # nothing made before

        work()  # the first call imports Quantus
        yield metric.name, work


def _costs(
    dataset: str, net: nn.Module, batch: Batch,
    works: Iterator[tuple[str, Callable[[], object]]], console: Console,
) -> None:
    console.print(f"{dataset}: metrics, {len(batch)} images, in forward passes of that batch")
    table = Table(box=None, pad_edge=False)
    table.add_column("  name")
    table.add_column("passes", justify="right")
    table.add_column("ms an image", justify="right")

    def forward() -> None:
        with torch.no_grad():
            net(batch.x)

    for name, work in works:
        one, whole = side_by_side(forward, work)
        table.add_row(f"  {name}", f"{whole / one:.1f}", f"{1000 * whole / len(batch):.2f}")
    console.print(table)


def _publication(console: Console) -> None:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        spent = publication(scale.write(out), out / "leaderboard")
    parts = ", ".join(f"{what} {took:.1f} s" for what, took in spent.items())
    console.print("publication of 200 runs × 24 metrics × 1,000 samples: "
                  f"{parts}; {sum(spent.values()):.1f} s in all")


def publication(folder: Path, out: Path) -> dict[str, float]:
    """The seconds of each part of a publication of results/SUITE."""
    start = time.perf_counter()
    found = results.read(folder)
    read = time.perf_counter()
    ranked = board.rank(found)
    placed = time.perf_counter()
    page.write(ranked, found, out)
    return {"read": read - start, "rank": placed - read, "page": time.perf_counter() - placed}


if __name__ == "__main__":
    try:
        main()
    except HeatproofError as error:
        raise SystemExit(f"heatproof: {error}") from None
