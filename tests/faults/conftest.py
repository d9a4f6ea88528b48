"""Faults print their figures at the end of the run; in CI, a fault that is skipped is a failure."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.faults import shim as shim_module

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

FIGURES = "figures of a fault"


@pytest.fixture
def figures(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Return what takes a line to be printed at the end of the run."""

    def tell(line: str) -> None:
        record_property(FIGURES, line)

    return tell


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the shim that lets writes fail and moves the clock, compiled."""
    return shim_module.built(tmp_path_factory.mktemp("shim"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.skipped and os.environ.get("CI") == "true" and Path(item.fspath).parent == Path(__file__).parent:
        report.outcome = "failed"
        report.longrepr = f"in CI no fault may be skipped: {report.longrepr}"
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    lines = [
        line
        for outcome in ("passed", "failed")
        for report in terminalreporter.getreports(outcome)
        for name, line in report.user_properties
        if name == FIGURES
    ]
    if lines:
        terminalreporter.section("faults")
        for line in sorted(lines):
            terminalreporter.write_line(line)
