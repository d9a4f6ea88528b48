"""One turn of a worker, inside one transaction that is sent as a whole: settle, cancel, promote, claim."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sidework.errors import WorkerLost
from sidework.model.job import Claim
from sidework.storage.contract import Turn
from sidework.storage.postgres import rows
from sidework.storage.postgres.volley import Volley

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from psycopg import Connection

    from sidework.model.job import ClaimedJob, Outcome
    from sidework.storage.contract import Want
    from sidework.storage.postgres.session import Session, Step

_SETTINGS: Final = "settings_of_turns"


class Turning:
    """The steps of a turn. Holds no state but the statements, and which connections know them."""

    def __init__(self, session: Session) -> None:
        """Take how statements are run."""
        self._session = session
        self._volley = Volley(session, settings=_SETTINGS)

    def take(
        self, connection: Connection[Any], worker: int, settle: Sequence[Outcome], want: Want, now: datetime
    ) -> Turn:
        """Do the turn as one transaction. All of it is sent before the first answer is looked at.

        Raises psycopg's DivisionByZero, with nothing done, for a worker that has no row.
        """
        moment = {"now": rows.to_moment(now)}
        place = _place(want)
        steps: list[Step] = [("settle", rows.outcomes(_in_order(settle), now))] if settle else []
        steps.append(("cancel_and_promote", moment))
        steps += _claim(worker, want, moment)
        steps.append(("news", {"worker": worker, **place}))
        found = self._carry_out(connection, steps)
        ((due, suspects, cancel, _),) = found["news"]
        return Turn(
            refused=_refused(settle, found.get("settle", ())),
            claimed=_claimed(found.get("claim") or found.get("claim_suspect") or []),
            cancel=frozenset(Claim(job_id, number) for job_id, number in cancel or ()),
            next_due=rows.maybe_utc(due),
            suspects=suspects,
        )

    def settle_one(self, connection: Connection[Any], worker: int, outcome: Outcome, now: datetime) -> bool:
        """Write one outcome in a transaction of its own; False: its claim no longer holds the job."""
        steps = [("has_seat", {"worker": worker}), ("settle", rows.outcomes([outcome], now))]
        return bool(self._carry_out(connection, steps)["settle"])

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

    def _carry_out(self, connection: Connection[Any], steps: Sequence[Step]) -> dict[str, list[tuple[Any, ...]]]:
        if self._volley.fits(connection):
            return self._volley.fire(connection, steps)
        return self._session.piped(connection, (_SETTINGS, {**self._session.settings, "local": True}), steps)


def _claim(worker: int, want: Want, moment: Mapping[str, object]) -> list[Step]:
    if not want.keys:
        return []
    lock: Step = ("lock_queues", {"queues": _queues(want)})
    if want.suspect:
        return [lock, ("claim_suspect", {"worker": worker, **moment, **_place(want)})]
    if want.room <= 0 and not any(want.rooms.values()) and not any(want.ahead.values()):
        return []
    named = sorted({*want.rooms, *want.ahead})
    rooms: Mapping[str, object] = {
        "room": max(want.room, 0),
        "rooms_of": named,
        "rooms": [want.rooms.get(queue, want.room) for queue in named],
        "aheads": [want.ahead.get(queue, 0) for queue in named],
    }
    return [lock, ("claim", {"worker": worker, **moment, **_place(want), **rooms})]


def _place(want: Want) -> dict[str, object]:
    return {"keys": sorted(want.keys), "queues": _queues(want)}


def _queues(want: Want) -> list[str] | None:
    return None if want.queues is None else list(want.queues)


def _in_order(settle: Sequence[Outcome]) -> list[Outcome]:
    """Return outcomes by the ids of their jobs: two who settle the same ones then meet without a deadlock."""
    return sorted(settle, key=lambda outcome: outcome.claim.job_id)


def _refused(settle: Sequence[Outcome], settled: Sequence[tuple[int, int]]) -> frozenset[Claim]:
    written = {Claim(job_id, number) for job_id, number in settled}
    return frozenset(outcome.claim for outcome in settle) - written


def _claimed(found: list[tuple[Any, ...]]) -> list[ClaimedJob]:
    found.sort(key=lambda row: (-row[5], row[0]))  # RETURNING gives rows in no particular order
    return [rows.claimed_job(row) for row in found]
