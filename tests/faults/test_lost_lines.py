"""F14: the line to the server is cut, refused, ended by the server, or goes silent: work goes on over another one."""

from __future__ import annotations

import threading
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from tests.proxy import Proxy, proxied

from sidework import BackgroundService, DatabaseUnavailable, JobStatus
from sidework.model.job import Claim

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LONGEST = 30.0


@pytest.fixture
def raw(postgres_database: str) -> Iterator[psycopg.Connection[Any]]:
    with closing(psycopg.connect(postgres_database, autocommit=True)) as connection:
        yield connection


@pytest.fixture
def proxy(postgres_database: str) -> Iterator[Proxy]:
    with proxied(postgres_database) as proxy:
        yield proxy


@pytest.fixture
def service(proxy: Proxy) -> Iterator[BackgroundService]:
    service = BackgroundService(proxy.url, grace=1, listeners=())
    service.register_job_handler("k", lambda: None)
    service.migrate()
    yield service
    service.close()


def add(raw: psycopg.Connection[Any]) -> int:
    found = raw.execute("INSERT INTO background_service_jobs (job_key) VALUES ('k') RETURNING id").fetchone()
    assert found is not None
    return int(found[0])


def is_done_within(raw: psycopg.Connection[Any], job: int, seconds: float) -> bool:
    question = "SELECT status FROM background_service_jobs WHERE id = %s"
    until = time.monotonic() + seconds  # noqa: TID251 - real time passes
    while time.monotonic() < until:  # noqa: TID251
        if raw.execute(question, (job,)).fetchone() == ("COMPLETED",):
            return True
        time.sleep(0.01)
    return False


def terminate_all(_proxy: Proxy, raw: psycopg.Connection[Any]) -> None:
    raw.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'sidework'")


def cut_all(proxy: Proxy, _raw: psycopg.Connection[Any]) -> None:
    proxy.cut()


def refuse_for_a_while(proxy: Proxy, _raw: psycopg.Connection[Any]) -> None:
    proxy.refuse()
    time.sleep(1.0)
    proxy.heal()


@pytest.mark.parametrize("lose", [terminate_all, cut_all, refuse_for_a_while])
def test_a_worker_finds_another_connection_after_each_loss(
    service: BackgroundService, proxy: Proxy, raw: psycopg.Connection[Any], lose: Callable[..., None]
) -> None:
    with service:
        for _ in range(3):
            assert is_done_within(raw, add(raw), LONGEST)
            lose(proxy, raw)
        assert is_done_within(raw, add(raw), LONGEST)
        assert service.is_running()
    assert service.jobs.counts()[JobStatus.COMPLETED] == 4


@pytest.mark.parametrize("patience", [0.5, None])
def test_a_worker_leaves_lines_that_have_gone_silent(
    service: BackgroundService, proxy: Proxy, raw: psycopg.Connection[Any], patience: float | None
) -> None:
    """Without patience, the control, it waits on: TCP sees nothing wrong with a line on which everything is taken."""
    database: Any = service._storage
    database._database._patience = database._turns._patience = patience
    with service:
        assert is_done_within(raw, add(raw), LONGEST)
        proxy.silence_those_that_are()
        assert is_done_within(raw, add(raw), LONGEST if patience else 3.0) is bool(patience)
        proxy.cut()
        assert is_done_within(raw, add(raw), LONGEST)
    assert service.jobs.counts()[JobStatus.COMPLETED] == 3


def test_an_enqueue_over_a_silent_line_ends_with_an_error(service: BackgroundService, proxy: Proxy) -> None:
    storage: Any = service._storage
    database = storage._database
    service.enqueue("k")
    database.read(lambda connection: connection)  # the answer that is still owed is taken in
    patience, database._patience = database._patience, 0.3
    proxy.go_silent()
    with pytest.raises(DatabaseUnavailable, match="has not answered for"):
        service.enqueue("k")
    proxy.heal()
    database._patience = patience
    assert service.enqueue("k")


def test_a_handler_whose_commit_goes_unanswered_ends(
    service: BackgroundService, proxy: Proxy, raw: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidework.storage.postgres.transaction.SILENCE", 0.5)
    raw.execute("CREATE TABLE effects (job int)")
    first = threading.Event()

    @service.handler("settle", backoff=(0.0,))
    def settle(db: psycopg.Connection, job: Any) -> None:
        db.execute("INSERT INTO effects VALUES (%s)", (job.id,))
        if not first.is_set():
            first.set()
            proxy.silence_those_that_are()

    database: Any = service._storage
    database._database._patience = database._turns._patience = 0.5
    with service:
        found = raw.execute("INSERT INTO background_service_jobs (job_key) VALUES ('settle') RETURNING id").fetchone()
        assert found is not None
        assert is_done_within(raw, found[0], LONGEST)
        proxy.cut()
    assert raw.execute("SELECT count(*) FROM effects").fetchone() == (1,)


def test_slow_answers_are_waited_for(service: BackgroundService, proxy: Proxy, raw: psycopg.Connection[Any]) -> None:
    with service:
        proxy.slow_down(0.1)
        assert is_done_within(raw, add(raw), LONGEST)
        proxy.heal()


def test_the_server_is_told_to_notice_soon_that_we_are_gone(service: BackgroundService) -> None:
    database: Any = service._storage
    names = ("tcp_keepalives_idle", "tcp_keepalives_interval", "tcp_keepalives_count", "tcp_user_timeout")

    def told(connection: psycopg.Connection[Any]) -> list[str]:
        return [connection.execute(f"SHOW {name}").fetchall()[0][0] for name in names]

    expected = ["10", "5", "3", "20000"]
    assert database._database.read(told) == expected
    transaction = database.transaction(Claim(1, 1))
    transaction.connection.execute("SELECT 1")
    transaction.close()
    with database._for_handlers.one(None) as used_before:
        assert told(used_before) == expected
