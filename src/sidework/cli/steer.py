"""Commands that steer jobs: retry, cancel, delete, set-priority.

Each takes the numbers of jobs, or conditions that mean many; for many it first says how many, and asks.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Unpack

import click
import msgspec
from click.exceptions import Exit

from sidework.cli import options
from sidework.cli.conditions import Conditions
from sidework.cli.failures import ExitCode, UsageError
from sidework.cli.grammar import all_of, command, option
from sidework.cli.loading import open_jobs
from sidework.cli.options import Place
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


class Words(Place):
    """What is typed to name jobs, and how it is to be done: what `_words` gives a command."""

    ids: tuple[int, ...]
    status: tuple[str, ...]
    key: str | None
    queue: str | None
    older_than: timedelta | None
    yes: bool
    dry_run: bool
    as_json: bool


_words = all_of(
    options.job_ids,
    options.status,
    options.key,
    options.queue,
    options.older_than,
    options.yes,
    options.dry_run,
    options.place,
    options.as_json,
)


@command
@_words
def retry(**words: Unpack[Words]) -> None:
    """Run failed and cancelled jobs again, and jobs that wait for their time now."""
    manager = _manager(words)
    act = Act(
        done="retried",
        reach=_statuses_named("FAILED", "CANCELLED"),
        one=manager.retry,
        many=lambda which: manager.retry_many(**which),
    )
    _steer(manager, act, words)


@command
@_words
def cancel(**words: Unpack[Words]) -> None:
    """End waiting jobs at once, and ask running ones to end."""
    manager = _manager(words)
    act = Act(
        done="cancelled",
        reach=_statuses_named("PENDING", "SCHEDULED", "RUNNING"),
        one=manager.cancel,
        many=lambda which: manager.cancel_many(**which),
    )
    _steer(manager, act, words)


@command
@_words
def delete(**words: Unpack[Words]) -> None:
    """Delete jobs that are not running; by conditions: those that have ended, unless a status is named."""
    manager = _manager(words)
    act = Act(
        done="deleted",
        reach=_statuses_named("COMPLETED", "FAILED", "CANCELLED"),
        one=manager.delete,
        many=lambda which: manager.delete_many(**which),
    )
    _steer(manager, act, words)


@command
@option("--priority", metavar="N", type=int, required=True, help="Higher runs first.")
@_words
def set_priority(*, priority: int, **words: Unpack[Words]) -> None:
    """Change the priority of waiting jobs."""
    manager = _manager(words)
    act = Act(
        done="changed",
        reach=_statuses_named("PENDING", "SCHEDULED"),
        one=lambda job_id: manager.set_priority(job_id, priority),
        many=lambda which: manager.set_priority_many(priority, **which),
    )
    _steer(manager, act, words)


def _manager(words: Words) -> BackgroundJobManager:
    return open_jobs(database=words["database"], app=words["app"])


def agreed(question: str, manner: Manner) -> bool:
    """Ask, unless --yes was given. Raises UsageError where nobody can answer."""
    if manner.yes:
        return True
    if manner.as_json or not sys.stdin.isatty():
        raise UsageError(f"{question}? Nobody is here to be asked; add --yes, or --dry-run")
    return click.confirm(f"{question}?", err=True)


def _steer(manager: BackgroundJobManager, act: Act, words: Words) -> None:
    which = Conditions(status=words["status"], key=words["key"], queue=words["queue"], older_than=words["older_than"])
    manner = Manner(yes=words["yes"], dry_run=words["dry_run"], as_json=words["as_json"])
    if bool(words["ids"]) == which.given:
        raise UsageError("say which jobs: their numbers, or conditions such as --status, --key or --older-than")
    if words["ids"]:
        _steer_each(manager, act, words["ids"], manner)
    else:
        _steer_many(manager, act, which, manner)


def _steer_each(manager: BackgroundJobManager, act: Act, ids: Sequence[int], manner: Manner) -> None:
    if manner.dry_run:
        _tell_count(len(ids), f"would be {act.done}", manner)
        return
    left_alone = {job_id: reason for job_id in ids if (reason := _do(manager, act, job_id))}
    if manner.as_json:
        print_json({act.done: [job_id for job_id in ids if job_id not in left_alone], "left_alone": left_alone})
    else:
        _tell_each(act, ids, left_alone)
    if left_alone:
        raise Exit(ExitCode.NO)


def _tell_each(act: Act, ids: Sequence[int], left_alone: dict[int, str]) -> None:
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
        raise Exit(ExitCode.NO)


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
