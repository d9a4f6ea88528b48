"""Random sequences of what workers and operators do, each step compared with a small model of dicts.

A normal run is short. `SIDEWORK_EXAMPLES=2000 pytest tests/storage/test_state_machine.py` looks longer.
"""

from __future__ import annotations

import os
import tempfile
import uuid
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import hypothesis.strategies as st
import psycopg
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from tests.storage.crew import Hand, at, everything

from sidework.model.job import Claim, JobStatus, NewJob, Outcome
from sidework.storage.open import open_storage

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sidework.storage.contract import Storage, Turn

EXAMPLES = int(os.environ.get("SIDEWORK_EXAMPLES", "80"))
STEPS = 40

PENDING, SCHEDULED, RUNNING = JobStatus.PENDING, JobStatus.SCHEDULED, JobStatus.RUNNING
KEYS = ["a", "b", "nobody knows"]
KNOWN = frozenset({"a", "b"})
QUEUES = ["default", "limited"]
LIMIT = 2

delays = st.sampled_from([None, 0, 1, 5, 30])
keys = st.sampled_from(KEYS)
queues = st.sampled_from(QUEUES)
picks = st.integers(min_value=0, max_value=200)
priorities = st.integers(min_value=-1, max_value=2)
several = st.lists(picks, max_size=4)


@dataclass
class Row:
    """What the model knows of a job."""

    id: int
    key: str
    queue: str
    priority: int
    unique_key: str | None
    max_attempts: int
    status: JobStatus
    due: int | None
    attempts: int = 0
    crashes: int = 0
    claims: int = 0
    worker: int | None = None
    asked: bool = False

    def end(self, status: JobStatus) -> None:
        self.status, self.due, self.worker, self.asked = status, None, None, False

    @property
    def claim(self) -> Claim:
        return Claim(self.id, self.claims)

    @property
    def place(self) -> tuple[int, int]:
        return (-self.priority, self.id)


@dataclass
class Model:
    """The rules of the store over a dict, as plainly as they can be said."""

    rows: dict[int, Row] = field(default_factory=dict)
    paused: set[str] = field(default_factory=set)

    def holder(self, key: str, unique_key: str | None) -> Row | None:
        mine = (r for r in self.rows.values() if (r.key, r.unique_key) == (key, unique_key) and not r.status.ended)
        return next(mine, None) if unique_key is not None else None

    def settle(self, outcome: Outcome, due: int | None) -> bool:
        row = self.rows.get(outcome.claim.job_id)
        if row is None or row.status is not RUNNING or row.claims != outcome.claim.number:
            return False
        row.attempts, row.crashes = outcome.attempts, outcome.crashes
        row.status, row.due, row.worker = outcome.status, due, None
        row.asked = row.asked and not outcome.status.ended
        return True

    def cancel_asked(self) -> None:
        for row in self.rows.values():
            if row.asked and row.status in {PENDING, SCHEDULED}:
                row.end(JobStatus.CANCELLED)

    def promote(self, now: int) -> None:
        for row in self.rows.values():
            if row.status is SCHEDULED and row.due is not None and row.due <= now:
                row.status = PENDING

    def claim(self, worker: int, room: int, ahead: int) -> list[Row]:
        taken = []
        for queue in QUEUES:
            ready = self.ready(queue, suspect=False)
            running = sum(r.status is RUNNING and r.queue == queue for r in self.rows.values())
            here = min(room, max(LIMIT - running, 0)) if queue == "limited" else room
            further = 0 if queue == "limited" else ahead
            taken += ready[:here] + [r for r in ready[here : here + further] if r.max_attempts > 1]
        return self._hand_out(taken, worker)

    def claim_suspect(self, worker: int) -> list[Row]:
        return self._hand_out(self.suspects(but_by=None)[:1], worker)

    def suspects(self, *, but_by: int | None) -> list[Row]:
        """Return those that may be claimed, one a queue; what one worker runs itself takes no room from it."""
        running = sum(r.status is RUNNING and r.queue == "limited" and r.worker != but_by for r in self.rows.values())
        open_queues = [queue for queue in QUEUES if queue != "limited" or running < LIMIT]
        return [row for queue in open_queues for row in self.ready(queue, suspect=True)[:1]]

    def ready(self, queue: str, *, suspect: bool) -> list[Row]:
        if queue in self.paused:
            return []
        rows = (r for r in self.rows.values() if r.status is PENDING and r.queue == queue and r.key in KNOWN)
        return sorted((r for r in rows if (r.crashes > 0) is suspect), key=lambda row: row.place)

    def _hand_out(self, rows: Iterable[Row], worker: int) -> list[Row]:
        taken = sorted(rows, key=lambda row: row.place)
        for row in taken:
            row.status, row.worker, row.claims = RUNNING, worker, row.claims + 1
        return taken


class StoreAgainstModel(RuleBasedStateMachine):
    """The store does what the model does."""

    def __init__(self) -> None:
        super().__init__()
        self.storage = self.new_store()
        self.storage.migrate()
        self.model = Model()
        self.now = 0
        self.claims: list[Claim] = []
        self.hands: list[Hand] = []

    @initialize()
    def hire(self) -> None:
        self.hands = [Hand(self.storage, keys=KNOWN, limits={"limited": LIMIT}) for _ in range(2)]

    def teardown(self) -> None:
        for hand in self.hands:
            hand.seat.leave()
        self.storage.close()
        self.remove_store()

    def new_store(self) -> Storage:
        """Open a store in a database without tables."""
        raise NotImplementedError

    def remove_store(self) -> None:
        """Remove what `new_store` made."""
        raise NotImplementedError

    # what the application does

    @rule(
        key=keys,
        queue=queues,
        priority=priorities,
        delay=delays,
        unique=st.sampled_from([None, None, "u"]),
        once=st.booleans(),
    )
    def insert(self, key: str, queue: str, priority: int, delay: int | None, unique: str | None, once: bool) -> None:
        due = None if delay is None else self.now + delay
        attempts = 1 if once else 3
        new = NewJob(
            key=key,
            queue=queue,
            priority=priority,
            unique_key=unique,
            max_attempts=attempts,
            run_at=None if due is None else at(due),
        )
        (job_id,) = self.storage.insert([new], now=at(self.now))
        if (holder := self.model.holder(key, unique)) is not None:
            assert job_id == holder.id
            return
        assert job_id > max(self.model.rows, default=0)
        status = PENDING if due is None else SCHEDULED
        self.model.rows[job_id] = Row(job_id, key, queue, priority, unique, attempts, status, due)

    # what workers do

    @rule(seconds=st.sampled_from([1, 4, 29]))
    def let_time_pass(self, seconds: int) -> None:
        self.now += seconds

    @rule(who=picks, room=st.integers(min_value=0, max_value=4), ahead=st.integers(min_value=0, max_value=2))
    def claim(self, who: int, room: int, ahead: int) -> None:
        self._turn(who, [], room=room, ahead=ahead)

    @rule(who=picks)
    def claim_a_suspect(self, who: int) -> None:
        self._turn(who, [], suspect=True)

    @precondition(lambda self: self.claims)
    @rule(
        who=picks,
        endings=st.lists(
            st.tuples(picks, st.sampled_from(list(JobStatus)), st.booleans(), st.integers(0, 9)), min_size=1, max_size=4
        ),
        room=st.integers(min_value=0, max_value=2),
    )
    def settle(self, who: int, endings: list[tuple[int, JobStatus, bool, int]], room: int) -> None:
        """End attempts, those that lost their job long ago among them, in every way there is."""
        outcomes = {}
        for pick, status, crashed, delay in endings:
            claim = self.claims[-1 - pick % len(self.claims)]
            if status is not RUNNING:
                outcomes[claim] = self._outcome(claim, status, crashed=crashed, delay=delay)
        self._turn(who, list(outcomes.values()), room=room)

    def _outcome(self, claim: Claim, status: JobStatus, *, crashed: bool, delay: int) -> Outcome:
        row = self.model.rows.get(claim.job_id)
        attempts, crashes = (row.attempts, row.crashes) if row else (0, 0)
        return Outcome(
            claim=claim,
            status=status,
            attempts=attempts + (not crashed),
            crashes=crashes + crashed,
            run_at=at(self.now + delay) if status is SCHEDULED else None,
        )

    def _turn(self, who: int, outcomes: list[Outcome], *, room: int = 0, ahead: int = 0, suspect: bool = False) -> None:
        hand = self.hands[who % len(self.hands)]
        turn = hand.turn(*outcomes, time=self.now, room=room, ahead=dict.fromkeys(QUEUES, ahead), suspect=suspect)
        assert turn.refused == self._settle_in_model(outcomes)
        self.model.cancel_asked()
        self.model.promote(self.now)
        taken = self.model.claim_suspect(hand.id) if suspect else self.model.claim(hand.id, room, ahead)
        self._compare(turn, taken, hand)
        self.claims += [row.claim for row in taken]

    def _settle_in_model(self, outcomes: list[Outcome]) -> set[Claim]:
        def due(outcome: Outcome) -> int | None:
            return None if outcome.run_at is None else round((outcome.run_at - at(0)).total_seconds())

        return {each.claim for each in outcomes if not self.model.settle(each, due(each))}

    def _compare(self, turn: Turn, taken: list[Row], hand: Hand) -> None:
        rows = self.model.rows.values()
        assert [each.claim for each in turn.claimed] == [row.claim for row in taken]
        assert [(each.attempts, each.crashes) for each in turn.claimed] == [
            (row.attempts, row.crashes) for row in taken
        ]
        assert turn.cancel == {r.claim for r in rows if r.asked and r.worker == hand.id and r.status is RUNNING}
        due = [r.due for r in rows if r.status is SCHEDULED and r.due is not None]
        assert turn.next_due == (at(min(due)) if due else None)
        assert turn.suspects == bool(self.model.suspects(but_by=hand.id))

    @rule(who=picks)
    def die(self, who: int) -> None:
        """A worker goes and holds on to its jobs; a keeper brings them back under the claims of the dead."""
        dead = self.hands.pop(who % len(self.hands))
        dead.seat.leave()
        self.hands.append(Hand(self.storage, keys=KNOWN, limits={"limited": LIMIT}))
        lost = self.storage.lost(limit=1000)
        held = {r.claim: r.asked for r in self.model.rows.values() if r.status is RUNNING and r.worker == dead.id}
        assert {each.job.claim: each.cancel_requested for each in lost} == held
        self._turn(0, [self._outcome(each.job.claim, PENDING, crashed=True, delay=0) for each in lost])

    @rule(who=picks)
    def renew(self, who: int) -> None:
        hand = self.hands[who % len(self.hands)]
        renewal = self.storage.renew(hand.id, self.claims, now=at(self.now))
        held = {r.claim for r in self.model.rows.values() if r.status is RUNNING and r.worker == hand.id}
        assert renewal.lost == set(self.claims) - held
        assert list(renewal.stray) == []

    # what operators do

    def _some(self, chosen: list[int]) -> list[int]:
        there = sorted(self.model.rows)
        return sorted({there[pick % len(there)] for pick in chosen}) if there else []

    @rule(chosen=several)
    def cancel(self, chosen: list[int]) -> None:
        some = [self.model.rows[job_id] for job_id in self._some(chosen)]
        assert sorted(self.storage.cancel([row.id for row in some], now=at(self.now))) == [
            row.id for row in some if not row.status.ended
        ]
        for row in some:
            if row.status is RUNNING:
                row.asked = True
            elif not row.status.ended:
                row.end(JobStatus.CANCELLED)

    @rule(chosen=several)
    def retry(self, chosen: list[int]) -> None:
        changed: set[int] = set(self.storage.retry(self._some(chosen), now=at(self.now)))
        refused = set()
        for row in (self.model.rows[job_id] for job_id in self._some(chosen)):
            holder = self.model.holder(row.key, row.unique_key)
            if row.status not in {SCHEDULED, JobStatus.FAILED, JobStatus.CANCELLED} or (holder or row) is not row:
                refused.add(row.id)
                continue
            if row.status is not SCHEDULED:
                row.attempts = row.crashes = 0
            row.status, row.due = PENDING, None
        assert changed == set(self._some(chosen)) - refused

    @rule(chosen=several)
    def delete(self, chosen: list[int]) -> None:
        gone = self.storage.delete(self._some(chosen))
        assert sorted(gone) == [
            job_id for job_id in self._some(chosen) if self.model.rows[job_id].status is not RUNNING
        ]
        for job_id in gone:
            del self.model.rows[job_id]

    @rule(chosen=several, priority=priorities)
    def set_priority(self, chosen: list[int], priority: int) -> None:
        changed = self.storage.set_priority(self._some(chosen), priority, now=at(self.now))
        waiting = [i for i in self._some(chosen) if self.model.rows[i].status in {PENDING, SCHEDULED}]
        assert sorted(changed) == waiting
        for job_id in waiting:
            self.model.rows[job_id].priority = priority

    @rule(queue=queues)
    def pause(self, queue: str) -> None:
        self.storage.pause(queue, now=at(self.now))
        self.model.paused.add(queue)

    @rule(queue=queues)
    def resume(self, queue: str) -> None:
        self.storage.resume(queue, now=at(self.now))
        self.model.paused.discard(queue)

    # what always holds

    @invariant()
    def rows_are_as_in_the_model(self) -> None:
        stored = [
            (j.id, j.status, j.priority, j.attempts, j.crashes, j.worker, j.status is SCHEDULED and j.run_at)
            for j in everything(self.storage)
        ]
        expected = [
            (
                r.id,
                r.status,
                r.priority,
                r.attempts,
                r.crashes,
                r.worker,
                r.due is not None and r.status is SCHEDULED and at(r.due),
            )
            for _, r in sorted(self.model.rows.items())
        ]
        assert stored == expected

    @invariant()
    def limits_and_unique_keys_hold(self) -> None:
        jobs = everything(self.storage)
        assert sum(j.status is RUNNING and j.queue == "limited" for j in jobs) <= LIMIT
        held = [(j.key, j.unique_key) for j in jobs if j.unique_key is not None and not j.status.ended]
        assert len(held) == len(set(held))

    @invariant()
    def no_claim_was_given_twice(self) -> None:
        assert len(self.claims) == len(set(self.claims))


class SqliteAgainstModel(StoreAgainstModel):
    """The store on a SQLite file."""

    def new_store(self) -> Storage:
        self.folder = tempfile.TemporaryDirectory()
        return open_storage(Path(self.folder.name) / "app.db", durability="relaxed")

    def remove_store(self) -> None:
        self.folder.cleanup()


HOW = settings(
    max_examples=EXAMPLES,
    stateful_step_count=STEPS,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)

TestSqliteAgainstModel = SqliteAgainstModel.TestCase
TestSqliteAgainstModel.settings = HOW


class PostgresAgainstModel(StoreAgainstModel):
    """The store in a schema that is new for each example: a database each would take a tenth of a second."""

    database: ClassVar[str]

    def new_store(self) -> Storage:
        self.schema = f"s{uuid.uuid4().hex}"
        with closing(psycopg.connect(self.database, autocommit=True)) as connection:
            connection.execute(f"CREATE SCHEMA {self.schema}")
        self.url = f"{self.database}?options=-csearch_path%3D{self.schema}"
        return open_storage(self.url, durability="relaxed")

    def remove_store(self) -> None:
        with closing(psycopg.connect(self.database, autocommit=True)) as connection:
            connection.execute(f"DROP SCHEMA {self.schema} CASCADE")


def test_the_postgres_store_does_what_the_model_does(postgres_database: str) -> None:
    class OnThisDatabase(PostgresAgainstModel):
        database = postgres_database

    run_state_machine_as_test(OnThisDatabase, settings=settings(HOW, max_examples=max(EXAMPLES // 2, 1)))
