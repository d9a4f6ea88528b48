"""F7: a worker is stopped in the middle of a job and goes on later.

Alive and stopped, its job is not taken away. If somebody does take it away (its lock file or its row is removed by
hand), the job runs again elsewhere, and what the first worker then tries to commit is refused.
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import shutil
import signal
import sqlite3
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
from tests.faults import history
from tests.faults.processes import fork, now
from tests.faults.slots import Slots
from tests.faults.workload import SCHEMA, claim_of

from sidework import BackgroundService, JobContext
from sidework.storage.sqlite import pool

if TYPE_CHECKING:
    from collections.abc import Sequence

LONGEST: Final = 20.0
WAITING, GO = 0, 1
FIRST, SECOND = 1, 2
LATE: Final = "late"
"""What is logged of a handler whose end was refused."""


class PauseFigures(msgspec.Struct, kw_only=True):
    """What came of it."""

    pauses: int = 0
    """Workers that were stopped, alive, beside an idle one."""
    stolen: int = 0
    superseded: int = 0
    """Workers that were stopped and whose job was taken away by hand."""
    late_commits: int = 0
    """Of those, how many committed all the same, or changed the effects."""
    refused: int = 0
    wrongs: list[str] = []


def be_a_worker(path: Path, log: history.Log, slots: Slots, *, fenced: bool) -> None:
    """Wait, under the first claim of a job, until told to go on; before the first write or after it."""
    if not fenced:
        _take_the_fence_away()
    service = BackgroundService(path, grace=0.1)

    @service.handler("pausing", max_attempts=1000, max_crashes=1000, backoff=(0.0,))
    def pausing(db: sqlite3.Connection, job: JobContext, inside: bool) -> None:
        if inside:
            db.execute("INSERT INTO effects VALUES (?, ?)", (job.id, claim_of(job)))
        log.write(history.INVOKED, job.id, claim_of(job))
        while claim_of(job) == FIRST and slots.read(0)[0] == WAITING:
            time.sleep(0.001)
        try:
            if not inside:
                db.execute("INSERT INTO effects VALUES (?, ?)", (job.id, claim_of(job)))
        except BaseException:
            log.write(LATE, job.id, claim_of(job))
            raise
        log.write(history.RETURNED, job.id, claim_of(job))

    service.run()


def _take_the_fence_away() -> None:
    """The control: what a queue without a fence would do."""
    pool.SQL["fence"] = "SELECT ? OR ?"
    settle = pool.SQL["settle_one"]
    pool.SQL["settle_one"] = settle.replace("AND +claims = :claims", "").replace("AND +status = 'RUNNING'", "")
    assert pool.SQL["settle_one"].count("AND") + 2 == settle.count("AND")


class Scene:
    """One database, one job and two workers."""

    def __init__(self, folder: Path, slots: Slots, *, fenced: bool, inside: bool) -> None:
        self._path = folder / "app.db"
        self._errors = folder / "errors"
        self._log_file = folder / "log"
        self._log = history.Log(self._log_file)
        self._slots = slots
        self._slots.enter(0, WAITING, 0)
        self._fenced = fenced
        os.waitpid(fork(self._make_tables, self._errors), 0)
        self._sql(f"INSERT INTO background_service_jobs (job_key, payload) VALUES ('pausing', '{_payload(inside)}')")
        self.workers = [self._hire()]
        self.wait_for(history.INVOKED, FIRST)

    def _make_tables(self) -> None:
        BackgroundService(self._path).migrate()
        for statement in SCHEMA:
            self._sql(statement)

    def _hire(self) -> int:
        return fork(lambda: be_a_worker(self._path, self._log, self._slots, fenced=self._fenced), self._errors)

    def hire_another(self) -> None:
        """Let a second worker come."""
        self.workers.append(self._hire())

    def stop_the_first(self) -> None:
        os.kill(self.workers[0], signal.SIGSTOP)

    def let_the_first_go_on(self) -> None:
        self._slots.enter(0, GO, 0)
        os.kill(self.workers[0], signal.SIGCONT)

    def take_for_dead(self, how: str) -> None:
        """Do by hand what makes the first worker look dead."""
        if how == "its lock file is removed":
            for lock in self._path.parent.glob("*.worker-*.lock"):
                lock.unlink()
        else:
            self._sql("DELETE FROM background_service_workers")

    def wait_for(self, kind: str, number: int, seconds: float = LONGEST) -> bool:
        """Return whether an event comes in time."""
        until = now() + seconds
        while now() < until:
            if any((event.kind, event.number) == (kind, number) for event in history.read(self._log_file)):
                return True
            time.sleep(0.001)
        return False

    def wait_for_an_end(self) -> bool:
        """Return whether the job comes to an end in time."""
        until = now() + LONGEST
        while now() < until:
            if self._sql("SELECT 1 FROM background_service_jobs WHERE status = 'COMPLETED'"):
                return True
            time.sleep(0.002)
        return False

    def effects(self) -> list[int]:
        """Return the claims under which effects were committed."""
        return [claim for (claim,) in self._sql("SELECT claim FROM effects")]

    def close(self) -> None:
        for worker in self.workers:
            os.kill(worker, signal.SIGKILL)
            os.waitpid(worker, 0)
        self._log.close()

    def _sql(self, statement: str) -> list[tuple[int, ...]]:
        with closing(sqlite3.connect(self._path, timeout=LONGEST, isolation_level=None)) as connection:
            return connection.execute(statement).fetchall()


def _payload(inside: bool) -> str:
    return '{"inside": true}' if inside else '{"inside": false}'


def pause(scene: Scene, seconds: float, figures: PauseFigures) -> None:
    """Stop the first worker for a while, beside an idle one; nobody may take its job."""
    scene.stop_the_first()
    scene.hire_another()
    figures.pauses += 1
    figures.stolen += scene.wait_for(history.INVOKED, SECOND, seconds)
    scene.let_the_first_go_on()
    if not scene.wait_for_an_end() or scene.effects() != [FIRST]:
        figures.wrongs = [*figures.wrongs, f"paused: effects under claims {scene.effects()}"]


def supersede(scene: Scene, how: str, figures: PauseFigures) -> None:
    """Stop the first worker, give its job to another, let it go on."""
    scene.stop_the_first()
    scene.take_for_dead(how)
    scene.hire_another()
    figures.superseded += 1
    if not scene.wait_for_an_end():
        figures.wrongs = [*figures.wrongs, f"{how}: the job was not run again"]
        return
    scene.let_the_first_go_on()
    figures.refused += scene.wait_for(LATE, FIRST, 0.0 if scene.wait_for(history.RETURNED, FIRST, 0.3) else LONGEST)
    time.sleep(0.05)  # for a commit that must not come
    figures.late_commits += scene.effects() != [SECOND]


def main(arguments: Sequence[str]) -> None:
    """Run scenes and print the figures as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--scenes", type=int, default=10)
    parser.add_argument("--pause", type=float, default=0.5)
    parser.add_argument("--without-fence", action="store_true")
    chosen = parser.parse_args(arguments)
    chance, figures, slots = random.Random(chosen.seed), PauseFigures(), Slots(1)
    memory = Path("/dev/shm")
    gc.freeze()
    for number in range(chosen.scenes):
        with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None, ignore_cleanup_errors=True) as name:
            paused = number % 3 == 0 and not chosen.without_fence
            inside = paused and chance.random() < 0.5
            scene = Scene(Path(name), slots, fenced=not chosen.without_fence, inside=inside)
            try:
                if paused:
                    pause(scene, chosen.pause, figures)
                else:
                    supersede(scene, chance.choice(("its lock file is removed", "its row is deleted")), figures)
            finally:
                scene.close()
            shutil.rmtree(name, ignore_errors=True)
    sys.stdout.write(msgspec.json.encode(figures).decode() + "\n")
