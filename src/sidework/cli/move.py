"""`sidework move`: the jobs of a SQLite file to a PostgreSQL database, and back before they are used there."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

import click
from click.exceptions import Exit

from sidework.cli import options
from sidework.cli.bar import Bar
from sidework.cli.failures import ExitCode, UsageError
from sidework.cli.grammar import argument, command, flag, option
from sidework.cli.output import clean, complain, print_json, print_table, say
from sidework.cli.steer import Manner, agreed, counted
from sidework.errors import SideworkError

if TYPE_CHECKING:
    from sidework.moving import Move, Moved, Plan, Progress

GRACE = 60.0


@command
@argument("source", metavar="SOURCE", help="The SQLite file that the jobs leave.")
@argument("target", metavar="TARGET", help="The URL of an empty PostgreSQL database or schema.")
@option(
    "--grace",
    metavar="SECONDS",
    type=click.FloatRange(min=0),
    default=GRACE,
    help="How long jobs that run now may take to end.",
)
@flag("--abort", help="Go back, if the jobs were not used at the target yet.")
@flag("--dry-run", help="Only say what would be moved and what is in the way.")
@options.yes
@options.as_json
def move(*, source: str, target: str, grace: float, abort: bool, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Move all jobs from a SQLite file to a PostgreSQL database; run it again if it was broken off."""
    manner = Manner(yes=yes, dry_run=dry_run, as_json=as_json)
    bar = _Steps(wanted=not as_json)
    act = _open(source, target, bar)
    try:
        if abort:
            _go_back(act, manner, source)
        else:
            _move(act, manner, bar, grace)
    except KeyboardInterrupt as stop:
        bar.stop()
        complain("\n".join(["sidework: interrupted", *getattr(stop, "__notes__", ())]))
        raise Exit(ExitCode.INTERRUPTED) from stop
    finally:
        bar.stop()
        act.close()


def _open(source: str, target: str, bar: _Steps) -> Move:
    from sidework.moving import move_from

    try:
        return move_from(source, target, tell=bar.show)
    except SideworkError as error:  # nothing was opened yet: it is the names that cannot be
        raise UsageError(str(error)) from error


def _move(act: Move, manner: Manner, bar: _Steps, grace: float) -> None:
    plan = act.plan()
    bar.stop()
    if manner.dry_run:
        _tell_plan(plan, as_json=manner.as_json)
        raise Exit(ExitCode.NO if plan.in_the_way else ExitCode.DONE)
    if plan.in_the_way:
        _complain_of(plan)
        raise Exit(ExitCode.NO)
    if plan.stage != "moved" and not agreed(_question(plan), manner):
        raise Exit(ExitCode.NO)
    moved = act.run(grace=grace)
    bar.stop()
    _tell_moved(moved, as_json=manner.as_json)


def _question(plan: Plan) -> str:
    workers = f", {len(plan.workers)} workers of it will be stopped" if plan.workers else ""
    return (
        f"{counted(plan.jobs)} will be moved from {clean(plan.source)} to {clean(plan.target)}{workers}; afterwards "
        "the file takes no jobs any more. Go on"
    )


def _go_back(act: Move, manner: Manner, source: str) -> None:
    if manner.dry_run:
        raise UsageError("--abort knows no --dry-run: it changes nothing where it cannot be done")
    if not agreed(f"The jobs will be in {clean(source)} again and nowhere else. Go on", manner):
        raise Exit(ExitCode.NO)
    act.abort()
    if manner.as_json:
        print_json({"aborted": True})
    else:
        say(f"{source} takes jobs again")


def _complain_of(plan: Plan) -> None:
    complain("sidework: nothing was moved, because something is in the way:")
    for obstacle in plan.in_the_way:
        complain(f"* {obstacle}")


def _tell_plan(plan: Plan, *, as_json: bool) -> None:
    if as_json:
        print_json({**_facts(plan), "orphans": plan.orphans, "next_id": plan.next_id, "in_the_way": plan.in_the_way})
        return
    say(f"from        {plan.source}")
    say(f"to          {plan.target}")
    if plan.stage:
        say(f"stage       {plan.stage}: an earlier move has come so far; this one goes on there")
    say(f"jobs        {counted(plan.jobs)}{_by_status(plan.contents.statuses)}")
    say(f"with them   {_beside_the_jobs(plan.contents.rows)}")
    say(f"next id     {plan.next_id} or higher")
    say(f"workers     {_workers(plan)}")
    if plan.orphans:
        say(f"orphans     {counted(plan.orphans)} of dead workers: run again at the target, as after a crash")
    for name in plan.left_behind:
        say(f"stays       {name}: it belongs to others; make its like at the target, if it is needed there")
    for obstacle in plan.in_the_way or ["nothing"]:
        say(f"in the way  {obstacle}")


def _facts(plan: Plan) -> dict[str, object]:
    return {
        "source": plan.source,
        "target": plan.target,
        "stage": plan.stage,
        "rows": plan.contents.rows,
        "jobs": plan.contents.statuses,
        "workers": [
            {"id": worker.id, "pid": worker.pid, "host": worker.host, "running": worker.running}
            for worker in plan.workers
        ],
        "left_behind": plan.left_behind,
    }


def _by_status(statuses: Mapping[str, int]) -> str:
    return f" ({', '.join(f'{number:,} {name}' for name, number in statuses.items())})" if statuses else ""


def _beside_the_jobs(rows: Mapping[str, int]) -> str:
    named = [f"{number:,} in {name}" for name, number in rows.items() if number and name != "jobs"]
    return ", ".join(named) or "nothing"


def _workers(plan: Plan) -> str:
    if not plan.workers:
        return "none is at work"
    named = (f"{worker.id} (process {worker.pid}) runs {counted(worker.running)}" for worker in plan.workers)
    return f"{', '.join(named)}: they end what they run, then stop"


def _tell_moved(moved: Moved, *, as_json: bool) -> None:
    if as_json:
        print_json(moved)
        return
    print_table(
        ["table", "rows", "checksum"],
        (
            [f"background_service_{name}", f"{check.rows:,}", check.checksum[:16]]
            for name, check in moved.checks.items()
        ),
    )
    say("as sent and as read back at the target: they are the same")
    say(f"the next job has the number {moved.next_id} or higher")
    when = f" at {moved.at:%Y-%m-%d %H:%M:%S}Z" if moved.already else ""
    say(f"{moved.source} was moved{when}: enqueue and work at {moved.target}")


class _Steps:
    """A progress bar for each step in turn; rich is loaded where somebody can see it."""

    def __init__(self, *, wanted: bool) -> None:
        self._wanted = wanted and sys.stderr.isatty()
        self._step: str | None = None
        self._bar: Bar | None = None

    def show(self, progress: Progress) -> None:
        """Say how far it is."""
        if not self._wanted:
            return
        if self._bar is None or self._step != progress.step:
            self.stop()
            self._step, self._bar = progress.step, Bar(progress.step, wanted=True)
            self._bar.start()
        self._bar.move(done=progress.done, found=progress.total, more="jobs" if progress.step == "draining" else "rows")

    def stop(self) -> None:
        """Leave the last state on the screen."""
        bar, self._bar = self._bar, None
        if bar is not None:
            bar.stop()
