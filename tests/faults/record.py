"""Writes down, statement by statement, the transactions that a real service and its application commit.

What is written down is replayed by `power_cut` on a disk that can be cut off: in a process of its own, because two
SQLite libraries must never use one file.
"""

from __future__ import annotations

import sqlite3
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
from tests.faults.history import Log
from tests.faults.observed import SPY
from tests.faults.points import name_of
from tests.faults.workload import Workload

import sidework.storage.sqlite
from sidework.storage.statements import load

if TYPE_CHECKING:
    from collections.abc import Sequence

_FOLDER: Final = Path(sidework.storage.sqlite.__file__).parent
_SETTINGS: Final = ("secure_delete", "journal_size_limit", "mmap_size", "cache_size")
ORDERS: Final = 400
DOCUMENT_BYTES: Final = 40_000
"""So large that the log is checkpointed, and begins anew, several times."""


class Recording(msgspec.Struct, kw_only=True):
    """What is replayed."""

    durabilities: dict[str, str]
    """'full' and 'relaxed' -> the statement that the library sets them by."""
    settings: list[str]
    transactions: list[list[tuple[str, Any]]]
    """Statements with their parameters, in the order of their commits."""


class Recorder:
    """Gathers the statements of each connection, and keeps them when they commit."""

    def __init__(self) -> None:
        self.transactions: list[list[tuple[str, Any]]] = []
        self._open: dict[int, list[tuple[str, Any]]] = {}
        self._lock = threading.Lock()

    def watch(self) -> None:
        """Begin."""
        SPY.before, SPY.after = self._before, self._after

    def _before(self, who: object, what: str, _with: object) -> None:
        # Before, not after: nobody can begin after this commit and be written down ahead of it.
        if name_of(what).startswith("COMMIT"):
            with self._lock:
                self.transactions.append(self._open.pop(id(who), []))

    def _after(self, who: object, what: str, parameters: object) -> None:
        name = name_of(what)
        if name == "BEGIN IMMEDIATE":
            self._open[id(who)] = []
        elif name == "ROLLBACK":
            self._open.pop(id(who), None)
        elif id(who) in self._open and isinstance(who, sqlite3.Connection) and not name.startswith("PRAGMA"):
            self._open[id(who)].append((what, parameters))


def main(arguments: Sequence[str]) -> None:
    """Record into the file named: FOLDER FILE."""
    folder, target = Path(arguments[0]), Path(arguments[1])
    recorder = Recorder()
    recorder.watch()
    log = Log(folder / "log")
    workload = Workload(folder / "app.db", log, seed=int(arguments[2]), document="d" * DOCUMENT_BYTES)
    workload.prepare()
    application = sqlite3.connect(folder / "app.db", isolation_level=None, factory=sqlite3.Connection)
    with workload.service:
        for _ in range(ORDERS):
            workload._place_one(application, workload.random.choice(("with", "back", "alone", "many")))
    workload.drain()
    connect = load(_FOLDER / "connect.sql")
    recording = Recording(
        durabilities={name: connect[name] for name in ("full", "relaxed")},
        settings=[connect["use_wal"], *(connect[name] for name in _SETTINGS)],
        transactions=[transaction for transaction in recorder.transactions if transaction],
    )
    target.write_bytes(msgspec.json.encode(recording))
    sys.stdout.write(f'{{"transactions": {len(recording.transactions)}}}\n')
