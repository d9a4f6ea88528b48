"""`JobContext`: what a handler that takes `job` gets, and how code below it finds out that it runs in a job."""

from __future__ import annotations

import hashlib
import math
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from sidework.errors import JobLost, SideworkError
from sidework.model.job import Progress
from sidework.model.payload import clean_text

if TYPE_CHECKING:
    from types import TracebackType

    from sidework.engine.attempt import Attempt
    from sidework.storage.contract import AsyncJobTransaction, JobTransaction, Storage

MAX_MESSAGE_BYTES = 4 * 1024


class JobContext:
    """The job that a handler runs for."""

    __slots__ = ("_attempt",)

    def __init__(self, attempt: Attempt) -> None:
        """Stand for this attempt."""
        self._attempt = attempt

    @property
    def id(self) -> int:
        """The job's id."""
        return self._attempt.job.id

    @property
    def key(self) -> str:
        """The key of its handler."""
        return self._attempt.job.key

    @property
    def attempt(self) -> int:
        """Which try this is, counted from 1."""
        return self._attempt.number

    @property
    def max_attempts(self) -> int:
        """How many tries there are at most."""
        return self._attempt.job.max_attempts

    @property
    def cancelled(self) -> bool:
        """Whether the handler should end soon: cancelled by somebody, out of time, or its worker stops."""
        return self._attempt.stop is not None

    @property
    def idempotency_key(self) -> str:
        """32 hexadecimal digits, the same for every attempt of this job and for no other job."""
        job = self._attempt.job
        return hashlib.sha256(f"{job.key}\n{job.id}\n{job.created_at}".encode()).hexdigest()[:32]

    @property
    def result(self) -> object:
        """What `job.transaction()` completes the job with; to be set before its end."""
        return self._attempt.result

    @result.setter
    def result(self, value: object) -> None:
        self._attempt.result = value

    def progress(self, done: float, total: float | None = None, message: str | None = None) -> None:
        """Say how far the job is. Never blocks: the latest is kept about four times a second, and at the end.

        Raises ValueError for what is not a finite number.
        """
        for number in (done, total):
            if number is not None and not math.isfinite(number):
                raise ValueError(f"progress takes finite numbers, not {number!r}")
        said = None if message is None else clean_text(str(message), MAX_MESSAGE_BYTES)
        self._attempt.set_progress(
            Progress(done=float(done), total=None if total is None else float(total), message=said)
        )

    def log(self, message: str) -> None:
        """Leave a line with the job. Never blocks; of over 1,000 lines in a quarter of a second the last are kept."""
        self._attempt.add_line(clean_text(str(message), MAX_MESSAGE_BYTES))

    def transaction(self, *, result: object = None) -> TransactionBlock:
        """Return the block `with job.transaction() as db:` (`async with` in an async handler).

        It begins at once, and its end commits the writes and completes the job with `result`, or with what was
        assigned to `job.result` inside. An exception inside rolls everything back. Once per attempt.

        Raises JobLost if this attempt no longer holds the job, DatabaseBusy after waiting too long for the lock.
        """
        return TransactionBlock(self._attempt, result)

    def complete(self, *, db: object, result: object = None) -> None:
        """Complete the job inside the transaction of your own session or connection; you commit.

        Raises JobLost if this attempt no longer holds the job: then roll back.
        """
        attempt = self._attempt
        outcome = attempt.outcome_of(attempt.returned(result))
        self._completed(held=attempt.storage.complete_with(db, outcome, now=attempt.now()))

    async def acomplete(self, *, db: object, result: object = None) -> None:
        """The same for a session or connection that is awaited."""
        attempt = self._attempt
        outcome = attempt.outcome_of(attempt.returned(result))
        self._completed(held=await attempt.storage.acomplete_with(db, outcome, now=attempt.now()))

    def _completed(self, *, held: bool) -> None:
        if not held:
            raise JobLost(f"job {self.id} is no longer held by this attempt; roll back")
        self._attempt.completed_elsewhere = True

    @property
    def storage(self) -> Storage:
        """The storage that holds the job: only an enqueue into this one joins the handler's transaction."""
        return self._attempt.storage

    @property
    def joined_transaction(self) -> JobTransaction | AsyncJobTransaction | None:
        """The transaction that an enqueue in this handler must join, or None: it commits by itself.

        Where the handler takes `db`, this is so from the first line: an enqueue of its own could wait for the lock
        that `db` holds, and would outlive a handler that then fails.
        """
        attempt = self._attempt
        if attempt.settled or attempt.handler is None:
            return None
        if attempt.in_block or "db" in attempt.handler.given:
            return attempt.open_transaction()
        return None


current_job: ContextVar[JobContext | None] = ContextVar("sidework_current_job", default=None)
"""The job whose handler runs here, in its task or thread and in what they start; None outside."""


class TransactionBlock:
    """`job.transaction()` as a context manager, sync in sync handlers and async in async ones."""

    __slots__ = ("_attempt", "_result", "_transaction")

    def __init__(self, attempt: Attempt, result: object) -> None:
        """Begin nothing yet."""
        self._attempt = attempt
        self._result = result
        self._transaction: Any = None

    def __enter__(self) -> Any:
        if self._attempt.handler is not None and self._attempt.handler.is_async:
            raise SideworkError("in an async handler write `async with job.transaction() as db:`")
        self._open()
        try:
            self._transaction.begin()
        except BaseException:
            self._transaction.close()
            self._forget()
            raise
        return self._begun()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._attempt.commit(self._attempt.result)
        finally:
            self._ended()
            if not self._attempt.settled:
                self._transaction.close()
                self._forget()

    async def __aenter__(self) -> Any:
        if self._attempt.handler is not None and not self._attempt.handler.is_async:
            raise SideworkError("in a sync handler write `with job.transaction() as db:`")
        self._open()
        try:
            await self._transaction.begin()
        except BaseException:
            await self._transaction.close()
            self._forget()
            raise
        return self._begun()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                await self._attempt.acommit(self._attempt.result)
        finally:
            self._ended()
            if not self._attempt.settled:
                await self._transaction.close()
                self._forget()

    def _open(self) -> None:
        self._transaction = self._attempt.open_block()
        self._attempt.result = self._result

    def _begun(self) -> Any:
        self._attempt.in_block = True
        return self._transaction.connection

    def _ended(self) -> None:
        self._attempt.in_block = False
        self._attempt.note_lock()

    def _forget(self) -> None:
        """Let another block begin anew, unless the transaction is the one behind the handler's `db`."""
        if self._attempt.handler is None or "db" not in self._attempt.handler.given:
            self._attempt.transaction = None
