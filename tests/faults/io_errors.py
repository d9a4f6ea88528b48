"""F4: the n-th write or sync of the database's files fails, once or for a while, and the service goes on."""

from __future__ import annotations

import argparse
import errno
import gc
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
from tests.faults.audit import Findings, audit
from tests.faults.history import ACKED, Log
from tests.faults.processes import fork, last_words, now, wait_for
from tests.faults.shim import Shim
from tests.faults.workload import Workload

from sidework.errors import DatabaseBusy, DatabaseUnavailable

if TYPE_CHECKING:
    from collections.abc import Sequence

ORDERS: Final = 12
SICK_FOR: Final = 0.3
"""Seconds for which every write fails, where it does not fail only once."""
LONGEST: Final = 30.0
MOST_TRIES: Final = 6


class IoFigures(msgspec.Struct, kw_only=True):
    """What came of it."""

    seed: int
    calls: int = 0
    """Writes and syncs of a run in which none fails."""
    cases: int = 0
    positions: int = 0
    """At how many of these calls a run had its failure."""
    missed: list[int] = []
    """Calls at which none had."""
    failures: int = 0
    refused: int = 0
    """Enqueues that were told so."""
    hangs: int = 0
    seconds: list[float] = []
    """How long each run took."""
    findings: Findings = msgspec.field(default_factory=Findings)


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """Which call fails, and how."""

    at: int
    error: int
    short: bool = False
    seconds: float = 0.0


class Told(msgspec.Struct, kw_only=True):
    """What a child says at its end."""

    calls: int
    failures: int
    refused: int


def run(case: Case, folder: Path, seed: int) -> None:
    """Enqueue and work in this process while the disk fails; say how it went."""
    log = Log(folder / "log")
    workload = Workload(folder / "app.db", log, seed=seed)
    workload.prepare()
    shim, refused, placed = Shim(), 0, 0
    shim.arm(case.at, case.error, short=case.short, seconds=case.seconds)
    refused += _start(workload)
    service = workload.service
    try:
        while placed < ORDERS:
            key = ("settle", "settle_in_block", "settle_async", "outside")[placed % 4]
            try:
                log.write(ACKED, service.enqueue(key, {"order": -1 - placed}))
                placed += 1
            except (DatabaseUnavailable, DatabaseBusy):
                refused += 1
                time.sleep(0.01)
        until = now() + LONGEST
        while not _all_ended(workload) and now() < until:
            time.sleep(0.005)
    finally:
        service.stop()
    told = Told(calls=shim.calls(), failures=shim.failures(), refused=refused)
    (folder / "told").write_bytes(msgspec.json.encode(told))


def _start(workload: Workload) -> int:
    """Start as a process manager would: again and again; return how often it was refused."""
    refused = 0
    while True:
        try:
            workload.service.start()
        except DatabaseUnavailable:
            refused += 1
            time.sleep(0.01)
        else:
            return refused


def _all_ended(workload: Workload) -> bool:
    try:
        counts = workload.service.jobs.counts()
    except DatabaseUnavailable:
        return False
    return not any(number for status, number in counts.items() if not status.ended)


class Campaign:
    """One case after the other, each in a process and on a database of its own."""

    def __init__(self, *, seed: int, cases: int, seconds: float, folder: Path) -> None:
        self._random = random.Random(seed)
        self._cases = cases
        self._deadline = now() + seconds
        self._folder = folder
        self._failed: set[int] = set()
        self.figures = IoFigures(seed=seed)

    def run(self) -> IoFigures:
        """Count the calls of a run without failures; then let each of them fail in each way, or as many as asked."""
        self.figures.calls = self._calls = self._try(Case(at=0, error=0), 0).calls
        if not self._cases:
            for at in range(1, self._calls + 1):
                self._let_fail(at)
        for case in self._chosen():
            if now() > self._deadline:
                break
            self._take(case)
        self.figures.positions = len(self._failed)
        self.figures.missed = sorted(set(range(1, self._calls + 1)) - self._failed)
        return self.figures

    def _let_fail(self, at: int) -> None:
        """Try a call until it has failed once: not every run makes the same number of calls."""
        for case in self._random.sample(_ways(at), MOST_TRIES):
            self._take(case)
            if at in self._failed:
                return

    def _chosen(self) -> list[Case]:
        every = [case for at in range(1, self._calls + 1) for case in _ways(at)]
        self._random.shuffle(every)
        return every[: self._cases] if self._cases else every

    def _take(self, case: Case) -> None:
        self.figures.cases += 1
        told = self._try(case, self.figures.cases)
        if told.failures:
            self._failed.add(case.at)
        self.figures.failures += told.failures
        self.figures.refused += told.refused

    def _try(self, case: Case, number: int) -> Told:
        folder = self._folder / f"{number}"
        folder.mkdir()
        began = now()
        process = fork(lambda: run(case, folder, number), folder / "errors")
        status = wait_for(process, LONGEST + 10)
        self.figures.seconds.append(now() - began)
        if status != 0:
            self.figures.hangs += status is None
            words = last_words(folder / "errors")
            self.figures.findings.wrongs = [*self.figures.findings.wrongs, f"{case}: status {status}, {words}"]
            return Told(calls=0, failures=0, refused=0)
        findings = audit(folder / "app.db", folder / "log")
        findings.wrongs = [f"{case}: {wrong}; {last_words(folder / 'errors')}" for wrong in findings.wrongs]
        self.figures.findings.add(findings)
        told = msgspec.json.decode((folder / "told").read_bytes(), type=Told)
        shutil.rmtree(folder)
        return told


def _ways(at: int) -> list[Case]:
    """Return the ways in which a call may fail."""
    return [
        Case(at=at, error=error, short=short, seconds=seconds)
        for error, short in ((errno.EIO, False), (errno.ENOSPC, False), (errno.EIO, True))
        for seconds in (0.0, SICK_FOR)
    ]


def main(arguments: Sequence[str]) -> None:
    """Run the cases and print the figures as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--cases", type=int, default=20, help="0: every call in every way")
    parser.add_argument("--seconds", type=float, default=60.0)
    chosen = parser.parse_args(arguments)
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        gc.freeze()
        campaign = Campaign(seed=chosen.seed, cases=chosen.cases, seconds=chosen.seconds, folder=Path(folder))
        sys.stdout.write(msgspec.json.encode(campaign.run()).decode() + "\n")
