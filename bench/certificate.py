"""Whether a trained network decides by what was planted: it is asked again, with that flipped."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from scipy.stats import binomtest
from torch import Tensor, nn

from bench.core import HeatproofError

if TYPE_CHECKING:
    from bench.data.images import Batches

REGION = "region"
"""The flip of what decides the class; no other may change the answer."""

AT_LEAST, AT_MOST = 0.95, 0.05
"""The share of images whose predicted class changes: where the region is flipped, and elsewhere."""

CHUNK = 64
"""Images that go through the network at a time."""


def certify(net: nn.Module, batches: Batches, *, device: str = "cpu") -> dict[str, Any] | None:
    """A certificate that the network decides by the planted region, and by nothing else.

    None where nothing is planted: then nobody knows what the network should look at. Else n (the
    chosen images, all of them, also those that it classifies wrongly), certified, and flips: for
    each, `changed` (the share of the n whose predicted class is another), its 95 % interval of
    Clopper and Pearson (Biometrika 26(4), 1934), `low` to `high`, and what it `must` be. The point
    decides, since few images would make a wide interval of a perfect answer. Raises
    HeatproofError for a set that flips no region.
    """
    names = tuple(batches.images.flips)
    if not names:
        return None
    if REGION not in names:
        raise HeatproofError(f"{batches.card.name} flips {', '.join(names)} and no {REGION}, so "
                             "nothing tells what decides the class; correct its source")
    before, n = _classes(net, batches, device), len(batches)
    flips: dict[str, dict[str, Any]] = {}
    for name in (REGION, *(name for name in names if name != REGION)):
        changed = int((_classes(net, batches, device, flipped=name) != before).sum())
        interval = binomtest(changed, n).proportion_ci(0.95, method="exact")
        flips[name] = {
            "changed": changed / n, "low": float(interval.low), "high": float(interval.high),
            "must": (f"at least {100 * AT_LEAST:.0f} %" if name == REGION
                     else f"at most {100 * AT_MOST:.0f} %")}
    certified = all(
        flip["changed"] >= AT_LEAST if name == REGION else flip["changed"] <= AT_MOST
        for name, flip in flips.items())
    return {"n": n, "certified": certified, "flips": flips}


def _classes(net: nn.Module, batches: Batches, device: str, flipped: str = "") -> Tensor:
    """The predicted classes (n,) of the chosen images."""
    with torch.no_grad():
        return torch.cat([net(batch.x.to(device)).argmax(1)
                          for batch in batches.in_order(CHUNK, flipped=flipped)])
