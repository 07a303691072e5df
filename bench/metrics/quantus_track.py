"""The table of the Quantus track: one row a metric, its direction ours, its numbers Quantus's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from bench.core import HeatproofError
from bench.measure import Explained
from bench.metrics.evidence import INTERPOLATION
from bench.metrics.quantus_run import (
    QUANTUS,
    Arguments,
    QuantusMetric,
    Reducer,
    mean_of_curve,
    mean_over_layers,
    one_value,
)
from bench.plugins import metric

VERSION = f"2, {INTERPOLATION}, quantus {QUANTUS}"
_BASELINES = ("black", "white", "mean", "uniform")


def whole_steps(pixels: int, steps: int) -> int:
    """How many pixels a step holds, so that all steps are equal and their number is near `steps`.

    Quantus wants steps of one size. Raises HeatproofError where no number of equal steps lies
    within a factor of two of the wanted one.
    """
    if not isinstance(steps, int) or steps < 1:
        raise HeatproofError(f"steps must be a whole number above 0, not {steps!r}")
    sizes = [k for k in range(1, pixels + 1) if pixels % k == 0]
    best = min(sizes, key=lambda k: (max(pixels / k / steps, steps * k / pixels), k))
    if not steps / 2 <= pixels / best <= steps * 2:
        raise HeatproofError(
            f"{pixels} pixels cannot be flipped in about {steps} equal steps; set steps to one of "
            f"{', '.join(str(pixels // k) for k in sizes[::-1][:12])}, or resize the images")
    return best


def _pixel_flipping(explained: Explained, params: Mapping[str, Any]) -> dict[str, Any]:
    _, channels, height, width = explained.batch.x.shape
    return {"features_in_step": whole_steps(height * width, params["steps"]) * channels,
            "perturb_baseline": _baseline(params)}


def _faithfulness_correlation(explained: Explained, params: Mapping[str, Any]) -> dict[str, Any]:
    share, features = params["share"], explained.batch.x[0].numel()
    if not 0 < share < 1:
        raise HeatproofError(f"share must lie between 0 and 1, not {share!r}")
    return {"nr_runs": params["runs"], "subset_size": max(1, round(share * features)),
            "perturb_baseline": _baseline(params),
            # Quantus averages over the batch here by default.
            "return_aggregate": False}


def _random_logit(explained: Explained, params: Mapping[str, Any]) -> dict[str, Any]:
    return {"num_classes": explained.classes, "seed": params["seed"]}


def _mprt(explained: Explained, params: Mapping[str, Any]) -> dict[str, Any]:  # noqa: ARG001
    return {"layer_order": params["layer_order"], "skip_layers": params["skip_layers"],
            "seed": params["seed"]}


def _max_sensitivity(explained: Explained, params: Mapping[str, Any]) -> dict[str, Any]:  # noqa: ARG001
    return {"nr_samples": params["draws"], "lower_bound": params["radius"]}


def _attribution_localisation(
    explained: Explained, params: Mapping[str, Any],  # noqa: ARG001
) -> dict[str, Any]:
    # The maps are clipped at zero already; only the bound would warn, on a ratio that it gets from
    # a slice of the batch.
    return {"max_size": float("inf")}


def _defaults(explained: Explained, params: Mapping[str, Any]) -> dict[str, Any]:  # noqa: ARG001
    return {}


def _baseline(params: Mapping[str, Any]) -> str:
    baseline = params["baseline"]
    if baseline not in _BASELINES:
        raise HeatproofError(f"baseline must be one of {', '.join(_BASELINES)}, not {baseline!r}")
    return str(baseline)


def _add(
    quantus: str, *, title: str, family: str, better: Literal["higher", "lower"], maps: Any,
    paper: str, about: str, arguments: Arguments = _defaults, reduce: Reducer = one_value,
    needs: tuple[str, ...] = (), params: Mapping[str, Any] | None = None,
    layout: Literal["image", "pixels"] = "image", undefined: str = "Quantus gave no number",
) -> None:
    metric(f"quantus/{quantus}", title=title, family=family, better=better, needs=needs,
           params=params, version=VERSION, paper=paper, about=about, track="quantus")(
        QuantusMetric(quantus, maps, arguments, reduce, undefined, needs, layout))


_add(
    "PixelFlipping", title="Pixel flipping", family="faithfulness", better="lower",
    maps="ranks", layout="pixels", arguments=_pixel_flipping, reduce=mean_of_curve,
    params={"steps": 32, "baseline": "black"},
    paper="Bach et al. 2015, doi:10.1371/journal.pone.0130140",
    about="Mean probability of the explained class while pixels, most relevant first and all "
          "channels at once, are set to the baseline, in about steps equal steps: the number of "
          "steps that divides the image and lies nearest. The curve lacks the untouched image. "
          "'black' is the smallest value of the image.")
_add(
    "FaithfulnessCorrelation", title="Faithfulness correlation", family="faithfulness",
    better="higher", maps="signed", arguments=_faithfulness_correlation,
    params={"runs": 100, "share": 0.05, "baseline": "black"},
    undefined="the correlation is undefined: no removal changed the logit",
    paper="Bhatt et al. 2020, arXiv:2005.00631",
    about="Pearson correlation, over runs random subsets of a share of all values (channel and "
          "pixel), of the subset's evidence and the logit's fall when it is set to the baseline.")
_add(
    "PointingGame", title="Pointing game", family="localisation", better="higher",
    maps="ranks", needs=("mask",),
    paper="Zhang et al. 2018, arXiv:1608.00507",
    about="1 if the pixel with the most evidence lies on the object, else 0.")
_add(
    "RelevanceRankAccuracy", title="Relevance rank accuracy", family="localisation",
    better="higher", maps="ranks", needs=("mask",),
    paper="Arras et al. 2022, arXiv:2003.07258",
    about="Share of the object's k pixels among the k pixels with the most evidence.")
_add(
    "AttributionLocalisation", title="Mass inside the mask", family="localisation",
    better="higher", maps="positive", needs=("mask",), arguments=_attribution_localisation,
    paper="Kohlbrenner et al. 2020, arXiv:1910.09840",
    about="Share of the positive evidence that lies on the object; negative evidence is cut off "
          "(Quantus by itself would count it as positive).")
_add(
    "MPRT", title="Model parameter randomisation", family="randomisation", better="lower",
    maps="absolute", needs=("explain", "randomise"), arguments=_mprt, reduce=mean_over_layers,
    params={"layer_order": "top_down", "skip_layers": False, "seed": 42},
    undefined="no layer could be randomised (none has reset_parameters)",
    paper="Adebayo et al. 2018, arXiv:1810.03292",
    about="Spearman correlation of the absolute map with itself while the layers' weights are "
          "drawn anew, one after the other; the mean over layers, or with skip_layers the last. "
          "Only modules with reset_parameters are drawn anew.")
_add(
    "RandomLogit", title="Random logit", family="randomisation", better="lower",
    maps="signed", needs=("explain",), arguments=_random_logit, params={"seed": 42},
    paper="Sixt et al. 2020, arXiv:1912.09818",
    about="Structural similarity (in one dimension, as Quantus flattens) of the map to the map of "
          "a random other class.")
_add(
    "Sparseness", title="Sparseness", family="complexity", better="higher", maps="absolute",
    paper="Chalasani et al. 2020, arXiv:1810.06583",
    about="Gini index of the absolute map.")
_add(
    "Complexity", title="Complexity", family="complexity", better="lower", maps="absolute",
    paper="Bhatt et al. 2020, arXiv:2005.00631",
    about="Entropy of the absolute map's shares; grows with the number of pixels.")
_add(
    "MaxSensitivity", title="Max sensitivity", family="robustness", better="lower",
    maps="raw", needs=("explain",), arguments=_max_sensitivity,
    params={"draws": 10, "radius": 0.2},
    paper="Yeh et al. 2019, arXiv:1901.09392",
    about="Largest relative change of the map over draws images with uniform noise of ±radius, "
          "in the card's standard deviations.")
