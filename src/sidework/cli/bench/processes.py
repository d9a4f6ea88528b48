"""The other processes of a benchmark: workers that drain a database, and `sidework run`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from sidework.cli.bench.worker import Drained, Task
from sidework.errors import SideworkError


class Process:
    """A process whose lines are read and which ends with the block that it was started for."""

    def __init__(self, *words: str, **env: str) -> None:
        """Start `python WORDS`."""
        self._process = subprocess.Popen(
            [sys.executable, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **env},
        )

    @property
    def pid(self) -> int:
        """Its number."""
        return self._process.pid

    def hear(self, word: str) -> str:
        """Return what follows the word in the next line that begins with it. Raises SideworkError if it ends first."""
        for line in self._process.stdout or ():
            if line.startswith(word):
                return line.removeprefix(word).strip()
        raise SideworkError(f"a process of the benchmark ended before it said {word!r}")

    def go(self) -> None:
        """Send it the line that it waits for."""
        if self._process.stdin:
            self._process.stdin.write("\n")
            self._process.stdin.flush()

    def end(self) -> None:
        """End it, if it has not ended."""
        self._process.terminate()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                pipe.close()


@contextmanager
def running_service(database: str | Path) -> Iterator[Process]:
    """Run `sidework run` on a database, from when it takes jobs."""
    process = Process("-m", "sidework", "run", "sidework.cli.bench.app:service", SIDEWORK_BENCH_DATABASE=str(database))
    try:
        process.hear("  wake-up")
        yield process
    finally:
        process.end()


@contextmanager
def raw_claimer(database: Path) -> Iterator[Process]:
    """Start a process that claims a row of plain `sqlite3` whenever it is told to go."""
    process = Process("-m", "sidework.cli.bench.woken", str(database))
    try:
        process.hear("ready")
        yield process
    finally:
        process.end()


@contextmanager
def ready_workers(database: str | Path, *, count: int = 1, concurrency: int | None = None) -> Iterator[list[Process]]:
    """Start workers that wait to be told to go."""
    task = (
        Task(database=str(database)) if concurrency is None else Task(database=str(database), concurrency=concurrency)
    )
    words = ("-m", "sidework.cli.bench.worker", msgspec.json.encode(task).decode())
    workers = [Process(*words) for _ in range(count)]
    try:
        for worker in workers:
            worker.hear("ready")
        yield workers
    finally:
        for worker in workers:
            worker.end()


def drain(database: str | Path, *, count: int = 1, concurrency: int | None = None) -> list[Drained]:
    """Let worker processes drain a database at the same time; return what each of them says."""
    with ready_workers(database, count=count, concurrency=concurrency) as workers:
        for worker in workers:
            worker.go()
        return [result_of(worker) for worker in workers]


def result_of(worker: Process) -> Drained:
    """Wait until a worker has drained its database."""
    return msgspec.json.decode("{" + worker.hear("{"), type=Drained)
