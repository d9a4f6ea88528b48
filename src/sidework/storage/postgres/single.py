"""One job in one statement, one commit and one way to the server and back: how most jobs are enqueued.

Here the driver's own work, a cursor and its adapters for each row, took a quarter of the time that the server took for
the commit (measured). So the statement is prepared by hand once for each connection, and its parameters are sent in
binary form. What this cannot do is left to the common way: a pooler, an encoding other than UTF8.

Who has been quiet rings in the same write, in a transaction behind that of the job: the server goes on to it without
being woken again, while the answer to the first is on its way.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakSet

from psycopg import errors, pq

from sidework.storage.postgres import rows
from sidework.storage.postgres.binary import scalar
from sidework.storage.postgres.callers import swallowed
from sidework.storage.postgres.lines import numbered
from sidework.storage.postgres.listening import CHANNEL
from sidework.storage.postgres.volley import speaks_utf8
from sidework.storage.postgres.wire import converse, converse_and_go_on, finish

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from psycopg import Connection
    from psycopg.pq.abc import PGconn, PGresult

    from sidework.model.job import NewJob
    from sidework.storage.postgres.patience import PatientConnection

_INSERT: Final = b"sidework_insert_job"
_RING: Final = b"sidework_ring"


class SingleInsert:
    """Inserts single jobs on connections of our own, each in a transaction of its own."""

    def __init__(self, statement: str, ring: str, settings: str, parameters: Mapping[str, str]) -> None:
        """ring: a statement that tells others. settings: one that fits a connection out, once, and its parameters."""
        text, self._names = numbered(statement)
        self._prepared: Mapping[bytes, bytes] = {_INSERT: text.encode(), _RING: numbered(ring)[0].encode()}
        self._settings = settings
        self._parameters = parameters
        self._ready: WeakSet[Connection[Any]] = WeakSet()

    def fits(self, connection: Connection[Any], job: NewJob) -> bool:
        """Whether a job can be inserted here in this way."""
        return job.unique_key is None and connection.prepare_threshold is not None and speaks_utf8(connection)

    def insert(self, connection: PatientConnection, job: NewJob, now: datetime, *, rings: bool) -> int:
        """Insert and commit a job; return its id. Raises psycopg.Error, and SideworkError where it was swallowed.

        rings: tell others right behind; the answer to that is owed by the connection.
        """
        values = rows.new_job(job, now)
        insert = _call(connection.pgconn, _INSERT, [scalar(values[name]) for name in self._names])
        ring = _call(connection.pgconn, _RING, [CHANNEL.encode()]) if rings else None
        if connection not in self._ready:
            self._prepare(connection)
        try:
            result = _send(connection, insert, ring)
        except errors.InvalidSqlStatementName:  # psycopg deallocates whatever is prepared after each ROLLBACK
            finish(connection)
            self._prepare(connection)
            result = _send(connection, insert, ring)
        found = result.get_value(0, 0)
        return swallowed() if found is None else int.from_bytes(found, signed=True)

    def _prepare(self, connection: Connection[Any]) -> None:
        connection.execute(self._settings, self._parameters)
        prepare = connection.pgconn.send_prepare
        converse(connection, [partial(prepare, name, text) for name, text in self._prepared.items()])
        self._ready.add(connection)


def _call(server: PGconn, name: bytes, parameters: list[bytes | None]) -> Callable[[], None]:
    formats = [pq.Format.BINARY] * len(parameters)
    return partial(server.send_query_prepared, name, parameters, formats, pq.Format.BINARY)


def _send(connection: PatientConnection, insert: Callable[[], None], ring: Callable[[], None] | None) -> PGresult:
    return converse(connection, [insert])[0] if ring is None else converse_and_go_on(connection, insert, ring)
