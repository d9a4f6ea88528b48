"""What the engine tells the world: frozen facts, given to listeners; no payload, result or error text is in them.

A listener is any callable that takes an event. It is called on the event loop and must not block; what it raises is
logged and goes no further. `log_event` is one of them.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, ClassVar, TypeAlias

import msgspec

from sidework.model.job import JobStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

logger = logging.getLogger("sidework")


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened. `str(event)` is a sentence about it."""

    usual_level: ClassVar[int] = logging.INFO

    @property
    def level(self) -> int:
        """The logging level it deserves."""
        return self.usual_level


class JobEvent(Event, frozen=True, kw_only=True):
    """Something that happened to one attempt of one job."""

    job_id: int
    key: str
    queue: str
    attempt: int
    """1, 2, …"""

    @property
    def name(self) -> str:
        """The job as a person reads it."""
        return f"job {self.job_id} ({self.key})"


class JobStarted(JobEvent, frozen=True, kw_only=True):
    """A handler was called."""

    usual_level: ClassVar[int] = logging.DEBUG

    def __str__(self) -> str:
        return f"{self.name} started, attempt {self.attempt}"


class JobEnded(JobEvent, frozen=True, kw_only=True):
    """An attempt is over and its outcome is durable."""

    status: JobStatus
    """What the job is now: an end, SCHEDULED (comes back later) or PENDING (given back)."""
    seconds: float

    @property
    def level(self) -> int:
        """A job that failed for good is worth a look."""
        return logging.WARNING if self.status is JobStatus.FAILED else logging.DEBUG

    def __str__(self) -> str:
        why = f"; why: sidework show {self.job_id}" if self.status is JobStatus.FAILED else ""
        return f"{self.name} is {self.status}, attempt {self.attempt} took {self.seconds:.3f} s{why}"


class ClaimLost(JobEvent, frozen=True, kw_only=True):
    """This attempt did not hold its job any more; nothing of it was written."""

    usual_level: ClassVar[int] = logging.WARNING

    def __str__(self) -> str:
        return f"{self.name} is no longer held by this attempt; nothing of attempt {self.attempt} was written"


class OutcomeRefused(JobEvent, frozen=True, kw_only=True):
    """The database itself refused the outcome. `final`: the plain FAILED that was tried instead, too."""

    reason: str
    final: bool

    @property
    def level(self) -> int:
        """Loud if the job now stays RUNNING."""
        return logging.CRITICAL if self.final else logging.ERROR

    def __str__(self) -> str:
        consequence = "it stays RUNNING until its worker ends" if self.final else "it ends FAILED"
        return f"the database refused the outcome of {self.name}: {self.reason}; {consequence}"


class HandlerAbandoned(JobEvent, frozen=True, kw_only=True):
    """A handler that cannot be stopped runs on; its attempt is over and nothing it does counts."""

    usual_level: ClassVar[int] = logging.ERROR
    reason: str

    def __str__(self) -> str:
        return (
            f"the handler of {self.name} cannot be stopped ({self.reason}); its attempt is over, it runs on uncounted"
        )


class AbandonedHandlerEnded(JobEvent, frozen=True, kw_only=True):
    """An abandoned handler ended at last."""

    seconds: float

    def __str__(self) -> str:
        return f"the abandoned handler of {self.name} ended after {self.seconds:.3f} s"


class RaisedAfterEnd(JobEvent, frozen=True, kw_only=True):
    """A handler raised after it had completed its job itself; that changes nothing."""

    usual_level: ClassVar[int] = logging.ERROR
    error_type: str

    def __str__(self) -> str:
        return (
            f"the handler of {self.name} raised {self.error_type} after the job had been completed; it stays completed"
        )


class LockHeldLong(JobEvent, frozen=True, kw_only=True):
    """A handler held the database's write lock so long that others noticed."""

    usual_level: ClassVar[int] = logging.WARNING
    seconds: float

    def __str__(self) -> str:
        return f"{self.name} held the write lock for {self.seconds:.3f} s; do slow work first and write last"


class WorkerJoined(Event, frozen=True, kw_only=True):
    """A worker has a seat and begins."""

    worker: int

    def __str__(self) -> str:
        return f"worker {self.worker} started"


class WorkerStopping(Event, frozen=True, kw_only=True):
    """A worker claims nothing more. `now`: running handlers are being ended."""

    worker: int
    now: bool
    running: int

    def __str__(self) -> str:
        how = "gives back what runs" if self.now else "lets finish what runs"
        return f"worker {self.worker} is stopping and {how}: {self.running} jobs"


class WorkerStopped(Event, frozen=True, kw_only=True):
    """A worker is done."""

    worker: int
    given_back: int
    stuck: tuple[int, ...]
    """Jobs whose handlers could not be stopped; they are free when those have ended or the process is gone."""
    unwritten: int = 0
    """Outcomes that the database could not take in time; their jobs run again."""

    @property
    def level(self) -> int:
        """Worth a look if something is stuck."""
        return logging.ERROR if self.stuck or self.unwritten else logging.INFO

    def __str__(self) -> str:
        told = [f"worker {self.worker} stopped, {self.given_back} jobs given back"]
        if self.stuck:
            told.append(f"jobs {list(self.stuck)} cannot be stopped and are free when this process is gone")
        if self.unwritten:
            told.append(f"the ends of {self.unwritten} jobs could not be written, and they run again")
        return "; ".join(told)


class WorkerExpelled(Event, frozen=True, kw_only=True):
    """A worker has lost its seat and aborts everything."""

    usual_level: ClassVar[int] = logging.CRITICAL
    worker: int
    reason: str

    def __str__(self) -> str:
        return f"worker {self.worker} lost its seat and aborts everything: {self.reason}"


class JobsRescued(Event, frozen=True, kw_only=True):
    """Jobs of dead workers were taken care of."""

    usual_level: ClassVar[int] = logging.WARNING
    job_ids: tuple[int, ...]

    def __str__(self) -> str:
        return f"a worker died, and what it ran is free again (jobs: {len(self.job_ids)})"


class StraysGivenBack(Event, frozen=True, kw_only=True):
    """The database said that this worker holds jobs it did not know of (a lost answer); they are free again."""

    usual_level: ClassVar[int] = logging.WARNING
    job_ids: tuple[int, ...]

    def __str__(self) -> str:
        return f"jobs {list(self.job_ids)} were held without this worker's knowledge and are given back"


class DatabaseTrouble(Event, frozen=True, kw_only=True):
    """The database could not be used. Nothing is lost: outcomes are kept, and written when it can be."""

    usual_level: ClassVar[int] = logging.ERROR
    doing: str
    reason: str
    kept: int
    """Outcomes that wait to be written."""
    again_in: float
    """Seconds."""

    def __str__(self) -> str:
        kept = f"; {self.kept} outcomes are kept" if self.kept else ""
        return f"{self.doing} failed: {self.reason}{kept}; trying again in {self.again_in:.2f} s"


class JobsPruned(Event, frozen=True, kw_only=True):
    """Ended jobs were deleted by the retention rules."""

    count: int

    def __str__(self) -> str:
        return f"{self.count} ended jobs were deleted by the retention rules"


Listener: TypeAlias = "Callable[[Event], None]"


def log_event(event: Event) -> None:
    """Log the sentence of an event to the logger "sidework", at its level."""
    if logger.isEnabledFor(event.level):
        logger.log(event.level, "%s", event)


class Announcer:
    """Passes events on to the listeners; a listener that raises harms nobody."""

    __slots__ = ("_listeners", "_only_logs")

    def __init__(self, listeners: Iterable[Listener]) -> None:
        """Take the listeners, called in this order."""
        self._listeners = tuple(listeners)
        self._only_logs = all(listener is log_event for listener in self._listeners)

    @property
    def hears_routine(self) -> bool:
        """Whether anybody would hear of what happens to every job: it is told at the level DEBUG."""
        return not self._only_logs or logger.isEnabledFor(logging.DEBUG)

    def __call__(self, event: Event) -> None:
        """Tell every listener."""
        for listener in self._listeners:
            try:
                listener(event)
            except Exception:
                logger.exception("a listener failed on %s", type(event).__name__)
