"""Async tests run in a loop of their own, with a deadline; each test has a rig with a database of its own."""

from __future__ import annotations

import asyncio
import inspect
from typing import TYPE_CHECKING

import pytest
from tests.engine.rig import DEADLINE, Rig

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    asyncio.run(asyncio.wait_for(pyfuncitem.obj(**arguments), 4 * DEADLINE))
    return True


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test on both databases, but those that are marked as SQLite's own."""
    if "database_kind" in metafunc.fixturenames:
        only_sqlite = metafunc.definition.get_closest_marker("sqlite") is not None
        metafunc.parametrize("database_kind", ["sqlite"] if only_sqlite else ["sqlite", "postgres"])


@pytest.fixture
def rig(request: pytest.FixtureRequest, database_kind: str, tmp_path: Path) -> Iterator[Rig]:
    database = request.getfixturevalue("postgres_database") if database_kind == "postgres" else None
    rig = Rig(tmp_path / "app.db", database)
    yield rig
    rig.storage.close()
