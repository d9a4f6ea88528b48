"""Random files are moved, and both sides look the same to everybody who looks."""

from __future__ import annotations

import sqlite3
import tempfile
import uuid
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tests.service.moves import all_of

from sidework import BackgroundJobManager, BackgroundService
from sidework.moving import move_from

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

WHOLE = st.integers(-(2**63), 2**63 - 1)
COUNT = st.integers(0, 2**63 - 1)
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30)
JSON = st.none() | TEXT | st.builds('{{"n": {}}}'.format, st.integers())
FIRST, LAST = datetime.fromisoformat("0001-01-03"), datetime.fromisoformat("9999-12-28")
MOMENT = st.datetimes(FIRST, LAST).map(lambda at: at.replace(tzinfo=UTC).isoformat(timespec="milliseconds")[:-6] + "Z")
NUMBER = st.floats(allow_nan=False)
STATUS = st.sampled_from(["PENDING", "SCHEDULED", "RUNNING", "COMPLETED", "FAILED", "CANCELLED"])

JOB = st.fixed_dictionaries(
    {
        "id": st.integers(1, 10**12), "job_key": TEXT, "status": STATUS, "queue": TEXT, "priority": WHOLE,
        "attempts": COUNT, "max_attempts": COUNT, "crashes": COUNT, "claims": COUNT, "worker": COUNT,
        "created_at": MOMENT, "updated_at": MOMENT, "last_attempt_at": st.none() | MOMENT,
        "finished_at": st.none() | MOMENT, "run_at": MOMENT, "unique_key": st.none() | TEXT, "options": JSON,
        "payload": JSON, "result": JSON, "last_error": st.none() | TEXT,
    }
)  # fmt: skip
JOBS = st.lists(JOB, max_size=8, unique_by=(lambda job: job["id"], lambda job: (job["job_key"], job["unique_key"])))
PROGRESS = st.fixed_dictionaries(
    {"done": NUMBER, "total": st.none() | NUMBER, "message": st.none() | TEXT, "updated_at": MOMENT}
)
LINE = st.fixed_dictionaries({"id": st.integers(1, 10**9), "job_id": WHOLE, "at": MOMENT, "message": TEXT})
QUEUE = st.fixed_dictionaries({"name": TEXT, "paused": st.integers(0, 1), "running_limit": st.none() | COUNT})
LINES = st.lists(LINE, max_size=4, unique_by=lambda line: line["id"])
QUEUES = st.lists(QUEUE, max_size=4, unique_by=lambda queue: queue["name"])


def put(connection: sqlite3.Connection, table: str, row: Mapping[str, Any]) -> None:
    marks = ", ".join("?" * len(row))
    connection.execute(
        f"INSERT INTO background_service_{table} ({', '.join(row)}) VALUES ({marks})", tuple(row.values())
    )


def fill(path: Path, tables: Mapping[str, Sequence[Mapping[str, Any]]], highest: int) -> None:
    service = BackgroundService(path)
    service.migrate()
    service.close()
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN")
        connection.execute("INSERT INTO sqlite_sequence VALUES ('background_service_jobs', ?)", (highest,))
        for table, rows in tables.items():
            for row in rows:
                put(connection, table, row)
        connection.execute("COMMIT")


def new_schema(server: str) -> tuple[str, str]:
    """Make a schema; return its name, and the URL by which it is found."""
    name = f"move_{uuid.uuid4().hex}"
    with closing(psycopg.connect(server, autocommit=True)) as connection:
        connection.execute(f"CREATE SCHEMA {name}")
    return name, f"{server}?options=-csearch_path%3D{name}"


def drop(server: str, schema: str) -> None:
    with closing(psycopg.connect(server, autocommit=True)) as connection:
        connection.execute("SET client_min_messages = 'error'")
        connection.execute(f"DROP SCHEMA {schema} CASCADE")


A_JOB = {
    "id": 1, "job_key": "", "status": "PENDING", "queue": "", "priority": 0, "attempts": 0, "max_attempts": 0,
    "crashes": 0, "claims": 0, "worker": 0, "created_at": "2000-01-01T00:00:00.000Z",
    "updated_at": "2000-01-01T00:00:00.000Z", "run_at": "2000-01-01T00:00:00.000Z",
}  # fmt: skip
WRITTEN_OTHERWISE_BY_THE_SERVER = {
    "done": 5.125785847629094e16, "total": 1e15, "message": None, "updated_at": "2000-01-01T00:00:00.000Z"
}  # fmt: skip


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(jobs=[A_JOB], lines=[], queues=[], progress=WRITTEN_OTHERWISE_BY_THE_SERVER, more=0)
@given(jobs=JOBS, lines=LINES, queues=QUEUES, progress=PROGRESS, more=st.integers(0, 10**6))
def test_both_sides_look_the_same(
    postgres_database: str, jobs: Any, lines: Any, queues: Any, progress: Any, more: int
) -> None:
    schema, target = new_schema(postgres_database)
    highest = max([job["id"] for job in jobs], default=0) + more
    tables = {
        "jobs": jobs,
        "queues": queues,
        "log": lines + [{**line, "id": line["id"] + 10**10, "job_id": jobs[0]["id"]} for line in lines if jobs],
        "progress": [{"job_id": job["id"], **progress} for job in jobs[::2]],
        "cancellations": [{"job_id": job["id"], "requested_at": job["updated_at"]} for job in jobs[1::2]],
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "app.db")
        fill(path, tables, highest)
        before = all_of(path)
        move = move_from(path, target)
        assert move.plan().in_the_way == []
        moved = move.run()
        move.close()
        assert all_of(target) == before
        assert {name: check.rows for name, check in moved.checks.items()} == {
            name: len(rows) for name, rows in tables.items()
        }
        if highest < 2**62:
            assert insert_one(target) == highest + 1 == moved.next_id
    drop(postgres_database, schema)


def insert_one(target: str) -> int:
    """Insert as a stranger does."""
    with closing(psycopg.connect(target, autocommit=True)) as connection:
        row = connection.execute("INSERT INTO background_service_jobs (job_key) VALUES ('k') RETURNING id").fetchone()
        assert row is not None
        return int(row[0])


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.dictionaries(st.sampled_from(["payload", "job_key", "updated_at", "priority"]),
       st.binary(max_size=4) | st.text(max_size=4).filter(lambda text: text.isprintable() or "\0" in text)
       | st.integers(-9, 9) | st.floats(allow_nan=False, width=16)), min_size=1, max_size=6))  # fmt: skip
def test_whatever_strangers_left_is_moved_as_it_looks_or_named(postgres_database: str, rows: Any) -> None:
    """SQLite keeps any value in any column: what is not named beforehand must arrive looking the same."""
    schema, target = new_schema(postgres_database)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "app.db")
        fill(path, {"jobs": [{"job_key": "k", **row} for row in rows]}, 0)
        move = move_from(path, target)
        if not move.plan().in_the_way:
            before = all_of(path)
            move.run()
            assert as_shown(all_of(target)) == as_shown(before)
        else:
            assert open_manager_counts(path) == len(rows)
        move.close()
    drop(postgres_database, schema)


def as_shown(everything: dict[str, Any]) -> dict[str, Any]:
    """Leave out what is finer than a millisecond, which the new place does not keep."""
    for job in everything["jobs"]:
        at = datetime.fromisoformat(job["updated_at"])
        job["updated_at"] = (at - timedelta(microseconds=at.microsecond % 1000)).isoformat()
    return everything


def open_manager_counts(path: Path) -> int:
    manager = BackgroundJobManager(path)
    try:
        return sum(manager.counts().values())
    finally:
        manager._storage.close()
