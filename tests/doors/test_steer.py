"""Commands that steer, through real processes."""

from __future__ import annotations

import os
import pty
import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest
from tests.doors.shell import Shell

from sidework import BackgroundService

DATABASE = ("--database", "app.db")


@pytest.fixture
def failed(service: BackgroundService) -> BackgroundService:
    """Three jobs that failed, and one that waits."""
    for _ in range(3):
        service.enqueue("fail_often")
    service.run_until_idle()
    service.enqueue("greet", {"name": "ada"})
    return service


def statuses(service: BackgroundService) -> list[str]:
    return [str(job.status) for job in service.jobs.list(newest_first=False)]


def test_retry_makes_failed_jobs_ready(shell: Shell, failed: BackgroundService) -> None:
    assert shell.json("retry", 1, 3, *DATABASE) == {"retried": [1, 3], "left_alone": {}}
    assert statuses(failed) == ["PENDING", "FAILED", "PENDING", "PENDING"]


def test_what_was_left_alone_is_told_with_exit_code_1(shell: Shell, failed: BackgroundService) -> None:
    ended = shell.run("retry", 1, 4, 99, *DATABASE)
    assert ended.returncode == 1
    assert "job 1 retried" in ended.stdout
    assert "job 4 was not retried: it is PENDING" in ended.stderr
    assert "no job 99" in ended.stderr
    assert statuses(failed)[0] == "PENDING"


def test_cancel_ends_a_waiting_job(shell: Shell, failed: BackgroundService) -> None:
    assert shell.out("cancel", 4, *DATABASE) == "job 4 cancelled"
    assert statuses(failed)[3] == "CANCELLED"


def test_delete_removes_a_job(shell: Shell, failed: BackgroundService) -> None:
    assert shell.json("delete", 2, *DATABASE) == {"deleted": [2], "left_alone": {}}
    assert [job.id for job in failed.jobs.list(newest_first=False)] == [1, 3, 4]


def test_set_priority_changes_waiting_jobs_only(shell: Shell, failed: BackgroundService) -> None:
    ended = shell.run("set-priority", 4, 1, "--priority", "-7", *DATABASE)
    assert ended.returncode == 1
    assert [job.priority for job in failed.jobs.list(newest_first=False)] == [0, 0, 0, -7]


def test_conditions_mean_many(shell: Shell, failed: BackgroundService) -> None:
    assert shell.json("retry", "--key", "fail_often", "--yes", *DATABASE) == {"retried": 3}
    assert statuses(failed) == ["PENDING"] * 4
    assert shell.out("cancel", "--status", "PENDING", "--yes", *DATABASE) == "4 jobs cancelled"
    assert statuses(failed) == ["CANCELLED"] * 4
    assert shell.json("delete", "--queue", "default", "--yes", *DATABASE) == {"deleted": 4}


def test_bulk_delete_spares_what_has_not_ended_unless_it_is_named(shell: Shell, failed: BackgroundService) -> None:
    assert shell.json("delete", "--queue", "default", "--yes", *DATABASE) == {"deleted": 3}
    assert statuses(failed) == ["PENDING"]
    assert shell.json("delete", "--status", "pending", "--yes", *DATABASE) == {"deleted": 1}


def test_older_than_spares_the_young(shell: Shell, failed: BackgroundService) -> None:
    make_older(shell, 2, hours=3)
    assert shell.json("retry", "--older-than", "2h", "--yes", *DATABASE) == {"retried": 1}
    assert statuses(failed) == ["FAILED", "PENDING", "FAILED", "PENDING"]


def test_a_dry_run_changes_nothing(shell: Shell, failed: BackgroundService) -> None:
    before = statuses(failed)
    assert shell.out("retry", "--status", "FAILED", "--dry-run", *DATABASE) == "3 jobs would be retried"
    assert shell.json("delete", 1, "--dry-run", *DATABASE) == {"would_be_deleted": 1}
    assert statuses(failed) == before


def test_nobody_is_asked_where_nobody_can_answer(shell: Shell, failed: BackgroundService) -> None:
    ended = shell.run("retry", "--status", "FAILED", *DATABASE)
    assert ended.returncode == 2
    assert "3 jobs" in ended.stderr
    assert "--yes" in ended.stderr
    assert statuses(failed).count("FAILED") == 3


CTRL_D = "\x04"
INTERRUPTED = "import builtins; builtins.input = lambda _: signal.raise_signal(signal.SIGINT)"
"""A person who presses Ctrl-C when the question is there, and not a moment before."""


@pytest.mark.parametrize(("answer", "code", "left"), [("y\n", 0, 0), ("n\n", 1, 3), ("\n", 1, 3), (CTRL_D, 1, 3)])
def test_a_person_is_asked(shell: Shell, failed: BackgroundService, answer: str, code: int, left: int) -> None:
    ended = run_at_a_terminal(shell, shell.command(("retry", "--status", "FAILED", *DATABASE)), typed=answer)
    assert "3 jobs will be retried" in ended.stderr
    assert ("nothing was done" in ended.stderr) == (answer == CTRL_D)
    assert ended.returncode == code
    assert statuses(failed).count("FAILED") == left


def test_a_person_may_interrupt_the_question(shell: Shell, failed: BackgroundService) -> None:
    program = f"import signal; {INTERRUPTED}; from sidework.cli import main; main()"
    command = [sys.executable, "-c", program, "retry", "--status", "FAILED", *DATABASE]
    ended = run_at_a_terminal(shell, command, typed="")
    assert (ended.returncode, "Traceback" in ended.stderr) == (130, False)
    assert statuses(failed).count("FAILED") == 3


def run_at_a_terminal(shell: Shell, command: list[str], *, typed: str) -> subprocess.CompletedProcess[str]:
    master, terminal = pty.openpty()
    with os.fdopen(master, "wb", buffering=0) as keyboard, os.fdopen(terminal, "rb") as tty:
        keyboard.write(typed.encode())
        return subprocess.run(
            command,
            cwd=shell.folder,
            env=shell.environment({}),
            stdin=tty,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


@pytest.mark.parametrize("words", [["retry"], ["cancel"], ["delete"], ["set-priority", "--priority", "1"]])
def test_no_job_and_no_condition_is_refused(shell: Shell, failed: BackgroundService, words: list[str]) -> None:
    ended = shell.run(*words, "--yes", *DATABASE)
    assert ended.returncode == 2
    assert "--status" in ended.stderr


def test_numbers_and_conditions_together_are_refused(shell: Shell, failed: BackgroundService) -> None:
    assert shell.run("delete", 1, "--key", "fail_often", "--yes", *DATABASE).returncode == 2
    assert len(statuses(failed)) == 4


def test_prune_deletes_what_ended_long_ago(shell: Shell, failed: BackgroundService) -> None:
    make_older(shell, 1, hours=24 * 31)
    make_older(shell, 2, hours=24 * 29)
    make_older(shell, 4, hours=24 * 365)
    assert shell.json("prune", "--dry-run", *DATABASE) == {"would_be_deleted": 1}
    assert len(statuses(failed)) == 4
    assert shell.json("prune", "--yes", *DATABASE) == {"deleted": 1}
    assert [job.id for job in failed.jobs.list(newest_first=False)] == [2, 3, 4]


def test_prune_takes_an_age_and_a_key(shell: Shell, failed: BackgroundService) -> None:
    make_older(shell, 1, hours=2)
    make_older(shell, 2, hours=2)
    assert shell.json("prune", "--older-than", "1h", "--key", "other", "--yes", *DATABASE) == {"deleted": 0}
    assert shell.json("prune", "--older-than", "1h", "--status", "COMPLETED", "--yes", *DATABASE) == {"deleted": 0}
    assert shell.json("prune", "--older-than", "1h", "--key", "fail_often", "--yes", *DATABASE) == {"deleted": 2}


def test_prune_refuses_a_status_that_is_no_end(shell: Shell, failed: BackgroundService) -> None:
    ended = shell.run("prune", "--status", "PENDING", "--yes", *DATABASE)
    assert ended.returncode == 2
    assert "PENDING" in ended.stderr


def test_pause_and_resume_a_queue(shell: Shell, service: BackgroundService) -> None:
    service.enqueue("greet", {"name": "ada"}, queue="mail")
    assert shell.json("pause", "mail", *DATABASE) == {"queue": "mail", "paused": True}
    assert service.jobs.explain(1).runs is False
    assert shell.out("resume", "mail", *DATABASE) == "queue mail is going on"
    service.run_until_idle()
    assert statuses(service) == ["COMPLETED"]


def make_older(shell: Shell, job_id: int, *, hours: float) -> None:
    with closing(sqlite3.connect(shell.folder / "app.db")) as db, db:
        db.execute(
            "UPDATE background_service_jobs SET created_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now', :back),"
            " updated_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now', :back),"
            " finished_at = CASE WHEN finished_at IS NOT NULL THEN strftime('%Y-%m-%dT%H:%M:%fZ', 'now', :back) END"
            " WHERE id = :id",
            {"back": f"-{hours} hours", "id": job_id},
        )
