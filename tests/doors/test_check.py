"""`sidework check APP`, through real processes: can this code run what is queued?"""

from __future__ import annotations

import sqlite3
from contextlib import closing

from tests.doors.shell import Shell

from sidework import BackgroundService


def insert(shell: Shell, *rows: tuple[str, str | None, str]) -> None:
    with closing(sqlite3.connect(shell.folder / "app.db")) as db, db:
        db.executemany("INSERT INTO background_service_jobs (job_key, payload, status) VALUES (?, ?, ?)", rows)


def test_what_the_code_can_run_is_a_yes(shell: Shell, service: BackgroundService) -> None:
    service.enqueue("greet", {"name": "you"})
    assert shell.out("check", "shop") == "this code can run all 1 jobs that wait or run"
    assert shell.lines("check", "shop") == []


def test_an_unknown_key_is_a_no_that_names_near_ones(shell: Shell, service: BackgroundService) -> None:
    insert(shell, ("greets", None, "PENDING"), ("greets", None, "RUNNING"), ("train_model", None, "PENDING"))
    ended = shell.run("check", "shop:service")
    assert ended.returncode == 1
    assert "greets" in ended.stdout
    assert "near: greet" in ended.stdout
    assert "train_model" in ended.stdout
    assert "deploy code" in ended.stdout


def test_a_payload_that_does_not_fit_is_a_no_that_names_the_field(shell: Shell, service: BackgroundService) -> None:
    fits, lacks, foreign, broken = '{"name": "a"}', '{"times": 2}', '{"name": "a", "times": "x"}', "{"
    insert(shell, *[("greet", payload, "PENDING") for payload in (fits, lacks, lacks, foreign, broken)])
    ended = shell.run("check", "shop", "--json")
    assert ended.returncode == 1
    found = [line.split('"why":')[1] for line in ended.stdout.splitlines()]
    assert len(found) == 3
    assert "name" in found[0]
    assert "times" in found[1]
    assert "not JSON" in found[2]
    assert '"jobs":2,"example":2' in ended.stdout.replace(": ", ":").replace(", ", ",")


def test_a_job_that_no_worker_claims_is_a_no_that_leads_to_the_doctor(shell: Shell, service: BackgroundService) -> None:
    number = service.enqueue("greet", {"name": "you"})
    with closing(sqlite3.connect(shell.folder / "app.db")) as db, db:
        db.execute("UPDATE background_service_jobs SET queue = x'6162'")
    ended = shell.run("check", "shop", "--json")
    assert ended.returncode == 1
    assert f'"example":{number}' in ended.stdout.replace(": ", ":")
    assert "its queue is a BLOB" in ended.stdout


def test_jobs_that_have_ended_are_nobodys_trouble(shell: Shell, service: BackgroundService) -> None:
    insert(shell, ("gone", None, "COMPLETED"), ("gone", None, "FAILED"), ("gone", None, "CANCELLED"))
    assert "all 0 jobs" in shell.out("check", "shop")


def test_more_jobs_than_one_page_are_all_looked_at(shell: Shell, service: BackgroundService) -> None:
    insert(shell, *[("greets", None, "PENDING")] * 1001)
    ended = shell.run("check", "shop")
    assert "1,001" in ended.stdout
