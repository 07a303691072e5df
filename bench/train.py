"""The one training loop. A network is trained once for all contestants that share its id."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from bench import weights
from bench.augment import augmentation
from bench.core import HeatproofError, Method, number_from
from bench.parallel import ALONE, Team
from bench.passes import costing
from bench.randomness import seeded
from bench.spec import Recipe, RunSpec
from bench.store import Cache, read_arrays, read_json, write_arrays, write_json

if TYPE_CHECKING:
    from pathlib import Path

    from bench.core import Batch
    from bench.data.images import Batches

_LOOK = 64
"""Steps between two looks at the losses; each look waits for a GPU."""

Progress = Callable[[str, int, int], None]
"""Called with what is under way, how much of it is done, and how much there is."""


@dataclass(frozen=True)
class Fitted:
    """A trained network in evaluation mode, frozen, and the sha256 of its checkpoint."""

    net: nn.Module
    checkpoint: str
    trained: bool
    """Whether it was trained now; False if it was read from the cache or a published file."""
    processes: int = 1
    """How many processes shared its training."""
    cost: Mapping[str, Any] | None = None
    """The `Cost` of its training, by all attempts together; None where nobody measured it."""


@dataclass(frozen=True)
class Material:
    """What a training is given, each made when it is asked for.

    images: the training images. validation: those that choose the epoch, where the recipe asks
    for it. base: the trained network that post-fitting starts from.
    """

    images: Callable[[], Batches]
    validation: Callable[[], Batches]
    base: Callable[[], nn.Module]


def fitted(
    method: Method, spec: RunSpec, material: Material, cache: Cache, *,
    device: torch.device, progress: Progress, shared: Callable[[], None] | None = None,
) -> Fitted:
    """The network of a spec: from the cache, from published weights, or trained now and kept.

    A training that was killed goes on from its last finished epoch with the same result. `shared`
    has it trained by several processes (`share` in each), which leave it in the cache. Raises
    HeatproofError for a checkpoint that does not fit the network, or a loss that is not finite.
    """
    path = cache.path("models", spec.model_id)
    trained = not path.is_file() and not spec.weights
    if trained and shared:
        shared()
    net = _untrained(method, spec, device)
    if path.is_file():
        load_weights(net, path)
    else:
        cost: dict[str, Any] = {}
        if spec.weights:
            published(method, net, spec.weights)
        else:
            cost = _train(method, net, spec, material, cache, device, progress, ALONE)
        _keep(net, spec, cache, cost)
    return Fitted(
        net.eval().requires_grad_(False), hashlib.sha256(path.read_bytes()).hexdigest(), trained,
        _facts(path).get("processes", 1), _cost(spec, cache))


def share(
    method: Method, spec: RunSpec, material: Material, cache: Cache, *,
    device: torch.device, progress: Progress, team: Team,
) -> None:
    """Trains the network of a spec as one of several processes; one of them keeps it."""
    net = _untrained(method, spec, device)
    net = team.ready(net)
    cost = _train(method, net, spec, material, cache, device, progress, team)
    if team.leads:
        _keep(net, spec, cache, cost, processes=team.size)


def _untrained(method: Method, spec: RunSpec, device: torch.device) -> nn.Module:
    with seeded(number_from(spec.seed, "head")):
        return method.network().to(device)


def _keep(
    net: nn.Module, spec: RunSpec, cache: Cache, cost: Mapping[str, Any], **facts: int,
) -> None:
    path = cache.path("models", spec.model_id)
    if cost:  # apart from the weights, which are the same bytes however long they took
        write_json(_cost_file(spec, cache), cost)
    ours = write_arrays(path, _arrays(net.state_dict()),
                        {"model": spec.model_id, "cell": spec.cell, **facts}, once=True)
    if not ours:  # another process was quicker: all go by one network
        load_weights(net, path)
    cache.wip(spec.model_id).unlink(missing_ok=True)


def _cost_file(spec: RunSpec, cache: Cache) -> Path:
    return cache.path("models", spec.model_id).with_suffix(".cost.json")


def _cost(spec: RunSpec, cache: Cache) -> dict[str, Any] | None:
    try:
        return dict(read_json(_cost_file(spec, cache)))
    except HeatproofError:  # older than costs are, or torn: no reason to stop
        return None


def _facts(path: Path) -> dict[str, Any]:
    """What is written of a checkpoint beside its weights."""
    with safe_open(path, framework="numpy") as file:
        return dict(json.loads((file.metadata() or {}).get("facts", "{}")))


def load_weights(net: nn.Module, path: Path) -> None:
    """Puts a checkpoint of ours into a network. Raises HeatproofError naming what differs."""
    try:
        state = load_file(path)
    except Exception as error:  # safetensors raises its own class and OSError
        raise HeatproofError(f"{path} is damaged ({error}); delete it and run again") from error
    weights.put(net, state, path)


def published(method: Method, net: nn.Module, name: str) -> None:
    """Puts a published checkpoint, by path or hub id, into a method's network."""
    state = method.published(weights.load(name))
    weights.put(net, weights.timm_names(net, state), name)


def _train(
    method: Method, net: nn.Module, spec: RunSpec, material: Material, cache: Cache,
    device: torch.device, progress: Progress, team: Team,
) -> dict[str, Any]:
    """Trains a network, and says what that cost; {} where there was nothing to do."""
    recipe, what = spec.recipe, f"train {spec.contestant.trainer}"
    if spec.base:
        method.start(net, material.base())
    if recipe.channels_last:
        net.to(memory_format=torch.channels_last)
    optimizer = _optimizer(recipe, net)
    if not recipe.epochs:  # as it was made, or as it starts: there may be no training image
        return {}
    batches = material.images().held_on(device)
    change = augmentation(recipe.augment)
    # Before the progress is read, and also when a training goes on: what a method keeps of its
    # pass (prototypes, class weights) is in no file.
    with seeded(number_from(spec.seed, "prepare")):
        method.prepare(net, (b.to(device) for b in batches.in_order(recipe.batch_size)))
    start, best, before = _resume(net, optimizer, cache, spec, device)
    if len(set(team.gathered([start]))) > 1:
        raise HeatproofError(
            f"the progress of training {spec.cell} is changing while it is read: it is trained "
            "elsewhere too; wait until that has ended and run the same command again")
    objective = team.objective(method, net, _loss(method, recipe, device))
    with Beside() as beside:
        for epoch in range(start, recipe.epochs):
            progress(what, epoch, recipe.epochs)
            net.train()
            # Dropout must not leave out the same of each process's images.
            drawn = ("epoch", epoch) if team.leads else ("epoch", epoch, team.rank)
            with costing(device) as cost:
                with seeded(number_from(spec.seed, *drawn)):
                    # Not by a hook: a loss may ask parts of the network.
                    cost.forward = cost.backward = _epoch(
                        objective, net, spec, batches, change, optimizer, epoch)
                if recipe.select != "last":
                    found = _judged(method, net, recipe, material.validation(), device, team)
                    if best is None or found > best.score:
                        best = Best(found, _copied(net.state_dict()))
            before = cost.after(before)
            if epoch + 1 < recipe.epochs and team.leads:
                arrays = _arrays(_progress(net, optimizer, best))
                facts = {"epoch": epoch + 1, "best": best and best.score, "cost": before}
                beside.do(write_arrays, cache.wip(spec.model_id), arrays, facts)
    if best:
        net.load_state_dict(best.state)
    net.to(memory_format=torch.contiguous_format)  # as it will come from the cache
    progress(what, recipe.epochs, recipe.epochs)
    return before


def _loss(
    method: Method, recipe: Recipe, device: torch.device,
) -> Callable[[nn.Module, Batch], Tensor]:
    """The loss of a network on a batch, computed where and as the recipe wants it."""
    mixed = recipe.precision == "mixed" and device.type == "cuda"

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        batch = batch.to(device)
        if recipe.channels_last:
            batch = replace(batch, x=batch.x.contiguous(memory_format=torch.channels_last))
        with torch.autocast(device.type, torch.bfloat16, enabled=mixed):
            return method.loss(net, batch)

    return loss


def _epoch(
    objective: Callable[[Batch], Tensor], net: nn.Module, spec: RunSpec, batches: Batches,
    change: Callable[[Tensor, int], Tensor] | None, optimizer: torch.optim.Optimizer, epoch: int,
) -> int:
    """One pass over the training images; how many they were."""
    recipe = spec.recipe
    steps = max(1, len(batches) // min(recipe.batch_size, len(batches)))
    # Order and augmentation draw from states of their own, which depend on the epoch, so a resumed
    # training draws the same, and not on the trainer: twins see the same images.
    order = torch.Generator().manual_seed(number_from(spec.seed, "order", epoch))
    drawn = (number_from(spec.seed, "augment", epoch, step) for step in range(steps))
    altered = None if change is None else lambda x: change(x, next(drawn))
    losses: list[Tensor] = []
    for step, batch in enumerate(batches.shuffled(recipe.batch_size, order, altered)):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(recipe, epoch * steps + step, steps)
        loss = objective(batch)
        losses.append(loss.detach())
        (loss / recipe.accumulate).backward()  # type: ignore[no-untyped-call]
        if len(losses) == _LOOK or step + 1 == steps:
            _finite(losses, spec, epoch)
            losses.clear()
        if (step + 1) % recipe.accumulate and step + 1 < steps:
            continue
        if recipe.clip:
            nn.utils.clip_grad_value_(net.parameters(), recipe.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return steps * min(recipe.batch_size, len(batches))


def _finite(losses: Sequence[Tensor], spec: RunSpec, epoch: int) -> None:
    """Raises HeatproofError for the first loss that is not finite."""
    for value in torch.stack(list(losses)).tolist():
        if not math.isfinite(value):
            raise HeatproofError(
                f"training {spec.cell} diverged in epoch {epoch + 1} (loss {value}); "
                "lower the recipe's lr")


def learning_rate(recipe: Recipe, step: int, steps: int) -> float:
    """The learning rate at a step of a training of `steps` steps an epoch."""
    total, warm = recipe.epochs * steps, recipe.warmup * steps
    if step < warm:
        return recipe.lr * (step + 1) / warm
    epoch = step // steps
    at = epoch * steps if recipe.every == "epoch" else step
    if recipe.schedule == "constant":
        rate = recipe.lr
    elif recipe.schedule == "step":
        rate = recipe.lr * recipe.gamma ** (epoch // recipe.drop)
    else:
        rate = recipe.lr * 0.5 * (1 + math.cos(math.pi * (at - warm) / max(1, total - warm)))
    return max(rate, recipe.floor)


def _optimizer(recipe: Recipe, net: nn.Module) -> torch.optim.Optimizer:
    # A frozen part (post-fitting) is no matter for the optimiser.
    free = [p for p in net.parameters() if p.requires_grad]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(free, recipe.lr, momentum=recipe.momentum,
                               nesterov=recipe.nesterov, weight_decay=recipe.weight_decay)
    kind = torch.optim.Adam if recipe.optimizer == "adam" else torch.optim.AdamW
    return kind(free, recipe.lr, weight_decay=recipe.weight_decay)


@dataclass(frozen=True)
class Best:
    """The weights of the epoch that did best on the validation images, and how well."""

    score: float
    state: dict[str, Tensor]


def _judged(
    method: Method, net: nn.Module, recipe: Recipe, batches: Batches, device: torch.device,
    team: Team,
) -> float:
    """How good the network is on the validation images, larger is better."""
    net.eval()
    hits, losses = [], []
    # Whole batches are shared out, so that the median of their losses is what it is for one.
    for batch in islice(batches.in_order(recipe.batch_size), team.rank, None, team.size):
        batch = batch.to(device)
        if recipe.select == "accuracy":
            with torch.no_grad():
                hits += (net(batch.x).argmax(1) == batch.y).tolist()
        else:
            # With gradients: a loss may read the gradient at a layer, as Batch-CAM's does.
            losses.append(float(method.loss(net, batch).detach()))
    if recipe.select == "accuracy":
        return float(np.mean(team.gathered(hits)))
    return -float(np.median(team.gathered(losses)))


def _arrays(tensors: Mapping[str, Tensor]) -> dict[str, np.ndarray[Any, Any]]:
    """Copies on the CPU, which stay what they are while the training goes on."""
    return {k: v.detach().to("cpu", copy=True).numpy() for k, v in tensors.items()}


def _copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k: v.detach().clone() for k, v in tensors.items()}


def _progress(
    net: nn.Module, optimizer: torch.optim.Optimizer, best: Best | None,
) -> dict[str, Tensor]:
    """Weights and the optimiser's state. Learning rate and draws follow from the epoch."""
    tensors = {f"net.{k}": v for k, v in net.state_dict().items()}
    if best:
        tensors |= {f"best.{k}": v for k, v in best.state.items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{k}": v for k, v in state.items() if v is not None}
    return tensors


class Beside:
    """Does one thing after another in a thread, while the caller goes on.

    What was begun is ended when the block is left, however; what it raised is raised by the next
    `do` or at the end.
    """

    def __enter__(self) -> Self:
        self._pool = ThreadPoolExecutor(1)
        self._last: Future[Any] | None = None
        return self

    def do(self, work: Callable[..., Any], *given: Any) -> None:
        """Begins once the last is done."""
        if self._last:
            self._last.result()
        self._last = self._pool.submit(work, *given)

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self._pool.shutdown()
        if self._last and kind is None:
            self._last.result()


def _resume(
    net: nn.Module, optimizer: torch.optim.Optimizer, cache: Cache, spec: RunSpec,
    device: torch.device,
) -> tuple[int, Best | None, dict[str, Any]]:
    """The epoch to go on from, with weights and optimiser as they were then; 0 if none.

    And the best epoch so far, and what all of them have cost.
    """
    path = cache.wip(spec.model_id)
    if not path.is_file():
        return 0, None, {}
    try:
        arrays, facts = read_arrays(path)
    except HeatproofError:
        path.unlink(missing_ok=True)  # torn by a full disk: begin again
        return 0, None, {}
    tensors = {k: torch.from_numpy(v).to(device) for k, v in arrays.items()}
    net.load_state_dict({k[4:]: v for k, v in tensors.items() if k.startswith("net.")})
    state = optimizer.state_dict()
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".", 2)
            state["state"].setdefault(int(index), {})[name] = value
    optimizer.load_state_dict(state)
    kept = {k[5:]: v for k, v in tensors.items() if k.startswith("best.")}
    best = Best(facts["best"], kept) if kept else None
    return int(facts["epoch"]), best, facts.get("cost", {})
