"""The demo's own tables: an index of words, the edges of imports, running totals, and how the run stands."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from pathlib import Path

import msgspec

from sidework.cli.demo.source import Reading, Source, Totals
from sidework.storage.statements import load

_SQL = load(Path(__file__).with_name("index.sql"))
_TABLES = ("create_totals", "start_totals", "create_found", "create_imports", "create_words", "create_run")


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """How a run stands, over all the times it was begun, interrupted and gone on with."""

    settings: str
    seconds: float = 0.0
    kills: int = 0
    finished: bool = False


def create_tables(db: sqlite3.Connection, run: Run) -> None:
    """Create the tables and begin a run."""
    for name in _TABLES:
        db.execute(_SQL[name])
    db.execute(_SQL["begin_run"], {"settings": run.settings})


def read_run(db: sqlite3.Connection) -> Run | None:
    """Return how the run in this database stands; None: there is none. Raises sqlite3.DatabaseError for other files."""
    if db.execute(_SQL["has_run"]).fetchone() is None:
        return None
    settings, seconds, kills, finished = db.execute(_SQL["read_run"]).fetchone()
    return Run(settings=settings, seconds=seconds, kills=kills, finished=bool(finished))


def is_blank(db: sqlite3.Connection) -> bool:
    """Whether a database without a run holds nothing at all, but perhaps the service's own empty tables."""
    tables = {str(name) for (name,) in db.execute(_SQL["tables"])}
    if any(not name.startswith(("background_service_", "sqlite_")) for name in tables):
        return False
    return "background_service_jobs" not in tables or db.execute(_SQL["has_jobs"]).fetchone() is None


def keep_run(db: sqlite3.Connection, run: Run) -> None:
    """Keep how the run stands."""
    db.execute(_SQL["keep_run"], msgspec.structs.asdict(run))


def found_first(db: sqlite3.Connection, sources: Iterable[Source]) -> list[Source]:
    """Note that these were found; return those that nobody had found before."""
    return [source for source in sources if db.execute(_SQL["find"], {"name": source.name}).rowcount == 1]


def add(db: sqlite3.Connection, source: Source, reading: Reading) -> None:
    """Write the effects of one file: its words, its imports, and what it adds to the running totals."""
    db.execute(_SQL["add_words"], {"name": source.name, "text": reading.text})
    for imported in reading.imports:
        db.execute(_SQL["add_import"], {"importer": source.name, "imported": imported})
    numbers = {"lines": reading.lines, "words": reading.words, "imports": len(reading.imports)}
    db.execute(_SQL["add_to_totals"], numbers)


def totals(db: sqlite3.Connection) -> Totals:
    """Return what the jobs have added up."""
    files, lines, words, imports = db.execute(_SQL["read_totals"]).fetchone()
    return Totals(files=files, lines=lines, words=words, imports=imports)


def count_found(db: sqlite3.Connection) -> int:
    """Return how many files were found so far."""
    return int(db.execute(_SQL["count_found"]).fetchone()[0])


def search(db: sqlite3.Connection, word: str) -> list[str]:
    """Return the names of the files that hold a word, in order."""
    quoted = '"' + word.replace('"', '""') + '"'
    return [str(name) for (name,) in db.execute(_SQL["search"], {"term": quoted})]
