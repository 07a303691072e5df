"""Other workload managers do a suite cell by cell, and leave what a local run leaves."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bench import cells, cli, cli_cluster, pool, suite
from bench.core import HeatproofError
from bench.run import Place
from bench.store import Cache
from bench.workflow import FORMATS, Call, as_json, as_make, as_snakemake

ODD = """it's $HOME `id` {x} "b" #c ; &"""
"""The name of a folder that every shell, make and Snakemake would take for something else."""


@pytest.fixture
def small(tiny_text: str, tmp_path: Path) -> Path:
    """A suite of five cells, in a folder with an odd name."""
    text = tiny_text.partition("[metric")[0] + tiny_text[tiny_text.index("[dataset"):]
    text = text.replace('"gradcam", "gradcam@softcam", "noise", "oracle"', '"noise"')
    text = text.replace(', "quantus/PixelFlipping", "quantus/PointingGame", "quantus/MPRT"', "")
    path = tmp_path / ODD / "tiny.toml"
    path.parent.mkdir()
    path.write_text(text.replace("epochs = 2", "epochs = 1"))
    return path


def many(n: int) -> dict[str, cells.Cell]:
    """A hundred networks, and runs that need them."""
    found = {}
    for i in range(n):
        key = f"{i:020x}"
        needs = (f"{i % 100:020x}",) if i >= 100 else ("f" * 20,)  # the last is done
        found[key] = cells.Cell(key, "score" if i >= 100 else "train", "many",
                                f"digits/{i}\n\trm -rf é\\", needs)
    return found


def left_of(path: Path, out: Path) -> tuple[suite.Suite, dict[str, cells.Cell]]:
    found = suite.read(str(path))
    return found, cells.missing(cells.planned(found, found.runs), Place(out, Cache()))


def test_each_line_of_json_is_a_cell_with_its_command(small: Path) -> None:
    out = small.parent / "results"
    _, left = left_of(small, out)
    call = Call(str(small), out, ["my plugin.py"], device="cuda", seeds=3, processes=2)
    rows = [json.loads(line) for line in as_json(left, call).splitlines()]
    assert [row["key"] for row in rows] == list(left)
    assert {row["stage"] for row in rows} == {"train", "score", "prove"}
    for row in rows:
        assert set(row) == {"key", "stage", "name", "needs", "command", "predicted"}
        assert row["command"] == [
            "heatproof", "run-cell", str(small), row["key"], "--out", str(out),
            "--plugin", str(Path("my plugin.py").resolve()), "--device", "cuda", "--seeds", "3",
            "--processes", "2"]
        assert all(need in left for need in row["needs"])
    assert sum(bool(row["needs"]) for row in rows) == 2


def test_what_is_done_is_neither_planned_nor_waited_for() -> None:
    rows = [json.loads(line) for line in as_json(many(200), Call("many", Path())).splitlines()]
    assert rows[0]["needs"] == []
    assert rows[150]["needs"] == [f"{50:020x}"]
    assert "f" * 20 not in as_make(many(200), Call("many", Path()))
    assert "f" * 20 not in as_snakemake(many(200), Call("many", Path()))


@pytest.mark.parametrize("form", FORMATS)
def test_three_thousand_cells_are_written_in_no_time(form: str) -> None:
    left = many(3000)
    started = time.process_time()
    text = FORMATS[form](left, Call("many", Path("results")))
    assert time.process_time() - started < 2
    assert text == FORMATS[form](many(3000), Call("many", Path("results")))
    assert text.count(f"{2999:020x}") >= 1


@pytest.mark.parametrize("form", FORMATS)
def test_nothing_is_left_of_a_suite_that_is_done(form: str) -> None:
    text = FORMATS[form]({}, Call("many", Path()))
    assert text == "" if form == "json" else "0 cells" in text


def test_make_says_to_the_shell_what_the_command_is(tmp_path: Path) -> None:
    left, call = many(102), Call(f"{ODD}.toml", tmp_path / ODD, [f"{ODD}.py"])
    (tmp_path / "Makefile").write_text(as_make(left, call))
    done = subprocess.run(["make", "-n", "-C", str(tmp_path)], capture_output=True, text=True,
                          check=True)
    said = [shlex.split(line) for line in done.stdout.splitlines() if "run-cell" in line]
    assert said == [call.command(key) for key in left]


def test_make_keeps_the_order_and_goes_on_where_it_stopped(tmp_path: Path) -> None:
    (tmp_path / "heatproof").write_text('#!/bin/sh\necho "$3" >>log\ntest "$3" != "$BAD"\n')
    (tmp_path / "heatproof").chmod(0o755)
    left = many(103)
    (tmp_path / "Makefile").write_text(as_make(left, Call("many", tmp_path)))
    keys, log = list(left), tmp_path / "log"

    def make(bad: str) -> int:
        log.write_text("")
        return subprocess.run(
            ["make", "-s", "-k", "-j", "8"], cwd=tmp_path, capture_output=True, check=False,
            env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "BAD": bad}).returncode

    assert make(bad=keys[1]) != 0
    said = log.read_text().split()
    assert sorted(said) == sorted(set(keys) - {keys[101]})  # it needs what failed
    assert said.index(keys[100]) > said.index(keys[0])
    assert make(bad="") == 0
    assert sorted(log.read_text().split()) == sorted([keys[1], keys[101]])
    assert make(bad="") == 0
    assert not log.read_text()
    # Planned again: what was done has got lost, whatever the stamps say.
    (tmp_path / "Makefile").write_text(as_make({keys[5]: left[keys[5]]}, Call("many", tmp_path)))
    os.utime(tmp_path / "Makefile", (time.time() + 5,) * 2)
    assert make(bad="") == 0
    assert log.read_text().split() == [keys[5]]


def test_a_path_that_no_makefile_can_hold_is_refused(tmp_path: Path) -> None:
    call = Call("many", tmp_path / "two\nlines")
    for write in (as_make, as_snakemake):
        with pytest.raises(HeatproofError, match="line break; rename it"):
            write(many(1), call)
    assert json.loads(as_json(many(1), call))["command"][-1].endswith("two\nlines")


def test_another_format_is_told(small: Path, tmp_path: Path) -> None:
    found = suite.read(str(small))
    with pytest.raises(HeatproofError, match="did you mean 'make'"):
        cli_cluster.plan_as("maks", str(small), found, found.runs, out=tmp_path)


def test_an_unknown_key_is_told_with_the_nearest(small: Path) -> None:
    _, left = left_of(small, small.parent / "results")
    key = next(iter(left))
    with pytest.raises(HeatproofError, match=f"{key[:-1]}x', the nearest is '{key}'.*anew"):
        CliRunner().invoke(cli.app, ["run-cell", str(small), key[:-1] + "x"],
                           catch_exceptions=False)


def test_a_cell_is_done_once_and_a_failure_is_one_line(
    small: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = small.parent / "results"
    _, left = left_of(small, out)
    key = next(key for key, cell in left.items() if cell.stage == "prove")
    args = ["run-cell", str(small), key, "--out", str(out)]

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("first line\nthe lab burnt down")

    with monkeypatch.context() as patch:
        patch.setattr(cells, "proof", broken)
        failed = CliRunner().invoke(cli.app, args)
    assert failed.exit_code == 1
    assert "accuracy proof: failed" in failed.stdout
    assert "prove: the lab burnt down" in failed.output.replace("\n", " ")
    done = CliRunner().invoke(cli.app, args)
    assert done.exit_code == 0, done.output
    assert "accuracy proof: done" in done.stdout
    again = CliRunner().invoke(cli.app, args)
    assert "accuracy proof: finished before" in again.stdout
    assert (out / "tiny" / "plan.json").is_file()  # so that what is there can be published


def local(path: Path, out: Path, cache: Path) -> dict[str, bytes]:
    """What a run on this machine leaves."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEATPROOF_CACHE", str(cache))
        found = suite.read(str(path))
        settings = pool.prepare(found, found.runs, pool.Settings(out, "cpu"))
        for outcome in pool.execute(found, found.runs, settings, lambda event: None):
            assert not outcome.failures, outcome
    return content(out)


def content(out: Path) -> dict[str, bytes]:
    return {path.relative_to(out).as_posix(): path.read_bytes()
            for path in sorted(out.rglob("*")) if path.is_file() and path.name != "run.json"}


def ran(command: list[str], folder: Path, small: Path, form: str) -> None:
    """Has another workload manager do a suite, and compares with a run on this machine."""
    out, found = small.parent / "results", suite.read(str(small))
    names = {"make": "Makefile", "snakemake": "Snakefile"}
    work = folder / "work"
    work.mkdir()
    (work / names[form]).write_text(cli_cluster.plan_as(
        form, str(small), found, found.runs, out=out))
    binaries = folder / "bin"
    binaries.mkdir()
    (binaries / "heatproof").write_text(
        f"#!{sys.executable}\nfrom bench import cli\ncli.main()\n")
    (binaries / "heatproof").chmod(0o755)
    environment = {**os.environ, "OMP_NUM_THREADS": "1",
                   "PATH": f"{binaries}:{os.environ['PATH']}"}
    done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True,
                          check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list((work / "cells").glob("[0-9a-f]*"))) == 5
    assert content(out) == local(small, folder / "local", folder / "cache")
    assert not left_of(small, out)[1]
    assert "0 cells" in cli_cluster.plan_as(form, str(small), found, found.runs, out=out)


@pytest.mark.slow
def test_make_leaves_what_a_local_run_leaves(small: Path, tmp_path: Path) -> None:
    ran(["make", "-j", "2"], tmp_path, small, "make")


@pytest.mark.slow
def test_snakemake_leaves_what_a_local_run_leaves(small: Path, tmp_path: Path) -> None:
    pytest.importorskip("snakemake")
    ran([sys.executable, "-m", "snakemake", "-s", "Snakefile", "-c2"], tmp_path, small, "snakemake")
