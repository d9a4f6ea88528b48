"""`Writers`: threads for handlers that write to the database, no more at once than are of use.

Only one transaction writes at a time. A thread too many does not write sooner: it waits for its turn, and handing the
turn on, and the interpreter with it, takes longer than a small write. So as many threads work as it takes for one of
them to write always, and each takes the next call by itself.
"""

from __future__ import annotations

import threading
from collections import deque
from queue import SimpleQueue
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from sidework.engine.together import Together

    Call = Callable[[Together | None], object]
    """Made with what its thread's calls commit together; None: each commits for itself."""

MANY = 1_000_000
NEVER_SLOW = float("inf")
SLOW = 0.005
"""Seconds after which a call does not count any more: it waits for something else, or is stuck."""
TOLD_AT_ONCE = 5
"""Ends that gather before the loop is woken, while further calls are at hand."""
WEIGHT = 0.1
"""Of the newest measurement in a moving average."""


class Writers:
    """Daemon threads and the calls that wait for them. `start` and `close` are called on the event loop."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        monotonic: Callable[[], float],
        tell: Callable[[], None],
        *,
        together: Callable[[], Together | None] | None = None,
        slow: Callable[[Together], object] = bool,
    ) -> None:
        """tell: called in a thread when ends of calls are to be collected, and on the loop now and then.

        together: makes what the calls of a thread commit together. Then one thread works at a time: there is no
        waiting for the disk that another one could make use of. slow: told on the loop, now and then, of a call among
        these that takes long.
        """
        self._loop = loop
        self._monotonic = monotonic
        self._tell = tell
        self._mutex = threading.Lock()
        self._together = together
        self._tell_slow = slow
        self._calls: deque[Call] = deque()
        self._parked: list[WritingThread] = []
        self._begun: dict[WritingThread, float] = {}
        self._slow = 0
        self._useful = MANY if together is None else 1
        self._outside = self._locked = 0.0
        self._untold = 0
        self._started = 0
        self._closed = False
        self._watch: asyncio.TimerHandle | None = None

    def start(self, call: Call) -> None:
        """Make the call in one of the threads, soon. The call must not raise."""
        with self._mutex:
            self._calls.append(call)
            self._engage()
        if self._watch is None:
            self._watch = self._loop.call_later(SLOW, self._look_for_slow_calls)

    def measured(self, *, outside: float, locked: float) -> None:
        """Learn how long a call worked without and with the write lock, in seconds. In its thread."""
        with self._mutex:
            if not self._locked:
                self._outside, self._locked = outside, locked
            self._outside += WEIGHT * (outside - self._outside)
            self._locked += WEIGHT * (locked - self._locked)
            if self._locked > 0:
                self._useful = max(1, round((self._outside + self._locked) / self._locked))
            else:
                self._useful = MANY

    def close(self) -> None:
        """Let every thread end when it is free."""
        with self._mutex:
            self._closed = True
            parked, self._parked = self._parked, []
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        for thread in parked:
            thread.take(None)

    def call_at_hand(self, thread: WritingThread) -> Call | None:
        """Return what a thread that is done with its call is to do next, if it is there already.

        If not, the thread stays busy: it commits, and another one would only wait for that.
        """
        with self._mutex:
            self._begun.pop(thread, None)
            if self._wants_one_more():
                return self._hand_out(thread)
            self._begun[thread] = NEVER_SLOW
            return None

    def next_call(self, thread: WritingThread) -> Call | None:
        """Return what a thread that is done with its call is to do next; None: it is to wait."""
        with self._mutex:
            self._begun.pop(thread, None)
            call = self._hand_out(thread) if self._wants_one_more() else None
            if call is None and self._closed:
                thread.take(None)
            elif call is None:
                self._parked.append(thread)
            self._untold += 1
            tell = call is None or self._untold >= TOLD_AT_ONCE
            if tell:
                self._untold = 0
        if tell:
            self._tell()
        return call

    def _look_for_slow_calls(self) -> None:
        """Let those that take long keep nobody waiting; now and then, while there are calls."""
        with self._mutex:
            slow = self._slow_ones(self._monotonic() - SLOW)
            self._slow = len(slow)
            self._engage()
            waiting = bool(self._calls or self._begun)
        self._watch = self._loop.call_later(SLOW, self._look_for_slow_calls) if waiting else None
        for thread in slow:
            if thread.together is not None:
                self._tell_slow(thread.together)
        self._tell()

    # ------------------------------------------------------------------------------------------- with the mutex held

    def _engage(self) -> None:
        """Let further threads take calls, as far as that is of use."""
        while self._wants_one_more():
            thread = self._parked.pop() if self._parked else self._new_thread()
            thread.take(self._hand_out(thread))

    def _slow_ones(self, since: float) -> list[WritingThread]:
        return [
            thread
            for thread, begun_at in self._begun.items()
            if begun_at <= since and not (thread.together is not None and thread.together.wants_to_write)
        ]

    def _wants_one_more(self) -> bool:
        return bool(self._calls) and len(self._begun) < self._useful + self._slow

    def _hand_out(self, thread: WritingThread) -> Call:
        self._begun[thread] = self._monotonic()
        return self._calls.popleft()

    def _new_thread(self) -> WritingThread:
        self._started += 1
        together = None if self._together is None else self._together()
        return WritingThread(self, together, f"sidework-writer-{self._started}")


class WritingThread:
    """One thread: makes the call that it is given, then asks for the next by itself."""

    __slots__ = ("_given", "_writers", "together")

    def __init__(self, writers: Writers, together: Together | None, name: str) -> None:
        """Start the thread; it waits."""
        self._writers = writers
        self.together = together
        """What its calls commit together; None: each commits for itself."""
        self._given: SimpleQueue[Call | None] = SimpleQueue()
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def take(self, call: Call | None) -> None:
        """Make this call; None: end."""
        self._given.put(call)

    def _run(self) -> None:
        while (call := self._given.get()) is not None:
            self._make(call)
            del call  # an idle thread must not keep the last job alive

    def _make(self, call: Call | None) -> None:
        while call is not None:
            call(self.together)
            call = self._next()

    def _next(self) -> Call | None:
        if self.together is not None:
            if (call := self._writers.call_at_hand(self)) is not None:
                return call
            self.together.finish()
        return self._writers.next_call(self)
