"""Every connection is opened in one way, and what can go wrong with a file is said in words."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sidework.errors import DatabaseBusy, DatabaseMissing, DatabaseUnavailable, NotMigrated
from sidework.storage.sqlite import connect as connect_module
from sidework.storage.sqlite.connect import (
    Durability,
    connect,
    is_busy,
    is_mounted_alone,
    refuse_old_sqlite,
    translate,
    use_wal,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

AS_NOBODY = """
import os, sys
from sidework.storage.sqlite.connect import connect
if os.geteuid() == 0:
    os.setuid(65534)
try:
    connection = connect(sys.argv[1], create="create" in sys.argv, readonly="readonly" in sys.argv)
    print("opened", connection.execute("SELECT x FROM t").fetchall())
except Exception as error:
    print(f"{type(error).__name__}: {error}")
"""
MOUNTED_ALONE = """
mount --bind "$1" "$1" && exec "$2" -c '
import sys
from sidework.storage.sqlite.connect import connect
try:
    connect(sys.argv[1])
except Exception as error:
    print(f"{type(error).__name__}: {error}")
' "$1"
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with closing(connect(tmp_path / "app.db", create=True)) as connection:
        connection.execute("CREATE TABLE t (x)")
        connection.execute("INSERT INTO t VALUES (1)")
    return tmp_path / "app.db"


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that every user of the machine may look into."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)


def as_nobody(path: Path, *how: str) -> str:
    command = [sys.executable, "-c", AS_NOBODY, str(path), *how]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def failure(statement: str, connection: sqlite3.Connection) -> sqlite3.Error:
    with pytest.raises(sqlite3.Error) as caught:
        connection.execute(statement)
    return caught.value


@pytest.mark.parametrize(("durability", "synchronous"), [("full", 2), ("relaxed", 1)])
def test_every_connection_has_the_same_settings(path: Path, durability: Durability, synchronous: int) -> None:
    with closing(connect(path, durability=durability, wait=2.5)) as connection:
        expected = {
            "busy_timeout": 2500,
            "synchronous": synchronous,
            "secure_delete": 2,
            "journal_size_limit": 8 * 1024 * 1024,
            "mmap_size": 0,
            "cache_size": -8000,
            "query_only": 0,
        }
        assert {name: connection.execute(f"PRAGMA {name}").fetchone()[0] for name in expected} == expected
        assert connection.isolation_level is None


def test_foreign_keys_stay_as_the_library_has_them(path: Path) -> None:
    with closing(connect(path)) as ours, closing(sqlite3.connect(path)) as plain:
        pragma = "PRAGMA foreign_keys"
        assert ours.execute(pragma).fetchone() == plain.execute(pragma).fetchone()


def test_a_connection_may_be_used_by_another_thread(path: Path) -> None:
    rows: list[object] = []
    with closing(connect(path)) as connection:
        thread = threading.Thread(target=lambda: rows.extend(connection.execute("SELECT x FROM t")))
        thread.start()
        thread.join()
    assert rows == [(1,)]


def test_a_connection_is_of_the_class_asked_for_even_if_it_guards_its_methods(path: Path) -> None:
    class Guarded(sqlite3.Connection):
        def execute(self, sql: str, parameters: object = ()) -> sqlite3.Cursor:
            raise AssertionError(f"only the handler may call this: {sql} {parameters}")

    with closing(connect(path, factory=Guarded)) as connection:
        assert type(connection) is Guarded


def test_a_missing_file_is_an_error_and_is_not_created(tmp_path: Path) -> None:
    with pytest.raises(DatabaseMissing, match=r"no database at .*app\.db.*sidework migrate"):
        connect(tmp_path / "app.db")
    with pytest.raises(DatabaseMissing, match=r"folder .*nowhere does not exist"):
        connect(tmp_path / "nowhere" / "app.db", create=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("by_linking", [False, True])
def test_a_new_file_belongs_to_its_owner_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, by_linking: bool
) -> None:
    if by_linking:

        def refused(path: Path, mode: int) -> None:
            raise PermissionError(1, "only root may")

        monkeypatch.setattr(os, "mknod", refused)
    before = os.umask(0)
    try:
        with closing(connect(tmp_path / "app.db", create=True)) as connection:
            use_wal(connection, tmp_path / "app.db", wait=1.0)
            connection.execute("CREATE TABLE t (x)")
            modes = {file.name: file.stat().st_mode & 0o777 for file in tmp_path.iterdir()}
    finally:
        os.umask(before)
    assert modes == {"app.db": 0o600, "app.db-wal": 0o600, "app.db-shm": 0o600}


def test_creating_what_is_there_opens_it(path: Path) -> None:
    path.chmod(0o640)
    with closing(connect(path, create=True)) as connection:
        assert connection.execute("SELECT x FROM t").fetchall() == [(1,)]
    assert path.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("name", ["a b?c#d%20.db", "ä&mode=ro.db", os.fsdecode(b"\xff\xfe.db")])
def test_any_name_is_a_name_and_not_part_of_an_address(tmp_path: Path, name: str) -> None:
    with closing(connect(tmp_path / name, create=True)) as connection:
        connection.execute("CREATE TABLE t (x)")
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_a_link_opens_the_file_where_it_is(path: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "elsewhere" / "link.db"
    link.symlink_to(path)
    with closing(connect(link)) as connection:
        use_wal(connection, link, wait=1.0)
        connection.execute("INSERT INTO t VALUES (2)")
        assert [file.name for file in (tmp_path / "elsewhere").iterdir()] == ["link.db"]
        assert path.with_name("app.db-wal").exists()


def test_a_readonly_connection_reads_and_refuses_to_write(path: Path) -> None:
    with closing(connect(path, readonly=True)) as connection:
        assert connection.execute("SELECT x FROM t").fetchall() == [(1,)]
        error = failure("INSERT INTO t VALUES (2)", connection)
        assert isinstance(translate(error, path), DatabaseUnavailable)


def test_what_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not a database, but long enough to have had a header " * 10)
    with pytest.raises(DatabaseUnavailable, match=r"notes\.txt is not a SQLite database"):
        connect(tmp_path / "notes.txt")
    with pytest.raises(DatabaseUnavailable, match=r"is a folder.*app\.db"):
        connect(tmp_path, create=True)
    with pytest.raises(DatabaseMissing):
        connect(tmp_path / "notes.txt" / "app.db")


def test_a_file_that_this_user_may_not_use_says_whose_mode_to_change(folder: Path) -> None:
    path = folder / "app.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE t (x)")
    path.chmod(0o444)
    assert "app.db may not be written by this user" in as_nobody(path)
    path.chmod(0o000)
    assert "DatabaseUnavailable" in as_nobody(path, "readonly")
    path.chmod(0o666)
    folder.chmod(0o555)
    assert f"the folder {folder} may not be written by this user" in as_nobody(path)
    assert as_nobody(path, "readonly") == "opened []\n"
    assert f"the folder {folder} may not be written" in as_nobody(folder / "new.db", "create")
    folder.chmod(0o700)
    if os.geteuid() == 0:
        assert "cannot be reached (Permission denied)" in as_nobody(path)


def test_a_file_mounted_by_itself_is_told_from_one_in_a_mounted_folder() -> None:
    mounts = r"""22 1 254:0 / / rw,relatime - ext4 /dev/root rw
31 22 254:0 /host/app.db /data/my\040app.db rw,relatime shared:1 - ext4 /dev/root rw
32 22 254:0 /host/folder /data/folder rw,relatime - ext4 /dev/root rw"""
    assert is_mounted_alone("/data/my app.db", mounts)
    assert not is_mounted_alone("/data/folder/app.db", mounts)
    assert not is_mounted_alone("/host/app.db", mounts)


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0 or shutil.which("unshare") is None, reason="only root may mount"
)
def test_a_file_mounted_by_itself_is_refused(path: Path) -> None:
    command = ["unshare", "--mount", "sh", "-c", MOUNTED_ALONE, "sh", str(path), sys.executable]
    told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    assert "DatabaseUnavailable" in told
    assert "Mount the folder that holds it" in told


def test_the_log_comes_once_the_applications_transaction_is_over(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite's own busy timeout does not wait here."""
    application = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    application.execute("BEGIN IMMEDIATE")
    application.execute("INSERT INTO t VALUES (2)")
    tried = threading.Event()

    def note_the_attempt(error: sqlite3.Error) -> bool:
        tried.set()
        return is_busy(error)

    monkeypatch.setattr(connect_module, "is_busy", note_the_attempt)

    def commit_after_the_first_attempt() -> None:
        assert tried.wait(10)
        application.execute("COMMIT")

    thread = threading.Thread(target=commit_after_the_first_attempt)
    thread.start()
    with closing(application), closing(connect(path, wait=0.0)) as connection:
        use_wal(connection, path, wait=10.0)
        thread.join()
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_transaction_that_stays_open_makes_the_conversion_give_up(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as application, closing(connect(path, wait=0.0)) as ours:
        application.execute("BEGIN IMMEDIATE")
        with pytest.raises(DatabaseBusy, match=r"had a transaction open for 0\.05 s"):
            use_wal(ours, path, wait=0.05)


def test_a_database_that_cannot_have_a_log_is_refused() -> None:
    with (
        closing(sqlite3.connect(":memory:", isolation_level=None)) as connection,
        pytest.raises(DatabaseUnavailable, match="journal_mode=memory"),
    ):
        use_wal(connection, ":memory:", wait=0.0)


def test_an_old_library_is_refused() -> None:
    refuse_old_sqlite((3, 38, 0))
    with pytest.raises(DatabaseUnavailable, match=r"needs SQLite 3\.38 or newer; this Python has 3\.37\.2"):
        refuse_old_sqlite((3, 37, 2))


def test_a_held_write_lock_is_a_busy_database(path: Path) -> None:
    with closing(connect(path)) as holder, closing(connect(path, wait=0.0)) as connection:
        holder.execute("BEGIN IMMEDIATE")
        error = failure("BEGIN IMMEDIATE", connection)
        assert is_busy(error)
        told = translate(error, path)
    assert isinstance(told, DatabaseBusy)
    assert "another connection has held its write lock" in str(told)


def test_a_transaction_that_read_before_somebody_committed_is_told_the_remedy(path: Path) -> None:
    with closing(connect(path)) as other, closing(connect(path)) as connection:
        use_wal(connection, path, wait=1.0)
        connection.execute("BEGIN")
        connection.execute("SELECT x FROM t").fetchall()
        other.execute("INSERT INTO t VALUES (2)")
        told = translate(failure("INSERT INTO t VALUES (3)", connection), path)
    assert isinstance(told, DatabaseBusy)
    assert "BEGIN IMMEDIATE" in str(told)


def test_missing_tables_of_ours_are_told_from_other_mistakes(path: Path) -> None:
    with closing(connect(path)) as connection:
        ours = translate(failure("SELECT 1 FROM background_service_jobs", connection), path)
        theirs = translate(failure("SELECT 1 FROM orders", connection), path)
    assert isinstance(ours, NotMigrated)
    assert type(theirs) is DatabaseUnavailable
    assert "no such table: orders" in str(theirs)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (sqlite3.SQLITE_FULL, "the disk is full"),
        (sqlite3.SQLITE_IOERR_FSYNC, "log for errors of the disk"),
        (sqlite3.SQLITE_CORRUPT, "is damaged"),
        (sqlite3.SQLITE_READONLY_DBMOVED, "moved or replaced while it was open"),
        (sqlite3.SQLITE_READONLY, "owner and mode"),
        (sqlite3.SQLITE_CANTOPEN, "owner and mode"),
    ],
)
def test_each_code_is_told_with_what_to_do(path: Path, code: int, words: str) -> None:
    error = sqlite3.OperationalError("as SQLite says it")
    error.sqlite_errorcode = code
    told = translate(error, path)
    assert type(told) is DatabaseUnavailable
    assert str(path) in str(told)
    assert words in str(told)


def test_a_file_that_vanished_is_missing(tmp_path: Path) -> None:
    error = sqlite3.OperationalError("unable to open database file")
    error.sqlite_errorcode = sqlite3.SQLITE_CANTOPEN
    assert isinstance(translate(error, tmp_path / "gone.db"), DatabaseMissing)


def test_an_error_of_the_driver_alone_is_told_too(path: Path) -> None:
    connection = connect(path)
    connection.close()
    told = translate(failure("SELECT 1", connection), path)
    assert type(told) is DatabaseUnavailable
    assert "closed database" in str(told)
