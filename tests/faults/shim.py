"""Compiles shim.c and speaks to it, from the process that was started under it."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

SOURCE: Final = Path(__file__).with_name("shim.c")


def built(folder: Path) -> Path:
    """Return the shim, compiled; skips where there is no compiler (in CI that is a failure)."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler here")
    library = folder / "shim.so"
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", library, SOURCE, "-ldl"], check=True)
    return library


class Shim:
    """The shim that this process runs under."""

    def __init__(self) -> None:
        """Raise KeyError where there is none."""
        self._library = ctypes.CDLL(os.environ["LD_PRELOAD"])
        self._library.shim_arm.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_int, ctypes.c_double]
        self._library.shim_move_clock.argtypes = [ctypes.c_long]
        for count in (self._library.shim_calls, self._library.shim_failures):
            count.restype = ctypes.c_long

    def arm(self, at: int, error: int, *, short: bool, seconds: float) -> None:
        """Let the at-th write or sync from now fail, and all others for so many seconds after it."""
        self._library.shim_arm(at, error, short, seconds)

    def calls(self) -> int:
        """Return how many writes and syncs of database files there were since it was armed."""
        return int(self._library.shim_calls())

    def failures(self) -> int:
        """Return how many of them failed."""
        return int(self._library.shim_failures())

    def move_clock(self, seconds: int) -> None:
        """Let the wall clock of this process be so far ahead of the machine's."""
        self._library.shim_move_clock(seconds)
