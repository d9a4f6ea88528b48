"""`Lane`: one queue as one worker sees it: what runs, what waits, and how much is worth having at hand."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sidework.model.job import Claim, ClaimedJob

AHEAD_SECONDS = 0.05
"""Jobs are claimed ahead for as long as this, so that a fast handler does not wait for each commit."""
MOST_AHEAD, MOST_AHEAD_IN_A_CROWD = 1000, 60
"""A turn over so many jobs holds the write lock for some 12 ms, or for less than one."""
BATCH_FROM = 100
"""From so many jobs claimed ahead on, ends gather until half are used up; below, each end is written at once."""
STALE_SECONDS = 0.5
"""Jobs claimed ahead that could not be started for so long are given back: the estimate was wrong."""
DESERTED_SECONDS = 60.0
WEIGHT = 0.3
"""Of the newest measurement in a moving average."""


class Lane:
    """The running and the ready jobs of one queue."""

    __slots__ = (
        "_ended", "_measured_at", "_per_second", "_seconds", "concurrency", "moved_at", "ready", "running",
        "worth_having",
    )  # fmt: skip

    def __init__(self, concurrency: int, monotonic: float) -> None:
        """concurrency: how many of this queue may run at once. monotonic: the time now."""
        self.concurrency = concurrency
        self.running = 0
        self.ready: deque[ClaimedJob] = deque()
        self.moved_at = monotonic
        """When a job was last started."""
        self.worth_having = 0
        """How many jobs beyond those that run could be started within AHEAD_SECONDS; see `measure`."""
        self._ended = 0
        self._measured_at = monotonic
        self._seconds = 0.0
        self._per_second = 0.0

    @property
    def held(self) -> int:
        """How many jobs it has."""
        return self.running + len(self.ready)

    @property
    def room(self) -> int:
        """How many more could be started at once."""
        return max(self.concurrency - self.held, 0)

    @property
    def ahead(self) -> int:
        """How many more are worth claiming beyond `room`."""
        return max(self.worth_having - max(self.held - self.concurrency, 0), 0)

    @property
    def plentiful(self) -> bool:
        """Whether so many fast jobs are at hand that writing what ended can wait for more of it."""
        return self.worth_having >= BATCH_FROM and 2 * len(self.ready) > self.worth_having

    def deserted(self, monotonic: float) -> bool:
        """Whether nothing has been here for so long that it can be forgotten."""
        return not self.held and monotonic - self.moved_at > DESERTED_SECONDS

    def add(self, jobs: Sequence[ClaimedJob]) -> None:
        """Take claimed jobs in; the order stays: higher priority first, then older."""
        in_order = not self.ready or not jobs or _place(self.ready[-1]) <= _place(jobs[0])
        self.ready.extend(jobs)
        if not in_order:
            self.ready = deque(sorted(self.ready, key=_place))

    def next(self, monotonic: float) -> ClaimedJob | None:
        """Return the job to start now, counted as running, or None."""
        if not self.ready or self.running >= self.concurrency:
            return None
        self.running += 1
        self.moved_at = monotonic
        return self.ready.popleft()

    def end(self, seconds: float) -> None:
        """Say that a job which ran so long has ended."""
        self.running -= 1
        self._ended += 1
        self._seconds += WEIGHT * (seconds - self._seconds)

    def measure(self, monotonic: float, *, crowded: bool = False) -> None:
        """Take the ends since the last measurement into the estimate of what is worth having.

        Two bounds, and the lower one holds: what ended per second, and what an attempt's duration allows. The first
        knows that handlers which never wait run one after the other; the second is not deceived when several long
        jobs happen to end together.
        """
        elapsed = monotonic - self._measured_at
        if not self._ended or elapsed <= 0:
            return
        self._per_second += WEIGHT * (self._ended / elapsed - self._per_second)
        self._ended = 0
        self._measured_at = monotonic
        worth_having = self._per_second * AHEAD_SECONDS
        if self._seconds > 0:
            worth_having = min(worth_having, self.concurrency * AHEAD_SECONDS / self._seconds)
        self.worth_having = min(int(worth_having), MOST_AHEAD_IN_A_CROWD if crowded else MOST_AHEAD)

    def take_stale(self, monotonic: float) -> list[ClaimedJob]:
        """Return the ready jobs if none could be started for too long, and claim no more ahead for now."""
        if not self.ready or monotonic - self.moved_at < STALE_SECONDS:
            return []
        self._per_second = 0.0
        self.worth_having = 0
        return self.take_ready()

    def drop(self, claim: Claim) -> None:
        """Forget the ready job under this claim, if there is one."""
        self.ready = deque(job for job in self.ready if job.claim != claim)

    def take_ready(self) -> list[ClaimedJob]:
        """Return the ready jobs and keep none."""
        jobs = list(self.ready)
        self.ready.clear()
        return jobs


def _place(job: ClaimedJob) -> tuple[int, int]:
    return -job.priority, job.id
