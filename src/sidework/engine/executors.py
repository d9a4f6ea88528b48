"""Where a blocking handler runs: threads that grow in number as they are needed and are used again."""

from __future__ import annotations

import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Threads:
    """Daemon threads for handlers. An interpreter that exits does not wait for them.

    Every method is called from the event loop's thread, and so needs no lock.
    """

    def __init__(self, name: str = "sidework-handler") -> None:
        """Start no thread yet; they are named after `name`."""
        self._name = name
        self._calls: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._started = 0
        self._busy = 0

    @property
    def started(self) -> int:
        """How many threads there are."""
        return self._started

    def start(self, call: Callable[[], object]) -> None:
        """Begin the call in a thread that is free, at once. The call must not raise.

        Its thread counts as busy until `ended` is told: a call that is abandoned keeps its thread, and the next one
        gets another.
        """
        self._busy += 1
        if self._busy > self._started:
            self._add_thread()
        self._calls.put(call)

    def ended(self) -> None:
        """Say that a call has come to its end, and its thread is free."""
        self._busy -= 1

    def close(self) -> None:
        """Let every thread end when it is free."""
        for _ in range(self._started):
            self._calls.put(None)
        self._started = 0

    def _add_thread(self) -> None:
        self._started += 1
        name = f"{self._name}-{self._started}"
        threading.Thread(target=_run_calls, args=(self._calls,), name=name, daemon=True).start()


def _run_calls(calls: SimpleQueue[Callable[[], object] | None]) -> None:
    while (call := calls.get()) is not None:
        call()
        del call  # an idle thread must not keep the last job alive
