"""How long an enqueue takes while a worker in another process drains the same database."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial

from sidework.cli.bench import raw
from sidework.cli.bench.drain import fill
from sidework.cli.bench.figure import Figure, Goal, figure, percentile
from sidework.cli.bench.handlers import build_service
from sidework.cli.bench.processes import ready_workers
from sidework.cli.bench.site import Site, remove
from sidework.clock import SystemClock
from sidework.errors import SideworkError
from sidework.model.job import JobStatus

PAUSE = 0.002
"""Seconds between two enqueues: a busy web application, and not a second benchmark."""
WARM_UP = 0.1
"""Seconds that the drain has to get going."""
BACKLOG_A_SECOND = 80_000
"""More than a worker drains in a second, so that it is busy for as long as is measured."""


def measure(site: Site) -> list[Figure]:
    """Measure the waits of single enqueues beside a drain of no-op jobs, and those of bare inserts beside nothing."""
    ours, raws = [], []
    for _ in range(site.runs):
        ours.append(_waits_beside_a_drain(site))
        raws.append(_waits_beside_nothing(site))
    return [
        _figure("p50", [percentile(waits, 0.50) for waits in ours], [percentile(waits, 0.50) for waits in raws]),
        _figure("p99", [percentile(waits, 0.99) for waits in ours], [percentile(waits, 0.99) for waits in raws], 2),
        _figure("longest", [max(waits) for waits in ours], [max(waits) for waits in raws], 50),
    ]


def _figure(name: str, ours: list[float], raws: list[float], at_most: float | None = None) -> Figure:
    return figure(
        "beside",
        f"enqueue beside a drain, {name}",
        "ms",
        ours,
        raws=raws,
        against="one INSERT a commit, and no drain",
        goal=Goal(of="value", at_most=at_most) if at_most else None,
    )


def _waits_beside_a_drain(site: Site) -> list[float]:
    database = site.fresh()
    fill(database, "nothing", int((WARM_UP + site.seconds) * BACKLOG_A_SECOND))
    service = build_service(database)
    service.enqueue("nothing", {"n": 0})
    with ready_workers(database) as [worker]:
        worker.go()
        threading.Event().wait(WARM_UP)
        waits = _waits(partial(service.enqueue, "nothing", {"n": 1}), site.seconds)
        left = service.jobs.counts()[JobStatus.PENDING]
    service.close()
    if not left:
        raise SideworkError("the worker had drained everything before the enqueues beside it were over")
    remove(database)
    return waits


def _waits_beside_nothing(site: Site) -> list[float]:
    with raw.table(site) as (connection, sql, _database):
        return _waits(partial(raw.insert, connection, sql, 1), site.seconds)


def _waits(send: Callable[[], object], seconds: float) -> list[float]:
    """Return the milliseconds that each call took."""
    clock, pause = SystemClock(), threading.Event()
    end = clock.monotonic() + seconds
    waits = []
    while (begin := clock.monotonic()) < end:
        send()
        waits.append((clock.monotonic() - begin) * 1000)
        pause.wait(PAUSE)
    return waits
