"""`sidework enqueue`, through real processes."""

from __future__ import annotations

import pytest
from tests.doors.shell import Shell

from sidework import BackgroundService

APP = "shop:service"
DATABASE = ("--database", "app.db")


def test_the_number_of_the_job_is_printed(shell: Shell, service: BackgroundService) -> None:
    assert shell.out("enqueue", APP, "greet", '{"name": "ada"}') == "1"
    assert shell.json("enqueue", APP, "greet", '{"name": "ada"}') == {"id": 2}
    assert service.jobs.get(1).payload == {"name": "ada"}


def test_the_app_may_come_from_the_flag_or_the_environment(shell: Shell) -> None:
    assert shell.out("enqueue", "--app", APP, "greet", '{"name": "a"}') == "1"
    assert shell.out("enqueue", "greet", '{"name": "a"}', SIDEWORK_APP=APP) == "2"
    assert shell.out("enqueue", "greet", '{"name": "a"}', SIDEWORK_APP="shop") == "3"


def test_the_first_job_makes_the_database(shell: Shell) -> None:
    assert not (shell.folder / "app.db").exists()
    assert shell.out("enqueue", "anything", *DATABASE) == "1"
    assert shell.json("show", 1, *DATABASE)["payload"] is None


@pytest.mark.parametrize("word", ["-", "@payload.json"])
def test_the_payload_comes_from_standard_input_or_a_file(shell: Shell, service: BackgroundService, word: str) -> None:
    text = '{"name": "Grüße"}'
    (shell.folder / "payload.json").write_text(text, encoding="utf-8")
    shell.out("enqueue", APP, "greet", word, given=text)
    assert service.jobs.get(1).payload == {"name": "Grüße"}


def test_options_are_those_of_the_job(shell: Shell, service: BackgroundService) -> None:
    options = ("--priority", -3, "--max-attempts", 7, "--queue", "mail", "--unique-key", "u", "--delay", 60)
    first = shell.out("enqueue", APP, "greet", '{"name": "a"}', *options)
    job = service.jobs.get(int(first))
    assert (job.priority, job.max_attempts, job.queue, job.unique_key) == (-3, 7, "mail", "u")
    assert job.status == "SCHEDULED"
    assert shell.out("enqueue", APP, "greet", '{"name": "a"}', "--unique-key", "u") == first


def test_wait_prints_the_result(shell: Shell, service: BackgroundService) -> None:
    with service:
        assert shell.out("enqueue", APP, "greet", '{"name": "ada"}', "--wait") == "hello ada"
        job = shell.json("enqueue", APP, "greet", '{"name": "ada", "times": 2}', "--wait")
    assert job["result"] == "hello ada hello ada"


def test_wait_for_a_job_that_fails_is_a_no(shell: Shell, service: BackgroundService) -> None:
    with service:
        ended = shell.run("enqueue", APP, "fail_often", "--wait")
    assert ended.returncode == 1
    assert "failed: ValueError: it cannot work" in ended.stderr
    assert ended.stdout == ""


def test_wait_has_an_end(shell: Shell, service: BackgroundService) -> None:
    ended = shell.run("enqueue", APP, "greet", '{"name": "ada"}', "--wait", "--timeout", 0.05)
    assert ended.returncode == 1
    assert "job 1 had not ended" in ended.stderr


def test_who_waits_is_told_that_nobody_works(shell: Shell, service: BackgroundService) -> None:
    words = ("enqueue", APP, "greet", '{"name": "ada"}', "--wait", "--timeout")
    assert "no worker is alive" in shell.run(*words, 0.05).stderr
    with service:
        ended = shell.run(*words, 30)
    assert (ended.stdout, ended.stderr) == ("hello ada\n", "")


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        ('{"name": }', "line 1, column 10"),
        ('{\n"name": "a"\n"times": 2}', "line 3, column 1"),
        ('["ada"]', "JSON object"),
        ("@nowhere.json", "nowhere.json"),
        ('{"name": "a"', "not JSON"),
        ("name=ada", "write for instance '{\"name\": 1}'"),
        ('{"nome": "a"}', "name"),
        ('{"name": 5}', "name"),
        ('{"name": NaN}', "name"),
    ],
)
def test_a_bad_payload_is_refused_with_its_place(
    shell: Shell, service: BackgroundService, payload: str, said: str
) -> None:
    ended = shell.run("enqueue", APP, "greet", payload)
    assert ended.returncode == 2
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr
    assert service.jobs.count() == 0


def test_an_unknown_key_names_the_nearest(shell: Shell) -> None:
    ended = shell.run("enqueue", APP, "fail_offen")
    assert ended.returncode == 2
    assert "'fail_often'" in ended.stderr


def test_with_a_database_alone_the_key_is_not_checked(shell: Shell, service: BackgroundService) -> None:
    assert shell.out("enqueue", "train_model", '{"epochs": 3}', *DATABASE) == "1"
    assert service.jobs.get(1).payload == {"epochs": 3}


@pytest.mark.parametrize("option", [("--max-attempts", 0), ("--delay", -1), ("--queue", "a\nb")])
def test_an_option_that_cannot_be_is_refused(
    shell: Shell, service: BackgroundService, option: tuple[str, object]
) -> None:
    ended = shell.run("enqueue", APP, "greet", '{"name": "a"}', *option)
    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr
    assert service.jobs.count() == 0
