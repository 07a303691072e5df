"""On a GPU everything is what it is on a CPU: scores, maps, memory that runs out, training.

Whoever has no GPU can still run what these tests do, on the CPU: HEATPROOF_TEST_DEVICE=cpu.
"""

from __future__ import annotations

import copy
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bench import plugins, pool, run, speed, suite, train
from bench.chunks import in_pieces
from bench.contest import Contest, Plan
from bench.core import HeatproofError
from bench.measure import Explained, Metric
from bench.metrics import known, score
from bench.metrics.removal import Outputs, fixed, ordered
from bench.metrics.replacement import interpolated, replacement
from bench.results import Folder, read_run
from bench.shared import Shared
from bench.spec import Recipe, RunSpec
from bench.store import Cache

DEVICE = os.environ.get("HEATPROOF_TEST_DEVICE", "cuda")
CUDA = DEVICE == "cuda"

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(CUDA and not torch.cuda.is_available(), reason="needs a CUDA device")]

plugins.load()

N = 6
FEW: dict[str, Any] = {
    "steps": 6, "grid": 3, "percentages": (20, 50, 90), "runs": 8, "draws": 2, "stages": 3,
    "sigmas": (0.1,)}
"""Any metric's parameters of these names, for a quick test."""
PROVEN = sorted(name for name, metric in plugins.metrics.items() if metric.track == "proven")
OPERATORS = ("mean", "blur", "linear", "zero")


@pytest.fixture(autouse=True)
def _same_arithmetic() -> Iterator[None]:
    """Float32 with all its bits, by kernels that always do the same, as in a run; then as it was.
    """
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark, matmul.allow_tf32
    threads = torch.get_num_threads()
    pool.compute_alike()
    matmul.allow_tf32 = False
    yield
    cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark, matmul.allow_tf32 = before
    torch.set_num_threads(threads)


def seen(device: str, channels: int, name: str = "planted", shared: Shared | None = None,
         ) -> Explained:
    """Planted images on a device; one map there is constant, one has a NaN, one mask is empty."""
    net = known.Convolutional(channels).eval().to(device)
    batch = known.planted(N, channels, name)
    # The same maps on both, as ranks of maps that differ in their last bits may differ too.
    maps = known.gradient(copy.deepcopy(net).cpu(), batch.x, batch.y, batch).to(device)
    maps[1], maps[2, 3, 3] = 1.0, torch.nan
    assert batch.mask is not None
    batch.mask[3] = 0
    batch = batch.to(device)

    def explain(
        *, net: nn.Module | None = None, x: Tensor | None = None, target: Tensor | None = None,
        index: list[int] | None = None,
    ) -> Tensor:
        part = batch if index is None else batch[index]
        return known.gradient(own if net is None else net, part.x if x is None else x,
                              part.y if target is None else target, part)

    own = net
    with torch.no_grad():
        logits = net(batch.x)
    return Explained(
        network=net, batch=batch, logits=logits, target=batch.y, maps=maps, explain=explain,
        classes=known.CLASSES, device=device, shared=shared or Shared(),
        validation=partial(seen, device, channels, "validation"))


@lru_cache
def both(channels: int) -> tuple[Explained, Explained]:
    """The same on the CPU and on the device."""
    return seen("cpu", channels), seen(DEVICE, channels)


def reduced(name: str, **params: Any) -> Metric:
    metric = plugins.metrics[name]
    return metric.with_params({key: FEW[key] for key in metric.params if key in FEW} | params)


def same_scores(metric: Metric, channels: int) -> None:
    here, there = (score(metric, sample) for sample in both(channels))
    assert there.reason == here.reason
    np.testing.assert_array_equal(np.isnan(there.value), np.isnan(here.value))
    np.testing.assert_allclose(there.value, here.value, rtol=0, atol=1e-4)
    assert (there.curve is None) == (here.curve is None)
    if here.curve is not None:
        assert there.curve is not None
        assert there.curve.shape == here.curve.shape
        np.testing.assert_allclose(there.curve, here.curve, rtol=0, atol=1e-4)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", PROVEN)
def test_a_proven_metric_scores_on_the_gpu_what_it_scores_on_the_cpu(
    name: str, channels: int,
) -> None:
    same_scores(reduced(name), channels)


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("name", [
    name for name in PROVEN if "operator" in plugins.metrics[name].params])
def test_every_operator_fills_on_the_gpu_as_on_the_cpu(name: str, operator: str) -> None:
    same_scores(reduced(name, operator=operator), 3)


def test_the_whole_battery_shares_on_the_gpu_what_it_shares_on_the_cpu() -> None:
    shared = Shared()
    for _ in range(2):  # the second contestant takes what the first has made
        sample = seen(DEVICE, 1, shared=shared)
        for name in ("pixel-flipping", "road", "faithfulness-correlation", "mprt", "ood/linear",
                     "max-sensitivity", "class-flips", "random-logit"):
            alone = score(reduced(name), seen(DEVICE, 1))
            found = score(reduced(name), sample)
            assert found.reason == alone.reason
            np.testing.assert_allclose(found.value, alone.value, rtol=0, atol=1e-6)


def test_noise_and_imputation_are_drawn_and_solved_alike() -> None:
    batch = known.planted(N, 3)
    removed = torch.rand(N, 1, 16, 16, generator=torch.Generator().manual_seed(0)) < 0.7
    removed[0] = True
    removed[1] = False
    here = interpolated(batch.x, removed)
    there = interpolated(batch.x.to(DEVICE), removed.to(DEVICE))
    assert there.device.type == DEVICE
    torch.testing.assert_close(there.cpu(), here, rtol=0, atol=1e-5)  # of a solver of 1e-7
    every = torch.arange(N)
    for operator in OPERATORS:
        fills = [replacement(operator, batch.x.to(device), batch.seed)(
            every.to(device), removed.to(device)).cpu() for device in ("cpu", DEVICE)]
        torch.testing.assert_close(fills[1], fills[0], rtol=0, atol=1e-5)


# What a GPU may not be asked for between two steps.

@contextmanager
def no_wait() -> Iterator[None]:
    """Inside, whatever makes the host wait for the GPU raises RuntimeError."""
    if CUDA:
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        if CUDA:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.skipif(not CUDA, reason="a CPU has nobody to wait for")
def test_a_wait_would_be_noticed() -> None:
    with no_wait(), pytest.raises(RuntimeError, match="synchroniz"):
        torch.ones(1, device=DEVICE).item()


@pytest.mark.parametrize("operator", ["mean", "blur", "zero"])
def test_the_steps_of_a_removal_wait_for_nothing(operator: str) -> None:
    x, seed = known.planted(N, 3).to(DEVICE).x, known.planted(N, 3).seed
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)).eval().to(DEVICE)
    rank = torch.rand(N, 1, 16, 16, device=DEVICE).flatten(1).argsort(1).view(N, 1, 16, 16)
    cuts, target = torch.arange(0, 256, 32, device=DEVICE), torch.arange(N, device=DEVICE) % 4
    fill, read = replacement(operator, x, seed), Outputs.read(target)

    def steps() -> Tensor:
        return ordered(net, x, rank, cuts, fill, read=read, chunk=16)

    wanted = steps()  # what first calls alone do: libraries, memory
    with no_wait():
        found = steps()
    assert found.shape == (N, len(cuts), 3)
    assert torch.equal(found, wanted)


# Memory that runs out.

class Greedy(nn.Module):
    """A network that takes a large part of the memory for each image while it is at work."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.last, self.most, self.asked = nn.Linear(3 * 16 * 16, 4), most, list[int]()

    def forward(self, x: Tensor) -> Tensor:
        self.asked.append(len(x))
        if CUDA:
            total = torch.cuda.get_device_properties(x.device).total_memory
            each = int(SHARE * total / (self.most + 1))
        else:
            each = 1 if len(x) <= self.most else 2**50  # a petabyte
        torch.empty(len(x) * each, dtype=torch.uint8, device=x.device)
        return self.last(x.flatten(1))


SHARE = 0.1
"""Of the GPU's memory, what a test of its lack may have."""


@contextmanager
def little_memory() -> Iterator[None]:
    if not CUDA:
        yield
        return
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(SHARE)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()


def test_a_chunk_that_finds_no_memory_is_halved_and_the_numbers_stay() -> None:
    torch.manual_seed(0)
    net, x = Greedy(3).eval().to(DEVICE), known.planted(N, 3).to(DEVICE).x
    rank = torch.arange(256, device=DEVICE).view(1, 1, 16, 16).expand(N, 1, 16, 16)
    run_of: Callable[..., Tensor] = partial(
        ordered, net, x, rank, [0, 64, 128, 192], fixed(torch.zeros_like(x)))
    wanted = run_of(chunk=2)
    net.asked.clear()
    with little_memory():
        found = run_of(chunk=16)
    assert net.asked[:3] == [16, 8, 4]
    assert max(net.asked[3:]) == 2
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)


def test_one_image_that_does_not_fit_is_said_in_one_line() -> None:
    net, x = Greedy(0).to(DEVICE), torch.rand(2, 3, 16, 16, device=DEVICE)
    with little_memory(), pytest.raises(HeatproofError, match="not even one image") as raised:
        in_pieces(lambda part: net(x[part]), 2, 2)
    assert "\n" not in str(raised.value)


# Explaining.

# Not the gradients of a deep network: a ReLU whose input is all but 0 may open on one device alone.
@pytest.mark.parametrize(("case", "name"), [
    *(("small", name) for name in ("gradcam", "saliency", "ig", "smoothgrad", "noise")),
    ("resnet", "gradcam")])
def test_a_map_made_on_the_gpu_is_that_of_the_cpu(name: str, case: str) -> None:
    plan = Plan.read()
    plan = replace(plan, contestants={name: plan.contestants[name]}, one=name)
    here, there = (Contest.of(plan, replace(plan.case[case], device=device), 2)
                   for device in ("cpu", DEVICE))
    assert there.maps[name].device.type == DEVICE
    assert torch.equal(there.batch.y.cpu(), here.batch.y)
    found, wanted = there.maps[name].cpu(), here.maps[name]
    assert found.shape == wanted.shape
    assert found.dtype == torch.float32
    assert (found - wanted).abs().max() <= 1e-3 * wanted.abs().max()


def test_the_chunks_of_a_map_do_not_show_on_the_gpu() -> None:
    plan = Plan.read()
    plan = replace(plan, contestants={"gradcam": {}}, one="gradcam")
    contest = Contest.of(plan, replace(plan.case["small"], device=DEVICE), 5)
    whole = contest.maps["gradcam"]
    parts = torch.cat([contest.explain["gradcam"](index=[i]) for i in range(5)])
    assert (parts - whole).abs().max() <= 1e-5 * whole.abs().max()


# Training.

@pytest.fixture
def spec(tiny_suite: suite.Suite) -> RunSpec:
    found = {one.contestant.name: one for one in tiny_suite.runs}["gradcam"]
    return replace(found, recipe=replace(found.recipe, epochs=3))


def trained(
    spec: RunSpec, folder: Path, progress: Callable[[str, int, int], None] = run.silent,
) -> train.Fitted:
    return run.network(spec, run.Place(folder, Cache(folder), device=DEVICE, progress=progress))


def test_a_training_on_the_gpu_that_was_killed_ends_with_the_same_weights(
    spec: RunSpec, tmp_path: Path,
) -> None:
    class Stop(BaseException):
        """Something that no handler catches, like a kill."""

    def stop(what: str, done: int, total: int) -> None:
        if done == 2:
            raise Stop

    whole = trained(spec, tmp_path / "whole")
    with pytest.raises(Stop):
        trained(spec, tmp_path / "cut", stop)
    assert Cache(tmp_path / "cut").wip(spec.model_id).is_file()
    epochs: list[int] = []
    resumed = trained(spec, tmp_path / "cut", lambda what, done, total: epochs.append(done))
    assert epochs[0] == 2  # not from the beginning
    assert {p.device.type for p in whole.net.parameters()} == {DEVICE}
    for key, wanted in whole.net.state_dict().items():
        torch.testing.assert_close(resumed.net.state_dict()[key], wanted, rtol=0, atol=1e-6)


def test_a_network_that_was_trained_on_the_gpu_answers_on_the_cpu_alike(
    spec: RunSpec, tmp_path: Path,
) -> None:
    there = trained(spec, tmp_path).net
    place = run.Place(tmp_path, Cache(tmp_path))
    here = run.network(spec, place)
    assert not here.trained
    x = torch.randn(4, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(there(x.to(DEVICE)).cpu(), here.net(x), rtol=1e-4, atol=1e-4)


QUICKER: list[dict[str, Any]] = [
    {"precision": "mixed"}, {"channels_last": True}, {"precision": "mixed", "channels_last": True}]


@pytest.mark.parametrize("asked", QUICKER, ids=lambda asked: "+".join(asked))
def test_a_quicker_training_has_a_finite_loss_and_float32_weights(
    spec: RunSpec, tmp_path: Path, asked: dict[str, Any],
) -> None:
    if missing := set(asked) - {field.name for field in fields(Recipe)}:
        pytest.skip(f"a recipe has no {', '.join(sorted(missing))}")
    quick = replace(spec, recipe=replace(spec.recipe, **asked))
    assert quick.model_id != spec.model_id
    found = trained(quick, tmp_path)  # which raises where a loss is not finite
    assert found.trained
    for tensor in found.net.state_dict().values():
        assert tensor.isfinite().all()
        assert tensor.dtype in (torch.float32, torch.int64)
    plain = trained(spec, tmp_path)
    x = torch.randn(4, 1, 32, 32, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    assert (found.net(x) - plain.net(x)).abs().max() < 1  # of logits: the same task, learnt alike


# The whole of it.

def test_a_run_on_the_gpu_writes_the_scores_of_the_cpu(spec: RunSpec, tmp_path: Path) -> None:
    metrics = [reduced(name) for name in ("mass-inside", "pixel-flipping", "road", "accuracy")]
    found = []
    for device in (DEVICE, "cpu"):  # the second takes the first one's network and maps
        place = run.Place(tmp_path / f"out-{len(found)}", Cache(tmp_path), device=device)
        outcome = run.run(spec, metrics, place)
        assert outcome.trained == (not found), outcome
        found.append(read_run(Folder.of(spec, place.out).path)[2])
    there, here = found
    assert set(here.metric) == {metric.name for metric in metrics}
    assert list(there.metric) == list(here.metric)
    np.testing.assert_allclose(there.value, here.value, rtol=0, atol=1e-4)


def test_the_speed_of_a_gpu_is_measured_and_judged(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:
    """Two contestants and three pairs of `--case gpu`: Quantus takes minutes for all of them."""
    whole = Plan.read()
    plan = replace(
        whole, contestants={"saliency": {}, "noise": {}}, one="saliency", apart={},
        batch_sizes=(2, 4), case={"gpu": replace(whole.case["gpu"], device=DEVICE)},
        pair={name: whole.pair[name] for name in ("random-logit", "complexity", "region-aopc")})
    monkeypatch.setattr(Plan, "read", lambda: plan)
    if not CUDA:  # it would be asked in another process, which has the whole plan
        monkeypatch.setattr(speed, "peaks", lambda *_: {"ours": (2, 1), "quantus": (2, 1)})
    monkeypatch.setattr(sys, "argv", ["bench.speed", "--case", "gpu", "-n", "2", "--rounds", "1"])
    speed.main()
    out = " ".join(capsys.readouterr().out.split())
    for verdict in ("battery at least 30 times as fast as Quantus:",
                    "no metric slower than Quantus's:", "battery within 1.15 times the floor:"):
        assert f"met: {verdict}" in out or f"MISSED: {verdict}" in out
    assert "peak memory: ours" in out
