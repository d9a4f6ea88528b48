"""`Bridge`: the one way from the event loop to what blocks, the database above all."""

from __future__ import annotations

import asyncio
import threading
import time
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
T = TypeVar("T")

SHORTEST_REST = 1e-6
"""Seconds; the system makes some 50 microseconds of it."""
BETWEEN_RESTS = 0.0003
"""Seconds of the loop's own work, or one round of it that takes longer: resting at every round it did a tenth less."""
MOST_ROUNDS = 4
"""Between two rests: rounds in which nothing is to be done are short, and the interpreter is wanted elsewhere."""
MOST_RESTS = 300
"""During one call: a tenth of a second at least. What takes longer waits for somebody else's lock, not for us."""


class Bridge:
    """A few threads of its own that make blocking calls, one after the other or (threads > 1) side by side.

    Not an executor of the standard library: of its futures the way back to the loop takes twice as long, and a call
    that waits in the queue is dropped when its caller is cancelled.
    """

    def __init__(self, name: str, *, threads: int = 1, is_loop_busy: Callable[[], bool] = bool) -> None:
        """Name the threads; none is started before the first call.

        is_loop_busy: whether the loop has so much to do that it would never let go of the interpreter; then it makes
        way for a call now and then. See `_make_way`.
        """
        self._name = name
        self._threads = threads
        self._is_loop_busy = is_loop_busy
        self._started = 0
        self._calls: SimpleQueue[Call | None] = SimpleQueue()

    async def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call in a thread and return what it returns.

        The call is carried through even if the caller is cancelled: its effect in the database would be there all the
        same, only nobody would know of it.
        """
        if self._started < self._threads:
            self._add_thread()
        call = Call(partial(function, *args, **kwargs))
        self._calls.put(call)
        await self._make_way(call)
        answer: T = await call.answer
        return answer

    async def _make_way(self, call: Call) -> None:
        """Let go of the interpreter for a moment now and then, for as long as both need it.

        The interpreter changes hands after 5 ms, or where a thread blocks. A call to SQLite blocks dozens of times,
        for microseconds, and a loop that runs one handler after the other never does: each time the call would wait
        5 ms to go on. A rest of no length would not do: the thread that waits takes some 50 microseconds to wake up.
        """
        for _ in range(MOST_RESTS):
            if call.answer.done() or not self._is_loop_busy():
                return
            time.sleep(SHORTEST_REST)  # noqa: ASYNC251 - the loop is to stand still: that lets the other thread on
            await _work_on(call)

    def close(self) -> None:
        """Let the threads go; calls under way come to their end."""
        for _ in range(self._started):
            self._calls.put(None)
        self._started = 0

    def _add_thread(self) -> None:
        self._started += 1
        name = f"{self._name}-{self._started}"
        threading.Thread(target=_serve, args=(self._calls,), name=name, daemon=True).start()


class Call:
    """One call, and its answer for whoever awaits it."""

    __slots__ = ("_function", "_loop", "answer")

    def __init__(self, function: Callable[[], Any]) -> None:
        """Take what is to be called."""
        self._function = function
        self._loop = asyncio.get_running_loop()
        self.answer: asyncio.Future[Any] = self._loop.create_future()

    def make(self) -> None:
        """Make the call and send the answer back to the loop."""
        try:
            result = self._function()
        except BaseException as error:  # noqa: BLE001 - it is raised where the call is awaited
            self._send(self._raise, error)
        else:
            self._send(self._return, result)

    def _send(self, deliver: Callable[[Any], None], answer: object) -> None:
        try:
            self._loop.call_soon_threadsafe(deliver, answer)
        except RuntimeError:  # the loop is closed, and so nobody waits
            return

    def _return(self, result: object) -> None:
        if not self.answer.done():
            self.answer.set_result(result)

    def _raise(self, error: BaseException) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)


async def _work_on(call: Call) -> None:
    """Let the loop work until its next rest is due or the call is answered."""
    clock = asyncio.get_running_loop().time
    until = clock() + BETWEEN_RESTS
    for _ in range(MOST_ROUNDS):
        await asyncio.sleep(0)
        if call.answer.done() or clock() >= until:
            return


def _serve(calls: SimpleQueue[Call | None]) -> None:
    while (call := calls.get()) is not None:
        call.make()
        del call  # an idle thread must not keep the last answer alive
