"""The statements of one transaction in one write, on connections of our own where no pooler stands between.

A pipeline of psycopg writes each statement by itself, and makes a cursor and looks for adapters for each: of a turn
that finds the machine asleep that was a third (measured). Here they are prepared by hand, once for each connection;
lists are made binary by the types that the statements name; and all goes to the server at once.
"""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

import psycopg
from psycopg import errors, pq
from psycopg.adapt import Transformer

from sidework.storage.postgres.binary import array, scalar
from sidework.storage.postgres.lines import numbered
from sidework.storage.postgres.wire import ask, checked, converse, is_well

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from psycopg import Connection
    from psycopg.pq.abc import PGresult

    from sidework.storage.postgres.session import Session, Step

_BEGIN: Final = b"sidework_begin"
_COMMIT: Final = b"sidework_commit"
_FRAME: Final[Mapping[bytes, bytes]] = {
    _BEGIN: b"BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE",
    _COMMIT: b"COMMIT",
}
_LIST: Final = re.compile(r"%\((\w+)\)[sb]::(\w+)\[\]")


class Volley:
    """Sends transactions. Remembers which connections know its statements."""

    def __init__(self, session: Session, *, settings: str) -> None:
        """settings: the name of the statement that fits a connection out for all that is sent on it."""
        self._session = session
        self._settings = settings
        self._statements: dict[str, _Statement] = {}
        self._known: WeakKeyDictionary[Connection[Any], set[bytes]] = WeakKeyDictionary()

    def fits(self, connection: Connection[Any]) -> bool:
        """Whether a transaction can be sent in this way: no pooler stands between, and texts are UTF-8."""
        return connection.prepare_threshold is not None and speaks_utf8(connection)

    def fire(self, connection: Connection[Any], steps: Sequence[Step]) -> dict[str, list[tuple[Any, ...]]]:
        """Carry statements out as one transaction; return the rows of each. Raises psycopg.Error, with nothing done."""
        try:
            results = self._send(connection, steps)
        except errors.InvalidSqlStatementName:  # somebody has deallocated what was prepared: nothing was done
            self._known.pop(connection)
            results = self._send(connection, steps)
        return {name: _rows(connection, result) for (name, _), result in zip(steps, results[1:-1], strict=True)}

    def _send(self, connection: Connection[Any], steps: Sequence[Step]) -> list[PGresult]:
        server = connection.pgconn
        calls = [partial(server.send_query_prepared, _BEGIN, [])]
        for name, parameters in steps:
            statement = self._statement(name)
            calls.append(partial(server.send_query_prepared, statement.name, *statement.filled(parameters)))
        calls.append(partial(server.send_query_prepared, _COMMIT, []))
        self._prepare(connection, [self._statement(name) for name, _ in steps])
        try:
            return converse(connection, calls)
        except psycopg.Error:
            if server.transaction_status == pq.TransactionStatus.INERROR:
                converse(connection, [partial(server.send_query_params, b"ROLLBACK", [])])
            raise

    def _statement(self, name: str) -> _Statement:
        if name not in self._statements:
            self._statements[name] = _Statement(name, self._session.text(name))
        return self._statements[name]

    def _prepare(self, connection: Connection[Any], statements: Sequence[_Statement]) -> None:
        known = self._known.get(connection)
        if known is None:
            self._session.send(connection, self._settings, {**self._session.settings, "local": False})
            known = self._known[connection] = set()
        wanted = {**_FRAME, **{each.name: each.text for each in statements}}
        missing = {name: text for name, text in wanted.items() if name not in known}
        if missing:
            results = ask(connection, [partial(connection.pgconn.send_prepare, *each) for each in missing.items()])
            # Where one is refused, such as for a lock on its table, those before it are there, and must not come again.
            known.update(name for name, result in zip(missing, results, strict=True) if is_well(result))
            checked(results)


class _Statement:
    """A statement as it is prepared, and how its parameters travel."""

    def __init__(self, name: str, text: str) -> None:
        ordered, self._names = numbered(text)
        self._lists = {found[1]: found[2] for found in _LIST.finditer(text)}
        self.name = f"sidework_{name}".encode()
        self.text = ordered.encode()

    def filled(self, parameters: Mapping[str, object]) -> tuple[list[bytes | None], list[int]]:
        """Return parameters in the order in which they are numbered, and that all of them are binary."""
        values = [self._binary(name, parameters[name]) for name in self._names]
        return values, [pq.Format.BINARY] * len(values)

    def _binary(self, name: str, value: Any) -> bytes | None:
        kind = self._lists.get(name)
        return scalar(value) if kind is None or value is None else array(kind, value)


def _rows(connection: Connection[Any], result: PGresult) -> list[tuple[Any, ...]]:
    if not result.ntuples:
        return []
    reader = Transformer(connection)
    reader.set_pgresult(result)
    return reader.load_rows(0, result.ntuples, tuple)


def speaks_utf8(connection: Connection[Any]) -> bool:
    """Whether texts travel as UTF-8."""
    return connection.pgconn.parameter_status(b"client_encoding") == b"UTF8"
