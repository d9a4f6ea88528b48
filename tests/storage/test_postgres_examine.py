"""What the doctor finds in a PostgreSQL database, and what migrations refuse."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from tests.storage.crew import job, put

from sidework.clock import SystemClock
from sidework.errors import DatabaseUnavailable, NotMigrated, NotOurTable, SchemaTooNew
from sidework.model.health import Level
from sidework.storage.open import open_storage
from sidework.storage.postgres import examine

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from sidework.model.health import Finding
    from sidework.storage.contract import Storage


@pytest.fixture
def raw(postgres_database: str) -> Iterator[psycopg.Connection[Any]]:
    with closing(psycopg.connect(postgres_database, autocommit=True)) as connection:
        yield connection


@pytest.fixture
def storage(postgres_database: str) -> Iterator[Storage]:
    store = open_storage(postgres_database)
    store.migrate()
    yield store
    store.close()


def found(storage: Storage, subject: str) -> Finding:
    (finding,) = [each for each in storage.examine().findings if each.subject == subject]
    return finding


def test_a_healthy_database_is_well_but_for_what_tests_switch_off(storage: Storage) -> None:
    put(storage, job(), job("other"))
    examination = storage.examine()
    assert {each.subject for each in examination.findings if each.level is not Level.WELL} <= {"durability"}
    assert (examination.usable, examination.ready) == (True, {"k": 1, "other": 1})


def test_a_server_that_may_forget_is_told(storage: Storage, raw: psycopg.Connection[Any]) -> None:
    (fsync,) = raw.execute("SHOW fsync").fetchall()
    assert found(storage, "durability").level is (Level.WELL if fsync == ("on",) else Level.ILL)


def test_who_has_written_and_waits_is_named_though_it_has_no_snapshot(
    storage: Storage, raw: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(examine, "LONG_TRANSACTION", 0.0)
    raw.execute("BEGIN")
    raw.execute("CREATE TEMP TABLE orders ON COMMIT DROP AS SELECT 1 AS an_order")
    finding = found(storage, "oldest transaction")
    assert finding.level is Level.NOTICE
    assert "an_order" in finding.text
    assert "idle in transaction" in finding.text
    raw.execute("ROLLBACK")


def test_who_keeps_a_transaction_open_is_named(
    storage: Storage, raw: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert found(storage, "oldest transaction").level is Level.WELL
    raw.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
    raw.execute("SELECT 1 AS forgotten FROM background_service_jobs")
    assert found(storage, "oldest transaction").level is Level.WELL  # not for long yet
    monkeypatch.setattr(examine, "LONG_TRANSACTION", 0.0)
    finding = found(storage, "oldest transaction")
    assert finding.level is Level.NOTICE
    assert f"process {raw.info.backend_pid} of sidework (idle in transaction)" in finding.text
    assert "forgotten" in finding.text


def test_who_has_written_and_is_idle_is_named_too(
    storage: Storage, raw: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a snapshot of its own it holds back vacuum by the number of its transaction."""
    monkeypatch.setattr(examine, "LONG_TRANSACTION", 0.0)
    raw.execute("BEGIN")
    raw.execute("INSERT INTO background_service_jobs (job_key) VALUES ('kept back')")
    finding = found(storage, "oldest transaction")
    assert (finding.level, "kept back" in finding.text) == (Level.NOTICE, True)


def test_dead_rows_that_outnumber_the_living_are_counted(
    storage: Storage, raw: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    put(storage, *[job()] * 30)
    raw.execute("DELETE FROM background_service_jobs WHERE id > 5")
    raw.execute("SELECT pg_stat_force_next_flush()")
    assert found(storage, "dead rows").level is Level.WELL  # so few are always there
    monkeypatch.setattr(examine, "MANY_DEAD_ROWS", 20)
    finding = found(storage, "dead rows")
    assert finding.level is Level.NOTICE
    assert finding.text.startswith("25 beside")


@pytest.mark.parametrize(("ahead", "words"), [(-3600, "3600.0 s ahead of"), (3600, "3600.0 s behind")])
def test_clocks_that_differ_are_told(storage: Storage, monkeypatch: pytest.MonkeyPatch, ahead: int, words: str) -> None:
    assert found(storage, "clock").level is Level.WELL

    class WrongClock:
        def now(self) -> datetime:
            return SystemClock().now() + timedelta(seconds=ahead)

    monkeypatch.setattr(examine, "SystemClock", WrongClock)
    finding = found(storage, "clock")
    assert (finding.level, words in finding.text) == (Level.NOTICE, True)


def test_an_index_that_is_missing_is_named(storage: Storage, raw: psycopg.Connection[Any]) -> None:
    raw.execute("DROP INDEX background_service_jobs_due")
    finding = found(storage, "indexes")
    assert (finding.level, "background_service_jobs_due" in finding.text) == (Level.ILL, True)


def test_without_tables_nothing_is_said_about_jobs(postgres_database: str) -> None:
    store = open_storage(postgres_database)
    examination = store.examine()
    store.close()
    assert not examination.usable
    assert examination.findings[-1].remedy == "run `sidework migrate`, or start a service: it does it by itself"


# ------------------------------------------------------------------------------------------------------ migrations


def test_migrating_is_done_once_however_many_do_it(postgres_database: str, raw: psycopg.Connection[Any]) -> None:
    stores = [open_storage(postgres_database) for _ in range(6)]
    with pytest.raises(NotMigrated, match="sidework migrate"):
        stores[0].check()
    with ThreadPoolExecutor(6) as pool:
        assert set(pool.map(lambda store: store.migrate(), stores)) == {1}
    for store in stores:
        store.check()
        store.close()
    assert raw.execute("SELECT count(*) FROM background_service_schema").fetchone() == (1,)


def test_the_tables_may_live_in_a_schema_of_their_own(postgres_database: str, raw: psycopg.Connection[Any]) -> None:
    store = open_storage(f"{postgres_database}?options=-csearch_path%3Djobs")
    with pytest.raises(DatabaseUnavailable, match="search_path"):
        store.migrate()
    raw.execute("CREATE SCHEMA jobs")
    store.migrate()
    put(store)
    assert raw.execute("SELECT count(*) FROM jobs.background_service_jobs").fetchone() == (1,)
    assert raw.execute("SELECT to_regclass('public.background_service_jobs')").fetchone() == (None,)
    store.close()


def test_tables_of_a_later_version_are_used_as_long_as_this_code_can_read_them(
    storage: Storage, raw: psycopg.Connection[Any]
) -> None:
    raw.execute("UPDATE background_service_schema SET version = 7")
    assert storage.migrate() == 7
    storage.check()
    raw.execute("UPDATE background_service_schema SET readable_from = 2")
    for act in (storage.migrate, storage.check):
        with pytest.raises(SchemaTooNew, match="Upgrade sidework"):
            act()


@pytest.mark.parametrize(
    "foreign",
    [
        "CREATE TABLE background_service_jobs (id int)",
        "CREATE VIEW background_service_jobs AS SELECT 1 AS id",
        "CREATE TABLE background_service_schema (something int)",
        "CREATE TABLE background_service_queues (name text)",
    ],
)
def test_what_is_not_ours_is_left_alone(postgres_database: str, raw: psycopg.Connection[Any], foreign: str) -> None:
    raw.execute(foreign)
    store = open_storage(postgres_database)
    with pytest.raises(NotOurTable):
        store.migrate()
    store.close()
    names = "SELECT relname FROM pg_class WHERE relname LIKE 'background_service%' AND relkind IN ('r', 'v')"
    assert len(raw.execute(names).fetchall()) == 1
