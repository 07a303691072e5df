"""The resolution-fair track: every map at the same coarse grid, by summing and never by upsampling.

The pixel track depends on how a coarse map is blown up: bilinear instead of nearest interpolation
alone moves the rank accuracy of one 8 × 8 map from 0.81 to 0.95. So the finer map comes to the
coarser grid instead. Each native cell's evidence lies evenly on its area, and a cell of the grid
gets what lies within it: W_h · map · W_wᵀ, which loses no evidence. The truth comes along as areas.
The grid has as many rows as columns, whatever the image's shape, so that it is one and the same
for all maps of an image. Evidence is summed with its sign and clipped, or made absolute, after.

The ceilings say the same from the other side: what the mask itself gets on the pixel track when it
is seen at a contestant's native resolution.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from bench.core import HeatproofError
from bench.measure import GAUGE, Explained, Scores
from bench.metrics import complexity, localisation
from bench.metrics.evidence import INTERPOLATION, evidence, scores
from bench.metrics.faithfulness import cell_of, pixel_ranks, without
from bench.metrics.localisation import areas, masks, on_pixels
from bench.metrics.removal import Outputs, whole
from bench.plugins import metric

if TYPE_CHECKING:
    from torch import Tensor

    from bench.metrics.evidence import Evidence, Part

    Flaws = tuple[str | None, ...]

_FINEST = 2**16
"""No map has more rows; what is above it is a slip."""

POOLING = "sum-pooled"
"""How a native map comes to the grid; it stands in the version of every metric of this track."""

LADDER = (4, 7, 14, 28, 56, 112, 224)
"""The rungs of the resolution curve, the same for all maps."""

_PARAMS: dict[str, Any] = {"grid": 7, "ladder": LADDER}
_CURVE = ("The curve is the score at every rung of the ladder that is no finer than the native "
          "map. A map is scored at `grid`, or not at all where it is coarser. A grid that does not "
          "divide the native one smears a coarse map over the borders of its cells, and a fine one "
          "hardly: compare at a grid that divides those of all contestants.")


def shares(fine: int, coarse: int) -> Tensor:
    """What share of each of `fine` equal parts of a line lies in each of `coarse`: (coarse, fine).

    float64; every column adds up to 1. Needs fine >= coarse.
    """
    here = torch.arange(coarse)[:, None]
    there = torch.arange(fine)[None]
    # In units of 1 / (fine · coarse) of the line all borders are whole numbers.
    right = torch.minimum((here + 1) * fine, (there + 1) * coarse)
    left = torch.maximum(here * fine, there * coarse)
    return (right - left).clamp(min=0).double() / coarse


def pooled(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps (N, h, w) summed to a grid no finer than they are: (N, *size) float64.

    The total stays. Raises HeatproofError for a finer grid.
    """
    height, width = maps.shape[1:]
    if size[0] > height or size[1] > width:
        raise HeatproofError(f"maps of {height} × {width} cannot be summed to the finer grid "
                             f"{size[0]} × {size[1]}; choose a coarser one")
    rows, columns = (shares(fine, coarse).to(maps.device)
                     for fine, coarse in zip((height, width), size, strict=True))
    return rows @ maps.detach().double() @ columns.T


def at_grids(
    explained: Explained, at: Callable[[int], tuple[Tensor, Flaws]], *, grid: int,
    ladder: Sequence[int], truth: Flaws | None = None,
) -> Scores:
    """The score `at` one grid, and its curve over the rungs that the native map has.

    at: a grid's number of rows to values (N,) and N flaws; truth: flaws that no grid mends. Raises
    HeatproofError for a grid or a ladder that is none.
    """
    if not isinstance(ladder, Sequence) or not ladder:
        raise HeatproofError(f"ladder must be a list of grids such as [4, 7, 14], not {ladder!r}")
    for rung in (grid, *ladder):
        whole("grid", rung, _FINEST)
    n, height, width = explained.maps.shape
    none = torch.full((n,), torch.nan, dtype=torch.float64, device=explained.maps.device)
    found = {rung: at(rung) for rung in {grid, *ladder} if rung <= min(height, width)}
    value, flaw = found.get(grid, (none, _coarser(explained, grid)))
    curve = torch.stack([_sound(*found[rung]) if rung in found else none for rung in ladder], 1)
    return scores(value, truth or (None,) * n, flaw, curve=curve)


def _sound(value: Tensor, flaw: Flaws) -> Tensor:
    bad = torch.tensor([why is not None for why in flaw], device=value.device)
    return value.masked_fill(bad, torch.nan)


def _coarser(explained: Explained, rung: int) -> Flaws:
    n, height, width = explained.maps.shape
    return (f"the map of {height} × {width} is coarser than the grid of {rung} × {rung}",) * n


def _cells(
    maps: Tensor, rung: int, part: Part, counted: Tensor | None = None,
) -> Evidence:
    return evidence(pooled(maps, (rung, rung)), (rung, rung), part, counted=counted)


def _register_localisation(name: str, measure: localisation.Measure) -> None:
    @metric(f"fair/{name}", title=f"{measure.title}, resolution-fair", family="localisation",
            better="higher", needs=("mask",), params=_PARAMS, version=f"1, {POOLING}",
            track="fair", paper=measure.paper, formula=measure.formula, range="[0, 1]",
            units="share", passes="none", holds=("batch", "scale"),
            about=f"{measure.about} The units are the cells of a coarse grid. {_CURVE}",
            departures=(*measure.departures, "cells of equal size for all maps, because the pixel "
                        "grid scores the interpolation of a coarse map"))
    def fair(explained: Explained, *, grid: int, ladder: Sequence[int]) -> Scores:
        assert explained.batch.mask is not None
        inside, outside = areas(explained.batch.mask.to(explained.maps.device))

        def at(rung: int) -> tuple[Tensor, Flaws]:
            object_, rest = (pooled(area, (rung, rung)) for area in (inside, outside))
            cells = _cells(explained.maps, rung, measure.part, object_ + rest > 0)
            return measure.score(*(x.flatten(1) for x in (cells.values, object_, rest))), cells.flaw

        return at_grids(explained, at, grid=grid, ladder=ladder,
                        truth=masks(inside, outside, background=measure.background))

    @metric(f"ceiling/{name}", title=f"{measure.title}: the mask at this resolution", family=GAUGE,
            better="higher", needs=("mask",), version=f"1, area-pooled, {INTERPOLATION}",
            paper=measure.paper, formula=f"{measure.formula} with e = upsampled(pooled(M))",
            range="[0, 1]", units="share", passes="none", holds=("batch",),
            about="What the mask itself scores as a map of this contestant's native resolution: "
                  "pooled to its grid by area and upsampled like any map. It is no strict bound: "
                  "a map that marks the object's core alone can have more of its mass inside. "
                  + measure.about)
    def ceiling(explained: Explained) -> Scores:
        return on_pixels(measure, explained, outlines(explained))


def outlines(explained: Explained) -> Tensor:
    """The object's share of each cell of the contestant's native grid: (N, h, w)."""
    assert explained.batch.mask is not None
    inside, outside = (pooled(area, (explained.maps.shape[1], explained.maps.shape[2]))
                       for area in areas(explained.batch.mask.to(explained.maps.device)))
    known = inside + outside
    return inside / known.where(known > 0, 1.0)


def _register_complexity(name: str, measure: complexity.Measure) -> None:
    @metric(f"fair/{name}", title=f"{measure.title}, resolution-fair", family="complexity",
            better=measure.better, params=_PARAMS, version=f"1, {POOLING}", track="fair",
            paper=measure.paper, formula=measure.formula, range=measure.range,
            units=measure.units, passes="none", holds=("batch", "scale"),
            about=f"{measure.about} The units are the cells of a coarse grid; evidence is summed "
                  f"with its sign before its absolute value is taken. {_CURVE}",
            departures=(*measure.departures, "cells of equal size for all maps, because finer maps "
                        "score as more complex for their resolution alone"))
    def fair(explained: Explained, *, grid: int, ladder: Sequence[int]) -> Scores:
        def at(rung: int) -> tuple[Tensor, Flaws]:
            cells = _cells(explained.maps, rung, "absolute")
            return measure.score(cells.values.flatten(1)), cells.flaw

        return at_grids(explained, at, grid=grid, ladder=ladder)


@metric("fair/region-aopc", title="Region AOPC, resolution-fair", family="faithfulness",
        better="higher", params={"grid": 7, "operator": "mean", "output": "probability"},
        version=f"1, {POOLING}", track="fair", holds=("batch", "scale"),
        range="[−1, 1] for probabilities", units="the output's", passes="grid² + 1 forward",
        formula="1/(L+1) Σₖ [f(x) − f(x without its k most relevant cells)], k = 0..L, L = grid²",
        paper="Samek et al. 2017, doi:10.1109/TNNLS.2016.2599820, arXiv:1509.06321",
        about="Mean fall of the explained class's output while the cells of a grid × grid tiling "
              "are replaced, the one with the most evidence first: `region-aopc`, but the evidence "
              "of a cell is summed from the native map. A pixel belongs to the cell that covers "
              "most of it. The curve is the fall after 0, 1, ... cells.",
        departures=("cells of equal size for all maps, whose evidence is summed from the native "
                    "map, because the pixel grid ranks the interpolation of a coarse map",
                    "the departures of `region-aopc` from RegionPerturbation"))
def region_aopc(explained: Explained, *, grid: int, operator: str, output: str) -> Scores:
    """The mean fall of each image (N,); curve: (N, grid² + 1), f(x) − f(x_k)."""
    x, seed = explained.batch.x, explained.batch.seed
    whole("grid", grid, min(x.shape[2:]))
    if grid > min(explained.maps.shape[1:]):
        none = torch.full((len(x),), torch.nan)
        return scores(none, _coarser(explained, grid))
    cells = _cells(explained.maps, grid, "signed")

    def run() -> Outputs:
        rows, columns = (cell_of(side, grid, x.device) for side in x.shape[2:])
        rank = pixel_ranks(cells.values, seed)[:, :, rows][..., columns]
        return without(explained, rank, range(grid**2 + 1), units=grid**2, operator=operator)

    found = explained.once(("removal", POOLING, grid, operator), run)
    curve = found.followed(output, explained.unit)
    fall = curve[:, :1] - curve
    return scores(fall.mean(1), cells.flaw, curve=fall)


for _name, _measure in localisation.MEASURES.items():
    _register_localisation(_name, _measure)
for _name, _spread in complexity.MEASURES.items():
    _register_complexity(_name, _spread)
