"""How good the classifier itself is: every board shows it beside its explanations."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from bench.measure import Scores
from bench.metrics.evidence import IGNORE
from bench.metrics.maps import Array
from bench.plugins import metric

if TYPE_CHECKING:
    from torch import Tensor

    from bench.measure import Explained

_SHARE = "[0, 1], one or the other"


@metric("accuracy", title="Accuracy", family="classifier", better="higher", range=_SHARE,
        about="1 where the class with the largest logit is the label, else 0.")
def accuracy(explained: Explained) -> Scores:
    """1.0 where the prediction is the label, else 0.0; needs finite logits."""
    hit = explained.logits.argmax(1).cpu() == explained.batch.y.cpu()
    return _scores(hit.double(), explained)


@metric("confidence", title="Confidence", family="classifier", better="higher", range="(0, 1]",
        about="Softmax probability of the predicted class.")
def confidence(explained: Explained) -> Scores:
    """The softmax probability of the predicted class, in (0, 1]; needs finite logits."""
    return _scores(explained.logits.double().softmax(1).amax(1), explained)


@metric("accuracy-on-objects", title="Accuracy on objects", family="classifier",
        better="higher", needs=("mask",), range=_SHARE,
        paper="Chatterjee et al. 2026, Neurocomputing 682:133460, arXiv:2206.05148",
        about="Accuracy on the images whose mask has an object (tumour-only accuracy).")
def accuracy_on_objects(explained: Explained) -> Scores:
    """1.0 or 0.0 as in accuracy where the mask has an object; elsewhere NaN."""
    assert explained.batch.mask is not None
    mask = explained.batch.mask.cpu()
    bare = (~((mask > 0) & (mask != IGNORE)).flatten(1).any(1)).tolist()
    hit = accuracy(explained)
    reason = tuple("no object in the mask" if none else why
                   for none, why in zip(bare, hit.reason, strict=True))
    return Scores(np.where(bare, np.nan, hit.value), reason)


@metric("f1", title="Macro F1", family="classifier", better="higher",
        range="[0, 1] of all samples together",
        about="Macro F1 over the classes that are labels or predictions. A single value is the "
              "sample's share: their mean is the macro F1, and their spread is F1's to first "
              "order; alone it may lie outside 0 and 1.")
def f1(explained: Explained) -> Scores:
    """Each sample's share in the macro F1: F1 itself plus the sample's influence on it.

    The influences (the infinitesimal jackknife's) sum to zero, so the mean over the samples is the
    macro F1 itself. F1 of resampled images is, to first order, the mean of their shares, so the
    intervals and paired differences that are made for means hold for F1 too.
    Needs finite logits; F1 is that of the samples that have them.
    """
    finite = explained.logits.isfinite().all(1).cpu().numpy()
    label, predicted = explained.batch.y.cpu().numpy(), explained.logits.argmax(1).cpu().numpy()
    value = np.full(len(label), np.nan)
    if finite.any():
        value[finite] = _f1_shares(label[finite], predicted[finite])
    return _scores(torch.from_numpy(value), explained)


def _f1_shares(label: Array, predicted: Array) -> Array:
    """The shares (N,) of samples in the macro F1, mean(2t) / mean(2t + f + g) of each class.

    t, f and g say of each sample whether it is a true positive, false positive, false negative.
    """
    classes = np.union1d(label, predicted)
    actual, called = label[:, None] == classes, predicted[:, None] == classes
    hit = 2.0 * (actual & called)           # 2t
    size = 1.0 * actual + called            # 2t + f + g
    score = hit.mean(0) / size.mean(0)
    return np.asarray((score + (hit - score * size) / size.mean(0)).mean(1))


def _scores(value: Tensor, explained: Explained) -> Scores:
    finite = explained.logits.isfinite().all(1).tolist()
    reason = tuple(None if fine else "the logits are not finite" for fine in finite)
    return Scores(np.where(finite, value.detach().cpu().numpy(), np.nan), reason)
