"""What surrounds a SQLite database: its file system, who may read it, who holds its lock, what else opens it."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sidework.model.health import Finding, Level
from sidework.storage.sqlite.holders import holders_of_write_lock

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

NETWORK: Final = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "lustre", "gfs2", "ocfs2", "beegfs"}
)
_NETWORK_IN_USER_SPACE: Final = re.compile(r"fuse\.(sshfs|s3fs|gcsfuse|rclone|glusterfs|ceph|davfs.*|goofys)")
_LIBRARY: Final = re.compile(r"apsw|pysqlite3|sqlcipher|libsqlite3")


def file_system_of(path: str, mounts: str) -> str:
    """Return the type of the file system that holds a real path, after the text of /proc/self/mountinfo; '' if unknown.

    The mount with the longest path above it holds it; of several on one place, the last.
    """
    best, kind = "", ""
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        fields = before.split(" ")
        if len(fields) > 4 and after:  # noqa: PLR2004 - the fifth field is the mount point
            point = re.sub(r"\\(\d{3})", lambda found: chr(int(found[1], 8)), fields[4])
            inside = path == point or path.startswith(point.rstrip("/") + "/")
            if inside and len(point) >= len(best):
                best, kind = point, after.split(" ")[0]
    return kind


def is_network(kind: str) -> bool:
    """Whether a file system of this type is shared over a network, where SQLite's locks cannot be trusted."""
    return kind in NETWORK or bool(_NETWORK_IN_USER_SPACE.fullmatch(kind))


def about_file_system(path: str, mounts: str) -> Finding:
    """Say on what the file lies."""
    kind = file_system_of(path, mounts)
    if is_network(kind):
        return Finding(
            subject="file system",
            level=Level.ILL,
            text=f"{kind} is a network file system: locks and shared memory do not hold there, and rows get lost",
            remedy="move the database to a local disk; several machines need a database server",
        )
    return Finding(subject="file system", level=Level.WELL, text=kind or "unknown")


def about_permissions(path: str) -> Finding:
    """Say who else may change or read the file, and whether we may write it."""
    file, folder = Path(path), Path(path).parent
    unwritable = [str(each) for each in (file, folder) if not os.access(each, os.W_OK)]
    if unwritable:
        return Finding(
            subject="permissions",
            level=Level.ILL,
            text=f"this user may not write {' and '.join(unwritable)}",
            remedy="run as the owner, or change owner or mode; SQLite keeps its log beside the file",
        )
    mode = stat.S_IMODE(file.stat().st_mode)
    if mode & stat.S_IWOTH or (folder.stat().st_mode & (stat.S_IWOTH | stat.S_ISVTX)) == stat.S_IWOTH:
        return Finding(
            subject="permissions",
            level=Level.NOTICE,
            text=f"mode {mode:04o}: every user of this machine may change the file or its folder",
            remedy=f"chmod o-w {path} {folder}",
        )
    return Finding(subject="permissions", level=Level.WELL, text=f"mode {mode:04o}")


def about_write_lock(path: str) -> Finding:
    """Say who holds the write lock now."""
    holders = holders_of_write_lock(path)
    if not holders:
        return Finding(subject="write lock", level=Level.WELL, text="free")
    named = " and ".join(f"process {pid} ({_command(pid)})" for pid in sorted(holders))
    return Finding(
        subject="write lock",
        level=Level.NOTICE,
        text=f"held at this moment by {named}",
        remedy="look again; who is always named here keeps a transaction open and has to commit sooner",
    )


def about_libraries(processes: Iterable[int]) -> Iterator[Finding]:
    """Say which of these processes have loaded more than one SQLite."""
    for process in processes:
        found = libraries_in(read("maps", process))
        if len(found) > 1:
            yield Finding(
                subject="second library",
                level=Level.NOTICE,
                text=f"process {process} has loaded {' and '.join(sorted(found))}",
                remedy="never open the database with the second one there: closing it drops the locks of the first",
            )


def libraries_in(maps: str) -> frozenset[str]:
    """Return the SQLite libraries named in the text of /proc/PID/maps."""
    files = {line.split(maxsplit=5)[5] for line in maps.splitlines() if line.count("/") and len(line.split()) > 5}  # noqa: PLR2004
    return frozenset(found[0] for file in files if (found := _LIBRARY.search(file)) and ".so" in file)


def read(name: str, process: int | str = "self") -> str:
    """Return a file of /proc about a process, or '' where there is none or it may not be read."""
    try:
        return Path(f"/proc/{process}/{name}").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ""


def _command(process: int) -> str:
    return " ".join(read("cmdline", process).split("\0")).strip()[:80] or "unknown"
