"""The demo on a small folder: with kills, without, with the fence taken out, interrupted and gone on with."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.doors.shell import LONGEST, Shell

from sidework import BackgroundJobManager, DatabaseUnavailable, JobStatus

FILES = 40
SLOW = ("--pace", 0.25)
"""Forty files on four slots: about three seconds, and nearly every moment of a job is the pause."""


@pytest.fixture
def folder(shell: Shell) -> Path:
    """Forty files of Python, one that is none, one that is not text, and some that are not looked at."""
    folder = shell.folder / "project"
    for number in range(FILES):
        path = folder / f"part{number % 4}" / f"module{number}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'import os\nfrom . import module{number}\n\nNAME = "Grüße {number}"\n' + "x = 1\n" * number)
    (folder / "broken.py").write_text("def (:\n")
    (folder / "picture.bin").write_bytes(b"\x89PNG\x00\x00")
    (folder / "notes.txt").write_text("three plain words\n")
    (folder / ".git").mkdir()
    (folder / ".git" / "config").write_text("not looked at")
    return folder


def demo(shell: Shell, *words: object, code: int = 0) -> Any:
    """Run the demo to its end; return what it reports."""
    ended = shell.run("demo", *words, "--json", TMPDIR=str(shell.folder))
    assert ended.returncode == code, ended
    return json.loads(ended.stdout)


def test_with_kills_every_file_is_counted_exactly_once(shell: Shell, folder: Path) -> None:
    report = demo(shell, folder, *SLOW)
    assert report["equal"] is True
    assert report["kills"] >= 1
    assert report["crashes"] >= 1
    assert report["by_jobs"] == report["recounted"]
    assert report["by_jobs"]["files"] == FILES + 1
    assert report["jobs"] == FILES + 3


def test_without_the_fence_the_same_kills_make_it_count_twice(shell: Shell, folder: Path) -> None:
    report = demo(shell, folder, "--without-fence", *SLOW, code=1)
    assert report["equal"] is False
    assert report["kills"] >= 1
    assert report["by_jobs"]["files"] > report["recounted"]["files"]
    assert report["by_jobs"]["words"] > report["recounted"]["words"]


def test_calm_kills_nobody(shell: Shell, folder: Path) -> None:
    report = demo(shell, folder, "--calm", "--pace", 0)
    assert (report["equal"], report["kills"], report["crashes"]) == (True, 0, 0)


def test_files_that_cannot_be_read_say_why(shell: Shell, folder: Path) -> None:
    if os.getuid() != 0:
        (folder / "secret.txt").touch(mode=0)
    reasons = dict(demo(shell, folder, "--calm", "--pace", 0)["failed"])
    assert "invalid syntax" in reasons["broken.py"]
    assert reasons["picture.bin"] == "binary, not text"
    assert os.getuid() == 0 or "Permission" in reasons["secret.txt"]


def test_the_totals_are_those_of_the_files(shell: Shell, folder: Path) -> None:
    totals = demo(shell, folder, "--calm", "--pace", 0)["by_jobs"]
    texts = [path.read_text() for path in folder.glob("part*/*.py")] + [(folder / "notes.txt").read_text()]
    assert totals["lines"] == sum(text.count("\n") for text in texts)
    assert totals["imports"] == 2 * FILES


def test_people_are_shown_both_counts_and_a_search(shell: Shell, folder: Path) -> None:
    printed = shell.out("demo", folder, "--calm", "--pace", 0, "--search", "plain", TMPDIR=str(shell.folder))
    assert "by the jobs" in printed
    assert "recounted" in printed
    assert "search for 'plain' in the index: 1 files: notes.txt" in printed
    assert "2 files could not be read and say why" in printed
    assert "equal to the last word" in printed
    assert "\x1b" not in printed


def test_the_control_says_how_much_was_counted_twice(shell: Shell, folder: Path) -> None:
    ended = shell.run("demo", folder, "--without-fence", *SLOW, TMPDIR=str(shell.folder))
    assert ended.returncode == 1
    assert "NOT EQUAL" in ended.stdout
    assert "times too often" in ended.stdout


def test_ctrl_c_and_the_same_command_again_goes_on(shell: Shell, folder: Path) -> None:
    words = ("demo", folder, "--database", "demo.db")
    with shell.running(*words, *SLOW) as running:
        running.hear("database:")
        wait_for_jobs(shell.folder / "demo.db", lambda done: done >= 3)
        running.process.send_signal(signal.SIGINT)
        code, said = running.end()
    assert code == 130
    assert "goes on" in said
    assert "Traceback" not in said
    before = completed(shell.folder / "demo.db")
    assert 3 <= before < FILES

    ended = shell.run(*words, "--pace", 0, "--calm")
    assert ended.returncode == 0, ended
    assert "going on with the run" in ended.stdout
    assert "equal to the last word" in ended.stdout
    assert f"{FILES + 3} jobs" in ended.stdout


def test_a_killed_demo_goes_on_and_its_workers_end_with_it(shell: Shell, folder: Path) -> None:
    words = ("demo", folder, "--database", "demo.db")
    with shell.running(*words, *SLOW) as running:
        running.hear("database:")
        wait_for_jobs(shell.folder / "demo.db", lambda done: done >= 1)
        running.process.kill()
        running.process.wait()
    wait_until(lambda: not any(worker.alive for worker in BackgroundJobManager(shell.folder / "demo.db").workers()))
    assert demo(shell, folder, "--database", "demo.db", "--pace", 0, "--calm")["equal"] is True


def test_fresh_begins_anew(shell: Shell, folder: Path) -> None:
    words = ("demo", folder, "--database", "demo.db")
    with shell.running(*words, *SLOW) as running:
        running.hear("database:")
        wait_for_jobs(shell.folder / "demo.db", lambda done: done >= 1)
        running.process.send_signal(signal.SIGINT)
        running.end()
    ended = shell.run(*words, "--fresh", "--calm", "--pace", 0)
    assert ended.returncode == 0
    assert "going on" not in ended.stdout


def test_a_run_of_something_else_is_not_gone_on_with(shell: Shell, folder: Path) -> None:
    with shell.running("demo", folder, "--database", "demo.db", *SLOW) as running:
        running.hear("database:")
        wait_for_jobs(shell.folder / "demo.db", lambda done: done >= 1)
        running.process.send_signal(signal.SIGINT)
        running.end()
    ended = shell.run("demo", folder / "part1", "--database", "demo.db")
    assert ended.returncode == 2
    assert "--fresh" in ended.stderr


def test_a_run_that_was_stopped_before_it_began_is_no_hindrance(shell: Shell, folder: Path) -> None:
    shell.out("migrate", "--database", "demo.db")
    assert demo(shell, folder, "--database", "demo.db", "--calm", "--pace", 0)["equal"] is True


def test_somebody_elses_jobs_are_left_alone(shell: Shell, folder: Path) -> None:
    job_id = shell.json("enqueue", "anything", "--database", "queue.db")["id"]
    assert shell.run("demo", folder, "--database", "queue.db", "--fresh").returncode == 2
    assert shell.json("show", job_id, "--database", "queue.db")["status"] == "PENDING"


@pytest.mark.parametrize("words", [[], ["--fresh"]])
def test_somebody_elses_database_is_left_alone(shell: Shell, folder: Path, words: list[str]) -> None:
    with closing(sqlite3.connect(shell.folder / "app.db")) as db, db:
        db.execute("CREATE TABLE users (id)")
    ended = shell.run("demo", folder, "--database", "app.db", *words)
    assert ended.returncode == 2
    assert "something else" in ended.stderr
    with closing(sqlite3.connect(shell.folder / "app.db")) as db:
        assert db.execute("SELECT name FROM sqlite_schema").fetchall() == [("users",)]


def test_a_second_demo_in_the_same_place_is_refused(shell: Shell, folder: Path) -> None:
    with shell.running("demo", folder, "--database", "demo.db", *SLOW) as running:
        running.hear("database:")
        ended = shell.run("demo", folder, "--database", "demo.db")
    assert ended.returncode == 2
    assert "another demo" in ended.stderr


def test_a_database_of_ones_own_stays_and_the_demos_own_is_removed(shell: Shell, folder: Path) -> None:
    demo(shell, folder, "--calm", "--pace", 0)
    assert list(shell.folder.glob("sidework-demo-*")) == []
    demo(shell, folder, "--calm", "--pace", 0, "--database", "demo.db")
    assert shell.json("stats", "--database", "demo.db")["COMPLETED"] == FILES + 1


def test_a_folder_that_is_not_there_is_refused(shell: Shell) -> None:
    ended = shell.run("demo", "nowhere")
    assert ended.returncode == 2
    assert "nowhere is not a folder" in ended.stderr


def completed(database: Path) -> int:
    try:
        return BackgroundJobManager(database).counts()[JobStatus.COMPLETED]
    except DatabaseUnavailable:
        return 0  # it is only just being made


def wait_for_jobs(database: Path, enough: Callable[[int], bool]) -> None:
    wait_until(lambda: enough(completed(database)))


def wait_until(condition: Callable[[], bool]) -> None:
    """Look again and again until it holds."""
    for _ in range(int(LONGEST / 0.05)):
        if condition():
            return
        threading.Event().wait(0.05)
    raise AssertionError("it never came true")
