"""How PostgreSQL runs the hot statements: by their indexes, even by a plan that was made when the tables were empty."""

from __future__ import annotations

import re
from contextlib import closing
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from sidework.storage.open import open_storage
from sidework.storage.statements import load

if TYPE_CHECKING:
    from collections.abc import Iterator

STATEMENTS = load(files("sidework.storage.postgres") / "queries.sql")

KEY = "background_service_jobs_pkey"
READY = "idx_background_jobs_status_priority"
SUSPECTS = "background_service_jobs_suspects"
DUE = "background_service_jobs_due"
RUNNING = "background_service_jobs_running"

INDEXES_USED = {
    "settle": {KEY},
    "cancel_and_promote": {DUE, KEY},
    "claim": {READY, KEY, RUNNING, SUSPECTS},
    "claim_suspect": {SUSPECTS, KEY, RUNNING},
    "news": {DUE, SUSPECTS, RUNNING, KEY},
    "holders": {RUNNING},
    "held_by": {RUNNING},
}
"""By what each statement of a turn finds jobs."""

TYPES = {
    "now": "timestamptz",
    "worker": "bigint",
    "room": "bigint",
    "ids": "bigint[]",
    "claims": "bigint[]",
    "attempts": "bigint[]",
    "crashes": "bigint[]",
    "run_ats": "timestamptz[]",
    "rooms": "bigint[]",
    "aheads": "bigint[]",
}
"""Of parameters; all others are text[]."""

ORDER_OF_THE_CLAIM = "Sort Key: each.priority DESC, each.id"


@pytest.fixture
def connection(postgres_database: str) -> Iterator[psycopg.Connection[Any]]:
    store = open_storage(postgres_database)
    store.migrate()
    store.close()
    with closing(psycopg.connect(postgres_database)) as connection:
        connection.execute(
            "INSERT INTO background_service_workers VALUES (1, 'w', '', 1, '', 1, NULL, '[]', now(), now(), now())"
        )
        connection.execute(STATEMENTS["settings_of_turns"], {"wait": "1s", "durable": "on", "local": True})
        yield connection


def plan(connection: psycopg.Connection[Any], name: str) -> str:
    """Return the generic plan of a statement."""
    names: list[str] = []

    def number(found: re.Match[str]) -> str:
        if found[1] not in names:
            names.append(found[1])
        return f"${names.index(found[1]) + 1}"

    text = re.sub(r"%\((\w+)\)s", number, STATEMENTS[name])
    types = [TYPES.get(each, "text[]") for each in names]
    connection.execute(f"PREPARE {name}{'(' + ', '.join(types) + ')' if types else ''} AS {text}")
    values = "(" + ", ".join(f"NULL::{each}" for each in types) + ")" if types else ""
    return "\n".join(line for (line,) in connection.execute(f"EXPLAIN EXECUTE {name}{values}"))


@pytest.mark.parametrize("name", INDEXES_USED)
def test_jobs_are_found_by_the_indexes_that_are_meant(connection: psycopg.Connection[Any], name: str) -> None:
    lines = plan(connection, name).splitlines()
    on_jobs = [
        line for line in lines if re.search(r"(Scan|on) .*background_service_jobs\b", line) or "Scan using" in line
    ]
    used = {index for line in on_jobs for index in re.findall(r"using (\S+)", line) if "jobs" in index}
    assert used == INDEXES_USED[name]
    assert not [line for line in on_jobs if "Seq Scan on background_service_jobs" in line]


def test_a_claim_reads_each_key_in_the_order_of_its_index(connection: psycopg.Connection[Any]) -> None:
    """What is merged is sorted; the jobs of one key never are, however many wait."""
    text = plan(connection, "claim")
    merged, _, each_key = text.partition(ORDER_OF_THE_CLAIM)
    assert merged != text
    assert "Sort" not in each_key.partition(f"using {READY}")[0]


@pytest.mark.parametrize("name", ["settle", "claim", "claim_suspect", "news"])
def test_where_many_jobs_wait_those_few_are_still_looked_up_one_by_one(
    connection: psycopg.Connection[Any], name: str
) -> None:
    """A claim of ten jobs must not read a table of a million, whatever the planner thinks of an unknown LIMIT."""
    connection.execute("INSERT INTO background_service_jobs (job_key) SELECT 'k' FROM generate_series(1, 20000)")
    connection.execute("ANALYZE background_service_jobs")
    lines = plan(connection, name).splitlines()
    whole = [
        line
        for line, below in zip(lines, [*lines[1:], ""], strict=True)
        if f"using {KEY}" in line and "Cond" not in below
    ]
    assert whole == []
    assert not [line for line in lines if "Hash Join" in line or "Merge Join" in line]


def test_what_is_due_is_read_in_the_order_of_its_index(connection: psycopg.Connection[Any]) -> None:
    text = plan(connection, "cancel_and_promote")
    assert "Sort" not in text.partition("CTE promoted")[2].partition(f"using {DUE}")[0]


def steps_of_a_claim(connection: psycopg.Connection[Any], named: list[str]) -> int:
    """Return how many entries of the ready index are looked up in the table, by a claim of one job, rolled back."""
    values = {
        "worker": 1, "now": "2026-01-01T00:00:00Z", "keys": ["k"], "queues": None, "room": 1,
        "rooms_of": named, "rooms": [1] * len(named), "aheads": [0] * len(named),
    }  # fmt: skip
    lines = [
        line
        for (line,) in connection.execute(f"EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) {STATEMENTS['claim']}", values)
    ]
    connection.rollback()
    return sum(int(count) for line in lines for count in re.findall(r"Heap Fetches: (\d+)", line))


def test_what_cannot_be_removed_yet_is_stepped_over_once_in_a_queue_that_the_worker_names(
    postgres_database: str,
) -> None:
    """Dead entries stay as long as a transaction of the application does; each claim meets all of them."""
    dead = 2_000
    open_storage(postgres_database).migrate()
    with (
        closing(psycopg.connect(postgres_database)) as application,
        closing(psycopg.connect(postgres_database)) as connection,
    ):
        connection.execute(
            "INSERT INTO background_service_workers VALUES "
            "(1, 'w', '', 1, '', 1, NULL, '[]', now(), now(), now() + interval '1 hour')"
        )
        connection.execute(
            "INSERT INTO background_service_jobs (job_key) SELECT 'k' FROM generate_series(1, %s)", (dead + 500,)
        )
        connection.commit()
        application.execute("SELECT txid_current()")
        connection.execute("UPDATE background_service_jobs SET status = 'COMPLETED' WHERE id <= %s", (dead,))
        connection.commit()
        known, unknown = steps_of_a_claim(connection, ["default"]), steps_of_a_claim(connection, [])
    assert dead <= known < dead * 1.5
    assert unknown >= dead * 2, "the control: it looks for the queue, and then for its jobs"
