"""Where a service runs, how it begins and how it ends."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import subprocess
import sys
import threading

import pytest

from sidework import BackgroundService, DatabaseUnavailable, JobStatus, SideworkError

DEADLINE = 10


def test_a_handler_of_the_seed_works_unchanged(service, path):
    seen = []

    def handle(service, payload, db):
        seen.append((service, payload))
        db.execute("CREATE TABLE IF NOT EXISTS notes (text)")
        db.execute("INSERT INTO notes VALUES (?)", ((payload or {}).get("note"),))

    service.register_job_handler("note", handle)
    service.job(job_key="note", payload={"note": "hello"})
    service.job(job_key="note")
    service.run_until_idle()
    assert sorted(seen, key=str) == sorted([(service, {"note": "hello"}), (service, None)], key=str)
    connection = sqlite3.connect(path)
    assert set(connection.execute("SELECT text FROM notes")) == {("hello",), (None,)}
    connection.close()
    assert service.jobs.counts()[JobStatus.COMPLETED] == 2


def test_start_runs_jobs_in_a_thread_and_stop_ends_it(service):
    @service.handler
    def where() -> str:
        return threading.current_thread().name

    service.start()
    assert service.is_running()
    assert where.result(where.enqueue(), timeout=DEADLINE) != threading.current_thread().name
    service.stop()
    assert not service.is_running()
    service.stop()  # twice is no error


def test_a_service_that_is_only_starting_or_stopping_does_not_say_that_it_runs(service):
    said = []

    @service.on_startup
    @service.on_shutdown
    def look():
        said.append(service.is_running())

    @service.handler
    def look_again() -> bool:
        return bool(service.is_running())

    with service:
        assert service.is_running()
        assert look_again.result(look_again.enqueue(), timeout=DEADLINE) is True
    assert said == [False, False]


def test_with_starts_and_stops(service):
    @service.handler
    async def double(n: int) -> int:
        return 2 * n

    with service as running:
        assert running is service
        assert double.result(double.enqueue(n=21), timeout=DEADLINE) == 42
    assert not service.is_running()


def test_async_with_runs_in_the_loop_that_is_there(service):
    loops = []

    @service.handler
    async def where() -> None:
        loops.append(asyncio.get_running_loop())

    async def main() -> None:
        async with service:
            assert service.is_running()
            job_id = await where.aenqueue()
            await where.aresult(job_id, timeout=DEADLINE)
            assert loops == [asyncio.get_running_loop()]

    asyncio.run(main())
    assert not service.is_running()


def test_run_until_idle_runs_what_jobs_enqueue_and_leaves_what_is_due_later(service):
    @service.handler
    def countdown(n: int) -> None:
        if n:
            countdown.enqueue(n=n - 1)

    countdown.enqueue(n=5)
    later = countdown.using(delay=3600).enqueue(n=0)
    assert service.run_until_idle() is True
    assert service.jobs.counts()[JobStatus.COMPLETED] == 6
    assert service.jobs.get(later).status is JobStatus.SCHEDULED


def test_hooks_run_before_the_first_and_after_the_last_job(service):
    order = []

    @service.on_startup
    async def connect(given):
        given.state.client = "client"
        order.append("up")

    @service.on_shutdown
    def close():
        order.append("down")

    @service.handler
    def use(service: BackgroundService) -> None:
        order.append(service.state.client)

    service.enqueue("use")
    service.run_until_idle()
    assert order == ["up", "client", "down"]


def test_a_service_runs_once_at_a_time(service):
    with service:
        with pytest.raises(SideworkError, match="running already"):
            service.start()
        with pytest.raises(SideworkError, match="running already"):
            service.run_until_idle()
    with service:
        assert service.is_running()


def test_start_raises_what_kept_it_from_starting(tmp_path):
    service = BackgroundService(tmp_path / "no such folder" / "app.db")
    with pytest.raises(DatabaseUnavailable, match="no such folder"):
        service.start()
    assert not service.is_running()

    failing = BackgroundService(tmp_path / "app.db")

    @failing.on_startup
    def fail():
        raise ConnectionError("no cache server")

    with pytest.raises(ConnectionError, match="no cache server"):
        failing.start()
    assert not failing.is_running()


def test_a_handler_cannot_stop_its_own_service_and_wait_for_it(service):
    @service.handler(max_attempts=1, executor="loop")
    def suicide() -> None:
        service.stop()

    with service:
        job = service.wait(suicide.enqueue(), timeout=DEADLINE)
        assert service.is_running()
    assert not service.is_running()
    assert job.status is JobStatus.FAILED
    assert "wait for itself" in job.last_error


@pytest.mark.parametrize("bad", [0, -1, 1.5, "10"])
def test_a_concurrency_that_is_no_number_of_jobs_is_refused(bad, path):
    with pytest.raises(SideworkError, match="concurrency"):
        BackgroundService(path, concurrency=bad)


def test_queues_that_make_no_sense_are_refused(path):
    with pytest.raises(SideworkError, match=r"queues=\['mail'\]"):
        BackgroundService(path, queues="mail")
    with pytest.raises(SideworkError, match="limit of queue 'mail'"):
        BackgroundService(path, queues={"mail": 0})


def test_memory_and_unknown_urls_are_refused(path):
    with pytest.raises(SideworkError, match=r"sidework\.testing"):
        BackgroundService(":memory:")
    with pytest.raises(SideworkError, match="mysql"):
        BackgroundService("mysql://localhost/app")
    assert BackgroundService(f"sqlite:///{path}").migrate() >= 1


def test_only_the_queues_that_are_named_are_served(database):
    service = BackgroundService(database, queues=["mail"])

    @service.handler
    def noop() -> None: ...

    mail = noop.using(queue="mail").enqueue()
    other = noop.enqueue()
    service.run_until_idle()
    assert service.jobs.get(mail).status is JobStatus.COMPLETED
    assert service.jobs.get(other).status is JobStatus.PENDING


def test_a_limited_queue_never_runs_more_than_its_limit(database):
    service = BackgroundService(database, queues={"narrow": 2})
    running, most = [], []
    lock = threading.Lock()
    full = threading.Barrier(2)

    @service.handler(queue="narrow")
    def pass_through() -> None:
        with lock:
            running.append(1)
            most.append(len(running))
        full.wait(DEADLINE)  # two do run at once
        with lock:
            running.pop()

    service.enqueue_many([pass_through.new() for _ in range(20)])
    service.run_until_idle()
    assert max(most) == 2
    assert service.jobs.counts()[JobStatus.COMPLETED] == 20


PROGRAM = """
import sys, threading, asyncio
from sidework import BackgroundService
def tell(event):
    if type(event).__name__ == "WorkerStopping":
        print("stopping", flush=True)

service = BackgroundService(sys.argv[1], grace=float(sys.argv[2]), concurrency=1, listeners=[tell])

@service.handler
async def wait_long() -> None:
    print("begun", flush=True)
    await asyncio.Event().wait()

@service.handler
def stuck() -> None:
    print("begun", flush=True)
    threading.Event().wait()

@service.handler
async def until_told() -> None:
    print("begun", flush=True)
    service.state.told = asyncio.Event()
    await asyncio.to_thread(sys.stdin.readline)

print("finished" if service.run() else "given back", flush=True)
"""


def run_program(database, grace):
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(database), str(grace)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def read_until(program, wanted):
    """Read lines up to this one: what it tells of has happened then."""
    for line in program.stdout:
        if line == f"{wanted}\n":
            return
    pytest.fail(f"the program ended without saying {wanted!r}")


def enqueue(database, *keys):
    service = BackgroundService(database)
    return service, [service.declare(key).enqueue() for key in keys]


def test_sigterm_lets_what_runs_end_and_gives_back_what_does_not_run_yet(database):
    service, [running, waiting] = enqueue(database, "until_told", "until_told")
    with run_program(database, 20) as program:
        read_until(program, "begun")
        program.send_signal(signal.SIGTERM)
        read_until(program, "stopping")  # else the handler might end, and the next begin, before the signal is seen
        program.stdin.write("go on\n")
        program.stdin.flush()
        read_until(program, "finished")
        assert program.wait(DEADLINE) == 0
    assert service.jobs.get(running).status is JobStatus.COMPLETED
    left = service.jobs.get(waiting)
    assert (left.status, left.attempts, left.crashes) == (JobStatus.PENDING, 0, 0)


def test_a_second_signal_gives_back_what_is_unfinished_without_using_an_attempt(database):
    service, [job_id] = enqueue(database, "wait_long")
    with run_program(database, 60) as program:
        read_until(program, "begun")
        program.send_signal(signal.SIGTERM)
        read_until(program, "stopping")
        program.send_signal(signal.SIGINT)
        read_until(program, "given back")
        program.wait(DEADLINE)
    job = service.jobs.get(job_id)
    assert (job.status, job.attempts, job.crashes) == (JobStatus.PENDING, 0, 0)


def test_after_the_grace_period_async_work_is_given_back(database):
    service, [job_id] = enqueue(database, "wait_long")
    with run_program(database, 0.01) as program:
        read_until(program, "begun")
        program.send_signal(signal.SIGTERM)
        read_until(program, "given back")
        program.wait(DEADLINE)
    assert service.jobs.get(job_id).status is JobStatus.PENDING


def test_a_stuck_threads_job_is_free_only_when_its_process_is_gone(database):
    service, [job_id] = enqueue(database, "stuck")
    with run_program(database, 0.01) as program:
        read_until(program, "begun")
        program.send_signal(signal.SIGSTOP)
        assert service.jobs.get(job_id).status is JobStatus.RUNNING
        assert [worker.alive for worker in service.jobs.workers()] == [True]
        program.send_signal(signal.SIGCONT)
        program.send_signal(signal.SIGTERM)
        read_until(program, "given back")
        program.wait(DEADLINE)
    assert service.jobs.get(job_id).status is JobStatus.RUNNING
    rescuer = BackgroundService(database)

    @rescuer.handler
    def stuck() -> str:
        return "rescued"

    rescuer.run_until_idle()
    job = service.jobs.get(job_id)
    assert (job.status, job.result, job.attempts, job.crashes) == (JobStatus.COMPLETED, "rescued", 1, 1)
