"""`Attempt`: one try of one job, from its claim to its outcome; and the `Desk`, what all attempts of a worker share."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum
from typing import TYPE_CHECKING, Any

from sidework.errors import Discard, JobLost, Retry, SideworkError, Snooze
from sidework.model.job import LogLine, Progress, Report
from sidework.model.lifecycle import (
    DEFAULT_POLICY,
    Cancelled,
    Discarded,
    GivenBack,
    Happening,
    Raised,
    Returned,
    Snoozed,
    completed,
    decide,
)
from sidework.model.payload import MAX_ERROR_BYTES, clean_text, error_text

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable
    from datetime import datetime

    from sidework.clock import Clock
    from sidework.engine.events import Announcer, Event
    from sidework.engine.timer import Alarm
    from sidework.model.handler import JobHandler
    from sidework.model.job import ClaimedJob, Outcome
    from sidework.storage.contract import AsyncJobTransaction, JobTransaction, Membership, SharedTransaction, Storage

MOST_LINES_AT_ONCE = 1000
"""Log lines of one attempt that are kept between two reports."""
LONGEST_WAIT = timedelta(days=36_500)
CANCELLED_BY_REQUEST = "cancelled by request"


class Stop(Enum):
    """Why an attempt is to end from outside."""

    TIMEOUT = "it ran longer than its timeout"
    CANCEL = "somebody asked for its cancellation"
    GIVE_BACK = "the worker stops"
    LOST = "the job is held by somebody else"


@dataclass(frozen=True, kw_only=True, slots=True)
class Desk:
    """What all attempts of one worker share."""

    storage: Storage
    seat: Membership
    clock: Clock
    chance: Callable[[], float]
    announce: Announcer
    news: Callable[[Attempt], None]
    """Told, from any thread, that an attempt has something to report."""
    door: threading.Lock = field(default_factory=threading.Lock)
    """Held for a moment by who opens or forbids an attempt's transaction, or makes room for its lines."""


class Attempt:
    """One try of one job. Its fields belong to the event loop's thread, except where a method says otherwise.

    Most fields keep their class's value in most attempts: making an attempt costs what is particular to it.
    """

    timeout: float | None = None
    in_thread = False
    task: asyncio.Task[None] | None = None
    alarm: Alarm | None = None
    patience: Alarm | None = None
    seconds = 0.0
    began = False
    """The handler was called, or its task has come to its first step."""
    stop: Stop | None = None
    finishing = False
    """The handler is done with, and what follows is ours and short: not to be interrupted."""
    over = False
    """Its end was taken; whatever still comes from the handler does not count."""
    happened: Happening | None = None
    outcome: Outcome | None = None
    settled = False
    """Its own transaction has written the outcome."""
    completed_elsewhere = False
    """`job.complete()` has written the outcome in the user's session; whether that commits is the user's affair."""
    lost = False
    raised_after_end: str | None = None
    transaction: Any = None
    """A JobTransaction or AsyncJobTransaction, as the handler is sync or async."""
    shared: SharedTransaction | None = None
    """What its transaction is to be a part of; None: it commits by itself."""
    kept = False
    """Its end is written in a shared transaction: `concluded` is told when that is committed."""
    in_vain = False
    """The shared transaction could not be committed."""
    _outcome_kept: Outcome | None = None
    about_to_wait: Callable[[Attempt], object]
    """Called, in its thread, when its end is known and is to be kept in a shared transaction."""
    tell_end: Callable[[Attempt], object]
    """Called, in any thread, when what was kept is concluded."""
    returned_at = 0.0
    """When the handler was done, by the monotonic clock."""
    quickness = 0.0
    """Seconds that the handler took, the waiting for the lock not counted."""
    in_block = False
    committing = False
    aborted = False
    lock_seconds = 0.0
    """The longest that a transaction of its held the write lock."""
    result: object = None
    _has_news = False
    _progress: Progress | None = None
    _lines: deque[LogLine] | None = None
    _dropped_lines = 0

    def __init__(self, job: ClaimedJob, handler: JobHandler[..., Any] | None, desk: Desk) -> None:
        """Take the job as it was claimed and its handler (None: there is none here any more)."""
        self.job = job
        self.handler = handler
        self.started_at = desk.clock.monotonic()
        self._desk = desk

    @property
    def number(self) -> int:
        """Which try this is, counted from 1."""
        return self.job.attempts + 1

    @property
    def storage(self) -> Storage:
        """The storage that holds the job."""
        return self._desk.storage

    def announce_routine(self, event: Callable[..., Event], **facts: object) -> None:
        """Do as `announce`, for what happens to every job: not even made where nobody would hear it."""
        if self._desk.announce.hears_routine:
            self.announce(event, **facts)

    def announce(self, event: Callable[..., Event], **facts: object) -> None:
        """Tell the world an event about this attempt. On the loop only."""
        job = self.job
        self._desk.announce(event(job_id=job.id, key=job.key, queue=job.queue, attempt=self.number, **facts))

    def now(self) -> datetime:
        """Return the time."""
        return self._desk.clock.now()

    def monotonic(self) -> float:
        """Return seconds that never go back."""
        return self._desk.clock.monotonic()

    # ------------------------------------------------------------------------------------------- how it ends

    def outcome_of(self, happened: Happening) -> Outcome:
        """Return what is to be written about this."""
        if type(happened) is Returned:
            return completed(self.job, happened.result)
        policy = DEFAULT_POLICY if self.handler is None else self.handler.policy(self.job)
        return decide(self.job, happened, policy, now=self.now(), chance=self._desk.chance())

    def refused(self, reason: str) -> Outcome:
        """Return what is to be written instead of an outcome that could not be made or kept: FAILED."""
        happened = Discarded(clean_text(reason, MAX_ERROR_BYTES))
        return decide(self.job, happened, DEFAULT_POLICY, now=self.now(), chance=0.0)

    def returned(self, value: object) -> Returned:
        """Return what it means that the handler returned this. Raises Discard if it cannot be kept."""
        if value is None or self.handler is None:
            return Returned(None)
        try:
            return Returned(self.handler.encode_result(value))
        except Exception as error:
            raise Discard(f"what the handler returned cannot be kept as a result: {error}") from error

    def raised(self, error: BaseException) -> Happening:
        """Return what it means that the handler raised this."""
        match error:
            case Retry():
                return Raised(error_text(error), None if error.after is None else waiting_time(error.after))
            case Snooze():
                return Snoozed(waiting_time(error.after))
            case Discard():
                return Discarded(clean_text(str(error.reason), MAX_ERROR_BYTES))
            case _ if self.stop is None:
                return Raised(error_text(error))
            case _:
                return self.stopped(error)

    def stopped(self, cause: BaseException | None = None) -> Happening:
        """Return what it means that the attempt was ended from outside. `cause`: what the handler raised then."""
        match self.stop:
            case Stop.CANCEL:
                return Cancelled(CANCELLED_BY_REQUEST)
            case Stop.TIMEOUT:
                error = TimeoutError(f"the handler ran longer than its timeout of {self.timeout:g} s")
                error.__cause__ = cause
                return Raised(error_text(error))
            case _:
                return GivenBack()

    # ------------------------------------------------------------------------------------------ its transaction

    @property
    def may_not_be_interrupted(self) -> bool:
        """Whether its outcome is being written right now."""
        return self.finishing or self.committing

    def open_transaction(self) -> JobTransaction | AsyncJobTransaction:
        """Return its transaction, opened if need be. From the handler's thread. Raises JobLost once it is aborted."""
        with self._desk.door:
            if self.aborted:
                raise JobLost(
                    f"the attempt of job {self.job.id} is over: {self.stop.value if self.stop else 'aborted'}"
                )
            if self.transaction is None:
                self.transaction = self._new_transaction()
            transaction: JobTransaction | AsyncJobTransaction = self.transaction
            return transaction

    def _new_transaction(self) -> JobTransaction | AsyncJobTransaction:
        if self.shared is not None:
            return self.shared.transaction(self.job.claim, self.concluded)
        if self.handler is not None and self.handler.is_async:
            return self.storage.async_transaction(self.job.claim)
        return self.storage.transaction(self.job.claim)

    def open_block(self) -> JobTransaction | AsyncJobTransaction:
        """Return its transaction for `job.transaction()`. Raises SideworkError if the job is completed already."""
        if self.settled or self.in_block:
            state = "has completed its job" if self.settled else "is in job.transaction() already"
            raise SideworkError(f"job.transaction() is there once per attempt, and this one {state}")
        transaction = self.open_transaction()
        self.shared = None  # its end is durable when the block is left, and so cannot wait for others
        return transaction

    def close_door(self) -> JobTransaction | AsyncJobTransaction | None:
        """Let no transaction be opened any more; return the one that is open."""
        with self._desk.door:
            self.aborted = True
            transaction: JobTransaction | AsyncJobTransaction | None = self.transaction
            return transaction

    def commit(self, value: object) -> None:
        """Write the outcome and commit the handler's writes with it. Raises JobLost if it no longer holds the job."""
        outcome = self.outcome_of(self.returned(value))
        if self.shared is not None:
            self.about_to_wait(self)
        self.committing = True
        try:
            self._outcome_kept = outcome
            held = self.transaction.commit(outcome, now=self.now())
            if held and self.shared is not None:
                self.kept = True
            else:
                self._committed(outcome, held=held)
        finally:
            self.committing = False

    def concluded(self, error: Exception | None, *, at_fault: bool) -> None:
        """Take what became of the shared transaction in which its end was kept. In whatever thread ended that.

        Where others may be to blame, it is given back without having used an attempt; it is not to share again.
        """
        if error is None:
            self.settled = True
            self.outcome = self._outcome_kept
        else:
            self.in_vain = True
            self.happened = self.raised(error) if at_fault else GivenBack()
        self.tell_end(self)

    async def acommit(self, value: object) -> None:
        """The same for an async handler."""
        outcome = self.outcome_of(self.returned(value))
        self.committing = True
        try:
            self._committed(outcome, held=await self.transaction.commit(outcome, now=self.now()))
        finally:
            self.committing = False

    @property
    def has_written(self) -> bool:
        """Whether its transaction has begun, even if the database itself has undone it since."""
        return self.transaction is not None and (self.transaction.begun or self.transaction.held_for > 0)

    def note_lock(self) -> None:
        """Note for how long its transaction held the write lock."""
        if self.transaction is not None:
            self.lock_seconds = max(self.lock_seconds, self.transaction.held_for)

    def _committed(self, outcome: Outcome, *, held: bool) -> None:
        if not held:
            self.lost = True
            raise JobLost(f"job {self.job.id} is no longer held by this attempt; nothing was committed")
        self.settled = True
        self.outcome = outcome

    # ------------------------------------------------------------------------------------------ what it reports

    def set_progress(self, progress: Progress) -> None:
        """Keep the latest progress for the next report. From any thread."""
        with self._desk.door:
            self._progress = progress
        self._tell()

    def add_line(self, message: str) -> None:
        """Keep a log line for the next report. From any thread."""
        with self._desk.door:
            if self._lines is None:
                self._lines = deque(maxlen=MOST_LINES_AT_ONCE)
            if len(self._lines) == MOST_LINES_AT_ONCE:
                self._dropped_lines += 1
            self._lines.append(LogLine(at=self.now(), message=message))
        self._tell()

    def take_report(self) -> Report | None:
        """Return what there is to report since the last time, or None."""
        self._has_news = False
        with self._desk.door:
            progress, self._progress = self._progress, None
            lines, self._lines = list(self._lines or ()), None
            dropped, self._dropped_lines = self._dropped_lines, 0
        if dropped:
            lines.insert(0, LogLine(at=lines[0].at, message=f"({dropped} lines before this one were dropped)"))
        if progress is None and not lines:
            return None
        return Report(claim=self.job.claim, progress=progress, lines=tuple(lines))

    def _tell(self) -> None:
        if not self._has_news and not self.over:
            self._has_news = True
            self._desk.news(self)


def waiting_time(after: float | timedelta) -> timedelta:
    """Return what a handler asked to wait for; never negative, at most a century."""
    try:
        wait = after if isinstance(after, timedelta) else timedelta(seconds=after)
    except OverflowError:
        wait = LONGEST_WAIT if after > 0 else timedelta(0)  # type: ignore[operator]
    return min(max(wait, timedelta(0)), LONGEST_WAIT)
