"""The one training loop. A network is trained once for all contestants that share its id."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from bench.core import HeatproofError, Method, number_from, unknown
from bench.randomness import seeded
from bench.spec import Recipe, RunSpec
from bench.store import Cache, read_arrays, write_arrays

if TYPE_CHECKING:
    from pathlib import Path

    from bench.core import Batch
    from bench.data.images import Batches

Progress = Callable[[str, int, int], None]
"""Called with what is under way, how much of it is done, and how much there is."""


@dataclass(frozen=True)
class Fitted:
    """A trained network in evaluation mode, frozen, and the sha256 of its checkpoint."""

    net: nn.Module
    checkpoint: str
    trained: bool
    """Whether it was trained now; False if it was read from the cache."""


def fitted(
    method: Method, spec: RunSpec, batches: Callable[[], Batches], cache: Cache, *,
    device: torch.device, progress: Progress,
) -> Fitted:
    """The network of a spec: from the cache, or trained now on `batches()` and kept there.

    A training that was killed goes on from its last finished epoch with the same result. Raises
    HeatproofError for a checkpoint that does not fit the network, or a loss that is not finite.
    """
    path = cache.path("models", spec.model_id)
    with seeded(number_from(spec.seed, "head")):
        net = method.network().to(device)
    trained = not path.is_file()
    if trained:
        _train(method, net, spec, batches(), cache, device, progress)
        write_arrays(path, _arrays(net.state_dict()), {"model": spec.model_id, "cell": spec.cell})
        cache.wip(spec.model_id).unlink(missing_ok=True)
    else:
        load_weights(net, path)
    return Fitted(net.eval().requires_grad_(False),
                  hashlib.sha256(path.read_bytes()).hexdigest(), trained)


def load_weights(net: nn.Module, path: Path) -> None:
    """Puts a checkpoint's weights into a network. Raises HeatproofError naming what differs."""
    try:
        state = load_file(path)
    except Exception as error:  # safetensors raises its own class and OSError
        raise HeatproofError(f"{path} is damaged ({error}); delete it and run again") from error
    own = net.state_dict()
    wrong = sorted(
        [f"no {key}" for key in own if key not in state]
        + [f"unknown {key}" for key in state if key not in own]
        + [f"{key} is {tuple(state[key].shape)}, not {tuple(own[key].shape)}"
           for key in own if key in state and own[key].shape != state[key].shape])
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise HeatproofError(
            f"{path} is the checkpoint of another model: {'; '.join(wrong[:3])}{more}")
    net.load_state_dict(state)


def _train(
    method: Method, net: nn.Module, spec: RunSpec, batches: Batches, cache: Cache,
    device: torch.device, progress: Progress,
) -> None:
    recipe = spec.recipe
    optimizer = _optimizer(recipe, net)
    steps = max(1, len(batches) // min(recipe.batch_size, len(batches)))
    # Before the progress is read, and also when a training goes on: what a method keeps of its
    # pass (prototypes, class weights) is in no file.
    with seeded(number_from(spec.seed, "prepare")):
        method.prepare(net, (b.to(device) for b in batches.in_order(recipe.batch_size)))
    start = _resume(net, optimizer, cache, spec, device)
    for epoch in range(start, recipe.epochs):
        progress(f"train {spec.contestant.trainer}", epoch, recipe.epochs)
        # Every epoch draws from a state of its own, so a resumed training draws the same.
        # It does not depend on the trainer: twins see the same images in the same order.
        order = torch.Generator().manual_seed(number_from(spec.seed, "order", epoch) % 2**63)
        net.train()
        with seeded(number_from(spec.seed, "epoch", epoch)):
            epoch_batches = _augmented(batches.shuffled(recipe.batch_size, order), recipe, order)
            for step, batch in enumerate(epoch_batches):
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate(recipe, epoch * steps + step, steps)
                loss = method.loss(net, batch.to(device))
                if not math.isfinite(value := loss.item()):
                    raise HeatproofError(
                        f"training {spec.cell} diverged in epoch {epoch + 1} (loss {value}); "
                        "lower the recipe's lr")
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
        if epoch + 1 < recipe.epochs:
            _save_progress(net, optimizer, epoch + 1, cache, spec)
    progress(f"train {spec.contestant.trainer}", recipe.epochs, recipe.epochs)


def learning_rate(recipe: Recipe, step: int, steps: int) -> float:
    """The learning rate at a step of a training of `steps` steps an epoch."""
    total, warm = recipe.epochs * steps, recipe.warmup * steps
    if step < warm:
        return recipe.lr * (step + 1) / warm
    if recipe.schedule == "constant":
        return recipe.lr
    return recipe.lr * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm)))


def _optimizer(recipe: Recipe, net: nn.Module) -> torch.optim.Optimizer:
    # A frozen part (post-fitting) is no matter for the optimiser.
    weights = [p for p in net.parameters() if p.requires_grad]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(weights, recipe.lr, momentum=recipe.momentum, nesterov=True,
                               weight_decay=recipe.weight_decay)
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(weights, recipe.lr, weight_decay=recipe.weight_decay)
    raise unknown("optimizer in recipe", recipe.optimizer, ("sgd", "adamw"))


def _augmented(
    batches: Iterator[Batch], recipe: Recipe, generator: torch.Generator,
) -> Iterator[Batch]:
    for batch in batches:
        x = batch.x
        if recipe.flip:
            flips = torch.rand(len(x), generator=generator) < 0.5
            x = torch.where(flips[:, None, None, None], x.flip(-1), x)
        if recipe.shift:
            x = _shifted(x, recipe.shift, generator)
        yield replace(batch, x=x, mask=None)


def _shifted(x: Tensor, reach: int, generator: torch.Generator) -> Tensor:
    """Each image moved by up to `reach` pixels; what comes in repeats the edge."""
    padded = nn.functional.pad(x, (reach,) * 4, mode="replicate")
    n, _, h, w = x.shape
    dy, dx = torch.randint(0, 2 * reach + 1, (2, n), generator=generator)
    rows = dy[:, None] + torch.arange(h)
    columns = dx[:, None] + torch.arange(w)
    each = torch.arange(n)[:, None, None]
    return padded[each, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()


def _arrays(tensors: dict[str, Tensor]) -> dict[str, np.ndarray[Any, Any]]:
    return {k: v.detach().cpu().numpy() for k, v in tensors.items()}


def _save_progress(
    net: nn.Module, optimizer: torch.optim.Optimizer, epoch: int, cache: Cache, spec: RunSpec,
) -> None:
    """Writes weights and the optimiser's state. Learning rate and draws follow from the epoch."""
    tensors = {f"net.{k}": v for k, v in net.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{k}": v for k, v in state.items() if v is not None}
    write_arrays(cache.wip(spec.model_id), _arrays(tensors), {"epoch": epoch})


def _resume(
    net: nn.Module, optimizer: torch.optim.Optimizer, cache: Cache, spec: RunSpec,
    device: torch.device,
) -> int:
    """The epoch to go on from, with weights and optimiser as they were then; 0 if none."""
    path = cache.wip(spec.model_id)
    if not path.is_file():
        return 0
    try:
        arrays, facts = read_arrays(path)
    except HeatproofError:
        path.unlink(missing_ok=True)  # torn by a full disk: begin again
        return 0
    tensors = {k: torch.from_numpy(v) for k, v in arrays.items()}
    net.load_state_dict({k[4:]: v for k, v in tensors.items() if k.startswith("net.")})
    state = optimizer.state_dict()
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".", 2)
            state["state"].setdefault(int(index), {})[name] = value.to(device)
    optimizer.load_state_dict(state)
    return int(facts["epoch"])
