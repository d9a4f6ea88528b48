"""A move takes everything along, closes the file behind it, and finds what is in the way before it changes anything."""

from __future__ import annotations

import asyncio
import re
import sqlite3
import threading
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from tests.service.moves import STATUSES_OF_FILL, all_of, build, counts, fill, leave_a_dead_worker

from sidework import (
    BackgroundJobManager,
    BackgroundService,
    CannotMove,
    DatabaseMoved,
    DatabaseUnavailable,
    JobContext,
    JobStatus,
    Retry,
    SideworkError,
    WorkerLost,
)
from sidework.clock import FrozenClock
from sidework.moving import Move, Moved, Progress, Step, move_from
from sidework.storage.open import open_arrival, open_departure
from sidework.storage.transfer import Mark, Stage

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def target(postgres_database: str) -> str:
    return postgres_database


def run(path: Path, target: str, **how: Any) -> Moved:
    move = move_from(path, target)
    try:
        return move.run(**how)
    finally:
        move.close()


def abort(path: Path, target: str) -> None:
    move = move_from(path, target)
    try:
        move.abort()
    finally:
        move.close()


def obstacles(path: Path, target: str) -> str:
    move = move_from(path, target)
    try:
        return "\n".join(move.plan().in_the_way)
    finally:
        move.close()


@pytest.fixture
def raw(path: Path) -> Iterator[sqlite3.Connection]:
    """Yield the connection of a program that knows nothing of sidework."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        yield connection


def on_server(target: str, statement: str) -> list[tuple[Any, ...]]:
    with closing(psycopg.connect(target, autocommit=True)) as connection:
        cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description else []


# --------------------------------------------------------------------------------------------- what is taken along


def test_everything_is_there_as_it_was(path: Path, target: str) -> None:
    fill(path)
    before = all_of(path)
    moved = run(path, target)
    assert all_of(target) == before
    assert counts(target) == STATUSES_OF_FILL
    assert {name: check.rows for name, check in moved.checks.items()} == {
        "jobs": 7, "queues": 2, "cancellations": 1, "progress": 2, "log": 2,
    }  # fmt: skip


def test_no_number_that_was_ever_used_is_used_again(path: Path, target: str) -> None:
    service = fill(path)
    highest = service.enqueue("greet", {"name": "last"})
    service.jobs.delete(highest)
    service.close()
    moved = run(path, target)
    there = build(target)
    new = there.enqueue("greet", {"name": "first"})
    there.close()
    assert new == highest + 1 == moved.next_id


def test_numbers_that_were_used_at_the_target_are_not_used_again_either(path: Path, target: str) -> None:
    there = build(target)
    used = [there.enqueue("greet", {"name": "x"}) for _ in range(30)]
    for job_id in used:
        there.jobs.delete(job_id)
    fill(path).close()
    run(path, target)
    new = there.enqueue("greet", {"name": "first"})
    there.close()
    assert new == 31


def test_an_empty_file_can_be_moved(path: Path, target: str) -> None:
    build(path).migrate()
    run(path, target)
    there = build(target)
    new = there.enqueue("greet", {"name": "first"})
    there.close()
    assert new == 1


def test_a_unique_key_is_still_held(path: Path, target: str) -> None:
    service = build(path)
    given = service.enqueue("greet", {"name": "x"}, delay=60, unique_key="u")
    service.close()
    run(path, target)
    there = build(target)
    again = there.enqueue("greet", {"name": "x"}, delay=60, unique_key="u")
    there.close()
    assert again == given


def test_work_goes_on_at_the_target(path: Path, target: str) -> None:
    """The job of a dead worker, the cancel request for it, the pause and the attempts: all still mean something."""
    fill(path)
    run(path, target)
    there = build(target)
    there.run_until_idle()
    assert [job.status for job in there.jobs.list(queue="slow")] == [JobStatus.PENDING]
    there.jobs.resume("slow")
    there.run_until_idle()
    there.close()
    assert counts(target) == {"SCHEDULED": 1, "COMPLETED": 3, "FAILED": 1, "CANCELLED": 2}


def test_a_job_whose_worker_died_runs_again_and_its_death_is_counted(path: Path, target: str) -> None:
    build(path).migrate()
    leave_a_dead_worker(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("DELETE FROM background_service_cancellations")
        connection.execute("INSERT INTO background_service_jobs (job_key, status) VALUES ('greet', 'RUNNING')")
    run(path, target)
    there = build(target)
    for seat in ("first", "second"):  # its numbers must not be taken for the one of the dead
        with there:
            assert there.is_running(), seat
    there.run_until_idle()
    jobs = there.jobs.list()
    there.close()
    assert [job.crashes for job in jobs] == [1, 1]
    assert JobStatus.RUNNING not in {job.status for job in jobs}


def test_the_jobs_of_dead_workers_are_told_beforehand_and_stay_theirs_if_one_goes_back(
    path: Path, target: str, raw: sqlite3.Connection
) -> None:
    fill(path)
    move = move_from(path, target)
    assert move.plan().orphans == 1
    workers = raw.execute("SELECT * FROM background_service_workers").fetchall()
    assert workers
    move.run()
    move.abort()
    move.close()
    assert raw.execute("SELECT * FROM background_service_workers").fetchall() == workers


def test_an_idempotency_key_is_the_same_as_before(path: Path, target: str) -> None:
    keys: list[str] = []

    def with_keys(database: str | Path) -> BackgroundService:
        service = BackgroundService(database, listeners=())

        @service.handler
        def pay(job: JobContext) -> None:
            keys.append(job.idempotency_key)
            if len(keys) == 1:
                raise Retry(after=3600)

        return service

    here, there = with_keys(path), with_keys(target)
    job_id = here.enqueue("pay")
    here.run_until_idle()
    run(path, target)
    there.jobs.retry(job_id)
    there.run_until_idle()
    here.close()
    there.close()
    assert len(keys) == 2
    assert keys[0] == keys[1]


# ----------------------------------------------------------------------------------------- the file that was left


@pytest.fixture
def left(path: Path, target: str) -> BackgroundService:
    """A service that does not know yet that its jobs have been moved."""
    service = fill(path)
    run(path, target)
    return service


def test_enqueueing_in_the_old_place_says_where_the_new_one_is(left: BackgroundService, target: str) -> None:
    with pytest.raises(DatabaseMoved, match="they were moved to postgresql://") as raised:
        left.enqueue("greet", {"name": "x"})
    assert target in str(raised.value)
    assert counts(target) == STATUSES_OF_FILL


def test_a_fresh_program_is_told_the_same(left: BackgroundService, path: Path) -> None:
    fresh = build(path)
    for act in (
        lambda: fresh.enqueue("greet", {"name": "x"}),
        fresh.migrate,
        fresh.run_until_idle,
        fresh.jobs.counts,
        lambda: fresh.jobs.retry(1),
    ):
        with pytest.raises(DatabaseMoved, match="moved to postgresql://"):
            act()
    assert fresh.job(db=None, job_key="greet", payload={"name": "x"}) is None


def test_an_enqueue_in_the_applications_own_transaction_is_refused_and_the_rest_of_it_stays(
    left: BackgroundService, raw: sqlite3.Connection
) -> None:
    raw.execute("CREATE TABLE accounts (n)")
    raw.execute("BEGIN")
    raw.execute("INSERT INTO accounts VALUES (1)")
    with pytest.raises(DatabaseMoved):
        left.enqueue("greet", {"name": "x"}, db=raw)
    raw.execute("COMMIT")
    assert raw.execute("SELECT count(*) FROM accounts").fetchone() == (1,)


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO background_service_jobs (job_key) VALUES ('greet')",
        "INSERT OR IGNORE INTO background_service_jobs (job_key) VALUES ('greet')",
        "INSERT OR REPLACE INTO background_service_jobs (id, job_key) VALUES (1, 'greet')",
        "UPDATE OR IGNORE background_service_jobs SET status = 'PENDING'",
        "DELETE FROM background_service_jobs",
        "UPDATE background_service_queues SET paused = 1",
        "INSERT INTO background_service_cancellations VALUES (99, 'x')",
        "DELETE FROM background_service_log",
        "DELETE FROM background_service_progress",
        "INSERT INTO background_service_workers VALUES (99, 'a', 'h', 1, '0', 1, NULL, '[]', 'x', 'x')",
    ],
)
def test_a_stranger_that_writes_is_told_and_changes_nothing(
    left: BackgroundService, raw: sqlite3.Connection, statement: str
) -> None:
    before = list(raw.iterdump())
    with pytest.raises(sqlite3.IntegrityError, match="this file takes no jobs any more: they were moved to postgresql"):
        raw.execute(statement)
    assert list(raw.iterdump()) == before


def test_the_doctor_says_where_the_jobs_are(left: BackgroundService, path: Path) -> None:
    findings = {finding.subject: finding for finding in BackgroundJobManager(path).examine()}
    assert findings["tables"].level == "ill"
    assert "moved to postgresql://" in findings["tables"].text
    assert "--abort" in str(findings["tables"].remedy)


def test_moving_again_says_what_was_moved(left: BackgroundService, path: Path, target: str) -> None:
    again = run(path, target)
    assert again.already
    assert again.checks["jobs"].rows == 7


# -------------------------------------------------------------------------------------------- workers at the source


class Pace:
    """Does something each time the move waits, instead of waiting."""

    def __init__(self, *acts: Any) -> None:
        self._acts = list(acts)
        self.waits = 0

    def __call__(self, seconds: float) -> None:
        self.waits += 1
        if self._acts:
            self._acts.pop(0)()
        threading.Event().wait(min(seconds, 0.05))


class Gate:
    """A service whose handler waits to be let go, and notes which jobs were begun."""

    def __init__(self, path: Path) -> None:
        self.service = build(path)
        self.begun: list[str] = []
        self.within, self.go = threading.Event(), threading.Event()

        @self.service.handler
        def wait(job: JobContext, name: str) -> str:
            self.begun.append(name)
            self.within.set()
            assert self.go.wait(30)
            job.log("the last word")
            return name


@pytest.fixture
def gate(path: Path) -> Iterator[Gate]:
    gate = Gate(path)
    yield gate
    gate.go.set()
    with suppress(SideworkError):
        gate.service.stop()
    gate.service.close()


def test_a_running_job_ends_at_the_old_place_and_none_begins_there(path: Path, target: str, gate: Gate) -> None:
    first = gate.service.enqueue("wait", {"name": "first"})
    gate.service.start()
    assert gate.within.wait(30)
    pace = Pace(lambda: gate.service.enqueue("wait", {"name": "second"}), lambda: None, lambda: None, gate.go.set)
    steps: list[Progress] = []
    move = Move(open_departure(path), open_arrival(target), tell=steps.append, pause=pace)
    move.run()
    move.close()
    assert gate.begun == ["first"]
    there = BackgroundJobManager(target)
    assert {job.payload["name"]: job.status for job in there.list()} == {  # type: ignore[index]
        "first": JobStatus.COMPLETED,
        "second": JobStatus.PENDING,
    }
    assert [line.message for line in there.log(first)] == ["the last word"]
    assert Step.DRAINING in {progress.step for progress in steps}


def test_an_idle_worker_is_stopped_and_says_where_the_jobs_are(path: Path, target: str) -> None:
    service = build(path)
    ended: list[BaseException] = []

    async def work() -> None:
        move = asyncio.create_task(asyncio.to_thread(run_when_there_is_a_worker))
        try:
            await service._serve(lambda: None)
        except WorkerLost as error:
            ended.append(error)
        await move

    def run_when_there_is_a_worker() -> None:
        for _ in range(2000):
            if service.is_running() and BackgroundJobManager(path).workers():
                break
            threading.Event().wait(0.01)
        run(path, target)

    service.migrate()
    asyncio.run(work())
    assert "they were moved to postgresql://" in str(ended[0]) or "they are being moved to postgresql://" in str(
        ended[0]
    )


def test_a_worker_that_waits_at_the_target_already_begins_when_everything_is_there(path: Path, target: str) -> None:
    service = fill(path)
    last = service.enqueue("greet", {"name": "last"})
    service.close()
    there = build(target)
    with there:
        run(path, target)
        assert there.wait(last, 60).result == "hello last\\n"
    there.close()
    assert counts(target)["SCHEDULED"] == 1


def test_what_does_not_end_in_time_is_named_and_everything_is_as_before(path: Path, target: str, gate: Gate) -> None:
    gate.service.enqueue("wait", {"name": "first"})
    gate.service.start()
    assert gate.within.wait(30)
    with pytest.raises(CannotMove, match=r"worker \d+ \(process \d+ on .*\) runs 1. Nothing was moved"):
        run(path, target, grace=0)
    gate.go.set()
    job_id = gate.service.enqueue("greet", {"name": "after"})
    assert gate.service.wait(job_id, 30).status == JobStatus.COMPLETED
    assert open_departure(path).mark() is None
    assert obstacles(path, target) == ""
    assert on_server(target, "SELECT to_regclass('background_service_move')") == [(None,)]


def test_claims_go_on_by_themselves_when_the_mover_dies_while_it_waits(path: Path, raw: sqlite3.Connection) -> None:
    fill(path)
    departure = open_departure(path)
    clock = FrozenClock()
    departure.begin(mark_of("postgresql://somewhere/else"), hold_until=clock.now().replace(year=2999))
    claim = "UPDATE background_service_jobs SET status = 'RUNNING', worker = 1 WHERE status = 'PENDING'"
    assert raw.execute(claim).rowcount == 0
    departure.hold(until=clock.now())  # long ago
    assert raw.execute(claim).rowcount == 1
    departure.disconnect()
    findings = {finding.subject: finding for finding in BackgroundJobManager(path).examine()}
    assert "has not ended" in findings["move"].text


def mark_of(target: str) -> Mark:
    return Mark(id="m", target=target, identity=None, stage=Stage.BEGUN, begun_at=FrozenClock().now())


# --------------------------------------------------------------------------------------------- what is in the way


def test_rows_that_cannot_be_moved_are_named_before_anything_is_changed(
    path: Path, target: str, raw: sqlite3.Connection
) -> None:
    fill(path)
    raw.text_factory = bytes
    raw.execute("UPDATE background_service_jobs SET payload = CAST(X'FF' AS TEXT) WHERE id = 3")
    raw.execute("UPDATE background_service_jobs SET priority = 'junk', updated_at = 'never' WHERE id = 4")
    raw.execute("UPDATE background_service_jobs SET result = 'a' || char(0) || 'b' WHERE id = 1")
    raw.execute("INSERT INTO background_service_log (job_id, at, message) VALUES (1, 'noon', 'x')")
    before = raw.execute("SELECT * FROM background_service_jobs").fetchall(), schema_of(raw)
    with pytest.raises(CannotMove) as raised:
        run(path, target)
    said = str(raised.value)
    assert "background_service_jobs.payload is not UTF-8, or holds a lone surrogate: 1 row (3)" in said
    assert "background_service_jobs.priority is a text and no whole number: 1 row (4)" in said
    assert "background_service_jobs.result holds a NUL character: 1 row (1)" in said
    assert "background_service_log.at is no time that can be read: 1 row" in said
    assert (raw.execute("SELECT * FROM background_service_jobs").fetchall(), schema_of(raw)) == before
    assert on_server(target, "SELECT to_regclass('background_service_jobs')") == [(None,)]


def schema_of(raw: sqlite3.Connection) -> list[Any]:
    return raw.execute("SELECT name, sql FROM sqlite_schema ORDER BY name").fetchall()


def test_a_row_that_comes_in_at_the_last_moment_and_cannot_be_moved_opens_the_file_again(
    path: Path, target: str, gate: Gate, raw: sqlite3.Connection
) -> None:
    gate.service.start()
    junk = "INSERT INTO background_service_jobs (job_key, payload) VALUES ('k', 'a' || char(0))"
    move = Move(open_departure(path), open_arrival(target), pause=Pace(lambda: raw.execute(junk)))
    with pytest.raises(CannotMove, match=r"payload holds a NUL character: 1 row .* takes jobs again"):
        move.run()
    assert gate.service.enqueue("greet", {"name": "x"}) == 2
    raw.execute("DELETE FROM background_service_jobs WHERE id = 1")
    move.run()
    move.close()
    assert sum(counts(target).values()) == 1


def test_columns_of_others_with_values_are_not_lost_in_silence(
    path: Path, target: str, raw: sqlite3.Connection
) -> None:
    fill(path)
    raw.execute('ALTER TABLE background_service_jobs ADD COLUMN "tenant ""x"" " TEXT')
    assert obstacles(path, target) == ""
    raw.execute('UPDATE background_service_jobs SET "tenant ""x"" " = 7 WHERE id = 1')
    assert 'columns of others, for which there is no place: tenant "x"  (1 rows)' in obstacles(path, target)


def test_what_others_attached_is_named(path: Path, target: str, raw: sqlite3.Connection) -> None:
    fill(path)
    raw.execute("CREATE INDEX by_payload ON background_service_jobs (payload)")
    raw.execute("CREATE VIEW waiting AS SELECT * FROM background_service_jobs")
    raw.execute("CREATE TABLE mine (job REFERENCES background_service_jobs (id))")
    move = move_from(path, target)
    assert list(move.plan().left_behind) == ["index by_payload", "table mine", "view waiting"]
    move.close()
    run(path, target)


@pytest.mark.parametrize("kind", ["jobs", "queues"])
def test_a_target_that_is_not_empty_is_refused(path: Path, target: str, kind: str) -> None:
    fill(path)
    there = build(target)
    there.migrate()
    if kind == "jobs":
        there.enqueue("greet", {"name": "theirs"})
    else:
        there.jobs.pause("theirs")
    there.close()
    with pytest.raises(CannotMove, match=f"is not empty: there are rows in background_service_{kind}"):
        run(path, target)
    assert open_departure(path).mark() is None
    assert sum(counts(target).values()) == (kind == "jobs")


def test_jobs_that_are_enqueued_at_the_target_after_the_file_was_closed_are_not_mixed_in(
    path: Path, target: str
) -> None:
    fill(path)
    interrupted(path, target)
    there = build(target)
    theirs = there.enqueue("greet", {"name": "theirs"})
    with pytest.raises(CannotMove, match="is not empty") as raised:
        run(path, target)
    assert "which stays closed: run the same command again" in raised.value.__notes__[0]
    assert counts(target) == {"PENDING": 1}
    there.jobs.delete(theirs)
    there.close()
    run(path, target)
    assert counts(target) == STATUSES_OF_FILL


def interrupted(path: Path, target: str, *, by: type[BaseException] = KeyboardInterrupt) -> None:
    """Break a move off while it copies: the file is closed, nothing has arrived."""

    def stop(progress: Any) -> None:
        if progress.step is Step.COPYING:
            raise by

    move = move_from(path, target, tell=stop)
    with pytest.raises(by):
        move.run()
    move.close()


def test_a_target_that_another_move_has_begun_to_use_is_refused(path: Path, tmp_path: Path, target: str) -> None:
    fill(path)
    interrupted(path, target)
    other = tmp_path / "other.db"
    fill(other)
    with pytest.raises(CannotMove, match=r"a move from .*app\.db to .* was begun .* and has not ended"):
        run(other, target)
    run(path, target)
    with pytest.raises(CannotMove, match=r"holds the jobs of .*app\.db already"):
        run(other, target)
    assert counts(other) == STATUSES_OF_FILL


def test_a_file_on_its_way_to_one_database_does_not_go_to_another(path: Path, target: str) -> None:
    fill(path)
    interrupted(path, target)
    elsewhere = target + "?options=-csearch_path%3Delsewhere"
    on_server(target, "CREATE SCHEMA elsewhere")
    for act in (run, abort):
        with pytest.raises(CannotMove, match=r"is on its way to .* and not to .*elsewhere"):
            act(path, elsewhere)


def test_a_target_made_anew_under_the_same_name_is_refused(path: Path, target: str) -> None:
    fill(path)
    interrupted(path, target)
    on_server(target, "DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    for act in (run, abort):
        with pytest.raises(CannotMove, match="leads to another database than when this move was begun"):
            act(path, target)
    with pytest.raises(DatabaseMoved):
        build(path).enqueue("greet", {"name": "x"})


def test_two_movers_at_once_are_refused(path: Path, target: str) -> None:
    fill(path)
    with open_departure(path).alone(), pytest.raises(CannotMove, match="another `sidework move` is at work"):
        run(path, target)
    run(path, target)


def test_a_target_that_cannot_be_reached_leaves_the_file_alone(path: Path) -> None:
    fill(path)
    before = all_of(path)
    with pytest.raises(DatabaseUnavailable, match="cannot be reached"):
        run(path, "postgresql://127.0.0.1:1/nowhere?connect_timeout=3")
    assert all_of(path) == before


def test_names_the_wrong_way_round_are_refused(path: Path, target: str) -> None:
    with pytest.raises(SideworkError, match="name the file first"):
        move_from(target, target)
    with pytest.raises(SideworkError, match="begins with postgresql://"):
        move_from(path, str(path))


def test_what_arrives_changed_is_not_kept(path: Path, target: str) -> None:
    """A trigger at the target changes a row: the checksum tells, and nothing of it stays."""
    fill(path)
    build(target).migrate()
    on_server(
        target,
        "CREATE FUNCTION spoil() RETURNS trigger LANGUAGE plpgsql AS "
        "$$BEGIN IF NEW.id = 3 THEN NEW.payload = '{}'; END IF; RETURN NEW; END$$;"
        "CREATE TRIGGER spoil BEFORE INSERT ON background_service_jobs FOR EACH ROW EXECUTE FUNCTION spoil()",
    )
    with pytest.raises(CannotMove, match="background_service_jobs: 7 rows were sent of 7, and 7 are there, and they d"):
        run(path, target)
    assert counts(target) == {}
    on_server(target, "DROP TRIGGER spoil ON background_service_jobs")
    run(path, target)
    assert counts(target) == STATUSES_OF_FILL


def test_a_row_that_the_target_swallows_is_missed(path: Path, target: str) -> None:
    fill(path)
    build(target).migrate()
    on_server(
        target,
        "CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN NULL; END$$;"
        "CREATE TRIGGER swallow BEFORE INSERT ON background_service_log FOR EACH ROW EXECUTE FUNCTION swallow()",
    )
    with pytest.raises(CannotMove, match="background_service_log: 2 rows were sent of 2, and 0 are there"):
        run(path, target)


# ------------------------------------------------------------------------------------------------------ go on, back


def test_a_move_that_broke_off_goes_on(path: Path, target: str) -> None:
    fill(path)
    before = all_of(path)
    interrupted(path, target)
    with pytest.raises(DatabaseMoved, match=r"they are being moved to .*; if it was broken off, run it again"):
        build(path).enqueue("greet", {"name": "x"})
    assert counts(target) == {}
    assert not run(path, target).already
    assert all_of(target) == before


def test_a_move_whose_last_answer_was_not_heard_is_not_done_twice(
    path: Path, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(path)
    before = all_of(path)
    departure = open_departure(path)
    monkeypatch.setattr(departure, "advance", lambda _stage: (_ for _ in ()).throw(KeyboardInterrupt))
    move = Move(departure, open_arrival(target))
    with pytest.raises(KeyboardInterrupt):
        move.run()
    move.close()
    there = build(target)
    there.run_until_idle()
    there.close()
    after = all_of(target)
    run(path, target)
    assert all_of(target) == after != before
    with pytest.raises(DatabaseMoved, match="were moved to"):
        build(path).migrate()


@pytest.mark.parametrize("how_far", ["begun", "closed", "moved"])
def test_going_back_leaves_everything_as_it_was(path: Path, target: str, how_far: str) -> None:
    service = fill(path)
    before = all_of(path)
    if how_far == "begun":
        departure = open_departure(path)
        departure.begin(mark_of(target), hold_until=FrozenClock().now())
        departure.disconnect()
    elif how_far == "closed":
        interrupted(path, target)
    else:
        run(path, target)
    abort(path, target)
    assert all_of(path) == before
    assert service.enqueue("greet", {"name": "again"}) == 10
    service.close()
    assert obstacles(path, target) == ""
    run(path, target)
    assert sum(counts(target).values()) == 8


@pytest.mark.parametrize("used", ["worked", "enqueued", "enqueued and deleted", "paused"])
def test_there_is_no_way_back_from_a_target_that_was_used(path: Path, target: str, used: str) -> None:
    fill(path)
    run(path, target)
    there = build(target)
    if used == "worked":
        there.run_until_idle()
    elif used == "paused":
        there.jobs.pause("other")
    else:
        job_id = there.enqueue("greet", {"name": "new"})
        if used != "enqueued":
            there.jobs.delete(job_id)
    there.close()
    after = all_of(target)
    with pytest.raises(CannotMove, match="has been used since the jobs arrived"):
        abort(path, target)
    assert all_of(target) == after
    with pytest.raises(DatabaseMoved, match="were moved to"):
        build(path).migrate()
    assert run(path, target).already


def test_going_back_where_nothing_was_begun_is_refused(path: Path, target: str) -> None:
    fill(path)
    with pytest.raises(CannotMove, match=r"no move of .* was begun"):
        abort(path, target)


def test_a_target_that_forgot_a_finished_move_is_not_taken_for_one_that_never_had_it(path: Path, target: str) -> None:
    fill(path)
    run(path, target)
    on_server(target, "DELETE FROM background_service_move")
    for act in (run, abort):
        with pytest.raises(CannotMove, match="nothing is known of it there"):
            act(path, target)


def test_a_mover_that_comes_too_late_brings_nothing(path: Path, target: str) -> None:
    """Somebody went back while another mover had all ready to send: it finds that nobody waits for it."""
    fill(path)
    interrupted(path, target)
    mark = open_departure(path).mark()
    assert mark is not None
    abort(path, target)
    arrival = open_arrival(target)
    with pytest.raises(SideworkError):
        arrival.receive(mark.id, open_departure(path).contents(), lambda _table: iter(()), now=FrozenClock().now())
    arrival.disconnect()
    assert counts(target) == {}


def test_a_closed_file_is_opened_by_hand_as_the_docs_say(tmp_path: Path, target: str) -> None:
    path = tmp_path / "app.db"
    service = fill(path)
    before = counts(str(path))
    run(path, target)
    page = (Path(__file__).parents[2] / "docs" / "postgres.md").read_text(encoding="utf-8")
    (printing,) = re.findall(r"```sql\n(SELECT 'DROP TRIGGER.*?)```", page, flags=re.DOTALL)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for (statement,) in connection.execute(printing).fetchall():
            connection.execute(statement)
    assert counts(str(path)) == before
    job_id = service.enqueue("greet", {"name": "again"})
    service.run_until_idle()
    assert service.jobs.get(job_id).status is JobStatus.COMPLETED
    service.close()
