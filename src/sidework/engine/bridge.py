"""`Bridge`: the one way from the event loop to what blocks, the database above all."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
T = TypeVar("T")


class Bridge:
    """A few threads of its own that make blocking calls, one after the other or (threads > 1) side by side."""

    def __init__(self, name: str, *, threads: int = 1) -> None:
        """Name the threads; none is started before the first call."""
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix=name)

    async def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call in a thread and return what it returns.

        A call once begun is carried through even if the caller is cancelled: its effect in the database would be
        there all the same, only nobody would know of it.
        """
        call = self._threads.submit(function, *args, **kwargs)
        return await asyncio.shield(asyncio.wrap_future(call))

    def close(self) -> None:
        """Let the threads go; calls under way come to their end."""
        self._threads.shutdown(wait=False)
