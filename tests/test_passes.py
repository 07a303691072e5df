"""What work costs: passes, seconds, the most memory in use."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest
import torch
from torch import nn

from bench.passes import Cost, costing, counted

CPU = torch.device("cpu")


# In a process of its own: in an older one memory that was freed is used again, and no peak rises.
ALLOCATES = """
import json, numpy as np, torch
from bench import memory
cpu = torch.device("cpu")
np.ones(2**24)                                              # so that numpy has all it needs
peaks = [memory.peak(cpu)]
np.ones(2**26)                                              # 512 MiB, and gone
peaks.append(memory.peak(cpu))
forgot = memory.restart(cpu)
peaks.append(memory.peak(cpu))
print(json.dumps([forgot, *peaks]))
"""


def test_a_peak_is_that_of_what_ran_since_the_system_forgot_the_one_before() -> None:
    done = subprocess.run([sys.executable, "-c", ALLOCATES], capture_output=True, text=True,
                          check=True)
    forgot, before, top, after = json.loads(done.stdout)
    assert 2**28 < top - before < 1.1 * 2**29               # 128 MiB had come and gone before
    if forgot:
        assert after < top - 2**28
    else:
        assert after == top


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
