"""F12: the database file is moved, removed or replaced under a running program: it notices, and says so."""

from __future__ import annotations

import logging
import sqlite3
import threading
from contextlib import closing, suppress
from typing import TYPE_CHECKING

import pytest
from tests.storage.crew import NOON, Hand, ended, put

from sidework import BackgroundService
from sidework.errors import DatabaseUnavailable, WorkerLost
from sidework.storage.sqlite.store import SqliteStorage

if TYPE_CHECKING:
    from pathlib import Path


def move(path: Path) -> None:
    path.rename(path.with_name("elsewhere.db"))


def remove(path: Path) -> None:
    path.unlink()


def replace(path: Path) -> None:
    copy = path.with_name("copy.db")
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)
    copy.replace(path)


@pytest.mark.parametrize("misfortune", [move, remove, replace])
def test_nothing_is_acknowledged_into_a_file_that_nobody_finds_any_more(tmp_path: Path, misfortune):
    service = BackgroundService(tmp_path / "app.db")
    service.register_job_handler("k", lambda: None)
    service.enqueue("k")
    # In a thread: what sqlite3 opened there is closed there, and keeps no lock of the program's.
    worker = threading.Thread(target=misfortune, args=(tmp_path / "app.db",))
    worker.start()
    worker.join()
    with pytest.raises(DatabaseUnavailable, match="moved, removed or replaced"):
        service.enqueue("k")
    service.close()


@pytest.mark.parametrize("misfortune", [move, remove, replace])
def test_a_handlers_transaction_commits_nothing_into_a_file_that_nobody_finds_any_more(tmp_path: Path, misfortune):
    storage = SqliteStorage(tmp_path / "app.db")
    storage.migrate()
    hand = Hand(storage)
    put(storage)
    held = hand.claim_one()
    transaction = storage.transaction(held.claim)
    transaction.connection.execute("CREATE TABLE effects (n)")
    aside = threading.Thread(target=misfortune, args=(tmp_path / "app.db",))
    aside.start()
    aside.join()
    with pytest.raises(DatabaseUnavailable, match="moved, removed or replaced"):
        transaction.commit(ended(held), now=NOON)
    transaction.close()
    with suppress(DatabaseUnavailable):
        hand.seat.leave()
    if (where := tmp_path / ("elsewhere.db" if misfortune is move else "app.db")).exists():
        with closing(sqlite3.connect(where)) as connection:
            assert connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'effects'").fetchone() == (0,)
    storage.close()


@pytest.mark.parametrize("misfortune", [move, remove])
def test_a_worker_stops_loudly(tmp_path: Path, misfortune, monkeypatch: pytest.MonkeyPatch, caplog):
    monkeypatch.setattr("sidework.engine.worker.RENEW_INTERVAL", 0.2)
    caplog.set_level(logging.ERROR)
    service = BackgroundService(tmp_path / "app.db")
    service.register_job_handler("k", lambda: None)
    service.start()
    misfortune(tmp_path / "app.db")
    host = service._host
    assert host is not None
    host._thread.join(20)
    with pytest.raises(WorkerLost, match="removed or replaced"):
        service.stop()
    service.close()
