"""What workers did, in one file that survives them, and a check of it that looks at each event once.

A line is written by one O_APPEND write, so lines of several processes never mix. Times are of the monotonic clock,
which all processes of a machine share.
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

ACKED, INVOKED, RETURNED, COMMITTED, DIED = "acked", "invoked", "returned", "committed", "died"
"""An enqueue was acknowledged; a handler was called; it is about to return; its end was written; a process is killed.

`returned` and `died` are written before the fact and `invoked` after it: the check never takes two for overlapping that
were not.
"""


@dataclass(frozen=True, slots=True)
class Event:
    """One line. `number`: the claim's; 0 where there is none."""

    time: float
    kind: str
    process: int
    job: int
    number: int
    queue: str = "-"


class Log:
    """The file, for writing."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def write(self, kind: str, job: int = 0, number: int = 0, queue: str = "-") -> None:
        """Append an event of now and of this process."""
        self._append(_now(), kind, os.getpid(), job, number, queue)

    def write_death(self, process: int, at: float | None = None) -> None:
        """Append the death of a process that is about to be killed, or that ended itself after the time given."""
        self._append(_now() if at is None else at, DIED, process, 0, 0, "-")

    def _append(self, at: float, kind: str, process: int, job: int, number: int, queue: str) -> None:
        os.write(self._descriptor, f"{at:.6f} {kind} {process} {job} {number} {queue}\n".encode())

    def close(self) -> None:
        os.close(self._descriptor)


def _now() -> float:
    return time.monotonic()  # noqa: TID251 - real time passes


def read(path: Path) -> list[Event]:
    """Return the events, oldest first."""
    events = []
    for line in path.read_text().splitlines():
        at, kind, process, job, number, queue = line.split()
        events.append(Event(float(at), kind, int(process), int(job), int(number), queue))
    return sorted(events, key=lambda event: event.time)


@dataclass
class _JobSoFar:
    newest: int = 0
    committed: int | None = None


@dataclass
class Check:
    """The events of one database, taken one after the other; what is wrong gathers in `wrongs`."""

    limits: dict[str, int] = field(default_factory=dict)
    """Queue -> how many may run at once."""
    wrongs: list[str] = field(default_factory=list)
    invocations: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    _jobs: dict[int, _JobSoFar] = field(default_factory=lambda: defaultdict(_JobSoFar))
    _dead: set[int] = field(default_factory=set)
    _running: dict[str, set[tuple[int, int, int]]] = field(default_factory=lambda: defaultdict(set))

    def take(self, events: Iterable[Event]) -> Check:
        """Look at events in the order of their times."""
        for event in events:
            match event.kind:
                case "invoked":
                    self._invoked(event)
                case "returned":
                    self._running[event.queue].discard((event.process, event.job, event.number))
                case "committed":
                    self._committed(event)
                case "died":
                    self._died(event.process)
                    self._dead.add(event.process)
                case _:
                    pass
        return self

    def _invoked(self, event: Event) -> None:
        job = self._jobs[event.job]
        if event.number <= job.newest:
            self.wrongs.append(f"job {event.job} was run twice under claim {event.number}")
        if job.committed is not None:
            self.wrongs.append(
                f"job {event.job} was run under claim {event.number} after claim {job.committed} ended it"
            )
        job.newest = max(job.newest, event.number)
        self.invocations[event.job] += 1
        running = self._running[event.queue]
        if event.process not in self._dead:  # what it wrote between the word of its death and the death itself
            running.add((event.process, event.job, event.number))
        if len(running) > self.limits.get(event.queue, len(running)):
            self.wrongs.append(f"{len(running)} jobs of queue {event.queue} ran at once")

    def _committed(self, event: Event) -> None:
        job = self._jobs[event.job]
        if job.committed is not None:
            self.wrongs.append(f"job {event.job} was committed under claims {job.committed} and {event.number}")
        if event.number < job.newest:
            self.wrongs.append(f"job {event.job} was committed under claim {event.number}, superseded by {job.newest}")
        job.committed = event.number

    def _died(self, process: int) -> None:
        for running in self._running.values():
            running -= {each for each in running if each[0] == process}
