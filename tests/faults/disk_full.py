"""F5: the disk is full while jobs are enqueued and end; later there is room again."""

from __future__ import annotations

import argparse
import contextlib
import gc
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
from tests.faults.audit import Findings, audit
from tests.faults.history import ACKED, INVOKED, Log
from tests.faults.processes import fork, last_words, now, wait_for
from tests.faults.workload import Workload, claim_of

from sidework import JobContext
from sidework.errors import DatabaseUnavailable

if TYPE_CHECKING:
    from collections.abc import Sequence

SIZE: Final = "6m"
PAYLOAD: Final = "x" * 60_000
LONGEST: Final = 30.0


class DiskFigures(msgspec.Struct, kw_only=True):
    """What came of it."""

    rounds: int = 0
    refused: int = 0
    messages: list[str] = []
    resumed_after: list[float] = []
    """Seconds from the moment there was room until an enqueue was accepted and everything had ended."""
    findings: Findings = msgspec.field(default_factory=Findings)


class Told(msgspec.Struct, kw_only=True):
    """What a child says at its end."""

    refused: int
    message: str
    resumed_after: float


def run(disk: Path, told: Path, seed: int) -> None:
    """Fill the disk while jobs run, let them end there, make room, and see them through."""
    log = Log(told.with_suffix(".log"))
    workload = Workload(disk / "app.db", log, seed=seed)
    workload.prepare()
    may_end = threading.Event()
    service = workload.service

    def waiting(job: JobContext) -> None:
        log.write(INVOKED, job.id, claim_of(job))
        may_end.wait()

    service.register_job_handler("waiting", waiting)
    with service:
        for _ in range(4):
            service.enqueue("waiting")
        ballast = disk / "ballast"
        _fill(ballast)
        refused, message = _enqueue_until_refused(workload, log)
        may_end.set()  # those that run now end where nothing can be written
        time.sleep(0.3)
        ballast.unlink()
        began = now()
        refused += _enqueue_until_accepted(workload, log)
        while any(number for status, number in service.jobs.counts().items() if not status.ended):
            time.sleep(0.005)
        resumed_after = now() - began
    told.write_bytes(msgspec.json.encode(Told(refused=refused, message=message, resumed_after=resumed_after)))


def _fill(ballast: Path) -> None:
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def _enqueue_until_refused(workload: Workload, log: Log) -> tuple[int, str]:
    until = now() + LONGEST
    while now() < until:
        try:
            log.write(ACKED, workload.service.enqueue("settle", {"order": -1, "padding": PAYLOAD}))
        except DatabaseUnavailable as error:
            return 1, str(error)
    raise TimeoutError("the disk was never full")


def _enqueue_until_accepted(workload: Workload, log: Log) -> int:
    refused = 0
    while True:
        try:
            log.write(ACKED, workload.service.enqueue("settle", {"order": -1}))
        except DatabaseUnavailable:
            refused += 1
            time.sleep(0.01)
        else:
            return refused


def main(arguments: Sequence[str]) -> None:
    """Run rounds on small disks of memory and print the figures as JSON. Needs root: it mounts."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=2)
    chosen = parser.parse_args(arguments)
    figures = DiskFigures()
    gc.freeze()
    for number in range(chosen.rounds):
        with tempfile.TemporaryDirectory() as name:
            disk, told = Path(name) / "disk", Path(name) / "told"
            disk.mkdir()
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(disk)], check=True)
            try:
                _one_round(disk, told, number, figures)
            finally:
                subprocess.run(["umount", str(disk)], check=True)
    sys.stdout.write(msgspec.json.encode(figures).decode() + "\n")


def _one_round(disk: Path, told: Path, number: int, figures: DiskFigures) -> None:
    errors = told.with_suffix(".errors")
    status = wait_for(fork(lambda: run(disk, told, number), errors), 2 * LONGEST)
    figures.rounds += 1
    if status != 0:
        figures.findings.wrongs = [*figures.findings.wrongs, f"status {status}: {last_words(errors)}"]
        return
    figures.findings.add(audit(disk / "app.db", told.with_suffix(".log")))
    said = msgspec.json.decode(told.read_bytes(), type=Told)
    figures.refused += said.refused
    figures.messages = [*figures.messages, said.message]
    figures.resumed_after.append(said.resumed_after)
