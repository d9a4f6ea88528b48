"""How quickly a handler has run of late, and so whether its jobs may share a commit with others.

Who shares keeps the ends of those before it waiting, and the lock with them. So only handlers may that were quick many
times in a row, and one that is slow afterwards owes the others the time that it took. It pays back a twentieth of the
time that passes, and does not share while it owes much: one that is slow by chance, because something else kept the
interpreter busy, goes on sharing; one that is slow as a rule costs the others a twentieth of their time at most.
"""

from __future__ import annotations

import msgspec

QUICK = 0.002
"""Seconds that a handler may take, from its call to its return, to be taken for quick."""
QUICK_RUNS = 20
"""So many in a row, and it may share."""
SLOW = 0.005
"""Seconds from which on one who shares has kept others waiting."""
MOST_OWED = 0.02
"""Seconds; who owes more does not share, until it has paid back and was quick many times in a row again."""
PAID_BACK = 0.05
"""Of each second that passes."""
COST_OF_A_COMMIT = 1.0
"""Seconds that a handler owes when what it shared could not be committed: twenty seconds by itself."""


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a handler."""

    quick_runs: int = 0
    """In a row, up to QUICK_RUNS."""
    owed: float = 0.0
    """Seconds, at the moment `at`."""
    at: float = 0.0
    """By the monotonic clock."""

    def may_share(self, *, now: float) -> bool:
        """Whether it may share a commit."""
        return self.quick_runs >= QUICK_RUNS and self.owed_at(now) <= MOST_OWED

    def owed_at(self, now: float) -> float:
        """Return the seconds that it owes at a moment."""
        return max(self.owed - (now - self.at) * PAID_BACK, 0.0)


UNKNOWN = Pace()


def after_run(pace: Pace, seconds: float, *, shared: bool, now: float) -> Pace:
    """Return what is known after a run that took so long, the waiting for the lock not counted.

    shared: whether others may have waited for it.
    """
    if shared:
        return in_debt(pace, seconds, now=now) if seconds >= SLOW else pace
    quick_runs = min(pace.quick_runs + 1, QUICK_RUNS) if seconds <= QUICK else 0
    return Pace(quick_runs=quick_runs, owed=pace.owed, at=pace.at)


def in_debt(pace: Pace, seconds: float, *, now: float) -> Pace:
    """Return what is known of a handler that has cost others so many seconds."""
    owed = pace.owed_at(now) + seconds
    return Pace(quick_runs=0 if owed > MOST_OWED else pace.quick_runs, owed=owed, at=now)
