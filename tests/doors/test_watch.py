"""`sidework watch`, through real processes."""

from __future__ import annotations

import json

from tests.doors.shell import Shell, wait_until

from sidework import BackgroundService

DATABASE = ("--database", "app.db")


def test_an_ended_job_is_shown_at_once(shell: Shell, service: BackgroundService) -> None:
    service.enqueue("greet", {"name": "ada"})
    service.run_until_idle()
    assert shell.out("watch", 1, *DATABASE) == "job 1 greet: COMPLETED\nhello ada"
    assert shell.lines("watch", 1, *DATABASE)[-1]["result"] == "hello ada"
    assert shell.run("watch", 1, *DATABASE).stderr == ""


def test_a_failed_job_is_a_no(shell: Shell, service: BackgroundService) -> None:
    service.enqueue("fail_often")
    service.run_until_idle()
    ended = shell.run("watch", 1, *DATABASE)
    assert ended.returncode == 1
    assert "it cannot work" in ended.stderr
    assert shell.run("watch", 1, "--json", *DATABASE).returncode == 1


def test_a_job_is_followed_from_waiting_to_its_end(shell: Shell, service: BackgroundService) -> None:
    job_id = service.enqueue_many([service.declare("wait_for").new(file="go")])[0]
    with shell.running("watch", job_id, "--json", *DATABASE) as watching:
        watching.hear("no worker is alive")
        assert json.loads(watching.hear("PENDING"))["id"] == job_id
        with shell.running("run", "shop:service") as running:
            watching.hear("RUNNING")
            wait_until(shell.folder / "go.begun")
            (shell.folder / "go").touch()
            assert json.loads(watching.hear("COMPLETED"))["result"] == "seen"
            assert watching.end()[0] == 0
            running.process.terminate()
            assert running.end()[0] == 0
