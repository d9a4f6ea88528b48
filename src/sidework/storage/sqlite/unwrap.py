"""Finds the driver's connection under a session or connection of SQLAlchemy or Django.

Their own transaction is begun first, as their next statement would do it: what is written underneath is then committed
or rolled back with what they write.
"""

from __future__ import annotations

from typing import Any

from sidework.errors import WrongDatabase
from sidework.storage import foreign


def unwrap(connection: Any) -> object:
    """Return the connection of sqlite3 under a sync session or connection; anything else as it is."""
    kinds = foreign.ancestors(connection)
    if kinds & foreign.SESSIONS:
        return unwrap(connection.connection())
    if foreign.CONNECTION in kinds:
        if not connection.in_transaction():
            connection.begin()
        return connection.connection.driver_connection
    if kinds & foreign.OF_DJANGO:
        if connection.vendor != "sqlite":
            raise WrongDatabase(f"db= is a connection of Django to {connection.vendor}; the service works on SQLite")
        connection.ensure_connection()
        return connection.connection
    return connection


async def aunwrap(connection: Any) -> object:
    """Return the connection of aiosqlite under an async session or connection; anything else as `unwrap`."""
    kinds = foreign.ancestors(connection)
    if foreign.ASYNC_SESSION in kinds:
        return await aunwrap(await connection.connection())
    if foreign.ASYNC_CONNECTION in kinds:
        if not connection.in_transaction():
            await connection.begin()
        return (await connection.get_raw_connection()).driver_connection
    return unwrap(connection)


def must_be_awaited(connection: object) -> bool:
    """Whether it is an async session or connection of SQLAlchemy."""
    return bool(foreign.ancestors(connection) & foreign.AWAITED)
