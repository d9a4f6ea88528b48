"""F1: how long it takes from the death of a worker inside a job until another, living one runs that job again."""

from __future__ import annotations

import argparse
import gc
import os
import signal
import sqlite3
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from tests.faults import history
from tests.faults.processes import fork, last_words, now
from tests.faults.workload import Workload, claim_of

from sidework import BackgroundService, JobContext

if TYPE_CHECKING:
    from collections.abc import Sequence

LONGEST = 20.0
SETTLING = 0.05


class RecoveryFigures(msgspec.Struct, kw_only=True):
    """Seconds from each kill to the next run, and how often the effect is there at the end."""

    kills: int = 0
    recoveries: list[float] = []
    effects: int = 0


def be_a_worker(path: Path, log: history.Log) -> None:
    """Hold the first claim of every job for ever, inside its transaction; end all later ones at once."""
    service = BackgroundService(path)

    @service.handler("held", max_crashes=1000)
    def held(db: sqlite3.Connection, job: JobContext) -> None:
        db.execute("INSERT INTO effects VALUES (?, ?)", (job.id, claim_of(job)))
        log.write(history.INVOKED, job.id, claim_of(job))
        if claim_of(job) == 1:
            time.sleep(10 * LONGEST)

    service.run()


def wait_for_run(log: Path, job: int, number: int) -> history.Event:
    """Return the event of a claim's run, as soon as it is there."""
    until = now() + LONGEST
    while now() < until:
        for event in history.read(log):
            if (event.job, event.number) == (job, number):
                return event
        time.sleep(0.002)
    raise TimeoutError(f"job {job} was not run under claim {number}")


def wait_for_seats(path: Path, workers: set[int]) -> None:
    """Return when all of these processes are workers and wait for jobs: what is measured is no start of a process."""
    until = now() + LONGEST
    while not workers <= seated(path):
        if now() > until:
            raise TimeoutError(f"of {workers} only {seated(path)} have a seat")
        time.sleep(0.002)
    time.sleep(SETTLING)


def seated(path: Path) -> set[int]:
    """Return the processes that have a worker's row."""
    connection = sqlite3.connect(path)
    processes = {process for (process,) in connection.execute("SELECT pid FROM background_service_workers")}
    connection.close()
    return processes


def enqueue_one(path: Path) -> int:
    """Add a job as any other program may: the parent keeps no connection when it forks."""
    connection = sqlite3.connect(path)
    with connection:
        job = connection.execute("INSERT INTO background_service_jobs (job_key) VALUES ('held')").lastrowid
    connection.close()
    assert job is not None
    return job


def count_effects(path: Path) -> int:
    """Return how many effects are committed."""
    connection = sqlite3.connect(path)
    number: int = connection.execute("SELECT count(*) FROM effects").fetchone()[0]
    connection.close()
    return number


def wait_for_effects(path: Path, number: int) -> None:
    """Return when so many are there: the last run was seen before its commit, and is not to be killed in it."""
    until = now() + LONGEST
    while count_effects(path) < number:
        if now() > until:
            raise TimeoutError(f"there are {count_effects(path)} effects of {number}")
        time.sleep(0.002)


def measure(folder: Path, kills: int) -> RecoveryFigures:
    """Kill one of two workers inside a job, again and again."""
    figures = RecoveryFigures()
    path, log_file = folder / "app.db", folder / "log"
    log = history.Log(log_file)
    maker = fork(Workload(path, log).prepare, folder / "errors")
    os.waitpid(maker, 0)
    workers = {fork(lambda: be_a_worker(path, log), folder / "errors") for _ in range(2)}
    try:
        for _ in range(kills):
            wait_for_seats(path, workers)
            job = enqueue_one(path)
            victim = wait_for_run(log_file, job, 1).process
            died_at = now()
            os.kill(victim, signal.SIGKILL)
            figures.recoveries.append(wait_for_run(log_file, job, 2).time - died_at)
            figures.kills += 1
            os.waitpid(victim, 0)
            workers = workers - {victim} | {fork(lambda: be_a_worker(path, log), folder / "errors")}
        wait_for_effects(path, kills)
    except TimeoutError as error:
        raise AssertionError(f"{error}: {last_words(folder / 'errors')}") from error
    finally:
        for worker in workers:
            os.kill(worker, signal.SIGKILL)
    figures.effects = count_effects(path)
    return figures


def main(arguments: Sequence[str]) -> None:
    """Measure and print the figures as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=30)
    chosen = parser.parse_args(arguments)
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        gc.freeze()
        sys.stdout.write(msgspec.json.encode(measure(Path(folder), chosen.kills)).decode() + "\n")
