"""An async handler's `db`: an aiosqlite.Connection whose transaction belongs to the service.

It has no thread of its own: what aiosqlite would run there is run in threads that outlive the job.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, cast

import aiosqlite

from sidework.storage.sqlite.owned import refuse

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Awaitable, Callable, Generator

    from sidework.storage.sqlite.owned import OwnedConnection

T = TypeVar("T")


class OwnedAsyncConnection(aiosqlite.Connection):
    """What an async handler gets as `db`. It is open from the start, and closed by the service."""

    def __init__(self, owned: OwnedConnection, in_thread: Callable[[Callable[[], Any]], Awaitable[Any]]) -> None:
        super().__init__(self._never_opened, iter_chunk_size=64)
        self._owned = owned
        self._in_thread = in_thread
        self._turn = asyncio.Lock()

    @property
    def _conn(self) -> sqlite3.Connection:
        return cast("sqlite3.Connection", self._owned)

    async def _execute(self, fn: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Run one operation; those of several tasks in the order in which they came."""
        async with self._turn:
            return cast("T", await self._in_thread(partial(fn, *args, **kwargs)))

    def __await__(self) -> Generator[Any, None, OwnedAsyncConnection]:
        return self._itself().__await__()

    async def _itself(self) -> OwnedAsyncConnection:
        return self

    async def __aenter__(self) -> NoReturn:
        """Raise TransactionOwned: leaving would close."""
        refuse()

    async def close(self) -> None:
        """Raise TransactionOwned."""
        refuse()

    def stop(self) -> None:
        """Do nothing: there is no thread to stop."""

    @staticmethod
    def _never_opened() -> sqlite3.Connection:
        raise AssertionError("an owned connection is open from the start")
