"""`sidework move`, through real processes."""

from __future__ import annotations

import json
import os
import pty
import sqlite3
import subprocess
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from tests.doors.shell import Shell, wait_until

from sidework import BackgroundService

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def target(postgres_database: str) -> str:
    return postgres_database


@pytest.fixture
def filled(service: BackgroundService) -> Iterator[BackgroundService]:
    """Two jobs that have ended, one that waits, in a file that nobody has open."""
    service.enqueue("greet", {"name": "ada"})
    service.enqueue("fail_often", {"token": "t"})
    service.run_until_idle()
    service.enqueue("greet", {"name": "later"}, delay=3600)
    service.close()
    yield service
    service.close()


def test_a_dry_run_says_what_would_be_moved_and_changes_nothing(
    shell: Shell, filled: BackgroundService, target: str
) -> None:
    said = shell.out("move", "app.db", target, "--dry-run")
    for words in ("3 jobs (1 COMPLETED, 1 FAILED, 1 SCHEDULED)", "next id     4", "in the way  nothing", "none is at"):
        assert words in said
    answer = shell.json("move", "app.db", target, "--dry-run")
    assert (answer["rows"]["jobs"], answer["in_the_way"], answer["stage"], answer["next_id"]) == (3, [], None, 4)
    assert shell.json("stats", "--database", "app.db")["SCHEDULED"] == 1
    assert "no tables" in shell.run("stats", "--database", target).stderr


def test_jobs_are_moved_and_the_file_says_where_they_are(shell: Shell, filled: BackgroundService, target: str) -> None:
    said = shell.out("move", "app.db", target, "--yes")
    assert "background_service_jobs           3" in said
    assert f"was moved: enqueue and work at {target}" in said
    assert shell.json("stats", "--database", target)["SCHEDULED"] == 1
    for words in (
        ["enqueue", "shop", "greet", '{"name": "x"}'],
        ["run", "shop", "--until-idle"],
        ["jobs", "-A", "shop"],
    ):
        ended = shell.run(*words)
        assert ended.returncode == 3, ended
        assert f"moved to {target}" in ended.stderr
        assert "Traceback" not in ended.stderr
    assert shell.json("move", "app.db", target)["already"] is True


def test_json_has_the_checksums(shell: Shell, filled: BackgroundService, target: str) -> None:
    answer = shell.json("move", "app.db", target, "--yes")
    assert answer["checks"]["jobs"]["rows"] == 3
    assert len(answer["checks"]["jobs"]["checksum"]) == 64
    assert (answer["next_id"], answer["already"]) == (4, False)


def test_what_is_in_the_way_is_listed_with_exit_code_1(shell: Shell, filled: BackgroundService, target: str) -> None:
    with closing(sqlite3.connect(shell.folder / "app.db", isolation_level=None)) as raw:
        raw.execute("UPDATE background_service_jobs SET payload = 'a' || char(0) WHERE id = 3")
    for words in (["--yes"], ["--dry-run"]):
        ended = shell.run("move", "app.db", target, *words)
        assert ended.returncode == 1
        assert "background_service_jobs.payload holds a NUL character: 1 row (3)" in ended.stdout + ended.stderr
    assert shell.run("move", "app.db", target, "--dry-run", "--json").returncode == 1
    assert shell.json("stats", "--database", "app.db")["SCHEDULED"] == 1


def test_nobody_is_asked_where_nobody_can_answer(shell: Shell, filled: BackgroundService, target: str) -> None:
    ended = shell.run("move", "app.db", target)
    assert ended.returncode == 2
    assert "3 jobs will be moved" in ended.stderr
    assert shell.json("stats", "--database", "app.db")["SCHEDULED"] == 1


@pytest.mark.parametrize(("answer", "code"), [("y\n", 0), ("n\n", 1)])
def test_a_person_is_asked_and_sees_a_bar(
    shell: Shell, filled: BackgroundService, target: str, answer: str, code: int
) -> None:
    master, terminal = pty.openpty()
    with os.fdopen(master, "r+b", buffering=0) as person, os.fdopen(terminal, "r+b", buffering=0) as tty:
        person.write(answer.encode())
        ended = subprocess.run(
            shell.command(("move", "app.db", target)),
            cwd=shell.folder,
            env=shell.environment({"TERM": "xterm"}),
            stdin=tty,
            stdout=subprocess.PIPE,
            stderr=tty,
            timeout=60,
            check=False,
        )
        seen = os.read(person.fileno(), 65536).decode()
    assert ended.returncode == code
    assert "3 jobs will be moved" in seen
    assert "checking" in seen
    assert ("copying" in seen) == (code == 0)


def test_going_back(shell: Shell, filled: BackgroundService, target: str) -> None:
    assert shell.run("move", "app.db", target, "--abort", "--yes").returncode == 1
    shell.out("move", "app.db", target, "--yes")
    assert shell.run("move", "app.db", target, "--abort").returncode == 2
    assert shell.json("move", "app.db", target, "--abort", "--yes") == {"aborted": True}
    assert shell.out("enqueue", "shop", "greet", '{"name": "x"}') == "4"
    shell.out("move", "app.db", target, "--yes")
    shell.out("cancel", 3, "--database", target)
    ended = shell.run("move", "app.db", target, "--abort", "--yes")
    assert ended.returncode == 1
    assert "has been used since" in ended.stderr


def test_names_that_cannot_be_are_a_wrong_usage(shell: Shell, filled: BackgroundService, target: str) -> None:
    for words in ([target, "app.db"], ["app.db", "other.db"], ["app.db"]):
        assert shell.run("move", *words, "--yes").returncode == 2


def test_a_database_that_cannot_be_reached_is_told_without_its_password(
    shell: Shell, filled: BackgroundService
) -> None:
    url = "postgresql://somebody:canary-secret@127.0.0.1:1/nowhere?connect_timeout=3"
    for words in (["--yes"], ["--dry-run"], ["--yes", "--json"]):
        ended = shell.run("move", "app.db", url, *words)
        assert ended.returncode == 3
        assert "127.0.0.1" in ended.stderr
        assert "canary-secret" not in ended.stdout + ended.stderr
    assert shell.run("move", "none.db", url, "--yes").returncode == 3


def test_the_password_is_not_kept_in_the_file(shell: Shell, filled: BackgroundService, target: str) -> None:
    secret = target.replace("sidework@", "sidework:canary-secret@")
    shell.out("move", "app.db", secret, "--yes")
    files = list(shell.folder.glob("app.db*"))
    assert len(files) > 1
    assert all(b"canary-secret" not in file.read_bytes() for file in files)


def test_a_running_worker_ends_its_job_and_stops(shell: Shell, filled: BackgroundService, target: str) -> None:
    filled.enqueue("wait_for", {"file": str(shell.folder / "go")})
    filled.close()
    with shell.running("run", "shop") as worker:
        worker.hear("wake-up")
        wait_until(shell.folder / "go.begun")
        ended = shell.run("move", "app.db", target, "--yes", "--grace", "0")
        assert ended.returncode == 1
        assert f"(process {worker.process.pid} on " in ended.stderr
        with shell.running("move", "app.db", target, "--yes", "--json") as mover:
            (shell.folder / "go").touch()
            code, said = mover.end()
        assert code == 0, said
        code, said = worker.end()
        assert code != 0
        assert f"moved to {target}" in said
    moved = json.loads(shell.out("show", 4, "--database", target, "--json"))
    assert (moved["status"], moved["result"]) == ("COMPLETED", "seen")
