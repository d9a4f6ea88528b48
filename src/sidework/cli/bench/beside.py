"""How long an enqueue takes while a worker in another process drains the same database."""

from __future__ import annotations

import threading

from sidework import BackgroundService
from sidework.cli.bench.drain import fill
from sidework.cli.bench.figure import Figure, Goal, figure, percentile
from sidework.cli.bench.handlers import build_service
from sidework.cli.bench.processes import ready_workers
from sidework.cli.bench.site import Site, remove
from sidework.clock import SystemClock

PAUSE = 0.002
"""Seconds between two enqueues: a busy web application, and not a second benchmark."""
BACKLOG_A_SECOND = 60_000
"""More than a worker drains in a second, so that it is busy for as long as is measured."""


def measure(site: Site) -> list[Figure]:
    """Measure the waits of single enqueues beside a drain of no-op jobs."""
    p50s, p99s, longest = [], [], []
    for _ in range(site.runs):
        waits = _waits(site)
        p50s.append(percentile(waits, 0.50))
        p99s.append(percentile(waits, 0.99))
        longest.append(max(waits))
    return [
        figure("beside", "enqueue beside a drain, p50", "ms", p50s),
        figure("beside", "enqueue beside a drain, p99", "ms", p99s, goal=Goal(of="value", at_most=2)),
        figure("beside", "enqueue beside a drain, longest", "ms", longest, goal=Goal(of="value", at_most=50)),
    ]


def _waits(site: Site) -> list[float]:
    database = site.fresh()
    fill(database, "nothing", int(site.seconds * BACKLOG_A_SECOND))
    service = build_service(database)
    service.enqueue("nothing", {"n": 0})
    with ready_workers(database) as [worker]:
        worker.go()
        threading.Event().wait(0.3)
        waits = _enqueue_for(service, site.seconds)
    service.close()
    remove(database)
    return waits


def _enqueue_for(service: BackgroundService, seconds: float) -> list[float]:
    """Return the milliseconds that each enqueue took."""
    clock, pause = SystemClock(), threading.Event()
    end = clock.monotonic() + seconds
    waits = []
    while (begin := clock.monotonic()) < end:
        service.enqueue("nothing", {"n": 1})
        waits.append((clock.monotonic() - begin) * 1000)
        pause.wait(PAUSE)
    return waits
