"""Conditions that name jobs on a command line: --status, --key, --queue, --older-than."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import TYPE_CHECKING

import msgspec

from sidework.cli.failures import UsageError

if TYPE_CHECKING:
    from sidework import JobStatus
    from sidework.manager import JobConditions


class Conditions(msgspec.Struct, frozen=True, kw_only=True):
    """Which jobs are meant; every condition given must hold."""

    status: tuple[str, ...] = ()
    key: str | None = None
    queue: str | None = None
    older_than: timedelta | None = None

    @property
    def given(self) -> bool:
        """Whether there is any."""
        return self != Conditions()

    def for_manager(self, otherwise: Iterable[JobStatus] = ()) -> JobConditions:
        """Return them as the manager takes them; `otherwise`: the statuses meant where none is named.

        Raises UsageError for a status that does not exist.
        """
        found: JobConditions = {"statuses": statuses(self.status) or frozenset(otherwise)}
        if self.key is not None:
            found["key"] = self.key
        if self.queue is not None:
            found["queue"] = self.queue
        if self.older_than is not None:
            found["older_than"] = self.older_than
        return found


def statuses(names: Iterable[str]) -> frozenset[JobStatus]:
    """Return the statuses named, in whatever case, one by one or with commas. Raises UsageError."""
    from sidework import JobStatus

    try:
        return frozenset(JobStatus(name.strip().upper()) for text in names for name in text.split(","))
    except ValueError as error:
        raise UsageError(f"{error}; there are {', '.join(JobStatus)}") from None
