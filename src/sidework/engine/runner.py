"""`Runner`: begins attempts, ends them from outside where need be, and says what happened."""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any

from sidework.engine.attempt import Attempt, Desk, Stop
from sidework.engine.context import JobContext, current_job
from sidework.engine.events import (
    AbandonedHandlerEnded,
    HandlerAbandoned,
    JobStarted,
    LockHeldLong,
    RaisedAfterEnd,
    logger,
)
from sidework.engine.task import begin_task
from sidework.engine.together import Together
from sidework.engine.writers import Writers
from sidework.errors import Discard, InvalidPayload, UnknownJobKey
from sidework.model.pace import COST_OF_A_COMMIT, UNKNOWN, Pace, after_run, in_debt
from sidework.model.payload import error_text

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Mapping

    from sidework.engine.bridge import Bridge
    from sidework.engine.executors import Threads
    from sidework.engine.timer import Timer
    from sidework.model.handler import JobHandler
    from sidework.model.job import ClaimedJob, Outcome
    from sidework.model.lifecycle import Happening

CLEANUP_SECONDS = 10.0
"""What a cancelled async handler gets for its finally-blocks before its attempt is over without it."""
LONG_LOCK_SECONDS = 0.5


class Runner:
    """Runs attempts. Made and used on the event loop; what the handlers do happens in their own tasks and threads."""

    def __init__(
        self,
        desk: Desk,
        handlers: Mapping[str, JobHandler[..., Any]],
        service: object,
        *,
        threads: Threads,
        bridge: Bridge,
        timer: Timer,
        ended: Callable[[Attempt], None],
    ) -> None:
        """ended: called on the loop with each attempt that is over; its `outcome` is to be written unless None."""
        self._desk = desk
        self._seat = desk.seat
        self._handlers = handlers
        self._service = service
        self._threads = threads
        self._bridge = bridge
        self._timer = timer
        self._tell_ended = ended
        self._loop = asyncio.get_running_loop()
        self._blank = contextvars.copy_context()  # handlers start from here, and never see each other's variables
        self._writers = Writers(self._loop, desk.clock.monotonic, self._wake_to_collect)
        self._can_share = self._new_together() is not None
        self._sharers = Writers(
            self._loop,
            desk.clock.monotonic,
            self._wake_to_collect,
            together=self._new_together,
            slow=self._look_at_slow_one,
        )
        self._paces: dict[str, Pace] = {}
        """Of handlers that write through `db` in threads, by key."""
        self._done: deque[Attempt] = deque()
        self._collecting = False
        self._over_at_once: list[Attempt] = []
        self._background: set[asyncio.Task[None]] = set()

    # ------------------------------------------------------------------------------------------------ beginning

    def start(self, job: ClaimedJob) -> Attempt:
        """Begin one attempt of a job and return at once."""
        handler = self._handlers.get(job.key)
        attempt = Attempt(job, handler, self._desk)
        attempt.announce_routine(JobStarted)
        if handler is not None and (timeout := handler.timeout_of(job)) is not None:
            attempt.timeout = timeout
            attempt.alarm = self._timer.call_later(timeout, self.stop, attempt, Stop.TIMEOUT)
        if handler is None or handler.runs_on_loop(job):
            task = begin_task(self._run_on_loop(attempt), self._loop, self._blank.copy())
            if not task.done():
                attempt.task = task
        else:
            attempt.in_thread = attempt.began = True
            if "db" in handler.given:
                context = self._blank.copy()
                writers = self._sharers if self._may_share(job) else self._writers
                writers.start(lambda together: context.run(self._write_in_thread, attempt, together))
            else:
                self._threads.start(partial(self._blank.copy().run, self._run_in_thread, attempt))
        return attempt

    def unstarted(self, job: ClaimedJob) -> Attempt:
        """Return an attempt of a job that is not going to begin."""
        return Attempt(job, self._handlers.get(job.key), self._desk)

    async def _run_on_loop(self, attempt: Attempt) -> None:
        attempt.began = True
        current_job.set(JobContext(attempt))
        try:
            if self._may_begin(attempt):
                handler = _handler_of(attempt)
                value = _function_of(handler)(**self._arguments(attempt, handler))
                if handler.is_async:
                    value = await value
                attempt.finishing = True
                if attempt.transaction is None or not handler.is_async:
                    happened = _conclude(attempt, value)
                else:
                    happened = await _conclude_async(attempt, value)
            else:
                happened = attempt.stopped()
        except GeneratorExit:  # the loop is gone; nothing can be awaited or told any more
            raise
        except BaseException as error:  # noqa: BLE001 - a handler may raise SystemExit; it must not end the worker
            attempt.finishing = True
            await _roll_back_async(attempt)
            happened = _what_it_means(attempt, error)
        if attempt.task is None:
            self._take_end_soon(attempt, happened)
            return
        self._take_end(attempt, happened)
        attempt.task = None  # whose context holds the attempt: a ring that only the garbage collector would undo

    def _run_in_thread(self, attempt: Attempt) -> None:
        self._call_in_thread(attempt)
        self._done.append(attempt)
        self._wake_to_collect()

    def _write_in_thread(self, attempt: Attempt, together: Together | None) -> None:
        began_at = attempt.monotonic()
        if together is not None:
            attempt.about_to_wait, attempt.tell_end = self._mark_as_ended, self._done.append
            together.take(attempt)
        self._call_in_thread(attempt)
        if (transaction := attempt.transaction) is not None:
            attempt.quickness = attempt.returned_at - began_at - transaction.waited_for
            if together is None:
                locked = transaction.held_for
                worked = attempt.monotonic() - began_at - transaction.waited_for
                self._writers.measured(outside=max(worked - locked, 0.0), locked=locked)
        if not attempt.kept:
            self._done.append(attempt)
        if together is not None:
            together.ended()

    def _call_in_thread(self, attempt: Attempt) -> None:
        current_job.set(JobContext(attempt))
        if not self._may_begin(attempt):
            attempt.happened = attempt.stopped()
            return
        try:
            handler = _handler_of(attempt)
            value = _function_of(handler)(**self._arguments(attempt, handler))
            attempt.finishing = True
            attempt.returned_at = attempt.monotonic()
            happened = _conclude(attempt, value)
            if not attempt.kept:
                attempt.happened = happened
        except BaseException as error:  # noqa: BLE001 - a handler may raise SystemExit; its thread lives on
            attempt.finishing = True
            attempt.returned_at = attempt.monotonic()
            _roll_back(attempt)
            attempt.happened = _what_it_means(attempt, error)

    # ------------------------------------------------------------------------------------ what commits together

    def _may_share(self, job: ClaimedJob) -> bool:
        """Whether the job's end may wait for a commit with others.

        Never where a commit that fails could not be made good by running the job once more, and never where the job
        may have killed a worker.
        """
        if not self._can_share or job.max_attempts == 1 or job.crashes:
            return False
        return self._paces.get(job.key, UNKNOWN).may_share(now=self._desk.clock.monotonic())

    def _learn_pace(self, attempt: Attempt) -> None:
        pace, now = self._paces.get(attempt.job.key, UNKNOWN), attempt.monotonic()
        if attempt.in_vain:
            self._paces[attempt.job.key] = in_debt(pace, COST_OF_A_COMMIT, now=now)
        elif attempt.transaction is not None:
            shared = attempt.shared is not None
            self._paces[attempt.job.key] = after_run(pace, attempt.quickness, shared=shared, now=now)

    def _mark_as_ended(self, attempt: Attempt) -> None:
        """Note that it has ended, its result encoded: should we die while it waits for the commit, it is not why."""
        if not attempt.over:
            self._seat.ended(attempt.job.claim.job_id, written=False)

    def _new_together(self) -> Together | None:
        shared = self._desk.storage.shared_transaction(self._wake_to_collect)
        return None if shared is None else Together(shared, self._desk.clock.monotonic)

    def _look_at_slow_one(self, together: Together) -> None:
        """Let those who have ended not wait for a handler that takes long, as long as it has not written itself."""
        if together.waiting and not together.being_cut:
            together.being_cut = True
            self._in_background(self._cut(together))

    async def _cut(self, together: Together) -> None:
        try:
            await self._bridge.call(together.cut)
        finally:
            together.being_cut = False

    def _may_begin(self, attempt: Attempt) -> bool:
        """Whether the handler is to be called, and then mark it as begun.

        It is not if the attempt was ended while it waited, or if the lease ran out while this process stood still.
        """
        left = self._seat.time_left
        if left is not None and left <= 0 and attempt.stop is None:
            attempt.stop = Stop.LOST
        if attempt.stop is not None:
            return False
        self._seat.begun(attempt.job.claim.job_id)
        return True

    def _arguments(self, attempt: Attempt, handler: JobHandler[..., Any]) -> dict[str, Any]:
        """Return what the function is called with. Raises InvalidPayload, or Discard where no later try could help."""
        try:
            arguments = handler.arguments(attempt.job.payload)
        except InvalidPayload as error:
            if error.not_json:
                raise Discard(str(error)) from error
            raise
        for name in handler.given:
            if name == "db":
                arguments[name] = attempt.open_transaction().connection
            elif name == "job":
                arguments[name] = current_job.get()
            elif name == "service":
                arguments[name] = self._service
        return arguments

    # ------------------------------------------------------------------------------------------- from outside

    def stop(self, attempt: Attempt, why: Stop) -> None:
        """End an attempt from outside, as far as that is possible.

        An async handler is cancelled. A handler in a thread sees `job.cancelled`; out of time or superseded, its
        transaction is aborted and its attempt is over without it.
        """
        if attempt.over or attempt.may_not_be_interrupted:
            return
        first_time = attempt.stop is None
        if first_time or why is Stop.LOST:
            attempt.stop = why
        if attempt.task is not None:
            self._cancel(attempt, why, first_time=first_time)
        elif why in (Stop.TIMEOUT, Stop.LOST):
            self._begin_to_abandon(attempt)

    def _cancel(self, attempt: Attempt, why: Stop, *, first_time: bool) -> None:
        # A request is repeated with every turn, and a stop may follow it: neither interrupts the cleaning up again.
        if attempt.task is not None and attempt.began and (first_time or why in (Stop.TIMEOUT, Stop.LOST)):
            attempt.task.cancel()
        if why in (Stop.TIMEOUT, Stop.LOST) and attempt.patience is None:
            attempt.patience = self._timer.call_later(CLEANUP_SECONDS, self._begin_to_abandon, attempt)

    def _begin_to_abandon(self, attempt: Attempt) -> None:
        self._in_background(self._abandon(attempt))

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work, context=self._blank.copy())
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def wait_for_ends(self, attempts: Iterable[Attempt], seconds: float) -> None:
        """Return when every abort that was begun is done and the tasks of these attempts have ended; wait no longer."""
        tasks = [attempt.task for attempt in attempts if attempt.task is not None]
        if waiting := [*tasks, *self._background]:
            await asyncio.wait(waiting, timeout=seconds)

    async def _abandon(self, attempt: Attempt) -> None:
        """Free what the handler holds of the database, and only then say that its attempt is over."""
        if (transaction := attempt.close_door()) is not None:
            try:
                await self._bridge.call(transaction.abort)
            except Exception:  # noqa: BLE001 - whatever it is, the attempt must come to its end
                logger.exception("the transaction of job %d could not be aborted", attempt.job.id)
        if attempt.over or attempt.may_not_be_interrupted:
            return
        attempt.announce(HandlerAbandoned, reason=attempt.stop.value if attempt.stop else "")
        self._take_end(attempt, None if attempt.settled else attempt.stopped())

    # --------------------------------------------------------------------------------------------------- ending

    def _wake_to_collect(self) -> None:
        """Let the loop collect the handlers that have ended in threads. From any thread."""
        if self._collecting or not self._done:
            return
        self._collecting = True
        try:
            self._loop.call_soon_threadsafe(self._collect)
        except RuntimeError:  # the loop is closed: the worker has stopped without this handler
            self._collect()

    def _collect(self) -> None:
        self._collecting = False  # before looking: whoever ends from now on wakes the loop again
        while self._done:
            attempt = self._done.popleft()
            if attempt.handler is None or "db" not in attempt.handler.given:
                self._threads.ended()
            else:
                self._learn_pace(attempt)
            self._take_end(attempt, attempt.happened)

    def _take_end_soon(self, attempt: Attempt, happened: Happening | None) -> None:
        """Take the end of an attempt that was over before `start` came back, in the next round of the loop.

        Its place is free only then: no handler is begun within the stack of another one, and in one round no more
        than may run at once.
        """
        attempt.finishing = True
        attempt.happened = happened
        if not self._over_at_once:
            self._loop.call_soon(self._take_ends)
        self._over_at_once.append(attempt)

    def _take_ends(self) -> None:
        over, self._over_at_once = self._over_at_once, []
        for attempt in over:
            self._take_end(attempt, attempt.happened)

    def close(self) -> None:
        """Let the threads end."""
        self._threads.close()
        self._writers.close()
        self._sharers.close()

    def _take_end(self, attempt: Attempt, happened: Happening | None) -> None:
        """Take the first end of an attempt; a later one is only told about. None: nothing is to be written."""
        seconds = attempt.monotonic() - attempt.started_at
        if attempt.over:
            attempt.announce(AbandonedHandlerEnded, seconds=seconds)
            return
        attempt.over = True
        attempt.seconds = seconds
        if attempt.alarm is not None:
            attempt.alarm.cancel()
        if attempt.patience is not None:
            attempt.patience.cancel()
        if attempt.stop is Stop.LOST:
            attempt.lost = True
        elif happened is not None and not attempt.lost:
            attempt.outcome = _decide(attempt, happened)
        if attempt.transaction is not None or attempt.lock_seconds or attempt.raised_after_end:
            _tell_peculiarities(attempt)
        self._seat.ended(attempt.job.claim.job_id, written=attempt.settled or attempt.outcome is None)
        self._tell_ended(attempt)


def _tell_peculiarities(attempt: Attempt) -> None:
    attempt.note_lock()
    if attempt.lock_seconds >= LONG_LOCK_SECONDS:
        attempt.announce(LockHeldLong, seconds=attempt.lock_seconds)
    if attempt.raised_after_end is not None:
        attempt.announce(RaisedAfterEnd, error_type=attempt.raised_after_end)


def _handler_of(attempt: Attempt) -> JobHandler[..., Any]:
    if attempt.handler is None:
        raise UnknownJobKey(attempt.job.key)
    return attempt.handler


def _function_of(handler: JobHandler[..., Any]) -> Callable[..., Any]:
    if handler.function is None:
        raise UnknownJobKey(handler.key)
    return handler.function


def _conclude(attempt: Attempt, value: object) -> Happening | None:
    """Return what it means that a sync handler returned; None if its transaction has written the end."""
    if attempt.settled:
        return None
    if attempt.has_written:
        attempt.commit(value)
        return None
    if attempt.transaction is not None:
        attempt.transaction.close()
    return attempt.returned(value)


async def _conclude_async(attempt: Attempt, value: object) -> Happening | None:
    """The same for an async handler."""
    if attempt.settled:
        return None
    if attempt.has_written:
        await attempt.acommit(value)
        return None
    if attempt.transaction is not None:
        await attempt.transaction.close()
    return attempt.returned(value)


def _roll_back(attempt: Attempt) -> None:
    if attempt.transaction is not None and not attempt.settled:
        try:
            attempt.transaction.close()
        except Exception:  # noqa: BLE001 - whatever it is, the attempt must come to its end
            logger.exception("the transaction of job %d could not be rolled back", attempt.job.id)


async def _roll_back_async(attempt: Attempt) -> None:
    if attempt.transaction is None or attempt.handler is None or not attempt.handler.is_async:
        _roll_back(attempt)
    elif not attempt.settled:
        try:
            await attempt.transaction.close()
        except Exception:  # noqa: BLE001 - whatever it is, the attempt must come to its end
            logger.exception("the transaction of job %d could not be rolled back", attempt.job.id)


def _what_it_means(attempt: Attempt, error: BaseException) -> Happening | None:
    """Return what is to be written because the handler, or the end of its transaction, raised; None: nothing."""
    if attempt.settled or attempt.completed_elsewhere:
        attempt.raised_after_end = type(error).__name__
    if attempt.settled or attempt.lost:
        return None
    return attempt.raised(error)


def _decide(attempt: Attempt, happened: Happening) -> Outcome:
    try:
        return attempt.outcome_of(happened)
    except Exception as error:  # noqa: BLE001 - such as options of a raw row that nobody foresaw: the job must end
        return attempt.refused(error_text(error))
