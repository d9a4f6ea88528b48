"""`Reporter`: gathers what running jobs report, and hands it on four times a second at most."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sidework.engine.attempt import Attempt
    from sidework.model.job import Report

INTERVAL = 0.25
"""Seconds between two reports of a job that goes on."""
AFTER_TROUBLE = 1.0
"""Seconds before reports that could not be sent are tried again."""
MOST_UNSENT = 1000


class Reporter:
    """What attempts have to report and what of it is due. Only `note` may be called from other threads."""

    def __init__(self, wake: Callable[[], object]) -> None:
        """`wake` is called, from whatever thread reports, when there is something after there was nothing."""
        self._wake = wake
        self._noted: deque[Attempt] = deque()
        self._unsent: list[Report] = []
        self._next_at = 0.0

    def note(self, attempt: Attempt) -> None:
        """Remember that this attempt has something to report."""
        self._noted.append(attempt)
        if len(self._noted) == 1:
            self._wake()

    def due_in(self, monotonic: float) -> float | None:
        """Return in how many seconds there will be something to send, or None."""
        if not self._noted and not self._unsent:
            return None
        if self.has_last_words:
            return 0.0
        return max(self._next_at - monotonic, 0.0)

    @property
    def has_last_words(self) -> bool:
        """Whether an attempt that is over has something to report, and reports can be sent."""
        return not self._unsent and any(attempt.over for attempt in self._noted)

    def take(self, monotonic: float) -> Sequence[Report]:
        """Return what is to be sent now: everything if it is time, else the last words of attempts that are over."""
        all_of_them = monotonic >= self._next_at
        if (not self._noted and not self._unsent) or (self._unsent and not all_of_them):
            return ()
        if all_of_them:
            self._next_at = monotonic + INTERVAL
        taken, self._unsent = self._unsent, []
        for _ in range(len(self._noted)):
            attempt = self._noted.popleft()
            if not all_of_them and not attempt.over:
                self._noted.append(attempt)
            elif (report := attempt.take_report()) is not None:
                taken.append(report)
        return taken

    def give_back(self, reports: Sequence[Report], monotonic: float) -> None:
        """Take reports back that could not be sent; until they can be, only the newest are kept."""
        self._unsent = list(reports)[-MOST_UNSENT:]
        self._next_at = monotonic + AFTER_TROUBLE
