"""F16 on PostgreSQL: signals at random, two versions of an app at once, keys nobody knows, tables made under load."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing
from typing import TYPE_CHECKING

import psycopg
from tests.faults.audit import audit_postgres
from tests.faults.history import Log
from tests.faults.postgres_workload import PostgresWorkload
from tests.faults.running import ROOT
from tests.faults.test_deployments import LONGEST, wait_until

from sidework import BackgroundService, NotMigrated

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SIGNALS, ORDERS_BETWEEN = 6, 4

APP = """
import sys
from pathlib import Path
from sidework import JobContext
from tests.faults.history import Log
from tests.faults.postgres_workload import PostgresWorkload
from tests.faults.workload import claim_of

log = Log(Path(sys.argv[2]))
workload = PostgresWorkload(sys.argv[1], log, dwell=0.01)
workload.service._grace = 0.5
if sys.argv[3] == "new":
    @workload.service.handler("only_new")
    def only_new(job: JobContext, order: int) -> None:
        log.write("invoked", job.id, claim_of(job))
        log.write("returned", job.id, claim_of(job))
workload.work()
"""


def start(url: str, log: Path, version: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", APP, url, log, version], cwd=ROOT, stderr=subprocess.DEVNULL)


def unended(url: str) -> bool:
    question = "SELECT 1 FROM background_service_jobs WHERE status IN ('PENDING', 'SCHEDULED', 'RUNNING') LIMIT 1"
    with closing(psycopg.connect(url, autocommit=True)) as connection:
        return bool(connection.execute(question).fetchall())


def test_two_versions_replaced_by_signals_at_random_finish_everything_once_on_postgres(
    postgres_database: str, tmp_path: Path, figures: Callable[[str], None]
):
    chance, log = random.Random(16), tmp_path / "log"
    workload = PostgresWorkload(postgres_database, Log(log))
    workload.prepare()
    only_new = workload.service.declare("only_new")
    workers = [start(postgres_database, log, version) for version in ("old", "new")]
    keys = ("settle", "settle_async", "settle_in_block", "outside", "only_new")
    for number in range(SIGNALS):
        for key in keys * ORDERS_BETWEEN:
            handle = only_new if key == "only_new" else workload.service.handlers[key]
            handle.enqueue(order=-1)
        time.sleep(chance.random() * 0.5)
        old = workers.pop(0)
        old.send_signal(chance.choice((signal.SIGTERM, signal.SIGINT, signal.SIGKILL)))
        old.wait(LONGEST)
        workers.append(start(postgres_database, log, ("old", "new")[number % 2]))
    wait_until(lambda: not unended(postgres_database))
    for worker in workers:
        worker.kill()
        worker.wait()
    workload.service.close()
    found = audit_postgres(postgres_database, log)
    figures(
        f"F16 deployments, PostgreSQL: {SIGNALS} signals, {found.jobs} jobs, lost {found.lost}, doubled {found.doubled}"
    )
    assert found.wrongs == []
    assert found.jobs == SIGNALS * ORDERS_BETWEEN * len(keys)


def test_a_key_that_nobody_knows_stays_and_holds_nobody_up_on_postgres(postgres_database: str):
    service = BackgroundService(postgres_database)
    service.register_job_handler("known", lambda: None)
    for _ in range(50):
        service.declare("from another version").using(priority=10).enqueue()
    known = service.enqueue("known")
    with service:
        assert service.wait(known, LONGEST).status == "COMPLETED"
    assert service.jobs.count(status="PENDING") == 50
    service.close()


def test_tables_are_made_by_many_at_once_while_others_enqueue(postgres_database: str, figures: Callable[[str], None]):
    stop, written, refused, ran = threading.Event(), list[int](), list[int](), list[int]()
    outsider = BackgroundService(postgres_database)
    outsider._migrated = True  # it makes no tables: it enqueues as soon as there are any
    handle = outsider.declare("k")

    def enqueue() -> None:
        while not stop.is_set():
            try:
                written.append(handle.enqueue())
            except NotMigrated:
                refused.append(1)
            time.sleep(0.002)

    services = [BackgroundService(postgres_database, keep_completed=None) for _ in range(3)]
    for service in services:
        service.register_job_handler("k", lambda: ran.append(1))
    threads = [threading.Thread(target=enqueue) for _ in range(2)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(refused) >= 10)
    starting = [threading.Thread(target=service.start) for service in services]
    for each in starting:
        each.start()
    for each in starting:
        each.join(LONGEST)
    wait_until(lambda: len(written) >= 50)
    stop.set()
    for thread in threads:
        thread.join()
    wait_until(lambda: not unended(postgres_database))
    for service in services:
        service.stop()
        service.close()
    completed = outsider.jobs.count(status="COMPLETED")
    outsider.close()
    figures(
        f"F16 tables made under load, PostgreSQL: {len(refused)} refused before, {len(written)} jobs, {len(ran)} run"
    )
    assert len(set(written)) == len(written) == completed == len(ran)
