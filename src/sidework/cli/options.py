"""Options that several commands share, so that they are named and explained once."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated

import typer

_AGE = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw]?)")
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}


def parse_age(text: str | timedelta) -> timedelta:
    """Return the length of time that `90`, `30m`, `12h`, `7d` or `2w` mean; a bare number is seconds."""
    if isinstance(text, timedelta):
        return text
    found = _AGE.fullmatch(text.strip())
    if found is None:
        raise typer.BadParameter(f"{text!r} is not a length of time; write for instance 90s, 30m, 12h, 7d or 2w")
    return timedelta(seconds=float(found[1]) * _SECONDS[found[2]])


Database = Annotated[
    str | None,
    typer.Option("--database", envvar="SIDEWORK_DATABASE", metavar="URL", help="Path or URL of the database."),
]
App = Annotated[
    str | None,
    typer.Option("--app", "-A", envvar="SIDEWORK_APP", metavar="APP", help="module:attribute of a BackgroundService."),
]
AsJson = Annotated[bool, typer.Option("--json", envvar="SIDEWORK_JSON", help="For programs: JSON, or JSON Lines.")]
JobId = Annotated[int, typer.Argument(metavar="ID", help="The number of the job.")]
JobIds = Annotated[list[int] | None, typer.Argument(metavar="[ID]...", help="The numbers of the jobs.")]
Status = Annotated[
    list[str] | None,
    typer.Option("--status", metavar="STATUS", help="PENDING, SCHEDULED, RUNNING, COMPLETED, FAILED or CANCELLED."),
]
Key = Annotated[str | None, typer.Option("--key", metavar="KEY", help="Only jobs of this key.")]
Queue = Annotated[str | None, typer.Option("--queue", metavar="QUEUE", help="Only jobs of this queue.")]
OlderThan = Annotated[
    timedelta | None,
    typer.Option("--older-than", metavar="AGE", parser=parse_age, help="Only jobs older than 90s, 30m, 12h, 7d, 2w."),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do it without asking.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say how many jobs it would be.")]
