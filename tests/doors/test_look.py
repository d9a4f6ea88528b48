"""Commands that look, through real processes."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing

import pytest
from tests.doors.shell import Shell

from sidework import BackgroundService

DATABASE = ("--database", "app.db")


@pytest.fixture
def seven(service: BackgroundService) -> BackgroundService:
    """Seven jobs: two completed, one failed, three ready, one for later."""
    for name in ("ada", "grace"):
        service.enqueue("greet", {"name": name}, priority=9)
    service.enqueue("fail_often", {"token": "hunter2"})
    service.run_until_idle()
    for priority in (1, 5, 3):
        service.enqueue("greet", {"name": "x"}, priority=priority, queue="mail")
    service.enqueue("greet", {"name": "later"}, delay=3600)
    return service


def test_jobs_are_listed_newest_first_as_json_lines(shell: Shell, seven: BackgroundService) -> None:
    assert [job["id"] for job in shell.lines("jobs", *DATABASE)] == [7, 6, 5, 4, 3, 2, 1]


def test_jobs_are_paged_in_both_directions(shell: Shell, seven: BackgroundService) -> None:
    assert [job["id"] for job in shell.lines("jobs", "--limit", 2, "--after", 6, *DATABASE)] == [5, 4]
    assert [job["id"] for job in shell.lines("jobs", "--oldest-first", "--limit", 2, "--after", 3, *DATABASE)] == [4, 5]


@pytest.mark.parametrize(
    ("conditions", "ids"),
    [
        (["--status", "failed"], [3]),
        (["--status", "COMPLETED,FAILED"], [3, 2, 1]),
        (["--status", "FAILED", "--status", "SCHEDULED"], [7, 3]),
        (["--key", "fail_often"], [3]),
        (["--queue", "mail", "--status", "PENDING"], [6, 5, 4]),
        (["--queue", "nothing"], []),
    ],
)
def test_jobs_are_filtered(shell: Shell, seven: BackgroundService, conditions: list[str], ids: list[int]) -> None:
    assert [job["id"] for job in shell.lines("jobs", *conditions, *DATABASE)] == ids


def test_jobs_are_a_table_for_people(shell: Shell, seven: BackgroundService) -> None:
    lines = shell.out("jobs", *DATABASE).splitlines()
    assert lines[0].split()[:4] == ["id", "key", "status", "queue"]
    [failed] = [line for line in lines if "FAILED" in line]
    assert "ValueError: it cannot work" in failed
    assert "1/1" in failed


def test_no_jobs_is_said(shell: Shell, service: BackgroundService) -> None:
    assert shell.out("jobs", *DATABASE) == "no jobs"
    assert shell.out("jobs", "--json", *DATABASE) == ""


def test_a_pipe_gets_no_colour_and_no_line_of_a_table_is_cut(shell: Shell, service: BackgroundService) -> None:
    service.declare("a_key_of_some_length_" * 4).using(queue="a_queue_of_some_length_" * 4).enqueue()
    printed = shell.out("jobs", *DATABASE, FORCE_COLOR="")
    assert "\x1b" not in printed
    assert len(printed.splitlines()) == 2


def test_show_tells_all_of_one_job(shell: Shell, seven: BackgroundService) -> None:
    job = shell.json("show", 1, *DATABASE)
    assert (job["key"], job["status"], job["result"], job["priority"]) == ("greet", "COMPLETED", "hello ada", 9)
    assert job["log"] == []


def test_show_prints_the_whole_error_for_people(shell: Shell, seven: BackgroundService) -> None:
    printed = shell.out("show", 3, *DATABASE)
    assert "ValueError: it cannot work" in printed
    assert "Traceback" in printed


def test_show_has_progress_and_log(shell: Shell, service: BackgroundService) -> None:
    job_id = shell.json("enqueue", "shop:service", "count_up")["id"]
    shell.out("run", "shop:service", "--until-idle")
    job = shell.json("show", job_id, *DATABASE)
    assert job["progress"] == {"done": 3.0, "total": 4.0, "message": "nearly"}
    assert [line["message"] for line in job["log"]] == ["counting"]
    printed = shell.out("show", job_id, *DATABASE)
    assert "3/4 nearly" in printed
    assert "counting" in printed


@pytest.mark.parametrize("format_", [[], ["--json"]])
def test_secrets_are_hidden_until_they_are_asked_for(
    shell: Shell, seven: BackgroundService, format_: list[str]
) -> None:
    assert "hunter2" not in shell.out("show", 3, *format_, *DATABASE)
    assert "hunter2" not in shell.out("jobs", *format_, *DATABASE)
    assert "hunter2" in shell.out("show", 3, "--reveal", *format_, *DATABASE)


def test_control_characters_of_a_payload_do_not_reach_the_terminal(shell: Shell, service: BackgroundService) -> None:
    service.enqueue("greet", {"name": "\x1b[2J\x07gone"})
    for words in (["show", 1], ["jobs"], ["show", 1, "--json"]):
        assert not set(shell.out(*words, *DATABASE)) & set("\x1b\x07")


def test_a_key_with_control_characters_does_not_either(shell: Shell, service: BackgroundService) -> None:
    with closing(sqlite3.connect(shell.folder / "app.db")) as db, db:
        db.execute(
            "INSERT INTO background_service_jobs (job_key, payload) VALUES (?, ?)", ("\x1b[31mred", "no JSON \x9b2J")
        )
    for words in (["show", 1], ["jobs"], ["explain", 1], ["doctor"]):
        assert not set(shell.run(*words, *DATABASE).stdout) & set("\x1b\x9b")


def test_stats_count_every_status(shell: Shell, seven: BackgroundService) -> None:
    assert shell.json("stats", *DATABASE) == {
        "PENDING": 3,
        "SCHEDULED": 1,
        "RUNNING": 0,
        "COMPLETED": 2,
        "FAILED": 1,
        "CANCELLED": 0,
    }
    assert "SCHEDULED  1" in shell.out("stats", *DATABASE)


def test_queues_show_what_waits(shell: Shell, seven: BackgroundService) -> None:
    seven.jobs.pause("mail")
    queues = {queue["name"]: queue for queue in shell.lines("queues", *DATABASE)}
    assert (queues["mail"]["pending"], queues["mail"]["paused"]) == (3, True)
    assert (queues["default"]["scheduled"], queues["default"]["paused"]) == (1, False)
    assert "mail" in shell.out("queues", *DATABASE)


def test_workers_show_who_is_at_work(shell: Shell, service: BackgroundService) -> None:
    assert shell.out("workers", *DATABASE) == "no workers"
    with shell.running("run", "shop:service") as running:
        running.hear("concurrency")
        until_it_works(shell)
        [worker] = shell.lines("workers", *DATABASE)
        assert (worker["pid"], worker["alive"], worker["running"]) == (running.process.pid, True, 0)
        assert "greet" in worker["keys"]
        assert str(running.process.pid) in shell.out("workers", *DATABASE)


def until_it_works(shell: Shell) -> None:
    shell.out("enqueue", "shop:service", "greet", '{"name": "a"}', "--wait", "--timeout", 30)


def test_handlers_of_an_app(shell: Shell) -> None:
    found = {handler["key"]: handler for handler in shell.lines("handlers", "shop:service")}
    assert sorted(found) == ["count_up", "fail_often", "greet", "wait_for"]
    assert found["fail_often"]["max_attempts"] == 1
    assert found["greet"]["queue"] == "default"
    assert "fail_often" in shell.out("handlers", "shop")
    assert "fail_often" in shell.out("handlers", "-A", "shop")
    assert "fail_often" in shell.out("handlers", SIDEWORK_APP="shop")


def test_explain_says_why_and_what_to_do(shell: Shell, seven: BackgroundService) -> None:
    answer = shell.json("explain", 3, *DATABASE)
    assert (answer["id"], answer["runs"], answer["reasons"][0]["code"]) == (3, False, "failed")
    printed = shell.out("explain", 3, *DATABASE)
    assert "it cannot work" in printed
    assert "retry" in printed
    assert shell.json("explain", 4, *DATABASE)["reasons"][0]["code"] == "no_worker"


def test_the_database_comes_from_a_flag_the_environment_or_the_app(shell: Shell, seven: BackgroundService) -> None:
    expected = shell.json("stats", *DATABASE)
    assert shell.json("stats", SIDEWORK_DATABASE="app.db") == expected
    assert shell.json("stats", SIDEWORK_DATABASE="sqlite:///app.db") == expected
    assert shell.json("stats", "--app", "shop") == expected
    assert shell.json("stats", SIDEWORK_APP="shop:service") == expected


def test_every_flag_has_a_twin_in_the_environment(shell: Shell, seven: BackgroundService) -> None:
    printed = shell.out("jobs", *DATABASE, SIDEWORK_JOBS_STATUS="FAILED", SIDEWORK_JSON="1")
    assert json.loads(printed)["id"] == 3
    assert len(shell.lines("jobs", *DATABASE, SIDEWORK_JOBS_LIMIT="2")) == 2


def test_version_names_all_three(shell: Shell) -> None:
    assert sorted(shell.json("version")) == ["python", "sidework", "sqlite"]
    assert sqlite3.sqlite_version in shell.out("version")


def test_the_version_is_also_an_option(shell: Shell) -> None:
    assert shell.out("--version") == f"sidework {shell.json('version')['sidework']}"
