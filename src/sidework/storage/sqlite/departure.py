"""The SQLite side of a move: a file that lets its jobs go, and afterwards refuses to take any.

The file is closed by triggers, so that whoever writes is refused: our own code of whatever version, and programs in any
language that know nothing of us. A row of its own says which move it is and how far it has come.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from sidework.errors import CannotMove, DatabaseUnavailable
from sidework.storage.manifest import TABLES, Contents
from sidework.storage.sqlite import migrate, rows
from sidework.storage.sqlite.connect import connect, translate
from sidework.storage.sqlite.gate import WriteGate
from sidework.storage.sqlite.liveness import is_alive, lock_path
from sidework.storage.sqlite.lockfile import open_lock_file
from sidework.storage.sqlite.moved import words
from sidework.storage.statements import load
from sidework.storage.transfer import Mark, Stage

if TYPE_CHECKING:
    import io
    from collections.abc import Callable, Iterator, Sequence
    from datetime import datetime

    from sidework.model.job import WorkerInfo
    from sidework.storage.manifest import Row, Table

T = TypeVar("T")

_SQL: Final = load(Path(__file__).with_name("departure.sql"))
_AT_ONCE: Final = 50
"""Rows read at once: few, for each may have a payload of a megabyte."""

_GUARDS: Final = tuple(
    (f"background_service_move_{table}_{act.lower()}", act, f"background_service_{table}")
    for table, acts in {
        **{table.name: ("INSERT", "UPDATE", "DELETE") for table in TABLES},
        "workers": ("INSERT",),
    }.items()
    for act in acts
)
"""Name, act and table of each trigger that keeps a closed file closed."""

_OUR_OWN: Final = frozenset(
    {
        "idx_background_jobs_status_priority",
        "trg_background_service_jobs_updated_at",
        "background_service_jobs_suspects",
        "background_service_jobs_due",
        "background_service_jobs_running",
        "background_service_jobs_unique",
        "background_service_move_hold",
        *(name for name, _act, _table in _GUARDS),
    }
)


class SqliteDeparture:
    """A SQLite file whose jobs are to leave. Constructing it does no I/O."""

    def __init__(self, path: str | Path, *, wait: float = 10.0) -> None:
        """wait: seconds to wait for the write lock."""
        self._path = os.path.abspath(path)  # noqa: PTH100 - what a later chdir does must not move the database
        self._wait = wait
        self._gate = WriteGate(self._connect, wait=wait, path=self._path)

    @property
    def name(self) -> str:
        """The path of the file."""
        return self._path

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold a lock beside the file, which the kernel frees however this process ends."""
        file = self._open_lock()
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise CannotMove(f"another `sidework move` is at work on {self._path}; wait for its end") from error
            yield
        finally:
            file.close()

    def _open_lock(self) -> io.FileIO:
        real = Path(os.path.realpath(self._path))
        try:
            return open_lock_file(real.with_name(f"{real.name}.move.lock"), like=real.stat(), exclusively=False)
        except OSError as error:
            raise DatabaseUnavailable(f"{self._path} cannot be moved: {error}") from error

    def disconnect(self) -> None:
        """Close the connection that writes."""
        self._gate.close()

    # ---------------------------------------------------------------------------------------------------- looking

    def mark(self) -> Mark | None:
        """Return the move that was begun."""
        return self._read(_usable_mark)

    def contents(self) -> Contents:
        """Count everything, in one snapshot."""
        return self._read(_contents)

    def left_behind(self) -> Sequence[str]:
        """Name the indexes, triggers, views and references that others made."""
        found = self._read(lambda connection: connection.execute(_SQL["attached"]).fetchall())
        return [f"{kind} {name}" for kind, name in found if name not in _OUR_OWN and not name.startswith("sqlite_")]

    def lost_columns(self) -> Sequence[str]:
        """Name further columns of jobs that hold something."""
        return self._read(_lost_columns)

    def workers(self) -> Sequence[WorkerInfo]:
        """Return the workers whose lock is held."""
        return [worker for worker in self._read(self._all_workers) if worker.alive]

    def _all_workers(self, connection: sqlite3.Connection) -> list[WorkerInfo]:
        return [
            rows.worker(row, alive=is_alive(lock_path(self._path, row[1])))
            for row in connection.execute(_SQL["workers"])
        ]

    def rows(self, table: Table) -> Iterator[Sequence[Row]]:
        """Yield the rows in one snapshot. A text that is not UTF-8 comes with its bytes as lone surrogates."""
        connection = self._connect()
        try:
            connection.text_factory = _telling_text
            connection.execute(_SQL["begin_reading"])
            cursor = connection.execute(_SQL[f"rows_of_{table.name}"])
            while some := cursor.fetchmany(_AT_ONCE):
                yield some
        except sqlite3.Error as error:
            raise translate(error, self._path) from error
        finally:
            connection.close()

    # ---------------------------------------------------------------------------------------------------- leaving

    def begin(self, mark: Mark, *, hold_until: datetime) -> None:
        """Write the row and hold back claims."""
        self._write(lambda connection: _begin(connection, mark, rows.to_text(hold_until)))

    def hold(self, *, until: datetime) -> None:
        """Hold back claims for longer."""
        self._write(lambda connection: connection.execute(_SQL["hold"], {"until": rows.to_text(until)}))

    def close(self, *, identity: str) -> bool:
        """Guard every table, in the transaction that sees that no living worker runs a job."""
        return self._write(lambda connection: self._close(connection, identity))

    def _close(self, connection: sqlite3.Connection, identity: str) -> bool:
        living = [worker for worker in self._all_workers(connection) if worker.alive]
        if any(worker.running for worker in living):
            return False
        connection.execute(_SQL["unseat_workers"], {"living": rows.to_json([worker.id for worker in living])})
        connection.execute(_SQL["set_identity"], {"identity": identity})
        _set_stage(connection, Stage.CLOSED)
        return True

    def advance(self, stage: Stage) -> None:
        """Write down the stage, and say it to whoever writes."""
        self._write(lambda connection: _set_stage(connection, stage))

    def reopen(self) -> None:
        """Take away the row and every trigger."""
        self._write(_take_away)

    # ------------------------------------------------------------------------------------------------ connections

    def _connect(self) -> sqlite3.Connection:
        return connect(self._path, wait=self._wait)

    def _read(self, act: Callable[[sqlite3.Connection], T]) -> T:
        connection = self._connect()
        try:
            connection.text_factory = _telling_text
            connection.execute(_SQL["begin_reading"])
            return act(connection)
        except sqlite3.Error as error:
            raise translate(error, self._path) from error
        finally:
            connection.close()

    def _write(self, act: Callable[[sqlite3.Connection], T]) -> T:
        try:
            return self._gate.write(act)
        except sqlite3.Error as error:
            raise translate(error, self._path) from error


def _usable_mark(connection: sqlite3.Connection) -> Mark | None:
    migrate.check(connection, even_moved=True)
    if not connection.execute(_SQL["has_mark"]).fetchone()[0]:
        return None
    move, target, identity, stage, begun_at = connection.execute(_SQL["mark"]).fetchone()
    return Mark(id=move, target=target, identity=identity, stage=Stage(stage), begun_at=rows.from_text(begun_at))


def _contents(connection: sqlite3.Connection) -> Contents:
    jobs, workers, log = connection.execute(_SQL["highest_ids"]).fetchone()
    return Contents(
        rows={table.name: _count(connection, table) for table in TABLES},
        statuses=dict(connection.execute(_SQL["statuses"]).fetchall()),
        highest={"jobs": jobs, "workers": workers, "log": log},
    )


def _count(connection: sqlite3.Connection, table: Table) -> int:
    number: int = connection.execute(_SQL["count"].replace("/* table */", table.full_name)).fetchone()[0]
    return number


def _lost_columns(connection: sqlite3.Connection) -> list[str]:
    names = [name for (name,) in connection.execute(_SQL["columns"]) if name.lower() not in migrate.OUR_COLUMNS]
    counted = {name: connection.execute(_filled_rows(name)).fetchone()[0] for name in names}
    return [f"{name} ({count:,} rows)" for name, count in counted.items() if count]


def _filled_rows(column: str) -> str:
    return _SQL["filled_rows"].replace("/* column */", column.replace('"', '""'))


def _begin(connection: sqlite3.Connection, mark: Mark, hold_until: str) -> None:
    _take_away(connection)
    connection.execute(_SQL["create_mark"])
    values = {"id": mark.id, "target": mark.target, "stage": mark.stage.value}
    times = {"begun_at": rows.to_text(mark.begun_at), "hold_until": hold_until}
    connection.execute(_SQL["write_mark"], values | times)
    connection.execute(_SQL["create_hold"])


def _set_stage(connection: sqlite3.Connection, stage: Stage) -> None:
    connection.execute(_SQL["set_stage"], {"stage": stage.value})
    _move, target, *_rest = connection.execute(_SQL["mark"]).fetchone()
    _drop_guards(connection)
    for guard in _GUARDS:
        connection.execute(_guard(*guard, words(target, stage)))


def _guard(name: str, act: str, table: str, says: str) -> str:
    text = _SQL["create_guard"].replace("/* name */", name).replace("/* act */", act).replace("/* table */", table)
    return text.replace("/* words */", says.replace("'", "''"))


def _take_away(connection: sqlite3.Connection) -> None:
    connection.execute(_SQL["drop_hold"])
    _drop_guards(connection)
    connection.execute(_SQL["drop_mark"])


def _drop_guards(connection: sqlite3.Connection) -> None:
    for name, _act, _table in _GUARDS:
        connection.execute(_SQL["drop_guard"].replace("/* name */", name))


def _telling_text(raw: bytes) -> Any:
    return raw.decode(errors="surrogateescape")
