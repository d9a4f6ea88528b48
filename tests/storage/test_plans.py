"""How SQLite runs the hot statements: by the partial indexes, whatever the table holds and whether ANALYZE has run.

Costs are counted in steps of SQLite's own machine, which are the same on every computer; no test here measures time.
"""

from __future__ import annotations

import json
import re
import sqlite3
from contextlib import closing
from importlib.resources import files
from typing import TYPE_CHECKING

import pytest

from sidework.storage.open import open_storage
from sidework.storage.statements import load

if TYPE_CHECKING:
    from collections.abc import Iterator

SQL = files("sidework.storage.sqlite")
STATEMENTS = load(SQL / "queries.sql")
ID_OF_UNIQUE_JOB = load(SQL / "callers.sql")["id_of_unique_job"]

READY = "idx_background_jobs_status_priority"
SUSPECTS = "background_service_jobs_suspects"
DUE = "background_service_jobs_due"
RUNNING = "background_service_jobs_running"
LOG = "background_service_log_job"
ID = "INTEGER PRIMARY KEY"

INDEXES_USED = {
    "refused": {ID},
    "passed_over": {ID},
    "settle_alike": {ID},
    "settle": {ID},
    "cancel_what_was_asked_for": {ID},
    "forget_cancellations": {ID},
    "cancellations_of_worker": {ID},
    "standing": {ID, DUE},
    "promote": {DUE, ID},
    "open_queues": {READY, SUSPECTS},
    "running_in_queue": {RUNNING},
    "has_ready": {READY},
    "has_ready_ahead": {READY, ID},
    "has_suspect": {SUSPECTS},
    "ready_jobs": {READY, ID},
    "suspect_jobs": {SUSPECTS, ID},
    "claim": {ID},
    "holders": {RUNNING},
    "held_by": {RUNNING},
    "report_progress": {ID},
    "report_line": {ID},
    "busy_with": {RUNNING, DUE},
    "log": {LOG},
    "ahead_of": {READY},
    "cancel_requested": {ID},
    "cancel_waiting": {ID},
    "request_cancellation": {ID},
    "retry": {ID},
    "delete": {ID},
    "delete_progress": {ID},
    "delete_log": {LOG},
    "delete_cancellations": {ID},
    "set_priority": {ID},
    "prune_page": {ID},
    "prune_candidates": {ID},
}
"""By what each hot statement finds its rows."""

SORTS = {
    "open_queues": 2,  # the names of the queues, not their jobs
    "ready_jobs": 1,  # the heads of the keys' ranges are merged: at most room x keys rows
    "suspect_jobs": 1,
    "holders": 1,  # distinct workers among what runs
    "held_by": 1,  # what one worker holds
}
"""How many temporary b-trees a statement may build; any other: none."""

SMALL_ENOUGH_TO_SCAN = re.compile(
    r"json_each|wanted|o|claim|queues|ready|suspects|found|held|there|setting|CONSTANT ROW|request"
    r"|background_service_(cancellations|queues|workers)"
)
ACCESS = re.compile(
    r"(SCAN|SEARCH) (CONSTANT ROW|\S+)(?:.*? USING (?:COVERING )?(?:INDEX (\S+)|(INTEGER PRIMARY KEY)))?"
)

PARAMETERS = {
    "now": "2026-01-01T12:00:00.000Z",
    "claims": json.dumps(dict.fromkeys(range(1, 11), 1)),
    "status": "COMPLETED",
    "attempts": 1,
    "crashes": 0,
    "ended": 1,
    "outcomes": json.dumps([[n, 1, "COMPLETED", 1, 0, 1, None, "1", None] for n in range(1, 11)]),
    "ids": json.dumps(list(range(1, 11))),
    "keys": '["a", "b"]',
    "queues": '["q1", "q2"]',
    "queue": "q1",
    "worker": 1,
    "but_by": None,
    "room": 10,
    "ahead": 0,
    "job": 5,
    "number": 1,
    "priority": 0,
    "after": 5,
    "last": 15,
    "before": "2026-01-01T11:00:00.000Z",
    "limit": 10,
    "done": 1.0,
    "total": None,
    "message": "x",
    "at": "2026-01-01T12:00:00.000Z",
}

FILL = """
INSERT INTO background_service_jobs (job_key, queue, priority, status, crashes, claims, worker, run_at, payload)
WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < :rows)
SELECT :key, :queue, n % :priorities, :status, :crashes, 1, n % 4, :run_at, '{"n": 1}' FROM numbers
"""

LITTLE: list[dict[str, object]] = [
    {"rows": 30, "status": "RUNNING"},
    {"rows": 30, "key": "a"},
    {"rows": 30, "key": "b"},
    {"rows": 30, "crashes": 1},
    {"rows": 30, "status": "SCHEDULED", "run_at": "2025-01-01T00:00:00.000Z"},
]
MUCH: list[dict[str, object]] = [
    {"rows": 100_000, "status": "COMPLETED"},
    {"rows": 20_000, "status": "FAILED", "queue": "q2"},
    {"rows": 100_000, "status": "SCHEDULED", "run_at": "2027-01-01T00:00:00.000Z", "priority": 9},
    {"rows": 20_000, "key": "nobody knows"},
    {"rows": 20_000, "priorities": 3},
    {"rows": 20_000, "queue": "q2"},
]


def fill(connection: sqlite3.Connection, what: list[dict[str, object]]) -> None:
    defaults = {"key": "a", "queue": "q1", "status": "PENDING", "crashes": 0, "run_at": None, "priorities": 1}
    with connection:
        for each in what:
            connection.execute(FILL, {**defaults, **each})


@pytest.fixture(scope="module", params=["empty", "empty, analyzed", "large", "large, analyzed", "filled after ANALYZE"])
def connection(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[sqlite3.Connection]:
    """Yield a connection to a database in one of the states that a planner may meet."""
    with closing(fresh_database(tmp_path_factory)) as opened:
        if request.param == "filled after ANALYZE":
            opened.execute("ANALYZE")
        if "empty" not in request.param:
            fill(opened, [*LITTLE, *MUCH])
        if ", analyzed" in request.param:
            opened.execute("ANALYZE")
        yield opened


def fresh_database(tmp_path_factory: pytest.TempPathFactory) -> sqlite3.Connection:
    path = tmp_path_factory.mktemp("plans") / "app.db"
    storage = open_storage(path, durability="relaxed")
    storage.migrate()
    storage.close()
    return sqlite3.connect(path)


def plan(connection: sqlite3.Connection, name: str) -> list[str]:
    lines = connection.execute(f"EXPLAIN QUERY PLAN {STATEMENTS[name]}", PARAMETERS).fetchall()
    return [line[-1] for line in lines]


@pytest.mark.parametrize("name", INDEXES_USED)
def test_a_hot_statement_goes_by_the_index_made_for_it(connection: sqlite3.Connection, name: str) -> None:
    lines = plan(connection, name)
    accesses = [found for line in lines if (found := ACCESS.match(line))]
    assert {found[3] or found[4] for found in accesses if found[3] or found[4]} == INDEXES_USED[name], lines
    whole_tables = [found[2] for found in accesses if not (found[3] or found[4])]
    assert all(SMALL_ENOUGH_TO_SCAN.fullmatch(table) for table in whole_tables), lines


@pytest.mark.parametrize("name", INDEXES_USED)
def test_a_hot_statement_sorts_nothing_that_an_index_has_in_order(connection: sqlite3.Connection, name: str) -> None:
    lines = plan(connection, name)
    assert sum("TEMP B-TREE" in line for line in lines) == SORTS.get(name, 0), lines
    assert not any("AUTOMATIC" in line for line in lines), lines


def test_the_holder_of_a_unique_key_is_found_by_its_index(connection: sqlite3.Connection) -> None:
    ((*_, line),) = connection.execute(f"EXPLAIN QUERY PLAN {ID_OF_UNIQUE_JOB}", ("a", "u")).fetchall()
    assert "background_service_jobs_unique (job_key=? AND unique_key=?)" in line


def steps(connection: sqlite3.Connection, name: str) -> int:
    """Return how many steps a statement takes, and leave the table as it was."""
    counted = 0

    def count() -> int:
        nonlocal counted
        counted += 1
        return 0

    connection.execute("BEGIN")
    connection.set_progress_handler(count, 1)
    connection.execute(STATEMENTS[name], PARAMETERS).fetchall()
    connection.set_progress_handler(None, 1)
    connection.rollback()
    return counted


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sqlite3.Connection]:
    """Yield a connection to a database with a few jobs of every kind."""
    with closing(fresh_database(tmp_path_factory)) as opened:
        fill(opened, LITTLE)
        yield opened


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sqlite3.Connection]:
    """Yield a connection to a database with the same few jobs first, and hundreds of thousands of others."""
    with closing(fresh_database(tmp_path_factory)) as opened:
        fill(opened, [*LITTLE, *MUCH])
        yield opened


GROWS_BY_DESIGN = {"ahead_of"}  # counts what stands before one job, for a person who asks why it waits


@pytest.mark.parametrize("name", sorted(set(INDEXES_USED) - GROWS_BY_DESIGN))
def test_a_hot_statement_costs_the_same_however_many_jobs_there_are(
    small: sqlite3.Connection, big: sqlite3.Connection, name: str
) -> None:
    few, many = steps(small, name), steps(big, name)
    assert many <= few * 1.2 + 50, f"{few} steps among few rows, {many} among many"
