"""How a piece of work ended, and what went wrong in it, as a person is told."""

from __future__ import annotations

import traceback
from dataclasses import dataclass, field

from bench.core import HeatproofError


@dataclass
class Outcome:
    """How one run, or the training of one model, ended.

    failures: what failed -> its traceback. bad_input: those that are the user's to mend, a line
    each. trained: whether a network was trained for it now.
    """

    cell: str
    status: str = "done"
    trained: bool = False
    failures: dict[str, str] = field(default_factory=dict)
    bad_input: dict[str, str] = field(default_factory=dict)

    @property
    def errors(self) -> dict[str, str]:
        """What failed -> the one line that says why."""
        return {what: self.bad_input.get(what) or trace.strip().splitlines()[-1]
                for what, trace in self.failures.items()}


class caught:  # noqa: N801  reads as a phrase: `with caught(outcome, name):`
    """Writes an error inside the block into an outcome and goes on after it."""

    def __init__(self, outcome: Outcome, name: str) -> None:
        self.outcome, self.name = outcome, name

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if error is None or not isinstance(error, Exception):
            return False
        self.outcome.status = "failed"
        self.outcome.failures[self.name] = "".join(traceback.format_exception(error))
        if isinstance(error, HeatproofError):
            self.outcome.bad_input[self.name] = str(error)
        return True
