"""Quantus's faithfulness, by our engine: what the network says of images with features replaced."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from bench.core import HeatproofError, unknown
from bench.measure import Explained, Scores
from bench.metrics.evidence import scores
from bench.metrics.parity.rules import (
    alone,
    attributions,
    baseline,
    baselines,
    clean,
    emptied,
    falling,
    features,
    in_line,
    in_turn,
    logit,
    parity,
    probability,
    rising,
    steps_of,
)
from bench.metrics.similarity import pearson, spearman

_UNDEFINED = "the correlation is undefined: one of its sides is constant"
ORDERS = ("morf", "lerf", "random")


@parity(
    "FaithfulnessCorrelation", title="Faithfulness correlation", family="faithfulness",
    better="higher", params={"nr_runs": 100, "subset_size": 224, "abs": False, "normalise": True,
                             "perturb_baseline": "black"},
    about="Correlation, over random subsets of features, of the evidence that they hold with the "
          "drop of the logit when they are replaced.",
    formula="ρ_S(Σ_S a, f(x) − f(x_S))", range="[−1, 1]", units="correlation",
    passes="nr_runs + 1 forward", paper="Bhatt, Weller, Moura 2020, IJCAI, arXiv:2005.00631")
def faithfulness_correlation(
    explained: Explained, *, nr_runs: int, subset_size: int, perturb_baseline: str | float,
    **maps: bool,
) -> Scores:
    """Pearson's correlation over `nr_runs` subsets of `subset_size` features: (N,)."""
    x, a, flaw = _prepared(explained, **maps)
    pixels = explained.batch.x[0, 0].numel()
    if not 0 < subset_size < pixels:
        raise HeatproofError(
            f"subset_size must lie between 0 and the {pixels} pixels, not be {subset_size!r}")
    subsets, fills = [], []
    for _ in range(nr_runs):
        drawn = [np.random.choice(x.shape[1], subset_size, replace=False)  # noqa: NPY002
                 for _ in range(len(x))]
        subsets.append(torch.from_numpy(np.stack(drawn)).to(x.device))
        fills.append(baseline(x, perturb_baseline))
    steps = torch.stack(subsets)
    drops = _drops(explained, steps, torch.stack(fills))
    return scores(pearson(_sums(a, steps), drops), flaw, undefined=_UNDEFINED)


@parity(
    "FaithfulnessEstimate", title="Faithfulness estimate", family="faithfulness", better="higher",
    params={"features_in_step": 1, "abs": False, "normalise": True, "perturb_baseline": "black"},
    about="Correlation, over groups of features of like rank, of the evidence that they hold with "
          "the drop of the logit when they alone are replaced.",
    formula="ρ_k(Σ_{S_k} a, f(x) − f(x_{S_k}))", range="[−1, 1]", units="correlation",
    passes="features / features_in_step + 1 forward",
    paper="Alvarez-Melis, Jaakkola 2018, NeurIPS, arXiv:1806.07538")
def faithfulness_estimate(
    explained: Explained, *, features_in_step: int, perturb_baseline: str | float, **maps: bool,
) -> Scores:
    """Pearson's correlation over all groups of `features_in_step` features: (N,)."""
    x, a, flaw = _prepared(explained, **maps)
    steps = steps_of(falling(a), features_in_step, explained.batch.x[0, 0].numel())
    drops = _drops(explained, steps, baselines(x, perturb_baseline, len(steps)))
    return scores(pearson(_sums(a, steps), drops), flaw, undefined=_UNDEFINED)


@parity(
    "MonotonicityCorrelation", title="Monotonicity correlation", family="faithfulness",
    better="higher", params={"eps": 1e-5, "nr_samples": 100, "features_in_step": 1, "abs": True,
                             "normalise": True, "perturb_baseline": "uniform"},
    about="Rank correlation, over groups of features, of their absolute evidence with the mean "
          "squared change of the probability when each group takes random values. Quantus raises "
          "for a probability below eps.",
    formula="ρ_rank(Σ_{S_k} |a|, E[(f(x) − f(x_{S_k}))²] / f(x)²)", range="[−1, 1]",
    units="rank correlation", passes="nr_samples · features / features_in_step + 1 forward",
    paper="Nguyen, Rodríguez Martínez 2020, arXiv:2007.07584")
def monotonicity_correlation(
    explained: Explained, *, eps: float, nr_samples: int, features_in_step: int,
    perturb_baseline: str | float, **maps: bool,
) -> Scores:
    """Spearman's correlation over groups, `nr_samples` fills each: (N,)."""
    x, a, flaw = _prepared(explained, **maps)
    steps = steps_of(rising(a), features_in_step, explained.batch.x[0, 0].numel())
    fills = baselines(x, perturb_baseline, len(steps) * nr_samples)
    read = probability(explained)
    before = clean(explained, read)
    after = alone(explained, steps, fills, read).view(len(x), len(steps), nr_samples)
    change = (after - before[:, None, None]).square().mean(2).double()
    certain = before.double().abs()
    weight = torch.where(certain >= eps, 1 / certain, 1.0).square()
    return scores(spearman(_sums(a, steps), change * weight[:, None]), flaw, undefined=_UNDEFINED)


@parity(
    "PixelFlipping", title="Pixel flipping", family="faithfulness", better="lower",
    params={"features_in_step": 1, "abs": False, "normalise": True, "perturb_baseline": "black"},
    about="Mean probability of the explained class while the features with the most evidence are "
          "replaced first; the curve lacks the untouched image.",
    formula="mean_k f(x_k), k = 1 … K", range="[0, 1]", units="probability",
    passes="features / features_in_step forward",
    paper="Bach et al. 2015, PLoS ONE, doi:10.1371/journal.pone.0130140")
def pixel_flipping(
    explained: Explained, *, features_in_step: int, perturb_baseline: str | float, **maps: bool,
) -> Scores:
    """The mean of the curve of probabilities; the curve is (N, K)."""
    x = explained.batch.x
    _, a, flaw = _prepared(explained, **maps)
    steps = steps_of(falling(a), features_in_step, x[0, 0].numel())
    curve = in_turn(explained, steps, emptied(x, steps, perturb_baseline),
                    probability(explained)).double()
    return scores(curve.mean(1), flaw, curve=curve)


@parity(
    "RegionPerturbation", title="Region perturbation", family="faithfulness", better="higher",
    params={"patch_size": 8, "order": "morf", "regions_evaluation": 100, "abs": False,
            "normalise": True, "perturb_baseline": "black"},
    about="Mean drop of the probability while the patches with the most evidence are replaced "
          "first. Quantus's flag says that lower is better; by its definition a larger drop is.",
    formula="mean_k (f(x) − f(x_k)), k = 1 … K", range="[−1, 1]", units="probability",
    passes="min(regions_evaluation, patches) + 1 forward",
    paper="Samek et al. 2017, IEEE TNNLS 28:2660, doi:10.1109/TNNLS.2016.2599820")
def region_perturbation(
    explained: Explained, *, patch_size: int, order: str, regions_evaluation: int,
    perturb_baseline: str | float, **maps: bool,
) -> Scores:
    """The mean of the curve of drops; the curve is (N, K)."""
    if order not in ORDERS:
        raise unknown("order", order, ORDERS)
    curve, flaw = _patches(explained, patch_size, order, regions_evaluation, perturb_baseline,
                           **maps)
    drop = clean(explained, probability(explained)).double()[:, None] - curve
    return scores(drop.mean(1), flaw, curve=drop)


@parity(
    "Selectivity", title="Selectivity", family="faithfulness", better="lower",
    params={"patch_size": 8, "abs": False, "normalise": True, "perturb_baseline": "black"},
    about="Mean probability while the patches with the most evidence are replaced first.",
    formula="mean_k f(x_k), k = 1 … K", range="[0, 1]", units="probability",
    passes="patches forward",
    paper="Montavon, Samek, Müller 2018, Digital Signal Processing 73:1, "
          "doi:10.1016/j.dsp.2017.10.011")
def selectivity(
    explained: Explained, *, patch_size: int, perturb_baseline: str | float, **maps: bool,
) -> Scores:
    """The mean of the curve of probabilities; the curve is (N, K)."""
    curve, flaw = _patches(explained, patch_size, "morf", None, perturb_baseline, **maps)
    return scores(curve.mean(1), flaw, curve=curve)


@parity(
    "Infidelity", title="Infidelity", family="faithfulness", better="lower",
    order=("oracle", "noise"),
    params={"perturb_patch_sizes": (4,), "n_perturb_samples": 10, "abs": False,
            "normalise": False, "perturb_baseline": "black"},
    about="Mean squared error of the evidence as a linear model of the logit, while patches are "
          "replaced from the top left on, the earlier ones too. It grows with the square of the "
          "map's scale.",
    formula="mean_k (f(x) − f(x_k) − ⟨a, x − x_k⟩)²", range="[0, ∞)", units="logit²",
    passes="n_perturb_samples · patches + 1 forward (1 · patches unless the fill is random)",
    paper="Yeh et al. 2019, NeurIPS, arXiv:1901.09392")
def infidelity(
    explained: Explained, *, perturb_patch_sizes: Sequence[int], n_perturb_samples: int,
    perturb_baseline: str | float, **maps: bool,
) -> Scores:
    """The mean over repeats and patch sizes of the mean over patches: (N,)."""
    x = explained.batch.x
    flat, a, flaw = _prepared(explained, **maps)
    read = logit(explained)
    before = clean(explained, read)[:, None]
    # Only a random fill makes the repeats differ.
    repeats = n_perturb_samples if perturb_baseline == "uniform" else 1
    errors = []
    for size in list(perturb_patch_sizes) * repeats:
        if x.shape[2] % size or x.shape[3] % size:
            raise HeatproofError(f"perturb_patch_sizes must divide the image's {x.shape[2]} × "
                                 f"{x.shape[3]} pixels; {size} does not")
        steps = _blocks(x, size)[:, None].expand(-1, len(x), -1)
        empty = emptied(x, steps, perturb_baseline)
        drop = before - in_turn(explained, steps, empty, read)
        share = _sums(a * (flat - empty.flatten(1)), steps).cumsum(1)
        errors.append((drop - share).square().mean(1))
    return scores(torch.stack(errors).mean(0), flaw)


def _prepared(
    explained: Explained, **maps: bool,
) -> tuple[Tensor, Tensor, tuple[str | None, ...]]:
    """The images (N, D), their attributions (N, D) float64, and what is wrong with a map."""
    found = attributions(explained, **maps)
    x = explained.batch.x
    return x.flatten(1), features(found.values, x.shape[1]), found.flaw


def _drops(explained: Explained, steps: Tensor, fills: Tensor) -> Tensor:
    """How far the logit falls when the features of each step (K, N, S) alone are replaced."""
    read = logit(explained)
    return clean(explained, read)[:, None] - alone(explained, steps, fills, read)


def _sums(a: Tensor, steps: Tensor) -> Tensor:
    """The evidence (N, D) that the features of each step (K, N, S) hold: (N, K)."""
    return a.gather(1, in_line(steps)).view(len(a), len(steps), -1).sum(2)


def _patches(
    explained: Explained, size: int, order: str, most: int | None, perturb_baseline: str | float,
    **maps: bool,
) -> tuple[Tensor, tuple[str | None, ...]]:
    """The probability while `most` patches are replaced in an order: (N, K) float64."""
    x = explained.batch.x
    found = attributions(explained, **maps)
    top, bottom = _margins(x.shape[2], size)
    left, right = _margins(x.shape[3], size)
    large = pad(x, (left, right, top, bottom), mode="replicate")
    a = features(pad(found.values, (left, right, top, bottom)), x.shape[1])
    blocks = _blocks(large, size)
    if order == "random":
        drawn = [np.random.permutation(len(blocks)) for _ in x]  # noqa: NPY002
        turn = torch.from_numpy(np.stack(drawn)).to(x.device)
    else:
        held = _sums(a, blocks[:, None].expand(-1, len(x), -1))
        turn = falling(held) if order == "morf" else rising(held)
    steps = blocks[turn[:, :most].T]
    empty = emptied(large, steps, perturb_baseline)
    inside = (slice(top, top + x.shape[2]), slice(left, left + x.shape[3]))
    return in_turn(explained, steps, empty, probability(explained), inside).double(), found.flaw


def _blocks(x: Tensor, size: int) -> Tensor:
    """The features of each patch of images (N, C, H, W), row by row: (P, C·size²)."""
    index = torch.arange(x[0].numel(), device=x.device).view(x.shape[1:])
    tiles = index.unfold(1, size, size).unfold(2, size, size)
    return tiles.permute(1, 2, 0, 3, 4).reshape(-1, x.shape[1] * size * size)


def _margins(length: int, size: int) -> tuple[int, int]:
    missing = -length % size
    return missing // 2, missing - missing // 2
