"""The Quantus track: randomisation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.measure import Explained
from bench.metrics.quantus_reduce import LAYERS
from bench.metrics.quantus_track import add

LAYER = "Only modules with reset_parameters are drawn anew; a plain parameter (a prototype, an " \
        "evidence layer) keeps its trained value."
SEED = "Every layer is drawn from the same seed, so layers of one shape become identical."
NORMS = "Each normalisation layer is a step of its own."


def _classes(explained: Explained, params: Mapping[str, Any]) -> int:  # noqa: ARG001
    return explained.classes


add("MPRT", title="Model parameter randomisation", family="randomisation", better="lower",
    about="Spearman correlation of the absolute map with itself while the layers' weights are "
          "drawn anew, one after the other; the mean over the layers, or the last.",
    formula="1/L Σₗ rank corr(|a|, |a of the network randomised up to layer l|)",
    range="[−1, 1]", passes="layers + 1 explanations",
    paper="Adebayo et al. 2018, arXiv:1810.03292",
    departures=(
        "The mean leaves out 'original', the map against itself, which Quantus's own "
        "return_average_correlation counts as a layer.", LAYER, SEED, NORMS,
        "A step whose map is constant is left out of that sample's mean; in Quantus it is NaN, and "
        "a constant map to begin with stops the run."),
    holds=("batch", "scale"), undefined="no layer could be randomised (none has reset_parameters)",
    needs=("explain", "randomise"), reduce=LAYERS,
    keywords={"similarity_func": None, "layer_order": "top_down", "seed": 42,
              "return_sample_correlation": None, "return_average_correlation": False,
              "return_last_correlation": False, "skip_layers": False, "abs": True})

add("EfficientMPRT", title="Efficient model parameter randomisation", family="randomisation",
    better="higher",
    about="How much the entropy of the map's histogram rises, relatively, when all layers' weights "
          "are drawn anew.",
    formula="(H(a of the randomised network) − H(a)) / H(a), H of a histogram of 100 bins",
    range="[−1, ∞)", passes="2 explanations and 2 forward",
    paper="Hedström et al. 2024, arXiv:2401.06465",
    departures=(
        "The histogram spans each map's own range, so it sees the shape of the map's values, not "
        "their place; a map that is another picture with the same values scores 0.", LAYER, SEED,
        "complexity_func_kwargs = {rule = …} chooses the bins from the whole batch."),
    order=("oracle", "image"), holds=("batch",),
    undefined="no layer could be randomised (none has reset_parameters)",
    needs=("explain", "randomise"), distance=True,
    keywords={"complexity_func": None, "complexity_func_kwargs": None, "similarity_func": None,
              "layer_order": "bottom_up", "seed": 42, "compute_extra_scores": False,
              "skip_layers": True, "normalise": False})

add("RandomLogit", title="Random logit", family="randomisation", better="lower",
    about="Structural similarity of the map to the map of a random other class.",
    formula="SSIM(a of y, a of another class), in one dimension, window 7", range="[−1, 1]",
    passes="1 explanation", paper="Sixt et al. 2020, arXiv:1912.09818",
    departures=(
        "num_classes is the data set's; Quantus's 1000 asks a smaller network for classes that it "
        "has not.",
        "The structural similarity is taken of the flattened map, so a neighbour is one in the "
        "same row.",
        "The other classes are drawn along the batch from one seed, so they depend on a sample's "
        "place in it."),
    holds=("scale",), needs=("explain",), derived={"num_classes": _classes},
    keywords={"similarity_func": None, "num_classes": None, "seed": 42})

add("SmoothMPRT", title="Smooth model parameter randomisation", family="randomisation",
    better="lower",
    about="As MPRT, of maps that are averaged over noisy copies of the image.",
    formula="1/L Σₗ rank corr(|ā|, |ā of the network randomised up to layer l|)",
    range="[−1, 1]", passes="nr_samples · (layers + 1) explanations",
    paper="Hedström et al. 2024, arXiv:2401.06465",
    departures=("nr_samples is 10 instead of 50, for the cost.", LAYER, SEED, NORMS),
    defect="it ignores the explainer: whatever the method, the randomised network is explained by "
           "quantus.explain, a plain gradient by default, and compared with the method's own map",
    needs=("explain", "randomise"), reduce=LAYERS,
    keywords={"similarity_func": None, "layer_order": "bottom_up", "seed": 42, "nr_samples": 10,
              "noise_magnitude": 0.1, "return_average_correlation": False,
              "return_last_correlation": False, "skip_layers": False, "abs": True})
