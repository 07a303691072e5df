"""On a real Slurm: what is killed, lost and preempted is made good, and no number differs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_end_to_end import content

from bench import cluster
from bench.cells import holder
from bench.store import Cache

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

SUITE = """
title = "Slurm"
protocol = "slurm-1"
seeds = [0, 1, 2, 3]
contestants = ["gated", "gradcam@gated", "gradcam", "cape-pf", "noise", "oracle"]
metrics = ["accuracy", "pixel-flipping", "pointing-game"]

[dataset.digits]
samples = 6
media = 2
[dataset.digits.backbone]
name = "resnet18"
stem = "half"
[dataset.digits.backbone.options]
layers = [1, 1, 1, 1]
channels = [8, 8, 16, 16]
stem_type = "deep"
stem_width = 4
output_stride = 8
[dataset.digits.recipe]
epochs = 3
batch_size = 32
samples = 96
optimizer = "adamw"
lr = 3e-3
[dataset.digits.trainer.cape-pf]
recipe = { epochs = 1, lr = 1e-2 }
"""

# A plugin whose training stops after its first epoch for as long as a file stands in the way.
PLUGIN = '''
import os, time
from pathlib import Path

import torch
import torch.nn.functional as F
import bench


@bench.method("gated")
class Gated(bench.Method):
    """Input times gradient, on a network whose training can be held up."""

    title, family, paper = "Gated", "gradient", "a test"

    def network(self):
        return self.backbone()

    def loss(self, net, batch):
        self.steps = getattr(self, "steps", 0) + 1
        if self.steps > 3:  # 96 images in batches of 32: the first epoch is kept by now
            while Path(os.environ.get("GATE", "/nowhere")).exists():
                time.sleep(0.05)
        return F.cross_entropy(net(batch.x), batch.y)

    def explain(self, net, batch, target):
        x = batch.x.clone().requires_grad_()
        net(x).gather(1, target[:, None]).sum().backward()
        return (x.grad * x).sum(1).detach()
'''

PROFILE = """
cpus = 1
minutes = 10
chunk = 4
retries = {retries}
options = {{ chdir = "{cwd}" }}
[train]
gpus = 1
mem_gb = {memory}
[score]
mem_gb = {memory}
[prove]
mem_gb = {memory}
[collect]
mem_gb = {memory}
"""


def said(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


@pytest.fixture(scope="module", autouse=True)
def _slurm() -> None:
    if not shutil.which("sinfo") or subprocess.run(
            ["sinfo"], capture_output=True, timeout=60).returncode:
        pytest.skip("no Slurm is running here")


class Bench:
    """A suite, its plugin and its profile in a folder, and the command line on them."""

    def __init__(self, home: Path, *, memory: float = 2, retries: int = 0) -> None:
        self.home = home
        self.gate = home / "gate"
        self.cache = Cache(home / "cache")
        (home / "slow.toml").write_text(SUITE)
        (home / "gated.py").write_text(PLUGIN)
        (home / "profile.toml").write_text(
            PROFILE.format(retries=retries, cwd=home, memory=memory))
        self.env = {**os.environ, "HEATPROOF_CACHE": str(home / "cache"), "OMP_NUM_THREADS": "1",
                    "GATE": str(self.gate)}

    def heatproof(self, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "bench", *words], cwd=self.home, env={**self.env, **env},
            capture_output=True, text=True, timeout=900)

    def submit(self, *words: str) -> subprocess.CompletedProcess[str]:
        return self.heatproof("run", "slow.toml", "--plugin", "gated.py", "--on", "slurm",
                              "--profile", "profile.toml", *words)

    def standings(self) -> dict[str, dict[str, str]]:
        told = self.heatproof("status", "slow.toml", "--plugin", "gated.py", "--format", "json")
        assert told.returncode == 0, told.stderr
        return {one["cell"]: one for one in map(json.loads, told.stdout.splitlines())}

    def keys_of_last(self) -> set[str]:
        """The cells that the newest submission holds."""
        newest = cluster.submissions(self.cache, "slow")[-1]
        return {key for keys in newest.facts["jobs"].values() for key in keys}

    def until_idle(self, limit: float = 600) -> None:
        deadline = time.monotonic() + limit
        while said("squeue", "--noheader").strip():
            assert time.monotonic() < deadline, said("squeue")
            time.sleep(1)


def at_the_gate(bench: Bench, n: int, limit: float = 400) -> dict[str, dict[str, object]]:
    """The gated trainings that are at work, with who does: key -> who."""
    found: dict[str, dict[str, object]] = {}
    deadline = time.monotonic() + limit
    while len(found) < n:
        assert time.monotonic() < deadline, f"{len(found)} of {n}\n{said('squeue')}"
        time.sleep(0.5)
        keys = {p.stem for p in (bench.cache.root / "wip").glob("*.safetensors")}
        found = {key: dict(held.who) for key in keys
                 if (held := holder(key, bench.cache)) and held.alive}
    return found


def node_of(job: str) -> str:
    return said("squeue", "-h", "-r", "-j", job, "-o", "%N").strip()


def test_what_is_killed_lost_and_preempted_is_made_good_byte_for_byte(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.gate.touch()
    first = bench.submit("--detach")
    assert first.returncode == 0, first.stderr
    planned = bench.keys_of_last()
    assert len(planned) >= 30

    held = at_the_gate(bench, 4)
    by_node: dict[str, list[str]] = {}
    for key, who in held.items():
        by_node.setdefault(node_of(str(who["job"])), []).append(key)
    (_, (cancelled, killed)), (other, _) = sorted(by_node.items())
    said("scancel", str(held[cancelled]["job"]))
    os.kill(int(str(held[killed]["pid"])), signal.SIGKILL)
    # A node goes, and what it worked on goes back into the queue.
    said("scontrol", "update", f"nodename={other}", "state=down", "reason=test")
    time.sleep(3)
    # A node whose daemon is alive may have come back by itself.
    subprocess.run(["scontrol", "update", f"nodename={other}", "state=resume"], timeout=60,
                   capture_output=True)
    lost = set(held) - {cancelled, killed}
    deadline = time.monotonic() + 200
    while True:
        again = at_the_gate(bench, 2)
        if set(again) == lost and all(again[k]["pid"] != held[k]["pid"] for k in lost):
            break
        assert time.monotonic() < deadline, (again, said("squeue"))
    # A more urgent job takes the place of one of them.
    taken = node_of(str(again[min(lost)]["job"]))
    said("sbatch", "-p", "urgent", "-c2", f"--nodelist={taken}", "--wait", "-o", "/dev/null",
         "--wrap", "sleep 1")
    bench.gate.unlink()
    bench.until_idle()

    stands = bench.standings()
    assert {one["key"] for one in stands.values() if one["state"] == "died"} == {cancelled, killed}
    missing = {one["key"] for one in stands.values() if one["state"] != "done"}
    # The two trainings, and what explains their networks: the plugin's map and Grad-CAM's.
    assert len(missing) == 2 + 2 * 2

    second = bench.submit()
    assert second.returncode == 0, second.stderr
    assert bench.keys_of_last() == missing
    bench.until_idle()
    n = len(cluster.submissions(bench.cache, "slow"))
    third = bench.submit()
    assert third.returncode == 0, third.stderr
    assert "finished before" in third.stdout
    assert len(cluster.submissions(bench.cache, "slow")) == n == 2
    assert (tmp_path / "leaderboard" / "slow" / "index.html").is_file()

    here = bench.heatproof("run", "slow.toml", "--plugin", "gated.py", "--jobs", "2", "--out",
                           "here", HEATPROOF_CACHE=str(tmp_path / "cache-here"))
    assert here.returncode == 0, here.stderr
    assert content(tmp_path / "results") == content(tmp_path / "here")


def test_a_job_that_needs_more_memory_gets_it_without_a_person(tmp_path: Path) -> None:
    """A tenth of the memory that a training takes: Slurm kills it until it has been doubled."""
    bench = Bench(tmp_path, memory=2, retries=3)
    profile = (tmp_path / "profile.toml").read_text()
    (tmp_path / "profile.toml").write_text(profile.replace(
        "[train]\ngpus = 1\nmem_gb = 2", "[train]\ngpus = 1\nmem_gb = 0.25"))
    done = bench.submit("--only", "gradcam", "--seeds", "1")
    assert done.returncode == 0, done.stderr + said("squeue")
    attempts = [one.facts["attempt"] for one in cluster.submissions(bench.cache, "slow")]
    assert len(attempts) > 1
    assert attempts == list(range(len(attempts)))


def test_ctrl_c_leaves_the_queue_and_the_same_command_watches_again(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.gate.touch()
    words = ("run", "slow.toml", "--plugin", "gated.py", "--on", "slurm", "--profile",
             "profile.toml", "--only", "gated", "--seeds", "1")
    with (tmp_path / "told").open("w") as told:
        watching = subprocess.Popen([sys.executable, "-m", "bench", *words], cwd=tmp_path,
                                    env=bench.env, stdout=told, stderr=told)
        at_the_gate(bench, 1)
        watching.send_signal(signal.SIGINT)
        assert watching.wait(60) == 130
    assert "the queue goes on" in (tmp_path / "told").read_text()
    assert said("squeue", "--noheader").strip()
    again = bench.heatproof(*words, "--detach")
    assert again.returncode == 0, again.stderr
    assert "queued already" in again.stderr
    assert len(cluster.submissions(bench.cache, "slow")) == 1
    assert {one["state"] for one in bench.standings().values() if "seed 0" in one["cell"]
            and "/gated" in one["cell"]} == {"running", "queued"}
    bench.gate.unlink()
    done = bench.heatproof(*words)
    assert done.returncode == 0, done.stderr
    assert len(cluster.submissions(bench.cache, "slow")) == 1


def test_a_training_that_runs_out_of_time_is_requeued_and_goes_on(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.gate.touch()
    profile = (tmp_path / "profile.toml").read_text()
    (tmp_path / "profile.toml").write_text(
        profile.replace("[train]\n", "[train]\nminutes = 1\ngrace = 40\n"))
    first = bench.submit("--only", "gated", "--seeds", "1", "--detach")
    assert first.returncode == 0, first.stderr
    before = at_the_gate(bench, 1)
    deadline = time.monotonic() + 240
    while (now := at_the_gate(bench, 1)) and now == before:
        assert time.monotonic() < deadline, said("squeue")
    assert [who["job"] for who in now.values()] == [who["job"] for who in before.values()]
    bench.gate.unlink()
    bench.until_idle()
    stands = bench.standings()
    assert stands["digits/gated/seed 0"]["state"] == "done"
    assert stands["digits/gated/seed 0 network"]["state"] == "done"
    assert len(cluster.submissions(bench.cache, "slow")) == 1
