"""Commands that look: jobs, show, stats, workers, queues, handlers, explain."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from sidework.cli.conditions import Conditions
from sidework.cli.failures import UsageError
from sidework.cli.loading import load_service, open_jobs
from sidework.cli.options import App, AsJson, Database, JobId, Key, Queue, Status
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


def jobs(
    status: Status = None,
    key: Key = None,
    queue: Queue = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="At most so many.")] = 50,
    after: Annotated[int | None, typer.Option("--after", metavar="ID", help="Go on beyond this job.")] = None,
    oldest_first: Annotated[bool, typer.Option("--oldest-first", help="Oldest first, not newest first.")] = False,
    database: Database = None,
    app: App = None,
    as_json: AsJson = False,
) -> None:
    """List jobs, newest first."""
    which = Conditions(status=status, key=key, queue=queue).for_manager()
    found = open_jobs(database, app).list(**which, after=after, limit=limit, newest_first=not oldest_first)
    print_list([without_secrets(job) for job in found], _JOB_COLUMNS, as_json=as_json, nothing="no jobs")


def show(
    job_id: JobId,
    reveal: Annotated[bool, typer.Option("--reveal", help="Show passwords, tokens and the like as they are.")] = False,
    database: Database = None,
    app: App = None,
    as_json: AsJson = False,
) -> None:
    """Show all that is known of one job."""
    manager = open_jobs(database, app)
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


def stats(database: Database = None, app: App = None, as_json: AsJson = False) -> None:
    """Count jobs by status."""
    counts = {status.value: number for status, number in open_jobs(database, app).counts().items()}
    if as_json:
        print_json(counts)
    else:
        print_table(["status", "jobs"], ([name, f"{number:,}"] for name, number in counts.items()))


def workers(database: Database = None, app: App = None, as_json: AsJson = False) -> None:
    """List workers: the living, and those that died and were not yet cleared away."""
    print_list(open_jobs(database, app).workers(), _WORKER_COLUMNS, as_json=as_json, nothing="no workers")


def queues(database: Database = None, app: App = None, as_json: AsJson = False) -> None:
    """List queues that hold jobs, are paused or have a limit."""
    print_list(open_jobs(database, app).queues(), _QUEUE_COLUMNS, as_json=as_json, nothing="no queues")


def handlers(
    app: Annotated[str | None, typer.Argument(metavar="APP", envvar="SIDEWORK_APP", help="module:attribute.")] = None,
    app_option: Annotated[str | None, typer.Option("--app", "-A", metavar="APP", help="The same as APP.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the handlers of an app."""
    service = load_service(app_option or app)
    service.load_imports()
    found = [service.handlers[key] for key in sorted(service.handlers)]
    if as_json:
        for handler in found:
            print_json({"key": handler.key, "async": handler.is_async, **msgspec.structs.asdict(handler.options)})
    elif found:
        print_rows(found, _HANDLER_COLUMNS)
    else:
        raise UsageError("this app has no handlers; register one with @service.handler")


def explain(job_id: JobId, database: Database = None, app: App = None, as_json: AsJson = False) -> None:
    """Say why a job is not running."""
    explanation = open_jobs(database, app).explain(job_id)
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
