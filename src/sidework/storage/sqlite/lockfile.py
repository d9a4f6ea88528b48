"""Files that exist to be locked: opened here, so that a forked child never keeps its parent's locks alive."""

from __future__ import annotations

import io
import os
import stat
import threading
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path


def open_lock_file(path: Path, *, like: os.stat_result, exclusively: bool) -> io.FileIO:
    """Open a lock file, made if need be; in a forked child it is closed at once. Raises OSError.

    like: of the database, whose owner and mode it gets: who can use the one must be able to look at the other.
    exclusively: refuse a file that is there already.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | (os.O_EXCL if exclusively else 0)
    with _FORKS.held_off:
        descriptor = os.open(path, flags, stat.S_IRUSR | stat.S_IWUSR)
        file = io.FileIO(descriptor, "r+")
        _FORKS.files.add(file)
    with suppress(PermissionError):
        os.fchown(descriptor, like.st_uid, like.st_gid)
    with suppress(PermissionError):
        os.fchmod(descriptor, stat.S_IMODE(like.st_mode) & 0o666)
    return file


class _Forks:
    """Closes, in a forked child, the lock files that the parent has open. One for the process, as forks are."""

    def __init__(self) -> None:
        self.held_off = threading.RLock()
        """No fork happens while this is held: a file between open() and `files` would escape."""
        self.files: weakref.WeakSet[io.FileIO] = weakref.WeakSet()

    def watch(self) -> None:
        os.register_at_fork(
            before=self.held_off.acquire, after_in_parent=self.held_off.release, after_in_child=self._in_child
        )

    def _in_child(self) -> None:
        for file in list(self.files):
            file.close()
        self.files.clear()
        self.held_off.release()


_FORKS: Final = _Forks()
_FORKS.watch()
