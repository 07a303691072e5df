"""What cells will cost: by hand calculation, from results of any suite, damaged ones among them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from bench import cells, cli, suite
from bench.cells import Cell, planned
from bench.cost import Cost, cost, measured
from bench.outcome import Outcome
from bench.results import Folder
from bench.run import Place
from bench.spec import RunSpec
from bench.store import Cache, write_json

CPU = "cpu (x86_64, 1 thread)"
METRICS = ("accuracy", "quantus/PixelFlipping", "quantus/PointingGame", "quantus/MPRT")
Write = Callable[..., Path]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """No results and an empty cache."""
    return Place(tmp_path / "out", Cache(tmp_path / "cache"))


@pytest.fixture
def left(tiny_suite: suite.Suite) -> dict[str, Cell]:
    """All cells of a suite that was never run: 2 networks, 5 runs and 4 proofs."""
    return planned(tiny_suite, tiny_suite.runs)


@pytest.fixture
def write(place: Place) -> Write:
    """Writes the run.json of a run, by default of another suite."""
    def write(spec: RunSpec, score: dict[str, Any] | None = None, *, other: bool = True,
              device: str = CPU, images: int = 10, explain: Any = 5.0, **more: Any) -> Path:
        spec = replace(spec, suite="other") if other else spec
        path = Folder.of(spec, place.out).path / "run.json"
        write_json(path, {
            "spec": spec.to_json(), "device": device, "additivity": {"images": images},
            "metrics": {}, "measured": {
                "explain": explain, "passes": {"forward": 1.0, "backward": 0.0},
                "score": score or {}, **more}})
        return path

    return write


def trained(seconds: Any, *, backward: int = 0, peak: int = 0) -> dict[str, Any]:
    return {"train": {"seconds": seconds, "forward": backward, "backward": backward, "peak": peak}}


def run_of(found: suite.Suite, contestant: str) -> RunSpec:
    return next(run for run in found.runs if run.contestant.name == contestant)


def cell_of(found: dict[str, Cell], stage: str, who: str) -> dict[str, Cell]:
    """One cell by its stage and its contestant, or trainer."""
    return {key: one for key, one in found.items() if one.stage == stage and one.spec
            and who == (one.spec.contestant.trainer if stage == "train"
                        else one.spec.contestant.name)}


def of(found: Cost, stage: str) -> float:
    return found.seconds[stage]


def test_a_whole_suite_is_predicted_by_hand(
    tiny_suite: suite.Suite, left: dict[str, Cell], place: Place, write: Write,
) -> None:
    for n, run in enumerate(tiny_suite.runs, 1):
        write(run, dict.fromkeys(METRICS, 2.0 * n), explain=1.0 * n, cost={
            **trained(30.0 if run.contestant.trainer == "plain" else 50.0, peak=3 * 2**30),
            "explain": {"seconds": 1.0, "forward": 1, "backward": 1, "peak": 2**29},
            "score": {"seconds": 1.0, "forward": 1, "backward": 1, "peak": n * 2**30}})
    found = cost(left, left, place)
    # Six of ten images each: explain n, and four metrics of 2 n seconds.
    assert of(found, "score") == pytest.approx(sum(0.6 * 9 * n for n in range(1, 6)))
    assert of(found, "train") == pytest.approx(30 + 50)  # five runs of two networks
    assert found.peak == {"train": 3 * 2**30, "score": 5 * 2**30}
    assert (found.guessed, found.unknown, found.metrics) == (0, 4, ())  # the proofs
    assert found.device == CPU
    assert found.hours == pytest.approx((81 + 80) / 3600)
    assert found.gpu_hours({"train": 2, "score": 1}) == pytest.approx((160 + 81) / 3600)
    assert str(found) == (
        "about 161.0 seconds of one process (train 80.0, score 81.0), at most 5.0 GiB "
        f"(train 3.0, score 5.0); measured on {CPU}, 4 unknown")


def test_only_what_a_run_lacks_is_counted(
    tiny_suite: suite.Suite, left: dict[str, Cell], place: Place, write: Write,
) -> None:
    run = run_of(tiny_suite, "noise")
    write(run, dict(zip(METRICS, (1.0, 10.0, 100.0, 1000.0), strict=True)), explain=7.0)
    one = cell_of(left, "score", "noise")
    assert of(cost(one, left, place), "score") == pytest.approx(0.6 * 1118)
    for metric in METRICS[:3]:
        path = Folder.of(run, place.out).score_path(metric)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert of(cost(one, left, place), "score") == pytest.approx(0.6 * 1007)
    maps = place.cache.path("maps", run.maps_id)
    maps.parent.mkdir(parents=True)
    maps.touch()
    assert of(cost(one, left, place), "score") == pytest.approx(0.6 * 1000)


def test_another_battery_is_predicted_and_what_nobody_measured_is_named(
    tiny_suite: suite.Suite, left: dict[str, Cell], place: Place, write: Write,
) -> None:
    write(run_of(tiny_suite, "noise"), {"accuracy": 10.0, "road": 1e6}, explain=0.0)
    found = cost(cell_of(left, "score", "noise"), left, place)
    assert of(found, "score") == pytest.approx(6.0)  # what is known of it
    assert (found.guessed, found.unknown) == (0, 1)
    assert found.metrics == tuple(sorted(METRICS[1:]))
    assert "1 unknown: metrics quantus/MPRT, quantus/PixelFlipping" in str(found)


def test_the_nearest_stands_in_for_what_is_not_measured(
    tiny_suite: suite.Suite, left: dict[str, Cell], place: Place, write: Write,
) -> None:
    def elsewhere(run: RunSpec, backbone: str = "resnet50") -> RunSpec:
        return replace(run, dataset="far", backbone=replace(run.backbone, name=backbone))

    gradcam, noise = (run_of(tiny_suite, name) for name in ("gradcam", "noise"))
    one = cell_of(left, "score", "gradcam")

    def predicted() -> float:
        found = cost(one, left, place)
        assert found.guessed == len(one) * (not near)
        return of(found, "score") / 0.6

    near = False
    score = dict.fromkeys(METRICS, 1.0)
    write(elsewhere(noise), dict.fromkeys(METRICS, 1000.0), explain=50.0)
    assert predicted() == pytest.approx(4050)  # nothing but these metrics
    write(elsewhere(noise, "resnet18"), dict.fromkeys(METRICS, 100.0), explain=40.0)
    assert predicted() == pytest.approx(440)   # the network
    write(replace(noise, backbone=replace(noise.backbone, name="resnet50")),
          dict.fromkeys(METRICS, 10.0), explain=30.0)
    assert predicted() == pytest.approx(70)    # the data set
    write(elsewhere(gradcam), dict.fromkeys(METRICS, 777.0), explain=20.0)
    assert predicted() == pytest.approx(60)    # maps: the contestant, wherever it was
    write(gradcam, score, explain=10.0)
    near = True
    assert predicted() == pytest.approx(14)


def test_maps_that_were_only_read_say_nothing_of_what_maps_cost(
    tiny_suite: suite.Suite, left: dict[str, Cell], place: Place, write: Write,
) -> None:
    run = run_of(tiny_suite, "noise")
    write(run, dict.fromkeys(METRICS, 0.0), explain=8.0)
    path = write(replace(run, seed=7), dict.fromkeys(METRICS, 0.0), explain=0.001)
    info = json.loads(path.read_text())
    del info["measured"]["passes"]
    path.write_text(json.dumps(info))
    assert of(cost(cell_of(left, "score", "noise"), left, place), "score") == pytest.approx(4.8)


def test_all_samples_are_as_many_as_another_run_found(
    tiny_suite: suite.Suite, place: Place, write: Write,
) -> None:
    run = replace(run_of(tiny_suite, "noise"), samples=0)
    whole = planned(tiny_suite, [run])
    one = cell_of(whole, "score", "noise")
    path = write(replace(run, samples=10), {"accuracy": 20.0}, explain=0.0)
    found = cost(one, whole, place)
    assert of(found, "score") == pytest.approx(20)  # nobody knows: as many as there
    assert found.guessed == 1
    path.unlink()
    write(replace(run, samples=500), {"accuracy": 90.0}, images=45, explain=0.0)  # asked for more
    write(replace(run, samples=9), {"accuracy": 36.0}, images=9, explain=0.0)
    found = cost(one, whole, place)
    assert of(found, "score") == pytest.approx(45 * (2 + 4) / 2)
    assert found.guessed == 0
    more = planned(tiny_suite, [replace(run, samples=1000)])
    found = cost(cell_of(more, "score", "noise"), more, place)
    assert of(found, "score") == pytest.approx(45 * 3)  # there are no more


def test_a_training_is_predicted_by_its_epochs_and_images(
    tiny_suite: suite.Suite, place: Place, write: Write,
) -> None:
    run = run_of(tiny_suite, "noise")  # 2 epochs of 96 images

    def asked(epochs: int, samples: int) -> RunSpec:
        return replace(run, recipe=replace(run.recipe, epochs=epochs, samples=samples))

    def predicted(epochs: int, samples: int) -> tuple[float, int]:
        plan = planned(tiny_suite, [asked(epochs, samples)])
        found = cost(cell_of(plan, "train", "plain"), plan, place)
        return of(found, "train"), found.guessed

    path = write(asked(2, 96), train=9.6)  # an older result: 0.05 s an image
    assert predicted(2, 96) == (pytest.approx(9.6), 0)
    assert predicted(5, 48) == (pytest.approx(12), 0)
    assert predicted(1, 0) == (pytest.approx(4.8), 1)  # of how many, nobody knows: as there
    write(replace(asked(4, 0), seed=1), cost=trained(400.0, backward=4 * 1000))  # 0.1 s an image
    assert predicted(2, 96)[0] == pytest.approx(2 * 96 * 0.075)
    path.unlink()
    assert predicted(3, 0) == (pytest.approx(300), 0)
    assert predicted(3, 100) == (pytest.approx(30), 0)
    assert predicted(3, 5000) == (pytest.approx(300), 0)  # there are no more


def test_a_trainers_network_is_nearer_than_any_other(
    tiny_suite: suite.Suite, left: dict[str, Cell], place: Place, write: Write,
) -> None:
    plain, soft = run_of(tiny_suite, "noise"), run_of(tiny_suite, "softcam")
    one = cell_of(left, "train", "softcam")
    write(replace(plain, dataset="far", backbone=replace(plain.backbone, name="x")), train=1.0)
    assert of(cost(one, left, place), "train") == pytest.approx(1)
    write(replace(plain, dataset="far"), train=2.0)
    assert of(cost(one, left, place), "train") == pytest.approx(2)
    write(plain, train=3.0)
    assert of(cost(one, left, place), "train") == pytest.approx(3)
    write(replace(soft, backbone=replace(soft.backbone, name="x")), train=4.0)
    assert of(cost(one, left, place), "train") == pytest.approx(4)
    assert cost(one, left, place).guessed == 1
    write(soft, train=5.0)
    found = cost(one, left, place)
    assert (of(found, "train"), found.guessed) == (pytest.approx(5), 0)


def test_a_network_of_many_runs_counts_once_and_by_what_its_training_wrote(
    tiny_suite: suite.Suite, left: dict[str, Cell], place: Place, write: Write,
) -> None:
    first, *others = [run for run in tiny_suite.runs if run.contestant.trainer == "plain"]
    write(first, train=1000.0)
    for run in others:
        write(run, cost=trained(20.0, peak=7))
    write(replace(first, seed=1), cost=trained(10.0, peak=5))
    found = cost(cell_of(left, "train", "plain"), left, place)
    assert of(found, "train") == pytest.approx((20 + 10) / 2)
    assert found.peak == {"train": 7}


def test_published_weights_are_not_trained(
    tiny_suite: suite.Suite, place: Place, write: Write,
) -> None:
    run = run_of(tiny_suite, "noise")
    write(run, train=1000.0)
    plan = planned(tiny_suite, [replace(run, weights="some/where", weights_id="x")])
    found = cost(cell_of(plan, "train", "plain"), plan, place)
    assert (of(found, "train"), found.guessed, found.unknown) == (0, 0, 0)


def test_kinds_of_device_are_not_mixed(
    tiny_suite: suite.Suite, left: dict[str, Cell], place: Place, write: Write,
) -> None:
    run = run_of(tiny_suite, "noise")
    score = dict.fromkeys(METRICS, 0.0)
    write(run, score, train=1000.0)
    for seed, device in enumerate(("cuda (A)", "cuda (B)", "cuda (A); trained by 2 processes"), 1):
        write(replace(run, seed=seed), score, device=device, explain=1.0, train=2.0)
    found = cost(cell_of(left, "score", "noise"), left, place)
    assert of(found, "score") == pytest.approx(0.6)
    assert of(cost(cell_of(left, "train", "plain"), left, place), "train") == pytest.approx(2)
    assert found.device == "cuda (A) and 1 more"


def test_what_a_run_had_made_on_another_kind_of_device_counts_there(
    tiny_suite: suite.Suite, left: dict[str, Cell], place: Place, write: Write,
) -> None:
    score, train = cell_of(left, "score", "noise"), cell_of(left, "train", "plain")
    run = run_of(tiny_suite, "noise")
    for seed, (device, seconds, unknown) in enumerate((("cuda (A)", 0.6 * 4, 1), (CPU, 5.4, 0))):
        write(replace(run, seed=seed), dict.fromkeys(METRICS, 1.0), cost={
            "train": {"seconds": 1000.0, "device": device}, "explain": {"device": device}})
        assert of(cost(score, left, place), "score") == pytest.approx(seconds)
        assert cost(score, left, place).unknown == cost(train, left, place).unknown == unknown
    assert of(cost(train, left, place), "train") == pytest.approx(1000)


def test_words_tell_of_what_no_results_do(
    tiny_suite: suite.Suite, left: dict[str, Cell], place: Place,
) -> None:
    def say(one: Cell, seconds: float) -> None:
        cells._leave_word(one, place.cache, 0, "done", Outcome(one.name), seconds=seconds)

    scores = [one for one in left.values() if one.stage == "score"]
    for one, seconds in zip(scores[:2], (10.0, 20.0), strict=True):
        say(one, seconds)
    rest = {k: one for k, one in left.items() if one not in scores[:2]}
    found = cost(rest, left, place)
    assert found.seconds == {"score": 3 * 15.0}  # no run of the others is done: the data set's mean
    assert found.guessed == 3
    assert found.unknown == len([one for one in rest.values() if one.stage != "score"])
    assert found.gpu_hours({"score": 2}) == pytest.approx(90 / 3600)
    proofs = [one for one in left.values() if one.stage == "prove"]
    say(proofs[0], 4.0)
    say(next(iter(cell_of(left, "train", "plain").values())), 30.0)
    found = cost(rest, left, place)
    assert found.seconds["prove"] == 4 * 4.0
    assert found.seconds["train"] == 30 + 30
    assert (found.guessed, found.unknown) == (3 + 3 + 1, 0)


HOSTILE = [math.nan, math.inf, -1, -0.5, "5", None, [], {}, True, 1e300, 10**400]


@pytest.mark.parametrize("value", HOSTILE, ids=str)
def test_a_time_that_is_none_counts_for_nothing(
    value: object, tiny_suite: suite.Suite, left: dict[str, Cell], place: Place, write: Write,
) -> None:
    run = run_of(tiny_suite, "noise")
    write(run, dict.fromkeys(METRICS, 1.0), explain=1.0, train=2.0)
    write(replace(run, seed=1), dict.fromkeys(METRICS, value), explain=value, train=value,
          cost=trained(value))
    rest = cell_of(left, "score", "noise") | cell_of(left, "train", "plain")
    found = cost(rest, left, place)
    assert found.seconds == {"train": pytest.approx(2), "score": pytest.approx(3)}
    assert math.isfinite(found.hours)


@pytest.mark.parametrize("content", [
    "", "{torn", "[]", "null", "3", '"text"', "{}", "\0", "[" * 100_000,
    '{\n "metrics": 1,\n "spec": 2\n}', '{\n "metrics": {\n "spec": {}}}',
], ids=lambda text: text[:12])
def test_damaged_results_are_passed_over(
    content: str, tiny_suite: suite.Suite, left: dict[str, Cell], place: Place, write: Write,
) -> None:
    run = run_of(tiny_suite, "noise")
    write(run, dict.fromkeys(METRICS, 1.0), explain=1.0)
    path = write(replace(run, seed=1))
    path.write_text(content)
    (path.parent.with_name("b")).mkdir()
    (path.parent.with_name("b") / "run.json").mkdir()
    assert measured(path) is None
    assert of(cost(cell_of(left, "score", "noise"), left, place), "score") == pytest.approx(3)


@pytest.mark.parametrize("where", [
    ("spec",), ("measured",), ("device",), ("additivity", "images"), ("spec", "dataset"),
    ("spec", "contestant"), ("spec", "contestant", "name"), ("spec", "backbone", "name"),
    ("spec", "samples"), ("spec", "recipe"), ("spec", "recipe", "epochs"), ("measured", "score"),
    ("measured", "cost"), ("measured", "cost", "train"), ("measured", "cost", "train", "peak")],
    ids=".".join)
def test_no_value_of_a_run_json_harms_a_prediction(
    where: tuple[str, ...], tiny_suite: suite.Suite, left: dict[str, Cell], place: Place,
    write: Write,
) -> None:
    run = run_of(tiny_suite, "noise")
    write(run, dict.fromkeys(METRICS, 1.0), explain=1.0)
    path = write(replace(run, seed=1), {}, cost=trained(1.0))
    whole = path.read_text()
    for value in (*HOSTILE, "a\nb\x1b[2J", -(2**70), 2**70):
        info = json.loads(whole)
        table = info
        for key in where[:-1]:
            table = table[key]
        table[where[-1]] = value
        path.write_text(json.dumps(info))
        found = cost(left, left, place)
        assert math.isfinite(found.hours)
        assert str(found).isprintable()


def test_a_run_without_maps_or_of_an_older_version_tells_what_it_can(
    tiny_suite: suite.Suite, left: dict[str, Cell], place: Place, write: Write,
) -> None:
    path = write(run_of(tiny_suite, "noise"), train=3.0)
    info = json.loads(path.read_text())
    info["additivity"] = None  # unsupported
    info["measured"] = {"train": 3.0}
    path.write_text(json.dumps(info))
    rest = cell_of(left, "score", "noise") | cell_of(left, "train", "plain")
    found = cost(rest, left, place)
    assert found.seconds == {"train": pytest.approx(3)}
    assert found.unknown == 1


def test_the_plan_tells_hours_memory_and_where_they_were_measured(
    tiny: Path, tiny_suite: suite.Suite, place: Place, write: Write,
) -> None:
    def told() -> str:
        done = CliRunner().invoke(cli.app, ["plan", str(tiny), "--out", str(place.out)])
        assert done.exit_code == 0, done.output
        return " ".join(done.output.split())

    assert "11 cells are left; none like them was measured yet" in told()
    write(run_of(tiny_suite, "noise"), dict.fromkeys(METRICS, 36000.0), explain=0.0,
          device="cpu [bold]", cost=trained(3600.0, peak=3 * 2**29))
    said = told()  # 5 × 4 × 6 hours, and 2 of training
    assert "about 122.00 hours of one process (train 2.00, score 120.00)" in said
    assert "at most 1.5 GiB (train 1.5)" in said
    assert "measured on cpu [bold], 5 by the nearest that is measured, 4 unknown" in said
