"""F6: many processes write at once, one holds the write lock for seconds, one reads from an old snapshot and stays."""

from __future__ import annotations

import argparse
import gc
import os
import signal
import sqlite3
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
from tests.faults.audit import Findings, audit
from tests.faults.history import ACKED, Log
from tests.faults.processes import fork, last_words, now, wait_for
from tests.faults.workload import Workload

if TYPE_CHECKING:
    from collections.abc import Sequence

ENQUEUERS, WORKERS = 5, 2
ORDINARY_LOG: Final = 8 * 1024 * 1024
"""What `journal_size_limit` lets stand of a log that has begun anew."""
LONGEST_AFTERWARDS: Final = 20.0
PAYLOAD: Final = "x" * 2000


class StormFigures(msgspec.Struct, kw_only=True):
    """What came of it."""

    enqueues: int = 0
    refused: list[str] = []
    """Errors that reached an enqueuer."""
    latencies: list[float] = []
    latencies_beside_holder: list[float] = []
    """The longest wait of each enqueuer while somebody held the write lock."""
    held_for: float = 0.0
    log_beside_reader: int = 0
    """Bytes of the log at the end of the time in which somebody kept an old snapshot."""
    log_without_reader: int = 0
    """The most that it had while nobody did."""
    log_afterwards: int = 0
    findings: Findings = msgspec.field(default_factory=Findings)


class Told(msgspec.Struct, kw_only=True):
    """What an enqueuer says at its end."""

    latencies: list[float]
    refused: list[str]


def enqueue_until(path: Path, log: Log, until: float, told: Path, seed: int) -> None:
    """Enqueue as fast as a program would that has something else to do, too."""
    workload = Workload(path, log, seed=seed)
    said = Told(latencies=[], refused=[])
    while now() < until:
        began = now()
        try:
            log.write(ACKED, workload.service.enqueue("settle", {"order": -1, "padding": PAYLOAD}))
        except Exception as error:
            said.refused.append(f"{type(error).__name__}: {error}")
        said.latencies.append(now() - began)
        time.sleep(0.001)
    told.write_bytes(msgspec.json.encode(said))


def hold_the_write_lock(path: Path, seconds: float) -> None:
    """Be a program that writes first and works afterwards."""
    with closing(sqlite3.connect(path, timeout=60, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        time.sleep(seconds)
        connection.execute("COMMIT")


def keep_a_snapshot(path: Path, seconds: float) -> None:
    """Be a viewer that somebody has left open in a transaction."""
    with closing(sqlite3.connect(path, timeout=60, isolation_level=None)) as connection:
        connection.execute("BEGIN")
        connection.execute("SELECT count(*) FROM background_service_jobs").fetchone()
        time.sleep(seconds)


class Storm:
    """One database and all who use it."""

    def __init__(self, folder: Path, seconds: float) -> None:
        self._path = folder / "app.db"
        self._folder = folder
        self._seconds = seconds
        self._log = Log(folder / "log")
        self.figures = StormFigures()

    def run(self) -> StormFigures:
        """First without a reader, then with a holder of the lock, then beside a reader; a quarter of the time each."""
        os.waitpid(fork(Workload(self._path, self._log).prepare, self._folder / "errors"), 0)
        quarter = self._seconds / 4
        workers = [fork(Workload(self._path, self._log).work, self._folder / "errors") for _ in range(WORKERS)]
        self.figures.log_without_reader = self._phase("alone", 2 * quarter, None)
        self.figures.held_for = quarter * 0.8
        self._phase("holder", quarter, fork(lambda: hold_the_write_lock(self._path, quarter * 0.8), self._errors))
        reader = fork(lambda: keep_a_snapshot(self._path, quarter), self._errors)
        self.figures.log_beside_reader = self._phase("reader", quarter, reader)
        until = now() + LONGEST_AFTERWARDS
        while self._size_of_log() > ORDINARY_LOG and now() < until:
            self._phase("afterwards", 0.3, None)
        self.figures.log_afterwards = self._size_of_log()
        for worker in workers:
            os.kill(worker, signal.SIGTERM)
            wait_for(worker, 40)
        status = wait_for(fork(lambda: Workload(self._path, self._log, concurrency=50).drain(), self._errors), 60)
        if status != 0:
            self.figures.refused.append(f"the last worker ended with {status}: {last_words(self._errors)}")
        self.figures.findings = audit(self._path, self._folder / "log")
        return self.figures

    @property
    def _errors(self) -> Path:
        return self._folder / "errors"

    def _phase(self, name: str, seconds: float, other: int | None) -> int:
        """Let everybody enqueue; return the most bytes that the log had."""
        until = now() + seconds
        told = [self._folder / f"{name} {number}" for number in range(ENQUEUERS)]
        children = [
            fork(lambda: enqueue_until(self._path, self._log, until, told[number], number), self._errors)  # noqa: B023
            for number in range(ENQUEUERS)
        ]
        most = 0
        while now() < until:
            most = max(most, self._size_of_log())
            time.sleep(0.01)
        for child in [*children, *([other] if other else [])]:
            wait_for(child, 30)
        self._take(name, told)
        return most

    def _take(self, name: str, told: Sequence[Path]) -> None:
        for file in told:
            said = msgspec.json.decode(file.read_bytes(), type=Told)
            self.figures.enqueues += len(said.latencies)
            self.figures.refused += said.refused
            if name == "holder":
                self.figures.latencies_beside_holder.append(max(said.latencies))
            else:
                self.figures.latencies += said.latencies

    def _size_of_log(self) -> int:
        log = self._path.with_name("app.db-wal")
        try:
            return log.stat().st_size
        except FileNotFoundError:  # nobody has it open yet
            return 0


def main(arguments: Sequence[str]) -> None:
    """Let it storm and print the figures as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=8.0)
    chosen = parser.parse_args(arguments)
    gc.freeze()
    with tempfile.TemporaryDirectory() as folder:
        sys.stdout.write(msgspec.json.encode(Storm(Path(folder), chosen.seconds).run()).decode() + "\n")
