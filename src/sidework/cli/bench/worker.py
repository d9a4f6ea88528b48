"""A process that drains a database once and says what it took: `python -m sidework.cli.bench.worker TASK`.

It prints "ready", waits for a line, runs until nothing is left, and prints a `Drained`.
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path

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
    ended: float
    cpu: float
    """Seconds of processor time."""
    counted: int
    """How many jobs of the key `count` it ran."""


def main() -> None:
    """Be the process."""
    task = msgspec.json.decode(sys.argv[1], type=Task)
    tally, clock = Tally(), SystemClock()
    service = build_service(Path(task.database), concurrency=task.concurrency, tally=tally)
    print("ready", flush=True)
    sys.stdin.readline()
    began, cpu = clock.monotonic(), _cpu()
    service.run_until_idle()
    drained = Drained(began=began, ended=clock.monotonic(), cpu=_cpu() - cpu, counted=tally.count)
    print(msgspec.json.encode(drained).decode(), flush=True)


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
