"""What a person sees of a long run: bars in a terminal, lines in a log, and how it ended."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Self

from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID

    from bench.outcome import Outcome

PATIENCE = 5.0
"""Seconds after which a log without a terminal gets a line of what is under way."""


class Watch:
    """A bar for all runs and one for each that is under way; `with Watch(console) as watch:`."""

    def __init__(self, console: Console, *, debug: bool) -> None:
        self.console, self.debug = console, debug
        self.bar = Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
                            TimeElapsedColumn(), console=console)
        self.total = self.bar.add_task("looking up the suite", total=None)
        self.lines: dict[str, TaskID] = {}
        self.started = self.told = time.perf_counter()
        self.counts: dict[str, int] = {}
        self.failed: list[str] = []
        """A line for each failure of the code or the machine."""
        self.bad_input: list[str] = []
        """A line for each failure that is the user's to mend."""

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        for line in self.lines.values():
            self.bar.remove_task(line)
        self.bar.stop()

    @property
    def seconds(self) -> float:
        """Seconds since the beginning."""
        return time.perf_counter() - self.started

    def expect(self, title: str, runs: int) -> None:
        """Says what is run, and how many runs it has."""
        self.bar.update(self.total, description=f"[bold]{escape(title)}", total=runs)

    def report(self, event: tuple[str, str, int, int]) -> None:
        """Shows an event: which cell, what is under way, how much is done, how much there is."""
        cell, what, done, of = event
        if cell not in self.lines:
            self.lines[cell] = self.bar.add_task("", total=of)
        self.bar.update(self.lines[cell], completed=done, total=of,
                        description=f"  [dim]{escape(cell)}[/] {escape(what)}")
        if done >= of:
            self.bar.remove_task(self.lines.pop(cell))
        if time.perf_counter() - self.told > PATIENCE:
            self.tell(f"{cell}: {what}, {done} of {of}")

    def tell(self, text: str) -> None:
        """Writes a line to a log; a terminal has the bars."""
        self.told = time.perf_counter()
        if not self.console.is_terminal:
            self.console.print(f"{self.seconds:6.1f} s  {escape(text)}")

    def end(self, outcome: Outcome) -> None:
        """Takes note of how a run ended; one cause that fails many runs is told once."""
        for cell in [c for c in self.lines if c == outcome.cell or outcome.failures]:
            self.bar.remove_task(self.lines.pop(cell))
        self.bar.advance(self.total)
        self.counts[outcome.status] = self.counts.get(outcome.status, 0) + 1
        if outcome.status != "finished before":
            self.tell(f"{outcome.cell}: {outcome.status}")
        for what, line in outcome.errors.items():
            known = line in self.failed or line in self.bad_input
            (self.bad_input if what in outcome.bad_input else self.failed).append(line)
            if self.debug:
                self.console.print(escape(outcome.failures[what]))
            elif not known:
                self.console.print(
                    f"[red]{escape(outcome.cell)}, {escape(what)}:[/] {escape(line)}")
