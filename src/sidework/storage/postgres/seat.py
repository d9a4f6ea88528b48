"""A worker's seat: a row with a lease, renewed by a thread of its own on a connection of its own.

The lease is by the server's clock; the worker itself counts by its monotonic clock, from before the renewal was sent,
and so always knows less time than it has: it is out before anybody may take its jobs.
"""

from __future__ import annotations

import random
import threading
from typing import TYPE_CHECKING, Any, Final

import psycopg

from sidework.errors import WorkerLost
from sidework.storage.postgres.connect import close

if TYPE_CHECKING:
    from collections.abc import Callable

    from psycopg import Connection

    from sidework.storage.postgres.connect import Address
    from sidework.storage.postgres.session import Session

LEASE: Final = 60.0
"""Seconds after its last renewal from which a worker may be taken for dead."""
RENEW_EVERY: Final = 20.0
MARGIN: Final = 5.0
"""Seconds before the end of its lease from which a worker stops by itself."""
PATIENCE: Final = 8.0
"""Seconds that the answer to a renewal may take: then there is time for another connection before the lease ends."""
RETRY_AFTER: Final = 1.0
"""Seconds, with jitter, until a renewal that failed is tried again."""


class Heartbeat:
    """Renews one worker's lease until it is stopped, or the lease is lost."""

    def __init__(self, address: Address, session: Session, worker: int, *, since: float) -> None:
        """since: monotonic time before the row with its first lease was written."""
        self._address = address
        self._session = session
        self._worker = worker
        self._clock = address.clock
        self._good_until = since + LEASE - MARGIN
        self._gone = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name=f"sidework-heartbeat-{worker}", daemon=True)
        self._thread.start()

    @property
    def time_left(self) -> float:
        """Seconds for which the seat is surely ours; 0 or less: it may be somebody else's to take."""
        return 0.0 if self._gone else self._good_until - self._clock.monotonic()

    def stop(self) -> None:
        """End. Does not wait for a renewal that is under way."""
        self._stop.set()

    def _beat(self) -> None:
        connection: Connection[Any] | None = None
        wait = RENEW_EVERY
        while not self._stop.wait(wait):
            try:
                connection = self._address.connect(patience=PATIENCE) if connection is None else connection
                wait = self._renew(connection)
            except psycopg.Error:
                close(connection)
                connection = None
                wait = RETRY_AFTER * random.uniform(0.5, 1.5)  # noqa: S311 - jitter, no secret
        close(connection)

    def _renew(self, connection: Connection[Any]) -> float:
        sent_at, asked = self._clock.monotonic(), self._clock.machine_now()
        time = self._session.one(connection, "beat", {"worker": self._worker, "lease": LEASE})
        if time is not None:
            self._clock.learn(time, asked=asked, answered=self._clock.machine_now())
            self._good_until = sent_at + LEASE - MARGIN
        else:
            self._gone = True
            self._stop.set()
        return RENEW_EVERY


class PostgresMembership:
    """A worker's seat in a PostgreSQL database."""

    def __init__(
        self, worker: int, heartbeat: Heartbeat, *, check: Callable[[], None], remove: Callable[[], None]
    ) -> None:
        """check: raises WorkerLost if the row is gone; remove: deletes it."""
        self._worker = worker
        self._heartbeat = heartbeat
        self._check = check
        self._remove = remove

    @property
    def worker(self) -> int:
        """The worker's id."""
        return self._worker

    @property
    def time_left(self) -> float:
        """Seconds for which the seat is surely ours, without asking anybody."""
        return self._heartbeat.time_left

    def check(self) -> None:
        """Raise WorkerLost if the lease is over or the row is gone."""
        if self.time_left <= 0:
            raise WorkerLost(
                f"worker {self._worker} stops: it could not renew its lease of {LEASE:g} s; others may take its jobs",
                may_rejoin=True,
            )
        self._check()

    def begun(self, job_id: int) -> None:
        """Pass nothing on: who takes this worker for dead, maybe on another machine, could not know in time."""

    def ended(self, job_id: int, *, written: bool) -> None:
        """Pass nothing on."""

    def leave(self) -> None:
        """End the heartbeat and delete the row.

        Where the lease is nearly over the row stays until it is: a handler that was told to end has that time, and
        nobody else runs its job meanwhile.
        """
        in_time = self.time_left > 0
        self._heartbeat.stop()
        if in_time:
            self._remove()
