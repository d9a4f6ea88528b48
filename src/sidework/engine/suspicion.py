"""`Suspicion`: when a job that was there at a worker's death gets this worker for itself.

Such a job may be what killed the worker. It runs alone, so that a second death is proof and harms no other job.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidework.model.job import Claim, ClaimedJob
    from sidework.storage.contract import Turn, Want

PATIENCE = 10.0
"""Seconds that a suspect waits until nothing else runs; then it runs beside what still does."""
REST = 1.0
"""Seconds before another try when a suspect is there and could not be claimed: its queue is full."""
LONGEST_ROW = 1.0
"""Seconds for which suspects run one after the other before other jobs are claimed again."""


class Suspicion:
    """Knows whether a suspect waits or runs here."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        """Take the clock's seconds."""
        self._monotonic = monotonic
        self._waits_since: float | None = None
        self._running: Claim | None = None
        self._row_since: float | None = None
        self._not_before = monotonic()

    @property
    def pending(self) -> bool:
        """Whether nothing else may be claimed, because a suspect waits or runs here."""
        return self._running is not None or self._waits_since is not None

    def wants_it_now(self, *, nothing_runs: bool) -> bool:
        """Whether the suspect that waits is to be claimed now. Jobs that were not begun cannot come to harm by it."""
        if self._running is not None or self._waits_since is None:
            return False
        return nothing_runs or self._monotonic() - self._waits_since >= PATIENCE

    def expect(self) -> None:
        """Learn of a suspect before a turn can tell: what such a turn would claim would only be in the way."""
        if self._waits_since is None and self._monotonic() >= self._not_before:
            self._waits_since = self._monotonic()

    def learn(self, turn: Turn, want: Want) -> None:
        """Learn from a turn whether a suspect waits or was claimed."""
        if want.suspect:
            self._waits_since = None
            if turn.claimed:
                self._running = turn.claimed[0].claim
                self._row_since = self._monotonic() if self._row_since is None else self._row_since
                return
            self._row_since = None
            if turn.suspects:
                self._not_before = self._monotonic() + REST
        elif not turn.suspects:
            self._waits_since = None  # another worker has taken it
        else:
            self.expect()

    @property
    def runs(self) -> bool:
        """Whether a suspect runs here."""
        return self._running is not None

    def ended(self, job: ClaimedJob) -> None:
        """Learn that an attempt of this job is over. If it was the suspect, the next one is looked for at once."""
        if job.claim != self._running or self._row_since is None:
            return
        self._running = None
        if self._monotonic() - self._row_since < LONGEST_ROW:
            self._waits_since = self._monotonic()
        else:
            self._row_since = None
