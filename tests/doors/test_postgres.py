"""The command line on a PostgreSQL database: the same commands, another address."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from sidework import BackgroundService

if TYPE_CHECKING:
    from tests.doors.shell import Shell

CLOSED = "postgresql://somebody:canary-secret@127.0.0.1:1/nowhere?connect_timeout=3"


def move_shop(shell: Shell, url: str) -> None:
    """Let the shop work on another database."""
    shop = shell.folder / "shop.py"
    shop.write_text(shop.read_text().replace('"app.db"', repr(url)))


def test_a_job_goes_its_whole_way(shell: Shell, postgres_database: str) -> None:
    move_shop(shell, postgres_database)
    assert shell.out("enqueue", "shop", "greet", '{"name": "you"}') == "1"
    shell.out("enqueue", "shop", "fail_often")
    shell.out("run", "shop", "--until-idle")
    shown = shell.json("show", 1, "--database", postgres_database)
    assert (shown["status"], shown["result"]) == ("COMPLETED", "hello you")
    assert shell.json("stats", "--database", postgres_database)["FAILED"] == 1
    shell.out("retry", 2, "--database", postgres_database)
    (waiting,) = shell.lines("jobs", "--status", "PENDING", "--database", postgres_database)
    assert waiting["id"] == 2
    assert "No worker is alive" in shell.out("explain", 2, "--database", postgres_database)
    shell.out("cancel", 2, "--database", postgres_database)
    shell.out("delete", 2, "--yes", "--database", postgres_database)
    assert not (shell.folder / "app.db").exists()


def test_run_says_what_it_works_with(shell: Shell, postgres_database: str) -> None:
    move_shop(shell, postgres_database)
    told = shell.run("run", "shop", "--until-idle")
    assert "LISTEN/NOTIFY" in told.stdout + told.stderr
    assert "synchronous_commit=on" in told.stdout + told.stderr


def test_the_doctor_looks_at_the_server(shell: Shell, postgres_database: str) -> None:
    ended = shell.run("doctor", "--database", postgres_database, "--json")
    assert "sidework migrate" in ended.stdout
    BackgroundService(postgres_database).migrate()
    ended = shell.run("doctor", "--database", postgres_database, "--json")
    subjects = {json.loads(line)["subject"] for line in ended.stdout.splitlines()}
    assert {"server", "durability", "clock", "tables", "indexes", "dead rows", "oldest transaction"} <= subjects


def test_a_server_that_cannot_be_reached_is_told_without_a_traceback_or_a_password(shell: Shell) -> None:
    ended = shell.run("stats", "--database", CLOSED)
    assert ended.returncode == 3
    assert "127.0.0.1" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert "canary-secret" not in ended.stdout + ended.stderr
