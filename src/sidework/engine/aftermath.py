"""`Aftermath`: what becomes of handlers that could not be stopped and so outlive their worker."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from sidework.engine.events import logger
from sidework.storage.contract import Want

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sidework.clock import Clock
    from sidework.engine.attempt import Attempt
    from sidework.model.job import Claim
    from sidework.storage.contract import Membership, Storage

NOTHING = Want(keys=frozenset())


class Aftermath:
    """Keeps the seat of a worker that is gone until its last handler has ended, and writes how those end.

    In a program that goes on after its service has stopped, the jobs would otherwise stay RUNNING until its exit.
    """

    def __init__(self, storage: Storage, membership: Membership, clock: Clock, stuck: Iterable[Claim]) -> None:
        """stuck: the claims whose handlers still run."""
        self._storage = storage
        self._membership = membership
        self._clock = clock
        self._stuck = set(stuck)
        self._one_at_a_time = threading.Lock()

    def take(self, attempt: Attempt) -> None:
        """Write the end of an attempt, in a thread of its own: the event loop may be gone, and must not be blocked."""
        threading.Thread(target=self._write, args=(attempt,), name="sidework-aftermath", daemon=True).start()

    def _write(self, attempt: Attempt) -> None:
        with self._one_at_a_time:
            self._stuck.discard(attempt.job.claim)
            try:
                if attempt.outcome is not None and not attempt.settled:
                    now = self._clock.now()
                    self._storage.exchange(self._membership.worker, [attempt.outcome], NOTHING, now=now)
                if not self._stuck:
                    self._membership.leave()
            except Exception:  # noqa: BLE001 - nobody is left to tell but the log; the process's end frees the job
                logger.exception("the late end of job %d could not be written", attempt.job.id)
