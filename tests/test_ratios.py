"""`make bench` measures every trainer beside its plain twin, and names none."""

from __future__ import annotations

from bench import plugins, ratios
from bench.core import PLAIN


def test_every_trainer_with_a_plain_twin_is_measured_beside_it(tiny_suite) -> None:
    spec = tiny_suite.runs[0]
    batch = ratios._batches(spec, "train").batch(range(10))
    costs = ratios.steps(spec, batch, rounds=1)
    trainers = {name for name, cls in plugins.methods.items()
                if cls.trains() and cls.twin == PLAIN}
    assert {name.partition(",")[0] for name in costs} == {PLAIN, *trainers}
    assert {"batchcam, batch loss alone", "batchcam, weights detached"} <= set(costs)
    assert min(costs.values()) > 0


def test_what_is_measured_side_by_side_takes_turns() -> None:
    seen: list[str] = []
    one, two = ratios.side_by_side(lambda: seen.append("a"), lambda: seen.append("b"), rounds=2)
    assert seen == ["a", "b", "a", "b"]
    assert min(one, two) >= 0
