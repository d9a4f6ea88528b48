"""What the connections and sessions of other people's libraries are called, so that none of them need be imported."""

from __future__ import annotations

from typing import Final

ASYNC_SESSION: Final = "sqlalchemy.ext.asyncio.session.AsyncSession"
ASYNC_CONNECTION: Final = "sqlalchemy.ext.asyncio.engine.AsyncConnection"
SESSIONS: Final = frozenset({"sqlalchemy.orm.session.Session", "sqlalchemy.orm.scoping.scoped_session"})
CONNECTION: Final = "sqlalchemy.engine.base.Connection"
OF_DJANGO: Final = frozenset(
    {"django.db.backends.base.base.BaseDatabaseWrapper", "django.utils.connection.ConnectionProxy"}
)
OF_ASYNCPG: Final = frozenset({"asyncpg.connection.Connection", "asyncpg.pool.PoolConnectionProxy"})
OF_PSYCOPG2: Final = "psycopg2.extensions.connection"
AWAITED: Final = OF_ASYNCPG | {ASYNC_SESSION, ASYNC_CONNECTION}


def ancestors(connection: object) -> frozenset[str]:
    """Return the full names of a thing's classes."""
    return frozenset(f"{kind.__module__}.{kind.__qualname__}" for kind in type(connection).__mro__)
