"""Our engine by Quantus's rules: equal to Quantus 0.6.0 wherever that computes rightly.

So a number of ours can be laid beside a published one, and where the proven track differs from
Quantus it is known that the definition does, not the code.
"""

from bench.metrics.parity import (
    arrays,
    axiomatic,
    faithfulness,
    randomisation,
    regions,
    robustness,
)

__all__ = ["arrays", "axiomatic", "faithfulness", "randomisation", "regions", "robustness"]
