"""How soon an idle service in another process starts a job, and what its idleness costs."""

from __future__ import annotations

import threading
from pathlib import Path

from sidework import BackgroundService
from sidework.cli.bench import raw
from sidework.cli.bench.figure import Figure, Goal, figure, percentile
from sidework.cli.bench.handlers import build_service
from sidework.cli.bench.processes import Process, running_service
from sidework.cli.bench.site import Site, remove
from sidework.clock import SystemClock

PAUSE = 0.03
"""Seconds between two jobs, so that the service is idle before each."""
KILOBYTES_PER_MEGABYTE = 1000


def measure(site: Site) -> list[Figure]:
    """Measure pickup from before the enqueue to the start of the handler; then idleness; all with `sidework run`."""
    p50s, p99s, commits, cpus, sizes = [], [], [], [], []
    for _ in range(site.runs):
        database = site.fresh()
        service = build_service(database)
        service.migrate()
        with running_service(database) as process:
            waits = _pickups(service, process, site.part_of_jobs(100))
            cpus.append(_idle_share(process, site.seconds))
            sizes.append(_resident_megabytes(process))
        service.close()
        remove(database)
        p50s.append(percentile(waits, 0.50))
        p99s.append(percentile(waits, 0.99))
        commits.append(2 * 1000 / raw.inserts_per_second(site, site.part_of_jobs(100)))
    two = "two commits of one row"
    return [
        figure("pickup", "p50", "ms", p50s, raws=commits, against=two, goal=Goal(of="value", at_most=1)),
        figure("pickup", "p99", "ms", p99s, raws=commits, against=two, goal=Goal(of="value", at_most=5)),
        figure("pickup", "idle", "% of a core", cpus, goal=Goal(of="value", at_most=0.5)),
        figure("pickup", "resident", "MB", sizes, goal=Goal(of="value", at_most=40)),
    ]


def _pickups(service: BackgroundService, process: Process, count: int) -> list[float]:
    """Return the milliseconds that each of so many jobs waited."""
    clock, pause = SystemClock(), threading.Event()
    waits = []
    for n in range(count + 1):
        pause.wait(PAUSE)
        before = clock.monotonic()
        service.enqueue("note", {"n": n})
        waits.append((float(process.hear("noted")) - before) * 1000)
    return waits[1:]  # the first one opened the connection


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
