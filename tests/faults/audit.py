"""What must hold of a database when all is over: the invariants, read by plain SQL from the file itself."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

import msgspec
import psycopg
from tests.faults import history

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


class Findings(msgspec.Struct, kw_only=True):
    """What an audit found."""

    jobs: int = 0
    lost: int = 0
    """Acknowledged jobs that are gone or never ended, orders without their job, completed jobs without their effect."""
    doubled: int = 0
    """Effects beyond the one of each job, jobs without their order, commits under a superseded claim."""
    events: int = 0
    wrongs: list[str] = []
    """In words, whatever is not as it must be."""

    def add(self, other: Findings) -> None:
        """Add what another audit found."""
        self.jobs += other.jobs
        self.lost += other.lost
        self.doubled += other.doubled
        self.events += other.events
        self.wrongs = self.wrongs + other.wrongs


Ask = Callable[[str], Sequence[tuple[Any, ...]]]

_ORDER_IN_SQLITE = "(payload ->> 'order')"
_ORDER_IN_POSTGRES = "(payload::json ->> 'order')::bigint"

_SETTLES = "job.job_key LIKE 'settle%'"

_LOST = {
    "not ended": "SELECT id FROM background_service_jobs WHERE status NOT IN ('COMPLETED', 'FAILED', 'CANCELLED')",
    "an order without its job": """
        SELECT id FROM orders WHERE id NOT IN (SELECT {order} FROM background_service_jobs WHERE {order} > 0)""",
    "completed without its effect": f"""
        SELECT job.id FROM background_service_jobs AS job
        WHERE {_SETTLES} AND job.status = 'COMPLETED' AND job.id NOT IN (SELECT job FROM effects)""",
    "failed, though it may be tried again": """
        SELECT id FROM background_service_jobs WHERE status = 'FAILED' AND max_attempts > 1""",
}

_DOUBLED = {
    "an effect more than once": "SELECT job FROM effects GROUP BY job HAVING count(*) > 1",
    "a job without its order": """
        SELECT id FROM background_service_jobs WHERE {order} > 0 AND {order} NOT IN (SELECT id FROM orders)""",
    "two jobs of one order": """
        SELECT min(id) FROM background_service_jobs WHERE {order} > 0 GROUP BY {order} HAVING count(*) > 1""",
    "an effect of a job that did not complete": """
        SELECT job FROM effects
        WHERE job NOT IN (SELECT id FROM background_service_jobs WHERE status = 'COMPLETED')""",
    "an effect under a superseded claim": """
        SELECT job.id FROM background_service_jobs AS job JOIN effects ON effects.job = job.id
        WHERE job.status = 'COMPLETED' AND effects.claim <> job.claims""",
    "a total that is not the number of effects": """
        SELECT n FROM totals WHERE n <> (SELECT count(*) FROM effects)""",
    "two that hold one unique key": """
        SELECT min(id) FROM background_service_jobs
        WHERE unique_key IS NOT NULL AND status IN ('PENDING', 'SCHEDULED', 'RUNNING')
        GROUP BY job_key, unique_key HAVING count(*) > 1""",
}


def audit(database: Path, log: Path | None, *, limits: Mapping[str, int] | None = None) -> Findings:
    """Look at everything. Nobody else may have the database open."""
    with closing(sqlite3.connect(database)) as connection:
        found = _audit(lambda sql: connection.execute(sql).fetchall(), _ORDER_IN_SQLITE, log, limits or {})
        _look_at_damage(connection, found)
    return found


def audit_postgres(database: str, log: Path, *, limits: Mapping[str, int] | None = None) -> Findings:
    """Look at everything in a PostgreSQL database. Nobody may work there any more."""
    with closing(psycopg.connect(database, autocommit=True)) as connection:
        return _audit(lambda sql: connection.execute(sql).fetchall(), _ORDER_IN_POSTGRES, log, limits or {})


def _audit(ask: Ask, order: str, log: Path | None, limits: Mapping[str, int]) -> Findings:
    found = Findings()
    found.jobs = ask("SELECT count(*) FROM background_service_jobs")[0][0]
    found.lost += _look(ask, order, _LOST, found)
    found.doubled += _look(ask, order, _DOUBLED, found)
    if log is not None:
        _look_at_history(ask, log, limits, found)
    return found


def _look(ask: Ask, order: str, questions: Mapping[str, str], found: Findings) -> int:
    number = 0
    for what, sql in questions.items():
        rows = ask(sql.replace("{order}", order))
        number += len(rows)
        if rows:
            found.wrongs = [*found.wrongs, f"{what}: {len(rows)}, such as {rows[0][0]}"]
    return number


def _look_at_damage(connection: sqlite3.Connection, found: Findings) -> None:
    lines = [line for (line,) in connection.execute("PRAGMA integrity_check")]
    if lines != ["ok"]:
        found.wrongs = [*found.wrongs, f"integrity_check: {lines[:3]}"]


def _look_at_history(ask: Ask, log: Path, limits: Mapping[str, int], found: Findings) -> None:
    events = history.read(log)
    check = history.Check(limits=dict(limits)).take(events)
    rows: dict[int, tuple[Any, ...]] = {
        row[0]: row for row in ask("SELECT id, status, claims FROM background_service_jobs")
    }
    gone = {event.job for event in events if event.kind == history.ACKED} - rows.keys()
    never_run = [job for job, status, _claims in rows.values() if status == "COMPLETED" and not check.invocations[job]]
    too_often = [job for job, _status, claims in rows.values() if check.invocations[job] > claims]
    found.events = len(events)
    found.lost += len(gone) + len(never_run)
    found.doubled += len(check.wrongs) + len(too_often)
    for what, jobs in (("acknowledged, but gone", gone), ("never run", never_run), ("run too often", too_often)):
        if jobs:
            found.wrongs = [*found.wrongs, f"{what}: {len(jobs)}, such as job {min(jobs)}"]
    found.wrongs = found.wrongs + check.wrongs[:5]
