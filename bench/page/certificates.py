"""What is known of a data set's truth: whether the networks go by the regions that it marks."""

from __future__ import annotations

from typing import Any

from bench.board import Board
from bench.core import canonical
from bench.page import gauges
from bench.page.tables import records

Row = dict[str, Any]


def certificates(board: Board, dataset: str, truth: str) -> Row | None:
    """The certificate of each network on planted data, or that nobody proved anything.

    None where the data set has no truth that a map could be compared with.
    """
    if truth == "none":
        return None
    found = records(board.certificates[board.certificates["dataset"] == dataset])
    made = [row for row in found if row["certified"] is not None]
    if not made:
        return {"planted": False, "networks": []}
    owner: dict[str, Row] = {}
    for row in made:
        facts = board.contestants[row["contestant"]]
        owner.setdefault(canonical([facts["trainer"], facts["train"]]), row)
    titles = gauges.network_labels(board, [row["contestant"] for row in owner.values()])
    networks = [{"title": titles[row["contestant"]], "certified": bool(row["certified"]),
                 "detail": row["detail"]} for row in owner.values()]
    return {"planted": True, "networks": networks,
            "n": sum(network["certified"] for network in networks)}
