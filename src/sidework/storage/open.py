"""The only place that chooses a database."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import unquote, urlsplit

from sidework.errors import SideworkError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sidework.storage.contract import Storage
    from sidework.storage.transfer import Arrival, Departure

POSTGRES = ("postgresql://", "postgres://")


def open_storage(
    url: str | Path,
    *,
    durability: Literal["full", "relaxed"] = "full",
    wait: float = 10.0,
    notify: bool = True,
    listen_url: str | None = None,
) -> Storage:
    """Return the storage for a path or URL. Opens nothing yet.

    url: a path ("app.db", Path) or "sqlite:///app.db" (relative), "sqlite:////var/app.db" (absolute), or
    "postgresql://user@host/name" as libpq knows it.
    durability: "full" or "relaxed". wait: seconds to wait for the write lock.
    notify, listen_url: see `BackgroundService`; a file needs neither.
    Raises SideworkError for what is not a database we know.
    """
    if durability not in ("full", "relaxed"):
        raise SideworkError(f"durability={durability!r} is not known; use 'full' or 'relaxed'")
    if isinstance(url, str) and url.startswith(POSTGRES):
        return _open_postgres(url, durability=durability, wait=wait, notify=notify, listen_url=listen_url)
    from sidework.storage.sqlite.store import SqliteStorage

    return SqliteStorage(_path(url), durability=durability, wait=wait)


def open_departure(url: str | Path) -> Departure:
    """Return the side of a move that jobs leave: a SQLite file. Opens nothing yet. Raises SideworkError."""
    if isinstance(url, str) and url.startswith(POSTGRES):
        raise SideworkError("jobs are moved from a SQLite file to a PostgreSQL database: name the file first")
    from sidework.storage.sqlite.departure import SqliteDeparture

    return SqliteDeparture(_path(url))


def open_arrival(url: str) -> Arrival:
    """Return the side of a move that jobs arrive at: a PostgreSQL database. Opens nothing yet. Raises SideworkError."""
    if not url.startswith(POSTGRES):
        raise SideworkError("jobs are moved to a PostgreSQL database: its URL begins with postgresql://")
    with _psycopg_at_hand():
        from sidework.storage.postgres.arrival import PostgresArrival
    return PostgresArrival(url)


def _open_postgres(
    url: str, *, durability: Literal["full", "relaxed"], wait: float, notify: bool, listen_url: str | None
) -> Storage:
    with _psycopg_at_hand():
        from sidework.storage.postgres.store import PostgresStorage
    return PostgresStorage(url, durability=durability, wait=wait, notify=notify, listen_url=listen_url)


@contextmanager
def _psycopg_at_hand() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "psycopg":
            raise
        raise SideworkError("a PostgreSQL database needs psycopg: pip install 'sidework[postgres]'") from error


def _path(url: str | Path) -> Path:
    if isinstance(url, Path):
        return url
    if not url:
        raise SideworkError(f"a database is a path or a URL such as 'app.db' or 'sqlite:///app.db', not {url!r}")
    if ":memory:" in url or url == "sqlite://":
        raise SideworkError(
            "a database in memory is gone with its connection, and no worker can share it; "
            "use a file (for tests see sidework.testing)"
        )
    if "://" not in url:
        return Path(url)
    parts = urlsplit(url)
    if parts.scheme != "sqlite":
        raise SideworkError(
            f"there is no storage for {parts.scheme}:// URLs in this version; use a path or sqlite:///path"
        )
    if parts.netloc or not parts.path.strip("/"):
        raise SideworkError(
            f"{url!r} names no file; write sqlite:///app.db for a relative path, "
            "sqlite:////var/app.db for an absolute one"
        )
    return Path(unquote(parts.path[1:]))
