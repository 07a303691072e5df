"""A suite on Slurm, by submitit: what is missing goes into arrays of jobs, and nobody has to wait.

Slurm holds the queue and the order (a run's job waits for its network's, element by element), the
store holds the truth. So this may end at any time: the same command submits just what is neither
done nor queued. One last job publishes, and before that submits again what died.

A submission is a folder of the cache, `submissions/SUITE-TIME/`: `submission.json` (SUBMISSION),
the suite's file and the plugins as they were, and the jobs' logs.
"""

from __future__ import annotations

import getpass
import os
import platform
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import plugins, suite
from bench.arrays import COLLECT, Array, arrays, dependency
from bench.cells import Cell, holder, missing, planned, word, work
from bench.core import HeatproofError
from bench.pool import compute_alike
from bench.profile import Profile
from bench.run import Place
from bench.store import Cache, read_json, write_bytes, write_json

if TYPE_CHECKING:
    from submitit import SlurmExecutor

SUBMISSION = {
    "suite": "name of the suite",
    "file": "its file, as it was",
    "seeds": "how many seeds, 0 for the suite's own",
    "only": "the contestants that were asked for; none is all",
    "plugins": "files of plugins, as they were",
    "out": "folder of results",
    "leaderboard": "folder of leaderboards",
    "profile": "what each kind of job asks for",
    "attempt": "0, or how many times this is submitted again",
    "by": "who submitted it, and from which machine",
    "jobs": "Slurm job -> the keys of its cells; of the last one, which publishes, none",
}


@dataclass(frozen=True)
class Submission:
    """What was submitted together; see SUBMISSION."""

    folder: Path
    facts: Mapping[str, Any]

    @classmethod
    def new(
        cls, file: Path, out: Path, leaderboard: Path, profile: Profile, cache: Cache, *,
        seeds: int = 0, only: Sequence[str] = (), plugin_files: Sequence[str] = (),
        attempt: int = 0, keep: bool = True,
    ) -> Submission:
        """Copies the suite's file and the plugins into a new folder of the cache.

        Without `keep` nothing is written, and nothing can be submitted.
        """
        stamp = time.strftime("%Y%m%d-%H%M%S")
        folder = cache.root / "submissions" / f"{file.stem}-{stamp}-{uuid.uuid4().hex[:4]}"
        copy = folder / file.name
        carried: Sequence[Path] = ()
        if keep:
            write_bytes(copy, file.read_bytes())
            carried = plugins.carried(plugin_files, folder / "plugins")
        return cls(folder.resolve(), {
            "suite": file.stem, "file": str(copy.resolve()), "seeds": seeds, "only": list(only),
            "plugins": [str(path) for path in carried],
            "out": str(out.resolve()), "leaderboard": str(leaderboard.resolve()),
            "profile": profile.to_json(), "attempt": attempt,
            "by": f"{getpass.getuser()}@{platform.node()}", "jobs": {}})

    @classmethod
    def read(cls, folder: Path) -> Submission:
        """A submission from its folder. Raises HeatproofError if it is torn or too old."""
        facts = read_json(folder / "submission.json")
        if lost := set(SUBMISSION) - set(facts):
            raise HeatproofError(f"{folder}/submission.json lacks {', '.join(sorted(lost))}")
        return cls(folder, facts)

    @property
    def cache(self) -> Cache:
        """The cache that it lies in."""
        return Cache(self.folder.parent.parent)

    @property
    def profile(self) -> Profile:
        """What its jobs ask for."""
        return Profile.from_json(self.facts["profile"])

    def place(self, device: str = "cpu") -> Place:
        """Where its cells are worked on."""
        return Place(Path(self.facts["out"]), self.cache, device,
                     processes=self.profile.processes)

    def cells(self) -> dict[str, Cell]:
        """The cells of the suite as it was submitted."""
        plugins.load(self.facts["plugins"])
        found = suite.read(self.facts["file"], seeds=self.facts["seeds"])
        return planned(found, found.only(self.facts["only"]))

    def parameters(self, array: Array, after: str | None) -> dict[str, Any]:
        """What sbatch is asked for an array, by Slurm's names; `after` is a dependency."""
        resources = self.profile.stages[array.stage]
        options = {"comment": self.folder.name, "requeue": True, **resources.options}
        if after:
            options |= {"dependency": after, "kill-on-invalid-dep": "yes"}
        return {**resources.sbatch(times=array.times),
                "job_name": f"heatproof-{array.stage}", "additional_parameters": options,
                # From inside of a job step no further job could be submitted.
                "use_srun": array.stage != "collect"}

    def scripts(self, found: Sequence[Array]) -> Iterator[tuple[Array, str]]:
        """The script that sbatch would be given for each array, and for the job that publishes."""
        from submitit.slurm.slurm import _make_sbatch_string

        numbers: dict[int, str] = {}
        for number, array in enumerate([*found, COLLECT], 1):
            numbers[id(array)] = f"<array {number}>"
            jobs = len(array.jobs)
            after = dependency(array, numbers) if array is not COLLECT else "afterany:<all>"
            yield array, _make_sbatch_string(
                command=f"{sys.executable} -u -m submitit.core._submit {self.folder}/logs",
                folder=self.folder / "logs", map_count=jobs if jobs > 1 else None,
                **self.parameters(array, after))

    def submit(self, found: Sequence[Array]) -> Submission:
        """Submits arrays, then the job that publishes. Raises HeatproofError for what Slurm says.

        Every array that is accepted is noted at once, so that none is lost when the next is not.
        """
        jobs: dict[str, list[str]] = {}
        numbers: dict[int, str] = {}
        for array in [*found, COLLECT]:
            after = (dependency(array, numbers) if array is not COLLECT else
                     "afterany:" + ":".join(dict.fromkeys(job.split("_")[0] for job in jobs)))
            tasks: list[Any] = [Task(str(self.folder), keys) for keys in array.jobs] if (
                array is not COLLECT) else [Collect(str(self.folder))]
            ids = self._sent(array, tasks, after)
            numbers[id(array)] = ids[0].split("_")[0]
            jobs |= dict(zip(ids, map(list, array.jobs), strict=True))
            facts = {**self.facts, "jobs": jobs}
            write_json(self.folder / "submission.json", facts)
        return replace(self, facts=facts)

    def _sent(self, array: Array, tasks: Sequence[Any], after: str | None) -> list[str]:
        """The jobs of an array; with less memory again where no machine has so much."""
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        executor = self._executor()
        executor.update_parameters(**self.parameters(array, after))
        try:
            if len(tasks) == 1:
                return [str(executor.submit(tasks[0]).job_id)]
            with executor.batch():
                jobs = [executor.submit(task) for task in tasks]
            return [str(job.job_id) for job in jobs]
        except (FailedJobError, FailedSubmissionError, subprocess.CalledProcessError) as error:
            if array.times > 1:
                return self._sent(replace(array, times=array.times / 2), tasks, after)
            said = str(getattr(error, "stderr", "") or error).strip().splitlines()
            raise HeatproofError(
                f"sbatch refused the {array.stage} jobs: {said[-1] if said else error}; mend the "
                "profile (--profile), and run the same command again") from error

    def _executor(self) -> SlurmExecutor:
        from submitit import SlurmExecutor

        return SlurmExecutor(self.folder / "logs", max_num_timeout=self.profile.timeouts)


def check() -> None:
    """Raises HeatproofError where nothing can be submitted from."""
    try:
        import submitit  # noqa: F401
    except ImportError:
        raise HeatproofError(
            "--on slurm needs submitit; install it: pip install 'heatproof[slurm]'") from None
    if not shutil.which("sbatch"):
        raise HeatproofError(
            "there is no sbatch here; run this on a login node of the cluster, or without --on "
            "slurm (heatproof plan SUITE --format json serves other workload managers)")
    if queue() is None:
        raise HeatproofError("squeue does not answer; is Slurm up? (sinfo tells)")


def submissions(cache: Cache, name: str) -> list[Submission]:
    """The submissions of a suite, oldest first."""
    found = map(Submission.read, sorted(
        path.parent for path in (cache.root / "submissions").glob(f"{name}-*/submission.json")))
    return [one for one in found if one.facts["suite"] == name]


def queue() -> dict[tuple[str, str], str] | None:
    """The jobs of everybody that Slurm knows: (comment, job) -> state; None if it does not answer.

    A submission's name stands in its jobs' comment: numbers begin anew when Slurm is set up anew.
    """
    try:
        said = subprocess.run(
            ["squeue", "--noheader", "--array", "--format", "%k|%i|%T"],  # noqa: S607
            capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return None
    rows = (line.split("|") for line in said.stdout.splitlines())
    return {(row[0], row[1]): row[2] for row in rows if len(row) == 3}


def queued(
    cache: Cache, name: str, jobs: Mapping[tuple[str, str], str],
) -> dict[str, str]:
    """The cells of a suite that wait or run in the queue: key -> Slurm job."""
    return {key: job for one in submissions(cache, name)
            for job, keys in one.facts["jobs"].items()
            if (one.folder.name, job) in jobs for key in keys}


class Task:
    """What a job does: its cells, one after the other. Slurm gets no more than their keys."""

    def __init__(self, folder: str, keys: Sequence[str]) -> None:
        self.folder, self.keys = folder, tuple(keys)

    def __call__(self) -> None:
        """Works on the cells. Raises if one failed, so that what waits for it is not started."""
        os.environ["HEATPROOF_CACHE"] = str(Path(self.folder).parent.parent)
        compute_alike()
        submission, failed = Submission.read(Path(self.folder)), list[str]()
        cells = submission.cells()
        from bench.nets import device_named

        place = submission.place(str(device_named("auto")))
        for key in self.keys:
            cell = cells[key]
            print(f"{cell.name}: begins", flush=True)  # noqa: T201  a job's log is its only voice
            outcome = work(cell, replace(place, progress=_told))
            print(f"{cell.name}: {outcome.status}", flush=True)  # noqa: T201
            failed += [f"{cell.name}: {trace}" for trace in outcome.failures.values()]
        if failed:
            raise RuntimeError("\n".join(failed))

    def checkpoint(self) -> Any:
        """What is submitted when time runs out: the same, since the store knows how far it is."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def _told(what: str, done: int, total: int) -> None:
    print(f"  {time.strftime('%H:%M:%S')} {what}, {done} of {total}", flush=True)  # noqa: T201


class Collect:
    """The last job: submits again what died, as often as the profile says; else publishes."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def __call__(self) -> None:
        """Ends with an error if something is missing for good."""
        from submitit.helpers import clean_env

        os.environ["HEATPROOF_CACHE"] = str(Path(self.folder).parent.parent)
        submission = Submission.read(Path(self.folder))
        left = missing(submission.cells(), submission.place())
        again = {key: cell for key, cell in left.items() if _retried(cell, left, submission.cache)}
        if again and submission.facts["attempt"] < submission.profile.retries:
            facts = submission.facts
            config = os.environ.get("SLURM_CONF")
            with clean_env():  # this job's own settings are not to be the next ones'
                if config:
                    os.environ["SLURM_CONF"] = config
                other = Submission.new(
                    Path(facts["file"]), Path(facts["out"]), Path(facts["leaderboard"]),
                    submission.profile, submission.cache, seeds=facts["seeds"],
                    only=facts["only"], plugin_files=facts["plugins"],
                    attempt=facts["attempt"] + 1)
                here = queued(submission.cache, facts["suite"], queue() or {})
                grown = {key: 2.0**other.facts["attempt"] for key, cell in again.items()
                         if _died(cell, left, submission)}
                other.submit(arrays(again, submission.profile, here, grown))
            print(f"{len(again)} cells are tried again: {other.folder}")  # noqa: T201
            return
        from bench import board, page, results

        found = results.read(Path(submission.facts["out"]) / submission.facts["suite"])
        print(page.write(board.rank(found), found, Path(submission.facts["leaderboard"])))  # noqa: T201
        if left:
            raise RuntimeError(f"{len(left)} cells are missing; see heatproof status "
                               f"{submission.facts['suite']}")


def _retried(cell: Cell, left: Mapping[str, Cell], cache: Cache) -> bool:
    """Whether a cell is worth another try: it did not fail by an error that would come again."""
    said = word(cell.key, cache)
    return (said.get("state") != "failed" or said["memory"]) and all(
        _retried(left[need], left, cache) for need in cell.needs if need in left)


def _died(cell: Cell, left: Mapping[str, Cell], submission: Submission) -> bool:
    """Whether a cell that is left may have died for want of memory, now that all jobs are over.

    Its process left a claim, or a word; or its job died before that, and not for want of a network.
    """
    said, held = word(cell.key, submission.cache), holder(cell.key, submission.cache)
    if held:
        return held.who["job"] in submission.facts["jobs"]
    return not any(need in left for need in cell.needs) and (
        not said or said["state"] == "died" or said["memory"])
