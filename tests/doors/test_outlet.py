"""A reader that leaves early, such as `head`, is no error."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.doors.shell import Shell

    from sidework import BackgroundService


@pytest.fixture
def many(service: BackgroundService) -> int:
    """More jobs than a pipe holds."""
    number = 2000
    service.enqueue_many([("greet", {"name": "x" * 100}) for _ in range(number)])
    service.close()
    return number


@pytest.mark.parametrize("words", [["jobs", "--json"], ["jobs"]])
def test_a_reader_may_leave_in_the_middle(shell: Shell, many: int, words: list[str]) -> None:
    process = start(shell, *words, "--limit", str(many), "--database", "app.db")
    assert process.stdout is not None
    assert process.stdout.read(10)
    process.stdout.close()
    assert ended(process) == (0, b"")


def test_a_reader_may_be_gone_before_anything_is_said(shell: Shell, many: int) -> None:
    process = start(shell, "stats", "--database", "app.db")
    assert process.stdout is not None
    process.stdout.close()
    assert ended(process) == (0, b"")


def test_errors_are_still_told(shell: Shell) -> None:
    process = start(shell, "stats", "--database", "none.db")
    assert process.stdout is not None
    process.stdout.close()
    code, said = ended(process)
    assert code == 3
    assert b"no database" in said


def start(shell: Shell, *words: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        shell.command(words),
        cwd=shell.folder,
        env={name: value for name, value in shell.environment({}).items() if name != "PYTHONUNBUFFERED"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def ended(process: subprocess.Popen[bytes]) -> tuple[int, bytes]:
    assert process.stderr is not None
    with process.stderr as errors:
        said = errors.read()
    return process.wait(60), said
