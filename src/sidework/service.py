"""`BackgroundService`: register handlers, enqueue jobs, run them."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import logging
import random
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from types import SimpleNamespace, TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar, Unpack

from sidework.engine.events import Listener, log_event
from sidework.engine.worker import Worker
from sidework.errors import DatabaseUnavailable, SideworkError, WorkerLost
from sidework.hosting import TaskHost, ThreadHost, stopping_signals
from sidework.manager import KEEP_COMPLETED, KEEP_FAILED, BackgroundJobManager
from sidework.model.job import Job, JobStatus, NewJob, RetentionRule
from sidework.outbox import Outbox
from sidework.registry import Register, Registry
from sidework.storage.open import open_storage
from sidework.watching import Watcher

if TYPE_CHECKING:
    from pathlib import Path

    from sidework.clock import Clock
    from sidework.model.handler import JobHandler
    from sidework.model.options import HandlerKeywords, JobKeywords

logger = logging.getLogger("sidework")

FIRST_WAIT, LONGEST_WAIT = 0.5, 15.0
"""Seconds between attempts to take another seat after one was lost; doubled each time, with jitter."""

Hook = TypeVar("Hook", bound=Callable[..., Any])


class BackgroundService:
    """Background jobs in one database. Constructing it does no I/O.

    Its life: register handlers, then either `start()` and `stop()` (a thread of its own; `with service:` does both),
    `async with service:` (the running event loop), `run()` (blocks, with signals) or `run_until_idle()`.
    A program that only enqueues does none of these.
    """

    def __init__(
        self,
        database: str | Path,
        *,
        concurrency: int = 10,
        queues: Sequence[str] | Mapping[str, int] | None = None,
        durability: Literal["full", "relaxed"] = "full",
        imports: Sequence[str] = (),
        grace: float | timedelta = 25.0,
        wait: float | timedelta = 10.0,
        notify: bool = True,
        listen_url: str | None = None,
        keep_completed: timedelta | None = KEEP_COMPLETED,
        keep_failed: timedelta | None = KEEP_FAILED,
        clock: Clock | None = None,
        listeners: Sequence[Listener] = (log_event,),
    ) -> None:
        """Describe the service.

        database: a path, "sqlite:///app.db", or "postgresql://user@host/name".
        concurrency: how many jobs of each queue this service runs at once.
        queues: the only queues it serves; a mapping also limits how many jobs of a queue run at once over all services
            on this database; None: every queue.
        durability: "full": an acknowledged job survives a power cut; "relaxed": a crash of the process only.
        imports: modules with further handlers, imported when the service starts.
        grace: seconds (or timedelta) that running jobs get to end when the service stops.
        wait: seconds (or timedelta) to wait for the database's write lock before DatabaseBusy.
        notify: on PostgreSQL, whether this service rings others by NOTIFY and is woken by LISTEN; False: it looks for
            jobs four times a second.
        listen_url: on PostgreSQL, where to listen if `database` leads to a pooler in transaction mode.
        keep_completed, keep_failed: how long ended jobs stay (failed: cancelled ones too); None: for ever.
        clock: where the time comes from; tests give a FrozenClock.
        listeners: are told every event of the engine; they are called on its event loop and must not block.
        """
        if type(concurrency) is not int or concurrency < 1:
            raise SideworkError(f"concurrency={concurrency!r} must be a whole number of at least 1")
        self.state = SimpleNamespace()
        self.concurrency = concurrency
        self.queues, self._limits = _queues(queues)
        self._imports = tuple(imports)
        self._grace = _seconds(grace)
        self._retention = (keep_completed, keep_failed)
        self._listeners = tuple(listeners)
        self._storage = open_storage(
            database, durability=durability, wait=_seconds(wait), notify=notify, listen_url=listen_url
        )
        self.clock: Clock = self._storage.clock if clock is None else clock
        self._outbox = Outbox(self._storage, self.clock, before_first=self._migrate_once, sent=self._wake)
        self._registry = Registry(self._outbox)
        self._watcher = Watcher(self._storage)
        self._jobs = BackgroundJobManager(self._storage, clock=self.clock)
        self._startup: list[Callable[..., Any]] = []
        self._shutdown: list[Callable[..., Any]] = []
        self._migrating = threading.Lock()
        self._migrated = False
        self._worker: Worker | None = None
        self._takes_jobs = False
        self._host: ThreadHost | None = None
        self._task: TaskHost | None = None
        self._stop_asked: bool | None = None

    def __repr__(self) -> str:
        """Name the database."""
        return f"<BackgroundService {self._storage.name}>"

    # ------------------------------------------------------------------------------------------------ handlers

    @property
    def handler(self) -> Register:
        """`@service.handler`, `@service.handler("key", max_attempts=5)`: register a function.

        The key defaults to the function's name. Raises InvalidHandler, DuplicateJobKey.
        """
        return self._registry.decorator

    def register_job_handler(
        self, key: str, handler: Callable[..., Any], **options: Unpack[HandlerKeywords]
    ) -> JobHandler[..., Any]:
        """Register a function under a key; the decorator's plain form. Raises InvalidHandler, DuplicateJobKey."""
        return self._registry.register(key, handler, options)

    def declare(self, key: str) -> JobHandler[..., Any]:
        """Return a handle with the same verbs for a handler that lives in another program. Its payload is unchecked."""
        return self._registry.declare(key)

    @property
    def handlers(self) -> Mapping[str, JobHandler[..., Any]]:
        """The registered handlers by key; the view grows with each registration."""
        return self._registry.by_key

    def load_imports(self) -> None:
        """Import the modules given as `imports`, which register their handlers. Starting the service does it too."""
        for module in self._imports:
            importlib.import_module(module)

    def describe(self) -> Mapping[str, str]:
        """Say in words what this service is: database, durability, handlers, queues, concurrency, wake-up."""
        doorbell = self._storage.doorbell()
        try:
            wake_up = doorbell.mechanism
        finally:
            doorbell.close()
        limits = "".join(f", at most {limit} of {queue} over all services" for queue, limit in self._limits.items())
        return {
            "database": self._storage.name,
            "durability": self._storage.promise,
            "handlers": ", ".join(sorted(self.handlers)),
            "queues": "all" if self.queues is None else ", ".join(self.queues),
            "concurrency": f"{self.concurrency} in each queue{limits}",
            "wake-up": wake_up,
        }

    # ------------------------------------------------------------------------------------------------- enqueue

    def enqueue(self, key: str, payload: object = None, **options: Unpack[JobKeywords]) -> int:
        """Insert a job for a registered key; return its id.

        payload: a dict, None, or what the handler's `payload` is annotated with.
        options: those of `handler.using`: db, queue, priority, max_attempts, delay, run_at, unique_key, …
        Raises UnknownJobKey, InvalidPayload, InvalidHandler (an option), WrongDatabase, NotMigrated, DatabaseBusy.
        """
        job = self._handler(key, options).new_from(payload)
        return self._outbox.send(job, options.get("db"))

    async def aenqueue(self, key: str, payload: object = None, **options: Unpack[JobKeywords]) -> int:
        """Do as `enqueue`, without blocking the loop."""
        job = self._handler(key, options).new_from(payload)
        return await self._outbox.asend(job, options.get("db"))

    def enqueue_many(
        self, jobs: Iterable[NewJob | tuple[str, Mapping[str, object] | None]], *, db: object = None
    ) -> list[int]:
        """Insert jobs in one transaction: all of them or none. Return their ids in the order given.

        jobs: `handler.new(...)`, or pairs of a key and a payload.
        """
        return self._outbox.send_many([self._new(job) for job in jobs], db)

    async def aenqueue_many(
        self, jobs: Iterable[NewJob | tuple[str, Mapping[str, object] | None]], *, db: object = None
    ) -> list[int]:
        """Do as `enqueue_many`, without blocking the loop."""
        return await self._outbox.asend_many([self._new(job) for job in jobs], db)

    def job(
        self,
        *,
        db: object = None,
        job_key: str,
        payload: Mapping[str, object] | None = None,
        priority: int = 0,
        max_attempts: int = 3,
    ) -> int | None:
        """Insert a job the seed's way: return its id, or None if that was not possible, which is logged. Never raises.

        The transaction of the connection `db` stays usable.
        """
        try:
            return self.enqueue(job_key, payload, db=db, priority=priority, max_attempts=max_attempts)
        except SideworkError as error:
            logger.warning("job %r was not enqueued: %s", job_key, error)
        except Exception:
            logger.exception("job %r was not enqueued", job_key)
        return None

    def _handler(self, key: str, options: JobKeywords) -> JobHandler[..., Any]:
        handler = self._registry.get(key)
        return handler.using(**options) if options else handler

    def _new(self, job: NewJob | tuple[str, Mapping[str, object] | None]) -> NewJob:
        if isinstance(job, NewJob):
            return job
        key, payload = job
        return self._registry.get(key).new_from(payload)

    # -------------------------------------------------------------------------------------------- look and wait

    @property
    def jobs(self) -> BackgroundJobManager:
        """Look at jobs and steer them."""
        return self._jobs

    def wait(self, job_id: int, timeout: float | None = None) -> Job:
        """Block until a job has ended, and return it. Raises WaitTimeout, JobNotFound.

        timeout: seconds; None: as long as it takes. Refuses to block a running event loop: use `watch` there.
        """
        return self._watcher.wait_here(job_id, timeout)

    def watch(self, job_id: int) -> AsyncIterator[Job]:
        """Yield a job now and after each change of its status or progress, until it has ended. Raises JobNotFound."""
        return self._watcher.watch(job_id)

    # ------------------------------------------------------------------------------------------------ the schema

    def migrate(self) -> int:
        """Create the tables or bring them up to date; return their version.

        Starting the service and enqueueing without `db=` do this by themselves.
        """
        version = self._storage.migrate()
        self._migrated = True
        return version

    def close(self) -> None:
        """Close the database's connections. Stopping the service does it too, and the next use opens them again."""
        self._storage.close()

    def _migrate_once(self) -> None:
        if self._migrated:
            return
        with self._migrating:
            if not self._migrated:
                self.migrate()

    # ----------------------------------------------------------------------------------------------------- hooks

    def on_startup(self, hook: Hook) -> Hook:
        """Call this before the first job: a sync or async function, with the service if it takes a parameter."""
        self._startup.append(hook)
        return hook

    def on_shutdown(self, hook: Hook) -> Hook:
        """Call this after the last job."""
        self._shutdown.append(hook)
        return hook

    # ------------------------------------------------------------------------------------------------------- run

    def is_running(self) -> bool:
        """Whether the service takes jobs."""
        return self._takes_jobs

    def start(self) -> None:
        """Run the service in a thread with an event loop of its own; return when it takes jobs.

        Raises what kept it from starting.
        """
        self._refuse_to_run_twice()
        self._host = host = ThreadHost(self._serve)
        try:
            host.start()
        except BaseException:
            self._host = None
            raise

    def stop(self) -> None:
        """Take no more jobs, let the running ones end within the grace period, and return when that is done."""
        host = self._host
        if host is not None:
            host.refuse_its_own_thread()  # before it is forgotten: it runs on, and somebody else will stop it
            self._host = None
            host.stop(self._ask_to_stop)

    def __enter__(self) -> Self:
        """Start."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        """Stop."""
        self.stop()

    async def __aenter__(self) -> Self:
        """Run the service inside the running event loop."""
        self._refuse_to_run_twice()
        self._task = host = TaskHost(self._serve)
        try:
            await host.start()
        except BaseException:
            self._task = None
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        """Take no more jobs and let the running ones end within the grace period."""
        host, self._task = self._task, None
        if host is not None:
            await host.stop(self._ask_to_stop)

    def run(self) -> bool:
        """Run until SIGTERM or SIGINT; True if all that was begun was finished, False if work was given back.

        The first signal lets running jobs end within the grace period, a second one gives back what is unfinished
        without using an attempt, a third ends the process at once.
        """
        return self._run(until_idle=False)

    def run_until_idle(self) -> bool:
        """Run until no job of these handlers is ready, due or running; jobs due later stay. Returns as `run`."""
        return self._run(until_idle=True)

    def _run(self, *, until_idle: bool) -> bool:
        self._refuse_to_run_twice()
        return asyncio.run(self._serve_with_signals(until_idle=until_idle))

    async def _serve_with_signals(self, *, until_idle: bool) -> bool:
        with stopping_signals(self._ask_to_stop):
            return await self._serve(_nobody_waits, until_idle=until_idle)

    async def _serve(self, ready: Callable[[], None], *, until_idle: bool = False) -> bool:
        """Be the service, from the first hook to the last."""
        self._stop_asked = None
        await asyncio.to_thread(self._prepare)
        self._worker = worker = self._make_worker()
        self._pass_on_stop(worker)  # a signal may have come while the tables were made

        def takes_jobs() -> None:
            self._takes_jobs = True
            ready()

        try:
            await self._call(self._startup)
            try:
                finished = await self._work(worker, takes_jobs, until_idle=until_idle)
            finally:
                self._takes_jobs = False
                await self._call(self._shutdown)
        finally:
            self._worker = None
        if finished:  # else a handler that cannot be stopped may still use a connection
            await asyncio.to_thread(self.close)
        return finished

    async def _work(self, worker: Worker, ready: Callable[[], None], *, until_idle: bool) -> bool:
        """Work on one seat; where that was lost to a cut line and the database is the same, take another."""
        while True:
            try:
                return await worker.run(ready=ready, until_idle=until_idle)
            except (WorkerLost, DatabaseUnavailable) as error:
                if not self._may_take_another_seat(error):
                    raise
                lost = error
            ready = _nobody_waits
            worker = await self._take_another_seat(lost)

    def _may_take_another_seat(self, error: WorkerLost | DatabaseUnavailable) -> bool:
        """A line that is cut while a seat is taken ends nobody who had one before; at the first, it is told at once."""
        if self._stop_asked is not None:
            return False
        return error.may_rejoin if isinstance(error, WorkerLost) else self._takes_jobs

    async def _take_another_seat(self, lost: Exception) -> Worker:
        """Make a new worker once the database can be used again."""
        wait = FIRST_WAIT
        while True:
            logger.warning("taking another seat in %.1f s: %s", wait, lost)
            await asyncio.sleep(wait)
            if self._stop_asked is not None:
                raise lost
            try:
                await asyncio.to_thread(self._storage.check)
            except DatabaseUnavailable as error:
                lost, wait = error, min(wait * 2, LONGEST_WAIT) * random.uniform(0.5, 1)  # noqa: S311 - jitter
                continue
            self._worker = worker = self._make_worker()
            self._pass_on_stop(worker)
            return worker

    def _ask_to_stop(self, now: bool = False) -> None:  # noqa: FBT001, FBT002 - a callback of one value
        self._stop_asked = now
        if (worker := self._worker) is not None:
            self._pass_on_stop(worker)

    def _pass_on_stop(self, worker: Worker) -> None:
        if self._stop_asked is not None:
            worker.stop(now=self._stop_asked)

    def _prepare(self) -> None:
        self.load_imports()
        self._migrate_once()

    def _make_worker(self) -> Worker:
        return Worker(
            self._storage,
            self.handlers,
            self,
            clock=self.clock,
            concurrency=self.concurrency,
            queues=self.queues,
            limits=self._limits,
            grace=self._grace,
            retention=self._rules(),
            listeners=self._listeners,
        )

    def _rules(self) -> list[RetentionRule]:
        """Return the retention rules, those of single handlers first."""
        keep_completed, keep_failed = self._retention
        completed, failed = frozenset({JobStatus.COMPLETED}), frozenset({JobStatus.FAILED, JobStatus.CANCELLED})
        rules = [
            RetentionRule(statuses=completed, keep=timedelta(seconds=handler.options.retention), key=handler.key)
            for handler in self._registry.handlers()
            if handler.options.retention is not None
        ]
        if keep_completed is not None:
            rules.append(RetentionRule(statuses=completed, keep=keep_completed))
        if keep_failed is not None:
            rules.append(RetentionRule(statuses=failed, keep=keep_failed))
        return rules

    async def _call(self, hooks: Sequence[Callable[..., Any]]) -> None:
        for hook in hooks:
            answer = hook(self) if inspect.signature(hook).parameters else hook()
            if inspect.isawaitable(answer):
                await answer

    def _refuse_to_run_twice(self) -> None:
        if self._host is not None or self._task is not None or self._worker is not None:
            raise SideworkError("this service is running already; stop() it first, or make a second BackgroundService")

    def _wake(self) -> None:
        if (worker := self._worker) is not None:
            worker.wake()


def _nobody_waits() -> None:
    """Stand in for `ready` where nobody waits for it."""


def _queues(
    queues: Sequence[str] | Mapping[str, int] | None,
) -> tuple[tuple[str, ...] | None, Mapping[str, int]]:
    """Return the names of the queues to serve (None: all) and their limits. Raises SideworkError."""
    if queues is None:
        return None, {}
    if isinstance(queues, str):
        raise SideworkError(f"queues={queues!r} is one text; write queues=[{queues!r}]")
    limits = dict(queues) if isinstance(queues, Mapping) else {}
    for name, limit in limits.items():
        if type(limit) is not int or limit < 1:
            raise SideworkError(f"the limit of queue {name!r} must be a whole number of at least 1, not {limit!r}")
    return tuple(queues), limits


def _seconds(time: float | timedelta) -> float:
    return time.total_seconds() if isinstance(time, timedelta) else float(time)
