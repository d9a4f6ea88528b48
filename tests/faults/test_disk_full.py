"""F5: a full disk is said in clear words, costs nothing that was acknowledged, and ends when there is room."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest
from tests.faults.running import campaign, percentile

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def may_mount(tmp_path: Path) -> None:
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("only root can mount a small disk")
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", tmp_path], check=False).returncode:
        pytest.skip("this machine does not let root mount")
    subprocess.run(["umount", tmp_path], check=True)


@pytest.mark.usefixtures("may_mount")
def test_a_full_disk_loses_nothing_and_the_service_goes_on_when_there_is_room(figures: Callable[[str], None]):
    found = campaign("disk_full", "--rounds", 2)
    figures(
        f"F5 disk full: {found['rounds']} rounds, {found['findings']['jobs']} jobs, lost {found['findings']['lost']}, "
        f"doubled {found['findings']['doubled']}, resumed after {percentile(found['resumed_after'], 1.0):.3f} s"
    )
    assert found["findings"]["wrongs"] == []
    assert all("disk is full" in message and "Free some space" in message for message in found["messages"])
    assert percentile(found["resumed_after"], 1.0) < 10
