"""I7 on PostgreSQL: nothing is claimed after `pause()` returned, and a limit holds, while workers claim as fast as they
can. Each with the lock taken away as its control: then it must be seen to fail.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from tests.storage.crew import NOON, Crew, Hand, given_back

from sidework.storage.postgres.store import PostgresStorage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

WORKERS, ROUNDS, LIMIT = 4, 60, 3
MOST_ROUNDS = 600
"""After so many a control gives up."""


@pytest.fixture
def storage(postgres_database: str) -> Iterator[PostgresStorage]:
    store = PostgresStorage(postgres_database, notify=False)
    store.migrate()
    yield store
    store.close()


@pytest.fixture
def raw(storage: PostgresStorage, postgres_database: str) -> Iterator[psycopg.Connection[Any]]:
    assert storage.name
    with closing(psycopg.connect(postgres_database, autocommit=True)) as connection:
        connection.execute("INSERT INTO background_service_jobs (job_key) SELECT 'k' FROM generate_series(1, 500)")
        yield connection


class Shift:
    """Workers that claim and give back without a pause, until the end of the shift."""

    def __init__(self, hands: list[Hand]) -> None:
        self._over = threading.Event()
        self._turns = [0] * len(hands)
        self._hands = hands

    def work(self, number: int) -> None:
        hand = self._hands[number]
        while not self._over.is_set():
            held = hand.claim(LIMIT)
            hand.settle(*map(given_back, held))
            self._turns[number] += 1

    def wait_for_turns(self, number: int) -> None:
        """Return when each worker has ended so many more turns."""
        wanted = [turns + number for turns in self._turns]
        while any(turns < enough for turns, enough in zip(self._turns, wanted, strict=True)):
            threading.Event().wait(0.0002)

    def end(self) -> None:
        self._over.set()


@contextmanager
def at_work(storage: PostgresStorage, **about: Any) -> Iterator[Shift]:
    crew = Crew()
    shift = Shift([crew.hire(storage, **about) for _ in range(WORKERS)])
    with ThreadPoolExecutor(WORKERS) as pool:
        working = [pool.submit(shift.work, number) for number in range(WORKERS)]
        try:
            shift.wait_for_turns(1)
            yield shift
        finally:
            shift.end()
        for each in working:
            each.result(30)
    crew.leave()


def claims_after_a_pause(storage: PostgresStorage, raw: psycopg.Connection[Any], shift: Shift) -> int:
    """Pause, and return how often something was claimed after that had returned."""
    claims = "SELECT sum(claims) FROM background_service_jobs"
    storage.pause("default", now=NOON)
    ((at_once,),) = raw.execute(claims).fetchall()
    shift.wait_for_turns(2)
    ((later,),) = raw.execute(claims).fetchall()
    storage.resume("default", now=NOON)
    shift.wait_for_turns(1)
    return int(later - at_once)


def test_nothing_is_claimed_after_a_pause_has_returned(
    storage: PostgresStorage, raw: psycopg.Connection[Any], figures: Callable[[str], None]
) -> None:
    with at_work(storage) as shift:
        late = [claims_after_a_pause(storage, raw, shift) for _ in range(ROUNDS)]
    figures(f"I7 pause: {ROUNDS} pauses beside {WORKERS} workers, claims after them {sum(late)}")
    assert sum(late) == 0


def test_a_pause_that_waits_for_no_turn_is_seen_to_come_too_late(
    storage: PostgresStorage, raw: psycopg.Connection[Any]
) -> None:
    """The control."""
    statements: Any = storage._session._sql
    statements["lock_settings"] = "SELECT 1"
    with at_work(storage) as shift:
        assert any(claims_after_a_pause(storage, raw, shift) for _ in range(MOST_ROUNDS))


def most_running(raw: psycopg.Connection[Any], looks: int, enough: int) -> int:
    """Return how many were seen to run at once at most; look no more when that are enough."""
    running = "SELECT count(*) FROM background_service_jobs WHERE status = 'RUNNING'"
    most = 0
    for _ in range(looks):
        ((number,),) = raw.execute(running).fetchall()
        most = max(most, number)
        if most >= enough:
            break
    return most


def test_a_limit_is_never_exceeded(
    storage: PostgresStorage, raw: psycopg.Connection[Any], figures: Callable[[str], None]
) -> None:
    with at_work(storage, limits={"default": LIMIT}):
        most = most_running(raw, 2000, LIMIT + 1)
    figures(f"I7 limit: {WORKERS} workers at a queue limited to {LIMIT}: {most} at once at most in 2,000 looks")
    assert most == LIMIT


def test_a_limit_that_is_counted_without_a_lock_is_seen_to_be_exceeded(
    storage: PostgresStorage, raw: psycopg.Connection[Any]
) -> None:
    """The control."""
    statements: Any = storage._session._sql
    statements["lock_queues"] = "SELECT %(queues)s::text[]"
    with at_work(storage, limits={"default": LIMIT}):
        assert most_running(raw, 20_000, LIMIT + 1) > LIMIT
