"""The demo's application: one service with one handler, as a user would write it."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable
from contextlib import closing

import msgspec

from sidework import BackgroundService, Discard, JobHandler
from sidework.cli.demo import index
from sidework.cli.demo.source import Reading, Source, UnreadableError, next_sources, read
from sidework.model.job import NewJob

CONCURRENCY = 4
AS_OFTEN_AS_IT_TAKES = 1_000_000
"""max_crashes: here the workers are killed on purpose, and no file is to blame."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What the parent and its workers must agree about."""

    database: str
    folder: str | None
    """None: the standard library, and every module leads to others."""
    fenced: bool
    """False: the control. Effects are committed apart from the job, before it ends."""
    pace: float
    """Seconds that each job waits beyond its work."""


def build_service(settings: Settings) -> tuple[BackgroundService, JobHandler[..., None]]:
    """Return the service that parent and workers share, and its handler: the same code on the same file."""
    service = BackgroundService(settings.database, concurrency=CONCURRENCY)
    add_effects = _within_the_job if settings.fenced else _apart_from_the_job

    @service.handler(max_crashes=AS_OFTEN_AS_IT_TAKES)
    def read_file(db: sqlite3.Connection, name: str, path: str) -> None:
        source = Source(name=name, path=path)
        try:
            reading = read(source)
        except UnreadableError as error:
            raise Discard(str(error)) from error
        add_effects(db, settings, source, reading)
        if settings.folder is None:
            fresh = index.found_first(db, next_sources(source, reading))
            service.enqueue_many(jobs_for(read_file, fresh))  # joins db: these exist only if this job commits

    return service, read_file


def jobs_for(handler: JobHandler[..., None], sources: Iterable[Source]) -> list[NewJob]:
    """Return a job for each source; two at once for the same one are impossible."""
    return [handler.using(unique_key=source.name).new(name=source.name, path=source.path) for source in sources]


def _within_the_job(db: sqlite3.Connection, settings: Settings, source: Source, reading: Reading) -> None:
    time.sleep(settings.pace)
    index.add(db, source, reading)


def _apart_from_the_job(_db: sqlite3.Connection, settings: Settings, source: Source, reading: Reading) -> None:
    with closing(sqlite3.connect(settings.database, timeout=30)) as own, own:
        index.add(own, source, reading)
    time.sleep(settings.pace)
