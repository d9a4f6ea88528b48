"""Stands in for sqlite3's own classes in a process that is to be killed: every statement and lock is a named point.

`install` must run before anything of sidework is imported, because its classes are made from sqlite3's. Production code
needs no hooks this way.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

real_flock: Final = fcntl.flock
real_unlink: Final = os.unlink


class Spy:
    """What is told of each point, before and after it. One for the process."""

    def __init__(self) -> None:
        self.before: Callable[[object, str, object], None] = _say_nothing
        self.after: Callable[[object, str, object], None] = _say_nothing


def _say_nothing(_who: object, _what: str, _with: object) -> None:
    pass


SPY: Final = Spy()


class ObservedConnection(sqlite3.Connection):
    """A connection that tells."""

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        SPY.before(self, sql, parameters)
        cursor = super().execute(sql, parameters)
        SPY.after(self, sql, parameters)
        return cursor

    def commit(self) -> None:
        SPY.before(self, "COMMIT", ())
        super().commit()
        SPY.after(self, "COMMIT", ())


class ObservedCursor(sqlite3.Cursor):
    """A cursor that tells."""

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:  # type: ignore[override]
        SPY.before(self.connection, sql, parameters)
        cursor = super().execute(sql, parameters)
        SPY.after(self.connection, sql, parameters)
        return cursor


def install() -> None:
    """Let everything that is imported from now on be observed."""
    sqlite3.Connection = ObservedConnection  # type: ignore[misc]
    sqlite3.Cursor = ObservedCursor  # type: ignore[misc]
    fcntl.flock = _flock
    os.unlink = _unlink


def _flock(file: Any, operation: int) -> None:
    SPY.before(None, f"flock {operation}", ())
    real_flock(file, operation)
    SPY.after(None, f"flock {operation}", ())


def _unlink(path: Any, *, dir_fd: int | None = None) -> None:
    SPY.before(None, "unlink", ())
    real_unlink(path, dir_fd=dir_fd)
    SPY.after(None, "unlink", ())
