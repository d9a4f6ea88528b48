"""Where a run of the demo keeps its database, and how it is begun, gone on with and cleared away."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import msgspec

from sidework.cli.demo import index
from sidework.cli.failures import UsageError


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """The database file of a run, and the folder that goes with it when the run is over (None: the user's own)."""

    database: Path
    folder: Path | None

    @property
    def log(self) -> Path:
        """Where the workers' own words go."""
        return self.database.with_name(self.database.name + ".workers.log")


def choose_place(database: str | None, folder: str | None, *, fenced: bool) -> Place:
    """Return the place of the user's choice, or the one where the same run is found again."""
    if database:
        return Place(database=Path(database).absolute(), folder=None)
    run = hashlib.sha256(f"{os.getuid()} {folder} {fenced}".encode()).hexdigest()[:12]
    own = Path(tempfile.gettempdir()) / f"sidework-demo-{run}"
    own.mkdir(mode=0o700, exist_ok=True)
    if own.stat().st_uid != os.getuid():
        raise UsageError(f"{own} belongs to somebody else; give a place with --database")
    return Place(database=own / "demo.db", folder=own)


@contextmanager
def alone_in(place: Place) -> Iterator[None]:
    """Keep a second demo out of the same place. Raises UsageError."""
    with place.log.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(f"another demo runs in {place.database.parent}") from error
        yield


def run_in(place: Place) -> index.Run | None:
    """Return the run that the file holds, or None where it holds nothing. Raises UsageError if it is something else."""
    if not place.database.exists():
        return None
    try:
        with closing(sqlite3.connect(place.database)) as db:
            run = index.read_run(db)
            blank = run is None and index.is_blank(db)
    except sqlite3.DatabaseError as error:
        raise UsageError(f"{place.database} is not a database of the demo: {error}") from error
    if run is None and not blank:
        raise UsageError(f"{place.database} holds something else; the demo takes a new file, or one of its own")
    return run


def clear(place: Place) -> None:
    """Remove the run that is here, so that a new one can begin. Only ever called for a file that holds one."""
    for path in place.database.parent.glob(place.database.name + "*"):
        if path != place.log:  # which is locked by us
            path.unlink()


def remove(place: Place) -> None:
    """Remove the demo's own folder; a database of the user's choice stays to be looked at."""
    if place.folder:
        shutil.rmtree(place.folder, ignore_errors=True)
    else:
        place.log.unlink(missing_ok=True)
