"""The `sidework` command and its subcommands: what there is, and how errors leave."""

from __future__ import annotations

import sys

import typer

from sidework.cli.bench.command import bench
from sidework.cli.check import check
from sidework.cli.demo.command import demo
from sidework.cli.doctor import doctor
from sidework.cli.enqueue import enqueue
from sidework.cli.failures import exit_code_of
from sidework.cli.look import explain, handlers, jobs, queues, show, stats, workers
from sidework.cli.move import move
from sidework.cli.outlet import open_outlet
from sidework.cli.output import complain
from sidework.cli.run import run
from sidework.cli.steer import cancel, delete, retry, set_priority
from sidework.cli.upkeep import migrate, pause, prune, resume, version
from sidework.cli.watch import watch
from sidework.errors import SideworkError

COMMANDS = (
    demo,
    run,
    enqueue,
    jobs,
    show,
    stats,
    workers,
    queues,
    handlers,
    watch,
    explain,
    retry,
    cancel,
    delete,
    set_priority,
    prune,
    pause,
    resume,
    migrate,
    move,
    doctor,
    check,
    bench,
    version,
)


def build() -> typer.Typer:
    """Return the command with all its subcommands."""
    app = typer.Typer(
        name="sidework",
        help="Background jobs that live in the application's own database.",
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,  # --help is plain text, so that it needs no rich
        pretty_exceptions_enable=False,
        context_settings={"auto_envvar_prefix": "SIDEWORK", "help_option_names": ["-h", "--help"]},
    )
    for command in COMMANDS:
        app.command(command.__name__.replace("_", "-"))(command)
    return app


def run_command_line() -> None:
    """Run the command that was typed; what a person can get wrong ends with a message and an exit code."""
    open_outlet()
    try:
        build()(prog_name="sidework")
    except SideworkError as error:
        complain("\n".join([f"sidework: {error}", *getattr(error, "__notes__", ())]))
        sys.exit(exit_code_of(error))
    finally:
        sys.stdout.flush()
