"""Handlers that wait for something else: how many a second, beside the same coroutines in bare asyncio."""

from __future__ import annotations

import asyncio

from sidework.cli.bench.drain import fill
from sidework.cli.bench.figure import Figure, Goal, figure
from sidework.cli.bench.handlers import SLEEP
from sidework.cli.bench.processes import drain
from sidework.cli.bench.site import Site, remove, seconds_of, take_turns

CONCURRENCY = 100


def measure(site: Site) -> list[Figure]:
    """Measure handlers that sleep for a millisecond, a hundred at once."""
    ours, raws = take_turns(site.runs, lambda: _jobs_per_second(site), lambda: _coroutines_per_second(site.jobs))
    return [
        figure(
            "waiting",
            f"1 ms of waiting, {CONCURRENCY} at once",
            "jobs/s",
            ours,
            raws=raws,
            against="bare asyncio, a task for each",
            goal=Goal(of="ratio", at_least=0.8),
        )
    ]


def _jobs_per_second(site: Site) -> float:
    database = site.fresh()
    fill(database, "rest", site.jobs)
    [drained] = drain(database, concurrency=CONCURRENCY)
    remove(database)
    return site.jobs / (drained.ended - drained.began)


def _coroutines_per_second(count: int) -> float:
    return count / seconds_of(lambda: asyncio.run(_run_all(count)))


async def _run_all(count: int) -> None:
    """Run so many coroutines, each in a task of its own, a hundred at once."""
    room = asyncio.Semaphore(CONCURRENCY)

    async def rest(_n: int) -> None:
        await asyncio.sleep(SLEEP)
        room.release()

    async with asyncio.TaskGroup() as tasks:
        for n in range(count):
            await room.acquire()
            tasks.create_task(rest(n))
