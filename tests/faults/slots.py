"""What children say of themselves in memory that outlives them: read after a kill, it tells where the kill hit."""

from __future__ import annotations

import mmap
import struct
from typing import Final

_LAYOUT: Final = struct.Struct("qqdqq")
_TIME_AT: Final = 16
_WAITING_AT: Final = 32

NOWHERE, INSIDE, COMMITTING = 0, 1, 2


class Slots:
    """As many slots as there are children at once, each written by one child only."""

    def __init__(self, count: int) -> None:
        """Make the memory; before any child is forked."""
        self._memory = mmap.mmap(-1, max(count * _LAYOUT.size, mmap.PAGESIZE))

    def clear(self, slot: int) -> None:
        """Prepare a slot for a new child."""
        _LAYOUT.pack_into(self._memory, slot * _LAYOUT.size, NOWHERE, 0, 0.0, -1, 0)

    def enter(self, slot: int, state: int, job: int) -> None:
        """Say where the child is: between the first write of a job and its commit, in the commit, or neither."""
        struct.pack_into("qq", self._memory, slot * _LAYOUT.size, state, job)

    def say_death(self, slot: int, time: float, point: int) -> None:
        """Say when and at which point the child ends itself."""
        struct.pack_into("dq", self._memory, slot * _LAYOUT.size + _TIME_AT, time, point)

    def read(self, slot: int) -> tuple[int, int, float, int]:
        """Return state, job, time of death (0: none of its own) and the number of the point (-1: none)."""
        state, job, time, point, _waiting = _LAYOUT.unpack_from(self._memory, slot * _LAYOUT.size)
        return state, job, time, point

    def let_wait(self, slot: int, number: int) -> None:
        """Say how many jobs have ended in the transaction that is open, and wait for its commit."""
        struct.pack_into("q", self._memory, slot * _LAYOUT.size + _WAITING_AT, number)

    def waiting(self, slot: int) -> int:
        """Return how many jobs waited for a commit."""
        number: int = struct.unpack_from("q", self._memory, slot * _LAYOUT.size + _WAITING_AT)[0]
        return number
