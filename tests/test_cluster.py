"""What would be submitted to Slurm: arrays, scripts, profiles. No Slurm is needed for it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from bench import cluster, profile, suite
from bench.arrays import Array, arrays
from bench.cells import Cell, planned
from bench.cluster import Submission, queued
from bench.core import HeatproofError
from bench.profile import DEFAULT, Profile
from bench.store import Cache

LARGE = Profile(DEFAULT.stages, chunk=4)


def cell(key: str, stage: str, *needs: str) -> Cell:
    return Cell(key, stage, "s", key, needs)  # type: ignore[arg-type]


def suite_of(models: int, runs: int) -> dict[str, Cell]:
    """Models with as many runs each; every second is what a post-fitted one starts from."""
    found: dict[str, Cell] = {}
    for m in range(models):
        found[f"m{m}"] = cell(f"m{m}", "train")
        found |= {f"m{m}r{r}": cell(f"m{m}r{r}", "score", f"m{m}") for r in range(runs)}
        if m % 2:
            found[f"m{m}+"] = cell(f"m{m}+", "train", f"m{m}")
            found[f"m{m}+r"] = cell(f"m{m}+r", "score", f"m{m}+")
    return found


def keys(found: list[Array]) -> list[str]:
    return [key for array in found for job in array.jobs for key in job]


def waits_for(found: list[Array]) -> Mapping[str, str]:
    """Cell -> the cell whose job its job waits for, element for element."""
    return {key: array.after.jobs[at][0] for array in found if isinstance(array.after, Array)
            for at, job in enumerate(array.jobs) for key in job}


@pytest.mark.parametrize(("models", "runs"), [(1, 1), (3, 5), (8, 9), (2, 0)])
def test_every_cell_is_in_one_job_that_waits_for_what_it_needs(models: int, runs: int) -> None:
    left = suite_of(models, runs)
    found = arrays(left, LARGE)
    assert sorted(keys(found)) == sorted(left)
    assert waits_for(found) == {key: one.needs[0] for key, one in left.items() if one.needs}
    for array in found:  # in an order in which each can be submitted
        if isinstance(array.after, Array):
            assert found.index(array.after) < found.index(array)
            assert len(array.jobs) == len(array.after.jobs)
        assert max(map(len, array.jobs)) <= LARGE.chunk


def test_what_is_done_is_waited_for_by_nobody_and_what_is_queued_is_not_submitted() -> None:
    left = suite_of(4, 3)
    for key in ("m0", "m1"):  # trained before
        del left[key]
    left = {k: cell(k, one.stage, *one.needs) for k, one in left.items()}
    here = {"m2": "71_4", "m3": "71_5", "m3+": "72"}
    found = arrays(left, LARGE, here)
    assert sorted(keys(found)) == sorted(set(left) - set(here))
    assert "m0r0" not in waits_for(found)
    by_job = {array.after: keys([array]) for array in found if isinstance(array.after, str)}
    assert by_job == {"71_4": ["m2r0", "m2r1", "m2r2"], "71_5": ["m3r0", "m3r1", "m3r2"],
                      "72": ["m3+r"]}


def test_arrays_are_no_longer_than_the_site_allows() -> None:
    found = arrays(suite_of(25, 3), Profile(DEFAULT.stages, chunk=1, array_size=10))
    assert max(len(array.jobs) for array in found) == 10
    assert len(keys(found)) == len(suite_of(25, 3))


def test_thousands_of_cells_are_few_calls_of_sbatch_and_planned_in_seconds(tiny: Path) -> None:
    text = tiny.read_text()
    names = ("softcam", "gradcam", "gradcam@softcam", "noise", "oracle", "cape", "gradcam@cape",
             "ig", "edges", "centre", "cape-pf", "magnitude")
    text = text.replace('"softcam", "gradcam", "gradcam@softcam", "noise", "oracle"',
                        ", ".join(f'"{name}"' for name in names))
    tiny.write_text(text + '[dataset.digits.trainer.cape-pf]\nrecipe = { epochs = 1 }\n')
    started = time.process_time()
    found = suite.read(str(tiny), seeds=250)
    cells = planned(found, found.runs)
    cut = arrays(cells, DEFAULT)
    spent = time.process_time() - started
    assert len(found.runs) == 3000
    assert sorted(keys(cut)) == sorted(cells)
    assert len(cut) <= 12
    assert spent < 60  # measured: a few seconds; a plan that grows with the square takes minutes


def submission(tmp_path: Path, tiny: Path, **how: object) -> Submission:
    return Submission.new(tiny, tmp_path / "out", tmp_path / "boards", LARGE,
                          Cache(tmp_path / "cache"), **how)  # type: ignore[arg-type]


def test_a_script_asks_for_what_the_profile_says(tmp_path: Path, tiny: Path) -> None:
    pytest.importorskip("submitit")
    (tmp_path / "gpu.toml").write_text("""
partition = "long"
setup = ["module load cuda"]
array_parallelism = 3
[train]
gpus = 2
mem_gb = 0.5
minutes = 90
options = { reservation = "course" }
""")
    one = Submission.new(tiny, tmp_path / "out", tmp_path / "boards",
                         profile.read(tmp_path / "gpu.toml"), Cache(tmp_path / "cache"), keep=False)
    found = arrays(suite_of(5, 1), one.profile)
    scripts = [script for _, script in one.scripts(found)]
    train = next(s for s in scripts if "heatproof-train" in s)
    for line in ("#SBATCH --partition=long", "#SBATCH --gpus-per-node=2", "#SBATCH --mem=512M",
                 "#SBATCH --time=90", "#SBATCH --reservation=course", "module load cuda",
                 f"#SBATCH --comment={one.folder.name}", "#SBATCH --requeue", "%3"):
        assert line in train, line
    score = next(s for s in scripts if "aftercorr" in s)
    assert "#SBATCH --kill-on-invalid-dep=yes" in score
    assert "--mem=16384M" in score
    assert "afterany:" in scripts[-1]
    assert "srun" not in scripts[-1]
    assert not (tmp_path / "cache").exists()


def test_what_died_gets_more_memory_and_nobody_else_does(tmp_path: Path, tiny: Path) -> None:
    left = suite_of(4, 3)
    grown = {"m0": 2.0, "m1r1": 4.0, "m3+": 2.0}
    found = arrays(left, LARGE, None, grown)
    assert sorted(keys(found)) == sorted(left)
    assert waits_for(found) == {key: one.needs[0] for key, one in left.items() if one.needs}
    more = [array for array in found if array.times > 1]
    assert {key: array.times for array in more for key in keys([array])} == grown
    one = submission(tmp_path, tiny)
    memory = [one.parameters(Array("train", (("a",),), None, t), None)["mem"] for t in (1, 2, 4)]
    assert memory == ["16384M", "32768M", "65536M"]


@pytest.mark.parametrize(("text", "says"), [
    ("partion = 'x'", "did you mean 'partition'"),
    ("[train]\nminute = 3", "did you mean 'minutes'"),
    ("[train]\nminutes = 'long'", "must be of type int"),
    ("[train]\nminutes = 0", "must be positive"),
    ("train = 3", r"must be a table, \[train\]"),
    ("chunk = 0", "must be positive"),
    ("chunk = 'all'", "must be of type int"),
    ("= 3", "not valid TOML"),
])
def test_a_bad_profile_is_told_in_one_line(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "p.toml").write_text(text)
    with pytest.raises(HeatproofError, match=says) as error:
        profile.read(tmp_path / "p.toml")
    assert "\n" not in str(error.value)


def test_a_profile_that_says_little_keeps_the_rest(tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text('account = "us"\nretries = 5\n[train]\nminutes = 7\n')
    found = profile.read(tmp_path / "p.toml")
    assert (found.retries, found.chunk) == (5, DEFAULT.chunk)
    assert {stage.account for stage in found.stages.values()} == {"us"}
    assert found.stages["train"].minutes == 7
    assert found.stages["train"].gpus == DEFAULT.stages["train"].gpus
    assert found.stages["score"].minutes == DEFAULT.stages["score"].minutes
    assert Profile.from_json(found.to_json()) == found


def test_a_job_number_of_another_submission_is_not_taken_for_ours(
    tmp_path: Path, tiny: Path,
) -> None:
    from bench.store import write_json

    one = submission(tmp_path, tiny)
    write_json(one.folder / "submission.json", {**one.facts, "jobs": {"9_0": ["a"], "9_1": ["b"]}})
    cache = Cache(tmp_path / "cache")
    name = one.folder.name
    assert queued(cache, "tiny", {(name, "9_0"): "RUNNING", ("other", "9_1"): "PENDING"}) == {
        "a": "9_0"}
    assert queued(cache, "demo", {(name, "9_0"): "RUNNING"}) == {}


def test_a_machine_without_slurm_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(HeatproofError, match="there is no sbatch here"):
        cluster.check()
    assert cluster.queue() is None
