"""Commands that steer jobs: retry, cancel, delete, set-priority.

Each takes the numbers of jobs, or conditions that mean many; for many it first says how many, and asks.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from sidework.cli.conditions import Conditions
from sidework.cli.failures import ExitCode, UsageError
from sidework.cli.loading import open_jobs
from sidework.cli.options import App, AsJson, Database, DryRun, JobIds, Key, OlderThan, Queue, Status, Yes
from sidework.cli.output import complain, print_json, say
from sidework.errors import JobNotFound

if TYPE_CHECKING:
    from sidework import BackgroundJobManager, JobStatus
    from sidework.manager import JobConditions


class Manner(msgspec.Struct, frozen=True, kw_only=True):
    """How a bulk act is done."""

    yes: bool
    dry_run: bool
    as_json: bool


class Act(msgspec.Struct, frozen=True, kw_only=True):
    """What is done to one job, and to many."""

    done: str
    """`retried`, `cancelled`, ..."""
    reach: frozenset[JobStatus]
    """The jobs it can be done to."""
    one: Callable[[int], bool]
    many: Callable[[JobConditions], int]


def retry(
    ids: JobIds = None,
    status: Status = None,
    key: Key = None,
    queue: Queue = None,
    older_than: OlderThan = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    database: Database = None,
    app: App = None,
    as_json: AsJson = False,
) -> None:
    """Run failed and cancelled jobs again, and jobs that wait for their time now."""
    manager = open_jobs(database, app)
    act = Act(
        done="retried",
        reach=_statuses_named("FAILED", "CANCELLED"),
        one=manager.retry,
        many=lambda which: manager.retry_many(**which),
    )
    which = Conditions(status=status, key=key, queue=queue, older_than=older_than)
    _steer(manager, act, ids, which, Manner(yes=yes, dry_run=dry_run, as_json=as_json))


def cancel(
    ids: JobIds = None,
    status: Status = None,
    key: Key = None,
    queue: Queue = None,
    older_than: OlderThan = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    database: Database = None,
    app: App = None,
    as_json: AsJson = False,
) -> None:
    """End waiting jobs at once, and ask running ones to end."""
    manager = open_jobs(database, app)
    act = Act(
        done="cancelled",
        reach=_statuses_named("PENDING", "SCHEDULED", "RUNNING"),
        one=manager.cancel,
        many=lambda which: manager.cancel_many(**which),
    )
    which = Conditions(status=status, key=key, queue=queue, older_than=older_than)
    _steer(manager, act, ids, which, Manner(yes=yes, dry_run=dry_run, as_json=as_json))


def delete(
    ids: JobIds = None,
    status: Status = None,
    key: Key = None,
    queue: Queue = None,
    older_than: OlderThan = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    database: Database = None,
    app: App = None,
    as_json: AsJson = False,
) -> None:
    """Delete jobs that are not running; by conditions: those that have ended, unless a status is named."""
    manager = open_jobs(database, app)
    act = Act(
        done="deleted",
        reach=_statuses_named("COMPLETED", "FAILED", "CANCELLED"),
        one=manager.delete,
        many=lambda which: manager.delete_many(**which),
    )
    which = Conditions(status=status, key=key, queue=queue, older_than=older_than)
    _steer(manager, act, ids, which, Manner(yes=yes, dry_run=dry_run, as_json=as_json))


def set_priority(
    priority: Annotated[int, typer.Option("--priority", metavar="N", help="Higher runs first.")],
    ids: JobIds = None,
    status: Status = None,
    key: Key = None,
    queue: Queue = None,
    older_than: OlderThan = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    database: Database = None,
    app: App = None,
    as_json: AsJson = False,
) -> None:
    """Change the priority of waiting jobs."""
    manager = open_jobs(database, app)
    act = Act(
        done="changed",
        reach=_statuses_named("PENDING", "SCHEDULED"),
        one=lambda job_id: manager.set_priority(job_id, priority),
        many=lambda which: manager.set_priority_many(priority, **which),
    )
    which = Conditions(status=status, key=key, queue=queue, older_than=older_than)
    _steer(manager, act, ids, which, Manner(yes=yes, dry_run=dry_run, as_json=as_json))


def agreed(question: str, manner: Manner) -> bool:
    """Ask, unless --yes was given. Raises UsageError where nobody can answer."""
    if manner.yes:
        return True
    if manner.as_json or not sys.stdin.isatty():
        raise UsageError(f"{question}? Nobody is here to be asked; add --yes, or --dry-run")
    return typer.confirm(f"{question}?", err=True)


def _steer(
    manager: BackgroundJobManager, act: Act, ids: list[int] | None, conditions: Conditions, manner: Manner
) -> None:
    if bool(ids) == conditions.given:
        raise UsageError("say which jobs: their numbers, or conditions such as --status, --key or --older-than")
    if ids:
        _steer_each(manager, act, ids, manner)
    else:
        _steer_many(manager, act, conditions, manner)


def _steer_each(manager: BackgroundJobManager, act: Act, ids: list[int], manner: Manner) -> None:
    if manner.dry_run:
        _tell_count(len(ids), f"would be {act.done}", manner)
        return
    left_alone = {job_id: reason for job_id in ids if (reason := _do(manager, act, job_id))}
    if manner.as_json:
        print_json({act.done: [job_id for job_id in ids if job_id not in left_alone], "left_alone": left_alone})
    else:
        _tell_each(act, ids, left_alone)
    if left_alone:
        raise typer.Exit(ExitCode.NO)


def _tell_each(act: Act, ids: list[int], left_alone: dict[int, str]) -> None:
    for job_id in ids:
        if job_id in left_alone:
            complain(left_alone[job_id])
        else:
            say(f"job {job_id} {act.done}")


def _do(manager: BackgroundJobManager, act: Act, job_id: int) -> str | None:
    """Return None where it was done, and otherwise why it was not."""
    try:
        return None if act.one(job_id) else f"job {job_id} was not {act.done}: it is {manager.get(job_id).status}"
    except JobNotFound as error:
        return str(error)


def _steer_many(manager: BackgroundJobManager, act: Act, conditions: Conditions, manner: Manner) -> None:
    which = conditions.for_manager(act.reach)
    number = manager.count(**which)
    if manner.dry_run:
        _tell_count(number, f"would be {act.done}", manner)
    elif not number:
        _tell_count(0, act.done, manner)
    elif agreed(f"{counted(number)} will be {act.done}. Go on", manner):
        _tell_count(act.many(which), act.done, manner)
    else:
        raise typer.Exit(ExitCode.NO)


def _tell_count(number: int, what: str, manner: Manner) -> None:
    if manner.as_json:
        print_json({what.replace(" ", "_"): number})
    else:
        say(f"{counted(number)} {what}")


def counted(number: int) -> str:
    """Return `1 job` or `1,234 jobs`."""
    return f"{number:,} job{'' if number == 1 else 's'}"


def _statuses_named(*names: str) -> frozenset[JobStatus]:
    from sidework import JobStatus

    return frozenset(JobStatus(name) for name in names)
