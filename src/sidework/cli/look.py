"""Commands that look: jobs, show, stats, workers, queues, handlers, explain."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Unpack

import click
import msgspec

from sidework.cli import options
from sidework.cli.conditions import Conditions
from sidework.cli.failures import UsageError
from sidework.cli.grammar import command, flag, option
from sidework.cli.loading import load_service, open_jobs
from sidework.cli.options import Place
from sidework.cli.output import (
    duration,
    first_line,
    hide_secrets,
    in_words,
    print_answer,
    print_json,
    print_list,
    print_rows,
    print_table,
    say,
)
from sidework.clock import SystemClock

if TYPE_CHECKING:
    from sidework import Job

LONGEST_ERROR_IN_A_TABLE = 60


@command
@options.status
@options.key
@options.queue
@option("--limit", "-n", metavar="N", type=click.IntRange(min=1), default=50, help="At most so many.")
@option("--after", metavar="ID", type=int, help="Go on beyond this job.")
@flag("--oldest-first", help="Oldest first, not newest first.")
@options.place
@options.as_json
def jobs(
    *,
    status: tuple[str, ...],
    key: str | None,
    queue: str | None,
    limit: int,
    after: int | None,
    oldest_first: bool,
    as_json: bool,
    **where: Unpack[Place],
) -> None:
    """List jobs, newest first."""
    which = Conditions(status=status, key=key, queue=queue).for_manager()
    found = open_jobs(**where).list(**which, after=after, limit=limit, newest_first=not oldest_first)
    print_list([without_secrets(job) for job in found], _JOB_COLUMNS, as_json=as_json, nothing="no jobs")


@command
@options.job_id
@flag("--reveal", help="Show passwords, tokens and the like as they are.")
@options.place
@options.as_json
def show(*, job_id: int, reveal: bool, as_json: bool, **where: Unpack[Place]) -> None:
    """Show all that is known of one job."""
    manager = open_jobs(**where)
    job = manager.get(job_id)
    answer = msgspec.structs.asdict(job if reveal else without_secrets(job))
    lines = manager.log(job_id)
    if as_json:
        print_json({**answer, "log": lines})
        return
    error = answer.pop("last_error")
    print_answer({**answer, "progress": how_far(job) or None}, as_json=False)
    if error:
        say(f"last error\n{error}")
    for line in lines:
        say(f"{line.at:%Y-%m-%d %H:%M:%S}Z  {line.message}")


@command
@options.place
@options.as_json
def stats(*, as_json: bool, **where: Unpack[Place]) -> None:
    """Count jobs by status."""
    counts = {status.value: number for status, number in open_jobs(**where).counts().items()}
    if as_json:
        print_json(counts)
    else:
        print_table(["status", "jobs"], ([name, f"{number:,}"] for name, number in counts.items()))


@command
@options.place
@options.as_json
def workers(*, as_json: bool, **where: Unpack[Place]) -> None:
    """List workers: the living, and those that died and were not yet cleared away."""
    print_list(open_jobs(**where).workers(), _WORKER_COLUMNS, as_json=as_json, nothing="no workers")


@command
@options.place
@options.as_json
def queues(*, as_json: bool, **where: Unpack[Place]) -> None:
    """List queues that hold jobs, are paused or have a limit."""
    print_list(open_jobs(**where).queues(), _QUEUE_COLUMNS, as_json=as_json, nothing="no queues")


@command
@options.named_app
@options.as_json
def handlers(*, app: str | None, as_json: bool) -> None:
    """List the handlers of an app."""
    service = load_service(app)
    service.load_imports()
    found = [service.handlers[key] for key in sorted(service.handlers)]
    if as_json:
        for handler in found:
            print_json({"key": handler.key, "async": handler.is_async, **msgspec.structs.asdict(handler.options)})
    elif found:
        print_rows(found, _HANDLER_COLUMNS)
    else:
        raise UsageError("this app has no handlers; register one with @service.handler")


@command
@options.job_id
@options.place
@options.as_json
def explain(*, job_id: int, as_json: bool, **where: Unpack[Place]) -> None:
    """Say why a job is not running."""
    explanation = open_jobs(**where).explain(job_id)
    if as_json:
        print_json({"id": job_id, **msgspec.structs.asdict(explanation)})
    else:
        for reason in explanation.reasons:
            say(reason.text if reason.remedy is None else f"{reason.text}\n  {reason.remedy}")


def without_secrets(job: Job) -> Job:
    """Return the job with what its payload and result keep under names like `password` hidden."""
    return msgspec.structs.replace(job, payload=hide_secrets(job.payload), result=hide_secrets(job.result))


def _ago(moment: datetime | None) -> str:
    if moment is None:
        return "-"
    since = SystemClock().now() - moment
    return f"{duration(since)} ago" if since.total_seconds() >= 0 else f"in {duration(-since)}"


def _short_error(job: Job) -> str:
    line = first_line(job.last_error) or ""
    return line if len(line) <= LONGEST_ERROR_IN_A_TABLE else line[:LONGEST_ERROR_IN_A_TABLE] + "..."


def how_far(job: Job) -> str:
    """Return the progress that a job has told, in a few words."""
    if job.progress is None:
        return ""
    total = "" if job.progress.total is None else f"/{in_words(job.progress.total)}"
    return f"{in_words(job.progress.done)}{total} {job.progress.message or ''}".rstrip()


_JOB_COLUMNS: Mapping[str, Callable[[Any], object]] = {
    "id": lambda job: job.id,
    "key": lambda job: job.key,
    "status": lambda job: job.status,
    "queue": lambda job: job.queue,
    "priority": lambda job: job.priority,
    "attempts": lambda job: f"{job.attempts}/{job.max_attempts}",
    "created": lambda job: _ago(job.created_at),
    "due": lambda job: "" if job.run_at is None else _ago(job.run_at),
    "progress": how_far,
    "error": _short_error,
}
_WORKER_COLUMNS: Mapping[str, Callable[[Any], object]] = {
    "id": lambda worker: worker.id,
    "host": lambda worker: worker.host,
    "pid": lambda worker: worker.pid,
    "alive": lambda worker: worker.alive,
    "running": lambda worker: worker.running,
    "concurrency": lambda worker: worker.concurrency,
    "queues": lambda worker: "all" if worker.queues is None else worker.queues,
    "started": lambda worker: _ago(worker.started_at),
    "seen": lambda worker: _ago(worker.seen_at),
    "version": lambda worker: worker.version,
}
_QUEUE_COLUMNS: Mapping[str, Callable[[Any], object]] = {
    "queue": lambda queue: queue.name,
    "pending": lambda queue: queue.pending,
    "scheduled": lambda queue: queue.scheduled,
    "running": lambda queue: queue.running,
    "limit": lambda queue: queue.limit,
    "paused": lambda queue: queue.paused,
}
_HANDLER_COLUMNS: Mapping[str, Callable[[Any], object]] = {
    "key": lambda handler: handler.key,
    "queue": lambda handler: handler.options.queue,
    "priority": lambda handler: handler.options.priority,
    "max attempts": lambda handler: handler.options.max_attempts,
    "timeout": lambda handler: handler.options.timeout,
    "runs in": lambda handler: handler.options.executor or ("loop" if handler.is_async else "thread"),
}
