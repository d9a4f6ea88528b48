"""What a worker was at when it died: marks in its lock file, which others read once it is dead.

Only a job whose handler had begun can have killed its worker, and only such a job may not be run again if it may run
once only. To know which, the worker keeps marks in the memory-mapped pages of its own lock file: a store per mark, no
system call, no write to the database. The kernel keeps those pages when the process is killed, at whatever moment.

Marks are believed or not as a whole: not if they cannot be read, if some job found no place in them, or if the machine
was started anew since, because then some pages may have reached the disk and others not.

The file: HEADER (magic, the kernel's id of this boot, WHOLE or not), then ids of jobs, then a state for each.
"""

from __future__ import annotations

import mmap
import os
import struct
import threading
import uuid
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sidework.model.job import Reached

if TYPE_CHECKING:
    from collections.abc import Mapping

PLACES: Final = 4096
"""How many jobs can be marked at once: those that run, and those that ended and are not written yet."""

_HEADER: Final = struct.Struct("8s16s?7x")
_MAGIC: Final = b"sidework"
_WHOLE_AT: Final = 24
_WHOLE, _IN_PART = True, False
_IDS_AT: Final = _HEADER.size
_STATES_AT: Final = _IDS_AT + 8 * PLACES
_SIZE: Final = _STATES_AT + PLACES
_FREE, _BEGUN, _ENDED = 0, 1, 2
_REACHED: Final = {_BEGUN: Reached.BEGUN, _ENDED: Reached.ENDED}


class Marks:
    """The marks of one living worker. From any thread; each call takes a fraction of a microsecond."""

    def __init__(self, path: Path) -> None:
        """Make room in the lock file. Where that cannot be had, nothing is marked and nobody believes it was."""
        self._free = list(range(PLACES - 1, -1, -1))
        self._places: dict[int, int] = {}
        self._unmarked: set[int] = set()
        self._in_doubt = threading.Lock()
        """Held by who says whether the marks are whole: by the time it is said, that must still be so."""
        self._memory: mmap.mmap | bytearray
        try:
            self._memory = _room_in(path)
        except (OSError, ValueError):
            self._memory = bytearray(_SIZE)
        view = memoryview(self._memory)
        self._ids = view[_IDS_AT:_STATES_AT].cast("q")
        self._states = view[_STATES_AT:]

    def begin(self, job_id: int) -> None:
        """Mark a job whose handler is about to be called."""
        if job_id in self._places:  # an attempt that was superseded still runs here: two places could not be told apart
            self._pass_over(job_id)
            return
        try:
            place = self._free.pop()
        except IndexError:
            self._pass_over(job_id)
            return
        self._places[job_id] = place
        self._ids[place] = job_id
        self._states[place] = _BEGUN  # last: whoever is killed before this has called no handler

    def end(self, job_id: int) -> None:
        """Mark a job whose handler has ended, but whose end is not written yet."""
        place = self._places.get(job_id)
        if place is not None:
            self._states[place] = _ENDED

    def clear(self, job_id: int) -> None:
        """Forget a job: what became of it is written, or it is not ours any more."""
        place = self._places.pop(job_id, None)
        if place is not None:
            self._states[place] = _FREE
            self._free.append(place)
        elif self._unmarked:
            with self._in_doubt:
                self._unmarked.discard(job_id)
                self._memory[_WHOLE_AT] = not self._unmarked

    def _pass_over(self, job_id: int) -> None:
        with self._in_doubt:
            self._unmarked.add(job_id)
            self._memory[_WHOLE_AT] = _IN_PART


def read_marks(path: Path | None) -> Mapping[int, Reached] | None:
    """Return how far a dead worker had come with the jobs it had begun, by their ids; None: that is not known."""
    if path is None:
        return None
    try:
        content = path.read_bytes()
    except OSError:
        return None
    if len(content) != _SIZE:
        return None
    magic, boot, whole = _HEADER.unpack_from(content)
    if magic != _MAGIC or not whole or boot != _this_boot():
        return None
    ids = memoryview(content)[_IDS_AT:_STATES_AT].cast("q")
    return {ids[place]: _REACHED[state] for place, state in enumerate(content[_STATES_AT:]) if state in _REACHED}


def _room_in(path: Path) -> mmap.mmap:
    """Fill the file and map it. Raises OSError.

    Every page is written before it is mapped: on a full disk a store into a page that was never there kills the
    process. The descriptor is one of its own, because mmap keeps a duplicate: one of the locked descriptor would keep
    the lock in a forked child.
    """
    boot = _this_boot()
    if boot is None:
        raise OSError("this kernel does not say when it was started")
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        _write_all(descriptor, bytes(_SIZE))
        memory = mmap.mmap(descriptor, _SIZE)
    finally:
        os.close(descriptor)
    _HEADER.pack_into(memory, 0, _MAGIC, boot, _WHOLE)
    return memory


def _write_all(descriptor: int, data: bytes) -> None:
    if os.pwrite(descriptor, data, 0) != len(data):
        raise OSError("there is no room for the marks of a worker")


def _this_boot() -> bytes | None:
    with suppress(OSError, ValueError):
        return uuid.UUID(Path("/proc/sys/kernel/random/boot_id").read_text().strip()).bytes
    return None
