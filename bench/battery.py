"""Which metrics a suite asks for: single ones by name, and batteries, which pin their parameters.

A battery is a versioned protocol, `bench/batteries/NAME.toml`. Its numbers mean the same on every
board that names it, so a file is never changed once it is released: a new version is a new file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench import plugins
from bench.core import HeatproofError, digest, filled, read_toml, unknown
from bench.measure import Metric
from bench.suite_file import BatteryFile, SuiteFile

FOLDER = Path(__file__).parent / "batteries"


@dataclass(frozen=True)
class Ask:
    """One metric as a suite asks for it; small enough to be sent to another process.

    name: what the board calls it; base: the registered metric; title: empty for the base's own.
    """

    name: str
    base: str
    title: str
    params: Mapping[str, Any]

    def metric(self) -> Metric:
        """The registered metric under this name and with these parameters. Raises if unknown."""
        base = plugins.metrics[self.base].with_params(self.params)
        return replace(base, name=self.name, title=self.title or base.title)


def batteries() -> dict[str, Path]:
    """Every battery's name with its file."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.toml"))}


def read(name: str) -> BatteryFile:
    """A battery by name. Raises HeatproofError for an unknown one."""
    if name not in batteries():
        raise unknown("battery", name, batteries())
    return filled(BatteryFile, read_toml(batteries()[name]), f"battery {name}")


def asked(file: SuiteFile, where: str) -> list[Ask]:
    """What a suite asks for: its own metrics, then those of its batteries, each once.

    A table [metric."NAME"] of the suite holds parameters, and overrides single ones of a
    battery's. Beside them it may say `metric` (the registered metric that NAME is a variant of),
    `title`, and `force` (to run a metric that is refused for its defect).
    Raises HeatproofError for an unknown metric, parameter or battery, a table that speaks of no
    metric, and a metric that is refused.
    """
    tables: dict[str, dict[str, Any]] = {name: {} for name in file.metrics}
    for battery in (read(name) for name in file.batteries):
        for name in battery.metrics:
            tables.setdefault(name, {}).update(battery.metric.get(name, {}))
    found = [_ask(name, table | file.metric.get(name, {}), where)
             for name, table in tables.items()]
    for name in file.metric:
        if name not in tables:
            raise unknown(f"[metric] table in {where}", name, tables)
    return found


def facts(file: SuiteFile, metrics: Sequence[Metric]) -> list[dict[str, Any]]:
    """Of each battery that a suite names: name, title, digest, metrics, and which were changed."""
    return list(_facts(file, {metric.name: metric for metric in metrics}))


def _facts(file: SuiteFile, metrics: Mapping[str, Metric]) -> Iterator[dict[str, Any]]:
    for name in file.batteries:
        battery = read(name)
        pinned = {one: _ask(one, battery.metric.get(one, {}), name, force=True).metric()
                  for one in battery.metrics}
        changed = [one for one, metric in pinned.items()
                   if dict(metrics[one].params) != dict(metric.params)]
        identity = {one: [metric.version, dict(metric.params)] for one, metric in pinned.items()}
        yield {"name": name, "title": battery.title, "digest": digest(identity),
               "metrics": list(battery.metrics), "changed": changed}


def _ask(name: str, table: Mapping[str, Any], where: str, *, force: bool = False) -> Ask:
    base, title = str(table.get("metric", name)), str(table.get("title", ""))
    if base not in plugins.metrics:
        raise unknown(f"metric in {where}", base, plugins.metrics)
    metric = plugins.metrics[base]
    if metric.defect and not (table.get("force", False) or force):
        raise HeatproofError(
            f"{where}: {base} is refused: {metric.defect.rstrip('.')}. To run it all the same, "
            f"set force = true under [metric.\"{name}\"]")
    params = {key: value for key, value in table.items()
              if key not in ("metric", "title", "force")}
    metric = metric.with_params(params)
    if base != name and not title:
        own = plugins.metrics[base].facts()["params"]
        told = ", ".join(f"{key} {value}" for key, value in params.items() if own[key] != value)
        title = f"{metric.title} ({told})" if told else metric.title
    return Ask(name, base, title, metric.params)
