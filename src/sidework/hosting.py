"""Where a service runs: in a thread with an event loop of its own, or as a task of the running loop; and signals."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from sidework.errors import SideworkError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

INTERRUPTED = 130
"""The exit status of a process that was interrupted."""


class Serve(Protocol):
    """The whole life of a running service; calls `ready` when it takes jobs. True: all that was begun was finished."""

    def __call__(self, ready: Callable[[], None]) -> Coroutine[object, object, bool]: ...


class ThreadHost:
    """Runs a service in a thread of its own."""

    def __init__(self, serve: Serve) -> None:
        """Take what is to be run."""
        self._serve = serve
        self._ready = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="sidework", daemon=True)

    def start(self) -> None:
        """Return when the service takes jobs. Raises what kept it from that."""
        self._thread.start()
        self._ready.wait()
        self._raise_error()

    def refuse_its_own_thread(self) -> None:
        """Raise if this is the thread that runs the service."""
        if self._thread is threading.current_thread():
            raise SideworkError("a handler or hook cannot stop the service that runs it: it would wait for itself")

    def stop(self, ask_to_stop: Callable[[], None]) -> None:
        """Ask, and return when the service has ended. Raises what it ended with."""
        ask_to_stop()
        self._thread.join()
        self._raise_error()

    def _run(self) -> None:
        try:
            asyncio.run(self._serve(self._ready.set))
        except BaseException as error:  # noqa: BLE001 - it is raised where somebody can act: in start() or stop()
            self._error = error
        finally:
            self._ready.set()

    def _raise_error(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error


class TaskHost:
    """Runs a service as a task of the running event loop."""

    def __init__(self, serve: Serve) -> None:
        """Take what is to be run."""
        self._serve = serve
        self._task: asyncio.Task[bool] | None = None

    async def start(self) -> None:
        """Return when the service takes jobs. Raises what kept it from that."""
        ready = asyncio.Event()
        self._task = task = asyncio.create_task(self._serve(ready.set), name="sidework")
        waiting = asyncio.create_task(ready.wait())
        try:
            await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
        if not ready.is_set():
            task.result()

    async def stop(self, ask_to_stop: Callable[[], None]) -> None:
        """Ask, and return when the service has ended. Raises what it ended with."""
        ask_to_stop()
        if self._task is not None:
            await self._task


@contextmanager
def stopping_signals(ask_to_stop: Callable[[bool], None]) -> Iterator[None]:
    """While it lasts, SIGTERM and SIGINT ask for a stop: the first a graceful one, the second one at once (True).

    A third ends the process. Only the main thread gets signals; elsewhere this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    requests = iter((False, True))

    def on_signal() -> None:
        now = next(requests, None)
        if now is None:
            os._exit(INTERRUPTED)
        ask_to_stop(now)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
