"""The only file that reads the time. Everything else is told what time it is."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Protocol


class Clock(Protocol):
    """The time: `now()` is an aware UTC datetime, `monotonic()` seconds that never go back."""

    def now(self) -> datetime: ...
    def monotonic(self) -> float: ...


class SystemClock:
    """The machine's own clock. Its methods are the built-in functions themselves: they are called for every job."""

    now = staticmethod(partial(datetime.now, UTC))
    """Return the current time, aware, UTC."""
    monotonic = staticmethod(time.monotonic)
    """Return seconds since an arbitrary point; never goes back."""


class FrozenClock:
    """A clock that moves only when told to; for tests."""

    def __init__(self, at: datetime | None = None) -> None:
        """Start at this aware datetime, or at 2026-01-01 12:00 UTC."""
        self._now = (at or datetime(2026, 1, 1, 12, tzinfo=UTC)).astimezone(UTC)
        self._elapsed = 0.0

    def now(self) -> datetime:
        """Return the time at which the clock stands."""
        return self._now

    def monotonic(self) -> float:
        """Return the seconds by which the clock was moved forward."""
        return self._elapsed

    def advance(self, by: float | timedelta) -> None:
        """Move forward by seconds or a timedelta."""
        step = by if isinstance(by, timedelta) else timedelta(seconds=by)
        self._now += step
        self._elapsed += step.total_seconds()

    def move_to(self, at: datetime) -> None:
        """Move forward to an aware datetime; an earlier one changes nothing."""
        self.advance(max(at - self._now, timedelta(0)))
