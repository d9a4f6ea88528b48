"""When to look again after a ring. With synchronous=FULL the log is written first, then flushed, then visible."""

from __future__ import annotations

from typing import Final

FIRST: Final = 0.0001
LONGEST: Final = 0.02
QUIET: Final = 1.0


class Relook:
    """Looks again after 0.1, 0.2, 0.4 ... 20 ms, until a second has been quiet. Times are seconds of one clock."""

    def __init__(self) -> None:
        self._next: float | None = None
        self._until = 0.0

    def rung(self, now: float, *, by_a_death: bool = False) -> None:
        """Begin, or go on for another second.

        A commit lets only a back-off start anew that has reached its end: a transaction that fills the log for seconds
        rings all the time, and must not keep us looking ten thousand times a second. A worker dies but once.
        """
        self._until = now + QUIET
        if by_a_death or self._next is None or self._next >= LONGEST:
            self._next = FIRST

    def pause(self, now: float) -> float | None:
        """Return how long to pause before the next look, or None: nothing was heard for a second."""
        if self._next is None or now >= self._until:
            self._next = None
            return None
        pause, self._next = self._next, min(self._next * 2, LONGEST)
        return pause


class Polling:
    """Looks after 1, 2, 4 ... 50 ms: where nothing rings."""

    def __init__(self) -> None:
        self._next = 0.001

    def rung(self, now: float, *, by_a_death: bool = False) -> None:
        """Nothing rings here."""

    def pause(self, now: float) -> float:
        """Return how long to pause before the next look."""
        del now
        pause, self._next = self._next, min(self._next * 2, 0.05)
        return pause
