"""The whole line: run, stop, go on, extend, publish; and bad input, told and harmless."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench import board, page, plugins, pool, results, store, suite
from bench.core import HeatproofError
from bench.measure import Scores
from bench.results import Folder
from bench.run import Place, run


def execute(path: Path, out: Path, *, jobs: int = 1, seeds: int = 0, only: tuple[str, ...] = ()):
    """Runs a suite in this process, as the command line does."""
    found = suite.read(str(path), seeds=seeds)
    specs = found.only(only)
    settings = pool.prepare(found, specs, pool.Settings(out, "cpu", jobs))
    outcomes = list(pool.execute(found, specs, settings, lambda event: None))
    for outcome in outcomes:
        assert not outcome.failures, outcome.failures
    return outcomes


def content(out: Path) -> dict[str, bytes]:
    """All that must be equal between two runs: every parquet, safetensors and plan."""
    found = {str(p.relative_to(out)): p.read_bytes() for p in sorted(out.rglob("*"))
             if p.is_file() and p.name != "run.json"}
    for path in out.rglob("run.json"):
        run = store.read_json(path)
        run.pop("measured")
        found[str(path.relative_to(out))] = str(sorted(run.items())).encode()
    return found


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_text: str) -> Path:
    """The results of an undisturbed run of the tiny suite, with its cache beside it."""
    home = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEATPROOF_CACHE", str(home / "cache"))
        (home / "tiny.toml").write_text(tiny_text)
        execute(home / "tiny.toml", home / "out")
    return home


def test_a_run_writes_what_the_schema_says(finished: Path) -> None:
    found = results.read(finished / "out" / "tiny")
    assert set(found.plan) == {*results.PLAN, "proofs"}
    assert {name: proof["badge"] for name, proof in found.plan["proofs"].items()} == dict.fromkeys(
        ["accuracy", "quantus/PixelFlipping", "quantus/PointingGame", "quantus/MPRT"], "proven")
    assert list(found.samples.columns[:7]) == results.SAMPLES.names
    assert set(found.scores["metric"]) == {
        "accuracy", "quantus/PixelFlipping", "quantus/PointingGame", "quantus/MPRT"}
    assert found.scores.groupby(["contestant", "metric"]).size().eq(6).all()
    for info in found.runs["info"]:
        assert set(info) == set(results.RUN)
        assert min(info["classifier"]["grid"]) >= 7
        assert info["measured"]["explain"] > 0
        assert set(info["measured"]["score"]) == set(info["metrics"])
        assert set(info["measured"]["cost"]) == {"train", "explain", "score"}
        for cost in info["measured"]["cost"].values():
            assert set(cost) == {"forward", "backward", "seconds", "peak", "device"}
            assert cost["seconds"] > 0 and cost["peak"] > 2**20
    curves = found.scores[found.scores["metric"] == "quantus/PixelFlipping"]["curve"]
    assert all(len(curve) == 8 for curve in curves)
    keys = found.samples.groupby("contestant")["key"].apply(tuple)
    assert len(set(keys)) == 1  # paired: the same images for everyone
    for path in found.runs["path"]:
        arrays, facts = results.read_media(path) or ({}, None)
        assert arrays["image"].shape == (2, 1, 32, 32)
        assert arrays["mask"].shape == (2, 32, 32)
        assert len(facts["keys"]) == len(arrays["maps"]) == 2


def test_the_engine_is_no_part_of_a_run_and_gives_the_same_scores(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HEATPROOF_CACHE", str(finished / "cache"))
    text = (finished / "tiny.toml").read_text()
    (tmp_path / "tiny.toml").write_text('engine = "apart"\n' + text.replace(
        '"quantus/PixelFlipping",', '"quantus/PixelFlipping", "pixel-flipping", "mprt",'))
    execute(tmp_path / "tiny.toml", tmp_path / "apart", only=("gradcam",))
    (tmp_path / "tiny.toml").write_text(
        (tmp_path / "tiny.toml").read_text().replace('"apart"', '"fused"'))
    execute(tmp_path / "tiny.toml", tmp_path / "fused", only=("gradcam",))
    apart, fused = (results.read(tmp_path / one / "tiny") for one in ("apart", "fused"))
    assert [run["spec"]["engine"] for run in apart.runs["info"]] == ["apart"]
    assert [*apart.runs["run"]] == [*fused.runs["run"]]
    assert {"pixel-flipping", "mprt"} < set(apart.scores["metric"])
    np.testing.assert_allclose(apart.scores["value"], fused.scores["value"], rtol=0, atol=1e-6)
    (tmp_path / "tiny.toml").write_text('engine = "fussed"\n' + text)
    with pytest.raises(HeatproofError, match="did you mean 'fused'"):
        suite.read(str(tmp_path / "tiny.toml"))


def test_networks_are_trained_once_and_no_file_is_a_pickle(finished: Path) -> None:
    cache = finished / "cache"
    assert len(list((cache / "models").rglob("*.safetensors"))) == 2
    assert len(list((cache / "maps").rglob("*.safetensors"))) == 5
    found = {p.suffix for p in cache.rglob("*") if p.is_file()}
    # The images may have been decoded by an earlier test, into its own cache.
    assert {".json", ".safetensors"} <= found <= {".json", ".safetensors", ".npy", ".lock"}
    for path in cache.rglob("*.npy"):
        np.load(path, allow_pickle=False)
    infos = results.read(finished / "out" / "tiny").runs["info"]
    assert len({info["checkpoint"] for info in infos}) == 2
    assert sum("train" in info["measured"] for info in infos) == 0  # trained by `fit`, before


def test_running_again_does_nothing(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEATPROOF_CACHE", str(finished / "cache"))
    before = {p: p.stat().st_mtime_ns for p in finished.rglob("*") if p.is_file()}
    outcomes = execute(finished / "tiny.toml", finished / "out")
    assert {outcome.status for outcome in outcomes} == {"finished before"}
    assert before == {p: p.stat().st_mtime_ns for p in finished.rglob("*") if p.is_file()}


def test_the_same_seed_gives_the_same_bytes_for_any_number_of_jobs(
    finished: Path, tmp_path: Path,
) -> None:
    execute(finished / "tiny.toml", tmp_path / "out", jobs=2)
    assert content(tmp_path / "out") == content(finished / "out")


def replaced(patch: pytest.MonkeyPatch, name: str, score: object) -> None:
    """Puts another function in a metric's place."""
    patch.setitem(plugins.metrics.things, name, replace(plugins.metrics[name], score=score))


class Killed(BaseException):
    """What no handler catches, like signal 9."""


def test_a_run_killed_at_any_write_ends_with_the_same_bytes(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Kills before the n-th write and after it, then runs again; n goes through the whole run."""
    whole = content(finished / "out")
    write, writes = store.write_bytes, 0

    def counted(path: Path, data: bytes, **how: bool) -> bool:
        nonlocal writes
        writes += 1
        if writes == at and before:
            # What a killed process leaves: a temporary file that nobody renamed.
            path.parent.mkdir(parents=True, exist_ok=True)
            path.with_name(f".{path.name}.torn").write_bytes(data[:10])
            raise Killed
        ours = write(path, data, **how)
        if writes == at:
            raise Killed
        return ours

    for name in ("store", "results"):
        monkeypatch.setattr(f"bench.{name}.write_bytes", counted)
    at, before, kills = 0, False, 0
    out, cache = tmp_path / "out", tmp_path / "cache"
    monkeypatch.setenv("HEATPROOF_CACHE", str(cache))
    while True:
        # One write further each time, on what the last kill left behind.
        writes, at, before = 0, 1 + kills % 3, kills % 2 == 0
        try:
            execute(finished / "tiny.toml", out)
            break
        except Killed:
            kills += 1
    assert kills > 20
    for torn in out.rglob(".*.torn"):
        torn.unlink()
    assert content(out) == whole


def test_a_metric_that_is_added_is_computed_alone(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copytree(finished, tmp_path / "home")
    home = tmp_path / "home"
    monkeypatch.setenv("HEATPROOF_CACHE", str(home / "cache"))
    before = {p: p.stat().st_mtime_ns for p in home.rglob("*")
              if p.suffix in (".parquet", ".safetensors")}
    called: list[int] = []
    replaced(monkeypatch, "quantus/PixelFlipping", lambda *_, **__: called.append(1))
    text = (home / "tiny.toml").read_text()
    (home / "tiny.toml").write_text(text.replace('"accuracy"', '"accuracy", "confidence"'))
    outcomes = execute(home / "tiny.toml", home / "out")
    assert {outcome.status for outcome in outcomes} == {"done"}
    assert not any(outcome.trained for outcome in outcomes)
    assert not called
    after = {p: p.stat().st_mtime_ns for p in home.rglob("*")
             if p.suffix in (".parquet", ".safetensors")}
    assert all(after[path] == stamp for path, stamp in before.items())
    assert {p.name for p in set(after) - set(before)} == {"confidence.parquet"}
    info = store.read_json(next((home / "out").rglob("run.json")))
    assert "quantus/PixelFlipping" in info["measured"]["score"]  # not forgotten
    assert "confidence" in info["metrics"]


def test_more_seeds_add_runs_and_touch_none(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copytree(finished, tmp_path / "home")
    home = tmp_path / "home"
    monkeypatch.setenv("HEATPROOF_CACHE", str(home / "cache"))
    outcomes = execute(home / "tiny.toml", home / "out", seeds=2, only=("noise", "gradcam"))
    assert sorted(o.status for o in outcomes) == ["done", "done", *["finished before"] * 2]
    ranked = board.rank(results.read(home / "out" / "tiny"))
    whole = ranked.estimates.groupby("contestant")["complete"].all()
    assert whole[["noise", "gradcam"]].all()
    assert not whole[["softcam", "oracle"]].any()  # a planned seed is missing: shown, not ranked


def test_a_metric_that_fails_leaves_the_others_and_is_done_next_time(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HEATPROOF_CACHE", str(finished / "cache"))

    def fail(*_: object, **__: object) -> Scores:
        raise MemoryError("no room")

    place = Place(tmp_path / "out", store.Cache())
    with monkeypatch.context() as patch:
        replaced(patch, "quantus/PixelFlipping", fail)
        found = suite.read(str(finished / "tiny.toml"))
        outcome = run(found.runs[0], found.metrics_of("digits"), place)
    found = suite.read(str(finished / "tiny.toml"))
    spec = found.runs[0]
    assert outcome.status == "failed"
    assert "no room" in outcome.failures["quantus/PixelFlipping"]
    folder = Folder.of(spec, tmp_path / "out")
    assert [m.name for m in folder.missing(found.metrics_of("digits"))] == [
        "quantus/PixelFlipping"]
    assert run(spec, found.metrics_of("digits"), place).status == "done"
    assert folder.is_whole(found.metrics_of("digits"))


def test_maps_that_are_nan_give_nan_with_a_reason(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HEATPROOF_CACHE", str(finished / "cache"))
    cls = plugins.methods["noise"]
    real = cls.explain

    def holed(self, net, batch, target):
        maps = real(self, net, batch, target)
        maps[0] = np.nan
        return maps

    monkeypatch.setattr(cls, "explain", holed)
    monkeypatch.setattr(cls, "version", "with a hole")
    execute(finished / "tiny.toml", tmp_path / "out", only=("noise",))
    scores = results.read(tmp_path / "out" / "tiny").scores
    row = scores[(scores["metric"] == "quantus/PixelFlipping")].iloc[0]
    assert np.isnan(row["value"])
    assert row["reason"] == "NaN in the map"
    assert scores[scores["metric"] == "quantus/PixelFlipping"]["value"].iloc[1:].notna().all()


def test_an_unsupported_pair_is_written_down_and_the_rest_runs_on(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HEATPROOF_CACHE", str(finished / "cache"))
    text = (finished / "tiny.toml").read_text()
    path = tmp_path / "tiny.toml"
    path.write_text(text.replace('"noise"', '"softcam@plain"'))
    outcomes = execute(path, tmp_path / "out", only=("softcam@plain", "gradcam"))
    assert {o.status for o in outcomes} == {
        "done", "unsupported: the network has no evidence layer"}
    ranked = board.rank(results.read(tmp_path / "out" / "tiny"))
    assert "the network has no evidence layer" in set(ranked.missing["reason"])
    assert {o.status for o in execute(path, tmp_path / "out", only=("softcam@plain",))} == {
        "finished before"}


def test_the_page_of_a_real_run_is_whole(finished: Path, tmp_path: Path) -> None:
    found = results.read(finished / "out" / "tiny")
    index = page.write(board.rank(found), found, tmp_path)
    assert "Grad-CAM on SoftCAM" in index.read_text()
    assert len(list((tmp_path / "tiny" / "media").rglob("*.png"))) >= 12


def test_results_of_another_protocol_are_refused_and_unharmed(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HEATPROOF_CACHE", str(finished / "cache"))
    before = content(finished / "out")
    newer = tmp_path / "tiny.toml"
    newer.write_text((finished / "tiny.toml").read_text().replace("tiny-1", "tiny-2"))
    with pytest.raises(HeatproofError, match="protocol 'tiny-1', the suite is protocol 'tiny-2'"):
        execute(newer, finished / "out")
    assert content(finished / "out") == before

    shutil.copytree(finished / "out", tmp_path / "mixed")
    one = next((tmp_path / "mixed").rglob("run.json"))
    one.write_text(one.read_text().replace("tiny-1", "tiny-2"))
    with pytest.raises(HeatproofError, match="never mixes protocols"):
        results.read(tmp_path / "mixed" / "tiny")


def test_scores_of_other_parameters_are_refused(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HEATPROOF_CACHE", str(finished / "cache"))
    other = tmp_path / "tiny.toml"
    other.write_text((finished / "tiny.toml").read_text().replace("steps = 8", "steps = 16"))
    with pytest.raises(HeatproofError, match="other parameters"):
        execute(other, finished / "out")


def test_a_folder_that_cannot_be_written_is_told_before_anything_is_trained(
    tiny: Path, tmp_path: Path, cache: Path,
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    for out in (blocked / "results", Path("/sys/heatproof")):
        with pytest.raises(HeatproofError, match="give another folder") as error:
            execute(tiny, out)
        assert "\n" not in str(error.value)
    assert not any(cache.rglob("*.safetensors"))


@pytest.mark.parametrize("name", ["samples.parquet", "scores/quantus/MPRT.parquet", "run.json"])
def test_a_damaged_result_names_itself(finished: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(finished / "out", tmp_path / "out")
    path = next((tmp_path / "out" / "tiny" / "digits" / "noise").iterdir()) / name
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(HeatproofError, match="is damaged"):
        results.read(tmp_path / "out" / "tiny")


@pytest.mark.parametrize("name", ["plan.json", "digits/noise/*/run.json"])
def test_a_file_of_another_version_is_told(finished: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(finished / "out", tmp_path / "out")
    (path,) = (tmp_path / "out" / "tiny").glob(name)
    content = store.read_json(path)
    for lost in (content.pop("metrics") and content, []):
        store.write_json(path, lost)
        with pytest.raises(HeatproofError, match=r"lacks (metrics|every key).*run the suite again"):
            results.read(tmp_path / "out" / "tiny")


def test_a_folder_without_results_is_told(tmp_path: Path) -> None:
    with pytest.raises(HeatproofError, match="holds no results"):
        results.read(tmp_path)


@pytest.mark.slow
def test_a_process_killed_with_signal_9_ends_with_the_same_bytes(
    finished: Path, tmp_path: Path,
) -> None:
    env = {**os.environ, "HEATPROOF_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "bench", "run", str(finished / "tiny.toml"),
               "--out", str(tmp_path / "out"), "--jobs", "2"]
    for patience in (0, 2):
        process = subprocess.Popen(command, env=env, start_new_session=True,
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 200
        while process.poll() is None and time.monotonic() < deadline and len(
                list((tmp_path / "out").rglob("*.parquet"))) <= patience * 4:
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    for torn in (tmp_path / "out").rglob(".*"):
        torn.unlink()
    assert content(tmp_path / "out") == content(finished / "out")


@pytest.mark.slow
def test_ctrl_c_stops_at_once_and_leaves_no_process(finished: Path, tmp_path: Path) -> None:
    env = {**os.environ, "HEATPROOF_CACHE": str(tmp_path / "cache")}
    process = subprocess.Popen(
        [sys.executable, "-m", "bench", "run", str(finished / "tiny.toml"),
         "--out", str(tmp_path / "out"), "--jobs", "2"],
        env=env, start_new_session=True, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 200
    # A training is under way, and all that follows it is still to do.
    while not any((tmp_path / "cache").rglob("*.safetensors")) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, told = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "the same command goes on from there" in told
    deadline = time.monotonic() + 20  # what was killed is a zombie until it is collected
    with pytest.raises(ProcessLookupError):
        while time.monotonic() < deadline:
            os.killpg(process.pid, 0)
            time.sleep(0.2)
