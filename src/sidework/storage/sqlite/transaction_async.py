"""The transaction of an async handler: the same as that of a sync one, used from threads."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from sidework.storage.sqlite.owned_async import OwnedAsyncConnection
from sidework.storage.sqlite.shared import SqliteSharedTransaction

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from sidework.model.job import Claim, NewJob, Outcome
    from sidework.storage.sqlite.callers import Callers
    from sidework.storage.sqlite.gate import WriteGate
    from sidework.storage.sqlite.pool import ConnectionPool

T = TypeVar("T")


class SqliteAsyncJobTransaction:
    """The transaction of an async handler: the same one, used from threads that the pool keeps."""

    def __init__(self, claim: Claim, *, gate: WriteGate, pool: ConnectionPool, callers: Callers) -> None:
        around = SqliteSharedTransaction(gate=gate, pool=pool, callers=callers, one_thread=False)
        self._transaction = around.transaction(claim)
        self._gate = gate
        self._pool = pool
        self._connection = OwnedAsyncConnection(self._transaction.connection, self._in_thread)

    @property
    def connection(self) -> OwnedAsyncConnection:
        """The handler's `db`."""
        return self._connection

    @property
    def begun(self) -> bool:
        """Whether the write transaction is open."""
        return self._transaction.begun

    @property
    def waited_for(self) -> float:
        """Seconds for which it waited for the write lock."""
        return self._transaction.waited_for

    @property
    def held_for(self) -> float:
        """Seconds for which the write lock was, or has been until now, held."""
        return self._transaction.held_for

    async def begin(self) -> None:
        """Begin now, unless it has begun."""
        await self._in_thread(self._transaction.begin)

    async def insert(self, jobs: Sequence[NewJob], *, now: datetime) -> list[int]:
        """Insert jobs that exist if and only if this commits."""
        return await self._in_thread(partial(self._transaction.insert, jobs, now=now))

    async def commit(self, outcome: Outcome, *, now: datetime) -> bool:
        """Write the outcome and commit everything. False: superseded, and all of it rolled back."""
        return await self._in_thread(partial(self._transaction.commit, outcome, now=now))

    def abort(self) -> None:
        """Roll back and cut the handler off. From any thread, at any time, more than once."""
        self._transaction.abort()

    async def close(self) -> None:
        """End without an outcome: roll back what is open."""
        if self._transaction.used:
            await self._in_thread(self._transaction.close)
        else:
            self._transaction.close()

    async def _in_thread(self, act: Callable[[], T]) -> T:
        self._gate.refuse_forked_child()
        return await asyncio.get_running_loop().run_in_executor(self._pool.threads, act)
