"""The stores that must pass the suite, each in a fresh database."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.storage.crew import Crew, Hand

from sidework.storage.open import open_storage

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sidework.storage.contract import Storage


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the address of a database without tables."""
    if request.param == "postgres":
        address: str = request.getfixturevalue("postgres_database")
        return address
    return str(tmp_path / "app.db")


@pytest.fixture
def storage(database: str) -> Iterator[Storage]:
    """Yield a store with its tables, and nothing in them."""
    store = open_storage(database)
    store.migrate()
    yield store
    store.close()


@pytest.fixture
def second(storage: Storage, database: str) -> Iterator[Storage]:
    """Yield another store on the same database, as another process has it."""
    store = open_storage(database)
    yield store
    store.close()


@pytest.fixture
def crew(storage: Storage, second: Storage) -> Iterator[Crew]:  # the stores are closed after the workers have left
    """Yield the workers of the test."""
    workers = Crew()
    yield workers
    workers.leave()


@pytest.fixture
def hand(storage: Storage, crew: Crew) -> Hand:
    """Return a worker that knows the key k."""
    return crew.hire(storage)
