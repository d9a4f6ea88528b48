"""`Bench`: everything one worker holds: jobs that wait, that run, and that ended but are not written yet."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidework.engine.lane import Lane

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sidework.engine.attempt import Attempt
    from sidework.model.job import Claim, ClaimedJob


class Bench:
    """What a worker holds, by queue. Belongs to the event loop's thread."""

    def __init__(self, concurrency: int, monotonic: Callable[[], float]) -> None:
        """concurrency: how many jobs of one queue may run at once."""
        self._concurrency = concurrency
        self._monotonic = monotonic
        self._lanes: dict[str, Lane] = {}
        self._ended: list[Attempt] = []
        self.running: dict[Claim, Attempt] = {}
        self.left: set[Claim] = set()
        """Claims whose outcome the database will not take: they stay ours, and RUNNING, until this worker is gone."""

    # ------------------------------------------------------------------------------------------------- changes

    def add(self, jobs: Sequence[ClaimedJob]) -> None:
        """Take claimed jobs in."""
        by_queue: dict[str, list[ClaimedJob]] = {}
        for job in jobs:
            by_queue.setdefault(job.queue, []).append(job)
        for queue, its_jobs in by_queue.items():
            self._lane(queue).add(its_jobs)

    def add_running(self, job: ClaimedJob) -> None:
        """Count a job as running although its queue may have no room for it."""
        self._lane(job.queue).running += 1

    def next(self, queue: str) -> ClaimedJob | None:
        """Return the job of a queue that is to be started now, counted as running from then on, or None."""
        lane = self._lanes.get(queue)
        return lane.next(self._monotonic()) if lane is not None and lane.ready else None

    def end(self, attempt: Attempt) -> None:
        """Note that an attempt is over."""
        if self.running.pop(attempt.job.claim, None) is not None:
            self._lanes[attempt.job.queue].end(attempt.seconds)
        if attempt.outcome is not None and not attempt.settled:
            self._ended.append(attempt)

    def take_ended(self, *, crowded: bool = False) -> list[Attempt]:
        """Return the attempts whose outcomes are to be written, and keep none. crowded: others write here too."""
        now = self._monotonic()
        for queue, lane in list(self._lanes.items()):
            lane.measure(now, crowded=crowded)
            if lane.deserted(now):
                del self._lanes[queue]
        ended, self._ended = self._ended, []
        return ended

    def put_back(self, attempts: list[Attempt]) -> None:
        """Take attempts back that could not be written; they come first the next time."""
        self._ended = attempts + self._ended

    def take_stale(self) -> list[ClaimedJob]:
        """Return jobs claimed ahead that could not be started for too long."""
        return [job for lane in self._lanes.values() for job in lane.take_stale(self._monotonic())]

    def take_ready(self) -> list[ClaimedJob]:
        """Return every job that was not started, and keep none."""
        return [job for lane in self._lanes.values() for job in lane.take_ready()]

    def drop(self, claim: Claim) -> None:
        """Forget a job that was not started."""
        for lane in self._lanes.values():
            lane.drop(claim)

    # --------------------------------------------------------------------------------------------------- looks

    @property
    def queues(self) -> list[str]:
        """The queues it knows."""
        return list(self._lanes)

    @property
    def empty(self) -> bool:
        """Whether no job waits or runs here."""
        return not self.running and not any(lane.ready for lane in self._lanes.values())

    @property
    def has_ended(self) -> bool:
        """Whether outcomes are to be written."""
        return bool(self._ended)

    @property
    def unwritten(self) -> int:
        """How many outcomes are to be written."""
        return len(self._ended)

    @property
    def plentiful(self) -> bool:
        """Whether so many fast jobs are at hand that writing what ended can wait for more of it."""
        return any(lane.plentiful for lane in self._lanes.values())

    def has_stock(self, queue: str) -> bool:
        """Whether more than half of the jobs that are worth having are at hand."""
        lane = self._lanes.get(queue)
        return lane is not None and bool(lane.ready) and 2 * len(lane.ready) > lane.worth_having

    @property
    def has_ready(self) -> bool:
        """Whether jobs wait to be started."""
        return any(lane.ready for lane in self._lanes.values())

    @property
    def rooms(self) -> dict[str, int]:
        """Queue -> how many more could be started at once, where that is less than the concurrency."""
        return {queue: lane.room for queue, lane in self._lanes.items() if lane.held}

    @property
    def ahead(self) -> dict[str, int]:
        """Queue -> how many more are worth claiming ahead."""
        return {queue: ahead for queue, lane in self._lanes.items() if (ahead := lane.ahead)}

    def ready_job(self, claim: Claim) -> ClaimedJob | None:
        """Return the job under this claim if it waits to be started."""
        return next((job for lane in self._lanes.values() for job in lane.ready if job.claim == claim), None)

    def held(self) -> set[Claim]:
        """Return every claim that is believed to hold a job."""
        held = {claim for claim, attempt in self.running.items() if not attempt.settled}
        held.update(attempt.job.claim for attempt in self._ended)
        held.update(job.claim for lane in self._lanes.values() for job in lane.ready)
        return held | self.left

    def _lane(self, queue: str) -> Lane:
        lane = self._lanes.get(queue)
        if lane is None:
            lane = self._lanes[queue] = Lane(self._concurrency, self._monotonic())
        return lane
