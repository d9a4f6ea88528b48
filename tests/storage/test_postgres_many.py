"""Many at once on PostgreSQL: what locks and their order must hold, and what a lost connection must not break."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from tests.storage.crew import NOON, Crew, Hand, at, ended, everything, ids, job, look, put, status

from sidework.errors import DatabaseBusy, DatabaseUnavailable, NotMigrated, SideworkError
from sidework.model.job import JobStatus
from sidework.storage.open import open_storage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sidework.model.job import NewJob
    from sidework.storage.contract import Storage


@pytest.fixture
def storage(postgres_database: str) -> Iterator[Storage]:
    store = open_storage(postgres_database)
    store.migrate()
    yield store
    store.close()


@pytest.fixture
def crew(storage: Storage) -> Iterator[Crew]:
    assert storage.name
    workers = Crew()
    yield workers
    workers.leave()


@pytest.fixture
def raw(storage: Storage, postgres_database: str) -> Iterator[psycopg.Connection[Any]]:
    assert storage.name
    with closing(psycopg.connect(postgres_database)) as connection:
        yield connection


def waits_for_a_lock(url: str, most: int = 1) -> None:
    """Return as soon as so many statements wait for a lock."""
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    with closing(psycopg.connect(url, autocommit=True)) as connection:
        while connection.execute(waiting).fetchone() < (most,):  # type: ignore[operator]
            pass


def test_four_workers_at_once_never_run_more_than_the_limit(storage: Storage, crew: Crew) -> None:
    put(storage, *(job(queue="slow") for _ in range(60)))
    hands = [crew.hire(storage, limits={"slow": 3}) for _ in range(4)]
    most: list[int] = []

    def work(hand: Hand) -> None:
        mine = hand.claim(5)
        for _ in range(40):
            running = sum(queue.running for queue in storage.queues())
            most.append(running)
            mine = list(hand.turn(*map(ended, mine), room=5).claimed)
        hand.settle(*map(ended, mine))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, hands))
    assert max(most) == 3
    assert storage.counts()[JobStatus.COMPLETED] == 60


def test_workers_at_once_share_the_jobs_and_none_is_held_twice(storage: Storage, crew: Crew) -> None:
    given = put(storage, *(job(priority=n % 3) for n in range(2000)))
    hands = [crew.hire(storage) for _ in range(4)]

    all_have_begun = threading.Barrier(4)

    def work(hand: Hand) -> list[int]:
        taken = ids(hand.claim(50))
        all_have_begun.wait(30)  # three of them claim 150 at most, and so many are looked at: at least two get some
        while storage.counts()[JobStatus.PENDING]:
            taken += ids(hand.claim(50))
        return taken

    with ThreadPoolExecutor(4) as pool:
        shares = list(pool.map(work, hands))
    assert sorted(job_id for share in shares for job_id in share) == given
    assert sum(bool(share) for share in shares) > 1


def test_a_pause_waits_for_the_turn_that_is_under_way(
    storage: Storage, crew: Crew, raw: psycopg.Connection[Any], postgres_database: str
) -> None:
    put(storage)
    hand = crew.hire(storage)
    raw.execute(
        "SELECT name FROM background_service_queues WHERE false FOR UPDATE"
    )  # what a turn does before it claims
    with ThreadPoolExecutor(1) as pool:
        pausing = pool.submit(storage.pause, "default", now=NOON)
        waits_for_a_lock(postgres_database)
        assert not pausing.done()
        raw.rollback()
        pausing.result(20)
    assert hand.claim() == []


def test_a_turn_that_waited_for_a_pause_claims_nothing(
    storage: Storage, crew: Crew, raw: psycopg.Connection[Any], postgres_database: str
) -> None:
    put(storage)
    hand = crew.hire(storage)
    raw.execute("LOCK TABLE background_service_queues IN EXCLUSIVE MODE")
    raw.execute("INSERT INTO background_service_queues (name, paused) VALUES ('default', true)")
    with ThreadPoolExecutor(1) as pool:
        claiming = pool.submit(hand.claim)
        waits_for_a_lock(postgres_database)
        raw.commit()
        assert claiming.result(20) == []


def test_jobs_that_others_are_taking_are_passed_over(
    storage: Storage, crew: Crew, raw: psycopg.Connection[Any]
) -> None:
    first, second, third = put(storage, job(), job(), job())
    raw.execute("SELECT id FROM background_service_jobs WHERE id IN (%s, %s) FOR UPDATE", (first, second))
    assert ids(crew.hire(storage).claim(1)) == [third]


def test_two_enqueues_of_one_unique_key_at_once_are_one_job(storage: Storage) -> None:
    start = threading.Barrier(8)

    def enqueue(_: int) -> int:
        start.wait()
        return put(storage, job(unique_key="u"))[0]

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(enqueue, range(8)))) == 1
    assert len(everything(storage)) == 1


def test_an_enqueue_waits_for_a_transaction_that_holds_its_unique_key(
    storage: Storage, raw: psycopg.Connection[Any], postgres_database: str
) -> None:
    (first,) = storage.insert_with(raw, [job(unique_key="u")], now=NOON)
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(put, storage, job(unique_key="u"))
        waits_for_a_lock(postgres_database)
        raw.rollback()
        (second,) = other.result(20)
    assert second != first
    assert [each.id for each in everything(storage)] == [second]


def test_waiting_for_a_lock_ends_with_the_remedy(
    storage: Storage, raw: psycopg.Connection[Any], postgres_database: str
) -> None:
    impatient = open_storage(postgres_database, wait=0.05)
    (job_id,) = put(storage)
    raw.execute("SELECT 1 FROM background_service_jobs FOR UPDATE")
    with pytest.raises(DatabaseBusy, match="sidework doctor"):
        impatient.set_priority([job_id], 3, now=NOON)
    impatient.close()


def test_a_single_enqueue_waits_for_a_lock_no_longer_than_it_was_told_to(
    postgres_database: str, raw: psycopg.Connection[Any]
) -> None:
    raw.execute("LOCK TABLE background_service_jobs")
    hasty = open_storage(postgres_database, wait=0.05)
    with pytest.raises(DatabaseBusy, match="sidework doctor"):
        put(hasty)
    raw.rollback()
    put(hasty)
    hasty.close()


def test_two_that_lock_in_a_circle_are_both_served(
    storage: Storage, raw: psycopg.Connection[Any], postgres_database: str
) -> None:
    first, second = put(storage, job(), job())
    raw.execute("SET deadlock_timeout = '1h'")  # the other one is the victim
    raw.execute("SELECT 1 FROM background_service_jobs WHERE id = %s FOR UPDATE", (second,))
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(storage.set_priority, [first, second], 5, now=NOON)
        waits_for_a_lock(postgres_database)
        raw.execute("UPDATE background_service_jobs SET priority = 1 WHERE id = %s", (first,))
        raw.commit()
        assert other.result(20) == [first, second]
    assert {each.priority for each in everything(storage)} == {5}


def test_an_enqueue_that_meets_another_in_a_circle_is_tried_again(
    storage: Storage, raw: psycopg.Connection[Any], postgres_database: str
) -> None:
    raw.execute("SET deadlock_timeout = '1h'")  # the other one is the victim
    (second,) = storage.insert_with(raw, [job(unique_key="second")], now=NOON)
    with ThreadPoolExecutor(1) as pool:
        both = pool.submit(put, storage, job(unique_key="first"), job(unique_key="second"))
        waits_for_a_lock(postgres_database)
        (first,) = storage.insert_with(raw, [job(unique_key="first")], now=NOON)
        raw.commit()
        assert both.result(20) == [first, second]


def test_an_enqueue_waits_no_longer_for_a_unique_key_than_for_any_lock(
    storage: Storage, raw: psycopg.Connection[Any], postgres_database: str
) -> None:
    impatient = open_storage(postgres_database, wait=0.05)
    storage.insert_with(raw, [job(unique_key="u")], now=NOON)
    with pytest.raises(DatabaseBusy):
        put(impatient, job(unique_key="u"))
    impatient.close()


def test_a_row_from_any_program_is_a_job(storage: Storage, crew: Crew, raw: psycopg.Connection[Any]) -> None:
    raw.execute(
        "INSERT INTO background_service_jobs (job_key, payload, priority, max_attempts, status) "
        "VALUES ('k', '{\"a\": 1}', 5, 2, 'PENDING')"
    )
    raw.commit()
    claimed = crew.hire(storage).claim_one()
    assert (claimed.payload, claimed.priority, claimed.max_attempts, claimed.claim.number) == ('{"a": 1}', 5, 2, 1)


@pytest.mark.parametrize("apart", [1, 7])
def test_many_get_numbers_in_their_order_whether_or_not_others_draw_some_between(
    storage: Storage, raw: psycopg.Connection[Any], apart: int
) -> None:
    """As they are drawn where others draw at the same time: with gaps."""
    raw.execute(f"ALTER SEQUENCE background_service_jobs_id_seq INCREMENT BY {apart}")
    raw.commit()
    first, *others = given = put(storage, *(job(payload=f'{{"n":{n}}}') for n in range(60)))
    assert given == list(range(first, first + 60 * apart, apart))
    assert [each.payload for each in sorted(everything(storage), key=lambda each: each.id)] == [
        {"n": n} for n in range(60)
    ]
    assert put(storage)[0] > others[-1]


@pytest.mark.parametrize("column", ["created_at", "updated_at", "last_attempt_at", "finished_at", "run_at"])
@pytest.mark.parametrize("moment", ["'infinity'", "'-infinity'", "'20000-01-01'"])
def test_a_time_that_no_program_of_ours_could_read_is_refused(
    raw: psycopg.Connection[Any], column: str, moment: str
) -> None:
    with pytest.raises(psycopg.errors.CheckViolation):
        raw.execute(f"INSERT INTO background_service_jobs (job_key, {column}) VALUES ('k', {moment})")


def test_an_outcome_that_the_database_refuses_does_not_hold_up_its_neighbours(
    storage: Storage, crew: Crew, raw: psycopg.Connection[Any]
) -> None:
    raw.execute("ALTER TABLE background_service_jobs ADD CHECK (result <> '\"bad\"')")
    raw.commit()
    hand = crew.hire(storage)
    given = put(storage, *(job() for _ in range(4)))
    held = hand.claim()
    (more,) = put(storage)
    stale = ended(held[3])
    hand.settle(stale)
    results = ['"ok"', '"bad"', '"ok"']
    outcomes = [ended(each, result=text) for each, text in zip(held[:3], results, strict=True)]
    turn = hand.turn(*outcomes, stale, room=1)
    assert (list(turn.failed), turn.refused, ids(turn.claimed)) == ([held[1].claim], frozenset({held[3].claim}), [more])
    assert "background_service_jobs_result_check" in turn.failed[held[1].claim]
    expected = [JobStatus.COMPLETED, JobStatus.RUNNING, JobStatus.COMPLETED, JobStatus.COMPLETED]
    assert [status(storage, job_id) for job_id in given] == expected


@pytest.mark.parametrize("count", [1, 2, 60])
def test_a_job_is_the_same_by_whatever_way_it_comes_in(storage: Storage, count: int) -> None:
    """One goes by a statement prepared by hand, a few by arrays, many by COPY."""
    text = "é\n\\\t\N{GRINNING FACE}"
    payload = json.dumps({"n": text}, ensure_ascii=False)
    plain = [job(payload=payload, priority=-3, max_attempts=7, queue="späße", options='{"timeout":1}')]
    late = [job(payload=None, run_at=at(90.0005))]
    first = put(storage, *plain * count, time=1.0009)
    second = put(storage, *late * count)
    assert first + second == sorted(first + second)
    for job_id in first:
        found = look(storage, job_id)
        assert (found.payload, found.priority, found.max_attempts, found.queue, found.status, found.run_at) == (
            {"n": text}, -3, 7, "späße", JobStatus.PENDING, None
        )  # fmt: skip
        assert (found.created_at, found.updated_at) == (at(1), at(1))
    for job_id in second:
        found = look(storage, job_id)
        assert (found.payload, found.status, found.run_at) == (None, JobStatus.SCHEDULED, at(90.001))


@pytest.mark.parametrize("count", [1, 60])
def test_what_the_database_refuses_leaves_the_connection_usable(storage: Storage, count: int) -> None:
    with pytest.raises(DatabaseUnavailable, match="invalid byte sequence"):
        put(storage, *[job(queue="a\0b")] * count)
    assert len(put(storage, *[job()] * count)) == count
    assert storage.counts()[JobStatus.PENDING] == count


def test_single_and_many_are_as_durable_as_was_asked_for(postgres_database: str, storage: Storage) -> None:
    assert storage.name
    for durability, setting in (("full", "on"), ("relaxed", "off")):
        store = open_storage(postgres_database, durability=durability)  # type: ignore[arg-type]
        put(store)
        with store._database.connections.one(None) as connection:  # type: ignore[attr-defined]
            assert connection.execute("SHOW synchronous_commit").fetchone() == (setting,)
        store.close()


def test_connections_that_the_server_has_closed_are_not_used_again(
    storage: Storage, raw: psycopg.Connection[Any]
) -> None:
    (job_id,) = put(storage)
    others = "FROM pg_stat_activity WHERE application_name = 'sidework'"
    raw.autocommit = True
    while raw.execute(f"SELECT pg_terminate_backend(pid) {others}").fetchall():
        pass
    assert look(storage, job_id).status is JobStatus.PENDING
    assert put(storage) > [job_id]


def test_a_turn_names_the_time_of_the_next_job_in_utc(storage: Storage, crew: Crew) -> None:
    put(storage, job(run_at=at(60)))
    turn = crew.hire(storage).turn(room=1)
    assert turn.next_due is not None
    assert (turn.next_due, turn.next_due.utcoffset()) == (at(60), at(0) - at(0))


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("postgresql://nobody:canary@127.0.0.1:1/x", DatabaseUnavailable),
        ("postgresql://127.0.0.1:1/x?password=canary&connect_timeout=2", DatabaseUnavailable),
    ],
)
def test_a_password_is_shown_nowhere(url: str, error: type[Exception]) -> None:
    store = open_storage(url)
    assert "canary" not in store.name
    with pytest.raises(error) as told:
        store.check()
    assert "canary" not in str(told.value)


def test_a_database_without_tables_says_what_to_do(postgres_server: str) -> None:
    with pytest.raises(NotMigrated, match="sidework migrate"):
        open_storage(postgres_server).insert([job()], now=NOON)


@pytest.mark.parametrize(
    "jobs",
    [
        [job("bad")],
        [job("bad", unique_key="u")],
        [job(unique_key="u"), job("bad")],
        [job(), *[job("bad")] * 60],
    ],
)
def test_a_job_that_a_trigger_swallows_is_an_error_and_none_of_its_list_is_kept(
    storage: Storage, raw: psycopg.Connection[Any], jobs: list[NewJob]
) -> None:
    raw.execute("CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'")
    raw.execute(
        "CREATE TRIGGER swallow BEFORE INSERT ON background_service_jobs FOR EACH ROW WHEN (NEW.job_key = 'bad') "
        "EXECUTE FUNCTION swallow()"
    )
    raw.commit()
    with pytest.raises(SideworkError, match="swallowed"):
        put(storage, *jobs)
    with pytest.raises(SideworkError, match="swallowed"):
        storage.insert_with(raw, jobs, now=NOON)
    raw.commit()
    assert everything(storage) == []


def test_a_job_can_be_enqueued_after_whatever_was_done_on_the_connection(storage: Storage) -> None:
    (first,) = put(storage)
    assert storage.facts(first) is not None  # ends with a ROLLBACK
    assert put(storage) == [first + 1]
    storage.examine()
    assert put(storage) == [first + 2]
    with pytest.raises(ValueError, match="no status"):
        storage._database.write(_fail)  # type: ignore[attr-defined]
    assert put(storage) == [first + 3]


def _fail(connection: psycopg.Connection[Any]) -> None:
    connection.execute("SELECT 1", prepare=True)
    raise ValueError("no status")


def test_a_turn_whose_statements_met_a_lock_when_they_were_prepared_is_possible_afterwards(
    postgres_database: str, crew: Crew, raw: psycopg.Connection[Any]
) -> None:
    with closing(open_storage(postgres_database, wait=0.05)) as hasty:
        hand = crew.hire(hasty)
        (job_id,) = put(hasty)
        raw.execute("LOCK TABLE background_service_queues IN ACCESS EXCLUSIVE MODE")  # those prepared before are kept
        for _ in range(2):
            with pytest.raises(DatabaseBusy):
                hand.claim()
        raw.commit()
        assert ids(hand.claim()) == [job_id]
