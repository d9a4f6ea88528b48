"""Which processes hold the write lock of a database, as far as the system tells."""

from __future__ import annotations

import os
from pathlib import Path

_WAL_WRITE_LOCK = 120
"""The byte of the -shm file that SQLite locks for as long as somebody writes (see "WAL-mode File Format")."""

_FIELDS_OF_A_LOCK = 8


def holders_of_write_lock(path: str) -> frozenset[int]:
    """Return the processes that /proc/locks names as writers of this database; empty where it cannot be known."""
    try:
        inode = str(Path(f"{os.path.realpath(path)}-shm").stat().st_ino)
        lines = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    except OSError:
        return frozenset()
    return frozenset(filter(None, (_writer_in(line.split(), inode) for line in lines)))


def _writer_in(fields: list[str], inode: str) -> int | None:
    """Return the process in a line of /proc/locks such as `4: POSIX ADVISORY WRITE 812 08:01:5573 120 120`.

    Lines with an arrow are of processes that wait; they have a field more.
    """
    if len(fields) != _FIELDS_OF_A_LOCK:
        return None
    _, kind, _, mode, pid, file, first, last = fields
    if (kind, mode) != ("POSIX", "WRITE") or file.rpartition(":")[2] != inode:
        return None
    covered = int(first) <= _WAL_WRITE_LOCK and (last == "EOF" or int(last) >= _WAL_WRITE_LOCK)
    return int(pid) if covered else None
