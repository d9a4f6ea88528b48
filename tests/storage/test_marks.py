"""The marks of a worker: read after its death, they tell how far it had come with each job, or that nobody knows."""

from __future__ import annotations

import errno
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from tests.storage.crew import Hand, ended, put

from sidework.model.job import Reached
from sidework.storage.sqlite import marks
from sidework.storage.sqlite.liveness import is_alive, lock_path
from sidework.storage.sqlite.marks import PLACES, Marks, read_marks
from sidework.storage.sqlite.store import SqliteStorage

KILLED = """
import os, signal, sys
from pathlib import Path
from sidework.storage.sqlite.marks import Marks
marks = Marks(Path(sys.argv[1]))
for job_id in (1, 2, 3, 4):
    marks.begin(job_id)
marks.end(2)
marks.end(3)
marks.clear(3)
os.kill(os.getpid(), signal.SIGKILL)
"""
FORKED = """
import os, signal, sys
from sidework.storage.sqlite.liveness import WorkerLock
lock = WorkerLock.create(sys.argv[1])
if os.fork() == 0:
    print(lock.path, os.getpid(), flush=True)
    signal.pause()
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "lock").touch()
    return tmp_path / "lock"


def test_the_marks_of_a_killed_process_are_there(path: Path) -> None:
    subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False)
    assert read_marks(path) == {1: Reached.BEGUN, 2: Reached.ENDED, 4: Reached.BEGUN}


def test_a_place_is_used_again(path: Path) -> None:
    kept = Marks(path)
    for job_id in range(3 * PLACES):
        kept.begin(job_id)
        kept.end(job_id)
        kept.clear(job_id)
    kept.begin(-5)  # any program may have written such an id
    assert read_marks(path) == {-5: Reached.BEGUN}


def test_ending_or_clearing_what_was_never_begun_marks_nothing(path: Path) -> None:
    kept = Marks(path)
    kept.end(1)
    kept.clear(1)
    assert read_marks(path) == {}


def test_nothing_is_believed_while_a_job_has_found_no_place(path: Path) -> None:
    kept = Marks(path)
    for job_id in range(PLACES + 2):
        kept.begin(job_id)
    kept.clear(7)
    kept.clear(PLACES)
    assert read_marks(path) is None
    kept.clear(PLACES + 1)
    assert set(read_marks(path) or ()) == set(range(PLACES)) - {7}


def test_nothing_is_believed_while_a_superseded_attempt_of_a_job_runs_beside_its_successor(path: Path) -> None:
    kept = Marks(path)
    kept.begin(1)
    kept.begin(1)
    assert read_marks(path) is None
    kept.clear(1)
    assert read_marks(path) is None
    kept.clear(1)
    assert read_marks(path) == {}


def test_nobody_is_passed_over_while_the_marks_are_being_called_whole_again(path: Path) -> None:
    kept = Marks(path)
    kept.begin(1)
    kept.begin(1)
    kept.clear(1)
    written: list[tuple[object, bool]] = []

    class Memory(bytearray):
        def __setitem__(self, place: object, value: object) -> None:
            written.append((value, kept._in_doubt.locked()))

    kept._memory = Memory()
    kept.clear(1)
    assert written == [(True, True)]


@pytest.mark.parametrize("damage", ["empty", "short", "long", "other", "gone"])
def test_what_is_no_file_of_marks_says_nothing(path: Path, damage: str) -> None:
    Marks(path).begin(1)
    content = path.read_bytes()
    path.write_bytes({"empty": b"", "short": content[:-1], "long": content + b"x"}.get(damage, b"x" + content[1:]))
    if damage == "gone":
        path.unlink()
    assert read_marks(path) is None


def test_a_worker_without_a_known_name_says_nothing() -> None:
    assert read_marks(None) is None


def test_marks_of_an_earlier_boot_are_not_believed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Marks(path).begin(1)
    assert read_marks(path) is not None
    monkeypatch.setattr(marks, "_this_boot", lambda: bytes(16))
    assert read_marks(path) is None


def test_a_kernel_that_does_not_say_when_it_was_started_lets_nobody_believe(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(marks, "_this_boot", lambda: None)
    Marks(path).begin(1)
    assert read_marks(path) is None


@pytest.mark.parametrize("how", ["refused", "half"])
def test_on_a_full_disk_nothing_is_mapped_and_nobody_believes(
    path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    def pwrite(descriptor: int, data: bytes, offset: int) -> int:
        if how == "refused":
            raise OSError(errno.ENOSPC, "no space")
        return os.pwritev(descriptor, [data[: len(data) // 2]], offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    kept = Marks(path)
    kept.begin(1)
    kept.end(1)
    kept.clear(1)
    assert read_marks(path) is None


def test_a_forked_child_does_not_keep_the_lock_by_the_mapping(tmp_path: Path) -> None:
    (tmp_path / "app.db").touch()
    command = [sys.executable, "-c", FORKED, str(tmp_path / "app.db")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lock, child = process.stdout.readline().split()
        process.wait()
        alive = is_alive(Path(lock))
        os.kill(int(child), signal.SIGKILL)
        assert not alive


def test_a_mark_goes_when_the_end_is_written_and_stays_where_the_database_refuses_it(tmp_path: Path) -> None:
    storage = SqliteStorage(tmp_path / "app.db")
    storage.migrate()
    hand = Hand(storage)
    put(storage)
    put(storage)
    fine, refused = hand.claim()
    for each in (fine, refused):
        hand.seat.begun(each.id)
        hand.seat.ended(each.id, written=False)
    [name] = [each.name for each in storage.workers()]
    lock = lock_path(tmp_path / "app.db", name)
    assert read_marks(lock) == {fine.id: Reached.ENDED, refused.id: Reached.ENDED}
    with closing(sqlite3.connect(tmp_path / "app.db")) as connection:
        connection.execute(
            "CREATE TRIGGER stubborn BEFORE UPDATE ON background_service_jobs WHEN NEW.result = '1' "
            "BEGIN SELECT RAISE(ABORT, 'no'); END"
        )
    hand.settle(ended(fine), ended(refused, result="1"))
    assert read_marks(lock) == {refused.id: Reached.ENDED}
    hand.settle(ended(refused))
    assert read_marks(lock) == {}
    hand.seat.leave()
    storage.close()
