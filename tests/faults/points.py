"""The named points of the code at which a process can be ended: before and after each statement, commit and lock."""

from __future__ import annotations

import os
import re
import sqlite3
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.faults.observed import SPY
from tests.faults.slots import COMMITTING, INSIDE, NOWHERE

import sidework.storage.sqlite
from sidework.storage.statements import load

if TYPE_CHECKING:
    from tests.faults.slots import Slots

ENDED_BY_ITSELF: Final = 77
"""The exit status of a process that ended itself at a point, without any cleaning up, as `kill -9` does."""

_FOLDER: Final = Path(sidework.storage.sqlite.__file__).parent
_NAMES: Final = {
    " ".join(text.split()): name
    for file in sorted(_FOLDER.glob("*.sql"))
    for name, text in load(file).items()
    if name not in {"begin", "commit", "roll_back", "rollback"}
}


_WRITES: Final = re.compile(r"^(?:\s*--.*\n)*\s*(?:CREATE|DELETE|DROP|INSERT|UPDATE)\b", re.IGNORECASE)
"""A commit is called after the last of these before it: what was only read then depends on the moment."""


def name_of(sql: str) -> str:
    """Return how a statement is called: its name in the .sql files, or its first words."""
    plain = " ".join(re.sub(r"--.*", "", sql).split()).rstrip(";")
    return _NAMES.get(plain + ";") or _NAMES.get(plain) or " ".join(re.findall(r"[A-Za-z_][\w-]*", plain)[:4])


class Walker:
    """Follows one process through the points, notes where it is, and ends it at the one that was chosen."""

    def __init__(self, slots: Slots, slot: int) -> None:
        self._slots = slots
        self._slot = slot
        self._state, self._job = NOWHERE, 0
        self._last: dict[int, str] = {}
        self._waiting = 0
        """Jobs that have ended in a transaction that others share, and is not committed yet."""
        self.seen: dict[str, int] = {}
        """Point -> how often it was passed."""
        self._chosen: tuple[str, int, int] | None = None

    def choose(self, point: str, number: int, passing: int) -> None:
        """End the process when it passes this point for the so-manieth time; `number` tells the point to others."""
        self._chosen = point, number, passing

    def watch(self) -> None:
        """Begin."""
        SPY.before, SPY.after = self._before, self._after

    def enter(self, state: int, job: int) -> None:
        """Take note of where the process is."""
        self._state, self._job = state, job
        self._slots.enter(self._slot, state, job)

    def _let_wait(self, number: int) -> None:
        self._waiting = number
        self._slots.let_wait(self._slot, number)

    def _before(self, who: object, what: str, _with: object) -> None:
        if what.startswith("COMMIT") and self._state == INSIDE and _is_a_jobs(who):
            self.enter(COMMITTING, self._job)
        self._pass(f"before {self._name(who, what)}")

    def _after(self, who: object, what: str, _with: object) -> None:
        if what.startswith(("COMMIT", "ROLLBACK")) and self._state != NOWHERE and _is_a_jobs(who):
            self.enter(NOWHERE, 0)
        name = self._name(who, what)
        if name == "release" and self._last.get(id(who)) == "settle_one":
            self._let_wait(self._waiting + 1)
        elif what.startswith(("COMMIT", "ROLLBACK;")) and _is_a_jobs(who):
            self._let_wait(0)
        self._pass(f"after {name}")
        if what.startswith(("COMMIT", "ROLLBACK;")) or what == "ROLLBACK":
            self._last.pop(id(who), None)
        elif _WRITES.search(what):
            self._last[id(who)] = name

    def _name(self, who: object, what: str) -> str:
        if not isinstance(who, sqlite3.Connection):
            return what
        name = name_of(what)
        return f"COMMIT of {self._last.get(id(who), 'reads')}" if name == "COMMIT" else name

    def _pass(self, point: str) -> None:
        count = self.seen[point] = self.seen.get(point, 0) + 1
        if self._chosen is not None and self._chosen[0] == point and count == self._chosen[2]:
            self._slots.say_death(self._slot, time.monotonic(), self._chosen[1])  # noqa: TID251 - real time passes
            os._exit(ENDED_BY_ITSELF)


def _is_a_jobs(connection: object) -> bool:
    """Whether a commit on this connection is that of a handler or of the application, not of the library's own."""
    return type(connection).__name__ in {"GuardedConnection", "ApplicationConnection", "OnPostgres"}
