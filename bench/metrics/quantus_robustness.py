"""The Quantus track: robustness. All of it explains perturbed images again."""

from __future__ import annotations

from bench.metrics.quantus_keywords import FILL, NOISE
from bench.metrics.quantus_track import add

UNITS = "Noise is in the units of the images as the network sees them: the data set's standard " \
        "deviations."
DRAWS = "nr_samples is 10 instead of 200, for the cost; the maximum grows slowly with it."
STREAM = "Draws come from NumPy's global generator along the batch, so a score depends on its " \
         "place in the batch."
CHANGED = "A sample is NaN if any draw changes the predicted class (Quantus's default); " \
          "return_nan_when_prediction_changes = false counts them all."
RATIO = "The change is relative pixel by pixel: where the map is nearly 0 it explodes, so the " \
        "mean over samples is a few outliers' (read the median), and where it is 0 the change is " \
        "divided by eps_min."
POSITIVE = "The noise is uniform in 0.02 to 0.2, always positive; perturb_func_kwargs = " \
           "{lower_bound = -0.2} makes it symmetric."
FLIPPED = "a draw changed the predicted class"

SENSITIVITY = {
    "similarity_func": None, "norm_numerator": None, "norm_denominator": None, "nr_samples": 10,
    "lower_bound": 0.2, "upper_bound": None, **NOISE, "normalise": False,
    "return_nan_when_prediction_changes": False}
STABILITY = {"nr_samples": 10, **NOISE, "eps_min": 1e-6, "normalise": False,
             "return_nan_when_prediction_changes": True}

add("MaxSensitivity", title="Max sensitivity", family="robustness", better="lower",
    about="Largest relative change of the map over nr_samples images with uniform noise of "
          "±lower_bound.",
    formula="max over draws of ‖a(x) − a(x + ε)‖ / ‖a(x)‖", range="[0, ∞)",
    passes="nr_samples explanations", paper="Yeh et al. 2019, arXiv:1901.09392",
    departures=(DRAWS, UNITS, STREAM), holds=("scale",), needs=("explain",), distance=True,
    keywords=SENSITIVITY)

add("AvgSensitivity", title="Average sensitivity", family="robustness", better="lower",
    about="Mean relative change of the map over nr_samples images with uniform noise of "
          "±lower_bound.",
    formula="mean over draws of ‖a(x) − a(x + ε)‖ / ‖a(x)‖", range="[0, ∞)",
    passes="nr_samples explanations", paper="Yeh et al. 2019, arXiv:1901.09392",
    departures=("nr_samples is 10 instead of 200, for the cost.", UNITS, STREAM),
    holds=("scale",), needs=("explain",), distance=True, keywords=SENSITIVITY)

add("LocalLipschitzEstimate", title="Local Lipschitz estimate", family="robustness",
    better="lower",
    about="Largest change of the map, in units of its peak, for the change of the image over "
          "nr_samples images with normal noise.",
    formula="max over draws of ‖a(x) − a(x + ε)‖ / ‖ε‖", range="[0, ∞)",
    units="peaks per unit of the image", passes="nr_samples explanations",
    paper="Alvarez-Melis and Jaakkola 2018, arXiv:1806.08049",
    departures=(
        "Each map, noisy ones too, comes in units of its own peak: Quantus's normalise divides the "
        "maps by the largest of all samples and the noisy ones by the largest of their batch, so "
        "that small noise measures the quotient of the two. normalise = false gives maps as they "
        "are, and a score in their units.", DRAWS, UNITS, STREAM),
    holds=("scale",), needs=("explain",), distance=True,
    keywords={"similarity_func": None, "norm_numerator": None, "norm_denominator": None,
              "nr_samples": 10, "perturb_mean": 0.0, "perturb_std": 0.1, **NOISE,
              "return_nan_when_prediction_changes": False})

add("Continuity", title="Continuity", family="robustness", better="lower",
    about="Largest change of the absolute map for the change of the image, over nr_steps shifts "
          "of the image to the side.",
    formula="max over shifts s of ‖|a(x)| − |a(x shifted by s)|‖₁ / ‖x − x shifted by s‖₂",
    range="[0, ∞)", units="peaks per unit of the image",
    passes="nr_steps + 1 explanations and nr_steps forward",
    paper="Montavon et al. 2018, doi:10.1016/j.dsp.2017.10.011",
    departures=(
        "nr_steps is 8 instead of 28, for the cost; an even number of at most 2 · width + 1 is "
        "safe: a divisor of it raises, and beyond it every shift is the same.",
        "perturb_func and perturb_baseline change nothing: Quantus always shifts to the side and "
        "fills with 'black', the smallest value of each image.",
        "Maps do not shift with the image before they are compared, so a map that follows its "
        "object is told to be discontinuous, as in the paper.",
        "return_nan_when_prediction_changes = true asks NumPy for np.NaN, which it no longer has; "
        "it is lent np.nan by that name."),
    order=("pattern", "image"), holds=("batch", "scale"),
    undefined="a shift changed the predicted class", needs=("explain",),
    distance=True,
    keywords={"nr_steps": 8, **FILL, "abs": True, "return_nan_when_prediction_changes": False})

add("RelativeInputStability", title="Relative input stability", family="robustness",
    better="lower",
    about="Largest relative change of the map for the relative change of the image, over "
          "nr_samples noisy images.",
    formula="max over draws of ‖(a − a')/a‖ / ‖(x − x')/x‖", range="[0, ∞)",
    passes="nr_samples explanations and 2 nr_samples forward",
    paper="Agarwal et al. 2022, arXiv:2203.06877",
    departures=(RATIO, CHANGED, POSITIVE, DRAWS, UNITS, STREAM), undefined=FLIPPED,
    needs=("explain",), distance=True, keywords=STABILITY)

add("RelativeOutputStability", title="Relative output stability", family="robustness",
    better="lower",
    about="Largest relative change of the map for the change of the logits, over nr_samples noisy "
          "images.",
    formula="max over draws of ‖(a − a')/a‖ / ‖f(x) − f(x')‖", range="[0, ∞)",
    units="per logit", passes="nr_samples explanations and 3 nr_samples + 1 forward",
    paper="Agarwal et al. 2022, arXiv:2203.06877",
    departures=("It judges the network too: one whose logits move more scores better.",
                RATIO, CHANGED, POSITIVE, DRAWS, UNITS, STREAM),
    undefined=FLIPPED, needs=("explain",), distance=True, ours={"softmax": False},
    keywords=STABILITY)

add("RelativeRepresentationStability", title="Relative representation stability",
    family="robustness", better="lower",
    about="Largest relative change of the map for the relative change of the network's hidden "
          "values, over nr_samples noisy images.",
    formula="max over draws of ‖(a − a')/a‖ / ‖(h − h')/h‖, h: the outputs of all layers",
    range="[0, ∞)",
    passes="nr_samples explanations and 3 nr_samples + 1 forward, all samples in one pass, all "
           "hidden values in memory",
    paper="Agarwal et al. 2022, arXiv:2203.06877",
    departures=(
        "Quantus keeps views of the layers' outputs: on a CPU an in-place ReLU changes them "
        "afterwards, so CPU and GPU disagree.",
        "A hidden value of 0 is replaced by eps_min as divisor, so units that a ReLU switches on "
        "decide the score.",
        "layer_names begin with \"network.\"; layer_indices count Quantus's list of layers, whose "
        "first is the network itself.",
        RATIO, CHANGED, POSITIVE, DRAWS, UNITS, STREAM),
    undefined=FLIPPED, needs=("explain",), distance=True, lend="whole",
    keywords={**STABILITY, "layer_names": None, "layer_indices": None})

add("Consistency", title="Consistency", family="robustness", better="higher",
    about="Share of the samples with the same discretised map that are put into the same class.",
    formula="P(class of x' = class of x | the discretised maps are equal)", range="[0, 1]",
    passes="1 forward", paper="Dasgupta et al. 2022, arXiv:2202.00734",
    departures=("Quantus declares that lower is better; the paper's higher is.",),
    defect="a sample's score depends on which others are in its batch; by default maps are equal "
           "if the signs of their first five pixels are, absolute ones, so that the score is the "
           "share of the batch in one's class, and any finer discretisation finds no equal maps",
    ours={"softmax": True}, keywords={"discretise_func": None, "abs": True})
