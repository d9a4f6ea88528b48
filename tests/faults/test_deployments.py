"""F16: signals at random, two versions of an app at once, keys nobody knows, tables made while others write."""

from __future__ import annotations

import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from typing import TYPE_CHECKING

from tests.faults.audit import audit
from tests.faults.processes import now
from tests.faults.running import ROOT

from sidework import BackgroundService

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LONGEST = 60.0
SIGNALS, ORDERS_BETWEEN = 10, 8

APP = """
import sqlite3, sys, time
from pathlib import Path
from sidework import JobContext
from tests.faults.history import Log
from tests.faults.workload import Workload, claim_of

folder, version = Path(sys.argv[1]), sys.argv[2]
log = Log(folder / "log")
workload = Workload(folder / "app.db", log, dwell=0.003)
workload.service._grace = 0.5
if version == "new":
    @workload.service.handler("only_new")
    def only_new(job: JobContext, order: int) -> None:
        log.write("invoked", job.id, claim_of(job))
        log.write("returned", job.id, claim_of(job))
workload.work()
"""


def start(folder: Path, version: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", APP, folder, version], cwd=ROOT, stderr=subprocess.DEVNULL)


def unended(path: Path) -> int:
    with closing(sqlite3.connect(path, timeout=10)) as connection:
        question = "SELECT count(*) FROM background_service_jobs WHERE status IN ('PENDING', 'SCHEDULED', 'RUNNING')"
        return int(connection.execute(question).fetchone()[0])


def wait_until(reached: Callable[[], bool]) -> None:
    until = now() + LONGEST
    while not reached() and now() < until:
        time.sleep(0.01)


def test_two_versions_replaced_by_signals_at_random_finish_everything_once(
    tmp_path: Path, figures: Callable[[str], None]
):
    from tests.faults.history import Log
    from tests.faults.workload import Workload

    chance = random.Random(16)
    workload = Workload(tmp_path / "app.db", Log(tmp_path / "log"))
    workload.prepare()
    workload.service.declare("only_new")
    workers = [start(tmp_path, "old"), start(tmp_path, "new")]
    keys = ("settle", "settle_async", "settle_in_block", "outside", "only_new")
    service = workload.service
    for number in range(SIGNALS):
        for _ in range(ORDERS_BETWEEN):
            for key in keys:
                handle = service.declare(key) if key == "only_new" else service.handlers[key]
                handle.enqueue(order=-1)
        time.sleep(chance.random() * 0.4)
        old = workers.pop(0)
        old.send_signal(chance.choice((signal.SIGTERM, signal.SIGINT, signal.SIGKILL)))
        old.wait(LONGEST)
        workers.append(start(tmp_path, ("old", "new")[number % 2]))
    wait_until(lambda: not unended(tmp_path / "app.db"))
    for worker in workers:
        worker.kill()
        worker.wait()
    found = audit(tmp_path / "app.db", tmp_path / "log")
    figures(f"F16 deployments: {SIGNALS} signals, {found.jobs} jobs, lost {found.lost}, doubled {found.doubled}")
    assert found.wrongs == []
    assert found.jobs == SIGNALS * ORDERS_BETWEEN * len(keys)


def test_a_key_that_nobody_knows_stays_and_holds_nobody_up(tmp_path: Path):
    service = BackgroundService(tmp_path / "app.db")
    service.register_job_handler("known", lambda: None)
    for _ in range(50):
        service.declare("from another version").using(priority=10).enqueue()
    known = service.enqueue("known")
    with service:
        assert service.wait(known, LONGEST).status == "COMPLETED"
    assert service.jobs.count(status="PENDING") == 50


SEED = """
CREATE TABLE background_service_jobs (
    id INTEGER PRIMARY KEY AUTOINCREMENT, job_key TEXT NOT NULL, payload TEXT,
    status TEXT NOT NULL DEFAULT 'PENDING' CHECK (status IN ('PENDING', 'RUNNING', 'COMPLETED', 'FAILED')),
    attempts INTEGER NOT NULL DEFAULT 0, max_attempts INTEGER NOT NULL DEFAULT 3, last_attempt_at TEXT, last_error TEXT,
    priority INTEGER NOT NULL DEFAULT 0,
    created_at TEXT NOT NULL DEFAULT (STRFTIME('%Y-%m-%dT%H:%M:%fZ', 'NOW')),
    updated_at TEXT NOT NULL DEFAULT (STRFTIME('%Y-%m-%dT%H:%M:%fZ', 'NOW'))
)
"""


def test_tables_are_taken_over_while_programs_of_the_seed_write(tmp_path: Path, figures: Callable[[str], None]):
    path = tmp_path / "app.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(SEED)
    stop, written = threading.Event(), list[int]()

    def be_the_seed() -> None:
        with closing(sqlite3.connect(path, timeout=30, isolation_level=None)) as connection:
            while not stop.is_set():
                row = connection.execute(
                    "INSERT INTO background_service_jobs (job_key, payload, priority, max_attempts, status)"
                    " VALUES ('k', NULL, 0, 3, 'PENDING') RETURNING id"
                ).fetchone()
                written.append(row[0])
                time.sleep(0.0005)

    writers = [threading.Thread(target=be_the_seed) for _ in range(2)]
    for writer in writers:
        writer.start()
    ran = []
    services = [BackgroundService(path, keep_completed=None) for _ in range(2)]
    for service in services:
        service.register_job_handler("k", lambda: ran.append(1))
    wait_until(lambda: len(written) >= 20)
    starting = [threading.Thread(target=service.start) for service in services]
    for each in starting:
        each.start()
    for each in starting:
        each.join(LONGEST)
    enough = len(written) + 40
    wait_until(lambda: len(written) >= enough)
    stop.set()
    for writer in writers:
        writer.join()
    wait_until(lambda: not unended(path))
    for service in services:
        service.stop()
    figures(f"F16 migration under load: {len(written)} rows written meanwhile, {len(ran)} run")
    assert len(set(written)) == len(written) == services[0].jobs.count(status="COMPLETED") == len(ran)
