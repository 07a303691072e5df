"""Quantus's axioms, by our engine: the one of three that it computes rightly."""

from __future__ import annotations

import torch

from bench.measure import Explained, Scores
from bench.metrics.evidence import scores
from bench.metrics.parity.rules import (
    alone,
    attributions,
    baselines,
    clean,
    features,
    parity,
    probability,
)


@parity(
    "NonSensitivity", title="Non-sensitivity", family="axiomatic", better="lower",
    params={"eps": 1e-5, "abs": True, "normalise": True, "perturb_baseline": "black"},
    about="How many features have evidence but no effect on the probability, or an effect but no "
          "evidence; below eps is none. Quantus's features_in_step can only be 1.",
    formula="|{i: (|a_i| < ε) ≠ (|f(x) − f(x_i)| < ε)}|", range="[0, features]", units="features",
    passes="features + 1 forward", paper="Nguyen, Rodríguez Martínez 2020, arXiv:2007.07584")
def non_sensitivity(
    explained: Explained, *, eps: float, perturb_baseline: str | float, **maps: bool,
) -> Scores:
    """The number of features where effect and evidence disagree: (N,)."""
    found = attributions(explained, **maps)
    x = explained.batch.x
    a = features(found.values, x.shape[1])
    each = torch.arange(a.shape[1], device=x.device)[:, None, None].expand(-1, len(x), 1)
    fills = baselines(x.flatten(1), perturb_baseline, len(each))
    read = probability(explained)
    change = (alone(explained, each, fills, read) - clean(explained, read)[:, None]).abs()
    return scores(((change < eps) ^ (a < eps)).sum(1), found.flaw)
