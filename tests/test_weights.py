"""Published checkpoints: every layout is read, and whatever does not fit is told in one line."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from bench import run, suite, weights
from bench.core import HeatproofError
from bench.spec import RunSpec
from bench.store import Cache


@pytest.fixture
def spec(tiny_suite: suite.Suite) -> RunSpec:
    return next(run for run in tiny_suite.runs if run.contestant.name == "gradcam")


@pytest.fixture
def state(spec: RunSpec) -> dict[str, Tensor]:
    torch.manual_seed(5)
    return {key: torch.rand_like(value) if value.is_floating_point() else value + 3
            for key, value in suite.trainer_of(spec).network().state_dict().items()}


def network(spec: RunSpec, path: object, folder: Path) -> torch.nn.Module:
    given = replace(spec, weights=str(path), weights_id=weights.identity(str(path)))
    fitted = run.network(given, run.Place(folder, Cache(folder / "cache")))
    assert not fitted.trained
    return fitted.net


@pytest.mark.parametrize("wrap", [
    lambda state: state,
    lambda state: {"state_dict": state, "epoch": 3},
    lambda state: {"model": state},
    lambda state: {f"module.{key}": value for key, value in state.items()},
])
def test_a_state_dict_is_found_in_whatever_a_trainer_wraps_around_it(
    wrap, spec: RunSpec, state: dict[str, Tensor], tmp_path: Path,
) -> None:
    torch.save(wrap(state), tmp_path / "net.pth")
    found = network(spec, tmp_path / "net.pth", tmp_path).state_dict()
    assert all(torch.equal(found[key], value) for key, value in state.items())


def test_safetensors_are_read_and_the_cached_copy_serves_again(
    spec: RunSpec, state: dict[str, Tensor], tmp_path: Path,
) -> None:
    save_file(state, tmp_path / "net.safetensors")
    first = network(spec, tmp_path / "net.safetensors", tmp_path)
    (tmp_path / "moved").mkdir()
    moved = (tmp_path / "net.safetensors").rename(tmp_path / "moved" / "other.safetensors")
    second = network(spec, moved, tmp_path)
    assert torch.equal(first.fc.weight, second.fc.weight)
    assert len(list((tmp_path / "cache").rglob("*.safetensors"))) == 1  # the content is its name


def test_other_weights_are_another_model(
    spec: RunSpec, state: dict[str, Tensor], tmp_path: Path,
) -> None:
    ids = set()
    for bias in (0.0, 1.0):
        torch.save({**state, "fc.bias": state["fc.bias"] + bias}, tmp_path / f"{bias}.pth")
        path = str(tmp_path / f"{bias}.pth")
        ids.add(replace(spec, weights=path, weights_id=weights.identity(path)).model_id)
    assert len(ids | {spec.model_id}) == 3


def test_a_checkpoint_of_another_shape_says_which_keys_differ(
    spec: RunSpec, state: dict[str, Tensor], tmp_path: Path,
) -> None:
    torch.save({**state, "fc.bias": torch.zeros(7), "odd": torch.zeros(1)}, tmp_path / "net.pth")
    with pytest.raises(HeatproofError, match=(
            r"net\.pth is the checkpoint of another model: fc\.bias is \(7,\), not \(10,\); "
            "unknown odd")):
        network(spec, tmp_path / "net.pth", tmp_path)


class Bomb:
    """Runs when it is unpickled without care."""

    def __reduce__(self):
        return os.system, ("touch exploded",)


def test_a_pickle_that_could_run_code_is_refused(
    spec: RunSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Bomb()}, "net.pth")
    with pytest.raises(HeatproofError, match="could run code"):
        network(spec, "net.pth", tmp_path)
    assert not Path("exploded").exists()


@pytest.mark.parametrize(("name", "content", "says"), [
    ("net.pth", b"torn", "damaged or no checkpoint"),
    ("net.safetensors", b"torn", "damaged or no checkpoint"),
    ("gone.pth", None, "there is no checkpoint"),
    ("no such place", None, "path of a"),
])
def test_a_file_that_is_no_checkpoint_is_told_in_one_line(
    name: str, content: bytes | None, says: str, spec: RunSpec, tmp_path: Path,
) -> None:
    if content:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(HeatproofError, match=says) as error:
        network(spec, tmp_path / name, tmp_path)
    assert "\n" not in str(error.value)


def test_something_else_than_tensors_is_told(spec: RunSpec, tmp_path: Path) -> None:
    torch.save({"lr": 0.1}, tmp_path / "net.pth")
    with pytest.raises(HeatproofError, match="'lr' is no tensor"):
        network(spec, tmp_path / "net.pth", tmp_path)
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(HeatproofError, match="no state dict"):
        network(spec, tmp_path / "list.pth", tmp_path)


HUB = """
import sys
from bench import weights
print(weights.identity(sys.argv[1]))
print(sorted(weights.load(sys.argv[1])))
"""


def hub(home: Path, name: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", HUB, name], capture_output=True, text=True, check=False,
        env={**os.environ, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1"})


def test_a_hub_id_is_read_from_the_hubs_layout(state: dict[str, Tensor], tmp_path: Path) -> None:
    # What the hub's client keeps on a machine: refs name a commit, snapshots hold its files.
    repo, commit = tmp_path / "hub" / "models--some--net", "0123456789abcdef" * 2 + "01234567"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "v1").write_text(commit)
    (repo / "snapshots" / commit).mkdir(parents=True)
    save_file(state, repo / "snapshots" / commit / "model.safetensors")
    found = hub(tmp_path, "some/net@v1")
    assert found.stdout.splitlines() == ["hub:some/net@v1", str(sorted(state))], found.stderr
    lost = hub(tmp_path, "some/other@v1")
    assert "the hub's some/other@v1 cannot be loaded" in lost.stderr


def test_a_suite_takes_published_weights_for_one_trainer(
    tiny: Path, state: dict[str, Tensor], tmp_path: Path,
) -> None:
    path = tmp_path / "net.pth"
    torch.save(state, path)
    tiny.write_text(tiny.read_text() + f"""
[dataset.digits.trainer.plain]
weights = "{path}"
""")
    runs = {found.contestant.name: found for found in suite.read(str(tiny)).runs}
    assert runs["gradcam"].weights_id.startswith("sha256:")
    assert not runs["softcam"].weights
    assert runs["gradcam"].model_id == runs["noise"].model_id
    net = run.network(runs["gradcam"], run.Place(tmp_path, Cache(tmp_path))).net
    assert torch.equal(net.fc.weight, state["fc.weight"])
    path.unlink()
    with pytest.raises(HeatproofError, match="there is no checkpoint"):
        suite.read(str(tiny))
