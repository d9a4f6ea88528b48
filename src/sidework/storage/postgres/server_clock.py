"""The server's clock, as this machine can tell it: its own clock, corrected by what the server last said.

Workers on several machines then agree on what is due, whatever their own clocks say.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from sidework.clock import SystemClock

USABLE: Final = timedelta(seconds=1)
"""An answer that took longer says too little about the time."""


class ServerClock:
    """A clock that is corrected whenever the server tells its time; until then it is this machine's."""

    def __init__(self) -> None:
        """Know of no difference yet."""
        self._machine = SystemClock()
        self._ahead = timedelta(0)

    def now(self) -> datetime:
        """Return the server's time, aware, UTC."""
        return self._machine.now() + self._ahead

    def monotonic(self) -> float:
        """Return seconds since an arbitrary point; never goes back."""
        return self._machine.monotonic()

    def machine_now(self) -> datetime:
        """Return this machine's own time: before and after the server is asked."""
        return self._machine.now()

    def learn(self, server: datetime, *, asked: datetime, answered: datetime) -> None:
        """Take what the server said between two moments of this machine's time."""
        if timedelta(0) <= answered - asked < USABLE:
            self._ahead = server - (asked + (answered - asked) / 2)
