"""Moves the jobs of one database to another: nothing lost, nothing doubled, whatever breaks off when.

At every moment the jobs can be worked on in one place at most. First the old place lets nothing be claimed and waits
until its workers have finished; then it closes itself, in the transaction that sees that nobody runs a job. From then
on nothing changes there, so what is copied is whole. It arrives in one transaction or not at all, and only then does
the old place say for good that it was moved. Each step can be repeated, so the way on from any break is to do it again.
"""

from __future__ import annotations

import socket
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Final

import msgspec

from sidework.clock import Clock, SystemClock
from sidework.errors import CannotMove, SideworkError
from sidework.model.job import WorkerInfo
from sidework.storage.manifest import TABLES, Check, Contents, Misfit, Packer, Table
from sidework.storage.open import open_arrival, open_departure
from sidework.storage.transfer import Arrived, Mark, Stage

if TYPE_CHECKING:
    from pathlib import Path

    from sidework.storage.transfer import Arrival, Departure

GRACE: Final = 60.0
"""Seconds for the jobs that run to end."""
LEASE: Final = timedelta(seconds=10)
"""For so long nothing is claimed after the last sign of life of the mover."""
LAST_WORDS: Final = 0.6
"""Seconds that living workers have for the last reports of jobs that have ended; they send them at once."""
_LOOK_EVERY: Final = 0.1


class Step(StrEnum):
    """What is being done."""

    CHECKING = "checking"
    DRAINING = "draining"
    COPYING = "copying"


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far it is: rows while checking and copying, jobs that still run while draining."""

    step: Step
    done: int
    total: int


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What a move would do, and what keeps it from being done."""

    source: str
    target: str
    stage: Stage | None
    """How far it has come already."""
    contents: Contents
    workers: Sequence[WorkerInfo]
    """Those that live. Their jobs are waited for, then they are stopped."""
    left_behind: Sequence[str]
    """What others attached to the tables of jobs."""
    in_the_way: Sequence[str]

    @property
    def jobs(self) -> int:
        """How many jobs there are."""
        return self.contents.rows["jobs"]

    @property
    def orphans(self) -> int:
        """How many jobs are RUNNING though their worker is dead."""
        return self.contents.statuses.get("RUNNING", 0) - sum(worker.running for worker in self.workers)

    @property
    def next_id(self) -> int:
        """The number that the next job will have at least."""
        return self.contents.highest["jobs"] + 1


class Moved(msgspec.Struct, frozen=True, kw_only=True):
    """What was moved, as it was found in the other database before anybody could see it there."""

    source: str
    target: str
    at: datetime
    checks: Mapping[str, Check]
    next_id: int
    already: bool
    """Whether an earlier call did it."""


class _CameInMeanwhileError(CannotMove):
    """A row that cannot be moved came in after all rows were looked at, and before the old place was closed."""


class Move:
    """The move from one database to another. Constructing it does no I/O.

    tell: hears how far it is. pause: waits for so many seconds.
    """

    def __init__(
        self,
        departure: Departure,
        arrival: Arrival,
        *,
        clock: Clock | None = None,
        tell: Callable[[Progress], object] = lambda _: None,
        pause: Callable[[float], object] | None = None,
    ) -> None:
        self._departure = departure
        self._arrival = arrival
        self._clock = clock or SystemClock()
        self._tell = tell
        self._pause = pause or threading.Event().wait

    def close(self) -> None:
        """Close every connection."""
        self._departure.disconnect()
        self._arrival.disconnect()

    # ------------------------------------------------------------------------------------------------------- look

    def plan(self) -> Plan:
        """Look at both databases and at every row, and change nothing."""
        mark = self._departure.mark()
        self._refuse_another_target(mark)
        contents = self._departure.contents()
        return Plan(
            source=self._departure.name,
            target=self._arrival.name,
            stage=None if mark is None else mark.stage,
            contents=contents,
            workers=self._departure.workers(),
            left_behind=self._departure.left_behind(),
            in_the_way=[*self._obstacles(mark, contents)],
        )

    def _obstacles(self, mark: Mark | None, contents: Contents) -> Iterator[str]:
        yield from self._arrival.in_the_way(None if mark is None else mark.id)
        if columns := self._departure.lost_columns():
            yield (
                f"background_service_jobs has columns of others, for which there is no place: {', '.join(columns)}. "
                "Keep them elsewhere, in a table of your own by the number of the job, and drop or empty them"
            )
        if mark is None or mark.stage is not Stage.MOVED:
            yield from map(str, self._misfits(contents))

    def _misfits(self, contents: Contents) -> Iterator[Misfit]:
        total, done = sum(contents.rows.values()), 0
        for table in TABLES:
            packer = Packer(table)
            for rows in self._departure.rows(table):
                packer.pack(rows)
                done += len(rows)
                self._tell(Progress(step=Step.CHECKING, done=done, total=total))
            yield from packer.misfits

    # -------------------------------------------------------------------------------------------------- there

    def run(self, *, grace: float = GRACE) -> Moved:
        """Move everything, or go on where an earlier call broke off. Raises CannotMove; then nothing is lost.

        grace: seconds for the jobs that run now to end.
        """
        with self._departure.alone():
            mark = self._departure.mark()
            self._refuse_another_target(mark)
            if mark is None or mark.stage is Stage.BEGUN:
                mark = self._close(mark, grace)
            arrived, already = self._bring_over(mark), mark.stage is Stage.MOVED
            if not already:
                self._departure.advance(Stage.MOVED)
            return self._told(arrived, already=already)

    def _refuse_another_target(self, mark: Mark | None) -> None:
        if mark is not None and mark.target != self._arrival.name:
            raise CannotMove(
                f"{self._departure.name} is on its way to {mark.target}, since {mark.begun_at:%Y-%m-%d %H:%M}Z, and "
                f"not to {self._arrival.name}. Name the same database, or go back first with --abort"
            )

    def _close(self, mark: Mark | None, grace: float) -> Mark:
        """Drain the old place and close it. If that cannot be done, it is as it was before."""
        plan = self.plan()
        if plan.in_the_way:
            raise CannotMove("; ".join(plan.in_the_way))
        mark = mark or self._new_mark()
        try:
            self._departure.begin(mark, hold_until=self._clock.now() + LEASE)
            identity = self._begin_there(mark)
            self._drain(identity, grace)
        except BaseException:
            self._undo(mark)
            raise
        return msgspec.structs.replace(mark, stage=Stage.CLOSED, identity=identity)

    def _new_mark(self) -> Mark:
        return Mark(
            id=str(uuid.uuid4()),
            target=self._arrival.name,
            identity=None,
            stage=Stage.BEGUN,
            begun_at=self._clock.now(),
        )

    def _begin_there(self, mark: Mark) -> str:
        source = f"{socket.gethostname()}:{self._departure.name}"
        return self._arrival.begin(mark.id, source=source, identity=mark.identity, now=self._clock.now())

    def _undo(self, mark: Mark) -> None:
        """Nothing was copied yet: open the old place first, tidy the new one up if it can be reached."""
        self._departure.reopen()
        with suppress(SideworkError):
            self._arrival.take_back(mark.id, identity=None)

    def _drain(self, identity: str, grace: float) -> None:
        """Wait until no living worker runs a job, then close. What dead ones left is run again at the new place."""
        deadline = self._clock.monotonic() + grace
        if self._departure.workers():
            self._wait_for_ends(deadline)
            self._pause(LAST_WORDS)
        while not self._departure.close(identity=identity):
            self._wait_for_ends(deadline)

    def _wait_for_ends(self, deadline: float) -> None:
        at_first = 0
        while running := sum(worker.running for worker in self._departure.workers()):
            at_first = max(at_first, running)
            self._tell(Progress(step=Step.DRAINING, done=at_first - running, total=at_first))
            if self._clock.monotonic() >= deadline:
                raise CannotMove(self._still_running())
            self._departure.hold(until=self._clock.now() + LEASE)
            self._pause(_LOOK_EVERY)
        self._departure.hold(until=self._clock.now() + LEASE)

    def _still_running(self) -> str:
        named = ", ".join(
            f"worker {worker.id} (process {worker.pid} on {worker.host}) runs {worker.running}"
            for worker in self._departure.workers()
            if worker.running
        )
        return (
            f"jobs of {self._departure.name} still run: {named}. Nothing was moved, and work goes on there. Wait for "
            "them or cancel them (`sidework jobs --status RUNNING`), or give them more time with --grace SECONDS"
        )

    def _bring_over(self, mark: Mark) -> Arrived:
        """Copy, unless that was done and only the answer was lost."""
        try:
            return self._arrival.arrived(mark.id) or self._copy(mark)
        except _CameInMeanwhileError as error:
            self._give_up_there(mark)
            self._departure.reopen()
            raise CannotMove(f"{error}. {self._open_again()}") from error
        except BaseException as error:
            if mark.stage is not Stage.MOVED:
                error.add_note(
                    f"The jobs are safe in {self._departure.name}, which stays closed: run the same command again to "
                    "go on, or with --abort to go back."
                )
            raise

    def _open_again(self) -> str:
        return f"Nothing was moved, and {self._departure.name} takes jobs again; its workers have to be started again"

    def _copy(self, mark: Mark) -> Arrived:
        if mark.stage is Stage.MOVED:
            raise CannotMove(self._unknown_there())
        self._begin_there(mark)
        contents = self._departure.contents()
        return self._arrival.receive(mark.id, contents, self._sender(contents), now=self._clock.now())

    def _unknown_there(self) -> str:
        return (
            f"{self._departure.name} was moved to {self._arrival.name}, but nothing is known of it there: is it "
            "another database of the same name, or was an older backup restored? Nothing was changed"
        )

    def _sender(self, contents: Contents) -> Callable[[Table], Iterator[bytes]]:
        total, done = sum(contents.rows.values()), 0

        def send(table: Table) -> Iterator[bytes]:
            nonlocal done
            packer = Packer(table)
            for rows in self._departure.rows(table):
                lines = packer.pack(rows)
                if packer.misfits:
                    raise _CameInMeanwhileError("; ".join(map(str, packer.misfits)))
                done += len(rows)
                self._tell(Progress(step=Step.COPYING, done=done, total=total))
                yield lines

        return send

    def _told(self, arrived: Arrived, *, already: bool) -> Moved:
        return Moved(
            source=self._departure.name,
            target=self._arrival.name,
            at=arrived.at,
            checks=arrived.checks,
            next_id=self._departure.contents().highest["jobs"] + 1,
            already=already,
        )

    # --------------------------------------------------------------------------------------------------- back

    def abort(self) -> None:
        """Go back to where the jobs came from. Raises CannotMove if the new place was used since they arrived."""
        with self._departure.alone():
            mark = self._departure.mark()
            if mark is None:
                raise CannotMove(f"no move of {self._departure.name} was begun, so there is nothing to go back from")
            self._refuse_another_target(mark)
            self._give_up_there(mark)
            self._departure.reopen()

    def _give_up_there(self, mark: Mark) -> None:
        if mark.stage is Stage.BEGUN:
            self._arrival.take_back(mark.id, identity=None)
            return
        if mark.stage is Stage.MOVED and self._arrival.arrived(mark.id) is None:
            raise CannotMove(self._unknown_there())
        self._departure.advance(Stage.TAKEN_BACK)
        try:
            self._arrival.take_back(mark.id, identity=mark.identity)
        except CannotMove:
            self._departure.advance(mark.stage)
            raise


def move_from(source: str | Path, target: str, *, tell: Callable[[Progress], object] = lambda _: None) -> Move:
    """Return the move of a SQLite file's jobs to a PostgreSQL database. Does no I/O. Raises SideworkError."""
    return Move(open_departure(source), open_arrival(target), tell=tell)
