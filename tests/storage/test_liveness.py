"""A worker is alive as long as its process is, and its lock file tells so to whoever looks."""

from __future__ import annotations

import errno
import fcntl
import gc
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.storage.crew import Hand

from sidework.storage.sqlite.liveness import WorkerLock, is_alive, lock_path, remove, sweep
from sidework.storage.sqlite.store import SqliteStorage

if TYPE_CHECKING:
    from collections.abc import Iterator

HOLD = """
import os, signal, sys
from sidework.storage.sqlite.liveness import WorkerLock
lock = WorkerLock.create(sys.argv[1])
child = 0
if "fork" in sys.argv:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, b"up")
        signal.pause()
    os.read(reading, 2)
elif "subprocess" in sys.argv:
    import subprocess
    child = subprocess.Popen(["sleep", "60"], close_fds=False).pid
print(lock.name, child, flush=True)
signal.pause()
"""
RELEASE_IN_CHILD = """
import os, sys
from sidework.storage.sqlite.liveness import WorkerLock, is_alive
lock = WorkerLock.create(sys.argv[1])
child = os.fork()
if child == 0:
    print("child", lock.held(), flush=True)
    lock.release()
    os._exit(0)
os.waitpid(child, 0)
print("parent", lock.held(), is_alive(lock.path))
"""


@pytest.fixture
def database(tmp_path: Path) -> Path:
    (tmp_path / "app.db").touch(mode=0o640)
    return tmp_path / "app.db"


@contextmanager
def worker(database: Path, *how: str) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """Run a process that holds a lock and give it and its lock file; end it and its child."""
    command = [sys.executable, "-c", HOLD, str(database), *how]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        name, child = process.stdout.readline().split()
        path = lock_path(database, name)
        assert path is not None
        try:
            yield process, path
        finally:
            process.kill()
            if child != "0":
                os.kill(int(child), signal.SIGKILL)


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()


def test_a_lock_stands_beside_the_database_and_says_that_its_owner_lives(database: Path) -> None:
    lock = WorkerLock.create(database)
    assert lock.path == database.with_name(f"app.db.worker-{lock.name}.lock") == lock_path(database, lock.name)
    assert lock.held()
    assert is_alive(lock.path)
    lock.release()


def test_a_released_lock_leaves_nothing_behind(database: Path) -> None:
    lock = WorkerLock.create(database)
    lock.release()
    lock.release()
    assert not lock.held()
    assert not is_alive(lock.path)
    assert list(database.parent.iterdir()) == [database]


def test_the_file_is_locked_for_as_long_as_it_can_be_found(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = WorkerLock.create(database)
    seen: list[bool] = []
    unlink = Path.unlink

    def look_then_unlink(path: Path) -> None:
        seen.append(is_alive(path))
        unlink(path)

    monkeypatch.setattr(Path, "unlink", look_then_unlink)
    lock.release()
    assert seen == [True]


def test_locks_of_one_process_have_names_of_their_own(database: Path) -> None:
    first, second = WorkerLock.create(database), WorkerLock.create(database)
    first.release()
    assert is_alive(second.path)
    second.release()


def test_the_file_has_the_mode_of_the_database(database: Path) -> None:
    before = os.umask(0o077)
    try:
        lock = WorkerLock.create(database)
    finally:
        os.umask(before)
    assert lock.path.stat().st_mode & 0o777 == 0o640
    lock.release()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_the_file_has_the_owner_of_the_database(database: Path) -> None:
    os.chown(database, 65534, 65533)
    lock = WorkerLock.create(database)
    assert (lock.path.stat().st_uid, lock.path.stat().st_gid) == (65534, 65533)
    lock.release()


def test_a_lock_by_a_link_stands_beside_the_real_database(database: Path) -> None:
    (database.parent / "elsewhere").mkdir()
    link = database.parent / "elsewhere" / "link.db"
    link.symlink_to(database)
    lock = WorkerLock.create(link)
    assert lock.path.parent == database.parent
    lock.release()


def test_a_killed_worker_is_dead_at_once(database: Path) -> None:
    with worker(database) as (process, path):
        assert is_alive(path)
        kill(process)
        assert not is_alive(path)


def test_a_stopped_worker_is_alive(database: Path) -> None:
    with worker(database) as (process, path):
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)
        assert is_alive(path)


@pytest.mark.parametrize("how", ["fork", "subprocess"])
def test_a_child_that_outlives_the_worker_does_not_keep_it_alive(database: Path, how: str) -> None:
    with worker(database, how) as (process, path):
        assert is_alive(path)
        kill(process)
        assert not is_alive(path)


def test_a_forked_child_holds_nothing_and_harms_nothing(database: Path) -> None:
    command = [sys.executable, "-c", RELEASE_IN_CHILD, str(database)]
    told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    assert told.split() == ["child", "False", "parent", "True", "True"]


def test_forks_remember_no_lock_that_is_gone(database: Path) -> None:
    from sidework.storage.sqlite import lockfile

    gc.collect()
    before = len(lockfile._FORKS.files)
    for _ in range(3):
        WorkerLock.create(database).release()
    gc.collect()
    assert len(lockfile._FORKS.files) == before


@pytest.mark.parametrize("how", ["removed", "replaced", "moved"])
def test_a_worker_whose_file_is_gone_knows_it(database: Path, how: str) -> None:
    lock = WorkerLock.create(database)
    if how == "moved":
        lock.path.rename(database.with_name("aside"))
    else:
        lock.path.unlink()
    if how == "replaced":
        lock.path.touch()
    assert not lock.held()
    assert not is_alive(lock.path)
    lock.release()


@pytest.mark.parametrize("how", ["removed", "replaced"])
def test_a_worker_whose_database_is_gone_knows_it(database: Path, how: str) -> None:
    lock = WorkerLock.create(database)
    (database.parent / "other.db").touch()
    if how == "removed":
        database.unlink()
    else:
        (database.parent / "other.db").replace(database)
    assert not lock.held()
    lock.release()


def test_a_look_that_fails_takes_nobodys_seat_away(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(path: object) -> None:
        raise OSError(errno.EIO, f"{path} cannot be looked at")

    lock = WorkerLock.create(database)
    with monkeypatch.context() as patched:
        patched.setattr(os, "stat", fails)
        assert lock.held()
    lock.release()


def test_a_file_that_cannot_be_made_leaves_nothing(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(descriptor: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(OSError, match="no locks"):
        WorkerLock.create(database)
    assert list(database.parent.iterdir()) == [database]


@pytest.mark.parametrize("code", [errno.EACCES, errno.EMFILE, errno.EIO])
def test_what_cannot_be_found_out_counts_as_alive(database: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    path = lock_path(database, "0" * 32)
    assert path is not None
    path.touch()
    assert not is_alive(path)

    def fails(*args: object) -> int:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", fails)
        assert is_alive(path)
    monkeypatch.setattr(fcntl, "flock", fails)
    assert is_alive(path)


def test_a_look_leaves_no_descriptor_open(database: Path) -> None:
    lock = WorkerLock.create(database)
    before = os.dup(0)
    os.close(before)
    for _ in range(3):
        is_alive(lock.path)
    after = os.dup(0)
    os.close(after)
    assert after == before
    lock.release()


def test_two_that_look_at_a_dead_worker_do_not_take_each_other_for_it(database: Path) -> None:
    path = lock_path(database, "0" * 32)
    assert path is not None
    path.touch()
    with path.open("rb") as looking:
        fcntl.flock(looking, fcntl.LOCK_SH | fcntl.LOCK_NB)
        assert not is_alive(path)


@pytest.mark.parametrize("name", ["", "abc", "0" * 65, "../" + "0" * 16, "0" * 16 + "/../x", "A" * 16, "0" * 16 + "\n"])
def test_a_name_that_is_none_of_ours_never_reaches_the_disk(database: Path, name: str) -> None:
    path = lock_path(database, name)
    assert path is None
    assert is_alive(path)
    remove(path)


def test_a_link_in_place_of_a_lock_file_is_not_followed(database: Path) -> None:
    path = lock_path(database, "0" * 32)
    assert path is not None
    path.symlink_to(database)
    assert is_alive(path)


def test_a_dead_workers_file_is_removed_once_and_again(database: Path) -> None:
    path = lock_path(database, "0" * 32)
    assert path is not None
    path.touch()
    remove(path)
    remove(path)
    assert list(database.parent.iterdir()) == [database]


def test_a_file_whose_worker_died_before_it_had_a_row_is_swept_away_and_no_other(database: Path) -> None:
    living, named, left_over = WorkerLock.create(database), lock_path(database, "a" * 32), lock_path(database, "b" * 32)
    assert named is not None
    assert left_over is not None
    others = [database.with_name(name) for name in ("app.db.worker-.lock", "app.db.writers.lock", "app.db-wal")]
    for path in (named, left_over, *others):
        path.touch()
    sweep(database, {"a" * 32})
    assert set(database.parent.iterdir()) == {database, living.path, named, *others}
    living.release()


def test_a_worker_whose_file_is_swept_away_before_it_is_locked_makes_another(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock = fcntl.flock
    swept: list[Path] = []

    def late(file: object, how: int) -> None:
        if not swept and how == fcntl.LOCK_EX:
            swept.extend(database.parent.glob("*.lock"))
            sweep(database, ())
        flock(file, how)  # type: ignore[arg-type]

    monkeypatch.setattr(fcntl, "flock", late)
    lock = WorkerLock.create(database)
    assert [path.exists() for path in swept] == [False]
    assert lock.held()
    assert lock.path not in swept
    lock.release()


def test_the_next_worker_to_join_sweeps(tmp_path: Path) -> None:
    storage = SqliteStorage(tmp_path / "app.db")
    storage.migrate()
    left_over = lock_path(tmp_path / "app.db", "0" * 32)
    assert left_over is not None
    left_over.touch()
    hands = Hand(storage), Hand(storage)
    assert not left_over.exists()
    for hand in hands:
        hand.seat.check()
        hand.seat.leave()
    storage.close()
