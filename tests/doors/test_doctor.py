"""`sidework doctor`, through real processes."""

from __future__ import annotations

import sqlite3
from contextlib import closing

from tests.doors.shell import Shell

from sidework import BackgroundService

DATABASE = ("--database", "app.db")


def test_a_well_system_is_a_yes(shell: Shell, service: BackgroundService) -> None:
    findings = {finding["subject"]: finding for finding in shell.lines("doctor", *DATABASE)}
    assert {"library", "journal mode", "durability", "integrity", "log", "tables", "workers", "ready jobs"} <= set(
        findings
    )
    assert all(finding["level"] != "ill" for finding in findings.values())
    assert sqlite3.sqlite_version in findings["library"]["text"]


def test_jobs_that_nobody_can_handle_are_a_no_with_a_remedy(shell: Shell, service: BackgroundService) -> None:
    shell.out("enqueue", "train_model", *DATABASE)
    ended = shell.run("doctor", *DATABASE)
    assert ended.returncode == 1
    assert "'train_model' (1)" in ended.stdout
    assert "sidework run" in ended.stdout


def test_a_database_without_tables_is_a_no_with_a_remedy(shell: Shell) -> None:
    with closing(sqlite3.connect(shell.folder / "app.db")) as db, db:
        db.execute("CREATE TABLE users (id)")
    ended = shell.run("doctor", *DATABASE)
    assert ended.returncode == 1
    assert "sidework migrate" in ended.stdout
