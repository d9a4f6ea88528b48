"""What the tests of several rooms share: a PostgreSQL server, started when the first test asks for one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.postgres_server import new_database, running_server

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """Yield the URL of a server on which databases may be created."""
    with running_server() as url:
        yield url


@pytest.fixture
def postgres_database(postgres_server: str) -> Iterator[str]:
    """Yield the URL of an empty database of this test's own."""
    with new_database(postgres_server) as url:
        yield url
