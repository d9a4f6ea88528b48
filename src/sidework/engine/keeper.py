"""`Keeper`: frees the jobs of dead workers, forgets those workers, and deletes ended jobs when their time is over."""

from __future__ import annotations

import math
from itertools import groupby
from typing import TYPE_CHECKING, Any

from sidework.engine.events import JobsPruned, JobsRescued, logger
from sidework.errors import WorkerLost
from sidework.model.lifecycle import DEFAULT_POLICY, after_death, decide
from sidework.storage.contract import Want

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sidework.clock import Clock
    from sidework.engine.bridge import Bridge
    from sidework.engine.events import Announcer
    from sidework.model.handler import JobHandler
    from sidework.model.job import ClaimedJob, LostJob, Outcome, RetentionRule
    from sidework.model.lifecycle import Happening
    from sidework.storage.contract import Storage

PROBE_INTERVAL = 0.25
"""Seconds between two looks for dead workers."""
FORGET_INTERVAL = 10.0
"""Seconds between two looks for dead workers that left nothing behind but their row."""
LOST_AT_ONCE = 1000
SWEEP_INTERVAL = 600.0
"""Seconds from the end of one sweep through the ended jobs to the beginning of the next."""
PRUNE_SECONDS = 0.01
"""What one step of a sweep should take, so that nobody waits for it."""
PRUNE_REST = 10.0
"""A sweep rests so many times as long as its last step took: it uses a tenth of one core at most."""
FEWEST_AT_ONCE, MOST_AT_ONCE = 20, 1000
AFTER_TROUBLE = 1.0

NOTHING = Want(keys=frozenset())


class Keeper:
    """Looks after what no worker holds any more. Driven by `step()`."""

    def __init__(  # noqa: PLR0913 - a keeper is made in one place, of all that can be set
        self,
        storage: Storage,
        worker: int,
        handlers: Mapping[str, JobHandler[..., Any]],
        *,
        clock: Clock,
        chance: Callable[[], float],
        bridge: Bridge,
        announce: Announcer,
        retention: Sequence[RetentionRule],
        rescued: Callable[[Sequence[Outcome]], object],
    ) -> None:
        """Look at nothing yet.

        worker: under whose seat it writes. retention: what may be deleted, and when. rescued: told on the loop what
        became of the jobs of the dead.
        """
        self._storage = storage
        self._worker = worker
        self._handlers = handlers
        self._clock = clock
        self._chance = chance
        self._bridge = bridge
        self._announce = announce
        self._retention = retention
        self._rescued = rescued
        self._probe_at = self._forget_at = clock.monotonic()
        self._sweep_at = clock.monotonic() if retention else math.inf
        self._swept_to = 0
        self._at_once = 500

    async def recover(self) -> None:
        """Free every job of a dead worker, then forget those workers. Claims begin after this and not before."""
        while await self._rescue():
            pass
        await self._bridge.call(self._storage.forget_dead_workers)

    def look_for_the_dead_now(self) -> None:
        """Let the next step look for dead workers: somebody has heard one die."""
        self._probe_at = self._clock.monotonic()

    async def step(self) -> float:
        """Do what is due; return the seconds until something will be."""
        try:
            await self._do_what_is_due()
        except WorkerLost:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, the next look may go better
            logger.warning("housekeeping failed, trying again in %g s: %s", AFTER_TROUBLE, error)
            return AFTER_TROUBLE
        return max(min(self._probe_at, self._forget_at, self._sweep_at) - self._clock.monotonic(), 0.0)

    async def _do_what_is_due(self) -> None:
        now = self._clock.monotonic()
        if now >= self._probe_at:
            self._probe_at = now + PROBE_INTERVAL  # first: who hears a death meanwhile asks for one more look
            while await self._rescue():
                self._forget_at = now
        if now >= self._forget_at:
            await self._bridge.call(self._storage.forget_dead_workers)
            self._forget_at = now + FORGET_INTERVAL
        if now >= self._sweep_at:
            await self._prune()

    # ------------------------------------------------------------------------------------------------- lost jobs

    async def _rescue(self) -> bool:
        """Free some jobs of dead workers; return whether there were any."""
        lost = await self._bridge.call(self._storage.lost, limit=LOST_AT_ONCE)
        if not lost:
            return False
        outcomes = [outcome for jobs in _by_worker(lost) for outcome in self._after_death(jobs)]
        now = self._clock.now()
        turn = await self._bridge.call(self._storage.exchange, self._worker, outcomes, NOTHING, now=now)
        freed = [o for o in outcomes if o.claim not in turn.refused and o.claim not in turn.failed]
        if freed:  # else another worker's keeper was faster
            self._announce(JobsRescued(job_ids=tuple(o.claim.job_id for o in freed)))
            self._rescued(freed)
        return bool(freed)

    def _after_death(self, jobs: Sequence[LostJob]) -> list[Outcome]:
        return [self._outcome(lost.job, what) for lost, what in zip(jobs, after_death(jobs), strict=True)]

    def _outcome(self, job: ClaimedJob, happened: Happening) -> Outcome:
        handler = self._handlers.get(job.key)
        policy = DEFAULT_POLICY if handler is None else handler.policy(job)
        return decide(job, happened, policy, now=self._clock.now(), chance=self._chance())

    # --------------------------------------------------------------------------------------------------- pruning

    async def _prune(self) -> None:
        """Take one small step through the ended jobs, sized so that it takes about PRUNE_SECONDS."""
        began_at = self._clock.monotonic()
        deleted, next_id = await self._bridge.call(
            self._storage.prune, self._retention, after=self._swept_to, limit=self._at_once, now=self._clock.now()
        )
        took = self._clock.monotonic() - began_at
        self._at_once = _sized(self._at_once, took)
        self._swept_to = next_id or 0
        rest = SWEEP_INTERVAL if next_id is None else max(took * PRUNE_REST, PRUNE_SECONDS)
        self._sweep_at = self._clock.monotonic() + rest
        if deleted:
            self._announce(JobsPruned(count=deleted))


def _by_worker(lost: Sequence[LostJob]) -> list[list[LostJob]]:
    def worker_of(job: LostJob) -> int:
        return job.worker if job.worker is not None else -1

    return [list(jobs) for _worker, jobs in groupby(sorted(lost, key=worker_of), key=worker_of)]


def _sized(at_once: int, took: float) -> int:
    if took > 2 * PRUNE_SECONDS:
        return max(at_once // 2, FEWEST_AT_ONCE)
    if took < PRUNE_SECONDS / 2:
        return min(at_once * 2, MOST_AT_ONCE)
    return at_once
