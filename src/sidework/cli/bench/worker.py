"""A process that drains a database once and says what it took: `python -m sidework.cli.bench.worker TASK`.

It prints "ready", waits for a line, runs until nothing is left, and prints a `Drained`.
"""

from __future__ import annotations

import resource
import sys

import msgspec

from sidework.cli.bench.handlers import DEFAULT_CONCURRENCY, Tally, build_service
from sidework.clock import SystemClock


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """What the process is told."""

    database: str
    concurrency: int = DEFAULT_CONCURRENCY


class Drained(msgspec.Struct, frozen=True, kw_only=True):
    """What the process tells: times on the monotonic clock that all processes of a machine share."""

    began: float
    """When the service had its tables and was about to look for jobs."""
    ended: float
    """When every end was committed and it had seen that nothing was left."""
    cpu: float
    """Seconds of processor time."""
    counted: int
    """How many jobs of the key `count` it ran."""


def main() -> None:
    """Be the process."""
    task = msgspec.json.decode(sys.argv[1], type=Task)
    tally, clock = Tally(), SystemClock()
    service = build_service(task.database, concurrency=task.concurrency, tally=tally)
    marks: list[tuple[float, float]] = []
    service.on_startup(lambda: marks.append((clock.monotonic(), _cpu())))
    service.on_shutdown(lambda: marks.append((clock.monotonic(), _cpu())))
    print("ready", flush=True)
    sys.stdin.readline()
    service.run_until_idle()
    (began, cpu), (ended, cpu_at_end) = marks
    drained = Drained(began=began, ended=ended, cpu=cpu_at_end - cpu, counted=tally.count)
    print(msgspec.json.encode(drained).decode(), flush=True)


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
