"""`sidework run`: how it begins, works and ends."""

from __future__ import annotations

import os
import signal

import pytest
from tests.doors.shell import Shell, wait_until

from sidework import BackgroundService

APP = "shop:service"
DATABASE = ("--database", "app.db")


def test_it_says_what_runs(shell: Shell) -> None:
    printed = shell.out("run", APP, "--until-idle", "--queues", "mail, default", "--concurrency", 3)
    for word in (
        "sidework 0.",
        str(shell.folder / "app.db"),
        "synchronous=FULL",
        "greet",
        "mail, default",
        "3 in each",
    ):
        assert word in printed
    assert "inotify" in printed or "polling" in printed


def test_its_log_is_seen_unless_the_app_has_one_of_its_own(shell: Shell, service: BackgroundService) -> None:
    assert "worker 1 stopped" in shell.run("run", APP, "--until-idle").stderr
    (shell.folder / "own.py").write_text(
        "import logging\nfrom shop import service\nlogging.basicConfig(filename='own.log', level='INFO')\n"
    )
    assert shell.run("run", "own", "--until-idle").stderr == ""
    assert "worker 2 stopped" in (shell.folder / "own.log").read_text()


def test_until_idle_does_what_is_there_and_ends(shell: Shell, service: BackgroundService) -> None:
    for name in ("a", "b", "c"):
        service.enqueue("greet", {"name": name})
    shell.out("run", APP, "--until-idle")
    assert service.jobs.count(status="COMPLETED") == 3


def test_only_the_queues_named_are_served(shell: Shell, service: BackgroundService) -> None:
    service.enqueue("greet", {"name": "a"}, queue="mail")
    service.enqueue("greet", {"name": "b"}, queue="other")
    shell.out("run", APP, "--until-idle", "--queues", "mail")
    assert [job.status for job in service.jobs.list(newest_first=False)] == ["COMPLETED", "PENDING"]


def test_the_app_may_come_from_the_environment(shell: Shell) -> None:
    assert "greet" in shell.out("run", "--until-idle", SIDEWORK_APP="shop")
    assert "2 in each" in shell.out("run", "-A", "shop", SIDEWORK_RUN_UNTIL_IDLE="1", SIDEWORK_RUN_CONCURRENCY="2")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_the_running_job_end(shell: Shell, service: BackgroundService, number: int) -> None:
    job_id = service.enqueue("wait_for", {"file": "go"})
    with shell.running("run", APP) as running:
        wait_until(shell.folder / "go.begun")
        running.process.send_signal(number)
        (shell.folder / "go").touch()
        code, said = running.end()
    assert (code, "Traceback" in said) == (0, False)
    assert service.jobs.get(job_id).status == "COMPLETED"


def test_a_second_signal_gives_the_job_back_without_using_an_attempt(shell: Shell, service: BackgroundService) -> None:
    job_id = service.enqueue("wait_for", {"file": "never"})
    with shell.running("run", APP) as running:
        wait_until(shell.folder / "never.begun")
        running.process.send_signal(signal.SIGTERM)
        running.process.send_signal(signal.SIGTERM)
        code, _ = running.end()
    assert code == 4
    shell.out("run", APP, "--queues", "none", "--until-idle")  # a worker that comes by sees what the dead one held
    job = service.jobs.get(job_id)
    assert job.attempts == 0
    assert job.status in {"PENDING", "SCHEDULED", "RUNNING"}


def test_what_does_not_end_within_the_grace_period_is_given_back(shell: Shell, service: BackgroundService) -> None:
    shell.write_shop(grace=0.1)
    service.enqueue("wait_for", {"file": "never"})
    with shell.running("run", APP) as running:
        wait_until(shell.folder / "never.begun")
        running.process.terminate()
        code, _ = running.end()
    assert code == 4


def test_a_third_signal_leaves_at_once(shell: Shell, service: BackgroundService) -> None:
    service.enqueue("wait_for", {"file": "never"})
    with shell.running("run", APP) as running:
        wait_until(shell.folder / "never.begun")
        for _ in range(3):
            running.process.send_signal(signal.SIGINT)
        code, said = running.end()
    assert code != 0
    assert "Traceback" not in said


def test_several_processes_run_as_one(shell: Shell, service: BackgroundService) -> None:
    for number in range(3):
        service.enqueue("wait_for", {"file": f"go{number}"})
    with shell.running("run", APP, "--processes", 3, "--concurrency", 1) as running:
        for number in range(3):
            wait_until(shell.folder / f"go{number}.begun")
        assert len({worker.pid for worker in service.jobs.workers() if worker.running == 1}) == 3
        running.process.terminate()
        for number in range(3):
            (shell.folder / f"go{number}").touch()
        code, _ = running.end()
    assert code == 0
    assert service.jobs.count(status="COMPLETED") == 3
    assert service.jobs.workers() == []


def test_several_processes_end_when_all_are_idle(shell: Shell, service: BackgroundService) -> None:
    service.enqueue("greet", {"name": "a"})
    assert shell.run("run", APP, "--processes", 2, "--until-idle").returncode == 0
    assert service.jobs.count(status="COMPLETED") == 1


def test_a_process_that_dies_is_started_again(shell: Shell, service: BackgroundService) -> None:
    with shell.running("run", APP, "--processes", 2) as running:
        victim = int(running.hear("process ").rpartition("process ")[2])
        os.kill(victim, signal.SIGKILL)
        running.hear("starting another")
        assert int(running.hear("process ").rpartition("process ")[2]) != victim
        running.process.terminate()
        code, _ = running.end()
    assert code == 0


def test_processes_stop_when_the_one_that_looks_after_them_is_killed(shell: Shell, service: BackgroundService) -> None:
    service.enqueue("wait_for", {"file": "go"})
    with shell.running("run", APP, "--processes", 2) as running:
        wait_until(shell.folder / "go.begun")
        running.process.kill()
        running.hear("the process that started this one is gone")
        (shell.folder / "go").touch()
        code, _ = running.end()  # of the output of all of them
    assert code == -signal.SIGKILL
    assert service.jobs.count(status="COMPLETED") == 1
    assert service.jobs.workers() == []


def test_processes_that_cannot_start_end_it(shell: Shell) -> None:
    (shell.folder / "app.db").write_text("a letter to nobody in particular\n" * 50)
    ended = shell.run("run", APP, "--processes", 2)
    assert ended.returncode == 3


def test_reload_starts_again_when_a_file_changes(shell: Shell, service: BackgroundService) -> None:
    with shell.running("run", APP, "--reload") as running:
        running.hear("wake-up")
        shop = shell.folder / "shop.py"
        shop.write_text(shop.read_text() + "\n@service.handler\ndef added() -> None: ...\n")
        running.hear("a file has changed")
        assert "added" in running.hear("handlers")
        running.process.terminate()
        code, _ = running.end()
    assert code == 0


def test_reload_waits_while_the_file_is_broken(shell: Shell, service: BackgroundService) -> None:
    shop = shell.folder / "shop.py"
    with shell.running("run", APP, "--reload") as running:
        running.hear("wake-up")
        whole = shop.read_text()
        shop.write_text("def (:\n")
        running.hear("SyntaxError")
        running.hear("waiting for a file to change")
        shop.write_text(whole)
        running.hear("wake-up")
        running.process.terminate()
        code, _ = running.end()
    assert code == 0


def test_no_queue_in_queues_is_refused(shell: Shell) -> None:
    ended = shell.run("run", APP, "--queues", " , ")
    assert ended.returncode == 2
    assert "--queues" in ended.stderr


def test_handlers_of_imported_modules_are_found(shell: Shell) -> None:
    (shell.folder / "whole.py").write_text(
        "from sidework import BackgroundService\nservice = BackgroundService('app.db', imports=['parts'])\n"
    )
    (shell.folder / "parts.py").write_text("from whole import service\n@service.handler\ndef part() -> None: ...\n")
    assert "part" in shell.out("run", "whole", "--until-idle")
    assert [handler["key"] for handler in shell.lines("handlers", "whole")] == ["part"]
    assert shell.out("enqueue", "whole", "part") == "1"
