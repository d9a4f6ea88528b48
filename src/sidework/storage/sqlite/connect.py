"""The one place that opens a SQLite database, and that says in words what SQLite says in codes.

Only the standard library's sqlite3 ever opens the database file. A plain open() and close() of it in this process
would drop the POSIX locks that sqlite3 holds on it, and with them committed rows; so a new file is made by mknod, which
opens nothing.
"""

from __future__ import annotations

import errno
import os
import re
import sqlite3
import stat
import threading
from pathlib import Path
from typing import Final, Literal
from urllib.parse import quote

from sidework.clock import SystemClock
from sidework.errors import (
    DatabaseBusy,
    DatabaseMissing,
    DatabaseMoved,
    DatabaseUnavailable,
    NotMigrated,
    SideworkError,
)
from sidework.storage.sqlite.moved import is_refusal
from sidework.storage.statements import load

Durability = Literal["full", "relaxed"]

OLDEST_SQLITE: Final = (3, 38)
"""3.35 brought RETURNING, 3.38 the JSON operators; both are in the hot statements."""

_STATEMENTS: Final = load(Path(__file__).with_name("connect.sql"))
_SETTINGS: Final = ("secure_delete", "journal_size_limit", "mmap_size", "cache_size", "schema_version")
_PAUSE_BETWEEN_CONVERSIONS: Final = 0.02
_MISSING_TABLE: Final = re.compile(r"no such (table|column): (\w+\.)?background_service_")


def connect(
    path: str | os.PathLike[str],
    *,
    durability: Durability = "full",
    wait: float = 10.0,
    create: bool = False,
    factory: type[sqlite3.Connection] = sqlite3.Connection,
    cached_statements: int = 128,
    readonly: bool = False,
) -> sqlite3.Connection:
    """Open a connection in autocommit mode that any one thread at a time may use.

    wait: seconds to wait for a lock that somebody else holds, at every statement.
    create: make the file (mode 0600) if there is none; its folder must exist.
    readonly: refuse writes by SQL; works on a file that this user may only read.

    Raises DatabaseMissing, DatabaseBusy, DatabaseUnavailable.
    """
    refuse_old_sqlite(sqlite3.sqlite_version_info)
    real = Path(os.path.realpath(path))
    _refuse_what_cannot_work(real, create=create, readonly=readonly)
    if create:
        _create(real)
    try:
        connection = sqlite3.connect(
            _uri(real),
            uri=True,
            timeout=wait,
            isolation_level=None,
            check_same_thread=False,
            factory=factory,
            cached_statements=cached_statements,
        )
    except sqlite3.Error as error:
        raise translate(error, real) from error
    try:
        _apply_settings(connection, durability, readonly=readonly)
    except sqlite3.Error as error:
        connection.close()
        raise translate(error, real) from error
    return connection


def use_wal(connection: sqlite3.Connection, path: str | os.PathLike[str], *, wait: float) -> None:
    """Give the database a write-ahead log, if it has none.

    The conversion fails at once, whatever the busy timeout, while anybody has a transaction open: try again for `wait`
    seconds. Raises DatabaseBusy after that, DatabaseUnavailable where the file system cannot carry one.
    """
    clock = SystemClock()
    deadline = clock.monotonic() + wait
    while True:
        try:
            mode = _convert(connection)
        except sqlite3.OperationalError as error:
            if not is_busy(error):
                raise translate(error, path) from error
            if clock.monotonic() >= deadline:
                raise DatabaseBusy(
                    f"{_shown(path)} could not be switched to a write-ahead log, because another connection had a "
                    f"transaction open for {wait:g} s. Commit or close it, then start again."
                ) from error
            threading.Event().wait(_PAUSE_BETWEEN_CONVERSIONS)
            continue
        if mode != "wal":
            raise DatabaseUnavailable(
                f"{_shown(path)} cannot have a write-ahead log: SQLite keeps journal_mode={mode} there. "
                "Put the database on a local file system."
            )
        return


def translate(error: sqlite3.Error, path: str | os.PathLike[str]) -> SideworkError:
    """Return the error of ours that says what this one means for the database at `path`, and what to do."""
    shown = _shown(path)
    code = getattr(error, "sqlite_errorcode", None)
    if is_busy(error):
        return DatabaseBusy(_busy_message(shown, code))
    if is_refusal(error):
        return DatabaseMoved(f"{shown}: {error}.")
    if _MISSING_TABLE.search(str(error)):
        return NotMigrated(f"{shown} lacks tables of sidework ({error}). Run `sidework migrate` or service.migrate().")
    if code is None:
        return DatabaseUnavailable(f"{shown} cannot be used: {error}")
    if code & 0xFF == sqlite3.SQLITE_CANTOPEN and not os.path.lexists(os.path.realpath(path)):
        return DatabaseMissing(_missing_message(shown))
    return DatabaseUnavailable(f"{shown} {_MEANINGS.get(code & 0xFF, 'cannot be used')} ({error}).{_advice(code)}")


def is_busy(error: sqlite3.Error) -> bool:
    """Whether the database refused because somebody else holds a lock."""
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


def refuse_old_sqlite(version: tuple[int, ...]) -> None:
    """Raise DatabaseUnavailable if this SQLite library lacks what the statements need."""
    if version < OLDEST_SQLITE:
        raise DatabaseUnavailable(
            f"sidework needs SQLite {'.'.join(map(str, OLDEST_SQLITE))} or newer; this Python has "
            f"{'.'.join(map(str, version))}. Use a Python that was built with a newer SQLite."
        )


def is_mounted_alone(path: str, mounts: str) -> bool:
    """Whether `path` itself is a mount point, after the text of /proc/self/mountinfo."""
    escaped = re.sub(r"[ \t\n\\]", lambda found: f"\\{ord(found[0]):03o}", path)
    return any(line.split(" ", 5)[4:5] == [escaped] for line in mounts.splitlines())


def _refuse_what_cannot_work(path: Path, *, create: bool, readonly: bool) -> None:
    folder, mode = path.parent, _mode_of(path)
    if mode is None and _mode_of(folder) is None:
        raise DatabaseMissing(f"{_shown(path)} cannot be there: the folder {_shown(folder)} does not exist.")
    if mode is None and not create:
        raise DatabaseMissing(_missing_message(_shown(path)))
    if mode is not None:
        _refuse_what_is_no_file_of_its_own(path, mode)
    if not readonly:
        _refuse_what_may_not_be_written(path, folder, exists=mode is not None)


def _mode_of(path: Path) -> int | None:
    try:
        return path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise DatabaseUnavailable(
            f"{_shown(path)} cannot be reached ({error.strerror}). Check the owner and mode of the folders above it."
        ) from error


def _refuse_what_is_no_file_of_its_own(path: Path, mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise DatabaseUnavailable(f"{_shown(path)} is a folder. Name a file in it, such as {_shown(path / 'app.db')}.")
    if _has_mount_of_its_own(path):
        raise DatabaseUnavailable(
            f"{_shown(path)} is mounted as a single file, so that its write-ahead log would stay behind on the other "
            "side and committed rows would be lost. Mount the folder that holds it."
        )


def _refuse_what_may_not_be_written(path: Path, folder: Path, *, exists: bool) -> None:
    if exists and not _may(path, os.W_OK):
        raise DatabaseUnavailable(f"{_shown(path)} may not be written by this user. Change its owner or its mode.")
    if not _may(folder, os.W_OK | os.X_OK):
        raise DatabaseUnavailable(
            f"the folder {_shown(folder)} may not be written by this user, and SQLite keeps its log beside the "
            "database. Change the folder's owner or mode, or move the database."
        )


def _has_mount_of_its_own(path: Path) -> bool:
    try:
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return False
    return is_mounted_alone(str(path), mounts)


def _may(path: Path, what: int) -> bool:
    return os.access(path, what, effective_ids=os.access in os.supports_effective_ids)


def _create(path: Path) -> None:
    try:
        os.mknod(path, stat.S_IFREG | stat.S_IRUSR | stat.S_IWUSR)
    except FileExistsError:
        return
    except OSError as error:
        if error.errno not in {errno.EPERM, errno.ENOSYS, errno.ENOTSUP}:
            raise DatabaseUnavailable(f"{_shown(path)} cannot be created: {error.strerror}.") from error
        _create_by_linking(path)


def _create_by_linking(path: Path) -> None:
    """Make the file where only root may mknod: open and close it under another name, before anybody can lock it."""
    blank = path.with_name(f"{path.name}.{os.urandom(8).hex()}.new")
    try:
        os.close(os.open(blank, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, stat.S_IRUSR | stat.S_IWUSR))
        os.link(blank, path)
    except FileExistsError:
        return
    except OSError as error:
        raise DatabaseUnavailable(f"{_shown(path)} cannot be created: {error.strerror}.") from error
    finally:
        blank.unlink(missing_ok=True)


def _uri(path: Path) -> str:
    return f"file:{quote(os.fsencode(path))}?mode=rw"


def _apply_settings(connection: sqlite3.Connection, durability: Durability, *, readonly: bool) -> None:
    names = [durability, *_SETTINGS, *(["query_only"] if readonly else [])]
    for name in names:
        _run(connection, name)


def _convert(connection: sqlite3.Connection) -> object:
    (mode,) = _run(connection, "journal_mode")[0]
    if mode == "wal":
        return mode
    (mode,) = _run(connection, "use_wal")[0]
    return mode


def _run(connection: sqlite3.Connection, name: str) -> list[tuple[object, ...]]:
    # The plain class's method: a factory's own `execute` may already guard against what is not the user's.
    return sqlite3.Connection.execute(connection, _STATEMENTS[name]).fetchall()


_MEANINGS: Final = {
    sqlite3.SQLITE_NOTADB: "is not a SQLite database",
    sqlite3.SQLITE_CORRUPT: "is damaged",
    sqlite3.SQLITE_CANTOPEN: "cannot be opened",
    sqlite3.SQLITE_PERM: "cannot be opened",
    sqlite3.SQLITE_READONLY: "cannot be written",
    sqlite3.SQLITE_FULL: "cannot grow, because the disk is full",
    sqlite3.SQLITE_IOERR: "cannot be read or written",
    sqlite3.SQLITE_CONSTRAINT: "refused a row",
}

_ADVICE: Final = {
    sqlite3.SQLITE_NOTADB: "Name another file.",
    sqlite3.SQLITE_CORRUPT: "Stop all that use it and restore a backup, or try the sqlite3 program's .recover.",
    sqlite3.SQLITE_CANTOPEN: "Check the owner and mode of the file and of its folder.",
    sqlite3.SQLITE_PERM: "Check the owner and mode of the file and of its folder.",
    sqlite3.SQLITE_READONLY: "Check the owner and mode of the file and of its folder.",
    sqlite3.SQLITE_FULL: "Free some space; nothing that was acknowledged is lost.",
    sqlite3.SQLITE_IOERR: "Look at the system's log for errors of the disk.",
    sqlite3.SQLITE_READONLY_DBMOVED: "The file was moved or replaced while it was open: restart the program.",
}


def _advice(code: int) -> str:
    advice = _ADVICE.get(code) or _ADVICE.get(code & 0xFF)
    return f" {advice}" if advice else ""


def _busy_message(shown: str, code: int | None) -> str:
    if code == sqlite3.SQLITE_BUSY_SNAPSHOT:
        return (
            f"{shown}: this transaction began with a read, and somebody has committed since. "
            "Roll it back and begin it with BEGIN IMMEDIATE, or enqueue before reading."
        )
    return (
        f"{shown} is locked: another connection has held its write lock for too long. Find the transaction that stays "
        "open (a handler that writes first and works afterwards, a shell, a viewer) and commit or close it."
    )


def _missing_message(shown: str) -> str:
    return f"there is no database at {shown}. Check the path; `sidework migrate` or starting a service creates one."


def _shown(path: str | os.PathLike[str]) -> str:
    """Return the path as it may stand in a message, whatever bytes it is made of."""
    return os.fsencode(path).decode(errors="replace")
