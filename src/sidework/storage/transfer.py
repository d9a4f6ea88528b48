"""The two sides of a move: the database that jobs leave, and the one they arrive in.

The order of the calls, and what happens when it breaks off anywhere, is in `sidework.moving`; here stands what each
side must promise so that at every moment the jobs can be worked on in one place at most.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

import msgspec

from sidework.storage.manifest import Check, Contents, Row, Table

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from sidework.model.job import WorkerInfo


class Stage(StrEnum):
    """How far a move has come, as the database that the jobs leave knows it."""

    BEGUN = "begun"
    """Nothing is claimed while the mover lives; all else goes on."""
    CLOSED = "closed"
    """Nobody can change a job any more; the other side may or may not have them."""
    MOVED = "moved"
    """The other side has them."""
    TAKEN_BACK = "taken back"
    """Closed still, and the other side is about to give them up, or has done so."""


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    """A move that was begun."""

    id: str
    target: str
    """The name of the other database, as a person may see it."""
    identity: str | None
    """By this the other database is known again; None: it was not asked yet."""
    stage: Stage
    begun_at: datetime


class Arrived(msgspec.Struct, frozen=True, kw_only=True):
    """What has arrived in the other database."""

    at: datetime
    checks: Mapping[str, Check]


class Departure(Protocol):
    """The database that jobs leave."""

    @property
    def name(self) -> str:
        """The database as a person may see it."""

    def alone(self) -> AbstractContextManager[None]:
        """Keep other movers out. Raises CannotMove if there is one."""

    def mark(self) -> Mark | None:
        """Return the move that was begun, if any. Raises DatabaseMissing, NotMigrated, SchemaTooNew, NotOurTable."""

    def contents(self) -> Contents:
        """Return how much there is."""

    def left_behind(self) -> Sequence[str]:
        """Say what others have attached to the tables of jobs, which stays behind."""

    def lost_columns(self) -> Sequence[str]:
        """Say which columns of others hold values that have no place in the other database."""

    def workers(self) -> Sequence[WorkerInfo]:
        """Return the living workers, with the number of jobs that each runs."""

    def rows(self, table: Table) -> Iterator[Sequence[Row]]:
        """Yield the rows of a table, some at a time, in the order of its key, as they stand now."""

    def begin(self, mark: Mark, *, hold_until: datetime) -> None:
        """Note that a move begins, and let nothing be claimed until then."""

    def hold(self, *, until: datetime) -> None:
        """Let nothing be claimed until then."""

    def close(self, *, identity: str) -> bool:
        """Refuse every change of a job from now on, whoever makes it, and unseat the living workers.

        False, and nothing is done, if a living worker runs a job. Whoever writes later is told where the jobs are.
        """

    def advance(self, stage: Stage) -> None:
        """Note how far a closed database's move has come."""

    def reopen(self) -> None:
        """Be as before the move."""

    def disconnect(self) -> None:
        """Close every connection."""


class Arrival(Protocol):
    """The database that jobs arrive in."""

    @property
    def name(self) -> str:
        """The database as a person may see it."""

    def in_the_way(self, move: str | None) -> Sequence[str]:
        """Say why this move cannot arrive here: jobs, another move. Changes nothing."""

    def begin(self, move: str, *, source: str, identity: str | None, now: datetime) -> str:
        """Make the tables, note that the move comes here, and return this database's identity. Can be repeated.

        identity: what it must be, if it was asked before. Raises CannotMove if something is in the way.
        """

    def arrived(self, move: str) -> Arrived | None:
        """Return what has arrived with this move; None: nothing. Waits for a transaction of it that is under way."""

    def receive(
        self, move: str, contents: Contents, send: Callable[[Table], Iterator[bytes]], *, now: datetime
    ) -> Arrived:
        """Take everything in one transaction, compare what is there then with what was sent, and commit.

        Raises CannotMove where it differs, and then nothing has arrived.
        """

    def take_back(self, move: str, *, identity: str | None) -> None:
        """Give up what has arrived, if it is still as it came. Raises CannotMove if it is not.

        Waits for a transaction of the move that is under way; afterwards none can arrive any more.
        """

    def disconnect(self) -> None:
        """Close every connection."""
