"""The Quantus track: faithfulness."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from bench.measure import Explained
from bench.metrics.maps import Array
from bench.metrics.quantus_keywords import FILL, NOISE
from bench.metrics.quantus_reduce import CURVE, percentages, pooled
from bench.metrics.quantus_track import add, features, features_in_step

BLACK = "'black' is the smallest value of each image over all channels, not black: on " \
        "standardised images an arbitrary colour."
STEPPED = "features_in_step follows from `steps` where it is not set, since Quantus's default of " \
          "one value a step costs a pass for each value of the image; all channels of a pixel go " \
          "together, as in the paper and in Quantus up to 0.5."
TIES = "Tied values are pulled apart in an order drawn from the sample's seed, since Quantus " \
       "sorts unstably and the CPU's instruction set would break them."


def _subset_size(explained: Explained, params: Mapping[str, Any]) -> int:
    return features(params["share"], explained.batch.x[0].numel())


def _every_channel(explained: Explained, params: Mapping[str, Any]) -> Any:  # noqa: ARG001
    """IROF's own filling, with the mask spread over the channels, or None for one channel."""
    if explained.batch.x.shape[1] == 1:
        return None
    fill = _function("baseline_replacement_by_mask")
    return lambda arr, mask, **kwargs: fill(arr, np.broadcast_to(mask, arr.shape), **kwargs)


def _whole_pixels(explained: Explained, params: Mapping[str, Any]) -> Any:  # noqa: ARG001
    """ROAD's own imputation, told pixels instead of values, or None for one channel."""
    _, channels, height, width = explained.batch.x.shape
    if channels == 1:
        return None
    impute = _function("noisy_linear_imputation")

    def whole(arr: Array, indices: Array, **kwargs: Any) -> Array:
        # All channels of a pixel follow one another, the first channel first.
        whole = len(indices) // channels * channels
        return np.asarray(impute(arr, indices[:whole:channels] % (height * width), **kwargs))

    return whole


def _function(name: str) -> Callable[..., Any]:
    # Not at the top: the import takes seconds.
    found: Callable[..., Any] = getattr(
        importlib.import_module("quantus.functions.perturb_func"), name)
    return found


add("PixelFlipping", title="Pixel flipping", family="faithfulness", better="lower",
    about="Mean probability of the explained class while pixels, most relevant first, are set to "
          "the baseline, in about `steps` equal steps: the number of steps that divides the image "
          "and lies nearest.",
    formula="1/K Σₖ p(y | x without its k/K most relevant pixels), k = 1 … K",
    range="[0, 1]", units="probability", passes="about steps forward",
    paper="Bach et al. 2015, doi:10.1371/journal.pone.0130140",
    departures=("The curve lacks step 0, the untouched image.", BLACK, STEPPED, TIES),
    holds=("batch", "scale"), maps="ranks", layout="pixels", reduce=CURVE,
    derived={"features_in_step": features_in_step}, ours={"steps": 32, "softmax": True},
    keywords={"features_in_step": None, **FILL, "return_auc_per_sample": False})

add("FaithfulnessCorrelation", title="Faithfulness correlation", family="faithfulness",
    better="higher",
    about="Pearson correlation, over nr_runs random subsets of a share of all values (channel and "
          "pixel), of the subset's evidence and the logit's fall when it is set to the baseline.",
    formula="corr over S of Σ_{i∈S} aᵢ and f(x) − f(x with S at the baseline)",
    range="[−1, 1]", passes="nr_runs + 1 forward", paper="Bhatt et al. 2020, arXiv:2005.00631",
    departures=(
        "subset_size follows from `share` (5 %) where it is not set: Quantus's 224 values are 7 % "
        "of a small grey image and 0.15 % of a large coloured one.",
        "Subsets are drawn from NumPy's global generator, sample by sample in the batch, so a "
        "score depends on its place in the batch.", BLACK),
    holds=("scale",), undefined="the correlation is undefined: no removal changed the logit",
    derived={"subset_size": _subset_size}, ours={"share": 0.05, "softmax": False},
    keywords={"similarity_func": None, "nr_runs": 100, "subset_size": None, **FILL})

add("FaithfulnessEstimate", title="Faithfulness estimate", family="faithfulness", better="higher",
    about="Pearson correlation, over about `steps` groups of pixels of like evidence, of the "
          "group's evidence and the logit's fall when that group alone is set to the baseline.",
    formula="corr over groups G of Σ_{i∈G} aᵢ and f(x) − f(x with G at the baseline)",
    range="[−1, 1]", passes="about steps + 1 forward",
    paper="Alvarez-Melis and Jaakkola 2018, arXiv:1806.07538",
    departures=(STEPPED, BLACK, TIES), holds=("batch", "scale"),
    undefined="the correlation is undefined: no removal changed the logit",
    maps="distinct", layout="pixels", derived={"features_in_step": features_in_step},
    ours={"steps": 32, "softmax": False},
    keywords={"similarity_func": None, "features_in_step": None, **FILL})

add("RegionPerturbation", title="Region perturbation", family="faithfulness", better="higher",
    about="Mean fall of the explained class's probability while square patches, most relevant "
          "first, are set to the baseline.",
    formula="1/K Σₖ [p(y | x) − p(y | x without its k most relevant patches)]",
    range="[−1, 1]", units="probability", passes="patches + 1 forward, at most 101",
    paper="Samek et al. 2017, doi:10.1109/TNNLS.2016.2599820",
    departures=(
        "Quantus declares that lower is better; it returns a fall, so under the most relevant "
        "first higher is. With order = \"lerf\" the direction turns.",
        "order = \"random\" draws from NumPy's global generator.", BLACK, TIES),
    holds=("batch", "scale"), maps="distinct", reduce=CURVE, ours={"softmax": True},
    keywords={"patch_size": 8, "order": "morf", "regions_evaluation": 100, **FILL})

add("Selectivity", title="Selectivity", family="faithfulness", better="lower",
    about="Mean probability of the explained class while square patches, most relevant first, are "
          "set to the baseline.",
    formula="1/K Σₖ p(y | x without its k most relevant patches)",
    range="[0, 1]", units="probability", passes="patches forward",
    paper="Montavon et al. 2018, doi:10.1016/j.dsp.2017.10.011",
    departures=("It is the untouched probability minus RegionPerturbation over all patches.",
                BLACK, TIES),
    holds=("batch", "scale"), maps="distinct", reduce=CURVE, ours={"softmax": True},
    keywords={"patch_size": 8, **FILL})

add("MonotonicityCorrelation", title="Monotonicity correlation", family="faithfulness",
    better="higher",
    about="Spearman correlation, over about `steps` groups of pixels of like evidence, of the "
          "group's absolute evidence and how much the probability varies when the whole group is "
          "set to one random value, nr_samples times.",
    formula="rank corr over groups G of Σ_{i∈G} |aᵢ| and mean over draws of "
            "(p(x_G) − p(x))² / p(x)²",
    range="[−1, 1]", passes="about nr_samples · steps + 1 forward",
    paper="Nguyen and Martínez 2020, arXiv:2007.07584",
    departures=(
        "eps is 0 instead of 1e-5, since any probability below eps raises ValueError for the whole "
        "batch; ranks within a sample do not notice.",
        "nr_samples is 10 instead of 100, for the cost.",
        "The random values are uniform in [0, 1], whatever the range of the images, one a group, "
        "drawn from NumPy's global generator along the batch.", STEPPED, TIES),
    holds=("scale",), undefined="the correlation is undefined: no removal changed the probability",
    maps="distinct", layout="pixels", derived={"features_in_step": features_in_step},
    ours={"steps": 32, "softmax": True},
    keywords={"similarity_func": None, "eps": 0.0, "nr_samples": 10, "features_in_step": None,
              **FILL, "perturb_baseline": "uniform", "abs": True})

add("Infidelity", title="Infidelity", family="faithfulness", better="lower",
    about="Mean square error of the map as a linear account of the logit's fall while square "
          "patches are set to the baseline, one after the other and never put back.",
    formula="mean over k of (f(x) − f(x_k) − Σᵢ aᵢ (x − x_k)ᵢ)², x_k: the first k patches filled",
    range="[0, ∞)", units="logits squared", passes="patches + 1 forward",
    paper="Yeh et al. 2019, arXiv:1901.09392",
    departures=(
        "It depends on the scale of the map: a map in units of anything but logits per unit of the "
        "input (a gradient) is judged by its size alone. Read it for gradients.",
        "n_perturb_samples is 1 instead of 10: the repetitions are identical.",
        "The patches are a fixed grid, filled cumulatively, where the paper draws random "
        "perturbations; the side of a patch must divide the image's sides, else Quantus raises.",
        BLACK),
    order=("oracle", "noise"), holds=("batch",), ours={"softmax": False},
    keywords={"loss_func": "mse", "perturb_patch_sizes": None, "n_perturb_samples": 1, **FILL,
              "normalise": False})

add("IROF", title="Iterative removal of features", family="faithfulness", better="higher",
    about="Area over the curve of the explained class's probability, relative to the untouched "
          "image's, while superpixels, most relevant first, are set to the mean.",
    formula="K − ∫ p(y | x without its k most relevant superpixels) / p(y | x) dk",
    range="unbounded; 0 to K where the probability never rises", units="superpixels",
    passes="superpixels + 1 forward", paper="Rieger and Hansen 2020, arXiv:2003.08747",
    departures=(
        "Quantus is called with batch_size = 1: in a larger batch the fill is the mean of the "
        "whole batch, and images with fewer superpixels than the most lose half a step.",
        "On more than one channel Quantus's own filling raises AssertionError; it is handed the "
        "same filling as perturb_func, with the mask spread over the channels.",
        "The fill is taken anew from the already perturbed image at each step.",
        "It grows with the number of superpixels and is not bounded where the probability rises.",
        "numpy 2.4 has no np.trapz, which Quantus calls; it is lent np.trapezoid by that name.",
        TIES),
    holds=("batch", "scale"), maps="distinct", apart="batches", ours={"softmax": True},
    derived={"perturb_func": _every_channel},
    keywords={"segmentation_method": "slic", **FILL, "perturb_baseline": "mean"})

add("ROAD", title="Remove and debias", family="faithfulness", better="lower",
    about="Share of the percentages of most relevant pixels at which the image, with these pixels "
          "imputed from their neighbours, is still put into the explained class.",
    formula="mean over p of [argmax f(x with its p % most relevant pixels imputed) = y]",
    range="[0, 1]", passes="9 forward and 9 sparse solves",
    paper="Rong et al. 2022, arXiv:2202.00449",
    departures=(
        "Quantus is called once a sample, seeded from it: it keeps no sample's result, and of "
        "several batches only the first.",
        "On more than one channel Quantus raises IndexError; it is handed its own imputation as "
        "perturb_func, told pixels instead of (channel, pixel) values.",
        "percentages are 10, 20 … 90 instead of 1, 3 … 99, for the cost.",
        "It counts the class that is explained; for a wrongly classified image under the label as "
        "target it is 0 from the start."),
    order=("oracle", "inverse", "noise"), holds=("batch", "scale"), maps="ranks", layout="features",
    apart="calls", reduce={"mean": percentages}, ours={"softmax": True},
    derived={"perturb_func": _whole_pixels},
    keywords={"percentages": [10, 20, 30, 40, 50, 60, 70, 80, 90], "noise": 0.01, **NOISE})

add("Monotonicity", title="Monotonicity (Arya)", family="faithfulness", better="higher",
    about="1 if the probability never falls while pixels, least relevant first, come back.",
    formula="[p(x_k) ≤ p(x_{k+1}) for all k]", range="[0, 1], one or the other",
    passes="about steps forward", paper="Arya et al. 2019, arXiv:1909.03012",
    departures=(STEPPED, BLACK),
    defect="it is vacuous: the image is filled with the baseline and then the baseline is replaced "
           "by the baseline, so every input of the network is the same and nearly every map "
           "scores 1",
    maps="distinct", layout="pixels", derived={"features_in_step": features_in_step},
    ours={"steps": 32, "softmax": True},
    keywords={"features_in_step": None, **FILL, "abs": True})

add("SensitivityN", title="Sensitivity-n", family="faithfulness", better="higher",
    about="Correlation, at each step of a cumulative removal, of the evidence that the step takes "
          "and the fall so far; the mean over the steps.",
    formula="mean over k of the corr over samples of Σ_{i∈Gₖ} aᵢ and p(x) − p(x_k)",
    range="[−1, 1]", passes="about steps + 1 forward", paper="Ancona et al. 2018, arXiv:1711.06104",
    departures=(STEPPED, BLACK, TIES),
    defect="it correlates across the samples of the first batch, not across subsets of a sample's "
           "pixels: no sample has a value of its own, the rest of the data is dropped, and a batch "
           "of one raises",
    maps="distinct", layout="pixels", reduce={"batch": pooled},
    derived={"features_in_step": features_in_step}, ours={"steps": 32, "softmax": True},
    keywords={"similarity_func": None, "n_max_percentage": 0.8, "features_in_step": None, **FILL})

add("Sufficiency", title="Sufficiency", family="faithfulness", better="higher",
    about="Share of the samples with a like map that are put into the same class.",
    formula="P(class of x' = class of x | distance of the maps ≤ threshold)",
    range="[0, 1]", passes="1 forward", paper="Dasgupta et al. 2022, arXiv:2202.00734",
    departures=("distance_func must be one that SciPy's cdist takes with V: \"seuclidean\".",),
    defect="a sample's score depends on which others are in its batch, and on image-sized maps "
           "hardly two are ever within the threshold, so nearly all score 0",
    ours={"softmax": True},
    keywords={"threshold": 0.6, "distance_func": "seuclidean", "abs": True})
