"""How statements and transactions are run on connections of our own.

A transaction is sent as one pipeline wherever its statements do not depend on one another: one way to the server and
back, however many they are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeVar

import psycopg

from sidework.storage.postgres.connect import Unanswered, may_try_again, translate
from sidework.storage.postgres.pool import Connections

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from psycopg import Connection, Cursor

    from sidework.storage.postgres.connect import Address, Durability
    from sidework.storage.postgres.patience import PatientConnection

T = TypeVar("T")

Step = tuple[str, Mapping[str, object]]
"""The name of a statement, and its parameters."""

_LIST: Final = re.compile(r"%\((\w+)\)s::(\w+)\[\]")
_TRIES: Final = 8
"""How often a transaction is begun anew that the server undid because of others."""

WRITE: Final = b"BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"
LOOK: Final = b"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"


class Session:
    """Runs the statements of one .sql file, by name."""

    def __init__(self, sql: Mapping[str, str], *, durability: Durability, wait: float) -> None:
        """wait: seconds to wait for a lock."""
        self._sql = {name: _binary_lists(statement) for name, statement in sql.items()}
        self.settings = {
            "wait": f"{max(int(wait * 1000), 1)}ms",
            "durable": "off" if durability == "relaxed" else "on",
        }

    def send(
        self, connection: Connection[Any], statement: str, parameters: Mapping[str, object] | None = None
    ) -> Cursor[Any]:
        """Send a statement; inside a pipeline its rows are there when they are fetched."""
        return connection.execute(self._sql[statement], parameters, prepare=connection.prepare_threshold is not None)

    def text(self, statement: str) -> str:
        """Return the text of a statement, to put a condition behind it."""
        return self._sql[statement]

    def rows(
        self, connection: Connection[Any], statement: str, parameters: Mapping[str, object] | None = None
    ) -> list[tuple[Any, ...]]:
        """Run a statement and return its rows."""
        return self.send(connection, statement, parameters).fetchall()

    def one(self, connection: Connection[Any], statement: str, parameters: Mapping[str, object] | None = None) -> Any:
        """Run a statement and return the one value it yields."""
        row = self.send(connection, statement, parameters).fetchone()
        return None if row is None else row[0]

    def piped(
        self, connection: Connection[Any], settings: Step, steps: Sequence[Step]
    ) -> dict[str, list[tuple[Any, ...]]]:
        """Carry statements out as one transaction, all sent before the first answer; return the rows of each."""
        with connection.pipeline():
            connection.execute(WRITE)
            self.send(connection, *settings)
            sent = {name: self.send(connection, name, parameters) for name, parameters in steps}
            connection.execute("COMMIT")
        return {name: [] if cursor.description is None else cursor.fetchall() for name, cursor in sent.items()}

    def begin(self, connection: Connection[Any]) -> None:
        """Begin a transaction that writes."""
        connection.execute(WRITE)
        self.send(connection, "begin_write", self.settings)


class Database:
    """Runs acts in transactions on pooled connections, again where the server asks for it, and speaks our errors."""

    def __init__(
        self, address: Address, session: Session, *, patience: float | None, shared: Connections | None = None
    ) -> None:
        """Open nothing yet.

        patience: seconds without a word from the server after which a connection is given up; None: what is done here
        may take as long as it takes. shared: the connections of another one.
        """
        self._address = address
        self._session = session
        self._patience = patience
        self.connections = shared or Connections(address)

    def read(self, act: Callable[[PatientConnection], T]) -> T:
        """Run reads that each stand for themselves."""
        with self._in_our_words(), self.connections.one(self._patience) as connection:
            return act(connection)

    def look(self, act: Callable[[PatientConnection], T]) -> T:
        """Run reads in one snapshot."""

        def in_one_snapshot(connection: PatientConnection) -> T:
            connection.execute(LOOK)
            try:
                return act(connection)
            finally:
                connection.execute("ROLLBACK")

        return self.read(in_one_snapshot)

    def write(self, act: Callable[[PatientConnection], T], *, again: tuple[type[psycopg.Error], ...] = ()) -> T:
        """Run an act in a transaction of its own, and commit it. again: errors that only others can have caused."""

        def in_a_transaction(connection: PatientConnection) -> T:
            with connection.pipeline():
                self._session.begin(connection)
                result = act(connection)
                connection.execute("COMMIT")
            return result

        return self.repeat(in_a_transaction, again=again)

    def repeat(self, act: Callable[[PatientConnection], T], *, again: tuple[type[psycopg.Error], ...] = ()) -> T:
        """Run an act that is a whole transaction, anew when it met another one."""
        with self._in_our_words():
            for _ in range(_TRIES - 1):
                try:
                    return self.plainly(act)
                except psycopg.Error as error:
                    if not may_try_again(error) and not isinstance(error, again):
                        raise
            return self.plainly(act)

    def plainly(self, act: Callable[[PatientConnection], T]) -> T:
        """Run an act that is a whole transaction, once, and let psycopg's errors out.

        Raises Unanswered where the connection broke on the way: it is never sent again, for it may have been done.
        """
        with self.connections.one(self._patience) as connection:
            try:
                return act(connection)
            except psycopg.Error as error:
                if connection.closed:
                    raise Unanswered(str(error)) from error
                raise

    def close(self) -> None:
        """Close the connections that nobody uses."""
        self.connections.close()

    @contextmanager
    def _in_our_words(self) -> Iterator[None]:
        try:
            yield
        except psycopg.Error as error:
            raise translate(error, self._address.name) from error


def _binary_lists(statement: str) -> str:
    """Return a statement whose lists travel in binary form: as text, every element is quoted here and parsed there."""
    return _LIST.sub(r"%(\1)b::\2[]", statement)
