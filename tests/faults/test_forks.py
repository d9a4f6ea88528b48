"""F11: a program that forks with everything open: the child is refused, the parent unharmed, and a death still seen."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

from tests.faults.running import ROOT

if TYPE_CHECKING:
    from pathlib import Path

FORKING_ENQUEUER = """
import os, sys, warnings
warnings.simplefilter("ignore")
from sidework import BackgroundService
from sidework.errors import SideworkError

service = BackgroundService(sys.argv[1])
service.register_job_handler("k", lambda: None)
first = service.enqueue("k")
child = os.fork()
if child == 0:
    try:
        service.enqueue("k")
    except SideworkError as error:
        os._exit(0 if "forked" in str(error) else 2)
    os._exit(1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
second = service.enqueue("k")
print(first, second, sorted(job.id for job in service.jobs.list()))
"""

FORKING_HANDLER = """
import os, sqlite3, sys, time, warnings
warnings.simplefilter("ignore")
from sidework import BackgroundService

service = BackgroundService(sys.argv[1])

@service.handler("k")
def k(db: sqlite3.Connection):
    db.execute("CREATE TABLE effects (n)")
    child = os.fork()
    if child == 0:
        try:
            db.execute("INSERT INTO effects VALUES (666)")
        except BaseException as error:
            service_is_told = "forked" in str(error)
            del db
            os._exit(0 if service_is_told else 2)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    db.execute("INSERT INTO effects VALUES (1)")

job = service.enqueue("k")
service.run_until_idle()
ended = service.jobs.get(job)
print(ended.status, ended.last_error, sqlite3.connect(sys.argv[1]).execute("SELECT n FROM effects").fetchall())
"""

WORKER_WITH_A_CHILD = """
import os, sys, time, warnings
warnings.simplefilter("ignore")
from sidework import BackgroundService

service = BackgroundService(sys.argv[1])

@service.handler("k")
def k():
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    print(child, flush=True)
    time.sleep(60)

service.run()
"""


def run(program: str, path: Path) -> str:
    ended = subprocess.run(
        [sys.executable, "-c", program, path], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


def test_a_forked_child_may_not_enqueue_and_its_parent_goes_on(tmp_path: Path):
    assert run(FORKING_ENQUEUER, tmp_path / "app.db") == "1 2 [1, 2]"


def test_a_child_that_a_handler_forked_cannot_write_into_its_transaction(tmp_path: Path):
    assert run(FORKING_HANDLER, tmp_path / "app.db") == "COMPLETED None [(1,)]"


def test_a_child_that_outlives_its_worker_does_not_keep_it_alive(tmp_path: Path):
    from sidework import BackgroundService

    path = tmp_path / "app.db"
    service = BackgroundService(path)
    service.register_job_handler("k", lambda: "done elsewhere", max_attempts=3)
    job = service.enqueue("k")
    worker = subprocess.Popen([sys.executable, "-c", WORKER_WITH_A_CHILD, path], cwd=ROOT, stdout=subprocess.PIPE)
    assert worker.stdout is not None
    child = int(worker.stdout.readline())
    worker.kill()
    worker.wait()
    try:
        with service:
            assert service.wait(job, 20).result == "done elsewhere"
    finally:
        os.kill(child, 9)
        worker.stdout.close()
