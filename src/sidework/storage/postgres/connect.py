"""Opens connections, and says in our words what PostgreSQL says in its own."""

from __future__ import annotations

import select
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

import psycopg
from psycopg import errors, pq
from psycopg.conninfo import conninfo_to_dict

from sidework.errors import AnswerLost, DatabaseBusy, DatabaseUnavailable, NotMigrated, SideworkError
from sidework.storage.postgres.patience import SILENCE, PatientConnection
from sidework.storage.postgres.server_clock import ServerClock
from sidework.storage.statements import load

if TYPE_CHECKING:
    from collections.abc import Mapping

Durability = Literal["full", "relaxed"]

_DEFAULTS: Final[Mapping[str, str | int]] = {
    "application_name": "sidework",
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}
"""What a URL does not say. A cut cable is noticed after seconds, not after the quarter of an hour of TCP."""

_SQL: Final = load(Path(__file__).with_name("connect.sql"))

_LIMITS_OF_SILENCE: Final[Mapping[str, int]] = {"idle": 10, "interval": 5, "count": 3, "unanswered": 20_000}
"""The same for the server's side: seconds, their number, and milliseconds."""

_SECRETS: Final = frozenset({"password", "sslpassword", "passfile"})

_TRY_AGAIN: Final = (errors.DeadlockDetected, errors.SerializationFailure)
_BUSY: Final = (errors.LockNotAvailable,)
_NO_TABLES: Final = (errors.UndefinedTable, errors.UndefinedColumn, errors.InvalidSchemaName)
_BLAMES_A_ROW: Final = (
    psycopg.DataError,
    psycopg.IntegrityError,
    psycopg.ProgrammingError,
    errors.RaiseException,
    errors.TriggeredActionException,
    errors.WithCheckOptionViolation,
    errors.ProgramLimitExceeded,
)


class Unanswered(psycopg.OperationalError):
    """The connection was lost when a transaction had been sent: whether it was carried out is unknown."""


class Address:
    """Where a database is, as it is given to libpq and as it may be shown."""

    def __init__(self, url: str) -> None:
        """Take a URL of the form that libpq knows. Raises SideworkError if it is none."""
        try:
            given = conninfo_to_dict(url)
        except psycopg.Error as error:
            raise SideworkError(f"{_without_secrets(url)!r} is not a PostgreSQL URL: {_first_line(error)}") from None
        self.conninfo = url
        self.name = _without_secrets(url)
        self.clock = ServerClock()
        self.parameters = {key: value for key, value in _DEFAULTS.items() if key not in given}

    def connect(self, *, patience: float = SILENCE) -> PatientConnection:
        """Open a connection that begins and commits nothing by itself. Raises psycopg.Error.

        patience: seconds without a word from the server after which it is given up.
        """
        connection = PatientConnection.connect(self.conninfo, autocommit=True, **self.parameters)  # type: ignore[arg-type]
        connection.patience = patience
        try:
            self._get_to_know(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _get_to_know(self, connection: psycopg.Connection[Any]) -> None:
        """Learn the server's time; prepare no statements behind a pooler, where the next may meet another process."""
        asked = self.clock.machine_now()
        answers, time, *_ = connection.execute(_SQL["get_to_know"], _LIMITS_OF_SILENCE, prepare=False).fetchall()[0]
        self.clock.learn(time, asked=asked, answered=self.clock.machine_now())
        if is_behind_a_pooler(announced=connection.info.backend_pid, answers=answers):
            connection.prepare_threshold = None


def close(connection: psycopg.Connection[Any] | None) -> None:
    """Close a connection that may be broken, if there is one."""
    if connection is not None:
        with suppress(psycopg.Error):
            connection.close()


def is_behind_a_pooler(*, announced: int, answers: int) -> bool:
    """Whether somebody stands between us and the server: then the process announced is not the one that answers.

    A pooler makes up the number that it announces, for it has no process of its own for each client.
    """
    return announced != answers


def is_fresh(connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> bool:
    """Whether an idle connection still leads to the server, as far as can be told without asking it."""
    if connection.closed or connection.pgconn.transaction_status != pq.TransactionStatus.IDLE:
        return False
    # What the server says to who asked nothing is a farewell, or nearly so.
    return not (_has_something_to_say(connection.pgconn.socket) or _has_said_something(connection))


def _has_something_to_say(socket: int) -> bool:
    poll = select.poll()
    poll.register(socket, select.POLLIN)
    return bool(poll.poll(0))


def _has_said_something(connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> bool:
    """Whether a word was taken in together with the last answer, and not looked at yet."""
    words: list[Any] = []
    connection.add_notice_handler(words.append)
    connection.pgconn.is_busy()  # looks at it
    connection.remove_notice_handler(words.append)
    return bool(words)


def translate(error: psycopg.Error, name: str) -> SideworkError:
    """Return the error of ours that a program can handle, with the server's words in it."""
    words = _first_line(error)
    match error:
        case errors.LockNotAvailable():
            return DatabaseBusy(
                f"a lock in {name} was held by somebody else for longer than we wait ({words}). `sidework doctor` "
                "names who holds a transaction open; end it, or give the service a longer wait="
            )
        case errors.UndefinedTable() | errors.UndefinedColumn() | errors.InvalidSchemaName():
            return NotMigrated(
                f"the tables of sidework are missing from {name}, or older than this version needs ({words}). "
                "Run `sidework migrate` or service.migrate()."
            )
        case Unanswered():
            return AnswerLost(
                f"the connection to {name} was lost before the answer came ({words}): it is unknown whether this was "
                "done. An enqueue with a unique_key may simply be repeated: while the first job has not ended, it is "
                "one job. Without one, look first (`sidework jobs`)."
            )
        case errors.InsufficientPrivilege():
            return DatabaseUnavailable(f"{name} does not let this user do what is needed: {words}")
        case psycopg.OperationalError() | psycopg.InterfaceError():
            return DatabaseUnavailable(f"{name} cannot be reached or used: {words}")
        case _:
            return DatabaseUnavailable(f"{name} refused: {words}")


def may_try_again(error: BaseException) -> bool:
    """Whether the server has undone a transaction only because of what others did at the same time."""
    return isinstance(error, _TRY_AGAIN)


def blames_a_row(error: psycopg.Error) -> bool:
    """Whether the server says something about one row, and not about locks, tables or the connection."""
    return isinstance(error, _BLAMES_A_ROW) and not isinstance(error, (*_BUSY, *_NO_TABLES))


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _without_secrets(url: str) -> str:
    parts = urlsplit(url)
    place = parts.netloc.rpartition("@")[2]
    user = quote(parts.username) + "@" if parts.username else ""
    query = urlencode([(key, value) for key, value in parse_qsl(parts.query) if key not in _SECRETS], safe="/=,-")
    return urlunsplit(parts._replace(netloc=user + place, query=query, fragment=""))
