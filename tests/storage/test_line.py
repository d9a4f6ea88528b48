"""The line of writing processes: one at a time, in bounded time, with room for strangers once one was met."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from sidework.storage.sqlite import line as line_module
from sidework.storage.sqlite.line import MOST_ROOM, REMEMBERED_FOR, WritersLine

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DEADLINE = 10


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "app.db"
    path.touch(mode=0o640)
    return path


@pytest.fixture
def lines(database: Path) -> Iterator[tuple[WritersLine, WritersLine]]:
    """Yield the places of two processes: a lock of the kernel does not care that they are in one."""
    pair = WritersLine(database), WritersLine(database)
    yield pair
    for line in pair:
        line.close()


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return the pauses that would have been made."""
    pauses: list[float] = []
    monkeypatch.setattr("sidework.storage.sqlite.line.time.sleep", pauses.append)
    return pauses


def has_a_place(line: WritersLine) -> bool:
    return line._held


def is_crowded(line: WritersLine) -> bool:
    return line.crowded


def take_and_give(line: WritersLine, *, patient: bool = False) -> None:
    line.take(DEADLINE, patient=patient)
    line.give()


def meet_a_stranger(line: WritersLine) -> None:
    line.take(DEADLINE)
    line.begun(met_somebody=True)
    line.give()


def test_the_next_one_gets_in_when_the_first_gives(lines: tuple[WritersLine, WritersLine]) -> None:
    first, second = lines
    order: list[str] = []
    waiting, done = threading.Event(), threading.Event()

    def wait() -> None:
        waiting.set()
        second.take(DEADLINE)
        order.append("second is in")
        done.set()

    first.take(DEADLINE)
    threading.Thread(target=wait).start()
    assert waiting.wait(DEADLINE)
    assert not done.wait(0.05)
    order.append("first gives")
    first.give()
    assert done.wait(DEADLINE)
    assert order == ["first gives", "second is in"]
    second.give()


def test_who_waited_in_vain_does_not_get_the_lock_later(lines: tuple[WritersLine, WritersLine]) -> None:
    first, second = lines
    first.take(DEADLINE)
    second.take(0.01)  # goes on without a place, to ask the database itself
    second.give()  # which gives back nothing
    first.give()
    third = WritersLine(first._database)
    for _ in range(20):  # the thread that waited for the second lets go as soon as it gets the lock
        third.take(DEADLINE)
        assert has_a_place(third)
        third.give()
    second.take(DEADLINE)
    assert has_a_place(second)
    second.give()
    third.close()


def test_a_killed_process_leaves_the_line(database: Path) -> None:
    program = (
        "import sys; from sidework.storage.sqlite.line import WritersLine\n"
        "line = WritersLine(sys.argv[1]); line.take(10); print('in', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", program, str(database)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "in\n"
        line = WritersLine(database)
        line.take(0)
        assert not has_a_place(line)
        holder.send_signal(signal.SIGKILL)
        line.take(DEADLINE)
        assert has_a_place(line)
        line.give()
        line.close()


def test_among_ourselves_nobody_pauses(lines: tuple[WritersLine, WritersLine], slept: list[float]) -> None:
    for _ in range(3):
        for line in lines:
            line.take(DEADLINE)
            line.begun(met_somebody=False)
            line.give()
    assert slept == []


def test_once_a_stranger_was_met_all_leave_room(
    lines: tuple[WritersLine, WritersLine], slept: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = lines
    monkeypatch.setattr(line_module, "ROOM", 1e9)  # so long that it has not passed when the next one comes
    meet_a_stranger(first)
    second.take(DEADLINE)
    assert 0 < slept[0] <= MOST_ROOM
    second.begun(met_somebody=False)
    second.give()
    first.take(DEADLINE)
    assert len(slept) == 2
    first.give()


def test_courtesy_ends_when_no_stranger_was_met_for_long(
    lines: tuple[WritersLine, WritersLine], slept: list[float]
) -> None:
    first, second = lines
    meet_a_stranger(first)
    assert first._file is not None
    met_at, *_ = line_module._times(first._file)
    os.pwrite(first._file.fileno(), line_module._TIMES.pack(met_at - REMEMBERED_FOR, 0.0, 0.0), 0)
    second.take(DEADLINE)
    second.begun(met_somebody=False)
    second.give()
    first.take(DEADLINE)
    assert slept == []
    first.give()


def test_times_of_another_boot_hold_nobody_up(lines: tuple[WritersLine, WritersLine], slept: list[float]) -> None:
    first, _ = lines
    first.take(DEADLINE)
    assert first._file is not None
    os.pwrite(first._file.fileno(), line_module._TIMES.pack(1e12, 1e12, 1e12), 0)
    first.give()
    first.take(DEADLINE)
    first.give()
    assert slept == []


def test_the_file_is_shared_like_the_database_and_stays(lines: tuple[WritersLine, WritersLine], database: Path) -> None:
    lines[0].take(DEADLINE)
    lines[0].give()
    lines[0].close()
    assert (database.parent / "app.db.writers.lock").stat().st_mode & 0o777 == 0o640
    lines[0].take(DEADLINE)
    assert has_a_place(lines[0])
    lines[0].give()


def test_where_no_file_can_be_made_the_database_is_asked_at_once(tmp_path: Path) -> None:
    line = WritersLine(tmp_path / "missing" / "app.db")
    line.take(DEADLINE)
    line.begun(met_somebody=False)
    line.give()
    assert not has_a_place(line)


@pytest.mark.parametrize("patient", [True, False])
def test_who_had_to_wait_lets_all_know_that_it_is_crowded_unless_it_was_patient(
    lines: tuple[WritersLine, WritersLine], monkeypatch: pytest.MonkeyPatch, *, patient: bool
) -> None:
    monkeypatch.setattr(line_module, "REMEMBERED_FOR", 1e9)
    monkeypatch.setattr(line_module, "_NEVER", (-1e9, 0.0, -1e9))
    first, second = lines
    first.take(DEADLINE)
    waiting = threading.Thread(target=take_and_give, args=(second,), kwargs={"patient": patient})
    waiting.start()
    while second._patience is None or not second._patience.waiting:
        assert waiting.is_alive()
    first.give()
    waiting.join(DEADLINE)
    assert is_crowded(second) is not patient
    first.take(DEADLINE)
    assert is_crowded(first) is not patient
    first.give()


def test_a_stranger_makes_it_crowded(lines: tuple[WritersLine, WritersLine]) -> None:
    first, second = lines
    meet_a_stranger(first)
    second.take(DEADLINE)
    assert is_crowded(second)
    second.give()
