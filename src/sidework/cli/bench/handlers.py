"""The handlers that are measured, on a service as a user would write it."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from pathlib import Path

from sidework import BackgroundService
from sidework.cli.bench.raw import statements
from sidework.clock import SystemClock

SLEEP = 0.001
DEFAULT_CONCURRENCY = 10


class Tally:
    """How many jobs were run here."""

    def __init__(self) -> None:
        """Begin at none."""
        self.count = 0


def build_service(
    database: str | Path, *, concurrency: int = DEFAULT_CONCURRENCY, tally: Tally | None = None, notify: bool = True
) -> BackgroundService:
    """Return a service with every handler of the benchmarks; all its other settings are the defaults."""
    service = BackgroundService(database, concurrency=concurrency, notify=notify)
    clock = SystemClock()
    insert_effect = statements()["effect"]
    counted = tally or Tally()

    @service.handler
    async def nothing(n: int) -> None:
        """Do nothing."""

    @service.handler
    async def count(n: int) -> None:  # noqa: ARG001 - every job carries a payload
        counted.count += 1

    @service.handler
    async def rest(n: int) -> None:  # noqa: ARG001 - every job carries a payload
        await asyncio.sleep(SLEEP)

    @service.handler
    def effect(db: sqlite3.Connection, n: int) -> None:
        db.execute(insert_effect, (n,))

    @service.handler
    async def note(n: int) -> None:  # noqa: ARG001 - every job carries a payload
        sys.stdout.write(f"noted {clock.monotonic()}\n")
        sys.stdout.flush()

    return service
