"""F13: the server crashes again and again under load, and comes back each time: no job is lost, no effect doubled.

`python -m tests.faults.child crashes --restarts 200`
"""

from __future__ import annotations

import argparse
import random
import sys
import threading
from collections import Counter
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Final

import msgspec
import psycopg
from tests.faults.audit import Findings
from tests.faults.processes import now
from tests.postgres_server import Server

import sidework.service
from sidework import BackgroundService, DatabaseUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

JOBS_BETWEEN: Final = 40
DWELL: Final = 0.02
"""Seconds between the first write of a handler and its commit."""
PATIENCE: Final = 20.0
"""Seconds to wait for a handler to be there, before the server is ended wherever it is."""
LONGEST_DRAIN: Final = 120.0


class CrashFigures(msgspec.Struct, kw_only=True):
    """What came of it."""

    seed: int
    restarts: int = 0
    inside: int = 0
    """Crashes while a handler was between its first write and its commit."""
    unanswered: int = 0
    """Enqueues that were not answered, and so repeated under their unique key."""
    recoveries: list[float] = []
    """Seconds from the moment the server is there again to the next handler that writes."""
    findings: Findings = msgspec.field(default_factory=Findings)


class Campaign:
    """One service and one enqueuer beside a server that crashes."""

    def __init__(self, server: Server, *, seed: int, relaxed: bool) -> None:
        """relaxed: acknowledge what the server has not synced yet: the control, which must lose some."""
        self._server = server
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self._running = 0
        self._entered = threading.Event()
        self._wait = threading.Event().wait
        self.figures = CrashFigures(seed=seed)
        sidework.service.FIRST_WAIT = 0.05  # a crash is over in half a second here
        self._service = BackgroundService(
            server.url, durability="relaxed" if relaxed else "full", grace=10, listeners=()
        )
        self._service.register_job_handler("pay", self._write, max_attempts=100_000, max_crashes=100_000, backoff=0.05)

    def run(self, restarts: int) -> CrashFigures:
        """Load, crash and restart so often; drain; look."""
        self._service.migrate()
        with closing(psycopg.connect(self._server.url, autocommit=True)) as raw:
            raw.execute("CREATE TABLE effects (n int)")
        with self._service:
            for number in range(restarts):
                self._crash_under_load(range(number * JOBS_BETWEEN, (number + 1) * JOBS_BETWEEN))
            self._drain()
        self._service.close()
        self._judge(set(range(restarts * JOBS_BETWEEN)))
        return self.figures

    # ------------------------------------------------------------------------------------------------- the load

    def _write(self, db: psycopg.Connection, n: int) -> None:
        db.execute("INSERT INTO effects VALUES (%s)", (n,))
        self._dwell()

    def _dwell(self) -> None:
        with self._within():
            self._entered.set()
            self._wait(DWELL)

    @contextmanager
    def _within(self) -> Iterator[None]:
        with self._lock:
            self._running += 1
        try:
            yield
        finally:
            with self._lock:
                self._running -= 1

    def _enqueue_all(self, numbers: Sequence[int]) -> None:
        for n in numbers:
            self._enqueue(n)

    def _enqueue(self, n: int) -> None:
        while True:
            try:
                self._service.enqueue("pay", {"n": n}, unique_key=f"{n}")
            except DatabaseUnavailable:  # it may have been kept all the same: the key makes it one job
                self.figures.unanswered += 1
                self._wait(0.05)
            else:
                return

    # ------------------------------------------------------------------------------------------------ the crashes

    def _crash_under_load(self, numbers: Sequence[int]) -> None:
        half = len(numbers) // 2
        self._enqueue_all(numbers[:half])
        rest = threading.Thread(target=self._enqueue_all, args=(numbers[half:],))
        rest.start()  # the crash hits these as they are enqueued
        self._entered.clear()
        self._entered.wait(PATIENCE)
        self._wait(self._random.random() * DWELL)
        self.figures.inside += self._running > 0
        self._server.kill()
        self._server.start()
        self._note_recovery()
        rest.join()
        self.figures.restarts += 1

    def _note_recovery(self) -> None:
        back = now()
        self._entered.clear()
        if self._entered.wait(PATIENCE):
            self.figures.recoveries.append(now() - back)

    def _drain(self) -> None:
        """Wait for the end of the last job, for so long and no longer: what did not end then is lost."""
        until = now() + LONGEST_DRAIN
        open_jobs = "SELECT 1 FROM background_service_jobs WHERE status <> 'COMPLETED' LIMIT 1"
        with closing(psycopg.connect(self._server.url, autocommit=True)) as raw:
            while raw.execute(open_jobs).fetchall() and now() < until:
                self._wait(0.1)

    # ---------------------------------------------------------------------------------------------------- the end

    def _judge(self, wanted: set[int]) -> None:
        with closing(psycopg.connect(self._server.url, autocommit=True)) as raw:
            effects = Counter(n for (n,) in raw.execute("SELECT n FROM effects"))
            jobs = Counter(
                status for (status,) in raw.execute("SELECT status FROM background_service_jobs ORDER BY status")
            )
        found = self.figures.findings
        found.jobs = jobs.total()
        found.lost = len(wanted - effects.keys())
        found.doubled = effects.total() - len(effects)
        if found.lost:
            found.wrongs = [*found.wrongs, f"without effect: {found.lost}, such as {min(wanted - effects.keys())}"]
        if found.doubled:
            most = max(effects, key=effects.__getitem__)
            found.wrongs = [*found.wrongs, f"more than one effect: {found.doubled}, such as {most}"]
        if jobs != {"COMPLETED": len(wanted)}:
            found.wrongs = [*found.wrongs, f"jobs at the end: {dict(jobs)} of {len(wanted)}"]


def main(arguments: Sequence[str]) -> None:
    """Run a campaign and print its figures as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--restarts", type=int, default=200)
    parser.add_argument("--relaxed", action="store_true", help="the control: what is acknowledged may not be synced")
    chosen = parser.parse_args(arguments)
    server = Server(fsync="on", full_page_writes="on")
    try:
        server.start()
        figures = Campaign(server, seed=chosen.seed, relaxed=chosen.relaxed).run(chosen.restarts)
    finally:
        server.remove()
    sys.stdout.write(msgspec.json.encode(figures).decode() + "\n")
