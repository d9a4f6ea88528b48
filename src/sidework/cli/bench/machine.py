"""The machine that was measured, in a few words."""

from __future__ import annotations

import os
import platform
import sqlite3
import sys
from pathlib import Path

import msgspec

from sidework.cli.bench.figure import percentile
from sidework.cli.bench.site import seconds_of

SYNCS = 100


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """What a figure depends on."""

    cpu: str
    cores: int
    kernel: str
    python: str
    sqlite: str
    file_system: str
    fsync_ms: float
    """The median of a write of 4 KiB that is synced."""
    load: float
    """Of the last minute, at the beginning: above zero the machine has other work."""

    def in_words(self) -> str:
        """Return one line for people."""
        return (
            f"{self.cpu}, {self.cores} cores, {self.kernel}, Python {self.python}, SQLite {self.sqlite}, "
            f"{self.file_system}, fsync p50 {self.fsync_ms:.2f} ms, load {self.load:.1f}"
        )


def look_at(folder: Path) -> Machine:
    """Look at this machine and at the disk of a folder."""
    return Machine(
        cpu=_cpu(),
        cores=os.cpu_count() or 1,
        kernel=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        sqlite=sqlite3.sqlite_version,
        file_system=_file_system(folder),
        fsync_ms=_fsync_ms(folder),
        load=os.getloadavg()[0],
    )


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or sys.platform
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _file_system(folder: Path) -> str:
    """Return the type of the innermost mount that holds the folder."""
    try:
        mounts = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return "unknown file system"
    real = folder.resolve()
    found = [(len(point), kind) for _, point, kind, *_ in map(str.split, mounts) if real.is_relative_to(point)]
    return max(found)[1] if found else "unknown file system"


def _fsync_ms(folder: Path) -> float:
    path = folder / "fsync"
    with path.open("wb", buffering=0) as file:

        def sync() -> None:
            file.write(bytes(4096))
            os.fdatasync(file.fileno())

        times = [seconds_of(sync) * 1000 for _ in range(SYNCS)]
    path.unlink()
    return percentile(times, 0.5)
