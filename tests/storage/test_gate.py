"""The write gate: turns in order of arrival, each of them a transaction."""

from __future__ import annotations

import random
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.storage.crew import NOON, Hand, ended, job, put
from tests.storage.threads import LONG, in_thread, until

from sidework.clock import FrozenClock
from sidework.errors import DatabaseBusy, SideworkError
from sidework.model.job import JobStatus, Progress, Report, RetentionRule
from sidework.storage.sqlite import gate as gate_module
from sidework.storage.sqlite.connect import connect, use_wal
from sidework.storage.sqlite.gate import WriteGate
from sidework.storage.sqlite.store import SqliteStorage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future


@pytest.fixture
def path(tmp_path: Path) -> str:
    file = str(tmp_path / "app.db")
    with closing(connect(file, create=True)) as connection:
        use_wal(connection, file, wait=1)
        connection.execute("CREATE TABLE t (x)")
    return file


@pytest.fixture
def gate(path: str) -> Iterator[WriteGate]:
    gate = WriteGate(partial(connect, path), wait=LONG, path=path)
    yield gate
    gate.close()


def rows(path: str) -> list[Any]:
    with closing(connect(path)) as connection:
        return [x for (x,) in connection.execute("SELECT x FROM t ORDER BY rowid")]


def insert(value: object) -> Callable[[sqlite3.Connection], object]:
    def act(connection: sqlite3.Connection) -> object:
        connection.execute("INSERT INTO t VALUES (?)", (value,))
        return value

    return act


def tickets(gate: WriteGate) -> int:
    """Return how many threads stand before the gate."""
    return len(gate._turnstile._tickets)


def queue_up(gate: WriteGate, *acts: Callable[[sqlite3.Connection], Any]) -> list[Future[Any]]:
    """Let each act wait behind the one before, each in a thread of its own. Somebody must hold the gate."""

    before = tickets(gate)
    futures = []
    for number, act in enumerate(acts, before + 1):
        futures.append(in_thread(partial(gate.write, act)))
        until(partial(_stands_before, gate, number))
    return futures


def _stands_before(gate: WriteGate, many: int) -> bool:
    return tickets(gate) == many


# ------------------------------------------------------------------------------------------------ one writer


def test_a_write_returns_what_its_act_returns_and_is_there_for_others(gate: WriteGate, path: str) -> None:
    assert gate.write(insert("a")) == "a"
    assert rows(path) == ["a"]


def test_what_an_act_raises_undoes_it_and_the_gate_is_free(gate: WriteGate, path: str) -> None:
    def act(connection: sqlite3.Connection) -> None:
        insert("never")(connection)
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        gate.write(act)
    gate.write(insert("next"))
    assert rows(path) == ["next"]


def test_a_commit_that_the_database_refuses_is_undone(gate: WriteGate, path: str) -> None:
    gate.write(_with_foreign_keys)
    with pytest.raises(sqlite3.IntegrityError):
        gate.write(_orphan)
    gate.write(insert("next"))
    assert rows(path) == ["next"]


def _with_foreign_keys(connection: sqlite3.Connection) -> None:
    connection.execute("CREATE TABLE child (p REFERENCES parent (id) DEFERRABLE INITIALLY DEFERRED)")
    connection.execute("CREATE TABLE parent (id INTEGER PRIMARY KEY)")
    connection.execute("COMMIT")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("BEGIN IMMEDIATE")


def _orphan(connection: sqlite3.Connection) -> None:
    connection.execute("INSERT INTO child VALUES (7)")


def test_the_connection_is_opened_when_it_is_first_needed(path: str) -> None:
    opened: list[str] = []

    def open_it() -> sqlite3.Connection:
        opened.append(path)
        return connect(path)

    gate = WriteGate(open_it, wait=1, path=path)
    assert opened == []
    gate.write(insert(1))
    gate.write(insert(2))
    assert len(opened) == 1
    gate.close()


# ------------------------------------------------------------------------------------------------ holding


def test_who_holds_the_gate_keeps_writers_out(gate: WriteGate, path: str) -> None:
    hold = gate.hold()
    (future,) = queue_up(gate, insert("after"))
    with closing(connect(path)) as handler:
        handler.execute("BEGIN IMMEDIATE")
        handler.execute("INSERT INTO t VALUES ('held')")
        handler.execute("COMMIT")
    assert not future.done()
    hold.release()
    assert future.result(LONG) == "after"
    assert rows(path) == ["held", "after"]


def test_a_hold_can_be_released_by_any_thread_and_more_than_once(gate: WriteGate) -> None:
    first = gate.hold()
    in_thread(first.release).result(LONG)
    second = gate.hold()
    first.release()
    assert not gate._turnstile.take_if_free()
    second.release()
    gate.write(insert(1))


def test_turns_are_given_in_the_order_of_arrival(gate: WriteGate) -> None:
    order: list[int] = []

    def take_turn(number: int) -> None:
        with gate.hold():
            order.append(number)

    with gate.hold():
        futures = []
        for number in range(6):
            futures.append(in_thread(partial(take_turn, number)))
            until(partial(_stands_before, gate, number + 1))
    for future in futures:
        future.result(LONG)
    assert order == [0, 1, 2, 3, 4, 5]


def test_nobody_overtakes_those_who_wait(gate: WriteGate, path: str) -> None:
    hold = gate.hold()
    (waiting,) = queue_up(gate, insert("waited"))
    assert not gate._turnstile.take_if_free()
    hold.release()
    gate.write(insert("came later"))
    waiting.result(LONG)
    assert rows(path) == ["waited", "came later"]


# ------------------------------------------------------------------------------------------ waiting too long


def test_a_writer_that_waited_too_long_gets_an_error_and_is_not_carried_out_later(path: str) -> None:
    gate = WriteGate(partial(connect, path), wait=0.05, path=path)
    with gate.hold(), pytest.raises(DatabaseBusy, match=r"no turn to write within 0\.05 s"):
        in_thread(lambda: gate.write(insert("never"))).result(LONG)
    gate.write(insert("next"))
    gate.close()
    assert rows(path) == ["next"]


def test_a_holder_that_waited_too_long_leaves_the_queue(path: str) -> None:
    gate = WriteGate(partial(connect, path), wait=0.05, path=path)
    with gate.hold():
        with pytest.raises(DatabaseBusy):
            in_thread(gate.hold).result(LONG)
        assert tickets(gate) == 0
    with gate.hold():
        pass
    gate.close()


def test_turns_that_come_just_as_time_runs_out_are_not_lost(path: str) -> None:
    turnstile = WriteGate(partial(connect, path), wait=1, path=path)._turnstile
    inside: list[int] = []
    most: list[int] = []
    chance = random.Random(7)

    def come_and_go(number: int) -> int:
        got = 0
        for _ in range(300):
            if turnstile.take(timeout=chance.random() * 0.0002):
                inside.append(number)
                most.append(len(inside))
                inside.remove(number)
                got += 1
                turnstile.give()
        return got

    futures = [in_thread(partial(come_and_go, number)) for number in range(6)]
    assert sum(future.result(LONG * 3) for future in futures) > 0
    assert set(most) == {1}
    assert turnstile.take_if_free(), "somebody was given a turn after leaving"


def test_the_time_waited_at_the_gate_is_not_waited_again_for_other_processes(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = WriteGate(partial(connect, path), wait=5, path=path)
    clock = FrozenClock()
    gate._clock = clock  # type: ignore[assignment]
    waits: list[float] = []

    def is_locked(_connection: sqlite3.Connection, seconds: float) -> bool:
        waits.append(seconds)
        return False

    monkeypatch.setattr(gate_module, "_begin_immediate", is_locked)
    with gate.hold():
        (future,) = queue_up(gate, lambda _connection: None)
        clock.advance(3)
    future.exception(LONG)
    assert waits[-1] == 2
    gate.close()


def test_a_lock_that_this_process_holds_elsewhere_is_named(path: str) -> None:
    gate = WriteGate(partial(connect, path, wait=0.05), wait=0.05, path=path)
    with closing(connect(path)) as careless:
        careless.execute("BEGIN IMMEDIATE")
        with pytest.raises(
            DatabaseBusy, match=r"This process itself holds the write lock.*pass that connection as db="
        ):
            gate.write(insert("never"))
        careless.execute("ROLLBACK")
    gate.write(insert("next"))
    gate.close()
    assert rows(path) == ["next"]


HOLDER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("held", flush=True)
sys.stdin.read()
"""


def test_a_lock_that_another_process_holds_is_named(path: str) -> None:
    gate = WriteGate(partial(connect, path, wait=0.05), wait=0.05, path=path)
    command = [sys.executable, "-c", HOLDER, path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(DatabaseBusy, match=f"held by process {other.pid}:"):
            gate.write(insert("never"))
        other.communicate("", timeout=LONG)
    gate.write(insert("next"))
    gate.close()


def test_where_the_system_does_not_tell_who_holds_the_lock_there_is_advice(path: str) -> None:
    gate = WriteGate(partial(connect, path), wait=1, path=path)
    assert "do slow work before the first write" in gate.explain_busy()


# -------------------------------------------------------------------------------------- waiting for oneself


def test_writing_inside_an_act_is_refused_at_once(gate: WriteGate, path: str) -> None:
    with pytest.raises(SideworkError, match="would wait for itself"):
        gate.write(lambda _: gate.write(insert("never")))
    assert rows(path) == []


def test_who_holds_the_gate_cannot_write_through_it(gate: WriteGate) -> None:
    with gate.hold():
        with pytest.raises(SideworkError, match="would wait for itself"):
            gate.write(insert("never"))
        with pytest.raises(SideworkError, match="would wait for itself"):
            gate.hold()
    gate.write(insert("next"))


def test_a_thread_that_serves_others_besides_the_holder_may_wait(path: str) -> None:
    gate = WriteGate(partial(connect, path), wait=0.02, path=path)
    with gate.hold(by_this_thread=False), pytest.raises(DatabaseBusy):
        gate.write(insert("never"))
    gate.close()


# ------------------------------------------------------------------------------------------ room for others


def test_turns_of_the_engine_leave_room_for_other_processes(gate: WriteGate, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    clock = FrozenClock()
    gate._clock = clock  # type: ignore[assignment]
    monkeypatch.setattr(time, "sleep", pauses.append)
    gate.write(insert(1), patient=True)
    gate.write(insert(2))
    assert pauses == []
    clock.advance(0.0002)
    gate.write(insert(3), patient=True)
    assert pauses == [pytest.approx(0.0003)]
    clock.advance(0.0005)
    gate.write(insert(4), patient=True)
    assert len(pauses) == 1


@pytest.mark.parametrize("patient", [True, False])
def test_only_who_is_in_a_hurry_makes_a_crowd(gate: WriteGate, *, patient: bool) -> None:
    gate._clock = FrozenClock()  # type: ignore[assignment]
    with gate.hold():
        waiting = in_thread(partial(gate.write, insert(1), patient=patient))
        until(partial(_stands_before, gate, 1))
    waiting.result(LONG)
    assert gate.crowded is not patient


def test_workers_are_patient_and_callers_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    patience: list[bool] = []
    write = WriteGate.write

    def noted(gate: WriteGate, act: Callable[[sqlite3.Connection], Any], *, patient: bool = False, **more: Any) -> Any:
        patience.append(patient)
        return write(gate, act, patient=patient, **more)

    monkeypatch.setattr(WriteGate, "write", noted)
    with closing(SqliteStorage(tmp_path / "app.db")) as storage:
        storage.migrate()
        ids = put(storage, job(), job())
        storage.cancel(ids[1:], now=NOON)
        assert patience == [False, False]
        hand = Hand(storage)
        held = hand.claim_one()
        storage.report([Report(claim=held.claim, progress=Progress(done=1))], now=NOON)
        storage.renew(hand.id, [held.claim], now=NOON)
        hand.settle(ended(held))
        storage.prune([RetentionRule(statuses=frozenset(JobStatus), keep=timedelta(0))], after=0, limit=9, now=NOON)
        hand.seat.leave()
        assert patience[2:] == [True] * 7


# --------------------------------------------------------------------------------------- close, fork, files


def test_a_closed_gate_opens_again_when_it_is_used(gate: WriteGate, path: str) -> None:
    gate.write(insert(1))
    gate.close()
    gate.close()
    assert gate._connection is None
    assert gate.write(insert(2)) == 2
    assert rows(path) == [1, 2]


FORK = """
import os, sys
from functools import partial
from sidework.errors import SideworkError
from sidework.storage.sqlite.connect import connect
from sidework.storage.sqlite.gate import WriteGate

path = sys.argv[1]
add = lambda c: c.execute("INSERT INTO t VALUES (1)").rowcount
unused, gate = (WriteGate(partial(connect, path), wait=1, path=path) for _ in range(2))
gate.write(add)
child = os.fork()
if child == 0:
    for use in (lambda: gate.write(add), gate.hold):
        try:
            use()
        except SideworkError as error:
            assert "forked" in str(error), error
        else:
            os._exit(1)
    gate.close()
    assert unused.write(add) == 1
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
gate.write(add)
print("ok")
"""


def test_a_gate_is_of_no_use_in_a_forked_child_and_unharmed_in_the_parent(path: str) -> None:
    done = subprocess.run([sys.executable, "-c", FORK, path], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout) == (0, "ok\n"), done.stderr
    assert rows(path) == [1, 1, 1]


OPENS = """
import sqlite3, sys, threading
from functools import partial
from sidework.storage.sqlite.connect import connect
from sidework.storage.sqlite.gate import WriteGate

path = sys.argv[1]
opened = []
sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)
gate = WriteGate(partial(connect, path), wait=0.05, path=path)
gate.write(lambda c: c.execute("INSERT INTO t VALUES (1)"))
gate.explain_busy()
gate.close()
print([name for name in opened if name in (path, f"{path}-wal", f"{path}-shm")])
"""


def test_only_sqlite_opens_the_files_of_the_database(path: str) -> None:
    done = subprocess.run([sys.executable, "-c", OPENS, path], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "[]\n"
