"""Our engine against Quantus, side by side: `python -m bench.speed [--case NAME] [--rounds N]`.

`speed.toml` alone fixes what is compared; `make bench` prints it too. A missed target is printed.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from bench import memory
from bench.contest import Case, Contest, Plan, drawn
from bench.core import HeatproofError, unknown
from bench.measure import Metric
from bench.metrics import score
from bench.passes import Passes, counted

ROUNDS = 3


@dataclass
class Distinct:
    """Passes that no other repeats. forward: (explainer or "", weights, image); backward: that and
    the slope of the logits; images and slopes are hashed.
    """

    forward: set[tuple[object, ...]] = field(default_factory=set)
    backward: set[tuple[object, ...]] = field(default_factory=set)
    asked: str = ""
    """The explainer at work. It is a black box: what two explainers both send counts twice."""


@contextmanager
def distinct(net: nn.Module) -> Iterator[Distinct]:
    """Collects the passes of the block, also of copies of the network with other weights."""
    found = Distinct()

    def note(changed: nn.Module, inputs: tuple[Tensor], logits: Tensor) -> None:
        weights = tuple(float(p.double().sum()) for p in changed.state_dict().values())
        keys = [(found.asked, weights, image) for image in _hashes(inputs[0])]
        found.forward.update(keys)
        if logits.requires_grad:
            logits.register_hook(  # type: ignore[no-untyped-call]
                lambda slope: found.backward.update(zip(keys, _hashes(slope), strict=True)))

    hook = net.register_forward_hook(note)
    try:
        yield found
    finally:
        hook.remove()


def _hashes(rows: Tensor) -> list[bytes]:
    return [hashlib.blake2b(row.tobytes(), digest_size=16).digest()
            for row in rows.detach().cpu().contiguous().numpy()]


def needed(contest: Contest, metrics: Sequence[Metric]) -> tuple[Passes, Passes]:
    """The passes that our battery makes, and how many of them are distinct."""
    with counted(contest.network) as made, distinct(contest.network) as found:
        def of(name: str) -> Callable[..., Tensor]:
            def explain(**given: Any) -> Tensor:
                found.asked = name
                try:
                    return contest.explain[name](**given)
                finally:
                    found.asked = ""
            return explain

        replace(contest, explain={name: of(name) for name in contest.explain}).battery(metrics)
    return made, Passes(len(found.forward), len(found.backward))


def seconds(work: Callable[[], object]) -> float:
    """The seconds that one call takes, until the GPU is done where there is one."""
    wait: Callable[[], None] = (
        torch.cuda.synchronize if torch.cuda.is_available() else lambda: None)
    wait()
    start = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - start


def side_by_side(*works: Callable[[], object], rounds: int = ROUNDS) -> list[float]:
    """The median seconds of each, measured in turns so that a busy machine slows them alike."""
    table = [[seconds(work) for work in works] for _ in range(rounds)]
    return [statistics.median(column) for column in zip(*table, strict=True)]


def _forward(net: nn.Module, x: Tensor) -> None:
    with torch.no_grad():
        net(x)


def _both_ways(net: nn.Module, x: Tensor) -> None:
    x = x.clone().requires_grad_()
    torch.autograd.grad(net(x).sum(), x)


@dataclass(frozen=True)
class Measured:
    """What a case costs, in seconds.

    single: by metric, ours and Quantus's for one contestant; battery: ours for all; ready: the part
    of the battery that makes the network ready, which is in no single metric; quantus: the sum of
    Quantus's; apart: ours that Quantus lacks, for one contestant; made, distinct: passes;
    forward, backward: of the model, an image, at the best of batch sizes; peak: bytes by side, in
    all and before it began.
    """

    case: Case
    n: int
    rounds: int
    single: Mapping[str, tuple[float, float]]
    battery: float
    ready: float
    quantus: float
    apart: Mapping[str, float]
    made: Passes
    distinct: Passes
    forward: tuple[float, int]
    backward: tuple[float, int]
    peak: Mapping[str, tuple[int, int]]

    @property
    def floor(self) -> float:
        """The seconds of the distinct passes alone, each by the model at its best batch size."""
        return (self.distinct.forward * self.forward[0]
                + self.distinct.backward * self.backward[0])


def measured(plan: Plan, name: str, *, n: int = 0, rounds: int = 0) -> Measured:
    """Measures one case, with another number of images or rounds where one is given."""
    case = plan.case[name]
    n, rounds = n or case.n, rounds or case.rounds
    matches, lacking = plan.matches(name), plan.lacking(name)
    ours = [one for one, _ in matches]
    warm = Contest.of(plan, case, 1)
    for (_, who), work in _works(plan, warm, matches, lacking, (1,)).items():
        if who in ("ours", plan.one, 1):  # what first calls alone do: imports, memory
            work()
    contest = Contest.of(plan, case, n)
    works = _works(plan, contest, matches, lacking, plan.batch_sizes)
    took = dict(zip(works, side_by_side(*works.values(), rounds=rounds), strict=True))
    made, needs = needed(contest, ours)
    forward = min((took["forward", size] / size, size) for size in plan.batch_sizes)
    both = min((took["both ways", size] / size, size) for size in plan.batch_sizes)
    return Measured(
        case, n, rounds, battery=took["battery", ""], ready=took["ready", ""],
        made=made, distinct=needs,
        single={m.name: (took[m.name, "ours"], took[m.name, plan.one]) for m in ours},
        quantus=sum(took[m.name, who] for m in ours for who in plan.contestants),
        apart={m.name: took[m.name, "apart"] for m in lacking},
        forward=forward, backward=(max(0.0, both[0] - forward[0]), both[1]),
        peak=peaks(name, n, case.device))


def _works(
    plan: Plan, contest: Contest, matches: Sequence[tuple[Metric, Metric]],
    lacking: Sequence[Metric], sizes: Sequence[int],
) -> dict[tuple[str, object], Callable[[], object]]:
    """All that is timed: each metric of ours beside Quantus's, then what there is one of."""
    ready = contest.ready()
    # Side by side stand ours and theirs for `one`: the machine is not the same for long.
    names = sorted(plan.contestants, key=lambda who: who != plan.one)

    def own(metric: Metric) -> Callable[[], object]:
        return lambda: score(metric, contest.seen(plan.one, ready.copy()))

    def scored(metric: Metric, who: str) -> Callable[[], object]:
        return lambda: score(metric, contest.seen(who))

    works: dict[tuple[str, object], Callable[[], object]] = {("ready", ""): contest.ready}
    for ours, theirs in matches:
        works[ours.name, "ours"] = own(ours)
        works |= {(ours.name, who): scored(theirs, who) for who in names}
    works["battery", ""] = partial(contest.battery, [ours for ours, _ in matches])
    works |= {(metric.name, "apart"): own(metric) for metric in lacking}
    for size in sizes:
        x = drawn(size, contest.batch.x.shape[1:], plan.seed).x.to(contest.batch.x.device)
        works["forward", size] = partial(_forward, contest.network, x)
        works["both ways", size] = partial(_both_ways, contest.network, x)
    return works


def peaks(name: str, n: int, device: str) -> dict[str, tuple[int, int]]:
    """The peak memory of either side in bytes, and what was there before it began.

    On a CPU each side has a process of its own. Quantus keeps nothing from one contestant to the
    next, so it is given the one of `Plan.one`.
    """
    sides = ("ours", "quantus")
    if torch.device(device).type == "cuda":
        return {side: peak(name, n, side) for side in sides}
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        return dict(zip(sides, pool.map(peak, [name] * 2, [n] * 2, sides), strict=True))


def peak(name: str, n: int, side: str) -> tuple[int, int]:
    """The most bytes in use when one side ran in this process, and those before it began."""
    torch.set_num_threads(1)
    plan = Plan.read()
    case, matches = plan.case[name], plan.matches(name)
    importlib.import_module("quantus")
    contest = Contest.of(plan, case, n)
    device = torch.device(case.device)
    memory.restart(device)
    before = memory.peak(device)
    if side == "ours":
        contest.battery([ours for ours, _ in matches])
    else:
        for _, theirs in matches:
            score(theirs, contest.seen(plan.one))
    return memory.peak(device), before


@dataclass(frozen=True)
class Verdict:
    """One target, what was measured of it, and whether it is met."""

    target: str
    found: str
    met: bool


def verdicts(found: Measured, floor: float) -> list[Verdict]:
    """The targets of a case, met or missed. floor: our battery, at most in units of the floor."""
    ratio, above = found.quantus / found.battery, found.battery / found.floor
    slower = {name: theirs / ours for name, (ours, theirs) in found.single.items() if theirs < ours}
    return [
        Verdict(f"battery at least {found.case.target:g} times as fast as Quantus",
                f"{ratio:.2f} times", ratio >= found.case.target),
        Verdict("no metric slower than Quantus's",
                ", ".join(f"{name} {times:.2f} times" for name, times in slower.items()) or "none",
                not slower),
        Verdict(f"battery within {floor:g} times the floor", f"{above:.2f} times", above <= floor)]


def told(found: Measured, plan: Plan, console: Console) -> None:
    """Prints what was measured, and every target as met or missed."""
    console.print(f"{found.case.title}: {found.n} images, {len(plan.contestants)} contestants, "
                  f"median of {found.rounds} rounds")
    table = Table(box=None, pad_edge=False)
    for head in (f"  metric, on {plan.one}", "ours, ms an image", "Quantus", "ratio"):
        table.add_column(head, justify="left" if head[0] == " " else "right")
    for name, (ours, theirs) in found.single.items():
        table.add_row(f"  {name}", *(f"{1000 * s / found.n:.3f}" for s in (ours, theirs)),
                      f"{theirs / ours:.2f}")
    for name, ours in found.apart.items():
        table.add_row(f"  {name}", f"{1000 * ours / found.n:.3f}", "lacks it", "")
    console.print(table)
    console.print(f"  battery, all contestants: ours {found.battery:.2f} s, Quantus "
                  f"{found.quantus:.2f} s, ratio {found.quantus / found.battery:.2f}; "
                  f"{1000 * found.ready:.0f} ms of it make the network ready, once, and are in no "
                  "single metric")
    console.print(
        f"  passes of ours: {found.made.forward} forward and {found.made.backward} backward, "
        f"distinct {found.distinct.forward} and {found.distinct.backward}")
    console.print(
        f"  floor {found.floor:.2f} s: {1000 * found.forward[0]:.3f} ms forward (batches of "
        f"{found.forward[1]}), {1000 * found.backward[0]:.3f} ms backward (batches of "
        f"{found.backward[1]}); ours is {found.battery / found.floor:.2f} times it")
    console.print("  peak memory: " + ", ".join(
        f"{side} {top / 2**20:.0f} MiB ({(top - before) / 2**20:.0f} above what it began with)"
        for side, (top, before) in found.peak.items()))
    for verdict in verdicts(found, plan.floor):
        word = "met" if verdict.met else "MISSED"
        console.print(f"  {word}: {verdict.target}: {verdict.found}")


def report(
    console: Console, *, case: str = "", rounds: int = 0, n: int = 0, plan: Plan | None = None,
) -> None:
    """Measures and prints one case, or all that this machine has a device for."""
    plan = plan or Plan.read()
    if case and case not in plan.case:
        raise unknown("case of bench/speed.toml", case, plan.case)
    console.print(" ".join(plan.about.split()), highlight=False)
    console.print("What Quantus needs to run at all:")
    for patch in plan.patches:
        console.print(f"- {patch}", highlight=False)
    for name in [case] if case else plan.case:
        if torch.device(plan.case[name].device).type == "cuda" and not torch.cuda.is_available():
            console.print(f"{plan.case[name].title}: left out, there is no such device")
        else:
            told(measured(plan, name, n=n, rounds=rounds), plan, console)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.speed", description=__doc__)
    parser.add_argument("--case", default="", help="one of speed.toml's; by default all")
    parser.add_argument("--rounds", type=int, default=0, help="by default the case's own")
    parser.add_argument("-n", type=int, default=0, help="images; by default the case's own")
    given = parser.parse_args()
    torch.set_num_threads(1)
    report(Console(), case=given.case, rounds=given.rounds, n=given.n)


if __name__ == "__main__":
    try:
        main()
    except HeatproofError as error:
        raise SystemExit(f"heatproof: {error}") from None
