"""The doorbell rings for every commit that can be seen, by whomever, and for nothing else."""

from __future__ import annotations

import asyncio
import errno
import signal
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sidework.errors import DatabaseMissing, DatabaseUnavailable
from sidework.storage.sqlite import doorbell as doorbell_module
from sidework.storage.sqlite.alarm import Alarm
from sidework.storage.sqlite.connect import connect, use_wal
from sidework.storage.sqlite.doorbell import SqliteDoorbell
from sidework.storage.sqlite.liveness import WorkerLock, is_alive
from sidework.storage.sqlite.relook import FIRST, LONGEST, QUIET, Polling, Relook

if TYPE_CHECKING:
    from collections.abc import Iterator

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="inotify is a call of Linux")
LONG = 20.0
SHORT = 0.05
"""Seconds in which nothing may happen. A mechanism that rings wrongly rings at once."""

COMMITS = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA synchronous = FULL")
print("ready", flush=True)
for line in sys.stdin:
    connection.execute("INSERT INTO t VALUES (1)")
"""
A_WORKER = """
import sys
from sidework.storage.sqlite.liveness import WorkerLock
lock = WorkerLock.create(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "app.db"
    with closing(connect(path, create=True)) as connection:
        use_wal(connection, path, wait=1.0)
        connection.execute("CREATE TABLE t (x)")
    return path


@pytest.fixture
def other(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(connect(path)) as connection:
        yield connection


@pytest.fixture(params=["inotify", "polling"])
def bell(request: pytest.FixtureRequest, path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SqliteDoorbell]:
    if request.param == "polling":
        monkeypatch.setattr(doorbell_module, "DatabaseWatch", exhausted)
    elif sys.platform != "linux":
        pytest.skip("inotify is a call of Linux")
    with closing(SqliteDoorbell(path)) as bell:
        assert bell.mechanism == request.param
        yield bell


def exhausted(path: Path) -> None:
    raise OSError(errno.EMFILE, "no inotify instance left")


@contextmanager
def program(text: str, path: Path) -> Iterator[subprocess.Popen[str]]:
    """Run a program of another process that has said it is ready."""
    command = [sys.executable, "-c", text, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as started:
        assert started.stdout is not None
        assert started.stdout.readline() == "ready\n"
        yield started
        started.kill()


def tell(started: subprocess.Popen[str]) -> None:
    assert started.stdin is not None
    started.stdin.write("go\n")
    started.stdin.flush()


def test_a_commit_is_told_once_and_a_rollback_never(bell: SqliteDoorbell, other: sqlite3.Connection) -> None:
    assert not bell.changed()
    other.execute("INSERT INTO t VALUES (1)")
    assert bell.changed()
    assert not bell.changed()
    other.execute("BEGIN IMMEDIATE")
    other.execute("INSERT INTO t VALUES (1)")
    other.execute("ROLLBACK")
    assert not bell.changed()


def test_every_durable_commit_of_another_process_is_seen(bell: SqliteDoorbell, path: Path) -> None:
    async def count() -> int:
        seen = 0
        for _ in range(100):
            tell(writer)
            seen += await bell.wait(LONG)
        return seen

    with program(COMMITS, path) as writer:
        assert asyncio.run(asyncio.wait_for(count(), LONG)) == 100
        assert not bell.changed()


@on_linux
def test_a_commit_is_seen_long_before_the_look_that_happens_anyway(
    path: Path, other: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doorbell_module, "LONGEST_WITHOUT_A_LOOK", 2 * LONG)
    with closing(SqliteDoorbell(path)) as bell:

        async def scene() -> bool:
            asyncio.get_running_loop().call_later(SHORT, other.execute, "INSERT INTO t VALUES (1)")
            return await bell.wait(LONG)

        assert asyncio.run(asyncio.wait_for(scene(), LONG / 2))


def test_a_commit_before_the_wait_is_not_missed(bell: SqliteDoorbell, other: sqlite3.Connection) -> None:
    other.execute("INSERT INTO t VALUES (1)")
    assert asyncio.run(bell.wait(0.0))


def test_silence_is_false_after_the_timeout(bell: SqliteDoorbell) -> None:
    assert asyncio.run(bell.wait(SHORT)) is False


@on_linux
def test_a_write_that_becomes_visible_later_is_found_by_looking_again(path: Path, other: sqlite3.Connection) -> None:
    """The log is written, and rings, long before the commit: a cache of one page spills at once."""
    other.execute("PRAGMA cache_size = 1")
    with closing(SqliteDoorbell(path)) as bell:

        async def scene() -> bool:
            waiting = asyncio.ensure_future(bell.wait(LONG))
            other.execute("BEGIN IMMEDIATE")
            other.executemany("INSERT INTO t VALUES (?)", [("x" * 5000,)] * 50)
            await asyncio.wait([waiting], timeout=SHORT)
            assert not waiting.done()
            assert bell._watch is not None
            bell._watch.hear()  # what was written so far is heard; the commit itself adds only a page
            other.execute("COMMIT")
            return await waiting

        assert (path.parent / "app.db-wal").exists()
        assert asyncio.run(asyncio.wait_for(scene(), LONG))


@on_linux
def test_a_neighbour_that_is_written_to_all_the_time_does_not_wake_it(path: Path, tmp_path: Path) -> None:
    with closing(SqliteDoorbell(path)) as bell, (tmp_path / "app.log").open("ab", buffering=0) as log:
        ears = bell._watch
        assert ears is not None
        assert [event.name for event in ears._inotify.read(timeout=0)] == ["app.log"]  # that it was made
        for _ in range(100):
            log.write(b"line\n")
        assert list(ears._inotify.read(timeout=0)) == []
        (tmp_path / "other.db-wal").touch()
        assert not ears.hear().written


@on_linux
def test_waiting_costs_no_processor_time(path: Path) -> None:
    with closing(SqliteDoorbell(path)) as bell:

        async def turns_while_idle() -> int:
            loop = asyncio.get_running_loop()
            turns = 0
            run_once = loop._run_once  # type: ignore[attr-defined]

            def counted() -> None:
                nonlocal turns
                turns += 1
                run_once()

            loop._run_once = counted  # type: ignore[attr-defined]
            assert not await bell.wait(0.5)
            return turns

        assert asyncio.run(turns_while_idle()) < 5


@on_linux
@pytest.mark.parametrize("how", ["checkpoint", "journal mode", "replaced"])
def test_the_log_may_be_truncated_or_made_anew(how: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doorbell_module, "LONGEST_WITHOUT_A_LOOK", 2 * LONG)
    with closing(SqliteDoorbell(path)) as bell:
        ears = bell._watch
        assert ears is not None
        if how == "checkpoint":
            with closing(connect(path)) as other:
                other.execute("INSERT INTO t VALUES (1)")
                other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        elif how == "journal mode":
            bell._connection.close()
            with closing(connect(path)) as other:
                other.execute("PRAGMA journal_mode = DELETE")
                assert not (path.parent / "app.db-wal").exists()
            bell._connection = connect(path)
            use_wal(bell._connection, path, wait=1.0)
        else:
            (path.parent / "app.db-wal").rename(path.parent / "aside")
            (path.parent / "app.db-wal").touch()
        ears.hear()
        bell.changed()
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("INSERT INTO t VALUES (1)")
            assert ears.hear().written


@on_linux
def test_a_database_that_gets_its_log_only_later_is_heard(tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    with closing(connect(path, create=True)) as other:
        other.execute("CREATE TABLE t (x)")
        with closing(SqliteDoorbell(path)) as bell:
            use_wal(other, path, wait=1.0)
            other.execute("INSERT INTO t VALUES (1)")
            assert bell._watch is not None
            assert bell._watch.hear().written
            assert asyncio.run(bell.wait(LONG))


def test_a_database_opened_by_a_link_is_heard_where_it_is(
    path: Path, tmp_path: Path, other: sqlite3.Connection
) -> None:
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "elsewhere" / "link.db"
    link.symlink_to(path)
    with closing(SqliteDoorbell(link)) as bell:
        other.execute("INSERT INTO t VALUES (1)")
        assert bell._watch is None or bell._watch.hear().written
        assert bell.changed()


def test_ring_wakes_the_waiter_from_any_thread(bell: SqliteDoorbell) -> None:
    async def scene() -> bool:
        asyncio.get_running_loop().call_later(SHORT, threading.Thread(target=bell.ring).start)
        return await bell.wait(LONG)

    assert asyncio.run(asyncio.wait_for(scene(), LONG / 2))


def test_a_ring_before_the_wait_is_kept_and_used_up(bell: SqliteDoorbell) -> None:
    bell.ring()
    assert asyncio.run(bell.wait(0.0))
    assert not asyncio.run(bell.wait(0.0))


def test_a_cancelled_wait_leaves_nothing_in_the_loop(bell: SqliteDoorbell, other: sqlite3.Connection) -> None:
    async def scene() -> bool:
        waiting = asyncio.ensure_future(bell.wait(LONG))
        await asyncio.wait([waiting], timeout=SHORT)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        if bell._watch is not None:
            assert not asyncio.get_running_loop().remove_reader(bell._watch.fileno())
        bell.ring()
        assert await bell.wait(0.0)
        other.execute("INSERT INTO t VALUES (1)")
        return await bell.wait(LONG)

    assert asyncio.run(scene())


@on_linux
@pytest.mark.parametrize("elsewhere", [True, False])
def test_closing_ends_the_wait_and_gives_everything_back(path: Path, *, elsewhere: bool) -> None:
    async def scene() -> bool:
        bell = SqliteDoorbell(path)
        close = threading.Thread(target=bell.close).start if elsewhere else bell.close
        asyncio.get_running_loop().call_later(SHORT, close)
        result = await bell.wait(LONG)
        bell.close()
        assert not bell.changed()
        assert not await bell.wait(LONG)
        return result

    before = len(list(Path("/proc/self/fd").iterdir()))
    assert asyncio.run(asyncio.wait_for(scene(), LONG / 2)) is False
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_loop_that_is_closed_does_not_hinder_the_ring(bell: SqliteDoorbell) -> None:
    loop = asyncio.new_event_loop()
    bell._sleeper = loop, loop.create_future()
    loop.close()
    bell.ring()
    bell._sleeper = None
    assert asyncio.run(bell.wait(0.0))


@on_linux
def test_the_death_of_a_worker_is_heard_at_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doorbell_module, "LONGEST_WITHOUT_A_LOOK", 2 * LONG)
    with program(A_WORKER, path) as early, closing(SqliteDoorbell(path)) as bell, program(A_WORKER, path) as late:

        async def death_of(worker: subprocess.Popen[str]) -> bool:
            asyncio.get_running_loop().call_later(SHORT, worker.send_signal, signal.SIGKILL)
            return await bell.wait(LONG) and bell.died()

        for worker in (early, late):
            assert not bell.died()
            assert asyncio.run(asyncio.wait_for(death_of(worker), LONG / 2))


@on_linux
def test_looking_whether_a_worker_lives_rings_nobody(path: Path) -> None:
    lock = WorkerLock.create(path)
    with closing(SqliteDoorbell(path)) as bell:
        assert is_alive(lock.path)
        assert bell._watch is not None
        assert not bell._watch.hear().closed
        lock.release()
        assert bell._watch.hear().closed == {lock.path}


@on_linux
def test_a_lock_file_that_is_closed_but_still_locked_is_no_death(path: Path) -> None:
    """The kernel tells of the closing a moment before it frees the lock; the doorbell looks until it is free."""
    lock = WorkerLock.create(path)
    with closing(SqliteDoorbell(path)) as bell:

        async def scene() -> bool:
            waiting = asyncio.ensure_future(bell.wait(LONG))
            await asyncio.wait([waiting], timeout=SHORT)
            lock.path.open("r+b").close()
            await asyncio.wait([waiting], timeout=SHORT)
            assert not waiting.done()
            lock.release()
            return await waiting

        assert asyncio.run(scene())
        assert bell.died()
        assert not bell.died()


@on_linux
@pytest.mark.parametrize(("code", "mechanism"), [(errno.ENOSPC, "polling"), (errno.EACCES, "inotify")])
def test_no_watch_left_is_told_from_a_file_of_another_user(
    path: Path, monkeypatch: pytest.MonkeyPatch, code: int, mechanism: str
) -> None:
    from inotify_simple import INotify  # type: ignore[import-untyped]

    add_watch = INotify.add_watch

    def refuse_lock_files(self: INotify, watched: Path, mask: int) -> Any:
        if watched.suffix == ".lock":
            raise OSError(code, "refused")
        return add_watch(self, watched, mask)

    lock = WorkerLock.create(path)
    monkeypatch.setattr(INotify, "add_watch", refuse_lock_files)
    with closing(SqliteDoorbell(path)) as bell:
        assert bell.mechanism == mechanism
    lock.release()


@on_linux
def test_an_ear_that_fails_later_becomes_polling(
    path: Path, other: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room() -> None:
        raise OSError(errno.ENOSPC, "no watch left")

    with closing(SqliteDoorbell(path)) as bell:
        monkeypatch.setattr(bell._watch, "hear", no_room)
        assert not asyncio.run(bell.wait(0.0))
        assert bell.mechanism == "polling"
        other.execute("INSERT INTO t VALUES (1)")
        assert asyncio.run(bell.wait(LONG))


def test_a_locked_database_is_no_news_and_no_error(bell: SqliteDoorbell, path: Path) -> None:
    bell._connection.close()
    with closing(connect(path)) as other:
        other.execute("PRAGMA journal_mode = DELETE")
        bell._connection = sqlite3.connect(path, timeout=0.0)
        other.execute("BEGIN EXCLUSIVE")
        assert not bell.changed()


def test_a_damaged_database_is_an_error(path: Path, bell: SqliteDoorbell) -> None:
    bell._connection.close()
    bell._connection = sqlite3.connect(path.with_name("noise"), isolation_level=None)
    path.with_name("noise").write_bytes(b"noise" * 1000)
    with pytest.raises(DatabaseUnavailable, match="not a SQLite database"):
        bell.changed()


def test_a_missing_database_has_no_doorbell(tmp_path: Path) -> None:
    with pytest.raises(DatabaseMissing):
        SqliteDoorbell(tmp_path / "app.db")
    assert list(tmp_path.iterdir()) == []


def test_looks_again_slower_and_slower_for_a_second() -> None:
    relook = Relook()
    assert relook.pause(0.0) is None
    relook.rung(10.0)
    pauses = [relook.pause(10.0) for _ in range(10)]
    assert pauses == pytest.approx([FIRST * 2**n for n in range(8)] + [LONGEST] * 2)
    assert relook.pause(10.0 + QUIET) is None
    assert relook.pause(10.0) is None


def test_a_further_ring_starts_the_looks_anew_only_at_their_end() -> None:
    relook = Relook()
    relook.rung(0.0)
    assert (relook.pause(0.0), relook.pause(0.0)) == (FIRST, 2 * FIRST)
    relook.rung(0.9)
    assert relook.pause(0.9) == 4 * FIRST
    assert [relook.pause(1.8) for _ in range(6)][-1] == LONGEST
    relook.rung(1.8)
    assert relook.pause(1.8) == FIRST


def test_polling_starts_fast_and_stays_slow() -> None:
    polling = Polling()
    assert [polling.pause(0.0) for _ in range(8)] == [0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.05, 0.05]


@on_linux
def test_an_alarm_goes_off_within_a_fraction_of_a_millisecond() -> None:
    async def delay() -> float:
        loop = asyncio.get_running_loop()
        gone_off = asyncio.Event()
        loop.add_reader(alarm.fileno(), gone_off.set)
        begun = loop.time()
        alarm.set(0.0001)
        await gone_off.wait()
        loop.remove_reader(alarm.fileno())
        return loop.time() - begun

    with closing(Alarm()) as alarm:
        assert 0.0001 <= min(asyncio.run(delay()) for _ in range(20)) < 0.0009
