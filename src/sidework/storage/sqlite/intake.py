"""Where the jobs of many callers come in: who finds nobody writing commits for itself, the others share commits.

A writer thread commits for all who wait, by one statement for all their jobs, and answers each when that is durable:
eight threads together are then faster than one. Nothing waits in order to be joined: what has gathered while the last
commit was under way is the next one.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence
    from datetime import datetime

    from sidework.model.job import NewJob
    from sidework.storage.sqlite.callers import Callers, Insertion
    from sidework.storage.sqlite.gate import WriteGate


class Intake:
    """Inserts jobs into one database, for every thread of this process."""

    def __init__(self, gate: WriteGate, callers: Callers) -> None:
        """Start no thread yet."""
        self._gate = gate
        self._callers = callers
        self._requests: SimpleQueue[Request | None] = SimpleQueue()
        self._writer: threading.Thread | None = None
        self._writer_changes = threading.Lock()

    def insert(self, jobs: Sequence[NewJob], *, now: datetime) -> list[int]:
        """Return the ids, in the order of the jobs, when these are durable: all of them, or none if this raises.

        Raises DatabaseBusy after waiting too long, and what sqlite3 raises.
        """
        if self._gate.free and self._requests.empty():
            return self._callers.inserted(self._put, jobs, now=now)
        self._gate.refuse_who_would_wait_for_itself()
        request = Request(jobs, now, self._gate.deadline())
        self._queue(request)
        if not request.wait(self._gate.left(request.deadline)):
            raise self._gate.busy()
        return request.answer()

    def close(self) -> None:
        """Let the writer thread finish what is queued, and end. The next who has to wait starts another."""
        with self._writer_changes:
            writer, self._writer = self._writer, None
            requests, self._requests = self._requests, SimpleQueue()
            requests.put(None)
        if writer is not None:
            writer.join()

    def _queue(self, request: Request) -> None:
        with self._writer_changes:
            if self._writer is None:
                # A queue of its own: the one before may still have its sign to end to read.
                self._writer = threading.Thread(
                    target=self._serve, args=(self._requests,), name="sidework-writer", daemon=True
                )
                self._writer.start()
            self._requests.put(request)

    def _put(self, insertion: Insertion, *, deadline: float | None = None) -> list[int]:
        return self._gate.write(insertion.run, deadline=deadline)

    # ------------------------------------------------------------------ the writer thread

    def _serve(self, requests: SimpleQueue[Request | None]) -> None:
        """Be the writer thread: whatever has gathered while others wrote is one batch."""
        while (first := requests.get()) is not None:
            if not first.begin():
                continue
            batch = [first]
            try:
                ids = self._gate.write(partial(self._insert_all, batch, requests), deadline=first.deadline)
            except Exception:  # noqa: BLE001 - whoever it belongs to meets it again when everybody is done alone
                for request in batch:
                    self._answer_alone(request)
            else:
                _deal_out(ids, batch)
            for request in batch:
                request.wake()

    def _insert_all(
        self, batch: list[Request], requests: SimpleQueue[Request | None], connection: sqlite3.Connection
    ) -> list[int]:
        batch += gathered(requests)
        jobs = [job for request in batch for job in request.jobs]
        return self._callers.insertion(jobs, now=max(request.now for request in batch)).run(connection)

    def _answer_alone(self, request: Request) -> None:
        try:
            put = partial(self._put, deadline=request.deadline)
            request.succeed(self._callers.inserted(put, request.jobs, now=request.now))
        except BaseException as error:  # noqa: BLE001 - it belongs to the thread that waits for the answer
            request.fail(error)


class Request:
    """Jobs of a caller that waits for the writer thread."""

    __slots__ = ("_answered", "_begun", "_error", "_ids", "deadline", "jobs", "now")

    def __init__(self, jobs: Sequence[NewJob], now: datetime, deadline: float) -> None:
        """deadline: on the monotonic clock, until when a turn to write is waited for."""
        self.jobs, self.now, self.deadline = jobs, now, deadline
        self._begun = threading.Lock()
        self._answered = threading.Lock()
        self._answered.acquire()
        self._ids: list[int] = []
        self._error: BaseException | None = None

    def begin(self) -> bool:
        """Take it on, for good. False: whoever asked has gone away."""
        return self._begun.acquire(blocking=False)

    def wait(self, seconds: float) -> bool:
        """Wait for the answer. False: time ran out, and it will not be carried out.

        Once it is begun the answer is waited for: it comes in bounded time, and only it says what was committed.
        """
        try:
            if self._answered.acquire(timeout=seconds):
                return True
        except BaseException:
            self.begin()
            raise
        if self.begin():
            return False
        self._answered.acquire()
        return True

    def succeed(self, ids: list[int]) -> None:
        self._ids = ids

    def fail(self, error: BaseException) -> None:
        self._error = error

    def wake(self) -> None:
        """Let go of whoever waits for the answer."""
        self._answered.release()

    def answer(self) -> list[int]:
        """Return the ids, or raise what kept the jobs from being inserted."""
        if self._error is not None:
            raise self._error
        return self._ids


def gathered(requests: SimpleQueue[Request | None]) -> list[Request]:
    """Take on all that is queued now, up to the sign to end, which stays."""
    found: list[Request] = []
    with suppress(Empty):
        while (request := requests.get_nowait()) is not None:
            if request.begin():
                found.append(request)
        requests.put(None)
    return found


def _deal_out(ids: list[int], batch: list[Request]) -> None:
    start = 0
    for request in batch:
        end = start + len(request.jobs)
        request.succeed(ids[start:end])
        start = end
