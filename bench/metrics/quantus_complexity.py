"""The Quantus track: complexity. Nothing runs the network."""

from __future__ import annotations

from bench.metrics.quantus_track import add

FREE = "none"
WHOLE = "Each map comes in units of its own peak: Quantus's normalise divides by the largest " \
        "value of the whole array, so that one loud map changes the others' scores."
HOLDS = ("batch", "scale")

add("Sparseness", title="Sparseness", family="complexity", better="higher",
    about="Gini index of the absolute map.",
    formula="Σᵢ (2i − D − 1) |a|₍ᵢ₎ / (D Σᵢ |a|ᵢ), |a|₍₁₎ ≤ … ≤ |a|₍D₎", range="[0, 1]",
    passes=FREE, paper="Chalasani et al. 2020, arXiv:1810.06583",
    departures=("1e-7 of the peak is added to every value.",), holds=HOLDS,
    keywords={"abs": True})

add("Complexity", title="Complexity", family="complexity", better="lower",
    about="Entropy of the absolute map's shares; grows with the number of pixels.",
    formula="−Σᵢ pᵢ ln(pᵢ + 1e-12), pᵢ = |aᵢ| / Σⱼ |aⱼ|", range="[0, ln D]", units="nats",
    passes=FREE, paper="Bhatt et al. 2020, arXiv:2005.00631", departures=(WHOLE,), holds=HOLDS,
    keywords={"abs": True})

add("EffectiveComplexity", title="Effective complexity", family="complexity", better="lower",
    about="Number of pixels whose absolute evidence is more than eps of the map's peak.",
    formula="|{i : |aᵢ| > eps · maxⱼ |aⱼ|}|", range="[1, number of pixels]", units="pixels",
    passes=FREE, paper="Nguyen and Martínez 2020, arXiv:2007.07584",
    departures=("eps is 0.01 instead of 1e-5, at which nearly every pixel of nearly every map "
                "counts.", WHOLE),
    holds=HOLDS, keywords={"eps": 0.01, "abs": True})
