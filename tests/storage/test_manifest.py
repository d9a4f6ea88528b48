"""Rows become lines of one fixed form, or are named with what is wrong with them."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidework.storage.manifest import JOBS, LOG, PROGRESS, QUEUES, TABLES, Packer, Table
from sidework.storage.open import open_storage
from sidework.storage.postgres import arrival
from sidework.storage.sqlite import departure

if TYPE_CHECKING:
    from pathlib import Path

NOON = "2026-01-01T12:00:00.000Z"
ANOTHER_KEY = "2026-01-31T12:00:00.000Z, and the job has been tried: its idempotency key would change"
LINE = (
    "7\tk\tPENDING\tdefault\t0\t0\t3\t0\t0\t\\N\t2026-01-01T12:00:00.000Z\t2026-01-01T12:00:00.000Z"
    "\t\\N\t\\N\t\\N\t\\N\t\\N\t\\N\t\\N\t\\N\n"
)


def a_job(**changes: Any) -> tuple[Any, ...]:
    """Return the row of a job that waits."""
    row = dict.fromkeys(column.name for column in JOBS.columns) | {
        "id": 7, "job_key": "k", "status": "PENDING", "queue": "default", "priority": 0, "attempts": 0,
        "max_attempts": 3, "crashes": 0, "claims": 0, "created_at": NOON, "updated_at": NOON,
    }  # fmt: skip
    return tuple((row | changes).values())


def packed(table: Table, *rows: tuple[Any, ...]) -> str:
    packer = Packer(table)
    text = packer.pack(rows).decode()
    assert not packer.misfits
    return text


def misfits(table: Table, *rows: tuple[Any, ...]) -> list[str]:
    packer = Packer(table)
    packer.pack(rows)
    return [str(misfit) for misfit in packer.misfits]


def test_a_row_is_a_line() -> None:
    assert packed(JOBS, a_job()) == LINE


def test_what_would_end_a_value_or_a_line_is_escaped() -> None:
    line = packed(LOG, (1, 7, NOON, "a\tb\nc\\N\r\v\f\b"))
    assert line == f"1\t7\t{NOON}\ta\\tb\\nc\\\\N\\r\\v\\f\\b\n"


def test_null_and_a_text_that_looks_like_it_are_told_apart() -> None:
    assert packed(PROGRESS, (1, 2.0, None, "\\N", NOON)) == f"1\t2.0\t\\N\t\\\\N\t{NOON}\n"
    assert packed(PROGRESS, (1, 2.0, None, None, NOON)) == f"1\t2.0\t\\N\t\\N\t{NOON}\n"


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("2026-01-01 12:00:00", NOON),
        ("2026-01-01T13:00:00+01:00", NOON),
        ("2026-01-01T12:00:00.000999Z", NOON),
        ("20260101T120000Z", NOON),
        ("2026-W01-4T12:00:00.000Z", NOON),
    ],
)
def test_a_time_in_another_form_is_the_same_time(written: str, kept: str) -> None:
    assert packed(LOG, (1, 7, written, "x")) == f"1\t7\t{kept}\tx\n"


@pytest.mark.parametrize("value", [0, 1, 2, -1])
def test_a_flag_is_whatever_is_not_zero(value: int) -> None:
    assert packed(QUEUES, ("q", value, None)) == f"q\t{'t' if value else 'f'}\t\\N\n"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"payload": "a\0b"}, "payload holds a NUL character"),
        ({"payload": b"\xff"}, "payload is a BLOB and no text"),
        ({"result": "\udcff"}, "result is not UTF-8, or holds a lone surrogate"),
        ({"last_error": "\ud800"}, "last_error is not UTF-8, or holds a lone surrogate"),
        ({"priority": "high"}, "priority is a text and no whole number"),
        ({"attempts": 1.5}, "attempts is a real number and no whole number"),
        ({"job_key": None}, "job_key is NULL and no text"),
        ({"created_at": "yesterday"}, "created_at is no time that can be read"),
        ({"finished_at": "2026-02-30T12:00:00.000Z"}, "finished_at is no time that can be read"),
        ({"updated_at": 12}, "updated_at is a whole number and no time"),
        ({"run_at": "9999-12-31T23:00:00.000Z"}, "run_at is a time outside the years 1 to 9999"),
        ({"updated_at": "0001-01-01T00:00:00+14:00"}, "updated_at is no time that can be read"),
        ({"unique_key": "é" * 1301}, "unique_key makes, with the rest of its index, more than 2,600 bytes"),
        ({"queue": "q" * 2600}, "job_key makes, with the rest of its index, more than 2,600 bytes"),
        (
            {"created_at": "2026-01-01 12:00:00", "claims": 1},
            "created_at is not written as " + ANOTHER_KEY,
        ),
    ],
)
def test_what_cannot_be_moved_is_named(changes: dict[str, Any], said: str) -> None:
    assert misfits(JOBS, a_job(**changes)) == [f"background_service_jobs.{said}: 1 row (7)"]


def test_a_completed_job_needs_its_idempotency_key_no_more() -> None:
    assert not misfits(JOBS, a_job(created_at="2026-01-01 12:00:00", claims=1, status="COMPLETED"))


def test_many_rows_with_one_fault_are_counted_and_the_first_are_named() -> None:
    rows = [a_job(id=number, payload="\0") for number in range(1, 13)]
    (said,) = misfits(JOBS, *rows)
    assert said.endswith(": 12 rows (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, ...)")


def test_rows_that_fit_are_packed_beside_those_that_do_not() -> None:
    packer = Packer(JOBS)
    assert packer.pack([a_job(id=1, payload="\0"), a_job()]).decode() == LINE


def test_each_fault_is_counted_apart() -> None:
    assert len(misfits(JOBS, a_job(payload="\0"), a_job(result="\0"), a_job(payload=3))) == 3


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
def test_a_line_is_one_line_and_keeps_its_text(text: str) -> None:
    line = packed(LOG, (1, 7, NOON, text))
    assert line.endswith("\n")
    assert line.count("\n") == 1
    assert line.count("\t") == 3
    names = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
    field = line[:-1].rpartition("\t")[2]
    assert re.sub(r"\\(.)", lambda found: names.get(found[1], found[1]), field) == text


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_every_column_of_both_databases_is_moved(table: Table, tmp_path: Path, postgres_database: str) -> None:
    wanted = [column.name for column in table.columns]
    open_storage(tmp_path / "app.db").migrate()
    with closing(sqlite3.connect(tmp_path / "app.db")) as file:
        there = {name for (name,) in file.execute("SELECT name FROM pragma_table_xinfo(?)", (table.full_name,))}
        rows = file.execute(departure._SQL[f"rows_of_{table.name}"])
        assert there == set(wanted)
        assert [name.partition(" ")[0].lower() for name, *_ in rows.description if "CASE" not in name] == [
            name for name in wanted if name != "worker"
        ]
    open_storage(postgres_database).migrate()
    with closing(psycopg.connect(postgres_database)) as server:
        columns = "SELECT attname FROM pg_attribute WHERE attrelid = to_regclass(%s) AND attnum > 0"
        assert {name for (name,) in server.execute(columns, (table.full_name,))} == set(wanted)
        nullable = f"{columns} AND NOT attnotnull"
        assert {name for (name,) in server.execute(nullable, (table.full_name,))} == {
            column.name for column in table.columns if column.nullable
        }
    taken = re.search(r"\((.*)\) FROM STDIN", arrival._SQL[f"take_{table.name}"], re.DOTALL)
    assert taken is not None
    assert [name.strip() for name in taken[1].split(",")] == wanted


def test_every_table_of_ours_is_moved_but_the_workers_and_the_schema(tmp_path: Path) -> None:
    open_storage(tmp_path / "app.db").migrate()
    with closing(sqlite3.connect(tmp_path / "app.db")) as file:
        found = {name for (name,) in file.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    ours = {name for name in found if name.startswith("background_service_")}
    assert ours - {table.full_name for table in TABLES} == {"background_service_workers", "background_service_schema"}


@given(st.floats(allow_nan=False))
def test_a_number_is_the_same_line_however_it_is_written(number: float) -> None:
    """The server writes 5.1257858476290944e+16 where Python finds that 5.125785847629094e+16 says the same."""
    ours = packed(PROGRESS, (1, number, None, None, NOON))
    for theirs in (repr(number), f"{number:.17e}", f"{number:.17g}"):
        assert PROGRESS.in_form(f"1\t{theirs}\t\\N\t\\N\t{NOON}\n".encode()).decode() == ours


def test_lines_without_numbers_stay_as_they_are() -> None:
    assert LOG.in_form(b"1\t07\tx\ty\n") == b"1\t07\tx\ty\n"
