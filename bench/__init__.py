"""Heatproof: explanation heatmaps, put to the proof. These are the names that a plugin needs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench.core import Batch, Card, Explained, HeatproofError, Method, Metric, Scores
from bench.plugins import method, metric, source

if TYPE_CHECKING:
    from bench import nets
    from bench.data.images import Images

__all__ = ["Batch", "Card", "Explained", "HeatproofError", "Images", "Method", "Metric", "Scores",
           "method", "metric", "nets", "source"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """`bench.nets` and `bench.Images` on first use, so that `import bench` stays light."""
    if name == "nets":
        import importlib
        return importlib.import_module("bench.nets")
    if name == "Images":
        from bench.data.images import Images
        return Images
    raise AttributeError(f"module 'bench' has no attribute {name!r}")
