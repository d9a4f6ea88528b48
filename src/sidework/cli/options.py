"""Options and arguments that several commands share, so that they are named and explained once."""

from __future__ import annotations

import re
from datetime import timedelta
from functools import wraps
from typing import Any, TypedDict

import click

from sidework.cli.grammar import Body, all_of, argument, flag, option

_AGE = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw]?)")
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}


def parse_age(text: str) -> timedelta:
    """Return the length of time that `90`, `30m`, `12h`, `7d` or `2w` mean; a bare number is seconds."""
    found = _AGE.fullmatch(text.strip())
    if found is None:
        raise click.BadParameter(f"{text!r} is not a length of time; write for instance 90s, 30m, 12h, 7d or 2w")
    return timedelta(seconds=float(found[1]) * _SECONDS[found[2]])


as_json = flag("--json", "as_json", envvar="SIDEWORK_JSON", help="For programs: JSON, or JSON Lines.")
database = option("--database", envvar="SIDEWORK_DATABASE", metavar="URL", help="Path or URL of the database.")


class Place(TypedDict):
    """Where a command looks: what `place` gives it."""

    database: str | None
    app: str | None


place = all_of(
    database,
    option("--app", "-A", envvar="SIDEWORK_APP", metavar="APP", help="module:attribute of a BackgroundService."),
)


def named_app(body: Body) -> Body:
    """Describe APP and --app, which mean the same: a command is given one `app`; --app wins."""

    @wraps(body)
    def with_one_app(*, app: str | None, app_option: str | None, **others: Any) -> None:
        body(app=app_option or app, **others)

    argument_and_option = all_of(
        argument("app", metavar="[APP]", envvar="SIDEWORK_APP", required=False, help="module:attribute."),
        option("--app", "-A", "app_option", metavar="APP", help="The same as APP."),
    )
    return argument_and_option(with_one_app)


job_id = argument("job_id", metavar="ID", type=int, help="The number of the job.")
job_ids = argument("ids", metavar="[ID]...", type=int, nargs=-1, help="The numbers of the jobs.")
status = option(
    "--status", metavar="STATUS", multiple=True, help="PENDING, SCHEDULED, RUNNING, COMPLETED, FAILED or CANCELLED."
)
key = option("--key", metavar="KEY", help="Only jobs of this key.")
queue = option("--queue", metavar="QUEUE", help="Only jobs of this queue.")
older_than = option("--older-than", metavar="AGE", type=parse_age, help="Only jobs older than 90s, 30m, 12h, 7d, 2w.")
yes = flag("--yes", "-y", help="Do it without asking.")
dry_run = flag("--dry-run", help="Only say how many jobs it would be.")
