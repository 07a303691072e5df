"""Planted sets: drawn slices in which we know what decides the class, and what does not.

`phantom`, a shortcut, a distractor, a suppressor, and slices with and without a lesion. Of each
image they give what it would be with one thing, and that alone, as it is in another class: what
bench.certificate puts to a trained network.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np

from bench.core import Card, HeatproofError, filled
from bench.data import images
from bench.data.anatomy import Array, Draws, Slice, disc, smooth, step
from bench.data.catalogue import Catalogue
from bench.plugins import source

LESIONS = ("solid", "ring", "multifocal")
MARKS = ("plus", "ring", "bars")
SHADES = ("faint", "bright")
HEALTH = ("healthy", "lesion")

LEVEL = {"faint": 0.58, "bright": 0.88}
"""How bright a lesion of `planted-suppressor` is at the usual dose of contrast agent."""
DOSE = 0.11
"""How far another dose moves that, up or down, and the tube in the corner with it."""
ENOUGH = 0.01
"""The share of an image that other cysts and vessels change at least; a mark covers as much."""

Thing = tuple[Array, Array]
"""What is added to the tissue: as the image has it, and as in another class."""


@dataclass(frozen=True)
class Layout:
    """The options of a planted card."""

    seed: int = 0


def draw(name: str, lesion: str | None, size: int) -> tuple[Array, Array]:
    """One slice of `phantom` (size, size) in [0, 1] and its mask, what the lesion changed.

    `name` seeds the anatomy, cysts, vessels and the noise; the lesion is drawn over them and
    changes nothing else, so `draw(name, None, size)` is the same slice without it.
    """
    head = Slice(Draws("phantom", name), size)
    change = np.zeros((size, size)) if lesion is None else lesion_in(head, lesion)
    return head.taken(head.tissue + change), change


def lesion_in(head: Slice, kind: str) -> Array:
    """What a lesion of a kind adds (size, size); drawn again, it is the same."""
    draws, edge = head.draws.again(), head.pixel
    x, y, place, spot = head.x, head.y, head.place, head.spot
    strength = draws.uniform(0.30, 0.42)
    wobble = 0.25 * spot * (smooth(draws, 8, head.size) - 0.5)
    if kind == "solid":
        return strength * step(disc(x, y, place, spot) + wobble, edge)
    if kind == "ring":
        outer = step(disc(x, y, place, spot) + wobble, edge)
        core = step(disc(x, y, place, spot * draws.uniform(0.50, 0.60)) + wobble, edge)
        return strength * outer - (strength + 0.16) * core
    if kind != "multifocal":
        raise HeatproofError(f"lesion {kind!r} is none of {', '.join(LESIONS)}")
    near = spot * 0.66
    p, q = draws.uniform(-1, 1), draws.uniform(-1, 1)
    length = float(np.sqrt(np.float64(p * p + q * q + 0.01)))
    p, q = p / length, q / length
    turn = 0.8660254037844386  # the sine of 120 degrees: three foci, evenly around
    change = np.zeros_like(head.tissue)
    for across, down in ((p, q), (-0.5 * p - turn * q, turn * p - 0.5 * q),
                         (-0.5 * p + turn * q, -turn * p - 0.5 * q)):
        at = (place[0] + near * across, place[1] + near * down)
        focus = step(disc(x, y, at, spot * draws.uniform(0.24, 0.32)), edge)
        change = np.maximum(change, strength * focus)
    return change


def mark_in(head: Slice, draws: Draws, form: str) -> Array:
    """What a mark in a corner of the page adds (size, size): its form, on a plate.

    The plate is alike in all classes; it makes the mark one region, whose gaps tell the form too.
    """
    u, v = _corner(head, draws)
    strength, far = draws.uniform(0.35, 0.60), np.maximum(abs(u), abs(v))
    if form == "plus":
        ink = np.maximum(np.minimum(abs(u), abs(v)) - 0.025, far - 0.11)
    elif form == "ring":
        ink = abs(np.sqrt(u * u + v * v) - 0.085) - 0.025
    else:
        ink = np.maximum(abs(abs(v) - 0.07) - 0.025, abs(u) - 0.11)
    return 0.10 * step(far - 0.13, head.pixel) + strength * step(ink, 0.8 * head.pixel)


def uptake_in(head: Slice, level: float) -> Array:
    """What a lesion adds (size, size) that has a level of its own, whatever lies behind it."""
    return (level - head.tissue) * step(disc(head.x, head.y, head.place, head.spot), head.pixel)


def tube_in(head: Slice, draws: Draws, dose: float) -> Array:
    """What a tube of contrast agent in a corner of the page adds (size, size).

    It shows the dose more clearly than the lesion does, so that networks learn to read it.
    """
    u, v = _corner(head, draws)
    return (0.42 + 3 * dose) * step(disc(u, v, (0.0, 0.0), 0.11), head.pixel)


def _corner(head: Slice, draws: Draws) -> tuple[Array, Array]:
    """How far each pixel is from a point in a corner of the page, to the right and down."""
    right, down = ((1 if draws.below(2) else -1) * draws.uniform(0.80, 0.85) for _ in range(2))
    return head.across - right, head.down - down


@source("phantom", version="2")
def phantom(card: Card) -> Catalogue:
    """Slices whose class is the kind of their lesion; a split is [first number, how many]."""
    def things(head: Slice, _: Draws, number: int) -> tuple[Thing, ...]:
        return (_of_kinds(lambda kind: lesion_in(head, kind), LESIONS, number),)

    return _catalogue(card, LESIONS, things, ("region",), "phantom")


@source("planted-shortcut")
def shortcut(card: Card) -> Catalogue:
    """Slices whose class is the form of a mark in the corner; their lesions mean nothing."""
    return _catalogue(card, MARKS, _mark_and_lesion, ("region", "distractor"))


@source("planted-distractor")
def distractor(card: Card) -> Catalogue:
    """The images of `planted-shortcut`, whose class is the lesion; their marks mean nothing."""
    return _catalogue(card, LESIONS, _mark_and_lesion, ("distractor", "region"), every=len(MARKS))


@source("planted-suppressor")
def suppressor(card: Card) -> Catalogue:
    """Slices whose class is how bright their lesion is, at an unknown dose of contrast agent.

    The dose brightens a tube in the corner too, which so tells nothing of the class and much of
    what disturbs it: a suppressor variable (Wilming et al., arXiv:2111.07473).
    """
    def things(head: Slice, beside: Draws, number: int) -> tuple[Thing, ...]:
        dose = beside.uniform(-DOSE, DOSE)
        # Half the range away, so that each image's other dose is as different as any image's.
        another = dose - DOSE if dose > 0 else dose + DOSE
        return (
            _of_kinds(lambda shade: uptake_in(head, LEVEL[shade] + dose), SHADES, number),
            (tube_in(head, beside.again(), dose), tube_in(head, beside.again(), another)))

    return _catalogue(card, SHADES, things, ("region", "suppressor"))


@source("planted-lesion")
def lesion(card: Card) -> Catalogue:
    """Slices with and without a lesion; the masks of the healthy ones are empty."""
    def things(head: Slice, beside: Draws, number: int) -> tuple[Thing, ...]:
        kind = LESIONS[beside.below(len(LESIONS))]
        there, not_there = lesion_in(head, kind), np.zeros_like(head.tissue)
        return ((there, not_there) if number % 2 else (not_there, there),)

    return _catalogue(card, HEALTH, things, ("region",))


def _mark_and_lesion(head: Slice, beside: Draws, number: int) -> tuple[Thing, ...]:
    """Nine numbers on end have each mark with each lesion once: neither tells of the other."""
    return (_of_kinds(lambda form: mark_in(head, beside.again(), form), MARKS, number),
            _of_kinds(lambda kind: lesion_in(head, kind), LESIONS, number // len(MARKS)))


def _of_kinds(drawn: Callable[[str], Array], kinds: tuple[str, ...], number: int) -> Thing:
    return drawn(kinds[number % len(kinds)]), drawn(kinds[(number + 1) % len(kinds)])


def _catalogue(
    card: Card, classes: tuple[str, ...],
    things: Callable[[Slice, Draws, int], tuple[Thing, ...]], names: tuple[str, ...],
    stream: str = "planted", *, every: int = 1,
) -> Catalogue:
    """Numbered slices, in each of them `things` by their `names`; "region" decides the class.

    The class moves on with `every` so many numbers.
    """
    if card.classes != classes or card.image[0] != 1 or card.image[1] != card.image[2]:
        raise HeatproofError(
            f"card {card.name}: {card.source} needs classes {classes}, image [1, n, n]")
    size = card.image[1]
    seed = filled(Layout, card.options, f"options of card {card.name}").seed
    numbers: list[int] = []
    rows: dict[str, range] = {}
    for split, wanted in card.splits.items():
        if not (isinstance(wanted, list | tuple) and len(wanted) == 2
                and all(type(part) is int and part >= 0 for part in wanted)):
            raise HeatproofError(f"card {card.name}: split {split} must be [first number, how "
                                 f"many], not {wanted!r}")
        first, n = wanted
        rows[split] = range(len(numbers), len(numbers) + n)
        numbers += range(first, first + n)

    @lru_cache(maxsize=16)  # an image, its mask and its flips are asked for one after another
    def planted(row: int) -> tuple[str, Slice, dict[str, Thing]]:
        name = f"{seed}/{numbers[row]:06d}"
        head = Slice(Draws(stream, name), size)
        found = things(head, Draws("beside", stream, name), numbers[row])
        return name, head, dict(zip(names, found, strict=True))

    def image(row: int, flipped: str = "") -> images.Array:
        name, head, found = planted(row)
        tissue = head.tissue
        if flipped == "elsewhere":
            tissue = head.elsewhere(Draws("elsewhere", stream, name), ENOUGH)
        for thing, (own, other) in found.items():
            tissue = tissue + (other if thing == flipped else own)
        return (head.taken(tissue) * 255.0 + 0.5).astype(np.uint8)[None]

    def mask(row: int) -> images.Array:
        return np.asarray(planted(row)[2]["region"][0] != 0.0, np.uint8)

    return Catalogue(
        key=tuple(f"{number:06d}" for number in numbers),
        label=tuple(number // every % len(classes) for number in numbers), rows=rows,
        image=image, mask=mask,
        flips={thing: partial(image, flipped=thing) for thing in (*names, "elsewhere")})
