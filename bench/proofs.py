"""The proof of a metric, made once: what the lab of known answers found, ready for a board."""

from __future__ import annotations

import hashlib
import importlib.metadata
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from bench.core import digest
from bench.measure import Metric
from bench.metrics.known import LAB, Finding, known_answer
from bench.store import Cache, read_json, write_json


def findings(metric: Metric) -> Iterator[Finding]:
    """What the lab finds of a metric on grey and on colour images, one by one."""
    for channels, kind in ((1, "grey"), (3, "colour")):
        for finding in known_answer(metric, channels=channels):
            yield replace(finding, name=f"{finding.name} ({kind})")


def proof(metric: Metric, *, cache: Cache | None = None) -> dict[str, Any]:
    """What is proven of a metric with its parameters, ready for JSON; from the cache if it can be.

    badge: "proven", "failed", or "refused" for a metric with a defect, which is not run; passed,
    of: findings; failed: a line for each that is not ok; findings: all of them; key: a name for the
    metric's card and parameters, the lab and the release of Quantus.
    """
    key = _key(metric)
    if metric.defect:
        return {"badge": "refused", "passed": 0, "of": 0, "failed": [metric.defect],
                "findings": [], "key": key}
    # The code stands in the file's name alone: a comment makes a proof anew, and no other key.
    path = (cache or Cache()).path("proofs", digest([key, _code(metric)])).with_suffix(".json")
    if path.is_file():
        return dict(read_json(path))
    found = summary(list(findings(metric)), key)
    write_json(path, found)
    return found


def summary(found: list[Finding], key: str = "") -> dict[str, Any]:
    """Findings as a proof: badge, passed, of, failed, findings, key."""
    failed = [f"{f.name}: {f.expected}; found {f.found}" for f in found if not f.ok]
    return {"badge": "failed" if failed or not found else "proven",
            "passed": len(found) - len(failed), "of": len(found), "failed": failed,
            "findings": [asdict(f) for f in found], "key": key}


def _key(metric: Metric) -> str:
    return digest({"metric": metric.facts(), "lab": LAB,
                   "quantus": importlib.metadata.version("quantus")})


def _code(metric: Metric) -> str:
    """A hash of all that scores: metrics, lab, the metric's own module, and what they stand on."""
    own = getattr(sys.modules.get(metric.score.__module__), "__file__", None)
    content = Path(own).read_bytes() if own else b""
    return hashlib.sha256(_engine() + content).hexdigest()


@lru_cache(maxsize=1)
def _engine() -> bytes:
    """A hash of what all metrics share, read once: it is the same for each of a suite's."""
    ours = sorted((Path(__file__).parent / "metrics").rglob("*.py"))
    below = [importlib.metadata.version(name) for name in ("torch", "numpy", "scipy")]
    content = [*(path.read_bytes() for path in ours), *map(str.encode, below)]
    return hashlib.sha256(b"".join(content)).digest()
