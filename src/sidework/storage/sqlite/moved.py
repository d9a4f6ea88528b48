"""How a file whose jobs have left says so: to our own code by the row of the move, to everybody else by triggers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sidework.storage.statements import load
from sidework.storage.transfer import Stage

if TYPE_CHECKING:
    import sqlite3

_SQL: Final = load(Path(__file__).with_name("departure.sql"))
_BEGINNING: Final = "this file takes no jobs any more"
_REFUSED: Final = re.compile(f"^{_BEGINNING}: ")


def words_of(connection: sqlite3.Connection) -> str | None:
    """Return where the jobs of this file are, if they have left it."""
    if not connection.execute(_SQL["has_mark"]).fetchone()[0]:
        return None
    _move, target, _identity, stage, _begun_at = connection.execute(_SQL["mark"]).fetchone()
    return None if stage == Stage.BEGUN else words(target, Stage(stage))


def begun_words(connection: sqlite3.Connection) -> str | None:
    """Return what is to be said of a move that was begun and has closed nothing yet, if there is one."""
    if not connection.execute(_SQL["has_mark"]).fetchone()[0]:
        return None
    _move, target, _identity, stage, begun_at = connection.execute(_SQL["mark"]).fetchone()
    return f"one to {target} was begun {begun_at} and has not ended" if stage == Stage.BEGUN else None


def words(target: str, stage: Stage) -> str:
    """Return what is said to whoever would change a job of a closed file."""
    if stage is Stage.MOVED:
        return f"{_BEGINNING}: they were moved to {target}. Enqueue and work there"
    return (
        f"{_BEGINNING}: they are being moved to {target}. Enqueue and work there when `sidework move` has ended; "
        "if it was broken off, run it again"
    )


def is_refusal(error: sqlite3.Error) -> bool:
    """Whether a statement was refused because the jobs have left."""
    return bool(_REFUSED.match(str(error)))
