"""When to try again: exponential with full jitter, or a list of delays.

Full jitter after Marc Brooker, "Exponential Backoff And Jitter" (AWS Architecture Blog, 2015): a delay drawn
evenly from zero to the exponential bound spreads the retries of jobs that failed together.
"""

from __future__ import annotations

from datetime import timedelta

DEFAULT_BASE = 1.0
LONGEST = 3600.0


def delay_before_retry(failures: int, backoff: float | tuple[float, ...] | None, chance: float) -> timedelta:
    """Return how long to wait after the `failures`-th failure in a row (1, 2, …).

    backoff: seconds, the bound after the first failure, doubled at each further one up to an hour and drawn evenly
        below it; or the delays themselves, the last one repeated; None: 1 second.
    chance: a random number in [0, 1), given from outside.
    """
    if isinstance(backoff, tuple):
        return timedelta(seconds=backoff[min(failures, len(backoff)) - 1])
    base = DEFAULT_BASE if backoff is None else backoff
    bound = min(base * 2.0 ** min(failures - 1, 32), LONGEST)
    return timedelta(seconds=bound * chance)
