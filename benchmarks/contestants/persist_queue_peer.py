"""persist-queue's acknowledging SQLite queue. It has no worker: the loop is ours, looking every millisecond."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import persistqueue
import program

if TYPE_CHECKING:
    from collections.abc import Callable


class PersistQueue:
    """`SQLiteAckQueue` with automatic commits."""

    def __init__(self, database: str, do: Callable[[int], None]) -> None:
        """Open it; what nobody has acknowledged comes back with that."""
        self._do = do
        self._queue = persistqueue.SQLiteAckQueue(database, auto_commit=True, multithreading=True)

    def enqueue(self, n: int) -> None:
        """Commit one item."""
        self._queue.put(n)

    def work(self) -> None:
        """Get, do, acknowledge."""
        while True:
            try:
                n = self._queue.get(block=False)
            except persistqueue.exceptions.Empty:
                time.sleep(0.001)
                continue
            self._do(n)
            self._queue.ack(n)


program.run(PersistQueue)
