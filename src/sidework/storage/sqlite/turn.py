"""One turn of a worker, inside one transaction: settle, cancel, promote, claim.

`Turning` is the turn as steps over a connection; the store decides in which transaction they run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sidework.errors import WorkerLost
from sidework.model.job import Claim
from sidework.storage.contract import Turn
from sidework.storage.sqlite import rows

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from datetime import datetime

    from sidework.model.job import ClaimedJob, Outcome
    from sidework.storage.contract import Want


class Turning:
    """The steps of a turn. Holds no state but the statements."""

    def __init__(self, sql: Mapping[str, str]) -> None:
        """Take the statements of queries.sql."""
        self._sql = sql

    def has_work(self, connection: sqlite3.Connection, want: Want, now: str) -> bool:
        """Whether a turn would change anything. Reads only, so that an idle worker takes no lock."""
        if (due := self._next_due(connection)) is not None and due <= now:
            return True
        if self._one(connection, "any_cancellation"):
            return True
        if want.suspect:
            return any(True for _queue in self._suspect_queues(connection, want))
        keys = rows.to_json(sorted(want.keys))
        return any(
            self._one(connection, "has_ready", queue=queue, keys=keys)
            for queue, _room, _ahead in self._rooms(connection, want)
        )

    def any_ready(self, connection: sqlite3.Connection, want: Want) -> bool:
        """Whether a job is ready, be there room for it or not. Those of paused queues do not count."""
        keys = rows.to_json(sorted(want.keys))
        return any(
            self._one(connection, has_one, queue=queue, keys=keys)
            for queues, has_one in (("ready_queues", "has_ready"), ("suspect_queues", "has_suspect"))
            for queue in self._open_queues(connection, want, queues)
        )

    def take(
        self, connection: sqlite3.Connection, worker: int, settle: Sequence[Outcome], want: Want, now: datetime
    ) -> Turn:
        """Do the turn in the open transaction."""
        now_text = rows.to_text(now)
        self.check_worker(connection, worker)
        refused = self.settle(connection, settle, now_text)
        self._cancel_what_was_asked_for(connection, now_text)
        self._promote(connection, now_text)
        claimed = self._claim(connection, worker, want, now_text)
        return self.look(connection, worker, want, refused=refused, claimed=claimed)

    def look(
        self,
        connection: sqlite3.Connection,
        worker: int,
        want: Want,
        *,
        refused: frozenset[Claim] = frozenset(),
        claimed: Sequence[ClaimedJob] = (),
    ) -> Turn:
        """Read what a worker is to know at the end of a turn."""
        due = self._next_due(connection)
        return Turn(
            refused=refused,
            claimed=claimed,
            cancel=self._cancellations(connection, worker),
            next_due=rows.maybe_from_text(due),
            suspects=any(True for _queue in self._suspect_queues(connection, want, claimant=worker)),
        )

    def check_worker(self, connection: sqlite3.Connection, worker: int) -> None:
        """Raise WorkerLost unless the worker's row is there."""
        if not self._one(connection, "worker_exists", worker=worker):
            raise WorkerLost(
                f"worker {worker} is not in the database any more: somebody took it for dead or deleted its row"
            )

    def settle(self, connection: sqlite3.Connection, outcomes: Sequence[Outcome], now: str) -> frozenset[Claim]:
        """Write the outcomes whose claims still hold their jobs; return the claims that do not."""
        if not outcomes:
            return frozenset()
        settled = connection.execute(
            self._sql["settle"], {"outcomes": rows.outcomes_json(outcomes), "now": now}
        ).fetchall()
        if len(settled) == len(outcomes):
            return frozenset()
        return frozenset(o.claim for o in outcomes) - {Claim(job_id, number) for job_id, number in settled}

    def _cancel_what_was_asked_for(self, connection: sqlite3.Connection, now: str) -> None:
        if self._one(connection, "any_cancellation"):
            connection.execute(self._sql["cancel_what_was_asked_for"], {"now": now})
            connection.execute(self._sql["forget_cancellations"])

    def _promote(self, connection: sqlite3.Connection, now: str) -> None:
        if (due := self._next_due(connection)) is not None and due <= now:
            connection.execute(self._sql["promote"], {"now": now})

    def _claim(self, connection: sqlite3.Connection, worker: int, want: Want, now: str) -> list[ClaimedJob]:
        if want.suspect:
            return self._claim_suspect(connection, worker, want, now)
        base = {"worker": worker, "now": now, "keys": rows.to_json(sorted(want.keys))}
        found: list[rows.Row] = []
        for queue, room, ahead in self._rooms(connection, want):
            for size, in_advance in ((room, 0), (ahead, 1)):
                if size > 0:
                    parameters = {**base, "queue": queue, "room": size, "ahead": in_advance}
                    found += connection.execute(self._sql["claim"], parameters).fetchall()
        return self._in_order(found)

    def _claim_suspect(self, connection: sqlite3.Connection, worker: int, want: Want, now: str) -> list[ClaimedJob]:
        base = {"worker": worker, "now": now, "keys": rows.to_json(sorted(want.keys))}
        for queue in self._suspect_queues(connection, want):
            if found := connection.execute(self._sql["claim_suspect"], {**base, "queue": queue}).fetchall():
                return self._in_order(found)
        return []

    @staticmethod
    def _in_order(found: list[rows.Row]) -> list[ClaimedJob]:
        # RETURNING gives rows in no particular order.
        found.sort(key=lambda row: (-row[5], row[0]))
        return [rows.claimed_job(row) for row in found]

    def _rooms(self, connection: sqlite3.Connection, want: Want) -> Iterator[tuple[str, int, int]]:
        """Yield each queue that may be claimed from, with its room and how many more may be taken in advance."""
        if not want.keys or (want.room <= 0 and not any(want.rooms.values()) and not any(want.ahead.values())):
            return
        limits = self._limits(connection)
        for queue in self._open_queues(connection, want, "ready_queues"):
            room, ahead = max(want.rooms.get(queue, want.room), 0), want.ahead.get(queue, 0)
            if queue in limits:
                room, ahead = min(room, limits[queue] - self._running(connection, queue)), 0
            if room > 0 or ahead > 0:
                yield queue, room, ahead

    def _open_queues(self, connection: sqlite3.Connection, want: Want, statement: str) -> Iterable[str]:
        paused = {name for name, paused, _limit in self._settings(connection) if paused}
        there = {name for (name,) in connection.execute(self._sql[statement])}
        wanted = there if want.queues is None else there & set(want.queues)
        return sorted(wanted - paused)

    def _limits(self, connection: sqlite3.Connection) -> dict[str, int]:
        return {name: limit for name, _paused, limit in self._settings(connection) if limit is not None}

    def _settings(self, connection: sqlite3.Connection) -> list[tuple[str, int, int | None]]:
        return connection.execute(self._sql["queue_settings"]).fetchall()

    def _running(self, connection: sqlite3.Connection, queue: str, *, but_by: int | None = None) -> int:
        number: int = self._one(connection, "running_in_queue", queue=queue, but_by=but_by)
        return number

    def _suspect_queues(
        self, connection: sqlite3.Connection, want: Want, *, claimant: int | None = None
    ) -> Iterator[str]:
        """Yield each queue that has a suspect and room for it. What the claimant itself runs ends before it claims."""
        limits = self._limits(connection)
        keys = rows.to_json(sorted(want.keys))
        for queue in self._open_queues(connection, want, "suspect_queues"):
            full = queue in limits and self._running(connection, queue, but_by=claimant) >= limits[queue]
            if not full and self._one(connection, "has_suspect", queue=queue, keys=keys):
                yield queue

    def _cancellations(self, connection: sqlite3.Connection, worker: int) -> frozenset[Claim]:
        if not self._one(connection, "any_cancellation"):
            return frozenset()
        asked = connection.execute(self._sql["cancellations_of_worker"], {"worker": worker})
        return frozenset(Claim(job_id, number) for job_id, number in asked)

    def _next_due(self, connection: sqlite3.Connection) -> str | None:
        due: str | None = self._one(connection, "next_due")
        return due

    def _one(self, connection: sqlite3.Connection, statement: str, **parameters: object) -> Any:
        return connection.execute(self._sql[statement], parameters).fetchone()[0]
