"""A function, its options, and how a payload binds to its parameters."""

from __future__ import annotations

import copy
import functools
from datetime import datetime, timedelta
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, Protocol, TypeVar, Unpack, overload

import msgspec

from sidework.model.binding import RESERVED, Unchecked
from sidework.model.job import ClaimedJob, JobOptions, NewJob, own_options
from sidework.model.lifecycle import Policy
from sidework.model.options import HandlerOptions, JobKeywords, job_options
from sidework.model.payload import canonical, encode_result
from sidework.model.signature import Signature, read_signature

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

__all__ = ["RESERVED", "HandlerOptions", "JobHandler", "JobKeywords", "Sender"]

P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)
T = TypeVar("T")

_COLUMNS = ("priority", "max_attempts", "queue")
_KEPT_AS_OPTIONS = JobOptions.__struct_fields__


class Sender(Protocol):
    """Where a handler's jobs go: the service."""

    def now(self) -> datetime:
        """Return the time, aware, UTC."""

    def send(self, job: NewJob, db: object) -> int:
        """Insert a job, in the caller's own transaction if `db` is given; return its id."""

    async def asend(self, job: NewJob, db: object) -> int:
        """Do the same without blocking the loop."""

    def result(self, job_id: int, into: object, timeout: float | None) -> object:
        """Wait for a job's end and return its result as a value of the type `into`."""

    async def aresult(self, job_id: int, into: object, timeout: float | None) -> object:
        """Do the same without blocking the loop."""


class JobHandler(Generic[P, R_co]):
    """What `@service.handler` makes of a function: the function itself when called, and the way to its jobs."""

    __name__: str
    key: str
    function: Callable[..., R_co] | None
    """None: it lives in another program (`service.declare`)."""
    options: HandlerOptions
    given: frozenset[str]
    """Which of service, job, payload and db the function takes."""
    is_async: bool
    result_type: Any
    """What a kept result is decoded into."""

    def __init__(self, key: str, function: Callable[..., R_co] | None, options: HandlerOptions, sender: Sender) -> None:
        """Read the function's parameters. Raises InvalidHandler for those that cannot be bound."""
        signature = _ELSEWHERE if function is None else read_signature(function)
        self.key, self.function, self.options = key, function, options
        self.given, self.is_async, self.result_type = signature.given, signature.is_async, signature.result
        self._binding = signature.binding
        if function is not None:
            functools.update_wrapper(self, function, updated=())
        self._sender = sender
        self._policy = Policy(backoff=options.backoff, max_crashes=options.max_crashes)
        self._override({})

    def __call__(self, *args: Any, **kwargs: Any) -> R_co:
        """Call the function itself, at once, without a job."""
        if self.function is None:
            raise TypeError(f"{self.key!r} was declared, not registered: its function lives in another program")
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        """Name the key and the function."""
        return f"<JobHandler {self.key!r}: {getattr(self.function, '__qualname__', self.function)}>"

    def using(self, **options: Unpack[JobKeywords]) -> JobHandler[P, R_co]:
        """Return the same handler, whose jobs are enqueued with these options. Raises InvalidHandler."""
        checked = job_options(options)
        kept = {name: value for name, value in self._overrides.items() if not _replaced(name, checked)}
        handler = copy.copy(self)
        handler._override({**kept, **checked})  # noqa: SLF001 - a copy of itself
        return handler

    def new(self, *args: P.args, **kwargs: P.kwargs) -> NewJob:
        """Return the job that `enqueue` would insert. Raises InvalidPayload, naming the field."""
        return self._job(self._binding.encode(args, kwargs))

    def new_from(self, payload: object) -> NewJob:
        """Return a job with this whole payload: a dict, None, or what the handler's `payload` is annotated with."""
        return self._job(self._binding.encode_whole(payload))

    def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> int:
        """Insert a job and return its id; durable on return, or part of the transaction given by `using(db=...)`."""
        return self._sender.send(self.new(*args, **kwargs), self.db)

    async def aenqueue(self, *args: P.args, **kwargs: P.kwargs) -> int:
        """Do as `enqueue`, without blocking the loop."""
        return await self._sender.asend(self.new(*args, **kwargs), self.db)

    @overload
    def result(self: JobHandler[P, Coroutine[Any, Any, T]], job_id: int, *, timeout: float | None = None) -> T: ...
    @overload
    def result(self, job_id: int, *, timeout: float | None = None) -> R_co: ...
    def result(self, job_id: int, *, timeout: float | None = None) -> Any:
        """Wait for the job's end and return what it returned. Raises JobFailed, JobCancelled, WaitTimeout."""
        return self._sender.result(job_id, self.result_type, timeout)

    @overload
    async def aresult(
        self: JobHandler[P, Coroutine[Any, Any, T]], job_id: int, *, timeout: float | None = None
    ) -> T: ...
    @overload
    async def aresult(self, job_id: int, *, timeout: float | None = None) -> R_co: ...
    async def aresult(self, job_id: int, *, timeout: float | None = None) -> Any:
        """Do as `result`, without blocking the loop."""
        return await self._sender.aresult(job_id, self.result_type, timeout)

    @property
    def db(self) -> object:
        """The caller's connection that jobs are inserted through, or None."""
        return self._overrides.get("db")

    def arguments(self, payload: str | None) -> dict[str, Any]:
        """Return what the function takes from a payload text, by name. Raises InvalidPayload."""
        return self._binding.arguments(payload)

    def policy(self, job: ClaimedJob) -> Policy:
        """Return how this job's failures and crashes are dealt with."""
        if job.options is None:
            return self._policy
        own = own_options(job.options)
        return Policy(
            backoff=self.options.backoff if own.backoff is None else own.backoff,
            max_crashes=self.options.max_crashes if own.max_crashes is None else own.max_crashes,
        )

    def timeout_of(self, job: ClaimedJob) -> float | None:
        """Return the seconds that an attempt of this job may take, or None for no limit."""
        own = None if job.options is None else own_options(job.options).timeout
        return self.options.timeout if own is None else own

    def runs_on_loop(self, job: ClaimedJob) -> bool:
        """Whether an attempt of this job runs on the event loop; else it runs in a thread."""
        if self.is_async:
            return True
        own = None if job.options is None else own_options(job.options).executor
        return (own or self.options.executor) == "loop"

    def encode_result(self, value: object) -> str | None:
        """Return the JSON text of what the function returned. Raises InvalidPayload."""
        return encode_result(value)

    def _override(self, overrides: Mapping[str, Any]) -> None:
        self._overrides = overrides
        self._plain = not overrides and not self.options.unique
        kept = {name: overrides[name] for name in _KEPT_AS_OPTIONS if name in overrides}
        self._columns: dict[str, Any] = {name: overrides.get(name, getattr(self.options, name)) for name in _COLUMNS}
        self._columns["options"] = msgspec.json.encode(JobOptions(**kept)).decode() if kept else None

    def _job(self, payload: str | None) -> NewJob:
        if self._plain:
            return NewJob(key=self.key, payload=payload, **self._columns)
        return NewJob(
            key=self.key, payload=payload, run_at=self._run_at(), unique_key=self._unique_key(payload), **self._columns
        )

    def _run_at(self) -> datetime | None:
        delay = self._overrides.get("delay")
        if delay:
            return self._sender.now() + timedelta(seconds=delay)
        run_at: datetime | None = self._overrides.get("run_at")
        return run_at

    def _unique_key(self, payload: str | None) -> str | None:
        given: str | None = self._overrides.get("unique_key")
        if given is None and self._overrides.get("unique", self.options.unique):
            return sha256(canonical(payload)).hexdigest()
        return given


def _replaced(name: str, by: Mapping[str, object]) -> bool:
    return name in {"delay", "run_at"} and not by.keys().isdisjoint({"delay", "run_at"})


_ELSEWHERE = Signature(given=frozenset(), binding=Unchecked(), result=Any, is_async=False)
