"""Whether the system is well: what was found, and what can be done about it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from sidework.model.job import WorkerInfo

SILENT_AFTER = timedelta(minutes=1)
"""A living worker says so at least every few seconds; one that did not for so long is stopped or stuck."""
LONG_RUN = timedelta(hours=1)
SHOWN_KEYS = 5


class Level(StrEnum):
    """How grave a finding is."""

    WELL = "well"
    NOTICE = "notice"
    """Good to know; nothing is lost by it now."""
    ILL = "ill"
    """Something does not work, or will not."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was looked at."""

    subject: str
    level: Level
    text: str
    remedy: str | None = None


class RunningJob(msgspec.Struct, frozen=True, kw_only=True):
    """A job that runs, and since when."""

    id: int
    key: str
    since: datetime


class Examination(msgspec.Struct, frozen=True, kw_only=True):
    """What a database can say about itself and its jobs."""

    findings: Sequence[Finding]
    """About the database itself."""
    usable: bool = True
    """Whether the tables can be used; if not, nothing is known of jobs and workers."""
    ready: Mapping[str, int] = {}
    """Key -> how many jobs of it are ready to run."""
    oldest_running: RunningJob | None = None


def diagnose(examination: Examination, workers: Sequence[WorkerInfo], now: datetime) -> list[Finding]:
    """Return all findings: the database's own, then those about workers and jobs."""
    if not examination.usable:
        return [*examination.findings]
    return [
        *examination.findings,
        *_about_workers(workers, now),
        *_about_ready_jobs(examination.ready, workers),
        *_about_running_jobs(examination.oldest_running, now),
    ]


def _about_workers(workers: Sequence[WorkerInfo], now: datetime) -> Iterator[Finding]:
    living = [worker for worker in workers if worker.alive]
    dead = [worker for worker in workers if not worker.alive and worker.running]
    silent = [worker for worker in living if now - worker.seen_at > SILENT_AFTER]
    if dead:
        yield _about_the_dead(dead, anybody_lives=bool(living))
    for worker in silent:
        yield Finding(
            subject="workers",
            level=Level.ILL,
            text=f"worker {worker.id} (process {worker.pid} on {worker.host}) lives, but has been silent for "
            f"{_minutes(now - worker.seen_at)}; jobs that it holds: {worker.running}",
            remedy="look whether the process is stopped or stuck; when it is ended, its jobs run elsewhere at once",
        )
    if not dead and not silent:
        yield Finding(subject="workers", level=Level.WELL, text=f"{len(living)} at work")


def _about_the_dead(dead: Sequence[WorkerInfo], *, anybody_lives: bool) -> Finding:
    jobs = sum(worker.running for worker in dead)
    text = f"workers that died: {len(dead)}; jobs that they still hold: {jobs}"
    if anybody_lives:
        return Finding(subject="workers", level=Level.NOTICE, text=f"{text}; a living one takes them over")
    return Finding(subject="workers", level=Level.ILL, text=text, remedy="start a worker: it takes them over at once")


def _about_ready_jobs(ready: Mapping[str, int], workers: Sequence[WorkerInfo]) -> Iterator[Finding]:
    known = {key for worker in workers if worker.alive for key in worker.keys}
    orphans = {key: number for key, number in ready.items() if key not in known}
    total = sum(ready.values())
    if not orphans:
        yield Finding(subject="ready jobs", level=Level.WELL, text=f"{total:,}, all known to a living worker")
        return
    named = ", ".join(f"{key!r} ({number:,})" for key, number in sorted(orphans.items())[:SHOWN_KEYS])
    more = f" and {len(orphans) - SHOWN_KEYS} more keys" if len(orphans) > SHOWN_KEYS else ""
    yield Finding(
        subject="ready jobs",
        level=Level.ILL,
        text=f"no living worker has a handler for {named}{more}",
        remedy="start `sidework run` with the app that has them, or cancel those jobs",
    )


def _about_running_jobs(oldest: RunningJob | None, now: datetime) -> Iterator[Finding]:
    if oldest is None:
        yield Finding(subject="oldest running job", level=Level.WELL, text="none runs")
        return
    age = now - oldest.since
    text = f"job {oldest.id} ({oldest.key}) since {_minutes(age)}"
    if age < LONG_RUN:
        yield Finding(subject="oldest running job", level=Level.WELL, text=text)
        return
    remedy = f"`sidework show {oldest.id}` shows its progress; a handler's timeout= bounds it"
    yield Finding(subject="oldest running job", level=Level.NOTICE, text=text, remedy=remedy)


def _minutes(age: timedelta) -> str:
    seconds = age.total_seconds()
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:,.0f} min"  # noqa: PLR2004 - two minutes
