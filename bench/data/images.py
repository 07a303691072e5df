"""The images of one split in memory, and the batches made of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.core import Batch, Card, HeatproofError, number_from

if TYPE_CHECKING:
    import torch

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Images:
    """The images of one split, in memory or mapped into it.

    x: (N, C, H, W) uint8. y: (N,) int64. key: N distinct strings, stable when a folder gains a
    file. group: N strings (patient, scan), or empty. mask: (N, H, W) uint8 or None; 0 background,
    1.. parts, 255 ignore. flips: planted sets alone, what is flipped -> (N, C, H, W) uint8, the
    same images with that and nothing else as it is in another class. content: a checksum of the
    pixels and masks, empty where nobody made one.
    """

    x: Array
    y: Array
    key: tuple[str, ...]
    group: tuple[str, ...] = ()
    mask: Array | None = None
    flips: Mapping[str, Array] = field(default_factory=dict)
    content: str = ""

    def __len__(self) -> int:
        return len(self.key)

    def check(self, card: Card, split: str) -> None:
        """Raises HeatproofError where the images are not what the card promises."""
        where = f"{card.name} ({split})"
        if self.x.ndim != 4 or self.x.shape[1:] != card.image or self.x.dtype != np.uint8:
            raise HeatproofError(
                f"{where}: images are {self.x.dtype} {self.x.shape[1:]}, the card says uint8 "
                f"{card.image}; correct the card's image or use the original files")
        n = len(self.x)
        if not n or len(self.y) != n or len(self.key) != n or len(self.group) not in (0, n):
            raise HeatproofError(
                f"{where}: {n} images, {len(self.y)} labels, {len(self.key)} keys, "
                f"{len(self.group)} groups do not belong together")
        if card.group and not all(self.group or [""]):
            raise HeatproofError(
                f"{where}: the card groups images by {card.group}, but not every image has one")
        if len(set(self.key)) != n:
            raise HeatproofError(f"{where}: two images have the same key")
        if self.y.min() < 0 or self.y.max() >= len(card.classes):
            raise HeatproofError(
                f"{where}: label {int(self.y.max())} is none of the card's {len(card.classes)} "
                "classes")
        if card.truth == "none" and self.mask is not None:
            raise HeatproofError(f"{where} has masks, the card's truth says none")
        if card.truth != "none" and self.mask is None:
            raise HeatproofError(f"{where}: the card's truth is {card.truth}, but no mask was read")
        if self.mask is not None and self.mask.shape != (n, *card.image[1:]):
            raise HeatproofError(
                f"{where}: masks are {self.mask.shape[1:]}, images {card.image[1:]}; "
                "a mask must have the size of its image")

    def order(self, name: str) -> Array:
        """All indices in a fixed shuffled order in which the classes take turns.

        The order depends on `name` and the keys alone, so a prefix of it is the same subset for
        every method, seed and machine, and a longer prefix contains the shorter.
        """
        rank = np.array([number_from(name, key) for key in self.key])
        by_hash = np.argsort(rank, kind="stable")
        turn = np.empty(len(self), np.int64)
        for label in np.unique(self.y):
            members = by_hash[self.y[by_hash] == label]
            turn[members] = np.arange(len(members))
        return np.lexsort((rank, turn))

    def parted(self, share: float, name: str) -> tuple[Images, Images]:
        """The images without, and with, about a share of them; no group lies in both.

        Groups are taken in an order that depends on `name` and themselves alone; without groups,
        images are, the classes in turns. Raises HeatproofError where one side would be empty.
        """
        if any(self.group):
            units = sorted(set(self.group), key=lambda unit: number_from(name, unit))
            taken = set(units[:max(1, round(share * len(units)))])
            inside = np.array([unit in taken for unit in self.group])
        else:
            inside = np.zeros(len(self), bool)
            inside[self.order(name)[:round(share * len(self))]] = True
        if not inside.any() or inside.all():
            raise HeatproofError(
                f"{len(self)} training images cannot be parted by a share of {share:g}; change the "
                "recipe's validation")
        rest, part = np.flatnonzero(~inside), np.flatnonzero(inside)
        return self.at(rest), self.at(part)

    def at(self, rows: Array) -> Images:
        """The images of some rows."""
        return Images(
            x=self.x[rows], y=self.y[rows], key=tuple(self.key[i] for i in rows),
            group=tuple(self.group[i] for i in rows) if self.group else (),
            mask=None if self.mask is None else self.mask[rows],
            flips={name: flip[rows] for name, flip in self.flips.items()})


class Batches:
    """Images as normalised batches, chosen samples in a fixed order.

    `seed` is the run's; with the data set's name and the key it gives every sample its own seed,
    the same for all contestants, so that what they draw is paired.
    """

    def __init__(
        self, images: Images, card: Card, *, seed: int, samples: int = 0, name: str = "test",
        normalise: str = "card",
    ) -> None:
        import torch

        chosen = images.order(f"{card.name}/{name}")
        self.images, self.card, self.seed, self.normalise = images, card, seed, normalise
        self.index = chosen[:samples] if samples else chosen
        self._held: torch.Tensor | None = None
        self._seeds = np.full(len(images), -1, np.int64)  # of each image, once it is asked for
        self.mean = torch.tensor(card.mean, dtype=torch.float32)[:, None, None]
        self.std = torch.tensor(card.std, dtype=torch.float32)[:, None, None]

    def __len__(self) -> int:
        return len(self.index)

    def held_on(self, device: torch.device) -> Batches:
        """The same, its images kept on a GPU for good where they fill a quarter of it at most."""
        import torch

        if device.type == "cuda" and self.images.x.nbytes <= torch.cuda.mem_get_info(device)[0] / 4:
            self.hold(device)
        return self

    def hold(self, device: torch.device) -> None:
        """Keeps the images on a device, where batches then are made of them."""
        import torch

        self._held = torch.tensor(np.asarray(self.images.x), device=device)
        self.mean, self.std = self.mean.to(device), self.std.to(device)

    def batch(
        self, places: Sequence[int] | Array | None = None,
        change: Callable[[torch.Tensor], torch.Tensor] | None = None, *, flipped: str = "",
    ) -> Batch:
        """The samples at some places of the chosen order, by default all of them.

        `change` is given the images (n, C, H, W) in [0, 1] before they are normalised; `flipped`
        names the thing that is as in another class, on planted sets. Of what either moves no mask
        is known, so then there is none.
        """
        import torch

        rows = self.index if places is None else self.index[np.asarray(places, np.int64)]
        images = self.images
        key = tuple(images.key[i] for i in rows)
        if self._held is not None and not flipped:
            x = self._held[torch.from_numpy(rows).to(self._held.device)]
        else:
            pixels = images.flips[flipped] if flipped else images.x
            x = torch.from_numpy(np.asarray(pixels[rows])).to(self.mean.device)
        x = x.float().div_(255)
        mask = None if images.mask is None or change or flipped else torch.from_numpy(
            np.asarray(images.mask[rows]))
        for row in rows[self._seeds[rows] < 0]:
            self._seeds[row] = number_from(self.card.name, self.seed, images.key[row])
        return Batch(
            x=self._normalised(x if change is None else change(x)),
            y=torch.from_numpy(images.y[rows]), key=key,
            seed=torch.from_numpy(self._seeds[rows]),
            group=tuple(images.group[i] for i in rows) if images.group else ("",) * len(rows),
            mask=mask)

    def _normalised(self, x: torch.Tensor) -> torch.Tensor:
        if self.normalise == "max":
            return x.div_(x.amax((1, 2, 3), keepdim=True).clamp(min=1 / 255))
        return x.sub_(self.mean).div_(self.std)

    def in_order(self, size: int, *, flipped: str = "") -> Iterator[Batch]:
        """All samples, `size` at a time, flipped as `batch` says."""
        for start in range(0, len(self), size):
            yield self.batch(range(start, min(start + size, len(self))), flipped=flipped)

    def shuffled(
        self, size: int, generator: torch.Generator,
        change: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> Iterator[Batch]:
        """All samples in an order drawn from `generator`, changed as `batch` says.

        The last, smaller batch is dropped.
        """
        import torch

        order = torch.randperm(len(self), generator=generator).numpy()
        size = min(size, len(self))
        for start in range(0, len(self) - size + 1, size):
            yield self.batch(order[start:start + size], change)
