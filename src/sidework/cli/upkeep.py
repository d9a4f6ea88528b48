"""Commands for the database as a whole: migrate, prune, pause, resume, version."""

from __future__ import annotations

import sys
from datetime import timedelta
from importlib.metadata import version as version_of
from typing import TYPE_CHECKING, Unpack

from click.exceptions import Exit

from sidework.cli import options
from sidework.cli.conditions import statuses
from sidework.cli.failures import ExitCode, UsageError
from sidework.cli.grammar import argument, command
from sidework.cli.loading import open_jobs, open_service
from sidework.cli.options import Place
from sidework.cli.output import print_answer, print_json, say
from sidework.cli.steer import Manner, agreed, counted

if TYPE_CHECKING:
    from sidework.model.job import RetentionRule

_queue_name = argument("queue", metavar="QUEUE", help="The name of the queue.")


@command
@options.place
@options.as_json
def migrate(*, as_json: bool, **where: Unpack[Place]) -> None:
    """Create the tables, or bring them up to date; makes a missing SQLite file."""
    version = open_service(**where).migrate()
    if as_json:
        print_json({"schema_version": version})
    else:
        say(f"the tables are up to date (version {version})")


@command
@options.status
@options.key
@options.older_than
@options.yes
@options.dry_run
@options.place
@options.as_json
def prune(
    *,
    status: tuple[str, ...],
    key: str | None,
    older_than: timedelta | None,
    yes: bool,
    dry_run: bool,
    as_json: bool,
    **where: Unpack[Place],
) -> None:
    """Delete jobs that ended long ago: completed 7 days, failed and cancelled 30 days, or as --older-than says."""
    manager = open_jobs(**where)
    rules = _rules(status, key, older_than)
    manner = Manner(yes=yes, dry_run=dry_run, as_json=as_json)
    number = manager.count_prunable(rules)
    if not dry_run and number:
        if not agreed(f"{counted(number)} will be deleted. Go on", manner):
            raise Exit(ExitCode.NO)
        number = manager.prune(rules)
    what = "would be deleted" if dry_run else "deleted"
    if as_json:
        print_json({what.replace(" ", "_"): number})
    else:
        say(f"{counted(number)} {what}")


@command
@_queue_name
@options.place
@options.as_json
def pause(*, queue: str, as_json: bool, **where: Unpack[Place]) -> None:
    """Let no job of a queue begin; what runs goes on."""
    open_jobs(**where).pause(queue)
    _tell_queue(queue, paused=True, as_json=as_json)


@command
@_queue_name
@options.place
@options.as_json
def resume(*, queue: str, as_json: bool, **where: Unpack[Place]) -> None:
    """Let the jobs of a paused queue begin again."""
    open_jobs(**where).resume(queue)
    _tell_queue(queue, paused=False, as_json=as_json)


@command
@options.as_json
def version(*, as_json: bool) -> None:
    """Print the versions of sidework, Python and SQLite."""
    import sqlite3

    answer = {
        "sidework": version_of("sidework"),
        "python": sys.version.split()[0],
        "sqlite": sqlite3.sqlite_version,
    }
    print_answer(answer, as_json=as_json)


def _tell_queue(queue: str, *, paused: bool, as_json: bool) -> None:
    if as_json:
        print_json({"queue": queue, "paused": paused})
    else:
        say(f"queue {queue} is {'paused' if paused else 'going on'}")


def _rules(status: tuple[str, ...], key: str | None, older_than: timedelta | None) -> list[RetentionRule]:
    """Return what may go: the defaults, narrowed to the statuses and the key named, with the age given."""
    import msgspec

    from sidework.manager import DEFAULT_RETENTION
    from sidework.model.job import ENDED

    named = statuses(status)
    if unended := named - ENDED:
        raise UsageError(
            f"prune deletes what has ended; {', '.join(sorted(unended))} is no end (see `sidework delete`)"
        )
    return [
        msgspec.structs.replace(
            rule,
            statuses=rule.statuses & named if named else rule.statuses,
            keep=rule.keep if older_than is None else older_than,
            key=key,
        )
        for rule in DEFAULT_RETENTION
    ]
