"""`sidework watch`: one job, live, until it has ended."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Unpack

from sidework.cli import options
from sidework.cli.enqueue import leave_with, tell_end, tell_if_nobody_works
from sidework.cli.grammar import command
from sidework.cli.loading import open_service
from sidework.cli.look import how_far, without_secrets
from sidework.cli.options import Place
from sidework.cli.output import clean, console, print_json, say

if TYPE_CHECKING:
    from sidework import BackgroundService, Job


@command
@options.job_id
@options.place
@options.as_json
def watch(*, job_id: int, as_json: bool, **where: Unpack[Place]) -> None:
    """Follow a job until it ends. Exit code 0: completed; 1: failed or cancelled."""
    service = open_service(**where)
    if not service.jobs.get(job_id).status.ended:
        tell_if_nobody_works(service)
    if as_json:
        leave_with(asyncio.run(_follow(service, job_id, lambda job: print_json(without_secrets(job)))))
    elif sys.stdout.isatty():
        with _bar() as draw:
            last = asyncio.run(_follow(service, job_id, draw))
        tell_end(last, as_json=False)
    else:
        tell_end(asyncio.run(_follow(service, job_id, lambda job: say(_line(job)))), as_json=False)


async def _follow(service: BackgroundService, job_id: int, show: Callable[[Job], None]) -> Job:
    async for job in service.watch(job_id):
        show(job)
    return job


def _line(job: Job) -> str:
    return f"job {job.id} {job.key}: {job.status} {how_far(job)}".rstrip()


@contextmanager
def _bar() -> Iterator[Callable[[Job], None]]:
    """Show a bar that moves with the job's progress; yields what moves it."""
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    text = TextColumn("{task.description}", markup=False)
    with Progress(text, BarColumn(), TaskProgressColumn(), TimeElapsedColumn(), console=console()) as progress:
        task = progress.add_task("", total=None)

        def draw(job: Job) -> None:
            at = job.progress
            progress.update(
                task,
                description=clean(_line(job)),
                total=None if at is None else at.total,
                completed=0 if at is None else at.done,
            )

        yield draw
