"""`sidework check APP`: are there jobs in the database that this code cannot run? To be asked before it is deployed."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import msgspec
from click.exceptions import Exit

from sidework.cli import options
from sidework.cli.failures import ExitCode
from sidework.cli.grammar import command
from sidework.cli.loading import load_service
from sidework.cli.output import print_list, say
from sidework.errors import InvalidPayload

if TYPE_CHECKING:
    from sidework import BackgroundJobManager, BackgroundService, Job
    from sidework.model.handler import JobHandler

AT_ONCE = 1000


class Trouble(msgspec.Struct, frozen=True, kw_only=True):
    """Jobs of one key that cannot be run, for one reason."""

    key: str
    jobs: int
    example: int
    """The number of the first of them."""
    why: str


_COLUMNS = {
    "key": lambda trouble: trouble.key,
    "jobs": lambda trouble: f"{trouble.jobs:,}",
    "such as": lambda trouble: trouble.example,
    "why": lambda trouble: trouble.why,
}


@command
@options.named_app
@options.database
@options.as_json
def check(*, app: str | None, database: str | None, as_json: bool) -> None:
    """Look for jobs not yet ended that this code cannot run: unknown keys, payloads that do not fit. Exit code 1."""
    service = load_service(app)
    service.load_imports()
    looked_at, troubles = _look(_jobs_of(service, database), service.handlers)
    print_list(
        troubles, _COLUMNS, as_json=as_json, nothing=f"this code can run all {looked_at:,} jobs that wait or run"
    )
    if troubles:
        if not as_json:
            say("deploy code that knows these keys and payloads, or cancel the jobs")
        raise Exit(ExitCode.NO)


def _jobs_of(service: BackgroundService, database: str | None) -> BackgroundJobManager:
    from sidework import BackgroundService

    return service.jobs if database is None else BackgroundService(database).jobs


def _look(manager: BackgroundJobManager, handlers: Mapping[str, JobHandler[..., Any]]) -> tuple[int, list[Trouble]]:
    """Return how many jobs were looked at, and what is wrong with them."""
    looked_at, found = 0, dict[tuple[str, str], Trouble]()
    for job in _unended(manager):
        looked_at += 1
        if (why := _why_not(job, handlers)) is not None:
            before = found.get((job.key, why))
            jobs, example = (before.jobs, before.example) if before else (0, job.id)
            found[job.key, why] = Trouble(key=job.key, jobs=jobs + 1, example=example, why=why)
    return looked_at, sorted(found.values(), key=lambda trouble: trouble.example)


def _unended(manager: BackgroundJobManager) -> Iterator[Job]:
    from sidework.model.job import JobStatus

    for status in (JobStatus.PENDING, JobStatus.SCHEDULED, JobStatus.RUNNING):
        after = None
        while page := manager.list(status=status, after=after, limit=AT_ONCE, newest_first=False):
            yield from page
            after = page[-1].id


def _why_not(job: Job, handlers: Mapping[str, JobHandler[..., Any]]) -> str | None:
    """Return why this code cannot run a job, or None: it can."""
    queue: object = job.queue  # whatever its type says: any program may have written the row
    if not isinstance(queue, str):
        return "its queue is a BLOB and no text, so no worker claims it; `sidework doctor` says how to mend it"
    handler = handlers.get(job.key)
    if handler is None:
        near = difflib.get_close_matches(job.key, handlers)
        return "no handler has this key" + (f"; near: {', '.join(near)}" if near else "")
    if isinstance(job.payload, str):
        return "its payload is not JSON"
    try:
        handler.arguments(None if job.payload is None else msgspec.json.encode(job.payload).decode())
    except InvalidPayload as error:
        return str(error)
    return None
