"""Cells: what is planned, what is missing, who works on one, and what became of it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from bench import cells, status, store, suite
from bench.cells import Cell, claimed, holder, missing, planned, take_over, word, work
from bench.core import canonical
from bench.outcome import Outcome
from bench.pool import Schedule
from bench.run import Place
from bench.store import Cache


def cell(key: str, stage: str = "score", needs: tuple[str, ...] = ()) -> Cell:
    return Cell(key, stage, "s", f"cell {key}", needs)  # type: ignore[arg-type]


def dead(path: Path) -> dict[str, object]:
    """Leaves the claim of a process that is over."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    who = {**cells._who(), "pid": process.pid}
    store.write_bytes(path, canonical(who).encode())
    return who


def test_each_cell_comes_after_what_it_needs_and_is_named_once(tiny_suite: suite.Suite) -> None:
    found = planned(tiny_suite, tiny_suite.runs)
    assert [one.stage for one in found.values()].count("train") == 2
    assert [one.stage for one in found.values()].count("score") == len(tiny_suite.runs) == 5
    assert [one.stage for one in found.values()].count("prove") == len(tiny_suite.metrics)
    seen: set[str] = set()
    for one in found.values():
        assert set(one.needs) <= seen
        seen.add(one.key)
    assert len({one.name for one in found.values()}) == len(found)


def test_another_metric_is_another_cell_and_the_same_network(tiny: Path) -> None:
    before = planned(found := suite.read(str(tiny)), found.runs)
    tiny.write_text(tiny.read_text().replace('"accuracy", ', '"accuracy", "confidence", '))
    after = planned(found := suite.read(str(tiny)), found.runs)
    for stage in ("train", "score"):
        keys = [{k for k, one in found.items() if one.stage == stage} for found in (before, after)]
        assert (keys[0] == keys[1]) == (stage == "train")


def test_a_network_is_missing_only_where_a_run_needs_it(
    tiny_suite: suite.Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    place = Place(tmp_path, Cache(tmp_path / "cache"))
    found = planned(tiny_suite, tiny_suite.runs)
    assert list(missing(found, place)) == list(found)
    plain = next(one for one in found.values() if one.name == "digits/plain/seed 0 network")
    finished = {one.key for one in found.values() if plain.key in one.needs}
    monkeypatch.setattr(cells, "is_done", lambda one, _place: one.key in finished)
    left = missing(found, place)
    assert plain.key not in left
    assert {one.stage for one in left.values()} == {"train", "score", "prove"}


def test_what_holds_a_cell_is_waited_for(tmp_path: Path) -> None:
    cache, order = Cache(tmp_path), []
    started = threading.Event()

    def first() -> None:
        with claimed(cell("ab"), cache):
            started.set()
            time.sleep(0.3)
            order.append("first")

    thread = threading.Thread(target=first)
    thread.start()
    started.wait()
    held = holder("ab", cache)
    assert held is not None
    assert held.alive
    with claimed(cell("ab"), cache) as died:
        order.append("second")
    thread.join()
    assert (order, died) == (["first", "second"], 0)
    assert holder("ab", cache) is None


def test_a_cell_whose_process_died_is_taken_over_and_the_deaths_are_counted(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    path = cells.word_path("ab", cache).with_suffix(".claim")
    for deaths in (1, 2):
        dead(path)
        held = holder("ab", cache)
        assert held is not None
        assert not held.alive
        with claimed(cell("ab"), cache) as died:
            assert died == deaths
        assert word("ab", cache)["state"] == "died"


def test_a_holder_without_a_sign_of_life_is_dead_wherever_it_was(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    path = cells.word_path("ab", cache).with_suffix(".claim")
    store.write_bytes(path, canonical({**cells._who(), "host": "elsewhere"}).encode())
    held = holder("ab", cache)
    assert held is not None
    assert held.alive
    old = time.time() - cells.STALE - 1
    os.utime(path, (old, old))
    held = holder("ab", cache)
    assert held is not None
    assert not held.alive


def test_a_requeued_job_does_not_wait_for_its_own_last_life(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    cache = Cache(tmp_path)
    who = {**cells._who(), "host": "elsewhere", "pid": 1}
    store.write_bytes(cells.word_path("ab", cache).with_suffix(".claim"), canonical(who).encode())
    monkeypatch.setattr("platform.node", lambda: "elsewhere")
    held = holder("ab", cache)
    assert held is not None
    assert not held.alive


def test_who_takes_over_too_late_leaves_the_quicker_one_its_cell(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    path = cells.word_path("ab", cache).with_suffix(".claim")
    dead(path)
    seen = holder("ab", cache)
    assert seen is not None
    with claimed(cell("ab"), cache):  # the quicker one
        assert not take_over(cell("ab"), cache, seen)
        held = holder("ab", cache)
        assert held is not None
        assert held.who["pid"] == os.getpid()


def test_how_a_cell_ended_is_kept_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_suite: suite.Suite,
) -> None:
    place = Place(tmp_path / "out", Cache(tmp_path / "cache"))
    found = planned(tiny_suite, tiny_suite.runs)
    first = next(one for one in found.values() if one.stage == "train")
    trace = "Traceback …\nMemoryError: 12 GB"
    monkeypatch.setattr(cells, "fit", lambda *_: Outcome("x", "failed", False, {"train": trace}))
    assert work(first, place).status == "failed"
    said = word(first.key, place.cache)
    assert set(said) == set(cells.WORD)
    assert (said["state"], said["memory"]) == ("failed", True)
    assert said["errors"] == {"train": "MemoryError: 12 GB"}
    stands = {one.cell.key: one for one in status.standings(found, place)}
    assert stands[first.key].state == "failed"
    assert "12 GB" in stands[first.key].reason


def test_a_cell_over_which_processes_died_is_done_in_smaller_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_suite: suite.Suite,
) -> None:
    from bench.chunks import LARGEST, in_pieces

    place = Place(tmp_path / "out", Cache(tmp_path / "cache"))
    first = next(one for one in planned(tiny_suite, tiny_suite.runs).values()
                 if one.stage == "train")
    sizes: list[int] = []

    def fit(*_: object) -> Outcome:
        sizes.append(max(in_pieces(lambda part: part.stop - part.start, 2 * LARGEST, 2 * LARGEST)))
        return Outcome("x")

    monkeypatch.setattr(cells, "fit", fit)
    path = cells.word_path(first.key, place.cache).with_suffix(".claim")
    for deaths in range(4):
        if deaths:
            dead(path)
        work(first, place)
    # The first death may have been anybody's: no number changes by it.
    assert sizes == [LARGEST, LARGEST, LARGEST // 2, LARGEST // 4]


def test_a_schedule_gives_each_cell_once_and_fails_only_what_needs_the_failed() -> None:
    chain = {one.key: one for one in (
        cell("a", "train"), cell("b", "train", ("a",)), cell("c", needs=("a",)),
        cell("d", needs=("b",)), cell("e", "train"), cell("f", needs=("e",)), cell("p", "prove"))}
    schedule = Schedule(chain)
    given = [one.key for one in schedule.ready()]
    assert given == ["a", "e", "p"]
    assert schedule.ready() == []
    assert schedule.end(chain["p"], Outcome("p")) == []
    assert schedule.end(chain["e"], Outcome("e")) == []
    failed = Outcome("a", "failed", False, {"train": "no"})
    assert {one.cell for one in schedule.end(chain["a"], failed)} == {"cell c", "cell d"}
    assert [one.key for one in schedule.ready()] == ["f"]
    assert [one.cell for one in schedule.end(chain["f"], Outcome("cell f"))] == ["cell f"]
    assert not schedule.left


@pytest.mark.slow
def test_a_pool_goes_on_when_a_worker_is_killed_and_drops_what_kills_it(
    tmp_path: Path, tiny_text: str,
) -> None:
    """A plugin whose map kills its process: it alone fails, and the command says why."""
    (tmp_path / "deadly.py").write_text('''
import os, signal
import bench
import torch


@bench.method("deadly")
class Deadly(bench.Method):
    title, family, paper = "Deadly", "gradient", "a test"

    def explain(self, net, batch, target):
        os.kill(os.getpid(), signal.SIGKILL)
''')
    text = tiny_text.replace('"softcam", "gradcam", "gradcam@softcam", "noise", "oracle"',
                        '"gradcam", "deadly", "noise"')
    for table in ('[metric."quantus/PixelFlipping"]\nsteps = 8\n',
                  '[metric."quantus/MPRT"]\nskip_layers = true\n'):
        text = text.replace(table, "")
    metrics = '"accuracy", "quantus/PixelFlipping", "quantus/PointingGame", "quantus/MPRT"'
    (tmp_path / "tiny.toml").write_text(text.replace(metrics, '"accuracy"'))
    env = {**os.environ, "HEATPROOF_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-m", "bench", "run", "tiny.toml", "--plugin", "deadly.py", "--jobs", "2",
         "--out", "out"], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=400)
    assert done.returncode == 1, done.stderr
    assert "2 done, 1 failed" in done.stdout
    assert "died 3 times" in done.stderr
    told = subprocess.run(
        [sys.executable, "-m", "bench", "status", "tiny.toml", "--plugin", "deadly.py", "--out",
         "out"], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=100)
    assert told.returncode == 0, told.stderr
    assert "died" in told.stdout
    assert "digits/deadly/seed 0" in told.stdout


def test_words_of_another_shape_are_no_obstacle(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    path = cells.word_path("ab", cache)
    path.parent.mkdir(parents=True)
    path.write_text("{torn")
    assert word("ab", cache) == {}
    with claimed(replace(cell("ab")), cache) as died:
        assert died == 0
