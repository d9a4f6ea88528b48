"""F14: the line breaks while a transaction is under way, at any byte of it: before the server has it all, or before the
answer is there. Whoever enqueued is told that nobody knows; the same unique key is one job; a worker goes on as if
nothing had been.
"""

from __future__ import annotations

import asyncio
import math
import os
import time
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from tests.faults.processes import now
from tests.proxy import Direction, Proxy, proxied
from tests.storage.crew import NOON, Hand, ended, job, look, put, status

from sidework import AnswerLost, DatabaseUnavailable, JobStatus
from sidework.storage.contract import Want
from sidework.storage.open import open_storage
from sidework.storage.postgres.store import PostgresStorage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sidework.model.job import ClaimedJob, NewJob
    from sidework.storage.contract import Storage

STEPS: dict[Direction, int] = {"up": int(os.environ.get("SIDEWORK_CUT_EVERY", "151")), "down": 7}
"""Bytes between two places at which the line is cut; the answer to COMMIT is short."""
LONGEST = 60_000


@pytest.fixture
def direct(postgres_database: str) -> Iterator[Storage]:
    """The way that is never cut."""
    store = open_storage(postgres_database)
    store.migrate()
    yield store
    store.close()


@pytest.fixture
def proxy(direct: Storage, postgres_database: str) -> Iterator[Proxy]:
    assert direct.name
    with proxied(postgres_database) as proxy:
        yield proxy


@pytest.fixture
def store(proxy: Proxy) -> Iterator[Storage]:
    """The way that is cut; no ring travels on it beside what is looked at."""
    store = PostgresStorage(proxy.url, notify=False)
    yield store
    store.close()


@pytest.fixture
def raw(direct: Storage, postgres_database: str) -> Iterator[psycopg.Connection[Any]]:
    """Any program's connection, with a table of the application's."""
    assert direct.name
    with closing(psycopg.connect(postgres_database, autocommit=True)) as connection:
        connection.execute("CREATE TABLE effects (n int)")
        yield connection


def places(proxy: Proxy, act: Callable[[], object]) -> Iterator[tuple[int, Direction]]:
    """Do it once in peace; yield each place of it at which the line can be cut."""
    act()  # statements are prepared, the connection is known
    proxy.passed("up"), proxy.passed("down")
    act()
    bytes_of_it: dict[Direction, int] = {direction: proxy.passed(direction) for direction in STEPS}
    for direction, number in bytes_of_it.items():
        assert 0 < number < LONGEST
        for place in {*range(0, number, STEPS[direction]), number - 1}:
            yield place, direction


def is_told(act: Callable[[], object]) -> bool:
    """Do it; return whether it was said that the answer was lost: for what the line breaks behind it has come."""
    try:
        act()
    except AnswerLost as error:
        return "unknown whether" in str(error)
    return False


def ids(raw: psycopg.Connection[Any]) -> list[int]:
    """Return the jobs that are there."""
    return [job_id for (job_id,) in raw.execute("SELECT id FROM background_service_jobs ORDER BY id")]


def session_of_turns(store: Storage) -> int:
    """Return the server's number of the session in which the next turn is taken."""
    turns: Any = store
    pid: int = turns._turns.connections._idle[-1].info.backend_pid
    return pid


def wait_until_it_has_ended(raw: psycopg.Connection[Any], session: int) -> None:
    """Wait until the server has done what had come over a line that was cut, and ended its session."""
    until = now() + 10
    while raw.execute("SELECT 1 FROM pg_stat_activity WHERE pid = %s", (session,)).fetchall() and now() < until:
        time.sleep(0.005)


def new_jobs(unique: bool, many: int, number: int) -> list[NewJob]:
    return [job(unique_key=f"{number} {n}" if unique else None) for n in range(many)]


@pytest.mark.parametrize("many", [1, 3])
@pytest.mark.parametrize("unique", [False, True])
def test_an_enqueue_is_done_once_or_not_at_all_and_never_again_by_itself(
    raw: psycopg.Connection[Any],
    store: Storage,
    proxy: Proxy,
    many: int,
    unique: bool,
    figures: Callable[[str], None],
) -> None:
    cuts = kept = number = 0

    def enqueue() -> list[int]:
        return store.insert(new_jobs(unique, many, number), now=NOON)

    for place, direction in places(proxy, enqueue):
        number += 1
        enqueue()
        number += 1
        before = ids(raw)
        proxy.cut_after(place, direction)
        told = is_told(enqueue)
        proxy.heal()
        found = len(ids(raw)) - len(before)
        assert found in ((0, many) if told else (many,))
        cuts, kept = cuts + told, kept + (told and found == many)
        if unique:
            assert enqueue() == ids(raw)[-many:]
            assert len(ids(raw)) == len(before) + many
    figures(f"F14 answers lost, enqueue of {many}{', unique' * unique}: {cuts} cuts, {kept} of them behind the commit")
    assert 0 < kept < cuts


def test_an_enqueue_that_rings_in_the_same_write_is_done_once_or_not_at_all_and_the_next_one_goes_on(
    raw: psycopg.Connection[Any], proxy: Proxy, figures: Callable[[str], None]
) -> None:
    """Behind the answer to the job, too, while that to the ring is on its way."""
    store = PostgresStorage(proxy.url)
    cuts = kept = silent = 0

    def enqueue() -> list[int]:
        store._ringer._rung_at = -math.inf
        return store.insert([job()], now=NOON)

    for place, direction in places(proxy, enqueue):
        enqueue()
        before = ids(raw)
        store._database.read(lambda connection: connection)  # what is owed is taken in: only the next one is cut
        proxy.cut_after(place, direction)
        told = is_told(enqueue)
        broken = store._database.connections._idle
        silent += not told and bool(broken) and broken[-1].owes_an_answer
        proxy.heal()
        found = len(ids(raw)) - len(before)
        assert found in ((0, 1) if told else (1,))
        cuts, kept = cuts + told, kept + (told and found == 1)
        assert enqueue()[0] in ids(raw)
    assert store._ringer._thread is None
    store.close()
    figures(f"F14 answers lost, enqueue of 1 that rings: {cuts} cuts, {kept} behind the commit, {silent} at the ring")
    assert kept
    assert silent


def test_who_cannot_reach_the_server_is_not_told_that_it_may_have_been_done(proxy: Proxy, store: Storage) -> None:
    proxy.refuse()
    with pytest.raises(DatabaseUnavailable) as told:
        store.insert([job()], now=NOON)
    assert not isinstance(told.value, AnswerLost)


def test_a_worker_whose_turn_was_cut_anywhere_goes_on_and_nothing_is_lost_or_done_twice(
    raw: psycopg.Connection[Any], direct: Storage, store: Storage, proxy: Proxy, figures: Callable[[str], None]
) -> None:
    hand, one = Hand(direct), Want(keys=frozenset("k"), room=1)
    cuts = kept = 0

    def hold_one_and_let_one_wait() -> tuple[ClaimedJob, int]:
        put(direct)
        return hand.claim_one(), put(direct)[0]

    def turn() -> None:
        held, _waits = hold_one_and_let_one_wait()
        hand.settle(*map(ended, store.exchange(hand.id, [ended(held)], one, now=NOON).claimed))

    for place, direction in places(proxy, turn):
        turn()
        held, waits = hold_one_and_let_one_wait()
        session = session_of_turns(store)
        proxy.cut_after(place, direction)
        if not is_told(lambda: store.exchange(hand.id, [ended(held)], one, now=NOON)):  # noqa: B023 - called at once
            hand.settle(*map(ended, direct.renew(hand.id, [], now=NOON).stray))
            proxy.heal()
            continue
        proxy.heal()
        wait_until_it_has_ended(raw, session)
        strays = direct.renew(hand.id, [held.claim], now=NOON).stray
        again = store.exchange(hand.id, [ended(held)], one, now=NOON)
        assert (held.claim in again.refused) is bool(strays)  # done already: refused, and what was claimed then is here
        (claimed,) = [*strays, *again.claimed]
        assert (claimed.id, claimed.claim.number) == (waits, 1)
        hand.settle(ended(claimed))
        assert [look(direct, each).attempts for each in (held.id, waits)] == [1, 1]
        assert [status(direct, each) for each in (held.id, waits)] == [JobStatus.COMPLETED] * 2
        cuts, kept = cuts + 1, kept + bool(strays)
    hand.seat.leave()
    figures(f"F14 answers lost, turns: {cuts} cuts, {kept} of them behind the commit")
    assert 0 < kept < cuts


class Handler:
    """An attempt that writes, enqueues and ends, over the line that is cut."""

    def __init__(self, store: Storage, hand: Hand) -> None:
        self._store, self._hand, self.number = store, hand, 0

    def run(self) -> None:
        """Run one job."""
        claim = self._claim()
        transaction = self._store.transaction(claim.claim)
        try:
            transaction.connection.execute(self._write)
            transaction.insert([self._next], now=NOON)
            assert transaction.commit(ended(claim), now=NOON)
        finally:
            transaction.close()

    def run_async(self) -> None:
        """Run one job on an event loop."""
        asyncio.run(self._run_async(self._claim()))

    async def _run_async(self, claim: ClaimedJob) -> None:
        transaction = self._store.async_transaction(claim.claim)
        try:
            await transaction.connection.execute(self._write)
            await transaction.insert([self._next], now=NOON)
            assert await transaction.commit(ended(claim), now=NOON)
        finally:
            await transaction.close()

    def _claim(self) -> ClaimedJob:
        self.number += 1
        put(self._hand.storage)
        return self._hand.claim_one()

    @property
    def _write(self) -> str:
        return f"INSERT INTO effects VALUES ({self.number})"

    @property
    def _next(self) -> NewJob:
        return job(key="next", unique_key=f"{self.number}")


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_what_a_handler_wrote_and_enqueued_and_its_end_are_there_together_or_not_at_all(
    direct: Storage,
    store: Storage,
    proxy: Proxy,
    raw: psycopg.Connection[Any],
    colour: str,
    figures: Callable[[str], None],
) -> None:
    hand = Hand(direct)
    handler = Handler(store, hand)
    run = handler.run if colour == "sync" else handler.run_async
    cuts = kept = 0
    for place, direction in places(proxy, run):
        run()
        proxy.cut_after(place, direction)
        told = True
        with suppress(psycopg.OperationalError, DatabaseUnavailable):
            run()
            told = False
        proxy.heal()
        found = raw.execute("SELECT 1 FROM effects WHERE n = %s", (handler.number,)).fetchall()
        follower = "SELECT 1 FROM background_service_jobs WHERE job_key = 'next' AND unique_key = %s"
        followers = raw.execute(follower, (f"{handler.number}",)).fetchall()
        open_still = direct.renew(hand.id, [], now=NOON).stray
        assert (len(found), len(followers), len(open_still)) in ((1, 1, 0), (0, 0, 1))
        assert told or found
        hand.settle(*map(ended, open_still))
        cuts, kept = cuts + told, kept + (told and bool(found))
    hand.seat.leave()
    figures(f"F14 answers lost, {colour} handlers: {cuts} cuts, {kept} of them behind the commit")
    assert 0 < kept < cuts
