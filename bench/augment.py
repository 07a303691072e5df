"""A recipe's augmentation: torchvision's own transforms by name, drawn for each image alone."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from bench.core import HeatproofError, unknown
from bench.randomness import seeded


def augmentation(
    tables: Sequence[Mapping[str, Any]], where: str = "recipe",
) -> Callable[[Tensor, int], Tensor] | None:
    """A function of images (n, C, H, W) in [0, 1] and a seed; None if there is nothing to do.

    Raises HeatproofError for a transform that torchvision.transforms.v2 does not have, or an
    argument that it does not take.
    """
    if not tables:
        return None
    from torchvision.transforms import v2

    steps = v2.Compose([_transform(table, f"augment in {where}") for table in tables])

    def change(x: Tensor, seed: int) -> Tensor:
        with seeded(seed):
            return torch.stack([steps(image) for image in x])

    return change


def _transform(table: Mapping[str, Any], where: str) -> Any:
    from torchvision.transforms import v2

    known = {name: cls for name, cls in vars(v2).items()
             if inspect.isclass(cls) and issubclass(cls, v2.Transform)}
    arguments = {key: tuple(value) if isinstance(value, list) else value
                 for key, value in table.items() if key != "name"}
    name = table.get("name", "")
    if name not in known:
        raise unknown(f"transform of {where}", name, known)
    # Some transforms draw whether they are applied; the others are wrapped.
    own = "p" in inspect.signature(known[name]).parameters
    p = None if own else arguments.pop("p", None)
    try:
        made = known[name](**arguments)
        return made if p is None else v2.RandomApply([made], p=p)
    except (TypeError, ValueError) as error:
        raise HeatproofError(f"{where}: {name} cannot be made of {arguments} ({error})") from None
