"""What work costs: passes, seconds, the most memory in use."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from bench import memory
from bench.passes import Cost, costing, counted

CPU = torch.device("cpu")


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux can forget")
def test_a_peak_is_that_of_what_ran_since() -> None:
    memory.restart(CPU)
    before = memory.peak(CPU)
    np.ones(2**23)                                          # 64 MiB, and gone again
    assert 0.9 * 2**26 < memory.peak(CPU) - before < 2**27
    memory.restart(CPU)
    assert memory.peak(CPU) < before + 2**25


def test_a_cost_holds_passes_seconds_and_the_peak_even_of_work_that_fails() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    with pytest.raises(ValueError, match="halfway"), costing(CPU, net) as cost:
        net(torch.zeros(3, 4)).sum().backward()
        with torch.no_grad():
            net(torch.zeros(2, 4))
        time.sleep(.02)
        raise ValueError("halfway")
    assert (cost.forward, cost.backward) == (5, 3)
    assert .02 <= cost.seconds < 5
    assert cost.peak > 2**20
    with counted(net) as passes:
        net(torch.zeros(1, 4))
    assert (cost.forward, passes.forward) == (5, 1)         # the first block has ended


def test_costs_of_the_same_work_add_up_and_the_larger_peak_stays() -> None:
    first = Cost(forward=2, backward=1, seconds=.5, peak=30).after({})
    assert first == {"forward": 2, "backward": 1, "seconds": .5, "peak": 30}
    assert Cost(forward=3, seconds=1.0, peak=20).after(first) == {
        "forward": 5, "backward": 1, "seconds": 1.5, "peak": 30}
