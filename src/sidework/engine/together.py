"""`Together`: what the handlers of one writing thread commit together, and when.

What has ended is never kept waiting for more to come: it is committed as soon as no further handler is at hand, and
while there are, after a few milliseconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidework.engine.attempt import Attempt
    from sidework.storage.contract import SharedTransaction

LONGEST_TOGETHER = 0.003
"""Seconds that the first end waits while further handlers are at hand; others want to write as well."""
MOST_TOGETHER = 100


class Together:
    """The shared transaction of one thread."""

    __slots__ = ("_monotonic", "_shared", "_waits_since", "being_cut")

    def __init__(self, shared: SharedTransaction, monotonic: Callable[[], float]) -> None:
        """Begin nothing yet."""
        self._shared = shared
        self._monotonic = monotonic
        self._waits_since: float | None = None
        self.being_cut = False

    @property
    def waiting(self) -> int:
        """How many have ended and wait for the commit."""
        return self._shared.waiting

    @property
    def wants_to_write(self) -> bool:
        """Whether its thread waits for the write lock: nobody else would get it before."""
        return self._shared.wants_to_write

    def take(self, attempt: Attempt) -> None:
        """Let the next attempt have a part, if it writes. In the thread."""
        attempt.shared = self._shared

    def ended(self) -> None:
        """Commit if it is time to. In the thread, when a handler has ended."""
        now, waiting = self._monotonic(), self._shared.waiting
        if not waiting:
            self._waits_since = None
        elif self._waits_since is None:
            self._waits_since = now
        elif waiting >= MOST_TOGETHER or now - self._waits_since >= LONGEST_TOGETHER:
            self.finish()

    def finish(self) -> None:
        """Commit what has ended. In the thread, between two handlers."""
        self._shared.finish()
        self._waits_since = None

    def cut(self) -> None:
        """Commit what has ended although a handler runs, if that has not written yet. From any thread."""
        self._shared.cut()
