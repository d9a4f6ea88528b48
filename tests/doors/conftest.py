"""A shell in an empty folder, and a service on the database that the shell's commands look at."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.doors.shell import Shell

from sidework import BackgroundService


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    shell = Shell(tmp_path)
    shell.write_shop()
    return shell


@pytest.fixture
def service(shell: Shell) -> BackgroundService:
    """A service on the shop's database, with handlers of the same keys."""
    service = BackgroundService(shell.folder / "app.db")

    @service.handler
    def greet(name: str, times: int = 1) -> str:
        return " ".join([f"hello {name}"] * times)

    @service.handler("fail_often", max_attempts=1)
    def fail(token: str = "") -> None:
        raise ValueError("it cannot work")

    @service.handler
    def wait_for(file: str) -> str:
        raise NotImplementedError("only `sidework run shop:service` runs it")

    service.migrate()
    return service
