"""A transaction of the application that stays open beside many jobs: what it does to claims, and that doctor names it.

`python -m tests.faults.child pinned --minutes 10 --jobs 1000000`
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any, Final

import msgspec
import psycopg
from tests.faults.processes import now
from tests.faults.running import percentile
from tests.postgres_server import Server

from sidework.clock import SystemClock
from sidework.model.job import JobStatus, NewJob, NewWorker, Outcome
from sidework.storage.contract import Want
from sidework.storage.open import open_storage

AT_ONCE: Final = 10
"""Jobs of one turn: so many are settled, claimed, and enqueued anew, so that the number of those that wait stays."""
TURNS_A_SECOND: Final = 100
PART: Final = 30.0
"""Seconds of one line of the figures."""
CALM: Final = 20.0
KINDS: Final[dict[str, tuple[str, ...]]] = {
    "reads": ("BEGIN ISOLATION LEVEL REPEATABLE READ", "SELECT count(*) FROM shop"),
    "writes": ("BEGIN", "INSERT INTO shop VALUES (1) /* an order that waits for a customer */"),
}
"""What the application does before it goes idle: both keep dead rows from being removed, in two ways."""


class Part(msgspec.Struct, kw_only=True):
    """Turns of one stretch of time, in milliseconds, and what vacuum left behind."""

    what: str
    turns: int
    p50: float
    p99: float
    longest: float
    dead_rows: int


class PinnedFigures(msgspec.Struct, kw_only=True):
    """What came of it."""

    kind: str
    jobs: int
    seconds: float
    parts: list[Part] = []
    doctor: list[str] = []
    """What `doctor` says of the oldest transaction while it is open, and afterwards."""


class Load:
    """One worker that settles, claims and enqueues at a steady pace."""

    def __init__(self, url: str) -> None:
        self._storage = open_storage(url)
        self._clock = SystemClock()
        about = NewWorker(keys=frozenset("k"), queues=None, concurrency=AT_ONCE, limits={})
        self._seat = self._storage.join(about, now=self._clock.now())
        self._held: list[Outcome] = []
        self._want = Want(keys=frozenset("k"), room=AT_ONCE, rooms={"default": AT_ONCE})  # as a worker does

    def work(self, seconds: float) -> list[float]:
        """Work for so long; return the seconds of each turn."""
        took: list[float] = []
        began = now()
        while (passed := now() - began) < seconds:
            took.append(self._turn())
            self._storage.insert([NewJob(key="k")] * AT_ONCE, now=self._clock.now())
            time.sleep(max(len(took) / TURNS_A_SECOND - passed, 0.0))
        return took

    def _turn(self) -> float:
        began = now()
        turn = self._storage.exchange(self._seat.worker, self._held, self._want, now=self._clock.now())
        took = now() - began
        self._held = [
            Outcome(claim=job.claim, status=JobStatus.COMPLETED, attempts=1, crashes=0) for job in turn.claimed
        ]
        assert len(self._held) == AT_ONCE
        return took

    def doctor(self) -> str:
        """Return what is said of the oldest transaction."""
        findings = self._storage.examine().findings
        return next(f"{each.level.value}: {each.text}" for each in findings if each.subject == "oldest transaction")

    def close(self) -> None:
        self._seat.leave()
        self._storage.close()


@contextmanager
def held_open(url: str, kind: str) -> Iterator[None]:
    """Let the application begin a transaction, and forget to end it."""
    with closing(psycopg.connect(url, autocommit=True)) as application:
        for statement in KINDS[kind]:
            application.execute(statement)
        yield
        application.execute("ROLLBACK")


def measure(url: str, *, kind: str, jobs: int, seconds: float) -> PinnedFigures:
    """Work before, beside and after the transaction."""
    figures = PinnedFigures(kind=kind, jobs=jobs, seconds=seconds)
    _fill(url, jobs)
    load = Load(url)
    try:
        figures.parts = [_part(url, "before", lambda: load.work(CALM))]
        with held_open(url, kind):
            opened = now()
            while (left := seconds - (now() - opened)) > 0:
                what = f"{now() - opened:.0f} s into it"
                figures.parts = [*figures.parts, _part(url, what, lambda: load.work(min(left, PART)))]
            figures.doctor = [load.doctor()]
        figures.parts = [*figures.parts, _part(url, "after", lambda: load.work(CALM + PART))]
        figures.doctor = [*figures.doctor, load.doctor()]
    finally:
        load.close()
    return figures


def _fill(url: str, jobs: int) -> None:
    open_storage(url).migrate()
    with closing(psycopg.connect(url, autocommit=True)) as connection:
        connection.execute("CREATE TABLE shop (n int)")
        connection.execute(
            "INSERT INTO background_service_jobs (job_key) SELECT 'k' FROM generate_series(1, %s)", (jobs,)
        )
        connection.execute("VACUUM ANALYZE background_service_jobs")


def _part(url: str, what: str, work: Callable[[], list[float]]) -> Part:
    took = [seconds * 1000 for seconds in work()]
    dead = "SELECT n_dead_tup FROM pg_stat_user_tables WHERE relname = 'background_service_jobs'"
    with closing(psycopg.connect(url, autocommit=True)) as connection:
        rows: list[Any] = connection.execute(dead).fetchall()
    return Part(
        what=what, turns=len(took), p50=round(percentile(took, 0.5), 2), p99=round(percentile(took, 0.99), 2),
        longest=round(max(took), 1), dead_rows=rows[0][0],
    )  # fmt: skip


def main(arguments: Sequence[str]) -> None:
    """Measure and print the figures as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--jobs", type=int, default=1_000_000)
    parser.add_argument("--kind", choices=KINDS, default="writes")
    chosen = parser.parse_args(arguments)
    server = Server(fsync="on", full_page_writes="on")
    try:
        server.start()
        figures = measure(server.url, kind=chosen.kind, jobs=chosen.jobs, seconds=chosen.minutes * 60)
    finally:
        server.remove()
    sys.stdout.write(msgspec.json.encode(figures).decode() + "\n")
