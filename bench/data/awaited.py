"""Published data sets whose layout no source reads yet: their cards can be planned with."""

from __future__ import annotations

from bench.core import Card, HeatproofError
from bench.data.images import Images
from bench.plugins import source


@source("awaited")
def read(card: Card, split: str) -> Images:  # noqa: ARG001  every source is given one
    """Raises HeatproofError: there is no reader, and the card says what is known of the set."""
    raise HeatproofError(
        f"{card.name} has no reader yet: its card serves `heatproof plan`; to run it, give the "
        "card a source that reads its files, like \"folder\"")
