"""What every contestant is asked to do. It runs in an environment of its own, so it needs the standard library alone.

    python contestants/huey_peer.py ACTION DATABASE COUNT [OUTPUT]

The lines in OUTPUT are what the jobs say; times are on the monotonic clock that all processes of a machine share.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

PAUSE = 0.03
"""Seconds between two jobs of `pickup`, so that the worker is idle before each."""
FOR_EVER = 10_000.0


class Contestant(Protocol):
    """One library. It is made with the path of its database and the function that its one handler calls."""

    def enqueue(self, n: int) -> None:
        """Enqueue one job, as durably as the library does by default."""

    def enqueue_many(self, numbers: list[int]) -> None:
        """Enqueue jobs in bulk; only where the library has a call for it."""

    def work(self) -> None:
        """Run jobs until killed, or until none is left."""


Make = Callable[[str, Callable[[int], None]], Contestant]


def run(make: Make) -> None:
    """Do what the command line says."""
    action, database, count, *output = sys.argv[1:]
    say = Lines(Path(output[0])) if output else None
    jobs = Jobs(action, int(count), say)
    contestant = make(database, jobs.do)
    match action:
        case "enqueue":
            one_by_one(contestant, int(count))
        case "bulk":
            bulk(contestant, int(count))
        case "fill":
            fill(contestant, int(count))
        case "pickup":
            pickup(contestant, int(count))
        case "drain" | "note" | "hang":
            contestant.work()
            jobs.over()


def one_by_one(contestant: Contestant, count: int) -> None:
    """Say how long so many single enqueues take."""
    contestant.enqueue(0)  # opens the connection
    begin = time.monotonic()
    for n in range(1, count + 1):
        contestant.enqueue(n)
    print(json.dumps({"seconds": time.monotonic() - begin}), flush=True)


def bulk(contestant: Contestant, count: int) -> None:
    """Say how long one call for so many jobs takes; null where there is none."""
    send = getattr(contestant, "enqueue_many", None)
    begin = time.monotonic()
    if send:
        send(list(range(1, count + 1)))
    print(json.dumps({"seconds": time.monotonic() - begin if send else None}), flush=True)


def fill(contestant: Contestant, count: int) -> None:
    """Enqueue jobs by whatever way there is."""
    if hasattr(contestant, "enqueue_many"):
        contestant.enqueue_many(list(range(1, count + 1)))
    else:
        for n in range(1, count + 1):
            contestant.enqueue(n)


def pickup(contestant: Contestant, count: int) -> None:
    """Enqueue now and then; say when each enqueue began."""
    begins = []
    for n in range(1, count + 1):
        time.sleep(PAUSE)
        begins.append(time.monotonic())
        contestant.enqueue(n)
    time.sleep(1)
    print(json.dumps({"begins": begins}), flush=True)


class Lines:
    """A file that several processes add lines to."""

    def __init__(self, path: Path) -> None:
        """Open it."""
        self.path = path
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def __call__(self, word: str, n: int = 0) -> None:
        """Add a line: a word, a number and the time."""
        os.write(self._file, f"{word} {n} {time.monotonic()}\n".encode())


class Jobs:
    """What a job does."""

    def __init__(self, action: str, count: int, say: Lines | None) -> None:
        """Take the action and how many jobs there are."""
        self._say = say
        self._count = count
        self._done = 0
        self.do: Callable[[int], None] = {"note": self._note, "hang": self._hang}.get(action, self._count_up)

    def over(self) -> None:
        """Say that the worker has come to its end by itself, with everything written."""
        if self._say:
            self._say("over", self._done)

    def _count_up(self, _n: int) -> None:
        self._done += 1
        if self._say and self._done in {1, self._count}:
            self._say("first" if self._done == 1 else "last", self._done)

    def _note(self, n: int) -> None:
        if self._say:
            self._say("noted", n)

    def _hang(self, n: int) -> None:
        if self._say is None or "begun" in self._say.path.read_text(encoding="utf-8"):
            if self._say:
                self._say("again", n)
            return
        self._say("begun", n)
        time.sleep(FOR_EVER)
