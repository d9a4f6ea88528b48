"""Whether a path still leads to the file that was opened by it: SQLite does not look, and writes where nobody finds it.

A file that is moved, removed or replaced keeps its content for who has it open, and everybody else sees another one.
"""

from __future__ import annotations

import os

from sidework.errors import DatabaseUnavailable


class Place:
    """Where a database file was when it was opened."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Look. Raises OSError."""
        self._path = os.fspath(path)
        self._file = os.stat(path)  # noqa: PTH116 - on the way of every transaction

    def check(self) -> None:
        """Raise DatabaseUnavailable if the file is not there any more; to be asked before each commit. Takes 1.5 µs."""
        if not leads_to(self._path, self._file):
            raise DatabaseUnavailable(
                f"{self._path} was moved, removed or replaced while it was open, and what is written now would be "
                "lost. Restart the program, and never put a file in the place of a database that is in use."
            )


def leads_to(path: str | os.PathLike[str], file: os.stat_result) -> bool:
    """Whether the path leads to this file; a look that fails for another reason does not say no."""
    try:
        now = os.stat(path)  # noqa: PTH116 - on the way of every transaction
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return os.path.samestat(now, file)
