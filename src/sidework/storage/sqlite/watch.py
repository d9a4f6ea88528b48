"""Hears, through Linux's inotify, who writes to the log of a database and which worker ends.

The log is watched itself; the folder only for files that come and go, because a neighbour that is written to all the
time (the application's own log file) would wake us each time. The kernel closes a worker's lock file when the worker
dies, however it dies; those who only look at the file open it for reading, and so are not heard.
"""

from __future__ import annotations

import errno
import re
import sys
from pathlib import Path
from typing import Final

import msgspec

if sys.platform == "linux":
    from inotify_simple import INotify, flags  # type: ignore[import-untyped]

_OVERFLOW: Final = 0x4000
_IGNORED: Final = 0x8000


class Heard(msgspec.Struct, frozen=True, kw_only=True):
    """What has been heard since the last time."""

    written: bool
    """Somebody has written to the log, or made a new one."""
    closed: frozenset[Path]
    """Lock files whose owner has closed them."""


class DatabaseWatch:
    """An ear for one database. `fileno()` is readable when there is something to hear."""

    def __init__(self, database: Path) -> None:
        """Listen to a database, named by its real path. Raises OSError where the kernel has no ear to give."""
        if sys.platform != "linux":
            raise OSError("inotify is a call of Linux")
        self._log = database.with_name(f"{database.name}-wal")
        self._lock_name = re.compile(rf"{re.escape(database.name)}\.worker-[0-9a-f]{{16,64}}\.lock")
        self._names: dict[int, Path] = {}
        self._inotify = INotify(nonblocking=True)
        try:
            self._folder = self._inotify.add_watch(database.parent, flags.CREATE | flags.MOVED_TO | flags.ONLYDIR)
            self._watch_what_is_there()
        except BaseException:
            self._inotify.close()
            raise

    def fileno(self) -> int:
        """Return the file descriptor to wait for."""
        return int(self._inotify.fileno())

    def hear(self) -> Heard:
        """Return what has happened since the last call, without waiting. Raises OSError if the kernel has no room."""
        written, closed = False, set()
        for event in self._inotify.read(timeout=0):
            if event.mask & _OVERFLOW:
                self._watch_what_is_there()
                written = True
            elif event.mask & _IGNORED:
                self._names.pop(event.wd, None)
            elif event.wd == self._folder:
                written |= self._watch(self._log.with_name(event.name)) == self._log
            elif (path := self._names.get(event.wd)) == self._log:
                written = True
            elif path is not None:
                closed.add(path)
        return Heard(written=written, closed=frozenset(closed))

    def close(self) -> None:
        """Give the ear back."""
        self._inotify.close()

    def _watch_what_is_there(self) -> None:
        for path in self._log.parent.iterdir():
            self._watch(path)

    def _watch(self, path: Path) -> Path | None:
        """Listen to a file if it is one of ours; return it then."""
        if path == self._log:
            what = flags.MODIFY
        elif self._lock_name.fullmatch(path.name):
            what = flags.CLOSE_WRITE
        else:
            return None
        try:
            self._names[self._inotify.add_watch(path, what | flags.DONT_FOLLOW)] = path
        except OSError as error:
            if error.errno in {errno.ENOSPC, errno.ENOMEM}:
                raise
            return None  # gone already, or another user's
        return path
