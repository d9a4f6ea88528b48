"""F10: the wall clocks of all processes jump by an hour, forth and back, each at its own times, while they work."""

from __future__ import annotations

import argparse
import gc
import os
import random
import signal
import sqlite3
import sys
import tempfile
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
from tests.faults.audit import Findings, audit
from tests.faults.history import Log
from tests.faults.processes import fork, last_words, wait_for
from tests.faults.shim import Shim
from tests.faults.workload import Workload

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

HOUR: Final = 3600
WORKERS, ENQUEUERS = 2, 1


class ClockFigures(msgspec.Struct, kw_only=True):
    """What came of it."""

    jumps: int = 0
    taken_for_dead: int = 0
    """Jobs whose living worker was taken for dead."""
    run_more_than_once: int = 0
    findings: Findings = msgspec.field(default_factory=Findings)


def jumping(be: Callable[[], None], seed: int, jumps: Path) -> Callable[[], None]:
    """Let the clock of the process that is `be` jump all the time, and leave a byte in a file for each jump."""

    def jump() -> None:
        shim, chance = Shim(), random.Random(seed)
        descriptor = os.open(jumps, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        while True:
            shim.move_clock(chance.choice((-HOUR, 0, HOUR)))
            os.write(descriptor, b".")
            time.sleep(chance.random() * 0.03)

    def be_while_jumping() -> None:
        threading.Thread(target=jump, daemon=True).start()
        be()

    return be_while_jumping


def main(arguments: Sequence[str]) -> None:
    """Let clocks jump for a while and print the figures as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=4.0)
    chosen = parser.parse_args(arguments)
    memory = Path("/dev/shm")
    gc.freeze()
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as name:
        folder, figures = Path(name), ClockFigures()
        path, errors, jumps = folder / "app.db", folder / "errors", folder / "jumps"
        log = Log(folder / "log")
        os.waitpid(fork(Workload(path, log).prepare, errors), 0)
        workers = [fork(jumping(Workload(path, log).work, seed, jumps), errors) for seed in range(WORKERS)]
        enqueuer = fork(jumping(Workload(path, log, seed=3).place_orders, 3, jumps), errors)
        time.sleep(chosen.seconds)
        os.kill(enqueuer, signal.SIGKILL)
        os.waitpid(enqueuer, 0)
        for worker in workers:
            os.kill(worker, signal.SIGTERM)
        ends = [wait_for(worker, 40) for worker in workers]
        ends.append(wait_for(fork(Workload(path, log).drain, errors), 60))
        figures.findings = audit(path, folder / "log")
        if any(ends):
            figures.findings.wrongs = [*figures.findings.wrongs, f"ended with {ends}: {last_words(errors)}"]
        figures.jumps = jumps.stat().st_size
        with closing(sqlite3.connect(path)) as connection:
            question = "SELECT total(crashes > 0), total(claims > 1) FROM background_service_jobs"
            dead, again = connection.execute(question).fetchone()
        figures.taken_for_dead, figures.run_more_than_once = int(dead), int(again)
        sys.stdout.write(msgspec.json.encode(figures).decode() + "\n")
