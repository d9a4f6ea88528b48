"""One turn of a worker, inside one transaction and one pipeline: settle, cancel, promote, claim."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sidework.errors import WorkerLost
from sidework.model.job import Claim
from sidework.storage.contract import Turn
from sidework.storage.postgres import rows
from sidework.storage.postgres.session import WRITE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from psycopg import Connection, Cursor

    from sidework.model.job import ClaimedJob, Outcome
    from sidework.storage.contract import Want
    from sidework.storage.postgres.session import Session


class Turning:
    """The steps of a turn. Holds no state but the statements."""

    def __init__(self, session: Session) -> None:
        """Take how statements are run."""
        self._session = session

    def take(
        self, connection: Connection[Any], worker: int, settle: Sequence[Outcome], want: Want, now: datetime
    ) -> Turn:
        """Do the turn as one transaction. All of it is sent before the first answer is looked at.

        Raises psycopg's DivisionByZero, with nothing done, for a worker that has no row.
        """
        moment = {"now": rows.to_moment(now)}
        with connection.pipeline():
            self._begin(connection, worker)
            settled = self._send(connection, "settle", rows.outcomes(_in_order(settle), now)) if settle else None
            self._send(connection, "cancel_what_was_asked_for", moment)
            self._send(connection, "forget_cancellations", None)
            self._send(connection, "promote", moment)
            claimed = self._claim(connection, worker, want, moment)
            news = self._send(connection, "news", {"worker": worker} | _place(want))
            connection.execute("COMMIT")
        ((due, suspects, cancel),) = news.fetchall()
        return Turn(
            refused=_refused(settle, settled),
            claimed=_claimed(claimed),
            cancel=frozenset(Claim(job_id, number) for job_id, number in cancel or ()),
            next_due=rows.maybe_utc(due),
            suspects=suspects,
        )

    def settle_one(self, connection: Connection[Any], worker: int, outcome: Outcome, now: datetime) -> bool:
        """Write one outcome in a transaction of its own; False: its claim no longer holds the job."""
        with connection.pipeline():
            self._begin(connection, worker)
            settled = self._send(connection, "settle", rows.outcomes([outcome], now))
            connection.execute("COMMIT")
        return bool(settled.fetchall())

    def check_worker(self, connection: Connection[Any], worker: int) -> None:
        """Raise WorkerLost unless the worker's row is there and its lease lasts."""
        if not self._session.one(connection, "worker_exists", {"worker": worker}):
            raise WorkerLost(
                f"worker {worker} has no seat any more: its lease is over, or somebody deleted its row",
                may_rejoin=True,
            )

    def any_ready(self, connection: Connection[Any], want: Want) -> bool:
        """Whether a job is ready, be there room for it or not. Those of paused queues do not count."""
        return bool(self._session.one(connection, "has_ready", _place(want)))

    def _begin(self, connection: Connection[Any], worker: int) -> None:
        connection.execute(WRITE)
        self._send(connection, "begin_turn", {**self._session.settings, "worker": worker})

    def _claim(
        self, connection: Connection[Any], worker: int, want: Want, moment: Mapping[str, object]
    ) -> Cursor[Any] | None:
        if not want.keys:
            return None
        if want.suspect:
            self._send(connection, "lock_queues", {"queues": _queues(want)})
            return self._send(connection, "claim_suspect", {"worker": worker, **moment, **_place(want)})
        if want.room <= 0 and not any(want.rooms.values()) and not any(want.ahead.values()):
            return None
        self._send(connection, "lock_queues", {"queues": _queues(want)})
        named = sorted({*want.rooms, *want.ahead})
        rooms: Mapping[str, object] = {
            "room": max(want.room, 0),
            "rooms_of": named,
            "rooms": [want.rooms.get(queue, want.room) for queue in named],
            "aheads": [want.ahead.get(queue, 0) for queue in named],
        }
        return self._send(connection, "claim", {"worker": worker, **moment, **_place(want), **rooms})

    def _send(
        self, connection: Connection[Any], statement: str, parameters: Mapping[str, object] | None
    ) -> Cursor[Any]:
        return self._session.send(connection, statement, parameters)


def _place(want: Want) -> dict[str, object]:
    return {"keys": sorted(want.keys), "queues": _queues(want)}


def _queues(want: Want) -> list[str] | None:
    return None if want.queues is None else list(want.queues)


def _in_order(settle: Sequence[Outcome]) -> list[Outcome]:
    """Return outcomes by the ids of their jobs: two who settle the same ones then meet without a deadlock."""
    return sorted(settle, key=lambda outcome: outcome.claim.job_id)


def _refused(settle: Sequence[Outcome], settled: Cursor[Any] | None) -> frozenset[Claim]:
    if settled is None:
        return frozenset()
    written = {Claim(job_id, number) for job_id, number in settled.fetchall()}
    return frozenset(outcome.claim for outcome in settle) - written


def _claimed(claimed: Cursor[Any] | None) -> list[ClaimedJob]:
    if claimed is None:
        return []
    found = claimed.fetchall()
    found.sort(key=lambda row: (-row[5], row[0]))  # RETURNING gives rows in no particular order
    return [rows.claimed_job(row) for row in found]
