"""F17: whatever workers and operators do meanwhile, an old thread that goes on commits only if it still holds its job.

The state machine of the storage tests, with handlers that were left running: each has the transaction of its claim, and
tries to write and to commit at some later time, after retries, snoozes, releases and deaths.
"""

from __future__ import annotations

import os
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import hypothesis.strategies as st
import psycopg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import initialize, invariant, precondition, rule, run_state_machine_as_test
from tests.storage.crew import at
from tests.storage.test_state_machine import (
    RUNNING,
    PostgresAgainstModel,
    SqliteAgainstModel,
    StoreAgainstModel,
    picks,
)

from sidework.errors import JobLost
from sidework.model.job import Claim, JobStatus

if TYPE_CHECKING:
    from sidework.storage.contract import JobTransaction

EXAMPLES = int(os.environ.get("SIDEWORK_EXAMPLES", "30"))


class LateCommits(StoreAgainstModel):
    """The store does what the model does, and old threads change nothing."""

    write: ClassVar[str]

    def __init__(self) -> None:
        super().__init__()
        self.threads: list[tuple[Claim, JobTransaction]] = []
        self.effects = Counter[int]()

    def sql(self, statement: str) -> list[tuple[Any, ...]]:
        """Run a statement on a connection of its own."""
        raise NotImplementedError

    @initialize()
    def make_a_table(self) -> None:
        self.sql("CREATE TABLE effects (job INTEGER)")

    @precondition(lambda self: self.claims)
    @rule(pick=picks)
    def leave_a_handler_running(self, pick: int) -> None:
        claim = self.claims[-1 - pick % len(self.claims)]
        self.threads.append((claim, self.storage.transaction(claim)))

    @precondition(lambda self: self.threads)
    @rule(pick=picks, end=st.sampled_from(["commit", "commit", "raise", "abort"]))
    def an_old_handler_goes_on(self, pick: int, end: str) -> None:
        claim, transaction = self.threads.pop(pick % len(self.threads))
        holds = self._holds(claim)
        try:
            transaction.connection.execute(self.write, (claim.job_id,))
            assert holds, f"{claim} was superseded and could write"
            if end == "commit":
                self._commit(claim, transaction)
            elif end == "abort":
                transaction.abort()
        except JobLost:
            assert not holds, f"{claim} holds its job and was refused"
        finally:
            transaction.close()

    @precondition(lambda self: self.threads)
    @rule(pick=picks)
    def an_old_handler_returns_without_a_write(self, pick: int) -> None:
        claim, transaction = self.threads.pop(pick % len(self.threads))
        holds = self._holds(claim)
        outcome = self._outcome(claim, JobStatus.COMPLETED, crashed=False, delay=0)
        assert transaction.commit(outcome, now=at(self.now)) is holds
        assert self.model.settle(outcome, None) is holds

    def _commit(self, claim: Claim, transaction: JobTransaction) -> None:
        outcome = self._outcome(claim, JobStatus.COMPLETED, crashed=False, delay=0)
        assert transaction.commit(outcome, now=at(self.now))
        assert self.model.settle(outcome, None)
        self.effects[claim.job_id] += 1

    def _holds(self, claim: Claim) -> bool:
        row = self.model.rows.get(claim.job_id)
        return row is not None and row.status is RUNNING and row.claims == claim.number

    @invariant()
    def each_effect_is_there_once(self) -> None:
        found = Counter(job for (job,) in self.sql("SELECT job FROM effects"))
        assert found == self.effects
        assert max(found.values(), default=1) == 1


class LateCommitsOnSqlite(LateCommits, SqliteAgainstModel):
    """On a SQLite file."""

    write = "INSERT INTO effects VALUES (?)"

    def sql(self, statement: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(Path(self.folder.name) / "app.db")) as connection:
            return connection.execute(statement).fetchall()


class LateCommitsOnPostgres(LateCommits, PostgresAgainstModel):
    """On PostgreSQL."""

    write = "INSERT INTO effects VALUES (%s)"

    def sql(self, statement: str) -> list[tuple[Any, ...]]:
        with closing(psycopg.connect(self.url, autocommit=True)) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []


HOW = settings(
    max_examples=EXAMPLES,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)

TestLateCommits = LateCommitsOnSqlite.TestCase
TestLateCommits.settings = HOW


def test_late_commits_on_postgres(postgres_database: str):
    class OnThisDatabase(LateCommitsOnPostgres):
        database = postgres_database

    run_state_machine_as_test(OnThisDatabase, settings=HOW)


def test_the_machine_notices_a_store_without_a_fence(monkeypatch: pytest.MonkeyPatch):
    """The control, as the shortest such story: snoozed, claimed again, and the old thread goes on."""
    from sidework.storage.sqlite import pool

    monkeypatch.setitem(pool.SQL, "fence", "SELECT ? OR ?")
    state = LateCommitsOnSqlite()
    state.hire()
    state.make_a_table()
    try:
        state.insert("a", "default", 0, None, None, once=False)
        state.claim(0, 1, 0)
        state.leave_a_handler_running(0)
        state.settle(0, [(0, JobStatus.SCHEDULED, False, 0)], room=1)
        with pytest.raises(AssertionError, match="was superseded and could write"):
            state.an_old_handler_goes_on(0, "commit")
    finally:
        state.teardown()
