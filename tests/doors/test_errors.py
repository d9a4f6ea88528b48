"""What a person can get wrong ends with a message that says what to do, an exit code, and no traceback."""

from __future__ import annotations

import os
import sqlite3
import subprocess
from contextlib import closing

import pytest
from tests.doors.shell import Shell

from sidework import BackgroundService

DATABASE = ("--database", "app.db")


def refused(shell: Shell, *words: object, code: int) -> str:
    """Run a command that must fail with this code; return what it complained."""
    ended = shell.run(*words)
    assert ended.returncode == code, ended
    assert "Traceback" not in ended.stderr
    assert ended.stdout == ""
    return ended.stderr


LOOKS = [
    ["jobs"],
    ["show", 1],
    ["stats"],
    ["workers"],
    ["explain", 1],
    ["watch", 1],
    ["retry", 1],
    ["pause", "q"],
    ["doctor"],
]


@pytest.mark.parametrize("words", LOOKS, ids=lambda words: words[0])
def test_a_database_that_is_not_there_is_not_made(shell: Shell, words: list[object]) -> None:
    assert "there is no database at" in refused(shell, *words, *DATABASE, code=3)
    assert not (shell.folder / "app.db").exists()


@pytest.mark.parametrize("words", [["jobs"], ["enqueue", "greet"], ["migrate"], ["doctor"]], ids=lambda words: words[0])
def test_a_file_that_is_no_database(shell: Shell, words: list[object]) -> None:
    (shell.folder / "app.db").write_text("a letter to nobody in particular\n" * 50)
    assert "is not a SQLite database" in refused(shell, *words, *DATABASE, code=3)
    assert (shell.folder / "app.db").read_text().startswith("a letter")


def test_a_database_without_our_tables(shell: Shell) -> None:
    with closing(sqlite3.connect(shell.folder / "app.db")) as db, db:
        db.execute("CREATE TABLE users (id)")
    assert "sidework migrate" in refused(shell, "jobs", *DATABASE, code=3)
    shell.out("migrate", *DATABASE)
    assert shell.out("jobs", *DATABASE) == "no jobs"


def test_a_table_of_our_name_that_is_something_else(shell: Shell) -> None:
    with closing(sqlite3.connect(shell.folder / "app.db")) as db, db:
        db.execute("CREATE TABLE background_service_jobs (colour TEXT)")
    assert "background_service_jobs" in refused(shell, "migrate", *DATABASE, code=3)


@pytest.mark.parametrize("words", [["jobs"], ["enqueue", "greet"], ["migrate"]], ids=lambda words: words[0])
def test_a_newer_schema(shell: Shell, service: BackgroundService, words: list[object]) -> None:
    with closing(sqlite3.connect(shell.folder / "app.db")) as db, db:
        db.execute("UPDATE background_service_schema SET version = 99, readable_from = 99")
    assert "newer" in refused(shell, *words, *DATABASE, code=3)


def test_a_locked_database(shell: Shell, service: BackgroundService) -> None:
    (shell.folder / "hasty.py").write_text(
        "from sidework import BackgroundService\nservice = BackgroundService('app.db', wait=0.2)\n"
    )
    with closing(sqlite3.connect(shell.folder / "app.db", isolation_level=None)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        complaint = refused(shell, "pause", "mail", "--app", "hasty", code=3)
    assert "write lock" in complaint
    assert str(os.getpid()) in complaint


def test_a_read_only_database(shell: Shell, service: BackgroundService, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() == 0:  # root may write everything, unless it gives up that power
        powerless = ["setpriv", "--inh-caps=-all", "--bounding-set=-all"]
        command = shell.command
        monkeypatch.setattr(shell, "command", lambda words: [*powerless, *command(words)])
    (shell.folder / "app.db").chmod(0o400)
    assert "may not be written" in refused(shell, "pause", "mail", *DATABASE, code=3)


@pytest.mark.parametrize("url", ["mysql://user:hunter2@host/db", ":memory:", "oracle://x"])
def test_a_database_that_we_do_not_know(shell: Shell, url: str) -> None:
    assert "hunter2" not in refused(shell, "jobs", "--database", url, code=2)


def test_no_database_and_no_app(shell: Shell) -> None:
    complaint = refused(shell, "jobs", code=2)
    assert "--database" in complaint
    assert "SIDEWORK_APP" in complaint


@pytest.mark.parametrize(
    "words", [["show", 9], ["explain", 9], ["watch", 9], ["retry", 9], ["cancel", 9], ["delete", 9]]
)
def test_a_job_that_is_not_there_is_a_no(shell: Shell, service: BackgroundService, words: list[object]) -> None:
    assert "no job 9" in refused(shell, *words, *DATABASE, code=1)


@pytest.mark.parametrize(
    "words",
    [
        ["nonsense"],
        ["jobs", "--nonsense"],
        ["show"],
        ["show", "one"],
        ["jobs", "--limit", 0],
        ["jobs", "--status", "DONE"],
    ],
)
def test_a_command_that_does_not_exist(shell: Shell, service: BackgroundService, words: list[object]) -> None:
    ended = shell.run(*words, SIDEWORK_DATABASE="app.db")
    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr


def test_a_status_that_does_not_exist_names_those_that_do(shell: Shell, service: BackgroundService) -> None:
    assert "SCHEDULED" in refused(shell, "jobs", "--status", "DONE", *DATABASE, code=2)


@pytest.mark.parametrize(
    ("app", "said"),
    [
        ("nowhere", "no module 'nowhere'"),
        ("shop.py", "'shop.py' is a file; name its module: shop:service"),
        ("./shop.py:other", "name its module: shop:other"),
        ("shop/jobs", "name its module: shop.jobs:service"),
        ("nowhere.deeper:service", "no module 'nowhere.deeper'"),
        ("shop:nothing", "shop:nothing does not exist; write shop:service"),
        ("shop:sqlite3", "is a module, not a BackgroundService; write shop:service"),
        ("two", "several services in two; write two:first or two:second"),
        ("empty", "no BackgroundService in empty"),
        ("broken", "ZeroDivisionError"),
        ("needy", "no_such_package"),
        ("unparsable", "SyntaxError"),
        ("same_twice", "already"),
    ],
)
def test_an_app_that_cannot_be_loaded(shell: Shell, app: str, said: str) -> None:
    modules = {
        "two": (
            "from sidework import BackgroundService\n"
            "first = BackgroundService('a.db')\nsecond = BackgroundService('b.db')\n"
        ),
        "empty": "",
        "broken": "\n\n1 / 0\n",
        "needy": "import no_such_package\n",
        "unparsable": "def (:\n",
        "same_twice": (
            "from sidework import BackgroundService\nservice = BackgroundService('a.db')\n"
            "@service.handler('mail')\ndef one(): ...\n@service.handler('mail')\ndef two(): ...\n"
        ),
    }
    for name, text in modules.items():
        (shell.folder / f"{name}.py").write_text(text)
    assert said in refused(shell, "handlers", app, code=2)


def test_an_import_that_fails_says_where(shell: Shell) -> None:
    (shell.folder / "broken.py").write_text("\n\n1 / 0\n")
    assert f"{shell.folder / 'broken.py'}, line 3" in refused(shell, "run", "broken", code=2)


@pytest.mark.parametrize("words", [["run"], ["handlers"]])
def test_no_app(shell: Shell, words: list[object]) -> None:
    assert "SIDEWORK_APP" in refused(shell, *words, code=2)


@pytest.mark.parametrize("words", [["run"], ["handlers"]])
def test_an_app_without_handlers(shell: Shell, words: list[object]) -> None:
    (shell.folder / "bare.py").write_text(
        "from sidework import BackgroundService\nservice = BackgroundService('a.db')\n"
    )
    assert "@service.handler" in refused(shell, *words, "bare", code=2)


def test_a_reader_that_has_seen_enough_is_no_error(shell: Shell, service: BackgroundService) -> None:
    service.enqueue_many([("greet", {"name": "x" * 200})] * 1000)
    command = " ".join(shell.command(("jobs", "--json", "--limit", 1000, *DATABASE)))
    ended = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f"{command} | head -1"],
        cwd=shell.folder,
        env=shell.environment({}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert len(ended.stdout.splitlines()) == 1
    assert ended.stderr == ""
