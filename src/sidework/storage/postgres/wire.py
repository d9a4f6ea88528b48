"""What is sent in libpq's pipeline mode: several statements in one write, and their answers taken in with patience."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import psycopg
from psycopg import errors, pq
from psycopg.waiting import Ready, Wait

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from psycopg import Connection
    from psycopg.pq.abc import PGconn, PGresult

    from sidework.storage.postgres.patience import PatientConnection

_WELL: Final = (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK)


def converse(connection: Connection[Any], calls: Sequence[Callable[[], None]]) -> list[PGresult]:
    """Send what the calls send in one write, and return their answers. Raises the error that is the first of them."""
    return checked(ask(connection, calls))


def ask(connection: Connection[Any], calls: Sequence[Callable[[], None]]) -> list[PGresult]:
    """Do the same, and return the answers whatever they say. Raises only where the connection is lost."""
    server = connection.pgconn
    server.enter_pipeline_mode()
    for call in calls:
        call()
    server.pipeline_sync()
    results: list[PGresult] = connection.wait(answers(server))
    server.exit_pipeline_mode()
    return results


def converse_and_go_on(
    connection: PatientConnection, call: Callable[[], None], afterwards: Callable[[], None]
) -> PGresult:
    """Send two statements in one write, each a transaction of its own; return the answer to the first.

    The other answer is owed: `finish` takes it in before the connection is used again. Raises as `converse` does.
    """
    server = connection.pgconn
    server.enter_pipeline_mode()
    for each in (call, afterwards):
        each()
        server.pipeline_sync()
    results: list[PGresult] = connection.wait(answers(server))
    connection.owes_an_answer = True
    return checked(results)[0]


def finish(connection: PatientConnection) -> bool:
    """Take in the answer that is owed, if one is, whatever it says; False: the connection is of no use any more."""
    if not connection.owes_an_answer:
        return True
    try:
        connection.wait(answers(connection.pgconn))
        connection.pgconn.exit_pipeline_mode()
    except psycopg.Error:
        return False
    connection.owes_an_answer = False
    return True


def checked(results: list[PGresult]) -> list[PGresult]:
    """Return answers that are all well. Raises the error that is the first of them."""
    for result in results:
        if not is_well(result):
            raise errors.error_from_result(result)
    return results


def is_well(result: PGresult) -> bool:
    """Whether what was asked for has been done."""
    return result.status in _WELL


def answers(server: PGconn) -> Generator[Wait, Ready | int, list[PGresult]]:
    """Send what waits to be sent, and take in all answers, as psycopg waits: with patience, and open to signals.

    `get_result` is called only when it need not wait: it waits without patience, and with the interpreter held, so that
    a line that is cut before the last word of an answer would stop every thread of this process.
    """
    while server.flush():
        if (yield Wait.RW) & Ready.R:
            server.consume_input()
    found: list[PGresult] = []
    while True:
        while server.is_busy():
            if (yield Wait.R):
                server.consume_input()
        result = server.get_result()
        if result is None:
            continue  # each answer ends with this
        if result.status == pq.ExecStatus.PIPELINE_SYNC:
            return found
        found.append(result)
