"""`Worker`: claim, run, settle, one exchange with the database after the other; drains on stop.

While one exchange is under way, what ends gathers for the next: batches come about by themselves, and grow with the
load.
"""

from __future__ import annotations

import asyncio
import random as random_module
from typing import TYPE_CHECKING, Any

from sidework.clock import SystemClock
from sidework.engine.aftermath import Aftermath
from sidework.engine.attempt import Attempt, Desk, Stop
from sidework.engine.bench import Bench
from sidework.engine.bridge import Bridge
from sidework.engine.ear import Ear
from sidework.engine.events import (
    Announcer,
    ClaimLost,
    DatabaseTrouble,
    StraysGivenBack,
    WorkerExpelled,
    WorkerJoined,
    WorkerStopped,
    log_event,
    logger,
)
from sidework.engine.executors import Threads
from sidework.engine.keeper import Keeper
from sidework.engine.ledger import Ledger
from sidework.engine.loop import Loop
from sidework.engine.reporter import Reporter
from sidework.engine.runner import Runner
from sidework.engine.stopping import LAST_WAIT, Stopping
from sidework.engine.suspicion import Suspicion
from sidework.engine.timer import LoopTimer
from sidework.errors import AnswerLost, WorkerLost
from sidework.model.job import JobStatus, NewWorker
from sidework.storage.contract import Turn, Want

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from sidework.clock import Clock
    from sidework.engine.events import Listener
    from sidework.engine.timer import Timer
    from sidework.model.handler import JobHandler
    from sidework.model.job import Claim, ClaimedJob, Outcome, RetentionRule
    from sidework.storage.contract import Membership, Storage

LONGEST_WITHOUT_A_LOOK = 1.0
"""Seconds: what nobody told us about is found within this time."""
LONGEST_GATHERING = 0.02
"""Seconds that an end waits for others to be written with, while jobs are at hand in plenty."""
PAST_DUE_PAUSE = 0.01
RENEW_INTERVAL = 10.0
AFTER_TROUBLE = 1.0
"""Seconds before what can wait is tried again."""
FIRST_RETRY, LONGEST_RETRY = 0.1, 5.0
"""Seconds between attempts to reach a database that cannot be used; doubled each time, with jitter."""

NOTHING = Want(keys=frozenset())


class Worker:
    """One seat at the database, and the jobs it holds. `run()` is its whole life; tests take it step by step."""

    def __init__(  # noqa: PLR0913 - a worker is made in one place, of all that can be set
        self,
        storage: Storage,
        handlers: Mapping[str, JobHandler[..., Any]],
        service: object,
        *,
        clock: Clock | None = None,
        concurrency: int = 10,
        queues: tuple[str, ...] | None = None,
        limits: Mapping[str, int] | None = None,
        grace: float = 25.0,
        retention: Sequence[RetentionRule] = (),
        random: Callable[[], float] = random_module.random,
        listeners: Iterable[Listener] = (log_event,),
        timer: Timer | None = None,
    ) -> None:
        """Prepare a worker; nothing is started and nothing is read.

        handlers: by key; may grow while the worker runs. service: what handlers get as `service`.
        concurrency: jobs at once in each queue. queues: only these; None: every queue. limits: queue -> at most so
        many at once over all workers. grace: seconds for running jobs when the worker stops.
        random: returns numbers in [0, 1) for the jitter of back-offs. timer: how real seconds pass.
        """
        self._storage = storage
        self._handlers = handlers
        self._service = service
        self._clock: Clock = SystemClock() if clock is None else clock
        self._concurrency = concurrency
        self._queues = queues
        self._limits = dict(limits or {})
        self._retention = retention
        self._chance = random
        self._announce = Announcer(listeners)
        self._timer: Timer = LoopTimer() if timer is None else timer
        self._loop = Loop(self.step)
        self._keeping = Loop(self._keeper_step)
        self._event_loop: asyncio.AbstractEventLoop | None = None
        self._side_bridge = Bridge("sidework-side", threads=2)
        self._threads = Threads()
        self._bench = Bench(concurrency, self._clock.monotonic)
        self._bridge = Bridge("sidework-turn", is_loop_busy=self._runs_without_a_pause)
        self._ledger = Ledger(self._bench)
        self._reporter = Reporter(self.wake)
        self._suspicion = Suspicion(self._clock.monotonic)
        self._stopping = self._make_stopping(grace)
        self._ear = self._make_ear()
        self._renew_at = self._clock.monotonic() + RENEW_INTERVAL
        self._turn = Turn()
        self._retry_in = self._trouble_wait = 0.0
        self._exchanging = False
        self._until_idle = False
        self._expelled: WorkerLost | None = None
        self._aftermath: Aftermath | None = None
        self._membership: Membership
        self._runner: Runner
        self._keeper: Keeper

    # ------------------------------------------------------------------------------------------------- its life

    async def run(self, *, until_idle: bool = False, ready: Callable[[], object] = bool) -> bool:
        """Work until stopped, or until there is nothing to do; return whether all that was begun was finished.

        ready: called when the first claim is about to be made. Raises WorkerLost if the seat is gone.
        If this is cancelled, what runs is given back first.
        """
        self._until_idle = until_idle
        await self.join()
        ready()
        working = asyncio.ensure_future(self._work())
        try:
            return await asyncio.shield(working)
        except asyncio.CancelledError:
            self.stop(now=True)
            await working
            raise

    async def join(self) -> None:
        """Take a seat, and free the jobs of the dead before anything is claimed."""
        self._event_loop = asyncio.get_running_loop()
        try:
            await self._take_a_seat()
        except BaseException:
            self._close_bridges()
            raise
        self._announce(WorkerJoined(worker=self._membership.worker))

    async def _take_a_seat(self) -> None:
        worker = NewWorker(keys=self._keys(), queues=self._queues, concurrency=self._concurrency, limits=self._limits)
        self._membership = await self._bridge.call(self._storage.join, worker, now=self._clock.now())
        self._runner = self._make_runner()
        self._keeper = self._make_keeper()
        try:
            await self._keeper.recover()
        except BaseException:
            await self._give_up_the_seat()
            raise

    async def leave(self) -> bool:
        """Give the seat up; return whether all that was begun was finished.

        A handler that cannot be stopped keeps the seat: its job is free when it has ended or this process is gone.
        """
        self._stopping.close()
        stuck = tuple(claim.job_id for claim in self._bench.running)
        if stuck:
            self._aftermath = Aftermath(self._storage, self._membership, self._clock, self._bench.running)
        else:
            await self._give_up_the_seat()
        self._runner.close()
        self._close_bridges()
        given_back, unwritten = self._ledger.given_back, self._bench.unwritten
        self._announce(
            WorkerStopped(worker=self._membership.worker, given_back=given_back, stuck=stuck, unwritten=unwritten)
        )
        return not (stuck or given_back or unwritten)

    def stop(self, *, now: bool = False) -> None:
        """Claim nothing more, let running jobs end within the grace period, then end. From any thread.

        now: do not wait for them: async handlers are cancelled and given back without using an attempt.
        """
        self._stopping.ask(now=now)
        self.wake()

    def wake(self) -> None:
        """Look at the database soon. From any thread."""
        if self._event_loop is None:
            return
        try:
            self._event_loop.call_soon_threadsafe(self._loop.wake)
        except RuntimeError:
            logger.debug("a worker was woken after its event loop had been closed")

    async def _work(self) -> bool:
        await self._ear.open()
        kept = asyncio.create_task(self._keeping.run())
        guarded = asyncio.create_task(self._guard_the_seat())
        try:
            await self._loop.run()
        except WorkerLost as error:
            await self._end_everything(error)
            raise
        finally:
            self._keeping.stop()
            guarded.cancel()
            await asyncio.gather(kept, guarded, return_exceptions=True)
            await self._ear.close()
            finished = await self.leave()
        return finished

    async def _guard_the_seat(self) -> None:
        """Tell every handler to end when the lease may be over, even while the database does not answer."""
        while (left := self._membership.time_left) is not None:
            if left <= 0:
                self._expelled = self._expelled or WorkerLost(
                    f"worker {self._membership.worker} stops: it could not renew its lease in time", may_rejoin=True
                )
                self._bench.take_ready()
                for attempt in list(self._bench.running.values()):
                    self._runner.stop(attempt, Stop.LOST)
                self._loop.wake()
                return
            await asyncio.sleep(min(left, LONGEST_WITHOUT_A_LOOK))

    async def _keeper_step(self) -> float | None:
        try:
            return await self._keeper.step()
        except WorkerLost as error:
            self._expelled = error
            self._loop.wake()
            return None

    def _hear_a_commit(self) -> bool:
        """Look soon, unless jobs at hand wait for a place: then a new one would only wait with them."""
        if self._bench.has_ready and not self._suspicion.pending:
            return False
        self._loop.wake()
        return True

    def _hear_a_death(self) -> None:
        self._keeper.look_for_the_dead_now()
        self._keeping.wake()

    def _hear_of_a_rescue(self, freed: Sequence[Outcome]) -> None:
        """Look soon; claim nothing more before a suspect among the rescued, if this worker may run it, has run."""
        if any(outcome.status is JobStatus.PENDING and outcome.crashes > 0 for outcome in freed):
            self._suspicion.expect()
        self._loop.wake()

    # ------------------------------------------------------------------------------------------------- one turn

    async def step(self) -> float | None:
        """Take one turn; return the seconds until the next is due, or None when it has stopped and nothing is left.

        Raises WorkerLost if the seat is gone.
        """
        if self._expelled is not None:
            raise self._expelled
        self._stopping.notice(self._membership.worker, self._runner)
        self._give_back_what_will_not_run()
        await self._report()
        await self._renew_when_due()
        await self._exchange()
        await self._stop_if_idle()
        return self._pause()

    def _runs_without_a_pause(self) -> bool:
        """Whether a turn would come in between handlers only. In a crowd it may as well: it holds the lock for less."""
        return self._bench.has_ready and not self._turn.crowded

    async def _exchange(self) -> None:
        ended, want = self._bench.take_ended(crowded=self._turn.crowded), self._want()
        outcomes = [attempt.outcome for attempt in ended if attempt.outcome is not None]
        self._exchanging = True
        try:
            turn = await self._bridge.call(
                self._storage.exchange, self._membership.worker, outcomes, want, now=self._clock.now()
            )
        except WorkerLost:
            raise
        except Exception as error:  # noqa: BLE001 - locked, full, unreachable: what ended is kept and written later
            self._bench.put_back(ended)
            self._in_trouble("an exchange with the database", error)
            if isinstance(error, AnswerLost):  # it may have claimed: what we do not know of is given back first
                self._renew_at = self._clock.monotonic()
            return
        finally:
            self._exchanging = False
            self._ear.looked()
        self._retry_in = self._trouble_wait = 0.0
        self._turn = turn
        self._ledger.take(ended, turn)
        self._cancel(turn.cancel)
        self._begin(turn.claimed, want)

    def _want(self) -> Want:
        if self._stopping.begun:
            return NOTHING
        if self._suspicion.wants_it_now(nothing_runs=not self._bench.running):
            return Want(keys=self._keys(), queues=self._queues, suspect=True)
        if self._suspicion.runs:
            return NOTHING
        if self._suspicion.pending:
            return Want(keys=self._keys(), queues=self._queues)
        return Want(
            keys=self._keys(),
            queues=self._queues,
            room=self._concurrency,
            rooms=self._bench.rooms,
            ahead=self._bench.ahead,
        )

    def _keys(self) -> frozenset[str]:
        return frozenset(key for key, handler in self._handlers.items() if handler.function is not None)

    def _cancel(self, claims: Iterable[Claim]) -> None:
        for claim in claims:
            attempt = self._bench.running.get(claim)
            if attempt is not None:
                self._runner.stop(attempt, Stop.CANCEL)
            elif (job := self._bench.ready_job(claim)) is not None:
                self._bench.drop(claim)
                self._end_unstarted(job, Stop.CANCEL)

    def _begin(self, claimed: Sequence[ClaimedJob], want: Want) -> None:
        if want.suspect:
            self._start_beside_the_others(claimed)
        else:
            self._bench.add(claimed)
            self._start_all_ready()
        # Last: what was claimed for free places begins now, and only what was claimed ahead waits for suspects.
        was_pending = self._suspicion.pending
        self._suspicion.learn(self._turn, want)
        if was_pending and not self._suspicion.pending:
            self._start_all_ready()
            self._loop.wake()

    def _start_beside_the_others(self, suspects: Sequence[ClaimedJob]) -> None:
        """Start a suspect whatever its queue's room: it has waited for that long enough."""
        for job in suspects:
            self._bench.add_running(job)
            self._bench.running[job.claim] = self._runner.start(job)

    def _start_all_ready(self) -> None:
        for queue in self._bench.queues:
            self._start_ready(queue)

    def _start_ready(self, queue: str) -> None:
        if self._suspicion.pending:
            return
        while (job := self._bench.next(queue)) is not None:
            self._bench.running[job.claim] = self._runner.start(job)

    # ------------------------------------------------------------------------------------------ between two turns

    def _on_end(self, attempt: Attempt) -> None:
        """Take the end of an attempt, and start what waits for its place."""
        self._bench.end(attempt)
        if self._aftermath is not None:
            self._aftermath.take(attempt)
            return
        if self._suspicion.pending:
            self._end_beside_a_suspect(attempt)
        if attempt.settled:
            self._ledger.written(attempt)
        elif attempt.lost:
            attempt.announce(ClaimLost)
        self._start_ready(attempt.job.queue)
        # What ends during an exchange and is to be written is asked for at its end, when it is clear what is at hand.
        if not self._bench.plentiful and (self._is_short_of_jobs(attempt) if attempt.settled else not self._exchanging):
            self._loop.wake()

    def _end_beside_a_suspect(self, attempt: Attempt) -> None:
        """Let the others begin if this was the suspect, or a suspect if this was the last of the others."""
        self._suspicion.ended(attempt.job)
        if not self._suspicion.pending:
            self._start_all_ready()
        if self._suspicion.wants_it_now(nothing_runs=not self._bench.running) or not self._suspicion.pending:
            self._loop.wake()

    def _is_short_of_jobs(self, attempt: Attempt) -> bool:
        return not self._bench.has_stock(attempt.job.queue)

    def _pause(self) -> float | None:
        """Return in how many seconds the next turn is due."""
        if self._stopping.done:
            return None
        if self._retry_in:
            return self._retry_in
        monotonic = self._clock.monotonic()
        waits = [LONGEST_WITHOUT_A_LOOK, max(self._renew_at - monotonic, 0.0)]
        if self._bench.plentiful:
            waits.append(LONGEST_GATHERING)
        elif self._bench.has_ended:
            waits.append(0.0)
        if self._turn.next_due is not None and not self._stopping.begun and not self._suspicion.pending:
            in_seconds = (self._turn.next_due - self._clock.now()).total_seconds()
            waits.append(in_seconds if in_seconds > 0 else PAST_DUE_PAUSE)
        if (report_in := self._reporter.due_in(monotonic)) is not None:
            waits.append(report_in)
        if self._suspicion.wants_it_now(nothing_runs=not self._bench.running):
            waits.append(0.0)
        return min(waits)

    async def _report(self) -> None:
        reports = self._reporter.take(self._clock.monotonic())
        if not reports:
            return
        try:
            await self._bridge.call(self._storage.report, reports, now=self._clock.now())
        except Exception as error:  # noqa: BLE001 - as for an exchange
            self._reporter.give_back(reports, self._clock.monotonic())
            self._in_trouble("a report of progress", error)

    async def _renew_when_due(self) -> None:
        if self._clock.monotonic() < self._renew_at:
            return
        try:
            await self._renew()
        except WorkerLost:
            raise
        except Exception as error:  # noqa: BLE001 - as for an exchange
            self._in_trouble("a sign of life", error)
            self._renew_at = self._clock.monotonic() + AFTER_TROUBLE
            return
        self._renew_at = self._clock.monotonic() + RENEW_INTERVAL

    async def _renew(self) -> None:
        """Say that this worker lives, and bring what it believes to hold in line with what the database says."""
        await self._bridge.call(self._membership.check)
        renewal = await self._bridge.call(
            self._storage.renew, self._membership.worker, self._bench.held(), now=self._clock.now()
        )
        for claim in renewal.lost:
            self._lose(claim)
        if renewal.stray:
            self._announce(StraysGivenBack(job_ids=tuple(job.id for job in renewal.stray)))
        for job in renewal.stray:
            self._end_unstarted(job, Stop.GIVE_BACK)

    def _lose(self, claim: Claim) -> None:
        self._bench.left.discard(claim)
        if (attempt := self._bench.running.get(claim)) is not None:
            self._runner.stop(attempt, Stop.LOST)
        else:
            self._bench.drop(claim)

    def _in_trouble(self, doing: str, error: Exception) -> None:
        """Wait before the database is asked again, longer each time, and not all workers for equally long."""
        self._trouble_wait = min(max(self._trouble_wait * 2, FIRST_RETRY), LONGEST_RETRY)
        self._retry_in = self._trouble_wait * (0.5 + self._chance())
        kept = len(self._bench.held())
        self._announce(DatabaseTrouble(doing=doing, reason=f"{error}", kept=kept, again_in=self._retry_in))

    async def _stop_if_idle(self) -> None:
        if not self._until_idle or self._stopping.begun or self._retry_in:
            return
        if self._bench.empty and not self._bench.has_ended and not self._turn.claimed and await self._is_idle():
            self._stopping.ask()
            self._stopping.notice(self._membership.worker, self._runner)

    async def _is_idle(self) -> bool:
        try:
            return await self._bridge.call(self._storage.idle, self._keys(), self._queues, now=self._clock.now())
        except Exception as error:  # noqa: BLE001 - as for an exchange
            self._in_trouble("a look for more jobs", error)
            return False

    # -------------------------------------------------------------------------------------------------- stopping

    def _give_back_what_will_not_run(self) -> None:
        unstarted = self._bench.take_ready() if self._stopping.begun else self._bench.take_stale()
        for job in unstarted:
            self._end_unstarted(job, Stop.GIVE_BACK)

    def _end_unstarted(self, job: ClaimedJob, why: Stop) -> None:
        attempt = self._runner.unstarted(job)
        attempt.stop = why
        attempt.over = True
        attempt.outcome = attempt.outcome_of(attempt.stopped())
        self._bench.end(attempt)
        self._suspicion.ended(job)

    def _close_bridges(self) -> None:
        self._bridge.close()
        self._side_bridge.close()

    async def _give_up_the_seat(self) -> None:
        try:
            await self._bridge.call(self._membership.leave)
        except Exception:  # noqa: BLE001 - it is told, and nothing depends on it
            seat = self._membership.worker
            logger.exception("worker %d could not leave; its seat is free when this process ends", seat)

    async def _end_everything(self, error: WorkerLost) -> None:
        """Abort whatever runs: its jobs belong to somebody else by now."""
        self._announce(WorkerExpelled(worker=self._membership.worker, reason=str(error)))
        self._bench.take_ready()
        self._bench.take_ended()
        for attempt in list(self._bench.running.values()):
            self._runner.stop(attempt, Stop.LOST)
        await self._runner.wait_for_ends(self._bench.running.values(), LAST_WAIT)

    # ---------------------------------------------------------------------------------------------------- making

    def _make_stopping(self, grace: float) -> Stopping:
        return Stopping(
            self._bench, self._reporter, grace=grace, timer=self._timer, announce=self._announce, wake=self.wake
        )

    def _make_ear(self) -> Ear:
        return Ear(
            self._storage,
            self._side_bridge,
            longest=LONGEST_WITHOUT_A_LOOK,
            on_commit=self._hear_a_commit,
            on_death=self._hear_a_death,
            chance=self._chance,
        )

    def _make_runner(self) -> Runner:
        desk = Desk(
            storage=self._storage,
            seat=self._membership,
            clock=self._clock,
            chance=self._chance,
            announce=self._announce,
            news=self._reporter.note,
        )
        return Runner(
            desk,
            self._handlers,
            self._service,
            threads=self._threads,
            bridge=self._side_bridge,
            timer=self._timer,
            ended=self._on_end,
        )

    def _make_keeper(self) -> Keeper:
        return Keeper(
            self._storage,
            self._membership.worker,
            self._handlers,
            clock=self._clock,
            chance=self._chance,
            bridge=self._side_bridge,
            announce=self._announce,
            retention=self._retention,
            rescued=self._hear_of_a_rescue,
        )
