"""Training: twins, once for all who share, and the same result after an interruption."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bench import nets, run, suite, train
from bench.core import HeatproofError
from bench.spec import Recipe, RunSpec
from bench.store import Cache, read_arrays


def fitted(spec: RunSpec, cache: Cache, progress=lambda *_: None) -> train.Fitted:
    return run.network(spec, run.Place(Path("nowhere"), cache, progress=progress))


@pytest.fixture
def specs(tiny_suite: suite.Suite) -> dict[str, RunSpec]:
    return {run.contestant.name: run for run in tiny_suite.runs}


def test_a_network_is_trained_once_for_all_who_share_it(specs, tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    first = fitted(specs["gradcam"], cache)
    again = fitted(specs["noise"], cache)
    assert first.trained
    assert not again.trained
    assert first.checkpoint == again.checkpoint
    assert fitted(specs["softcam"], cache).trained
    assert not fitted(specs["gradcam@softcam"], cache).trained
    assert len(list((tmp_path / "models").rglob("*.safetensors"))) == 2
    x = torch.randn(3, 1, 32, 32)
    assert torch.equal(first.net(x), again.net(x))
    assert not first.net.training


def test_the_twins_share_backbone_first_weights_and_data_order(specs) -> None:
    nets_of = {name: suite.trainer_of(specs[name]).network() for name in ("gradcam", "softcam")}
    plain, own = nets_of["gradcam"].state_dict(), nets_of["softcam"].backbone.state_dict()
    assert set(plain) - set(own) == {"fc.weight", "fc.bias"}
    assert all(torch.equal(plain[key], own[key]) for key in own)

    seen: dict[str, list[str]] = {}

    def note(name: str, wrapped):
        def loss(net, batch):
            seen.setdefault(name, []).append(f"{batch.key}{batch.x.sum():.6f}")
            return wrapped(net, batch)
        return loss

    for name in ("gradcam", "softcam"):
        trainer = suite.trainer_of(specs[name])
        trainer.loss = note(name, trainer.loss)
        train.fitted(trainer, specs[name], run.material(specs[name], run.Place(Path(), Cache())),
                     Cache(), device=torch.device("cpu"), progress=lambda *_: None)
    assert seen["gradcam"] == seen["softcam"]
    assert len(set(seen["gradcam"])) == len(seen["gradcam"])


class Stop(BaseException):
    """Something that no handler catches, like a kill."""


def test_a_training_that_was_killed_ends_with_the_same_bytes(specs, tmp_path: Path) -> None:
    whole = fitted(specs["softcam"], Cache(tmp_path / "whole"))

    def stop(what: str, done: int, total: int) -> None:
        if done == 1:
            raise Stop

    cut = Cache(tmp_path / "cut")
    with pytest.raises(Stop):
        fitted(specs["softcam"], cut, stop)
    assert cut.wip(specs["softcam"].model_id).is_file()
    seen: list[int] = []
    resumed = fitted(specs["softcam"], cut, lambda _what, done, _total: seen.append(done))
    assert seen[0] == 1  # not from the beginning
    assert resumed.checkpoint == whole.checkpoint
    assert not cut.wip(specs["softcam"].model_id).exists()


def test_what_a_method_prepares_is_there_again_when_a_training_goes_on(
    specs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    from bench.core import Plain

    def prepare(self, net, batches) -> None:
        self.mean = torch.cat([batch.x for batch in batches]).mean()

    def loss(self, net, batch):
        return Plain.__mro__[1].loss(self, net, batch) + self.mean * net(batch.x).square().mean()

    monkeypatch.setattr(Plain, "prepare", prepare)
    monkeypatch.setattr(Plain, "loss", loss)
    whole = fitted(specs["gradcam"], Cache(tmp_path / "whole"))

    def stop(what: str, done: int, total: int) -> None:
        if done == 1:
            raise Stop

    cut = Cache(tmp_path / "cut")
    with pytest.raises(Stop):
        fitted(specs["gradcam"], cut, stop)
    assert fitted(specs["gradcam"], cut).checkpoint == whole.checkpoint


def test_a_torn_progress_file_means_to_begin_again(specs, tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    wip = cache.wip(specs["gradcam"].model_id)
    wip.parent.mkdir(parents=True)
    wip.write_bytes(b"torn")
    assert fitted(specs["gradcam"], cache).trained


def test_training_moves_no_global_state(specs, tmp_path: Path) -> None:
    before = torch.get_rng_state()
    fitted(specs["gradcam"], Cache(tmp_path))
    assert torch.equal(before, torch.get_rng_state())


def test_a_checkpoint_of_another_model_says_which_keys_differ(specs, tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    fitted(specs["gradcam"], cache)
    path = cache.path("models", specs["gradcam"].model_id)
    other = nets.build(specs["gradcam"].backbone, channels=1, classes=3)
    with pytest.raises(HeatproofError, match=r"checkpoint of another model: fc\.bias is \(10,\)"):
        train.load_weights(other, path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(HeatproofError, match="damaged"):
        train.load_weights(other, path)


def test_a_loss_that_diverges_is_told_with_its_cure(specs, tmp_path: Path) -> None:
    wild = replace(specs["gradcam"], recipe=Recipe(epochs=3, lr=1e30, samples=96))
    with pytest.raises(HeatproofError, match="lower the recipe's lr"):
        fitted(wild, Cache(tmp_path))


def test_channels_last_and_mixed_precision_are_another_network_and_plain_in_the_end(
    specs, tmp_path: Path,
) -> None:
    spec = specs["gradcam"]
    assert {"precision", "channels_last"}.isdisjoint(spec.recipe.facts())  # older names stay
    wanted = replace(spec, recipe=replace(spec.recipe, precision="mixed", channels_last=True))
    assert wanted.model_id != spec.model_id
    plain, other = fitted(spec, Cache(tmp_path)), fitted(wanted, Cache(tmp_path))
    pairs = list(zip(plain.net.parameters(), other.net.parameters(), strict=True))
    assert all(own.is_contiguous() for _, own in pairs)
    # A CPU has no mixed precision here, so all that differs is the order of sums.
    assert max(float((a - b).abs().max()) for a, b in pairs) < 1e-3
    assert not all(torch.equal(a, b) for a, b in pairs)
    x = torch.randn(3, 1, 32, 32)
    assert torch.equal(other.net(x), fitted(wanted, Cache(tmp_path)).net(x))


def test_an_unknown_precision_names_the_known_ones(tiny_text: str, tmp_path: Path) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(tiny_text.replace("epochs = ", 'precision = "half"\nepochs = ', 1))
    with pytest.raises(HeatproofError, match=r"precision in .*'half'.*(full|mixed)"):
        suite.read(str(path))


def test_images_that_are_held_on_a_device_make_the_same_batches(specs) -> None:
    spec = specs["gradcam"]
    plain, held = (run._batches(spec, "train") for _ in range(2))
    held.hold(torch.device("cpu"))
    for at in (None, [3, 1, 1]):
        a, b = plain.batch(at), held.batch(at)
        assert torch.equal(a.x, b.x) and torch.equal(a.y, b.y) and a.key == b.key
    before = held.batch([0]).x.clone()
    held.batch([0]).x.zero_()
    assert torch.equal(held.batch([0]).x, before)  # what is held stays what it is


def test_what_a_training_cost_stands_beside_its_weights_and_adds_up_over_attempts(
    specs, tmp_path: Path,
) -> None:
    def stop(what: str, done: int, total: int) -> None:
        if done == 1:
            raise Stop

    spec, cut = specs["softcam"], Cache(tmp_path / "cut")
    whole = fitted(spec, Cache(tmp_path / "whole")).cost
    with pytest.raises(Stop):
        fitted(spec, cut, stop)
    (first,) = read_arrays(cut.wip(spec.model_id))[1:]
    cost = fitted(spec, cut).cost
    images = spec.recipe.epochs * len(run._batches(spec, "train"))
    assert images * .5 < cost["forward"] == cost["backward"] == whole["forward"] <= images
    assert cost["seconds"] > first["cost"]["seconds"] > 0
    assert cost["peak"] >= first["cost"]["peak"] > 2**20
    assert fitted(spec, cut).cost == cost  # from the cache


def test_what_is_written_beside_a_training_is_ended_and_its_failure_told() -> None:
    done: list[int] = []

    def slow(value: int) -> None:
        time.sleep(.05)
        done.append(value)

    with pytest.raises(Stop), train.Beside() as beside:
        beside.do(slow, 1)
        raise Stop
    assert done == [1]

    def full() -> None:
        raise HeatproofError("the disk is full")

    with pytest.raises(HeatproofError, match="full"), train.Beside() as beside:
        beside.do(full)
    with pytest.raises(HeatproofError, match="full"), train.Beside() as beside:
        beside.do(full)
        beside.do(slow, 2)
    assert done == [1]


def test_a_torn_record_of_the_cost_stops_nobody(specs, tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    assert fitted(specs["gradcam"], cache).cost
    (path,) = (tmp_path / "models").rglob("*.cost.json")
    path.write_text("{")
    assert fitted(specs["noise"], cache).cost is None
