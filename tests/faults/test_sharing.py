"""One file, several processes: other programs enqueue, two services share the work, the application goes on writing."""

from __future__ import annotations

import shutil
import sqlite3
import statistics
import subprocess
import sys
import threading
import time

import pytest

from sidework import BackgroundService, JobStatus

DEADLINE = 30
SEED_INSERT = (
    "INSERT INTO background_service_jobs (job_key, payload, priority, max_attempts, status) "
    "VALUES ('note', '{\"text\":\"from the shell\"}', 0, 3, 'PENDING')"
)


@pytest.mark.skipif(shutil.which("sqlite3") is None, reason="needs the sqlite3 program")
def test_the_seeds_insert_by_another_program_is_done_within_50_ms(tmp_path):
    path = tmp_path / "app.db"
    service = BackgroundService(path)
    ended = threading.Event()
    at = []

    @service.handler
    def note(payload) -> None:
        at.append(time.monotonic())  # noqa: TID251 - the time that really passes is what this test is about
        ended.set()

    took = []
    with service:
        for _ in range(5):
            ended.clear()
            subprocess.run(
                ["sqlite3", str(path), f"PRAGMA busy_timeout=5000; {SEED_INSERT}"], check=True, capture_output=True
            )
            inserted = time.monotonic()  # noqa: TID251
            assert ended.wait(DEADLINE)
            took.append(at[-1] - inserted)
    # Without the doorbell it would be the second between two looks. The median: one late wake-up is the machine's.
    assert statistics.median(took) < 0.05
    assert service.jobs.counts()[JobStatus.PENDING] == 0


WORKER = """
import sqlite3, sys
from sidework import BackgroundService
service = BackgroundService(sys.argv[1])

@service.handler
def add(db: sqlite3.Connection, number: int) -> None:
    db.execute("UPDATE total SET value = value + ?, runs = runs + 1", (number,))

@service.handler
def quick(number: int) -> None:
    pass

service.run_until_idle()
print(len([job for job in service.jobs.list(limit=10000) if job.last_error]))
"""

APPLICATION = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], timeout=5, isolation_level=None)
connection.execute("PRAGMA synchronous=FULL")
sys.stdin.readline()
took, late = [], []
while len(took) < 300:
    began = time.perf_counter()
    connection.execute("INSERT INTO visits VALUES (1)")
    wrote = time.perf_counter()
    took.append(wrote - began)
    time.sleep(0.005)
    late.append(time.perf_counter() - wrote - 0.005)
print(*(sorted(times)[int(len(times) * 0.99)] for times in (took, late)))
"""


def start(program, path):
    return subprocess.Popen(
        [sys.executable, "-c", program, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def share_one_file(path):
    """Let two services drain while the application writes; return its slowest writes and sleeps (p99, s; s over)."""
    service = BackgroundService(path)
    service.migrate()
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("CREATE TABLE total (value INTEGER, runs INTEGER)")
    connection.execute("INSERT INTO total VALUES (0, 0)")
    connection.execute("CREATE TABLE visits (x INTEGER)")
    count = 2000
    handlers = service.declare("add"), service.declare("quick")
    service.enqueue_many(handler.new(number=n) for n in range(count) for handler in handlers)
    with start(APPLICATION, path) as application, start(WORKER, path) as one, start(WORKER, path) as other:
        application.stdin.write("go\n")
        application.stdin.flush()
        errors = [worker.communicate(timeout=DEADLINE)[0] for worker in (one, other)]
        took, late = map(float, application.communicate(timeout=DEADLINE)[0].split())
    assert errors == ["0\n", "0\n"]
    assert one.returncode == other.returncode == application.returncode == 0
    assert connection.execute("SELECT value, runs FROM total").fetchone() == (sum(range(count)), count)
    assert service.jobs.counts()[JobStatus.COMPLETED] == 2 * count
    assert connection.execute("SELECT count(*) FROM visits").fetchone() == (300,)
    connection.close()
    return took, late


def test_two_services_and_the_application_share_one_file(tmp_path, figures):
    # Without the room that services leave to strangers its writes take 0.1 to 0.3 s. A machine that is busy with other
    # tests makes everything late, a plain sleep too: that much is taken off, and one of several runs has to be good.
    for run in range(5):
        took, late = share_one_file(tmp_path / f"{run}.db")
        if took - 2 * late < 0.05:
            break
    figures(
        f"sharing: a stranger's write beside two services: p99 {took * 1e3:.1f} ms (oversleeping {late * 1e3:.1f} ms)"
    )
    assert took - 2 * late < 0.05
