"""The card of each metric: what it is, what it costs, where it departs, and what it has proven."""

from __future__ import annotations

import re
from typing import Any

from bench.board import Board
from bench.measure import GAUGE
from bench.page import gauges
from bench.page.tables import slug, track_title, tracks
from bench.verdicts import CLASSIFIER

Row = dict[str, Any]


def head(board: Board, metric: Row, told: gauges.Told) -> Row:
    """The head of a metric's column: its badge, and what warns of it on this data set."""
    return {"slug": slug(metric["name"]), "title": metric["title"], "about": metric["about"],
            "better": metric["better"], "badge": badge(board, metric["name"]),
            "defect": metric["defect"], "blur": told.prefers_blur(board, metric["name"])}


def badge(board: Board, name: str) -> Row:
    """Whether a metric gave the known answers: a colour, a short text and a long one."""
    proof = board.proofs.get(name)
    if proof is None:
        return {"kind": "unchecked", "text": "not checked",
                "long": "was not checked against known answers", "failed": [], "findings": []}
    count = f"{proof['passed']}/{proof['of']}"
    text, said = {
        "proven": (f"✓ {count}", f"gave every known answer: {count}"),
        "failed": (f"✗ {count}", f"did not give every known answer: {count}"),
        "refused": ("✗ refused", "was not asked: it has a defect and was run by force"),
    }[proof["badge"]]
    return {"kind": proof["badge"], "text": text, "long": said,
            "failed": list(proof["failed"]), "findings": list(proof["findings"])}


def groups(board: Board) -> list[Row]:
    """The cards of all metrics: a group a track, then the gauges, then the networks' own."""
    found = [(f"{track_title(track)} track", [
        m for m in board.metrics if m["track"] == track and m["family"] not in (GAUGE, CLASSIFIER)])
        for track in tracks(board)]
    found += [(text, [m for m in board.metrics if m["family"] == family]) for text, family in (
        ("Gauges: of operators, truths and measures; never ranked", GAUGE),
        ("Of the networks", CLASSIFIER))]
    return [{"title": text, "cards": [_card(board, metric) for metric in metrics]}
            for text, metrics in found if metrics]


def _card(board: Board, metric: Row) -> Row:
    pinned = [(battery["name"], metric["name"] in battery["changed"]) for battery in board.batteries
              if metric["name"] in battery["metrics"] + battery["changed"]]
    return {**metric, "slug": slug(metric["name"]), "paper": sources(metric["paper"]),
            "badge": badge(board, metric["name"]), "operator": gauges.operator(board, metric),
            "batteries": [f"{name}, with other parameters" if changed else name
                          for name, changed in pinned]}


_SOURCE = re.compile(
    r"""https?://[^\s<>"')\]]+[^\s<>"')\].,;:] | arXiv:\s*(?P<arxiv>\d{4}\.\d{4,5})
    | doi:\s*(?P<doi>10\.\d{4,9}/[^\s<>"',;]+[^\s<>"',;.:)])""", re.IGNORECASE | re.VERBOSE)


def sources(text: str) -> list[tuple[str, str]]:
    """`text` in pieces, each with the address that a browser may follow from it, or with none."""
    pieces, end = [], 0
    for found in _SOURCE.finditer(text):
        address = (f"https://arxiv.org/abs/{found['arxiv']}" if found["arxiv"]
                   else f"https://doi.org/{found['doi']}" if found["doi"] else found[0])
        pieces += [(text[end:found.start()], ""), (found[0], address)]
        end = found.end()
    return [piece for piece in [*pieces, (text[end:], "")] if piece[0]]


def link(text: str) -> str:
    """The first address in `text` that a browser may follow, or nothing."""
    return next((address for _, address in sources(text) if address), "")
