"""The Quantus track: localisation. All of it needs a mask; nothing runs the network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.measure import Explained
from bench.metrics.quantus_track import add, features

FREE = "none"
IGNORED = "Pixels whose truth is unknown are given as background without evidence."
TIES = "Evidence comes as ranks, ties broken by the sample's seed: Quantus sorts unstably."
HOLDS = ("batch", "scale")


def _k(explained: Explained, params: Mapping[str, Any]) -> int:
    return features(params["share"], explained.batch.x[0, 0].numel())


def _no_bound(explained: Explained, params: Mapping[str, Any]) -> float:  # noqa: ARG001
    return float("inf")


add("PointingGame", title="Pointing game", family="localisation", better="higher",
    about="1 if the pixel with the most evidence lies on the object, else 0.",
    formula="[argmaxᵢ aᵢ ∈ M]", range="[0, 1], one or the other", passes=FREE,
    paper="Zhang et al. 2018, arXiv:1608.00507",
    departures=(
        "Evidence comes as ranks, ties broken by the sample's seed: Quantus counts a hit if any of "
        "several largest values lies inside, so a constant map always hits.",
        "An empty mask would be a hit in Quantus; here it is NaN.",
        "weighted = true raises in Quantus.", IGNORED),
    holds=HOLDS, needs=("mask",), maps="ranks", keywords={"weighted": False})

add("TopKIntersection", title="Top-k intersection", family="localisation", better="higher",
    about="Share of the k pixels with the most evidence that lies on the object.",
    formula="|top-k(a) ∩ M| / k", range="[0, 1]", passes=FREE,
    paper="Theiner et al. 2021, arXiv:2104.14995",
    departures=(
        "k follows from `share` (2 % of the pixels) where it is not set: Quantus's 1000, which "
        "must be fewer than the pixels, is 2 % of 224 × 224.",
        "concept_influence = true multiplies by pixels / |M|, so the range is no longer 0 to 1.",
        TIES, IGNORED),
    holds=HOLDS, needs=("mask",), maps="ranks", derived={"k": _k}, ours={"share": 0.02},
    keywords={"k": None, "concept_influence": False})

add("RelevanceMassAccuracy", title="Relevance mass accuracy", family="localisation",
    better="higher", about="Share of the signed evidence that lies on the object.",
    formula="Σ_{i∈M} aᵢ / Σᵢ aᵢ", range="unbounded; 0 to 1 where no evidence is negative",
    passes=FREE, paper="Arras et al. 2022, arXiv:2003.07258",
    departures=(
        "Quantus keeps the sign: on a signed map the sum may be near 0 or negative, and the score "
        "without bounds. Read AttributionLocalisation for those.", IGNORED),
    holds=HOLDS, undefined="the evidence adds up to nothing", needs=("mask",))

add("RelevanceRankAccuracy", title="Relevance rank accuracy", family="localisation",
    better="higher", about="Share of the object's k pixels among the k pixels with most evidence.",
    formula="|top-|M|(a) ∩ M| / |M|", range="[0, 1]", passes=FREE,
    paper="Arras et al. 2022, arXiv:2003.07258", departures=(TIES, IGNORED), holds=HOLDS,
    needs=("mask",), maps="ranks")

add("AttributionLocalisation", title="Mass inside the mask", family="localisation",
    better="higher", about="Share of the positive evidence that lies on the object.",
    formula="Σ_{i∈M} aᵢ⁺ / Σᵢ aᵢ⁺", range="[0, 1]", passes=FREE,
    paper="Kohlbrenner et al. 2020, arXiv:1910.09840",
    departures=(
        "abs is false and positive_attributions true, the other way round than in Quantus, which "
        "counts evidence against the class as evidence for it.",
        "weighted = true divides by the size of a slice of the batch, so by the batch's size; "
        "max_size is a bound on the same quotient and is lifted, it only warns.", IGNORED),
    holds=HOLDS, needs=("mask",), derived={"max_size": _no_bound},
    keywords={"weighted": False, "max_size": None, "positive_attributions": True})

add("AUC", title="Area under the ROC curve", family="localisation", better="higher",
    about="Probability that a pixel of the object has more evidence than one of the background.",
    formula="P(aᵢ > aⱼ) + ½ P(aᵢ = aⱼ), i ∈ M, j ∉ M", range="[0, 1]", passes=FREE,
    paper="Fawcett 2006, doi:10.1016/j.patrec.2005.10.010", departures=(IGNORED,), holds=HOLDS,
    undefined="the object fills the image", needs=("mask",))

add("Focus", title="Focus", family="localisation", better="higher",
    about="Share of the positive evidence in the quadrants of the image that hold the object.",
    formula="Σ_{i∈Q} aᵢ⁺ / Σᵢ aᵢ⁺, Q: the quadrants with a pixel of the object",
    range="[0, 1]", passes=FREE, paper="Arias-Duart et al. 2021, arXiv:2109.15035",
    departures=(
        "The paper scores mosaics of four images; here the image is the mosaic, and the mask says "
        "which of its quadrants are the target's. An object in all four leaves nothing to score.",
        IGNORED),
    holds=HOLDS, needs=("mask",), clips=True, quadrants=True, keywords={"mosaic_shape": None})
