"""A backup made while jobs run is a database that goes on by itself, wherever it is restored."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from typing import TYPE_CHECKING

from sidework import BackgroundService

if TYPE_CHECKING:
    from pathlib import Path

LONGEST = 30.0


def test_what_ran_at_the_time_of_a_backup_runs_again_where_it_is_restored(tmp_path: Path):
    path, elsewhere = tmp_path / "app.db", tmp_path / "restored" / "app.db"
    elsewhere.parent.mkdir()
    running, may_end = threading.Event(), threading.Event()

    def run() -> None:
        running.set()
        may_end.wait(LONGEST)

    original = BackgroundService(path)
    original.register_job_handler("k", run)
    with original:
        held = original.enqueue("k")
        waiting = original.enqueue("k", delay=3600)
        assert running.wait(LONGEST)
        with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(elsewhere)) as target:
            source.backup(target)
        restored = BackgroundService(elsewhere)
        restored.register_job_handler("k", lambda: None)
        with restored:
            ended = restored.wait(held, LONGEST)
            assert (ended.status, ended.crashes) == ("COMPLETED", 1)
            assert restored.jobs.get(waiting).status == "SCHEDULED"
        assert original.jobs.get(held).status == "RUNNING"
        may_end.set()
        assert original.wait(held, LONGEST).status == "COMPLETED"
