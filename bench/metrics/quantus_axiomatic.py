"""The Quantus track: axiomatic."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bench.measure import Explained
from bench.metrics.maps import Array
from bench.metrics.quantus_keywords import FILL, NOISE
from bench.metrics.quantus_track import add


def _shift(explained: Explained, params: Mapping[str, Any]) -> Any:  # noqa: ARG001
    """What adds the shift to every pixel of an image."""
    def shift(arr: Array, input_shift: float, **_: Any) -> Array:
        return np.asarray(arr + input_shift)
    return shift


add("NonSensitivity", title="Non-sensitivity", family="axiomatic", better="lower",
    about="Number of values (channel and pixel) that have evidence though the network ignores "
          "them, or none though it does not.",
    formula="|{i : [|aᵢ| < eps] ≠ [|p(x) − p(x with xᵢ at the baseline)| < eps]}|",
    range="[0, number of values]", units="values", passes="values + 1 forward",
    paper="Nguyen and Martínez 2020, arXiv:2007.07584",
    departures=(
        "features_in_step must be 1: Quantus compares steps with values and raises for any other, "
        "so it costs a pass for each value of the image. For small images alone.",
        "eps serves both the map, in units of its peak, and the probability.",
        "A value that is the image's smallest already is never missed: 'black' is that value.",
        "A map brought up to the image's grid is nowhere below eps; what is left is the number of "
        "values that the network ignores."),
    order=("oracle", "noise"), holds=("batch", "scale"), ours={"softmax": True},
    keywords={"eps": 1e-5, "features_in_step": 1, **FILL, "abs": True})

add("Completeness", title="Completeness", family="axiomatic", better="higher",
    about="1 if the evidence adds up to the logit's fall from the image to the baseline.",
    formula="[Σᵢ aᵢ = f(x) − f(baseline)]", range="[0, 1], one or the other", passes="2 forward",
    paper="Sundararajan et al. 2017, arXiv:1703.01365",
    departures=(
        "By default the map is normalised, so that its sum means nothing.",
        "On several channels only the first is set to the baseline, since the maps have one."),
    defect="it asks two floating-point sums to be equal to the last bit, so an exact explanation "
           "scores 0 like any other",
    ours={"softmax": False}, keywords={"output_func": None, **FILL})

add("InputInvariance", title="Input invariance", family="axiomatic", better="higher",
    about="1 if the map stays the same when the image is shifted by a constant and the first "
          "layer's bias takes the shift back.",
    formula="[|a of f(· − s) at x + s − a of f at x| ≤ 1e-4 at every pixel]",
    range="[0, 1], one or the other", passes="1 explanation of a changed network",
    paper="Kindermans et al. 2017, arXiv:1711.00867",
    departures=(
        "Quantus changes the bias of the network's first module, which must be a convolution with "
        "a bias and no padding; it is lent the network behind a layer that does nothing, and the "
        "bias that it gives this layer is added to what the network's first layer is given.",
        "Quantus shifts all pixels but the first; it is handed a perturb_func that shifts all.",
        "normalise is true instead of false: the tolerance is 1e-4 of the map's peak, not of its "
        "units.",
        "The shift is rounded: a unit that is switched on or off by less than 1e-7 may cost a "
        "gradient its 1."),
    order=("pattern", "oracle"), holds=("batch", "scale"), needs=("explain",), lend="fronted",
    distance=True, derived={"perturb_func": _shift},
    keywords={"input_shift": -1, **NOISE})
