"""The PostgreSQL side of a move: everything arrives in one transaction, or nothing does.

What has arrived is read back in that transaction and compared with what was sent, before anybody else can see it. A
row of its own says which move it is, so that one whose COMMIT was not heard is known again.
"""

from __future__ import annotations

import hashlib
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec
import psycopg

from sidework.errors import CannotMove, SideworkError
from sidework.storage.manifest import TABLES, Check
from sidework.storage.postgres import migrate, rows
from sidework.storage.postgres.connect import Address, translate
from sidework.storage.statements import load
from sidework.storage.transfer import Arrived

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from psycopg import Connection

    from sidework.storage.manifest import Contents, Table

T = TypeVar("T")

_SQL: Final = load(Path(__file__).with_name("arrival.sql"))
_LONGEST_WAIT: Final = 60
"""Seconds to wait for a transaction of the same move whose mover is gone."""
_checks = msgspec.json.Decoder(dict[str, Check])


class _Mark(msgspec.Struct, frozen=True):
    """A move that was begun towards this database."""

    id: str
    source: str
    begun_at: datetime
    arrived: Arrived | None
    last_job: int | None
    """The highest id that was ever given, when the jobs had arrived."""


class PostgresArrival:
    """A PostgreSQL database in which jobs are to arrive. Constructing it does no I/O."""

    def __init__(self, url: str) -> None:
        """Remember where it is."""
        self._address = Address(url)
        self._kept: Connection[Any] | None = None

    @property
    def name(self) -> str:
        """The URL without its password."""
        return self._address.name

    def disconnect(self) -> None:
        """Close the connection."""
        kept, self._kept = self._kept, None
        if kept is not None:
            kept.close()

    # ---------------------------------------------------------------------------------------------------- looking

    def in_the_way(self, move: str | None) -> Sequence[str]:
        """Look at the server, the tables and the row of the move."""
        with self._in_our_words() as connection:
            return list(self._obstacles(connection, move))

    def _obstacles(self, connection: Connection[Any], move: str | None) -> Iterator[str]:
        encoding, replica = _one(connection, "encoding")
        if encoding != "UTF8":
            yield f"{self.name} has the encoding {encoding}; make a database with ENCODING 'UTF8'"
        if replica:
            yield f"{self.name} is a standby, which takes no writes; name the primary"
        mark = _mark(connection)
        if mark is not None and mark.id != move:
            yield self._begun_by_another(mark)
        elif (mark is None or mark.arrived is None) and migrate.is_there(connection, self.name):
            yield from self._occupied(connection)

    def _begun_by_another(self, mark: _Mark) -> str:
        when = f"{mark.begun_at:%Y-%m-%d %H:%M}Z"
        if mark.arrived is not None:
            return f"{self.name} holds the jobs of {mark.source} already, moved {when}; name another database or schema"
        return (
            f"a move from {mark.source} to {self.name} was begun {when} and has not ended; run that one again, "
            f"or go back with `sidework move --abort {mark.source.rpartition(':')[2]} {self.name}` there"
        )

    def _occupied(self, connection: Connection[Any]) -> Iterator[str]:
        taken = [table for table, is_taken in zip(TABLES, _one(connection, "occupied"), strict=True) if is_taken]
        if taken:
            yield (
                f"{self.name} is not empty: there are rows in {', '.join(table.full_name for table in taken)}. "
                "Name an empty database or schema; what is in two places cannot be told apart afterwards"
            )

    def arrived(self, move: str) -> Arrived | None:
        """Look at the row of the move, when nobody is writing it."""

        def look(connection: Connection[Any]) -> Arrived | None:
            if not _has_mark(connection):
                return None
            _run(connection, "lock_mark")
            mark = _mark(connection)
            return mark.arrived if mark is not None and mark.id == move else None

        return self._transaction(look)

    # --------------------------------------------------------------------------------------------------- arriving

    def begin(self, move: str, *, source: str, identity: str | None, now: datetime) -> str:
        """Make the tables and write the row of the move."""
        with self._in_our_words() as connection:
            migrate.migrate(connection, self.name)

        def write(connection: Connection[Any]) -> str:
            _run(connection, "create_mark")
            _run(connection, "lock_mark")
            if obstacles := [*self._obstacles(connection, move)]:
                raise CannotMove("; ".join(obstacles))
            if _mark(connection) is None:
                _run(connection, "write_mark", id=move, source=source, now=rows.to_moment(now))
            return self._refuse_another_database(connection, identity)

        return self._transaction(write)

    def _refuse_another_database(self, connection: Connection[Any], identity: str | None) -> str:
        there = str(_one(connection, "identity")[0]) if migrate.is_there(connection, self.name) else "none"
        if identity not in (None, there):
            raise CannotMove(
                f"{self.name} leads to another database than when this move was begun (it was made anew, or restored, "
                "or the name leads elsewhere). Nothing was changed; let the name lead to the same database again"
            )
        return there

    def receive(
        self, move: str, contents: Contents, send: Callable[[Table], Iterator[bytes]], *, now: datetime
    ) -> Arrived:
        """Copy, read back, compare, note, commit."""

        def take(connection: Connection[Any]) -> Arrived:
            self._take_the_floor(connection, move)
            checks = {table.name: _take(connection, table, send(table)) for table in TABLES}
            self._compare(connection, checks, contents)
            for table, highest in contents.highest.items():
                _run(connection, _KEEP_HIGHEST[table], highest=highest)
            _run(connection, "say_arrived", now=rows.to_moment(now), checks=msgspec.json.encode(checks).decode())
            return Arrived(at=rows.to_moment(now), checks=checks)

        arrived = self._transaction(take)
        self._refresh_statistics()
        return arrived

    def _take_the_floor(self, connection: Connection[Any], move: str) -> None:
        _run(connection, "lock_mark")
        mark = _mark(connection)
        if mark is None or mark.id != move or mark.arrived is not None:
            raise CannotMove(f"{self.name} does not wait for this move any more. Run the same command again")
        _run(connection, "lock_tables")
        if obstacles := [*self._occupied(connection)]:
            raise CannotMove("; ".join(obstacles))

    def _compare(self, connection: Connection[Any], sent: Mapping[str, Check], contents: Contents) -> None:
        there = {table.name: _show(connection, table) for table in TABLES}
        differences = [
            f"{table.full_name}: {sent[table.name].rows:,} rows were sent of {contents.rows[table.name]:,}, and "
            f"{there[table.name].rows:,} are there{_in_other_words(sent[table.name], there[table.name])}"
            for table in TABLES
            if sent[table.name] != there[table.name] or sent[table.name].rows != contents.rows[table.name]
        ]
        statuses = dict(_all(connection, "statuses"))
        if statuses != contents.statuses:
            differences.append(f"jobs by status: {dict(contents.statuses)} there, {statuses} here")
        if differences:
            raise CannotMove(
                f"what has arrived in {self.name} is not what was sent, so nothing was kept: {'; '.join(differences)}"
            )

    def _refresh_statistics(self) -> None:
        """Tell the planner what is there: nothing depends on it, but the first claims are sooner."""
        with suppress(SideworkError), self._in_our_words() as connection:
            _run(connection, "analyze")

    # ----------------------------------------------------------------------------------------------------- back

    def take_back(self, move: str, *, identity: str | None) -> None:
        """Empty the tables, if nobody has touched what arrived."""

        def give_up(connection: Connection[Any]) -> None:
            self._refuse_another_database(connection, identity)
            if not _has_mark(connection):
                return
            _run(connection, "lock_mark")
            mark = _mark(connection)
            if mark is not None and mark.id != move:
                return
            if mark is not None and mark.arrived is not None:
                _run(connection, "lock_tables")
                self._refuse_what_was_touched(connection, mark)
                _run(connection, "empty")
            _run(connection, "drop_mark")

        self._transaction(give_up)

    def _refuse_what_was_touched(self, connection: Connection[Any], mark: _Mark) -> None:
        checks = {} if mark.arrived is None else mark.arrived.checks
        touched = [table.full_name for table in TABLES if _show(connection, table) != checks.get(table.name)]
        if not touched and _one(connection, "last_job")[0] != mark.last_job:
            touched = ["the number of the last job: some have come and gone"]
        if touched:
            raise CannotMove(
                f"{self.name} has been used since the jobs arrived (changed: {', '.join(touched)}): going "
                "back now would lose or repeat what was done there. Nothing was changed"
            )

    # ----------------------------------------------------------------------------------------------- connections

    def _transaction(self, act: Callable[[Connection[Any]], T]) -> T:
        with self._in_our_words() as connection, connection.transaction():
            _run(connection, "begin_receiving", wait=f"{_LONGEST_WAIT}s")
            return act(connection)

    @contextmanager
    def _in_our_words(self) -> Iterator[Connection[Any]]:
        try:
            if self._kept is None or self._kept.closed:
                self._kept = self._address.connect()
            yield self._kept
        except psycopg.Error as error:
            self.disconnect()
            raise translate(error, self.name) from error


_KEEP_HIGHEST: Final = {"jobs": "keep_highest_job", "workers": "keep_highest_worker", "log": "keep_highest_log"}


def _take(connection: Connection[Any], table: Table, lines: Iterable[bytes]) -> Check:
    digest, count = hashlib.sha256(), 0
    with connection.cursor() as cursor, cursor.copy(_SQL[f"take_{table.name}"]) as copy:
        for some in lines:
            digest.update(some)
            count += some.count(b"\n")
            copy.write(some)
    return Check(count, digest.hexdigest())


def _show(connection: Connection[Any], table: Table) -> Check:
    digest, count = hashlib.sha256(), 0
    with connection.cursor() as cursor, cursor.copy(_SQL[f"show_{table.name}"]) as copy:
        for line in copy:
            digest.update(table.in_form(bytes(line)))
            count += 1
    return Check(count, digest.hexdigest())


def _in_other_words(sent: Check, there: Check) -> str:
    return "" if sent.checksum == there.checksum else ", and they differ"


def _has_mark(connection: Connection[Any]) -> bool:
    return bool(_one(connection, "has_mark")[0])


def _mark(connection: Connection[Any]) -> _Mark | None:
    found = _all(connection, "mark") if _has_mark(connection) else []
    if not found:
        return None
    move, source, begun_at, arrived_at, checks, last_job = found[0]
    arrived = None if arrived_at is None else Arrived(at=arrived_at, checks=_checks.decode(checks))
    return _Mark(move, source, begun_at, arrived, last_job)


def _run(connection: Connection[Any], statement: str, **parameters: object) -> None:
    connection.execute(_SQL[statement], parameters or None, prepare=False)


def _all(connection: Connection[Any], statement: str) -> list[tuple[Any, ...]]:
    return connection.execute(_SQL[statement], prepare=False).fetchall()


def _one(connection: Connection[Any], statement: str) -> tuple[Any, ...]:
    return _all(connection, statement)[0]
