"""How good the classifier itself is: every board shows it beside its explanations."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bench.core import Scores
from bench.plugins import metric

if TYPE_CHECKING:
    from torch import Tensor

    from bench.core import Explained


@metric("accuracy", title="Accuracy", family="classifier", better="higher",
        about="1 where the class with the largest logit is the label, else 0.")
def accuracy(explained: Explained) -> Scores:
    """1.0 where the prediction is the label, else 0.0; needs finite logits."""
    hit = explained.logits.argmax(1).cpu() == explained.batch.y.cpu()
    return _scores(hit.double(), explained)


@metric("confidence", title="Confidence", family="classifier", better="higher",
        about="Softmax probability of the predicted class.")
def confidence(explained: Explained) -> Scores:
    """The softmax probability of the predicted class, in (0, 1]; needs finite logits."""
    return _scores(explained.logits.double().softmax(1).amax(1), explained)


def _scores(value: Tensor, explained: Explained) -> Scores:
    finite = explained.logits.isfinite().all(1).tolist()
    reason = tuple(None if fine else "the logits are not finite" for fine in finite)
    return Scores(np.where(finite, value.detach().cpu().numpy(), np.nan), reason)
