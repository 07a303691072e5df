"""What is missing of a suite as other workload managers read it: JSON lines, make, Snakemake.

Each cell is one command, `heatproof run-cell`, that is done whole or not at all and may be run
again; so whoever can run commands in an order can run a suite.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.cells import Cell
from bench.core import HeatproofError

STAMPS = "cells"
"""Where make and Snakemake note what is done, beside their file. A note that is older than the file
counts for nothing: what the file names was missing when it was written."""


@dataclass(frozen=True)
class Call:
    """How any cell of a suite is run.

    suite: its name or file. plugin_files: what it needs. predicted: key -> what a cell will cost.
    """

    suite: str
    out: Path
    plugin_files: Sequence[str | Path] = ()
    device: str = "auto"
    seeds: int = 0
    processes: int = 1
    predicted: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def command(self, key: str) -> list[str]:
        """The command of one cell, the same from every folder."""
        suite = Path(self.suite)
        name = str(suite.resolve()) if suite.suffix == ".toml" else self.suite
        found = ["heatproof", "run-cell", name, key, "--out", str(self.out.resolve())]
        for file in self.plugin_files:
            found += ["--plugin", str(Path(file).resolve())]
        for option, value, usual in (("--device", self.device, "auto"),
                                     ("--seeds", self.seeds, 0),
                                     ("--processes", self.processes, 1)):
            if value != usual:
                found += [option, str(value)]
        return found

    def line(self, key: str, escaped: Callable[[str], str]) -> str:
        """The same for a shell: a word may have to be `escaped` for the file it goes to, `key` not.

        Raises HeatproofError where no such file could hold it.
        """
        words = [shlex.quote(word) for word in self.command("KEY")]
        if any(set(word) & set("\n\r") for word in words):
            raise HeatproofError(
                "the name of a folder or file has a line break; rename it, or take --format json")
        return " ".join([*map(escaped, words[:3]), key, *map(escaped, words[4:])])


def as_json(left: Mapping[str, Cell], call: Call) -> str:
    """A line a cell: key, stage, name, needs, command, predicted.

    needs: the keys that must be done before. predicted: a `cost.Prediction`, or null.
    """
    return "".join(json.dumps({
        "key": key, "stage": cell.stage, "name": cell.name, "needs": needs,
        "command": call.command(key), "predicted": call.predicted.get(key)},
        ensure_ascii=False) + "\n"
        for (key, cell), needs in zip(left.items(), _needs(left).values(), strict=True))


def as_make(left: Mapping[str, Cell], call: Call) -> str:
    """A Makefile with a target a cell; run it as `make -k -j 8`."""
    run = call.line("$*", lambda text: text.replace("$", "$$"))
    lines = [
        f"# {len(left)} cells; run as many at a time as this machine can: make -k -j 8", "",
        f"CELLS = {' '.join(left)}", "",
        ".PHONY: all", f"all: $(addprefix {STAMPS}/,$(CELLS))", "",
        f"$(addprefix {STAMPS}/,$(CELLS)): {STAMPS}/%: $(firstword $(MAKEFILE_LIST))",
        f"\t{run}", f"\t@mkdir -p {STAMPS} && touch $@", ""]
    for key, needs in _needs(left).items():
        lines.append(f"# {_told(left[key])}")
        lines.append(f"{STAMPS}/{key}: {' '.join(f'{STAMPS}/{need}' for need in needs)}".rstrip())
    return "\n".join(lines) + "\n"


def as_snakemake(left: Mapping[str, Cell], call: Call) -> str:
    """A Snakefile with one rule; run it as `snakemake -s Snakefile -k -c 8`."""
    line = call.line("{wildcards.key}",
                     lambda text: text.replace("{", "{{").replace("}", "}}"))
    lines = [
        f"# {len(left)} cells; with as many cores as there are: snakemake -s Snakefile -k -c 8",
        "", "NEEDS = {"]
    for key, needs in _needs(left).items():
        lines.append(f"    {key!r}: {needs!r},  # {_told(left[key])}")
    lines += [
        "}", "", "", "rule all:", "    input:",
        f"        [f\"{STAMPS}/{{key}}\" for key in NEEDS],", "", "",
        "rule cell:", "    input:", "        workflow.main_snakefile,",
        f"        lambda wildcards: [f\"{STAMPS}/{{need}}\" for need in NEEDS[wildcards.key]],",
        "    output:", f"        touch(\"{STAMPS}/{{key}}\"),",
        "    wildcard_constraints:", "        key=\"[0-9a-f]+\",",
        "    shell:", f"        {line!r}"]
    return "\n".join(lines) + "\n"


FORMATS = {"json": as_json, "make": as_make, "snakemake": as_snakemake}
"""By the name that a person gives."""


def _needs(left: Mapping[str, Cell]) -> dict[str, list[str]]:
    """What each cell waits for; what is done is waited for by none."""
    return {key: [need for need in cell.needs if need in left] for key, cell in left.items()}


def _told(cell: Cell) -> str:
    """A cell's name for a comment, which no letter of it can end."""
    return json.dumps(cell.name)
