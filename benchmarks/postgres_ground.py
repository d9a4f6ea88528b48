"""A PostgreSQL server for a benchmark: started and removed by it; every commit is synced before it is acknowledged."""

from __future__ import annotations

import sys
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

import psycopg
from psycopg import sql

if TYPE_CHECKING:
    from collections.abc import Iterator

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.postgres_server import Server

SYNCED = {"fsync": "on", "full_page_writes": "on", "shared_buffers": "256MB", "max_wal_size": "4GB"}


@contextmanager
def synced_server(named: str | None = None) -> Iterator[str]:
    """Yield the URL of the server that is named, or of one of our own."""
    if named:
        yield named
        return
    own = Server(**SYNCED)
    try:
        own.start()
        yield own.url
    finally:
        own.remove()


def create_database(server: str, name: str) -> str:
    """Create a database; return its URL."""
    with closing(psycopg.connect(server, autocommit=True)) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    return urlunsplit(urlsplit(server)._replace(path=f"/{name}"))
