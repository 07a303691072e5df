"""One training shared by several processes (on CPUs, by gloo): the network that one trains."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import timm
import torch

from bench import nets, parallel, plugins, pool, run, suite, testing
from bench.core import HeatproofError, Method
from bench.parallel import Team
from bench.spec import RunSpec
from bench.store import Cache, read_arrays, read_json

SUITE = """
title = "Shared"
protocol = "shared-1"
seeds = [0]
contestants = ["softcam", "gp-unet", "batchcam"]
metrics = ["accuracy"]
[method.softcam.train]
lasso = 1e-3
[method.gp-unet.train]
width = 4
depth = 2
dropout = 0.0
[dataset.digits]
samples = 4
[dataset.digits.backbone]
name = "convnext_atto"
stem = "half"
options = { depths = [1, 1, 1, 1], dims = [4, 8, 8, 16] }
[dataset.digits.recipe]
epochs = 2
batch_size = 25
samples = 100
lr = 1e-2
"""

FRAGILE = """
import os, signal, time
from bench import method
from bench.methods.softcam import SoftCAM

@method("fragile")
class Fragile(SoftCAM):
    steps = 0

    def loss(self, net, batch):
        self.steps += 1
        if self.steps == 6 and os.environ.get("RANK") == os.environ.get("DIES", "nobody"):
            time.sleep(1)  # the first epoch's progress is written beside the second
            os.kill(os.getpid(), signal.SIGKILL)
        return super().loss(net, batch)
"""

WAITS = """
import os, time
from pathlib import Path

def work(folder, team, device, progress):
    (Path(folder) / f"{os.getpid()}.pid").touch()
    while len(list(Path(folder).glob("*.pid"))) < team.size:
        time.sleep(0.05)
    progress("wait", 1, 2)
    time.sleep(600)
"""


@pytest.fixture(scope="module", autouse=True)
def _warm() -> None:
    pool.warm()


def read(folder: Path, text: str = SUITE) -> dict[str, RunSpec]:
    path = folder / "shared.toml"
    path.write_text(text)
    return {found.contestant.name: found for found in suite.read(str(path)).runs}


def place(folder: Path, processes: int = 1, progress=run.silent) -> run.Place:
    return run.Place(folder, Cache(folder), progress=progress, processes=processes)


def off(one: torch.nn.Module, other: torch.nn.Module) -> float:
    """The largest difference between two networks' weights."""
    theirs = other.state_dict()
    assert one.state_dict().keys() == theirs.keys()
    return max(float((v - theirs[k]).abs().max()) for k, v in one.state_dict().items())


def gone(folder: Path) -> bool:
    """Whether the processes that left their number have ended, or do so within ten seconds."""
    pids = [int(path.stem) for path in folder.glob("*.pid")]
    assert pids
    end = time.monotonic() + 10
    while left := [pid for pid in pids if Path(f"/proc/{pid}").exists()]:
        if time.monotonic() > end:
            return not left
        time.sleep(0.05)
    return True


EVEN = {"batch_size": 20, "accumulate": 2, "select": "loss", "validation": 0.2,
        "augment": ({"name": "RandomHorizontalFlip"}, {"name": "RandomRotation", "degrees": 9})}


@pytest.mark.parametrize(("name", "recipe"), [
    ("gp-unet", {}),  # slices of 12 and 13, and a loss that is a weighted mean
    pytest.param("softcam", EVEN, marks=pytest.mark.slow),
])
def test_two_processes_train_the_network_that_one_trains(name, recipe, tmp_path: Path) -> None:
    spec = read(tmp_path)[name]
    spec = replace(spec, recipe=replace(spec.recipe, **recipe))
    alone = run.network(spec, place(tmp_path / "one"))
    both = run.network(spec, place(tmp_path / "two", 2))
    assert (alone.processes, both.processes) == (1, 2)
    assert both.trained
    assert 0 < off(alone.net, both.net) < 1e-5
    start = suite.trainer_of(spec).network()
    assert off(alone.net, start) > 1e-3  # it learnt something
    facts = {}
    for folder in ("one", "two"):  # by one process, which reads the network
        assert not run.run(spec, (), place(tmp_path / folder)).failures
        (path,) = (tmp_path / folder).glob("shared/**/run.json")
        facts[folder] = read_json(path)["device"]
    assert facts["two"] == f"{facts['one']}; trained by 2 processes"


def test_a_training_whose_process_was_killed_is_ended_by_another_number_of_them(
    door: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    plugin = tmp_path / "fragile.py"
    plugin.write_text(FRAGILE)
    plugins.load([plugin])
    spec = read(tmp_path, SUITE.replace('"gp-unet", "batchcam"', '"fragile"').replace(
        "[method.gp-unet.train]\nwidth = 4\ndepth = 2\ndropout = 0.0\n", ""))["fragile"]
    whole = run.network(spec, place(tmp_path / "whole"))
    monkeypatch.setenv("DIES", "1")
    cut = place(tmp_path / "cut", 2)
    with pytest.raises(MemoryError, match="that shared the training was killed"):
        run.network(spec, cut)
    _, facts = read_arrays(cut.cache.wip(spec.model_id))
    assert (facts["best"], facts["epoch"]) == (None, 1)
    monkeypatch.delenv("DIES")
    seen: list[int] = []
    resumed = run.network(spec, place(tmp_path / "cut", 1, lambda _w, done, _t: seen.append(done)))
    assert seen[0] == 1  # not from the beginning
    assert off(whole.net, resumed.net) < 1e-5
    assert not cut.cache.wip(spec.model_id).exists()
    assert resumed.cost["forward"] == whole.cost["forward"] == resumed.cost["backward"]
    assert resumed.cost["seconds"] > facts["cost"]["seconds"] > 0


def test_a_loss_that_diverges_is_told_in_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str],
) -> None:
    spec = read(tmp_path)["softcam"]
    wild = replace(spec, recipe=replace(spec.recipe, epochs=9, lr=1e30))
    outcome = run.fit(wild, place(tmp_path, 2))
    said = outcome.bad_input["train"]
    assert said.startswith("training digits/softcam/seed 0 diverged in epoch ")
    assert said.endswith("; lower the recipe's lr")
    assert capfd.readouterr() == ("", "")


def test_who_stops_waiting_leaves_no_process_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "waits.py").write_text(WAITS)
    monkeypatch.syspath_prepend(tmp_path)
    from waits import work

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    handlers = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(KeyboardInterrupt):
        parallel.launch(work, tmp_path, processes=2, device=torch.device("cpu"),
                        progress=interrupt)
    assert gone(tmp_path)
    assert handlers == [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]


def test_a_job_that_is_told_to_end_ends_and_has_not_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "waits_too.py").write_text(WAITS)
    monkeypatch.syspath_prepend(tmp_path)
    from waits_too import work

    def tell(*_: object) -> None:
        for told in (signal.SIGUSR2, signal.SIGTERM):  # the first says that time runs out
            for path in tmp_path.glob("*.pid"):
                os.kill(int(path.stem), told)
            time.sleep(0.1)

    with pytest.raises(SystemExit, match="143"):
        parallel.launch(work, tmp_path, processes=2, device=torch.device("cpu"), progress=tell)
    assert gone(tmp_path)


@pytest.mark.slow
def test_who_is_killed_leaves_no_process_behind(tmp_path: Path) -> None:
    (tmp_path / "waits.py").write_text(WAITS)
    (tmp_path / "main.py").write_text("""
import sys
import torch
from bench import parallel
from waits import work
if __name__ == "__main__":
    parallel.launch(work, sys.argv[1], processes=2, device=torch.device("cpu"), progress=print)
""")
    started = subprocess.Popen([sys.executable, "main.py", "."], cwd=tmp_path,
                               env={**os.environ, "PYTHONPATH": str(Path.cwd())})
    end = time.monotonic() + 120
    while len(list(tmp_path.glob("*.pid"))) < 2:
        assert started.poll() is None
        assert time.monotonic() < end
        time.sleep(0.05)
    started.kill()
    started.wait()
    assert gone(tmp_path)


@pytest.mark.slow
def test_post_fitting_starts_from_a_base_that_was_shared_too(tmp_path: Path) -> None:
    text = SUITE.replace('"softcam", "gp-unet", "batchcam"', '"cape-pf"').replace(
        'convnext_atto"', 'resnet18"').replace(
        "depths = [1, 1, 1, 1], dims = [4, 8, 8, 16]",
        'layers = [1, 1, 1, 1], channels = [64, 64, 64, 64], norm_layer = "groupnorm", '
        'output_stride = 8')
    for table in ("[method.softcam.train]\nlasso = 1e-3\n",
                  "[method.gp-unet.train]\nwidth = 4\ndepth = 2\ndropout = 0.0\n"):
        text = text.replace(table, "")
    spec = read(tmp_path, text)["cape-pf"]
    assert spec.base
    alone = run.network(spec, place(tmp_path / "one"))
    seen: list[str] = []
    both = run.network(spec, place(tmp_path / "two", 2, lambda what, _d, _t: seen.append(what)))
    assert list(dict.fromkeys(seen)) == ["train plain", "train cape-pf"]
    assert both.processes == run.network(spec.base, place(tmp_path / "two")).processes == 2
    assert off(alone.net, both.net) < 1e-5


def test_a_loss_that_cannot_be_split_is_trained_by_one_process(tmp_path: Path) -> None:
    spec = read(tmp_path)["batchcam"]
    seen: list[str] = []
    one = run.network(spec, place(tmp_path / "one"))
    two = run.network(spec, place(tmp_path / "two", 2, lambda what, _d, _t: seen.append(what)))
    assert set(seen) == {"train batchcam (one process: its loss is of whole batches)"}
    assert (two.checkpoint, two.processes) == (one.checkpoint, 1)


def test_batch_norm_on_cpus_is_refused_and_a_frozen_one_is_not() -> None:
    net = nets.build(testing.TINY, channels=1, classes=3)
    assert Team().ready(net) is net
    with pytest.raises(HeatproofError, match=r"BatchNorm.*cannot share on CPUs;") as told:
        Team(0, 2).ready(net)
    assert "\n" not in str(told.value)

    class Frozen(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone, self.head = net, torch.nn.Linear(3, 3)

        def train(self, mode: bool = True) -> Frozen:
            super().train(mode)
            self.backbone.eval()
            return self

    assert isinstance(Team(0, 2).ready(Frozen()), Frozen)


def test_batch_norm_of_gpus_goes_over_all_processes_and_keeps_names_and_activations() -> None:
    options = {"drop_rate": 0.0, "block_config": [1, 1], "growth_rate": 4}
    net = timm.create_model("densenet121", in_chans=1, **options).to("meta")
    names, parameters = list(net.state_dict()), list(net.parameters())
    acts = [type(m.act) for m in net.modules() if isinstance(m, timm.layers.BatchNormAct2d)]
    assert acts
    ready = Team(0, 2).ready(net)
    norms = [m for m in ready.modules() if isinstance(m, torch.nn.SyncBatchNorm)]
    assert not [m for m in ready.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert [type(m.act) for m in norms if hasattr(m, "act")] == acts
    assert list(ready.state_dict()) == names
    assert all(a is b for a, b in zip(ready.parameters(), parameters, strict=True))


@pytest.mark.gpu
def test_two_gpus_train_the_network_that_one_trains(tmp_path: Path) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    pool.compute_alike()
    text = SUITE.replace('convnext_atto"', 'resnet18"').replace(
        "depths = [1, 1, 1, 1], dims = [4, 8, 8, 16]", "output_stride = 8")
    spec = read(tmp_path, text)["softcam"]
    one, two = (run.network(spec, replace(place(tmp_path / str(n), n), device="cuda")).net
                for n in (1, 2))
    assert off(one, two) < 1e-4


@pytest.mark.parametrize("n", [3, 4, 7])
def test_the_slices_of_a_batch_are_the_batch(n: int) -> None:
    _, batch = testing.tiny_batch(n=n)
    parts = [Team(rank, 3).part(batch) for rank in range(3)]
    assert sum((part.key for part in parts), ()) == batch.key
    assert torch.equal(torch.cat([part.x for part in parts]), batch.x)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    with pytest.raises(HeatproofError, match="cannot share a batch of 3; train with processes = 3"):
        Team(0, 8).part(batch[:3])


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(HeatproofError, match=r"need a GPU each, and 2 can be seen; ask for more"):
        parallel.launch(print, processes=4, device=torch.device("cuda"), progress=run.silent)


class Liar(Method):
    """Says of a loss of whole batches that it splits."""

    name, version = "liar", "1"

    def loss(self, net, batch):
        return net(batch.x).std()

    def explain(self, net, batch, target):
        return batch.x[:, 0]


def splits(make: Callable[..., Method]) -> testing.Finding:
    card, batch = testing.tiny_batch()
    method = make(card, nets.maker(testing.TINY, card, 0))
    net = method.network()
    method.prepare(net, [batch])
    return testing._splits(method, net.eval(), batch)


def test_the_check_finds_out_who_says_wrongly_that_its_loss_splits() -> None:
    (found,) = [f for f in testing.check_method(Liar, channels=(1,)) if "splits" in f.expected]
    assert not found.ok


WEIGHTS = {"softcam": {"lasso": 0.1, "ridge": 0.1}}
OF_WHOLE_BATCHES = {"batchcam": {}, "softcam": {"first_sample": True, "lasso": 0.1}}


@pytest.mark.parametrize("name", ["plain", "softcam", "softcam-converted", "cape", "gp-unet",
                                  "gp-shuffleunet", "gp-reconresnet"])
def test_the_losses_of_these_split(name: str) -> None:
    cls = plugins.trainer(name)
    params = {**cls.check_params, **WEIGHTS.get(name, {})}
    assert cls(*_tiny(), train=params).splits
    assert splits(partial(cls, train=params)).ok


@pytest.mark.parametrize(("name", "params"), OF_WHOLE_BATCHES.items())
def test_the_losses_of_these_do_not_split_and_they_say_so(name: str, params) -> None:
    cls = plugins.trainer(name)
    assert not cls(*_tiny(), train=params).splits
    assert not splits(partial(cls, train=params)).ok


def _tiny():
    card, _ = testing.tiny_batch()
    return card, nets.maker(testing.TINY, card, 0)


def test_every_trainer_was_looked_at() -> None:
    assert {name for name in plugins.methods if plugins.methods[name].trains()} == {
        "softcam", "softcam-converted", "cape", "cape-pf", "gp-unet", "gp-shuffleunet",
        "gp-reconresnet", "batchcam"}
