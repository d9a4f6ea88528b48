"""Acts that wait for the writer thread, which commits for all of them at once."""

from __future__ import annotations

import threading
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable

T = TypeVar("T")


class Request(Generic[T]):
    """An act that waits for the writer thread."""

    __slots__ = ("_answered", "_begun", "_error", "_result", "act", "deadline")

    def __init__(self, act: Callable[[sqlite3.Connection], T], deadline: float) -> None:
        self.act = act
        self.deadline = deadline
        self._begun = threading.Lock()
        self._answered = threading.Lock()
        self._answered.acquire()
        self._result: T | None = None
        self._error: BaseException | None = None

    def begin(self) -> bool:
        """Take it on, for good. False: whoever asked has gone away."""
        return self._begun.acquire(blocking=False)

    def wait(self, timeout: float) -> bool:
        """Wait for the answer. False: time ran out, and it will not be carried out.

        Once it is begun the answer is waited for: it comes in bounded time, and only it says what was committed.
        """
        try:
            if self._answered.acquire(timeout=max(0.0, timeout)):
                return True
        except BaseException:
            self.begin()
            raise
        if self.begin():
            return False
        self._answered.acquire()
        return True

    def succeed(self, result: T) -> None:
        self._result, self._error = result, None

    def fail(self, error: BaseException) -> None:
        self._error = error

    def wake(self) -> None:
        """Let go of whoever waits for the answer."""
        self._answered.release()

    def answer(self) -> T:
        """Return what the act returned, or raise what it raised."""
        if self._error is not None:
            raise self._error
        return cast("T", self._result)


class WriterThread:
    """The writer thread and its queue; started when somebody first has to wait."""

    def __init__(self, serve: Callable[[SimpleQueue[Request[Any] | None]], None]) -> None:
        self.requests: SimpleQueue[Request[Any] | None] = SimpleQueue()
        self._thread = threading.Thread(target=serve, args=(self.requests,), name="sidework-writer", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Finish what is queued and end."""
        self.requests.put(None)
        self._thread.join()


def gather(first: Request[Any], requests: SimpleQueue[Request[Any] | None]) -> tuple[list[Request[Any]], bool]:
    """Return all that is queued now, and whether the end of the queue was reached."""
    gathered = [first]
    while True:
        try:
            request = requests.get_nowait()
        except Empty:
            return gathered, False
        if request is None:
            return gathered, True
        gathered.append(request)


def run_in_savepoint(connection: sqlite3.Connection, request: Request[Any]) -> None:
    """Carry one out among others. Raises if it took the whole transaction with it (a full disk, RAISE(ROLLBACK))."""
    connection.execute("SAVEPOINT one_of_many")
    try:
        request.succeed(request.act(connection))
    except BaseException as error:
        if not connection.in_transaction:
            raise
        connection.execute("ROLLBACK TO one_of_many")
        request.fail(error)
    connection.execute("RELEASE one_of_many")
