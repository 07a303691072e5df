"""Heatproof: explanation heatmaps, put to the proof. These are the names that a plugin needs."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench import nets
    from bench.chunks import TargetScore, fitting, in_pieces
    from bench.core import Batch, Card, HeatproofError, Method
    from bench.data.catalogue import Catalogue
    from bench.data.images import Images
    from bench.measure import Explained, Metric, Scores
    from bench.plugins import method, method_named, metric, source
    from bench.randomness import seeded
    from bench.stages import copied, redrawn

__all__ = ["Batch", "Card", "Catalogue", "Explained", "HeatproofError", "Images", "Method",
           "Metric", "Scores", "TargetScore", "copied", "fitting", "in_pieces", "method",
           "method_named", "metric", "nets", "redrawn", "seeded", "source"]
__version__ = "0.1.0"

_HOMES = {"Catalogue": "bench.data.catalogue", "Images": "bench.data.images",
          "Explained": "bench.measure", "Metric": "bench.measure",
          "Scores": "bench.measure", "TargetScore": "bench.chunks", "fitting": "bench.chunks",
          "in_pieces": "bench.chunks", "method": "bench.plugins", "method_named": "bench.plugins",
          "metric": "bench.plugins", "copied": "bench.stages", "redrawn": "bench.stages",
          "seeded": "bench.randomness", "source": "bench.plugins"}


def __getattr__(name: str) -> Any:
    """A public name on first use, so that `import bench` costs next to nothing."""
    if name == "nets":
        return importlib.import_module("bench.nets")
    if name not in __all__:
        raise AttributeError(f"module 'bench' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES.get(name, "bench.core")), name)
