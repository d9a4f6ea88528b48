"""Whether a worker lives, told by the kernel: a worker holds a lock on a file of its own for as long as it lives.

The kernel frees the lock when the process ends, in whatever way, and keeps it while the process is only stopped or
slow. The file stands beside the real path of the database: `app.db.worker-<name>.lock`. Its name comes from the
worker's row and from nowhere else. The order of a worker's life: file, lock, row visible; at its end: row, file, lock.
A file whose worker died before it had a row is swept away when the next one joins.
"""

from __future__ import annotations

import fcntl
import glob
import os
import re
import secrets
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from sidework.storage.sqlite.lockfile import open_lock_file
from sidework.storage.sqlite.marks import Marks
from sidework.storage.sqlite.place import leads_to

if TYPE_CHECKING:
    import io
    from collections.abc import Collection

_NAME: Final = re.compile(r"[0-9a-f]{16,64}")


class WorkerLock:
    """The lock that this process holds for one worker. Make it with `create`."""

    def __init__(self, name: str, path: Path, file: io.FileIO, database: Path) -> None:
        self.name = name
        """What the worker's row must say, so that others find the file."""
        self.path = path
        self._file = file
        self._database = database
        self._database_then = database.stat()
        self.marks = Marks(path)
        """What the worker is at, for those who find it dead."""

    @classmethod
    def create(cls, database: str | os.PathLike[str]) -> WorkerLock:
        """Make a lock file under a new name beside the database, and lock it. Raises OSError."""
        real = Path(os.path.realpath(database))
        while not (lock := cls._made(real)).is_in_its_place():
            lock.release()  # swept away in the moment before it was locked
        return lock

    @classmethod
    def _made(cls, database: Path) -> Self:
        name = secrets.token_hex(16)
        path = database.with_name(f"{database.name}.worker-{name}.lock")
        file = open_lock_file(path, like=database.stat(), exclusively=True)
        lock = cls(name, path, file, database)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            lock.release()
            raise
        return lock

    def is_in_its_place(self) -> bool:
        """Whether others find the lock file where they look for it."""
        return leads_to(self.path, os.fstat(self._file.fileno()))

    def held(self) -> bool:
        """Whether lock file and database are still where others look for them; if not, the worker must stop.

        Others think it dead when its lock file is gone; in a database that was replaced, nobody sees what it does.
        """
        if self._file.closed:
            return False
        return self.is_in_its_place() and leads_to(self._database, self._database_then)

    def release(self) -> None:
        """Remove the file and free the lock, in this order: whoever still finds the file must find it locked."""
        if not self._file.closed:
            with suppress(OSError):
                self.path.unlink()
            self._file.close()


def lock_path(database: str | os.PathLike[str], name: str) -> Path | None:
    """Return the path of a worker's lock file, or None for a name that is none of ours: it never reaches the disk."""
    if not _NAME.fullmatch(name):
        return None
    return Path(f"{os.path.realpath(database)}.worker-{name}.lock")


def is_alive(path: Path | None) -> bool:
    """Whether the worker with this lock file lives: somebody holds the lock.

    A file that is not there means dead. What cannot be found out counts as alive: its jobs are not taken away.
    """
    if path is None:
        return True
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    try:
        # Shared: two that look at the same time must not take each other for the worker.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    else:
        return False
    finally:
        os.close(descriptor)


def remove(path: Path | None) -> None:
    """Remove the lock file of a dead worker. One that cannot be removed stays, and harms nobody."""
    if path is not None:
        with suppress(OSError):
            path.unlink()


def sweep(database: str | os.PathLike[str], named: Collection[str]) -> None:
    """Remove the lock files of workers that died before they had a row. named: by the rows.

    Nobody looks at such a file, and nobody holds its lock. A worker that is about to lock it finds it locked or gone,
    and makes another one; one that holds it keeps it.
    """
    real = Path(os.path.realpath(database))
    for path in real.parent.glob(f"{glob.escape(real.name)}.worker-*.lock"):
        name = path.name.removeprefix(f"{real.name}.worker-").removesuffix(".lock")
        if name not in named and _NAME.fullmatch(name):
            with suppress(OSError):
                _remove_if_free(path)


def _remove_if_free(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()
    finally:
        os.close(descriptor)
