"""Which processes write to a database, or keep a snapshot of it, as far as the system tells."""

from __future__ import annotations

import os
from pathlib import Path

_WAL_WRITE_LOCK = 120
"""The byte of the -shm file that SQLite locks for as long as somebody writes (see "WAL-mode File Format")."""
_WAL_READ_LOCKS = range(123, 128)
"""Those of which a reader locks one for as long as it keeps its snapshot."""

_FIELDS_OF_A_LOCK = 8


def holders_of_write_lock(path: str) -> frozenset[int]:
    """Return the processes that /proc/locks names as writers of this database; empty where it cannot be known."""
    return _holders(path, "WRITE", range(_WAL_WRITE_LOCK, _WAL_WRITE_LOCK + 1))


def keepers_of_snapshots(path: str) -> frozenset[int]:
    """Return the processes that have a read transaction open just now."""
    return _holders(path, "READ", _WAL_READ_LOCKS)


def _holders(path: str, mode: str, bytes_locked: range) -> frozenset[int]:
    try:
        inode = str(Path(f"{os.path.realpath(path)}-shm").stat().st_ino)
        lines = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    except OSError:
        return frozenset()
    return frozenset(filter(None, (_holder_in(line.split(), inode, mode, bytes_locked) for line in lines)))


def _holder_in(fields: list[str], inode: str, wanted: str, bytes_locked: range) -> int | None:
    """Return the process in a line of /proc/locks such as `4: POSIX ADVISORY WRITE 812 08:01:5573 120 120`.

    Lines with an arrow are of processes that wait; they have a field more.
    """
    if len(fields) != _FIELDS_OF_A_LOCK:
        return None
    _, kind, _, mode, pid, file, first, last = fields
    if (kind, mode) != ("POSIX", wanted) or file.rpartition(":")[2] != inode:
        return None
    covered = int(first) <= bytes_locked[-1] and (last == "EOF" or int(last) >= bytes_locked[0])
    return int(pid) if covered else None
