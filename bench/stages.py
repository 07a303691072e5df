"""A network's parameters in a few stages, and networks whose stages are drawn anew."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from bench.core import HeatproofError, number_from
from bench.randomness import seeded


@dataclass(frozen=True)
class Stage:
    """Neighbouring layers. name: of the first module; modules: those whose own parameters it has.

    A module's own parameters are those that no module inside it holds.
    """

    name: str
    modules: tuple[str, ...]


def stages(network: nn.Module, x: Tensor, most: int = 8) -> tuple[Stage, ...]:
    """The network's parameters in at most `most` stages, as the forward pass first reaches them.

    From the whole network on, the container with the most parameters is opened up into its
    children (and its own parameters) until there are three quarters of `most` parts; what is too
    many then is joined, neighbours in one container and those with the fewest parameters first. A
    norm is a part of what it follows. So a ResNet comes apart into stem, layer1 to layer4 and head.
    The rule is ours.

    x: (1, C, H, W), an image to see the order by; parameters that it does not reach come last, as
    they are registered. Every parameter is in exactly one stage. Raises HeatproofError for a
    number of stages below 1 and for a network without parameters.
    """
    if not isinstance(most, int) or isinstance(most, bool) or most < 1:
        raise HeatproofError(f"stages must be a whole number above 0, not {most!r}")
    holders = [name for name, module in network.named_modules() if _own(module) or resets(module)]
    sizes = {name: sum(p.numel() for p in _own(network.get_submodule(name))) for name in holders}
    if not sum(sizes.values()):
        raise HeatproofError(
            f"{type(network).__name__} has no parameters, so there is nothing to randomise; leave "
            "the randomisation metrics out")
    norms = {name for name in holders if _norm(network.get_submodule(name))}
    place = _places(network, x, holders)
    parts = [Stage("", tuple(holders))]

    def size(part: Stage) -> int:
        return sum(sizes[name] for name in part.modules)

    while sum(not norms.issuperset(part.modules) for part in parts) < 0.75 * most:
        closed = [part for part in parts if len(part.modules) > 1]
        if not closed:
            break
        largest = max(closed, key=size)
        at = parts.index(largest)
        parts[at:at + 1] = _opened(largest)
    parts.sort(key=lambda part: min(place[name] for name in part.modules))
    joined = [parts[0]]
    for part in parts[1:]:
        if norms.issuperset(part.modules) or norms.issuperset(joined[-1].modules):
            joined[-1] = _joined(joined[-1], part)
        else:
            joined.append(part)
    while len(joined) > most:
        # The layers of one container first, so that stem and head stay by themselves.
        pairs = [(_parent(one) != _parent(other), size(one) + size(other))
                 for one, other in pairwise(joined)]
        at = pairs.index(min(pairs))
        joined[at:at + 2] = [_joined(*joined[at:at + 2])]
    return tuple(joined)


def randomised(network: nn.Module, order: Sequence[Stage], draw: int) -> Iterator[nn.Module]:
    """A copy of the network after each further stage of `order` was drawn anew; the original stays.

    It is one copy, changed from step to step: use it before asking for the next. What a module is
    given depends on its name and `draw` alone, so the last network is the same in any order, and
    the same on any device.
    """
    changed = copied(network)
    for stage in order:
        for name in stage.modules:
            _redraw(changed.get_submodule(name), name, draw)
        yield changed


def copied(network: nn.Module) -> nn.Module:
    """A deep copy of the network; quick, for torch's own copy of a tensor warns and is slow."""
    held: dict[int, object] = {id(b): b.detach().clone() for b in network.buffers()}
    held |= {id(p): nn.Parameter(p.detach().clone(), p.requires_grad) for p in network.parameters()}
    return copy.deepcopy(network, held)


def redrawn(network: nn.Module, draw: int = 0) -> nn.Module:
    """A copy of the network whose parameters are all drawn anew, the same at every call."""
    changed = copied(network)
    for name, module in changed.named_modules():
        if _own(module) or resets(module):
            _redraw(module, name, draw)
    return changed


def resets(module: nn.Module) -> bool:
    """Whether `module.reset_parameters()` makes it as new and touches no module inside it."""
    return callable(getattr(module, "reset_parameters", None)) and (
        len(_own(module)) == len(list(module.parameters())))


def _redraw(module: nn.Module, name: str, draw: int) -> None:
    """Makes a module as new under a seed of its own, so that no two layers become equal.

    `reset_parameters` gives a batch norm the weight 1, the bias 0 and the running mean 0 and
    variance 1 of an untrained network: what follows it sees features that are not standardised.
    Other parameters (prototypes, tokens, temperatures) are drawn from a normal distribution of
    their own mean and standard deviation; one without spread, as every scalar, from one around 0
    with its size as standard deviation. A zero stays zero: it says nothing. Buffers that no
    `reset_parameters` knows stay. All draws are the CPU's, whatever the device.
    """
    if resets(module):
        held = next(iter([*module.parameters(), *module.buffers()]), torch.empty(0))
        with seeded(number_from("reinit", draw, name)):
            cast(Callable[[], None], cast(Any, module.cpu()).reset_parameters)()
        module.to(held.device)
        return
    for key, parameter in module.named_parameters(recurse=False):
        if parameter.numel():
            seed = number_from("reinit", draw, f"{name}.{key}")
            parameter.data.copy_(_like(parameter.detach().cpu(), seed))


def _like(tensor: Tensor, seed: int) -> Tensor:
    wide = tensor.to(torch.complex128 if tensor.is_complex() else torch.float64)
    drawn = torch.randn(wide.shape, dtype=wide.dtype, generator=torch.Generator().manual_seed(seed))
    first = wide.flatten()[0]
    if bool((wide == first).all()):
        return drawn * first.abs()
    return wide.mean() + drawn * wide.std(correction=0)


def _own(module: nn.Module) -> list[nn.Parameter]:
    return list(module.parameters(recurse=False))


def _norm(module: nn.Module) -> bool:
    """Whether it scales and shifts alone: all its parameters are vectors."""
    return resets(module) and all(parameter.ndim < 2 for parameter in _own(module))


def _opened(part: Stage) -> list[Stage]:
    """A container's children, and itself where it has parameters of its own."""
    children: dict[str, list[str]] = {}
    start = f"{part.name}." if part.name else ""
    for name in part.modules:
        inside = name != part.name
        child = start + name.removeprefix(start).partition(".")[0] if inside else name
        children.setdefault(child, []).append(name)
    return [Stage(child, tuple(names)) for child, names in children.items()]


def _parent(part: Stage) -> str:
    return part.name.rpartition(".")[0]


def _joined(one: Stage, other: Stage) -> Stage:
    return Stage(one.name, one.modules + other.modules)


def _places(network: nn.Module, x: Tensor, holders: Sequence[str]) -> Mapping[str, float]:
    """When the forward pass first uses a parameter of each module; one without any goes along."""
    watch = _Watch(network)
    with torch.no_grad(), watch:
        network(x)
    places: dict[str, float] = {}
    last = 0.0
    for index, name in enumerate(holders):
        own = _own(network.get_submodule(name))
        used = [watch.first[id(p)] for p in own if id(p) in watch.first]
        if own:
            last = min(used, default=len(watch.first) + index)
        places[name] = last
    return places


class _Watch(TorchFunctionMode):
    """Notes which parameter enters a function of torch first, which next.

    Not by hooks: they see when a module is called, and not when its own parameters are used.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.wanted = {id(parameter) for parameter in network.parameters()}
        self.first: dict[int, int] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        for value in (*args, *(kwargs or {}).values()):
            for one in value if isinstance(value, list | tuple) else (value,):
                if id(one) in self.wanted:
                    self.first.setdefault(id(one), len(self.first))
        return func(*args, **(kwargs or {}))
