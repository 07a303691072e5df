"""What each kind of job asks a cluster for, from a TOML file.

What stands at the top is for every stage (partition, setup, …) or for all (chunk, retries, …); the
tables [train], [score], [prove] and [collect] are for one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from bench.core import HeatproofError, filled, read_toml, unknown

STAGES = ("train", "score", "prove", "collect")


@dataclass(frozen=True)
class Resources:
    """What a job of one stage asks for; what is empty or 0 is left to the site.

    minutes: whole minutes; a training that needs more is requeued and goes on from its last epoch.
    grace: seconds before that at which a job is told. array_parallelism: jobs of one array that run
    at a time. setup: shell lines that come first. options: any other option of sbatch, by its name.
    """

    partition: str = ""
    account: str = ""
    qos: str = ""
    constraint: str = ""
    gpus: int = 0
    cpus: int = 1
    mem_gb: float = 0.0
    minutes: int = 60
    grace: int = 90
    array_parallelism: int = 64
    setup: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)

    def sbatch(self, *, times: float = 1.0) -> dict[str, Any]:
        """The same by Slurm's names, with `times` the memory; absent is what the site decides."""
        asked: dict[str, Any] = {
            "partition": self.partition, "account": self.account, "qos": self.qos,
            "constraint": self.constraint, "gpus_per_node": self.gpus,
            "mem": f"{round(self.mem_gb * times * 1024)}M" if self.mem_gb else ""}
        return {
            **{key: value for key, value in asked.items() if value}, "cpus_per_task": self.cpus,
            "time": self.minutes, "signal_delay_s": self.grace, "setup": list(self.setup),
            "array_parallelism": self.array_parallelism}


@dataclass(frozen=True)
class Profile:
    """The resources by stage, and how the work is cut into jobs.

    chunk: runs, or proofs, of one job. retries: how many times what died (killed, out of memory,
    never started) is submitted again, each time with twice the memory of the time before.
    timeouts: how many times a job that ran out of time is requeued. processes: how many share one
    training, each with a GPU of its own. array_size: jobs of one array at most; sites limit it.
    """

    stages: Mapping[str, Resources]
    chunk: int = 8
    retries: int = 2
    timeouts: int = 20
    processes: int = 1
    array_size: int = 1000

    def to_json(self) -> dict[str, Any]:
        """The profile, ready for JSON; `from_json` reads it."""
        return asdict(self)

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> Profile:
        """The profile that `to_json` wrote."""
        stages = {name: Resources(**table) for name, table in facts["stages"].items()}
        return cls(**{**facts, "stages": stages})


DEFAULT = Profile({
    "train": Resources(gpus=1, cpus=4, mem_gb=16, minutes=240),
    "score": Resources(gpus=1, cpus=4, mem_gb=16, minutes=120),
    "prove": Resources(cpus=1, mem_gb=4, minutes=60),
    "collect": Resources(cpus=2, mem_gb=8, minutes=60)})
"""What is asked for where no profile says otherwise."""


def read(path: Path | None) -> Profile:
    """A profile from its file; the defaults without one.

    Raises HeatproofError for a missing file, an unknown key or stage, and numbers that are none.
    """
    if path is None:
        return DEFAULT
    table, where = read_toml(path), f"profile {path}"
    own = {f.name for f in fields(Profile)} - {"stages"}
    common = {key: value for key, value in table.items() if key not in own | set(STAGES)}
    known = {f.name for f in fields(Resources)}
    for key in common:
        if key not in known:
            raise unknown(f"key in {where}", key, known | own | set(STAGES))
    stages = {}
    for name in STAGES:
        given = table.get(name, {})
        if not isinstance(given, Mapping):
            raise HeatproofError(f"{where}: {name} must be a table, [{name}]")
        checked = filled(Resources, {**common, **given}, f"[{name}] of {where}")
        stages[name] = replace(DEFAULT.stages[name], **{
            key: getattr(checked, key) for key in {**common, **given}})
        if stages[name].minutes < 1 or stages[name].cpus < 1 or stages[name].mem_gb < 0:
            raise HeatproofError(f"[{name}] of {where}: minutes, cpus and mem_gb must be positive")
    numbers = filled(_Numbers, {key: table[key] for key in own if key in table}, where)
    if min(numbers.chunk, numbers.processes, numbers.array_size) < 1 or numbers.retries < 0:
        raise HeatproofError(f"{where}: chunk, processes and array_size must be positive")
    return Profile(stages, **asdict(numbers))


@dataclass(frozen=True)
class _Numbers:
    chunk: int = DEFAULT.chunk
    retries: int = DEFAULT.retries
    timeouts: int = DEFAULT.timeouts
    processes: int = DEFAULT.processes
    array_size: int = DEFAULT.array_size
