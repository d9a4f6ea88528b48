"""The errors a user of sidework can meet. Each message says what happened and what to do.

SideworkError
├── UnknownJobKey          no handler is registered under this key here
├── DuplicateJobKey        two different functions under one key
├── InvalidHandler         a function or an option that cannot be registered
├── InvalidPayload         a payload that cannot be kept or does not fit its handler (`.field` names the place)
├── DatabaseUnavailable    the database cannot be opened or used
│   ├── DatabaseMissing    there is no such file
│   ├── DatabaseBusy       somebody else held the write lock for too long
│   ├── AnswerLost         the connection broke before the answer: whether it was done is unknown
│   ├── NotMigrated        the tables of sidework are not there yet, or are older than this code
│   ├── SchemaTooNew       the tables were made by a newer sidework that this code cannot read
│   ├── DatabaseMoved      the jobs have left for another database, which the message names
│   └── NotOurTable        a table of our name that is something else
├── WrongDatabase          `db=` is a connection to another database
├── TransactionOwned       a handler tried to end the transaction that the service ends
├── JobLost                the job is no longer held by this attempt; nothing was committed
├── JobNotFound            no job has this id
├── JobFailed              awaited a result, and the job failed
├── JobCancelled           awaited a result, and the job was cancelled
├── WaitTimeout            awaited a result, and time ran out
├── QueueFull              a queue has reached the size it is limited to
├── CannotMove             something is in the way of a move from one database to another
└── WorkerLost             this worker's row or lock file is gone; it must stop

`Retry`, `Snooze` and `Discard` are not errors: a handler raises them to say how its attempt ends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import timedelta


class SideworkError(Exception):
    """Root of every error that sidework raises on purpose."""


class UnknownJobKey(SideworkError):
    """No handler is registered under this key in this program."""

    def __init__(self, key: str, close_matches: Iterable[str] = ()) -> None:
        """Name the key and, where there are any, the registered keys nearest to it."""
        self.key = key
        self.close_matches = tuple(close_matches)
        hint = f" Did you mean {' or '.join(map(repr, self.close_matches))}?" if self.close_matches else ""
        super().__init__(
            f"no handler is registered for {key!r}.{hint} Register one with @service.handler({key!r}), "
            f"or use service.declare({key!r}) if it runs in another program."
        )


class DuplicateJobKey(SideworkError):
    """Another function is already registered under this key."""


class InvalidHandler(SideworkError):
    """The function, or an option given for it, cannot be registered as a handler."""


class InvalidPayload(SideworkError):
    """The payload cannot be kept, or does not fit the handler's parameters.

    `field` is the path of the offending value, such as `"user.age"`, or None when the whole payload is at fault.
    `not_json` says that the text is no JSON object at all, so that no version of the handler could take it.
    """

    def __init__(self, message: str, *, field: str | None = None, not_json: bool = False) -> None:
        """Keep the path of the value beside the message."""
        super().__init__(message)
        self.field = field
        self.not_json = not_json


class DatabaseUnavailable(SideworkError):
    """The database cannot be opened, read or written."""


class DatabaseMissing(DatabaseUnavailable):
    """There is no database file at this path, and this call does not create one."""


class DatabaseBusy(DatabaseUnavailable):
    """The write lock was held by somebody else for longer than we wait."""


class AnswerLost(DatabaseUnavailable):
    """The connection to the server broke before its answer came: it is unknown whether what was asked for was done."""


class NotMigrated(DatabaseUnavailable):
    """The tables of sidework are missing from this database, or older than this code needs."""


class SchemaTooNew(DatabaseUnavailable):
    """The tables were made by a newer sidework, and this version cannot read them."""


class DatabaseMoved(DatabaseUnavailable):
    """The jobs of this database have left for another one: enqueue and work there."""


class NotOurTable(DatabaseUnavailable):
    """There is a table named background_service_jobs that is neither ours nor the seed's."""


class WrongDatabase(SideworkError):
    """The connection given as `db=` belongs to another database than the service."""


class TransactionOwned(SideworkError):
    """A handler tried to begin or end the transaction that belongs to the service."""


class JobLost(SideworkError):
    """This attempt no longer holds its job: it was cancelled, timed out or claimed again. Nothing was committed."""


class JobNotFound(SideworkError):
    """There is no job with this id."""


class JobFailed(SideworkError):
    """The job whose result was awaited has failed. `last_error` holds what the job left behind."""

    def __init__(self, job_id: int, last_error: str | None) -> None:
        """Keep the id and the stored error text."""
        self.job_id = job_id
        self.last_error = last_error
        super().__init__(f"job {job_id} failed: {last_error or 'no error text was kept'}")


class JobCancelled(SideworkError):
    """The job whose result was awaited was cancelled."""


class WaitTimeout(SideworkError):
    """The job had not ended when the time given for waiting was over. It goes on."""


class QueueFull(SideworkError):
    """The queue holds as many waiting jobs as it may."""


class CannotMove(SideworkError):
    """Something is in the way of a move from one database to another; the message says what, and what to do."""


class WorkerLost(SideworkError):
    """This worker is no longer known in the database, or its lock file is gone; it stops and claims nothing more.

    `may_rejoin` says that only the seat is gone and the database is the same, so that the service may take a new seat.
    """

    def __init__(self, message: str, *, may_rejoin: bool = False) -> None:
        """Keep whether a new seat would be a good one."""
        super().__init__(message)
        self.may_rejoin = may_rejoin


class Retry(Exception):
    """Raised by a handler: this attempt failed, try again after this long (seconds or timedelta; None: by back-off)."""

    def __init__(
        self, message: str = "the handler asked for a retry", *, after: float | timedelta | None = None
    ) -> None:
        """Keep how long to wait."""
        super().__init__(message)
        self.after = after


class Snooze(Exception):
    """Raised by a handler: not now, come back after this long (seconds or timedelta). Uses no attempt."""

    def __init__(self, after: float | timedelta) -> None:
        """Keep how long to wait."""
        super().__init__(f"snoozed for {after}")
        self.after = after


class Discard(Exception):
    """Raised by a handler: this job cannot succeed; it ends FAILED with this reason and is not tried again."""

    def __init__(self, reason: str) -> None:
        """Keep the reason; it becomes `last_error`."""
        super().__init__(reason)
        self.reason = reason
