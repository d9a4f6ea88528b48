"""One performance of the demo: prepare or go on, work and kill until all is done, recount, compare."""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec

from sidework import BackgroundJobManager, Job, JobStatus
from sidework.cli.bar import Bar
from sidework.cli.demo import index
from sidework.cli.demo.place import Place
from sidework.cli.demo.recount import recount
from sidework.cli.demo.source import Totals, first_sources
from sidework.cli.demo.work import Settings, build_service, jobs_for
from sidework.cli.demo.workers import Killer, Workers
from sidework.clock import SystemClock

WORKERS = 2
TICK = 0.05


class Ending(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a run."""

    by_jobs: Totals
    recounted: Totals
    jobs: int
    failed: tuple[tuple[str, str], ...]
    """(file, reason) of those that could not be read."""
    crashes: int
    """Jobs that were held by a worker when it was killed, and ran again."""
    kills: int
    seconds: float
    word: str
    hits: tuple[str, ...]

    @property
    def equal(self) -> bool:
        """Whether the jobs have counted everything exactly once."""
        return self.by_jobs == self.recounted


def begin(settings: Settings) -> index.Run:
    """Make the tables, and enqueue what the run starts from in the same transaction."""
    run = index.Run(settings=msgspec.json.encode(settings).decode())
    service, handler = build_service(settings)
    service.migrate()
    first = first_sources(Path(settings.folder) if settings.folder else None)
    with closing(_open(settings)) as db:
        db.execute("BEGIN IMMEDIATE")
        index.create_tables(db, run)
        service.enqueue_many(jobs_for(handler, index.found_first(db, first)), db=db)
        db.execute("COMMIT")
    return run


def same_run(run: index.Run, wish: Settings) -> bool:
    """Whether the run in the database does what is wished for now; the pace may change on the way."""
    kept = msgspec.json.decode(run.settings, type=Settings)
    return (kept.folder, kept.fenced) == (wish.folder, wish.fenced)


class Performance:
    """The run itself, from where it stands to its end."""

    def __init__(self, settings: Settings, place: Place, run: index.Run, *, calm: bool) -> None:
        """Take what to run and how it stands."""
        self._settings = settings
        self._run = run
        self._workers = Workers(settings, count=WORKERS, log=place.log)
        self._killer = None if calm else Killer(self._workers, random.Random())
        self._clock = SystemClock()
        self._began = self._clock.monotonic()

    def play(self, *, show_bar: bool) -> None:
        """Work until no job is left. KeyboardInterrupt leaves the run so that it can go on."""
        jobs = BackgroundJobManager(self._settings.database)
        with closing(_open(self._settings)) as db, Bar("done of found", wanted=show_bar) as bar:
            try:
                while not self._step(jobs, db, bar):
                    time.sleep(TICK)
            finally:
                self._workers.stop()
                self._run, self._workers.kills = self._standing(), 0
                index.keep_run(db, self._run)

    def finish(self, word: str, *, show_bar: bool) -> Ending:
        """Recount, and put both counts beside each other."""
        jobs = list(_all_jobs(BackgroundJobManager(self._settings.database)))
        with Bar("recounting", wanted=show_bar) as bar:
            bar.move(done=0, found=len(jobs), more="")
            recounted = recount(self._settings.folder, bar.advance)
        with closing(_open(self._settings)) as db:
            run = msgspec.structs.replace(self._run, finished=True)
            index.keep_run(db, run)
            return Ending(
                by_jobs=index.totals(db),
                recounted=recounted,
                jobs=len(jobs),
                failed=tuple(_unread(jobs)),
                crashes=sum(job.crashes for job in jobs),
                kills=run.kills,
                seconds=run.seconds,
                word=word,
                hits=tuple(index.search(db, word)),
            )

    def _step(self, jobs: BackgroundJobManager, db: sqlite3.Connection, bar: Bar) -> bool:
        """Keep the workers up, kill one if it is time, show how it stands; return whether all is done."""
        counts = jobs.counts()
        total = sum(counts.values())
        done = sum(counts[status] for status in JobStatus if status.ended)
        bar.move(done=done, found=index.count_found(db), more=f"{self._standing().kills} kills")
        if done == total:
            return True
        self._workers.keep_up()
        if self._killer:
            at_work = frozenset(worker.pid for worker in jobs.workers() if worker.alive)
            self._killer.step(at_work, self._clock.monotonic())
        return False

    def _standing(self) -> index.Run:
        seconds = self._run.seconds + self._clock.monotonic() - self._began
        return msgspec.structs.replace(self._run, seconds=seconds, kills=self._run.kills + self._workers.kills)


def _open(settings: Settings) -> sqlite3.Connection:
    return sqlite3.connect(settings.database, timeout=30, isolation_level=None)


def _all_jobs(jobs: BackgroundJobManager) -> Iterator[Job]:
    after: int | None = None
    while page := jobs.list(after=after, limit=500, newest_first=False):
        yield from page
        after = page[-1].id


def _unread(jobs: list[Job]) -> Iterator[tuple[str, str]]:
    for job in jobs:
        if job.status is JobStatus.FAILED and isinstance(job.payload, dict):
            yield job.payload["name"], job.last_error or "no reason was kept"
