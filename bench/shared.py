"""What is made once for all who ask for it, within a bound of memory. No torch."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from functools import lru_cache
from typing import Any, TypeVar, cast

T = TypeVar("T")

MOST = 2**30
"""Bytes that are kept at most."""


class Shared:
    """Results by keys that name all that they depend on; beyond `most` bytes the one that was asked
    for longest ago goes. What is gone is made again, so the bound changes no number.
    """

    def __init__(self, most: int = MOST) -> None:
        self.most = most
        self._made: dict[Hashable, tuple[Any, int]] = {}  # the one asked for longest ago first
        self._held = 0

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """What `make` gives; nobody may change it in place."""
        if key in self._made:
            self._made[key] = self._made.pop(key)
            return cast(T, self._made[key][0])
        made = make()
        size = nbytes(made)
        if size <= self.most and key not in self._made:
            self._made[key] = made, size
            self._held += size
            while self._held > self.most:
                self._held -= self._made.pop(next(iter(self._made)))[1]
        return made

    def copy(self) -> Shared:
        """One that holds the same now, and whose later results are its own."""
        other = Shared(self.most)
        other._made, other._held = dict(self._made), self._held
        return other

    def fits(self, size: int) -> bool:
        """Whether so many bytes can be kept without driving out most of the rest."""
        return size <= self.most // 4


@lru_cache(maxsize=1)
def shared_by(name: str) -> Shared:  # noqa: ARG001  the cache's key
    """What all who give the same name share in this process, until another one is given."""
    return Shared()


def nbytes(value: object) -> int:
    """The bytes of the arrays and tensors that a value holds, in containers and networks too."""
    if (size := getattr(value, "nbytes", None)) is not None:
        return int(size)
    if callable(getattr(value, "parameters", None)):
        network = cast(Any, value)
        return sum(nbytes(one) for one in (*network.parameters(), *network.buffers()))
    if isinstance(value, Mapping):
        return sum(map(nbytes, value.values()))
    if isinstance(value, list | tuple):
        return sum(map(nbytes, value))
    return sum(map(nbytes, vars(value).values())) if hasattr(value, "__dataclass_fields__") else 0
