"""A service on a fresh database of each kind."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

import pytest

from sidework import BackgroundService

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test on both databases, but those that look at the SQLite file themselves."""
    if "database_kind" in metafunc.fixturenames:
        needs_the_file = "path" in inspect.signature(metafunc.function).parameters
        metafunc.parametrize("database_kind", ["sqlite"] if needs_the_file else ["sqlite", "postgres"])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "app.db"


@pytest.fixture
def database(request: pytest.FixtureRequest, database_kind: str, path: Path) -> str:
    """The address of a database without tables."""
    if database_kind == "postgres":
        address: str = request.getfixturevalue("postgres_database")
        return address
    return str(path)


@pytest.fixture
def service(database: str) -> Iterator[BackgroundService]:
    """Yield a service that is not running; it is stopped if the test started it."""
    service = BackgroundService(database, grace=5)
    yield service
    service.stop()
    service.close()
