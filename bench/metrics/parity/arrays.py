"""Quantus's localisation and complexity, by our engine: of maps and masks alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from bench.core import HeatproofError
from bench.measure import Explained, Scores
from bench.metrics import localisation
from bench.metrics.complexity import entropy, gini
from bench.metrics.evidence import scores
from bench.metrics.parity.rules import attributions, falling, parity

Measure = Callable[..., Tensor]


def pointing_game(a: Tensor, inside: Tensor) -> Tensor:
    """Whether any of the largest values (N, P) lies on the object (N, P) bool: (N,) of 0 and 1."""
    share = localisation.pointing_game(a, inside.double(), (~inside).double())
    return (share > 0).double()


def attribution_localisation(a: Tensor, inside: Tensor, *, positive_attributions: bool) -> Tensor:
    """The share of the evidence on the object: (N,); NaN above 1, which signed maps can reach."""
    a = a.clamp(min=0) if positive_attributions else a
    share = (a * inside).sum(1) / (a.sum(1) + 1e-9)
    return torch.where(share > 1, torch.nan, share)


def top_k_intersection(a: Tensor, inside: Tensor, *, k: int, concept_influence: bool) -> Tensor:
    """The share of the `k` largest values on the object: (N,), or that over the object's area."""
    if not 0 < k < a.shape[1]:
        raise HeatproofError(
            f"k must lie between 0 and the {a.shape[1]} pixels of the image, not be {k!r}")
    share = inside.gather(1, falling(a)[:, :k]).double().mean(1)
    return share * a.shape[1] / inside.sum(1) if concept_influence else share


def relevance_rank_accuracy(a: Tensor, inside: Tensor) -> Tensor:
    """The share of the object among as many of the largest values as it has pixels: (N,)."""
    size = inside.double().sum(1, keepdim=True)
    first = torch.arange(a.shape[1], device=a.device) < size
    return (inside.gather(1, falling(a)) & first).sum(1) / size[:, 0]


def relevance_mass_accuracy(a: Tensor, inside: Tensor) -> Tensor:
    """The sum on the object by the whole sum, signs kept: (N,)."""
    return (a * inside).sum(1) / a.sum(1)


def auc(a: Tensor, inside: Tensor) -> Tensor:
    """The area under the ROC curve of the pixels, ties one half: (N,)."""
    return localisation.auc(a, inside.double(), (~inside).double())


def focus(a: Tensor, inside: Tensor) -> Tensor:
    """The share of the positive evidence that lies inside: (N,)."""
    return attribution_localisation(a, inside, positive_attributions=True)


def quadrants(inside: Tensor) -> Tensor:
    """The quadrants of the image that the object (N, H, W) reaches into: (N, H, W) bool."""
    wide = torch.empty_like(inside)
    top, left = inside.shape[1] // 2, inside.shape[2] // 2
    for rows in (slice(top), slice(top, None)):
        for columns in (slice(left), slice(left, None)):
            part = inside[:, rows, columns]
            wide[:, rows, columns] = part.flatten(1).any(1)[:, None, None]
    return wide


def sparseness(a: Tensor) -> Tensor:
    """The Gini index of the values and 1e-7: (N,)."""
    return gini(a + 1e-7)


def effective_complexity(a: Tensor, *, eps: float) -> Tensor:
    """How many values are above eps: (N,)."""
    return (a > eps).sum(1)


def _add(
    quantus: str, measure: Measure, *, title: str, family: str, better: Literal["higher", "lower"],
    about: str, formula: str, range: str, units: str, paper: str,  # noqa: A002
    truth: Callable[[Tensor], Tensor] = lambda inside: inside, **params: Any,
) -> None:
    localises = family == "localisation"

    def score(explained: Explained, *, abs: bool, normalise: bool, **own: Any) -> Scores:  # noqa: A002
        found = attributions(explained, abs=abs, normalise=normalise)
        a = found.values.flatten(1)
        if not localises:
            return scores(measure(a, **own), found.flaw)
        assert explained.batch.mask is not None
        inside = truth(explained.batch.mask.to(a.device) > 0).flatten(1)
        empty = tuple(None if some else "empty mask" for some in inside.any(1).tolist())
        return scores(measure(a, inside, **own), empty, found.flaw)

    score.__module__ = __name__
    parity(quantus, title=title, family=family, better=better, about=about, formula=formula,
           range=range, units=units, passes="none", paper=paper, params=params,
           needs=("mask",) if localises else ())(score)


_LOCAL: Mapping[str, Any] = {"family": "localisation", "better": "higher", "units": "share"}
_COMPLEX: Mapping[str, Any] = {"family": "complexity", "abs": True, "normalise": True}
_SIGNED: Mapping[str, Any] = {"abs": False, "normalise": True}

_add("PointingGame", pointing_game, title="Pointing Game", **_LOCAL, **_SIGNED,
     about="Whether any of the pixels with the most evidence lies on the object, so that a "
           "constant map always hits. An empty mask is NaN; Quantus answers True.",
     formula="[M ∩ argmax a ≠ ∅]", range="{0, 1}",
     paper="Zhang et al. 2018, IJCV 126:1084, doi:10.1007/s11263-017-1059-x")
_add("AttributionLocalisation", attribution_localisation, title="Attribution localisation",
     **_LOCAL, positive_attributions=False, abs=True, normalise=True,
     about="The share of the absolute evidence that lies on the object. Quantus's `weighted` is "
           "left out: it divides by the size of a slice of the batch.",
     formula="Σ_M |a| / (Σ |a| + 1e-9)", range="[0, 1]",
     paper="Kohlbrenner et al. 2020, IJCNN, doi:10.1109/IJCNN48605.2020.9206975")
_add("TopKIntersection", top_k_intersection, title="Top-k intersection", **_LOCAL, **_SIGNED,
     k=100, concept_influence=False,
     about="The share of the k pixels with the most evidence that lies on the object. Quantus's k "
           "of 1000 is more than a small image has; 100 is ours.",
     formula="|M ∩ top_k(a)| / k", range="[0, 1]",
     paper="Theiner, Müller-Budack, Ewerth 2022, WACV, arXiv:2104.14995")
_add("RelevanceRankAccuracy", relevance_rank_accuracy, title="Relevance rank accuracy", **_LOCAL,
     **_SIGNED,
     about="The share of the object among as many pixels, those with the most evidence.",
     formula="|M ∩ top_{|M|}(a)| / |M|", range="[0, 1]",
     paper="Arras, Osman, Samek 2022, Information Fusion 81:14, doi:10.1016/j.inffus.2021.11.008")
_add("RelevanceMassAccuracy", relevance_mass_accuracy, title="Relevance mass accuracy", **_LOCAL,
     **_SIGNED,
     about="The evidence on the object by all evidence, signs kept, so that a map whose parts "
           "cancel has any value.",
     formula="Σ_M a / Σ a", range="(−∞, ∞)",
     paper="Arras, Osman, Samek 2022, Information Fusion 81:14, doi:10.1016/j.inffus.2021.11.008")
_add("AUC", auc, title="AUC", **_LOCAL, **_SIGNED,
     about="The chance that a pixel of the object has more evidence than one of the background.",
     formula="P(a_M > a_¬M) + ½ P(a_M = a_¬M)", range="[0, 1]",
     paper="Fawcett 2006, Pattern Recognition Letters 27:861, doi:10.1016/j.patrec.2005.10.010")
_add("Focus", focus, title="Focus", truth=quadrants, **_LOCAL, **_SIGNED,
     about="The share of the positive evidence in the target's quadrants of a mosaic: here those "
           "quadrants of the image that the object reaches into.",
     formula="Σ_Q max(a, 0) / (Σ max(a, 0) + 1e-9)", range="[0, 1]",
     paper="Arias-Duart et al. 2022, arXiv:2109.15035")
_add("Sparseness", sparseness, title="Sparseness", better="higher", **_COMPLEX,
     about="The Gini index of the absolute evidence, to which 1e-7 is added after scaling.",
     formula="Σ_k (2k − P − 1) v_(k) / (P Σ v), v = |a| + 1e-7", range="[0, 1)",
     units="Gini index", paper="Chalasani et al. 2020, ICML, arXiv:1810.06583")
_add("Complexity", entropy, title="Complexity", better="lower", **_COMPLEX,
     about="The entropy of the absolute evidence's shares. Quantus adds 1e-12 to each inside the "
           "logarithm.",
     formula="−Σ p log p, p = |a| / Σ |a|", range="[0, log P]", units="nats",
     paper="Bhatt, Weller, Moura 2020, IJCAI, arXiv:2005.00631")
_add("EffectiveComplexity", effective_complexity, title="Effective complexity", better="lower",
     **_COMPLEX, eps=1e-5,
     about="How many pixels have evidence above eps of the largest of all maps: scaling one map "
           "changes the others' scores.",
     formula="|{i: |a_i| > ε}|", range="[0, P]", units="pixels",
     paper="Nguyen, Rodríguez Martínez 2020, arXiv:2007.07584")
