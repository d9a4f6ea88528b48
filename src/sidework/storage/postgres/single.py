"""One job in one statement, one commit and one way to the server and back: how most jobs are enqueued.

Here the driver's own work, a cursor and its adapters for each row, took a quarter of the time that the server took for
the commit (measured). So the statement is prepared by hand once for each connection, and its parameters are sent in
binary form. What this cannot do is left to the common way: a pooler, an encoding other than UTF8.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from weakref import WeakSet

import psycopg
from psycopg import errors, pq
from psycopg.waiting import Ready, Wait

from sidework.storage.postgres import rows
from sidework.storage.postgres.binary import scalar
from sidework.storage.postgres.callers import swallowed
from sidework.storage.postgres.lines import numbered
from sidework.storage.postgres.volley import speaks_utf8

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping
    from datetime import datetime

    from psycopg import Connection
    from psycopg.pq.abc import PGconn, PGresult

    from sidework.model.job import NewJob

_NAME: Final = b"sidework_insert_job"
_UNKNOWN_STATEMENT: Final = b"26000"


class SingleInsert:
    """Inserts single jobs on connections of our own, each in a transaction of its own."""

    def __init__(self, statement: str, settings: str, parameters: Mapping[str, str]) -> None:
        """settings: a statement that fits a connection out for this, once, and its parameters."""
        text, self._names = numbered(statement)
        self._statement = text.encode()
        self._settings = settings
        self._parameters = parameters
        self._ready: WeakSet[Connection[Any]] = WeakSet()

    def fits(self, connection: Connection[Any], job: NewJob) -> bool:
        """Whether a job can be inserted here in this way."""
        return job.unique_key is None and connection.prepare_threshold is not None and speaks_utf8(connection)

    def insert(self, connection: Connection[Any], job: NewJob, now: datetime) -> int:
        """Insert and commit a job; return its id. Raises psycopg.Error, and SideworkError where it was swallowed."""
        values = rows.new_job(job, now)
        parameters = [scalar(values[name]) for name in self._names]
        if connection not in self._ready:
            self._prepare(connection)
        result = self._send(connection, parameters)
        if _is_forgotten(result):  # psycopg deallocates whatever is prepared after each ROLLBACK, this with it
            self._prepare(connection)
            result = self._send(connection, parameters)
        if result.status != pq.ExecStatus.TUPLES_OK:
            raise errors.error_from_result(result)
        found = result.get_value(0, 0)
        return swallowed() if found is None else int.from_bytes(found, signed=True)

    def _send(self, connection: Connection[Any], parameters: list[bytes | None]) -> PGresult:
        server = connection.pgconn
        server.send_query_prepared(_NAME, parameters, [pq.Format.BINARY] * len(parameters), pq.Format.BINARY)
        result: PGresult = connection.wait(_answer(server))
        return result

    def _prepare(self, connection: Connection[Any]) -> None:
        connection.execute(self._settings, self._parameters)
        connection.pgconn.send_prepare(_NAME, self._statement)
        result: PGresult = connection.wait(_answer(connection.pgconn))
        if result.status != pq.ExecStatus.COMMAND_OK:
            raise errors.error_from_result(result)
        self._ready.add(connection)


def _answer(server: PGconn) -> Generator[Wait, Ready | int, PGresult]:
    """Send what waits to be sent, and take in the answer, as psycopg waits: with patience, and open to signals.

    `get_result` is called only when it need not wait: it waits without patience, and with the interpreter held, so that
    a line that is cut before the last word of an answer would stop every thread of this process.
    """
    while server.flush():
        if (yield Wait.RW) & Ready.R:
            server.consume_input()
    answer: PGresult | None = None
    while True:
        while server.is_busy():
            if (yield Wait.R):
                server.consume_input()
        result = server.get_result()
        if result is None:
            break
        answer = answer or result
    if answer is None:
        raise psycopg.OperationalError("the server gave no answer")
    return answer


def _is_forgotten(result: PGresult) -> bool:
    """Whether nothing was done because the server knows no such statement any more."""
    return result.error_field(pq.DiagnosticField.SQLSTATE) == _UNKNOWN_STATEMENT
