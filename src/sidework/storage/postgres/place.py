"""Which process a worker is, so that others on the same machine see at once that it is gone.

A heartbeat only guesses, and late; the kernel knows. A process is named by the boot of its kernel, its namespace of
process ids, its id there and the moment of its birth: no later process bears the same name. Elsewhere than on Linux
nothing is known, and the heartbeat alone decides.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

_BOOT: Final = Path("/proc/sys/kernel/random/boot_id")
_NAMESPACE: Final = Path("/proc/self/ns/pid")
_STATE, _STARTED = 0, 19
"""Fields of /proc/<pid>/stat, counted from behind the name of the program."""


class Place(msgspec.Struct, frozen=True):
    """A process."""

    host: str | None
    """Boot and namespace; None: not known here, or not known of that worker."""
    pid: int
    born: int | None


def here() -> Place:
    """Return this process."""
    host = None
    with suppress(OSError):
        host = f"{_BOOT.read_text(encoding='ascii').strip()}/{_NAMESPACE.readlink()}/{socket.gethostname()}"
    _alive, born = _look(os.getpid())
    return Place(host=host if born is not None else None, pid=os.getpid(), born=born)


def is_gone(there: Place, seen_from: Place) -> bool:
    """Whether a process has surely ended. False where that cannot be seen from here."""
    if there.host is None or there.host != seen_from.host:
        return False
    try:
        os.kill(there.pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False  # it is there, and somebody else's
    alive, born = _look(there.pid)
    return not alive or (born is not None and born != there.born)


def _look(pid: int) -> tuple[bool, int | None]:
    """Return whether a process still does something, and when it was born; True, None: cannot be seen."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return fields[_STATE] not in "ZX", int(fields[_STARTED])
    except (OSError, ValueError, IndexError):
        return True, None
