"""What an error means to a shell: the exit code, and a message without a traceback."""

from __future__ import annotations

from enum import IntEnum

from sidework import errors


class ExitCode(IntEnum):
    """The exit codes of every command."""

    DONE = 0
    NO = 1
    """The answer is no: no such job, a job that failed, an unwell system."""
    USAGE = 2
    """The command, the app, the key or the payload is wrong."""
    DATABASE = 3
    """The database is unreachable, busy or newer than this code."""
    GIVEN_BACK = 4
    """Stopped, and unfinished work was given back."""
    INTERRUPTED = 130


class UsageError(errors.SideworkError):
    """The command was called in a way that cannot work; the message says what to write instead."""


_USAGE = (
    UsageError,
    errors.UnknownJobKey,
    errors.DuplicateJobKey,
    errors.InvalidHandler,
    errors.InvalidPayload,
    errors.WrongDatabase,
)


def exit_code_of(error: errors.SideworkError) -> ExitCode:
    """Return the exit code that tells a shell about this error."""
    if isinstance(error, errors.DatabaseUnavailable):
        return ExitCode.DATABASE
    if isinstance(error, _USAGE):
        return ExitCode.USAGE
    return ExitCode.NO
