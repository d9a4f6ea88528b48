"""litequeue. It has no worker: the loop is ours, looking every millisecond. It sets synchronous=NORMAL itself."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import litequeue
import program

if TYPE_CHECKING:
    from collections.abc import Callable


class LiteQueue:
    """`LiteQueue` as it opens itself."""

    def __init__(self, database: str, do: Callable[[int], None]) -> None:
        """Open it."""
        self._do = do
        self._queue = litequeue.LiteQueue(database)

    def enqueue(self, n: int) -> None:
        """Commit one message."""
        self._queue.put(str(n))

    def work(self) -> None:
        """Pop, do, mark as done."""
        while True:
            message = self._queue.pop()
            if message is None:
                time.sleep(0.001)
                continue
            self._do(int(message.data))
            self._queue.done(message.message_id)


program.run(LiteQueue)
