"""F18: every state that one job can reach, with workers that die, come back and let abandoned threads run on.

The rules are the real ones (`lifecycle.decide`); claim and settle are modelled as the statements do them. A thread
keeps the token of its claim for as long as it lives, whatever has become of its job meanwhile.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from sidework.model.job import Claim, ClaimedJob, JobStatus
from sidework.model.lifecycle import (
    MOVES,
    Cancelled,
    Discarded,
    GivenBack,
    Happening,
    Policy,
    Raised,
    Returned,
    Snoozed,
    WorkerDied,
    decide,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sidework.model.job import Outcome

NOW = datetime(2026, 1, 1, tzinfo=UTC)
POLICY = Policy(backoff=1.0)
WORKERS = (1, 2)
MOST_CLAIMS, MOST_RETRIES, MOST_ATTEMPTS = 3, 1, 2


@dataclass(frozen=True)
class Thread:
    """A handler that runs: under which claim, with what it read when it was claimed."""

    worker: int
    number: int
    attempts: int
    crashes: int
    owned: bool = True
    """Whether its worker still waits for it; False: abandoned, it runs on."""


@dataclass(frozen=True)
class State:
    """One job and all who work on it."""

    status: JobStatus = JobStatus.PENDING
    attempts: int = 0
    crashes: int = 0
    claims: int = 0
    worker: int | None = None
    threads: tuple[Thread, ...] = ()
    commits: tuple[int, ...] = ()
    """Claims whose effects were committed."""
    late: bool = False
    """Whether somebody committed under a claim that was not the newest."""
    retries: int = 0
    dead: frozenset[int] = frozenset()
    """Workers taken for dead, rightly or not, whose jobs are to be freed."""


Step = tuple[str, State]
Explored = tuple[dict[State, Step | None], State | None]


def by_claim(state: State, thread: Thread) -> bool:
    """The fence as it is: a number that only grows."""
    return state.status is JobStatus.RUNNING and state.claims == thread.number


def by_attempt_and_worker(state: State, thread: Thread) -> bool:
    """The fence that many a queue has."""
    return state.status is JobStatus.RUNNING and (state.attempts, state.worker) == (thread.attempts, thread.worker)


def no_fence(_state: State, _thread: Thread) -> bool:
    return True


def steps(state: State, fence: Callable[[State, Thread], bool]) -> Iterator[Step]:
    """Yield whatever can happen next."""
    yield from _claims(state)
    if state.status is JobStatus.SCHEDULED:
        yield "it is due", replace(state, status=JobStatus.PENDING)
    for thread in state.threads:
        yield from _endings(state, thread, fence)
    yield from _deaths(state, fence)
    yield from _operators(state)


def _claims(state: State) -> Iterator[Step]:
    if state.status is not JobStatus.PENDING or state.claims == MOST_CLAIMS:
        return
    for worker in WORKERS:
        if worker not in state.dead:
            number = state.claims + 1
            thread = Thread(worker, number, state.attempts, state.crashes)
            threads = (*state.threads, thread)
            claimed = replace(state, status=JobStatus.RUNNING, claims=number, worker=worker, threads=threads)
            yield f"worker {worker} claims", claimed


def _endings(state: State, thread: Thread, fence: Callable[[State, Thread], bool]) -> Iterator[Step]:
    gone = replace(state, threads=tuple(other for other in state.threads if other != thread))
    name = f"claim {thread.number} on worker {thread.worker}"
    yield f"{name} returns", _committed(gone, thread, fence)
    if not thread.owned:
        yield f"{name} raises, abandoned", gone
        return
    happenings: list[Happening] = [
        Raised("x"), Snoozed(timedelta(1)), Discarded("x"), Cancelled("x"), GivenBack()
    ]  # fmt: skip
    for happened in happenings:
        what = type(happened).__name__
        yield f"{name} ends: {what}", _settled(gone, thread, happened, fence)
    # Out of time, superseded or cancelled: the attempt is ended from outside, and the thread runs on.
    abandoned = tuple(replace(other, owned=False) if other == thread else other for other in state.threads)
    running_on = replace(state, threads=abandoned)
    for happened in (Raised("timeout"), GivenBack()):
        yield f"{name} is abandoned: {type(happened).__name__}", _settled(running_on, thread, happened, fence)


def _deaths(state: State, fence: Callable[[State, Thread], bool]) -> Iterator[Step]:
    for worker in WORKERS:
        if worker not in state.dead and len(state.dead) < len(WORKERS) - 1:
            killed = tuple(thread for thread in state.threads if thread.worker != worker)
            yield f"worker {worker} is killed", replace(state, threads=killed, dead=state.dead | {worker})
            yield f"worker {worker} is taken for dead", replace(state, dead=state.dead | {worker})
        elif worker in state.dead:
            if state.status is JobStatus.RUNNING and state.worker == worker:
                ghost = Thread(worker, state.claims, state.attempts, state.crashes)
                freed = _settled(state, ghost, WorkerDied(suspected=True), fence)
                yield f"the job of worker {worker} is freed", freed
            else:
                yield f"worker {worker} is back", replace(state, dead=state.dead - {worker})


def _operators(state: State) -> Iterator[Step]:
    if state.status in {JobStatus.FAILED, JobStatus.CANCELLED} and state.retries < MOST_RETRIES:
        again = replace(state, status=JobStatus.PENDING, attempts=0, crashes=0, retries=state.retries + 1)
        yield "an operator retries it", again


def _committed(state: State, thread: Thread, fence: Callable[[State, Thread], bool]) -> State:
    """The handler's effects and its outcome in one transaction."""
    if not fence(state, thread):
        return state
    late = state.late or thread.number != state.claims
    written = _write(state, decide(_job(thread), Returned(None), POLICY, now=NOW, chance=0.0))
    return replace(written, commits=(*state.commits, thread.number), late=late)


def _settled(state: State, thread: Thread, happened: Happening, fence: Callable[[State, Thread], bool]) -> State:
    if not fence(state, thread):
        return state
    return _write(state, decide(_job(thread), happened, POLICY, now=NOW, chance=0.0))


def _job(thread: Thread) -> ClaimedJob:
    return ClaimedJob(
        claim=Claim(1, thread.number),
        key="k",
        payload=None,
        queue="default",
        priority=0,
        attempts=thread.attempts,
        max_attempts=MOST_ATTEMPTS,
        crashes=thread.crashes,
        created_at="",
    )


def _write(state: State, outcome: Outcome) -> State:
    return replace(
        state, status=outcome.status, attempts=outcome.attempts, crashes=outcome.crashes, worker=None
    )  # fmt: skip


def explore(fence: Callable[[State, Thread], bool]) -> Explored:
    """Return every state reached, each with the step before it, and the first in which the promise is broken."""
    first = State()
    came_from: dict[State, Step | None] = {first: None}
    waiting = deque([first])
    while waiting:
        state = waiting.popleft()
        if state.late or len(state.commits) > 1:
            return came_from, state
        for name, following in steps(state, fence):
            if following not in came_from:
                came_from[following] = (name, state)
                waiting.append(following)
    return came_from, None


def way_to(state: State, came_from: dict[State, Step | None]) -> list[str]:
    names = []
    while (step := came_from[state]) is not None:
        names.append(step[0])
        state = step[1]
    return names[::-1]


@pytest.fixture(scope="module")
def explored() -> Explored:
    return explore(by_claim)


def test_no_state_has_two_commits_or_one_of_a_superseded_claim(explored: Explored, figures: Callable[[str], None]):
    came_from, broken = explored
    assert broken is None, way_to(broken, came_from)
    figures(f"F18 protocol: {len(came_from)} states of one job, late or second commits 0")
    assert len(came_from) > 1000
    assert any(state.commits for state in came_from)


def test_an_end_can_be_reached_from_every_state(explored: Explored):
    came_from, _ = explored
    backwards: dict[State, list[State]] = {}
    for state in came_from:
        for _, following in steps(state, by_claim):
            backwards.setdefault(following, []).append(state)
    reaching = {state for state in came_from if state.status.ended}
    waiting = deque(reaching)
    while waiting:
        for before in backwards.get(waiting.popleft(), ()):
            if before not in reaching:
                reaching.add(before)
                waiting.append(before)
    stuck = [state for state in came_from if state not in reaching and state.claims < MOST_CLAIMS]
    assert stuck == []


def test_no_step_makes_a_move_that_the_rules_do_not_know(explored: Explored):
    came_from, _ = explored
    for state in came_from:
        for name, following in steps(state, by_claim):
            allowed = MOVES[state.status] | {state.status}
            assert following.status in allowed, (name, state)


@pytest.mark.parametrize("fence", [by_attempt_and_worker, no_fence])
def test_a_weaker_token_lets_a_superseded_claim_commit(fence: Callable[[State, Thread], bool]):
    """The control: the search finds what it looks for."""
    came_from, broken = explore(fence)
    assert broken is not None
    assert len(way_to(broken, came_from)) <= 5
