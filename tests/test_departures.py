"""Where the proven track departs from Quantus 0.6.0, both answer the same toy, whose answer is
known: ours is right, Quantus's is what the departure says.
"""

from __future__ import annotations

import numpy as np
import pytest

from bench import plugins
from bench.metrics.parity.departures import BY_DEFINITION, DEPARTURES, Departure

EVERY = pytest.mark.parametrize(
    "departure", DEPARTURES, ids=[f"{one.metric}: {one.about}" for one in DEPARTURES])


@EVERY
def test_we_give_the_known_answer_and_quantus_another(departure: Departure) -> None:
    quantus, ours = departure.values()
    np.testing.assert_allclose(ours, departure.exact, atol=1e-6)
    if departure.quantus is None:
        assert abs(quantus - departure.exact) > 0.1
    else:
        np.testing.assert_allclose(quantus, departure.quantus, rtol=1e-6, atol=1e-6)


@EVERY
def test_a_departure_names_metrics_that_exist(departure: Departure) -> None:
    assert f"quantus/{departure.metric}" in plugins.metrics
    assert departure.ours == BY_DEFINITION or departure.ours in plugins.metrics
    assert departure.quantus != departure.exact
