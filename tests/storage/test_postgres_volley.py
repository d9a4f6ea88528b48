"""How a transaction is sent in one write, and what becomes of its connection where the server refuses it."""

from __future__ import annotations

import random
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, cast

import psycopg
import pytest
from psycopg import pq
from psycopg.waiting import Ready, Wait
from tests.storage.crew import NOON, Hand, ended, job, look, put, status

from sidework.model.job import JobStatus
from sidework.storage.postgres.binary import array, scalar
from sidework.storage.postgres.store import PostgresStorage
from sidework.storage.postgres.volley import Volley
from sidework.storage.postgres.wire import answers

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from psycopg.pq.abc import PGconn, PGresult


@pytest.fixture
def storage(postgres_database: str) -> Iterator[PostgresStorage]:
    store = PostgresStorage(postgres_database, notify=False)
    store.migrate()
    yield store
    store.close()


@pytest.fixture
def connection(storage: PostgresStorage) -> Iterator[psycopg.Connection[Any]]:
    with closing(storage._address.connect()) as connection:
        yield connection


@pytest.fixture
def volley(storage: PostgresStorage) -> Volley:
    statements: Any = storage._session._sql
    statements["divide"] = "SELECT 1 / %(by)s::bigint"
    statements["add_queue"] = "INSERT INTO background_service_queues (name) VALUES (%(name)s)"
    statements["sleep"] = "SELECT pg_sleep(0)"
    return Volley(storage._session, settings="settings_of_turns")


def queues(connection: psycopg.Connection[Any]) -> list[str]:
    return [name for (name,) in connection.execute("SELECT name FROM background_service_queues ORDER BY name")]


def test_all_statements_are_one_transaction_whose_rows_come_by_name(
    volley: Volley, connection: psycopg.Connection[Any]
) -> None:
    found = volley.fire(connection, [("add_queue", {"name": "a"}), ("divide", {"by": 1})])
    assert found == {"add_queue": [], "divide": [(1,)]}
    assert queues(connection) == ["a"]


def test_nothing_is_done_of_what_fails_and_the_connection_goes_on(
    volley: Volley, connection: psycopg.Connection[Any]
) -> None:
    for _ in range(2):
        with pytest.raises(psycopg.errors.DivisionByZero):
            volley.fire(connection, [("add_queue", {"name": "a"}), ("divide", {"by": 0}), ("sleep", {})])
        assert connection.pgconn.transaction_status == pq.TransactionStatus.IDLE
        assert queues(connection) == []
    volley.fire(connection, [("add_queue", {"name": "b"})])
    assert queues(connection) == ["b"]


def test_what_was_deallocated_is_prepared_again(volley: Volley, connection: psycopg.Connection[Any]) -> None:
    for name in "ab":
        volley.fire(connection, [("add_queue", {"name": name})])
        connection.execute("DEALLOCATE ALL")
    assert queues(connection) == ["a", "b"]


def test_a_turn_is_one_write(storage: PostgresStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted are the waits: psycopg's own pipeline waits for each statement, to write it."""
    hand = Hand(storage)
    put(storage, job(), job())
    hand.settle(ended(hand.claim_one()))  # now all of it is prepared
    waits: list[object] = []
    original = psycopg.Connection.wait

    def counted(self: psycopg.Connection[Any], *arguments: Any, **options: Any) -> Any:
        waits.append(arguments)
        return original(self, *arguments, **options)

    monkeypatch.setattr(psycopg.Connection, "wait", counted)
    (claimed,) = hand.claim()
    hand.settle(ended(claimed))
    assert len(waits) == 2
    assert status(storage, claimed.id) is JobStatus.COMPLETED
    hand.seat.leave()


def test_a_turn_settles_more_than_the_line_holds(storage: PostgresStorage) -> None:
    hand = Hand(storage)
    put(storage, *(job() for _ in range(40)))
    claimed = hand.claim(40)
    text = "x" * 400_000
    hand.settle(*(ended(each, result=f'"{text}"') for each in claimed))
    assert {look(storage, each.id).result for each in claimed} == {text}
    hand.seat.leave()


def test_settings_stay_on_the_connections_of_turns_alone(storage: PostgresStorage) -> None:
    hand = Hand(storage)
    hand.turn()
    for database, expected in ((storage._turns, "off"), (storage._database, "on")):
        setting = database.read(lambda connection: connection.execute("SHOW enable_seqscan").fetchone())
        assert setting == (expected,)
    hand.seat.leave()


# ------------------------------------------------------------------------------------------------ binary form

CHANCE = random.Random(1)
MOMENTS = [NOON, datetime(1, 1, 2, tzinfo=UTC), datetime(9999, 12, 29, 23, 59, 59, 999_999, tzinfo=UTC)]
LISTS = [
    ("text", []),
    ("text", ["", "a", None, 'quo"te, {brace} \\', "ünïcödé \U0001f600"]),
    ("bigint", [0, 1, -1, None, 2**63 - 1, -(2**63), *(CHANCE.randrange(2**40) for _ in range(100))]),
    ("timestamptz", [None, *MOMENTS, NOON + timedelta(microseconds=1)]),
]


@pytest.mark.parametrize(("kind", "values"), LISTS)
def test_the_server_reads_a_list_as_it_was_meant(
    connection: psycopg.Connection[Any], kind: str, values: Sequence[object]
) -> None:
    connection.execute("SET TIME ZONE 'UTC'")
    server = connection.pgconn
    sent = server.exec_params(f"SELECT $1::{kind}[]".encode(), [array(kind, values)], param_formats=[pq.Format.BINARY])
    reference = connection.execute(f"SELECT %s::{kind}[]::text", [list(values)]).fetchone()
    assert reference is not None
    value = sent.get_value(0, 0)
    assert value is not None
    assert value.decode() == reference[0]


@pytest.mark.parametrize(
    ("kind", "value"), [("text", "ü"), ("text", None), ("bigint", -7), ("timestamptz", MOMENTS[1])]
)
def test_the_server_reads_a_value_as_it_was_meant(
    connection: psycopg.Connection[Any], kind: str, value: object
) -> None:
    server = connection.pgconn
    sent = server.exec_params(
        f"SELECT $1::{kind}::text".encode(), [scalar(value)], param_formats=[pq.Format.BINARY]
    ).get_value(0, 0)
    received = None if sent is None else sent.decode()
    assert (received,) == connection.execute(f"SELECT %s::{kind}::text", [value]).fetchone()


def test_a_value_of_another_type_is_refused() -> None:
    with pytest.raises(TypeError, match="float"):
        scalar(1.5)


# ------------------------------------------------------------------------------------------------------ answers


class Server:
    """A connection whose answers come in pieces: that a result was all of its statement may come later."""

    def __init__(self) -> None:
        self.pieces: list[Any] = []

    def flush(self) -> int:
        return 0

    def is_busy(self) -> int:
        return not self.pieces

    def consume_input(self) -> None:
        """Take in what the test has put there."""

    def get_result(self) -> PGresult | None:
        assert self.pieces, "it would wait, for as long as it takes, and no thread of this process could run"
        return cast("PGresult | None", self.pieces.pop(0))


class Piece:
    """A result."""

    def __init__(self, status: pq.ExecStatus) -> None:
        self.status = status


def test_answers_in_pieces_are_waited_for_and_never_in_libpq() -> None:
    server, row = Server(), Piece(pq.ExecStatus.TUPLES_OK)
    waiting = answers(cast("PGconn", server))
    assert next(waiting) == Wait.R
    for piece in (row, None, row):
        server.pieces = [piece]
        assert waiting.send(Ready.R) == Wait.R
    server.pieces = [None, Piece(pq.ExecStatus.PIPELINE_SYNC)]
    with pytest.raises(StopIteration) as end:
        waiting.send(Ready.R)
    assert end.value.value == [row, row]
