"""Connections of our own: one for each who uses one now, and a few that are kept for the next."""

from __future__ import annotations

import os
import threading
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import psycopg
from psycopg import pq

from sidework.storage.postgres.connect import close, is_fresh
from sidework.storage.postgres.wire import finish

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sidework.storage.postgres.connect import Address
    from sidework.storage.postgres.patience import PatientConnection

_OPEN: Final = (pq.TransactionStatus.INTRANS, pq.TransactionStatus.INERROR)

KEPT: Final = 12
"""Idle connections that are kept; each costs the server a process."""


class Connections:
    """Hands out connections. From any thread. A forked child opens its own: the parent's are never touched there."""

    def __init__(self, address: Address) -> None:
        """Open nothing yet."""
        self._address = address
        self._lock = threading.Lock()
        self._idle: deque[PatientConnection] = deque()
        self._owner = os.getpid()
        self._inherited: list[PatientConnection] = []

    @contextmanager
    def one(self, patience: float | None) -> Iterator[PatientConnection]:
        """Lend a connection that is in no transaction. One that comes back in another state is closed.

        patience: seconds without a word from the server after which it is given up; None: never.
        """
        connection = self.take()
        connection.patience = patience
        try:
            yield connection
        finally:
            self.give(connection)

    def take(self) -> PatientConnection:
        """Return a connection that was kept, or a new one. Raises psycopg.Error."""
        while (connection := self._kept()) is not None:
            if finish(connection) and is_fresh(connection):
                return connection
            close(connection)
        return self._address.connect()

    def give(self, connection: PatientConnection) -> None:
        """Take a connection back; what it left open is rolled back."""
        if not (connection.owes_an_answer or _is_idle(connection)):
            close(connection)
            return
        with self._lock:
            if len(self._idle) < KEPT and os.getpid() == self._owner:
                self._idle.append(connection)
                return
        close(connection)

    def close(self) -> None:
        """Close what is kept."""
        while (connection := self._kept()) is not None:
            close(connection)

    def _kept(self) -> PatientConnection | None:
        with self._lock:
            self._disown_what_a_parent_opened()
            # The latest: its statements are prepared, and the others may be closed by the server in the meantime.
            return self._idle.pop() if self._idle else None

    def _disown_what_a_parent_opened(self) -> None:
        if os.getpid() != self._owner:
            self._inherited += self._idle  # closing them would end the parent's sessions
            self._idle.clear()
            self._owner = os.getpid()


def _is_idle(connection: psycopg.Connection[Any]) -> bool:
    try:
        if connection.pgconn.transaction_status in _OPEN:
            connection.execute("ROLLBACK")
    except psycopg.Error:
        return False
    return not connection.closed and connection.pgconn.transaction_status == pq.TransactionStatus.IDLE
