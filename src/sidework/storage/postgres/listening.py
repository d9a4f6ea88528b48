"""Finds out by trying whether a process can listen for rings, and says in words what it came to."""

from __future__ import annotations

import secrets
from contextlib import closing
from typing import TYPE_CHECKING, Any, Final

import psycopg
from psycopg import sql

from sidework.storage.postgres.connect import close, translate

if TYPE_CHECKING:
    from psycopg import Connection

    from sidework.storage.postgres.connect import Address

CHANNEL: Final = "sidework"
PROBE: Final = 2.0
"""Seconds in which a ring must come from one address to the other."""

LISTENS: Final = "LISTEN/NOTIFY"
POLLS: Final = "polling four times a second"


class Listening:
    """How one process listens, or why it does not."""

    def __init__(self, address: Address, *, wanted: bool, listens_at: Address | None) -> None:
        """address: where jobs are committed and rings are sent. listens_at: where to listen; None: there too."""
        self._address = address
        self._apart = listens_at
        self._wanted = wanted
        self._may_come_back = wanted
        self._why = "NOTIFY is switched off"

    @property
    def may_come_back(self) -> bool:
        """Whether trying again later makes sense."""
        return self._may_come_back

    def in_words(self, *, listens: bool) -> str:
        """Return the mechanism that is in use."""
        if listens:
            return LISTENS if self._apart is None else f"{LISTENS} by listen_url"
        return f"{POLLS}: {self._why}"

    def begin(self) -> Connection[Any] | None:
        """Return a connection that listens, or None. Raises DatabaseUnavailable, but not for listen_url."""
        self._why = "the connection that listened was lost" if self._wanted else self._why
        if not self._wanted:
            return None
        if self._apart is not None:
            return self._begin_apart(self._apart)
        try:
            return self._listen_at(self._address, "a pooler stands before the server; give listen_url=")
        except psycopg.Error as error:
            raise translate(error, self._address.name) from error

    def _begin_apart(self, address: Address) -> Connection[Any] | None:
        try:
            connection = self._listen_at(address, "a pooler stands before the server of listen_url, too")
            if connection is None or self._is_heard(connection):
                return connection
        except psycopg.Error as error:
            self._why = f"listen_url cannot be used: {translate(error, address.name)}"
            return None
        close(connection)
        self._may_come_back = False
        self._why = "listen_url leads to another database"
        return None

    def _listen_at(self, address: Address, why_not: str) -> Connection[Any] | None:
        connection = address.connect()
        if connection.prepare_threshold is None:  # a pooler stands between, and would listen for somebody else
            close(connection)
            self._may_come_back = False
            self._why = why_not
            return None
        connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(CHANNEL)))
        return connection

    def _is_heard(self, connection: Connection[Any]) -> bool:
        """Ring at the one address, and hear it at the other."""
        token = secrets.token_hex(8)
        with closing(self._address.connect()) as other:
            other.execute("SELECT pg_notify(%s, %s)", [CHANNEL, token])
        return any(heard.payload == token for heard in connection.notifies(timeout=PROBE, stop_after=1))
