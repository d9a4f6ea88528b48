"""The line in which processes that use sidework on one file wait to write, and the room they leave to strangers.

SQLite's own way of waiting is to sleep and look again, for longer each time: it is not fair. Of two services that work
without a pause one got everything, and a program that writes now and then waited for seconds. So our processes queue
in the kernel, on a lock file beside the database, and then meet nobody in `BEGIN IMMEDIATE` but strangers: whoever
does shows that somebody else writes here too, and for a while all of us leave the lock free for longer than we keep it.

All this is courtesy. The database's own lock is what protects it: who gets no place in the line asks it directly.
"""

from __future__ import annotations

import fcntl
import os
import struct
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sidework.clock import SystemClock
from sidework.storage.sqlite.lockfile import open_lock_file

if TYPE_CHECKING:
    import io

REMEMBERED_FOR = 1.0
"""Seconds for which a stranger, or one of ours who had to wait, is thought of."""
ROOM = 2.5
"""While courteous, the lock is left alone for so many times as long as it was held: a stranger who looks after 0, 1, 3,
8 and 18 ms, as SQLite does, then finds it free within 20 ms in 99 of 100 cases."""
MOST_ROOM = 0.02

_TIMES: Final = struct.Struct("ddd")
"""What the file holds, in the seconds of the system's monotonic clock: when a stranger was met, until when the lock is
to be left alone, and when one of ours for whom somebody waits had to wait in line."""
_NEVER: Final = (-REMEMBERED_FOR, 0.0, -REMEMBERED_FOR)


class WritersLine:
    """One process's place in the line. One thread at a time takes it, uses it and gives it back."""

    def __init__(self, database: str | os.PathLike[str]) -> None:
        """Open nothing yet."""
        self._database = Path(database)
        self._clock = SystemClock()
        self._file: io.FileIO | None = None
        self._patience: _PatientThread | None = None
        self._taken_at = 0.0
        self._held = False
        self._met_somebody = self._had_to_wait = False
        self._met_at, self._room_until, self._waited_at = _NEVER

    @property
    def crowded(self) -> bool:
        """Whether others wrote here lately, as far as was known when we last took our turn: keep transactions short."""
        return self._is_lately(self._met_at) or self._is_lately(self._waited_at)

    def take(self, timeout: float, *, patient: bool = False) -> None:
        """Wait for our turn, and until strangers had room; no longer than `timeout` seconds. Then ask the database.

        patient: nobody waits for what we write; that we had to wait ourselves makes no crowd.
        """
        self._met_somebody = self._had_to_wait = False
        if (file := self._open()) is not None and self._lock(file, timeout):
            self._had_to_wait &= not patient
            self._held = True
            self._met_at, self._room_until, self._waited_at = _times(file)
            if self._room_until:
                self._leave_room()
        self._taken_at = self._clock.monotonic()

    def begun(self, *, met_somebody: bool) -> None:
        """Say that `BEGIN IMMEDIATE` is done. If it had to wait though it was our turn, it met a stranger."""
        self._met_somebody = met_somebody
        self._taken_at = self._clock.monotonic()

    def give(self) -> None:
        """Let the next one write."""
        file, held, self._held = self._file, self._held, False
        if file is None or not held:
            return
        if self._met_somebody or self._had_to_wait or self._is_lately(self._met_at):
            with suppress(OSError):
                self._note(file)
        fcntl.flock(file, fcntl.LOCK_UN)

    def close(self) -> None:
        """Close the file. It stays where it is: removing it would split the line in two."""
        file, self._file = self._file, None
        patience, self._patience = self._patience, None
        if patience is not None:
            patience.dismiss()
        elif file is not None:
            file.close()

    def _open(self) -> io.FileIO | None:
        if self._file is None or self._file.closed:
            real = Path(os.path.realpath(self._database))
            with suppress(OSError):
                path = real.with_name(f"{real.name}.writers.lock")
                self._file = open_lock_file(path, like=real.stat(), exclusively=False)
        return self._file

    def _lock(self, file: io.FileIO, timeout: float) -> bool:
        # While the thread waits in the kernel, the lock is its to take: one that we took meanwhile it would release.
        if self._patience is None or not self._patience.waiting:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                pass
            else:
                return True
        self._had_to_wait = True
        if self._patience is None:
            self._patience = _PatientThread(file)
        return self._patience.wait(timeout)

    def _leave_room(self) -> None:
        pause = self._room_until - self._clock.monotonic()
        if 0 < pause <= MOST_ROOM:  # anything longer was written before the machine was started anew
            time.sleep(pause)

    def _note(self, file: io.FileIO) -> None:
        now = self._clock.monotonic()
        if self._met_somebody:
            self._met_at = now
        if self._had_to_wait:
            self._waited_at = now
        if self._is_lately(self._met_at):
            self._room_until = now + min(ROOM * (now - self._taken_at), MOST_ROOM)
        os.pwrite(file.fileno(), _TIMES.pack(self._met_at, self._room_until, self._waited_at), 0)

    def _is_lately(self, moment: float) -> bool:
        return 0 <= self._clock.monotonic() - moment < REMEMBERED_FOR


class _PatientThread:
    """Waits in the kernel for a lock, which cannot be given up after a time, on behalf of somebody who can."""

    def __init__(self, file: io.FileIO) -> None:
        self._file = file
        self._changed = threading.Condition()
        self._asked = self._got = self._dismissed = False
        self.waiting = False
        """Whether it waits in the kernel."""
        threading.Thread(target=self._run, name="sidework-line", daemon=True).start()

    def wait(self, timeout: float) -> bool:
        """Return True when the lock is ours; False after `timeout` seconds, and then it will not be."""
        with self._changed:
            self._asked = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._got, timeout)
            got, self._got, self._asked = self._got, False, False
            return got

    def dismiss(self) -> None:
        """Let the thread end and close the file, when it comes back from the kernel."""
        with self._changed:
            self._dismissed = True
            self._changed.notify_all()

    def _run(self) -> None:
        with self._file:
            while self._is_asked():
                fcntl.flock(self._file, fcntl.LOCK_EX)
                self._hand_over()

    def _is_asked(self) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: (self._asked and not self._got) or self._dismissed)
            self.waiting = not self._dismissed
            return self.waiting

    def _hand_over(self) -> None:
        with self._changed:
            self.waiting = False
            self._got = self._asked
            if not self._got:
                fcntl.flock(self._file, fcntl.LOCK_UN)
            self._changed.notify_all()


def _times(file: io.FileIO) -> tuple[float, float, float]:
    raw = os.pread(file.fileno(), _TIMES.size, 0)
    return _TIMES.unpack(raw) if len(raw) == _TIMES.size else _NEVER
