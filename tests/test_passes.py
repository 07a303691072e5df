"""What work costs: passes, seconds, the most memory in use."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from bench import run, suite
from bench.passes import Cost, costing, counted
from bench.results import Folder
from bench.store import Cache, read_json, write_json

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
    first = Cost(forward=2, backward=1, seconds=.5, peak=30, device="cpu (x)").after({})
    assert first == {
        "forward": 2, "backward": 1, "seconds": .5, "peak": 30, "device": "cpu (x)"}
    assert Cost(forward=3, seconds=1.0, peak=20, device="cpu (x)").after(first) == {
        "forward": 5, "backward": 1, "seconds": 1.5, "peak": 30, "device": "cpu (x)"}


def test_a_cost_names_the_devices_in_their_order() -> None:
    both = Cost(device="cuda (A)").after({"device": "cpu (x)"})
    assert both["device"] == "cpu (x), then cuda (A)"
    assert Cost(device="cuda (A)").after(both)["device"] == both["device"]
    assert Cost(device="cpu (x)").after(both)["device"] == "cpu (x), then cuda (A), then cpu (x)"
    assert Cost(device="cpu (x)").after({"seconds": 1.0})["device"] == "cpu (x)"  # older than this


def test_a_run_tells_where_else_its_network_was_trained_and_its_map_made(
    tiny_suite: suite.Suite, tmp_path: Path,
) -> None:
    spec = next(one for one in tiny_suite.runs if one.contestant.name == "noise")
    place = run.Place(tmp_path / "out", Cache(tmp_path / "cache"))
    assert run.network(spec, place).trained
    (path,) = (tmp_path / "cache").rglob("*.cost.json")
    here = read_json(path)["device"]
    assert here.startswith("cpu (")

    def made_on(**devices: str) -> str:
        write_json(path, {**read_json(path), "device": devices.pop("train", here)})
        facts = Folder.of(spec, place.out).path / "run.json"
        if devices:
            old = read_json(facts)
            for stage, device in devices.items():
                old["measured"]["cost"][stage]["device"] = device
            write_json(facts, old)
        assert not run.run(spec, (), place).failures
        return str(read_json(facts)["device"])

    assert made_on() == here
    (Folder.of(spec, place.out).path / "samples.parquet").unlink()  # so that there is work to do
    assert made_on(train="cuda (A)") == f"{here}; trained on cuda (A)"
    (Folder.of(spec, place.out).path / "samples.parquet").unlink()
    assert made_on(explain="cuda (A)", score="cuda (B)") == (
        f"cuda (B), then {here}; trained on {here}; explained on cuda (A)")
