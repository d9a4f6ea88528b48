"""Running things in threads, and waiting for what must happen: with a deadline, never for a time."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, TypeVar

from sidework.clock import SystemClock

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

LONG = 20.0
"""Seconds after which a test gives up waiting for what should happen at once."""


def in_thread(act: Callable[[], T]) -> Future[T]:
    """Run in a thread of its own; its answer is awaited with `result(LONG)`."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(act())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def until(condition: Callable[[], bool]) -> None:
    """Look again until it holds."""
    clock = SystemClock()
    deadline = clock.monotonic() + LONG
    pause = threading.Event()
    while not condition():
        assert clock.monotonic() < deadline, "it did not happen"
        pause.wait(0.001)
