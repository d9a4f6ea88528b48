"""`sidework run`: the service as a process of its own, or as several."""

from __future__ import annotations

import logging
import os
import sys
from importlib.metadata import version as version_of
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.exceptions import Exit

from sidework.cli import options
from sidework.cli.failures import ExitCode, UsageError
from sidework.cli.grammar import command, flag, option
from sidework.cli.loading import load_service
from sidework.cli.output import say
from sidework.cli.supervisor import Supervisor, command_again, end_with_the_supervisor

if TYPE_CHECKING:
    from sidework import BackgroundService


@command
@options.named_app
@option("--queues", metavar="A,B", help="Serve only these queues.")
@option("--concurrency", "-c", metavar="N", type=click.IntRange(min=1), help="Jobs at once in each queue.")
@option("--processes", metavar="N", type=click.IntRange(min=1), default=1, help="Run so many of these.")
@flag("--until-idle", help="Stop when nothing is left to do.")
@flag("--reload", help="Start again when a .py file here changes.")
def run(
    *, app: str | None, queues: str | None, concurrency: int | None, processes: int, until_idle: bool, reload: bool
) -> None:
    """Run the jobs of an app.

    Ctrl-C or SIGTERM lets running jobs end; a second one gives back what is unfinished, without using an attempt; a
    third leaves at once. Exit code 4: stopped with work given back.
    """
    end_with_the_supervisor()
    service = load_service(app)
    service.load_imports()
    if not service.handlers:
        raise UsageError(f"{app} has no handlers; register one with @service.handler, or name its module in imports=")
    if processes > 1 or reload:
        supervisor = Supervisor(
            command_again(_arguments(app or "", queues, concurrency, until_idle=until_idle)),
            count=processes,
            restart_on_change=Path.cwd() if reload else None,
        )
        raise Exit(supervisor.run())
    _adjust(service, queues, concurrency)
    service.migrate()
    _announce(service)
    _show_the_log()
    finished = service.run_until_idle() if until_idle else service.run()
    raise Exit(ExitCode.DONE if finished else ExitCode.GIVEN_BACK)


def _arguments(app: str, queues: str | None, concurrency: int | None, *, until_idle: bool) -> list[str]:
    """Return what each of several processes is called with."""
    return [
        "run",
        app,
        *([f"--queues={queues}"] if queues else []),
        *([f"--concurrency={concurrency}"] if concurrency else []),
        *(["--until-idle"] if until_idle else []),
    ]


def _adjust(service: BackgroundService, queues: str | None, concurrency: int | None) -> None:
    if concurrency is not None:
        service.concurrency = concurrency
    if queues is not None:
        names = tuple(filter(None, (name.strip() for name in queues.split(","))))
        if not names:
            raise UsageError("--queues names no queue; write for instance --queues mail,default")
        service.queues = names


def _announce(service: BackgroundService) -> None:
    say(f"sidework {version_of('sidework')}, process {os.getpid()}")
    for name, value in service.describe().items():
        say(f"  {name:12}{value}")
    sys.stdout.flush()


def _show_the_log() -> None:
    """Let a person see what the service tells, that it stops or what has failed, if the app has no log of its own."""
    log = logging.getLogger("sidework")
    if not log.hasHandlers():
        log.addHandler(logging.StreamHandler())
        log.setLevel(logging.INFO)
