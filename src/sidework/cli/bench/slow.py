"""A disk whose syncs are slower: the same command again, with a small library between it and the system."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.resources import as_file, files
from pathlib import Path
from tempfile import TemporaryDirectory

from sidework.cli.failures import UsageError


def run_again(words: Sequence[str], *, milliseconds: float) -> int:
    """Run `sidework WORDS` where each fsync takes so much longer; return its exit code. Raises UsageError."""
    with TemporaryDirectory(prefix="sidework-bench-") as folder:
        library = _compile(Path(folder))
        env = {**os.environ, "LD_PRELOAD": str(library), "SIDEWORK_BENCH_SYNC_MS": str(milliseconds)}
        return subprocess.run([sys.executable, "-m", "sidework", *words], env=env, check=False).returncode


def _compile(folder: Path) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None or not sys.platform.startswith("linux"):
        raise UsageError("--slow-fsync needs Linux and a C compiler (cc); leave it out to measure the disk as it is")
    library = folder / "slow_fsync.so"
    with as_file(files("sidework.cli.bench") / "slow_fsync.c") as source:
        built = subprocess.run(
            [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"],
            capture_output=True,
            text=True,
            check=False,
        )
    if built.returncode:
        raise UsageError(f"--slow-fsync: {compiler} failed: {built.stderr.strip()}")
    return library
