"""Where a benchmark takes place: a folder, fresh files in it, and how much is to be done."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

from sidework.clock import SystemClock


class Site:
    """A folder on the disk that is measured, and the size of the measurements."""

    def __init__(self, folder: Path, *, runs: int, jobs: int, seconds: float, rows: int) -> None:
        """Take the size.

        runs: how often each figure is taken. jobs: how many no-op jobs one run has; slower measurements take a part
        of it. seconds: how long idleness and disturbance last. rows: how large the table of `growth` is.
        """
        self.runs = runs
        self.jobs = jobs
        self.seconds = seconds
        self.rows = rows
        self._folder = folder
        self._numbers = itertools.count(1)

    def fresh(self) -> Path:
        """Return the path of a database that is not there yet."""
        return self._folder / f"bench-{next(self._numbers)}.db"

    def part_of_jobs(self, divisor: int) -> int:
        """Return the number of jobs for a measurement that is so many times slower."""
        return max(self.jobs // divisor, 10)


def remove(database: Path) -> None:
    """Remove a database and what lies beside it."""
    for path in database.parent.glob(f"{database.name}*"):
        path.unlink(missing_ok=True)


def seconds_of(work: Callable[[], object]) -> float:
    """Return how long some work takes."""
    clock = SystemClock()
    begin = clock.monotonic()
    work()
    return clock.monotonic() - begin


def take_turns(runs: int, ours: Callable[[], float], raw: Callable[[], float]) -> tuple[list[float], list[float]]:
    """Measure both in each run, first one and then the other, so that a slow moment of the machine meets both."""
    mine: list[float] = []
    theirs: list[float] = []
    for run in range(runs):
        for measure, values in ((ours, mine), (raw, theirs)) if run % 2 else ((raw, theirs), (ours, mine)):
            values.append(measure())
    return mine, theirs
