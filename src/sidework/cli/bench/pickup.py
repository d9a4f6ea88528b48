"""How soon an idle service in another process starts a job, and what its idleness costs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

from sidework import BackgroundService
from sidework.cli.bench import raw
from sidework.cli.bench.figure import Figure, Goal, figure, percentile
from sidework.cli.bench.handlers import build_service
from sidework.cli.bench.processes import Process, raw_claimer, running_service
from sidework.cli.bench.site import Site, remove
from sidework.clock import SystemClock

PAUSE = 0.03
"""Seconds between two jobs, so that the service is idle before each."""
KILOBYTES_PER_MEGABYTE = 1000


def measure(site: Site) -> list[Figure]:
    """Measure pickup from before the enqueue to the start of the handler; then idleness; all with `sidework run`."""
    pickups: list[list[float]] = []
    raws: list[list[float]] = []
    cpus, sizes = [], []
    for _ in range(site.runs):
        database = site.fresh()
        service = build_service(database)
        service.migrate()
        with running_service(database) as process:
            ours, raw_ones = _pickups(site, service, process)
            cpus.append(_idle_share(process, site.seconds))
            sizes.append(_resident_megabytes(process))
        service.close()
        remove(database)
        pickups.append(ours)
        raws.append(raw_ones)
    return [
        _figure("p50", 0.50, pickups, raws, at_most=1),
        _figure("p99", 0.99, pickups, raws, at_most=5),
        figure("pickup", "idle", "% of a core", cpus, goal=Goal(of="value", at_most=0.5)),
        figure("pickup", "resident", "MB", sizes, goal=Goal(of="value", at_most=40)),
    ]


def _figure(name: str, share: float, ours: list[list[float]], raws: list[list[float]], *, at_most: float) -> Figure:
    return figure(
        "pickup",
        name,
        "ms",
        [percentile(waits, share) for waits in ours],
        raws=[percentile(waits, share) for waits in raws],
        against="INSERT, a pipe to another process, its claim",
        goal=Goal(of="value", at_most=at_most),
    )


def _pickups(site: Site, service: BackgroundService, process: Process) -> tuple[list[float], list[float]]:
    """Return the milliseconds that jobs waited, and rows in plain sqlite3: one and the other in turn."""
    ours, raws = [], []
    with raw.table(site) as (connection, sql, database), raw_claimer(database) as claimer:

        def by_hand(n: int) -> None:
            raw.insert(connection, sql, n)
            claimer.go()

        for n in range(site.part_of_jobs(250) + 1):
            ours.append(_wait_of(process, partial(service.enqueue, "note", {"n": n})))
            raws.append(_wait_of(claimer, partial(by_hand, n)))
    return ours[1:], raws[1:]  # the first ones opened the connections


def _wait_of(process: Process, send: Callable[[], object]) -> float:
    """Return how many milliseconds after the beginning of `send` the process notes what was sent."""
    clock = SystemClock()
    threading.Event().wait(PAUSE)
    before = clock.monotonic()
    send()
    return (float(process.hear("noted")) - before) * 1000


def _idle_share(process: Process, seconds: float) -> float:
    """Return the percentage of a core that the process uses while nothing happens."""
    pause = threading.Event()
    pause.wait(0.5)
    before = _cpu_seconds(process.pid)
    pause.wait(seconds)
    return (_cpu_seconds(process.pid) - before) / seconds * 100


def _cpu_seconds(pid: int) -> float:
    """Return the processor time of all threads, from the scheduler's own count in nanoseconds."""
    threads = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e9


def _resident_megabytes(process: Process) -> float:
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / KILOBYTES_PER_MEGABYTE
    return 0.0
