"""The `sidework` command and its subcommands: what there is, and how errors leave."""

from __future__ import annotations

import sys

import click

from sidework.cli.bench.command import bench
from sidework.cli.check import check
from sidework.cli.demo.command import demo
from sidework.cli.doctor import doctor
from sidework.cli.enqueue import enqueue
from sidework.cli.failures import ExitCode, exit_code_of
from sidework.cli.grammar import Group
from sidework.cli.look import explain, handlers, jobs, queues, show, stats, workers
from sidework.cli.move import move
from sidework.cli.outlet import open_outlet
from sidework.cli.output import complain
from sidework.cli.run import run
from sidework.cli.steer import cancel, delete, retry, set_priority
from sidework.cli.upkeep import migrate, pause, prune, resume, version
from sidework.cli.watch import watch
from sidework.errors import SideworkError

COMMANDS = {
    "Work": (demo, run, enqueue),
    "Look": (jobs, show, stats, workers, queues, handlers, watch, explain),
    "Steer": (retry, cancel, delete, set_priority, prune, pause, resume),
    "Upkeep": (migrate, move, doctor, check, bench, version),
}


def build() -> Group:
    """Return the command with all its subcommands."""
    group = Group(
        name="sidework",
        help="Background jobs that live in the application's own database.",
        headings=COMMANDS,
        no_args_is_help=True,
        context_settings={"auto_envvar_prefix": "SIDEWORK", "help_option_names": ["-h", "--help"]},
    )
    return click.version_option(package_name="sidework", message="%(prog)s %(version)s")(group)


def run_command_line() -> None:
    """Run the command that was typed; what a person can get wrong ends with a message and an exit code."""
    open_outlet()
    try:
        sys.exit(_exit_code())
    finally:
        sys.stdout.flush()


def _exit_code() -> int:
    try:
        return build().main(prog_name="sidework", standalone_mode=False) or ExitCode.DONE
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort as error:
        return _code_of_the_abort(error)
    except SideworkError as error:
        complain("\n".join([f"sidework: {error}", *getattr(error, "__notes__", ())]))
        return exit_code_of(error)


def _code_of_the_abort(abort: click.Abort) -> ExitCode:
    """Tell Ctrl-C, which click hides behind the abort, from a question that met the end of the input."""
    if isinstance(abort.__context__, KeyboardInterrupt):
        return ExitCode.INTERRUPTED
    complain("\nsidework: there was no answer, and nothing was done")
    return ExitCode.NO
