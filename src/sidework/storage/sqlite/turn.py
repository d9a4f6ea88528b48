"""One turn of a worker, inside one transaction: settle, cancel, promote, claim.

`Turning` is the turn as steps over a connection; the store decides in which transaction they run.
"""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Any

from sidework.errors import WorkerLost
from sidework.model.job import Claim
from sidework.storage.contract import Turn
from sidework.storage.sqlite import rows
from sidework.storage.sqlite.moved import words_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
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
        standing = self._standing(connection)
        if standing.has_due(now) or standing.cancellations:
            return True
        queues = self._open_queues(connection, want)
        keys = _keys(want)
        if want.suspect:
            return any(True for _queue in self._with_a_suspect(connection, queues, keys))
        return any(
            self._one(connection, "has_ready", queue=queue.name, keys=keys)
            if room > 0
            else self._one(connection, "has_ready_ahead", queue=queue.name, keys=keys, room=ahead)
            for queue, room, ahead in self._rooms(connection, queues, want)
        )

    def any_ready(self, connection: sqlite3.Connection, want: Want) -> bool:
        """Whether a job is ready, be there room for it or not. Those of paused queues do not count."""
        keys = _keys(want)
        return any(
            (queue.ready and self._one(connection, "has_ready", queue=queue.name, keys=keys))
            or (queue.suspects and self._one(connection, "has_suspect", queue=queue.name, keys=keys))
            for queue in self._open_queues(connection, want)
        )

    def take(
        self, connection: sqlite3.Connection, worker: int, settle: Sequence[Outcome], want: Want, now: datetime
    ) -> Turn:
        """Do the turn in the open transaction."""
        now_text = rows.to_text(now)
        refused = self.settle(connection, settle, now_text)
        standing = self._standing(connection, worker)
        if standing.cancellations:
            self._cancel_what_was_asked_for(connection, now_text)
            standing = self._standing(connection, worker)
        if standing.has_due(now_text):
            connection.execute(self._sql["promote"], {"now": now_text})
            standing = self._standing(connection, worker)
        queues = self._open_queues(connection, want)
        claimed = self._claim(connection, queues, worker, want, now_text)
        return Turn(refused=refused, claimed=claimed, **self._news(connection, standing, queues, worker, want))

    def look(self, connection: sqlite3.Connection, worker: int, want: Want) -> Turn:
        """Read what a worker is to know, where there is nothing to write."""
        standing = self._standing(connection, worker)
        return Turn(**self._news(connection, standing, self._open_queues(connection, want), worker, want))

    def check_worker(self, connection: sqlite3.Connection, worker: int) -> None:
        """Raise WorkerLost unless the worker's row is there."""
        self._standing(connection, worker)

    def settle(self, connection: sqlite3.Connection, outcomes: Sequence[Outcome], now: str) -> frozenset[Claim]:
        """Write the outcomes whose claims still hold their jobs; return the claims that do not."""
        if not outcomes:
            return frozenset()
        claims = rows.claims_json(outcomes)
        refused = connection.execute(self._sql["refused"], {"claims": claims}).fetchall()
        if self._write(connection, outcomes, now) < len(outcomes) - len(refused):  # a trigger passed over some
            refused += connection.execute(self._sql["passed_over"], {"claims": claims}).fetchall()
        return frozenset(Claim(int(job_id), number) for job_id, number in refused)

    def _write(self, connection: sqlite3.Connection, outcomes: Sequence[Outcome], now: str) -> int:
        """Write outcomes, and return how many were written."""
        alike, peculiar = rows.alike_and_peculiar(outcomes)
        written = 0
        for (status, attempts, crashes), some in alike.items():
            what = {"status": status, "attempts": attempts, "crashes": crashes, "ended": status.ended, "now": now}
            parameters = {"claims": rows.claims_json(some), **what}
            written += connection.execute(self._sql["settle_alike"], parameters).rowcount
        if peculiar:
            parameters = {"outcomes": rows.outcomes_json(peculiar), "now": now}
            written += connection.execute(self._sql["settle"], parameters).rowcount
        return written

    def _cancel_what_was_asked_for(self, connection: sqlite3.Connection, now: str) -> None:
        connection.execute(self._sql["cancel_what_was_asked_for"], {"now": now})
        connection.execute(self._sql["forget_cancellations"])

    def _claim(
        self, connection: sqlite3.Connection, queues: Sequence[rows.OpenQueue], worker: int, want: Want, now: str
    ) -> list[ClaimedJob]:
        if want.suspect:
            return self._claim_suspect(connection, queues, worker, want, now)
        keys = _keys(want)
        found: list[ClaimedJob] = []
        for number, (queue, room, ahead) in enumerate(self._rooms(connection, queues, want)):
            for size, in_advance in ((room, 0), (ahead, 1)):
                if size > 0:
                    wanted = {"keys": keys, "queue": queue.name, "room": size, "ahead": in_advance}
                    found += self._claim_of(connection, "ready_jobs", wanted, worker, now)
            if number:  # the jobs of one queue are in order as they come
                found.sort(key=lambda job: (-job.priority, job.id))
        return found

    def _claim_suspect(
        self, connection: sqlite3.Connection, queues: Sequence[rows.OpenQueue], worker: int, want: Want, now: str
    ) -> list[ClaimedJob]:
        keys = _keys(want)
        for queue in self._with_a_suspect(connection, queues, keys):
            if found := self._claim_of(
                connection, "suspect_jobs", {"keys": keys, "queue": queue.name, "room": 1}, worker, now
            ):
                return found
        return []

    def _claim_of(
        self, connection: sqlite3.Connection, statement: str, wanted: Mapping[str, Any], worker: int, now: str
    ) -> list[ClaimedJob]:
        try:
            [(jobs, ids)] = connection.execute(self._sql[statement], wanted).fetchall()
        except sqlite3.DataError:  # together they are longer than the longest text that SQLite can make
            if wanted["room"] <= 1:
                raise
            return self._claim_of(connection, statement, {**wanted, "room": wanted["room"] // 2}, worker, now)
        found = rows.claimed_jobs(jobs)
        if found:
            claimed = connection.execute(self._sql["claim"], {"worker": worker, "now": now, "ids": ids})
            if claimed.rowcount != len(found):  # a trigger passed over some: that of a move, or a stranger's
                rows_held = connection.execute(self._sql["held_of"], {"worker": worker, "ids": ids})
                held = {job_id for (job_id,) in rows_held}
                found = [job for job in found if job.id in held]
        return found

    def _news(
        self,
        connection: sqlite3.Connection,
        standing: rows.Standing,
        queues: Sequence[rows.OpenQueue],
        worker: int,
        want: Want,
    ) -> dict[str, Any]:
        suspects = self._with_a_suspect(connection, queues, _keys(want), claimant=worker)
        return {
            "cancel": self._cancellations(connection, worker) if standing.cancellations else frozenset(),
            "next_due": rows.maybe_from_text(standing.next_due),
            "suspects": any(True for _queue in suspects),
        }

    def _rooms(
        self, connection: sqlite3.Connection, queues: Sequence[rows.OpenQueue], want: Want
    ) -> Iterator[tuple[rows.OpenQueue, int, int]]:
        """Yield each queue that may be claimed from, with its room and how many more may be taken in advance.

        A place of a limited queue is kept for a suspect that this worker could run: others would always be quicker.
        """
        if not want.keys:
            return
        for queue in queues:
            room, ahead = max(want.rooms.get(queue.name, want.room), 0), want.ahead.get(queue.name, 0)
            if queue.limit is not None:
                kept = queue.suspects and self._one(connection, "has_suspect", queue=queue.name, keys=_keys(want))
                room, ahead = min(room, queue.limit - self._running(connection, queue.name) - bool(kept)), 0
            if queue.ready and (room > 0 or ahead > 0):
                yield queue, room, ahead

    def _with_a_suspect(
        self,
        connection: sqlite3.Connection,
        queues: Sequence[rows.OpenQueue],
        keys: str,
        *,
        claimant: int | None = None,
    ) -> Iterator[rows.OpenQueue]:
        """Yield each queue that has a suspect and room for it. What the claimant itself runs ends before it claims."""
        for queue in queues:
            if not queue.suspects:
                continue
            full = queue.limit is not None and self._running(connection, queue.name, but_by=claimant) >= queue.limit
            if not full and self._one(connection, "has_suspect", queue=queue.name, keys=keys):
                yield queue

    def _open_queues(self, connection: sqlite3.Connection, want: Want) -> list[rows.OpenQueue]:
        """Return the queues that are wanted, have something to claim and are not paused, by name."""
        there = [rows.OpenQueue(*row) for row in connection.execute(self._sql["open_queues"]).fetchall()]
        return [queue for queue in there if want.queues is None or queue.name in want.queues]

    def _running(self, connection: sqlite3.Connection, queue: str, *, but_by: int | None = None) -> int:
        number: int = self._one(connection, "running_in_queue", queue=queue, but_by=but_by)
        return number

    def _cancellations(self, connection: sqlite3.Connection, worker: int) -> frozenset[Claim]:
        asked = connection.execute(self._sql["cancellations_of_worker"], {"worker": worker})
        return frozenset(Claim(job_id, number) for job_id, number in asked)

    def _standing(self, connection: sqlite3.Connection, worker: int | None = None) -> rows.Standing:
        """Return what every turn asks. Raises WorkerLost if the row of the worker who asks is gone."""
        standing = rows.Standing(*connection.execute(self._sql["standing"], {"worker": worker}).fetchone())
        if worker is not None and not standing.seated:
            why = words_of(connection) or "somebody took it for dead or deleted its row"
            raise WorkerLost(f"worker {worker} is not in the database any more: {why}")
        return standing

    def _one(self, connection: sqlite3.Connection, statement: str, **parameters: object) -> Any:
        return connection.execute(self._sql[statement], parameters).fetchone()[0]


def _keys(want: Want) -> str:
    return rows.to_json(sorted(want.keys))
