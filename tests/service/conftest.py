"""A service on a fresh SQLite file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sidework import BackgroundService

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "app.db"


@pytest.fixture
def service(path: Path) -> Iterator[BackgroundService]:
    """Yield a service that is not running; it is stopped if the test started it."""
    service = BackgroundService(path, grace=5)
    yield service
    service.stop()
