"""Rules that no linter knows: SQL stands in .sql files, and only clock.py reads the time."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import sidework

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCE = Path(sidework.__file__).parent
PYTHON_FILES = sorted(SOURCE.rglob("*.py"))
SQL_FILES = sorted(SOURCE.rglob("*.sql"))

STATEMENT = re.compile(
    r"\b(SELECT\s.+\bFROM\b|SELECT\s+(EXISTS|COUNT)|INSERT\s+(OR\s+\w+\s+)?INTO|UPDATE\s+(OR\s+\w+\s+)?\S+\s+SET\b"
    r"|DELETE\s+FROM|(CREATE|DROP|ALTER)\s+(TEMP\s+|UNIQUE\s+)*(TABLE|INDEX|TRIGGER|VIEW))\b",
    re.DOTALL,
)
"""A whole statement in capitals, as SQL is written here. BEGIN, PRAGMA and the fragments of `list` are none."""

CLOCKS = {
    "time": {"time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "gmtime", "localtime"},
    "datetime": {"now", "utcnow", "today"},
    "date": {"today"},
}
TRIGGER = re.compile(r"^CREATE TRIGGER .*?^END;", re.DOTALL | re.MULTILINE)
THE_TIME_IN_SQL = re.compile(r"'now'|CURRENT_(TIME|DATE|TIMESTAMP)|julianday|unixepoch", re.IGNORECASE)


def texts(source: str) -> Iterator[tuple[int, str]]:
    """Yield each text of a module with its line, docstrings left out; an f-string counts as one text."""
    tree = ast.parse(source)
    docstrings = {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.lineno, node.value
        elif isinstance(node, ast.JoinedStr):
            parts = (part.value if isinstance(part, ast.Constant) else " x " for part in node.values)
            yield node.lineno, "".join(map(str, parts))


def sql_in(source: str) -> set[int]:
    return {line for line, text in texts(source) if STATEMENT.search(text)}


def clocks_in(source: str) -> set[int]:
    """Return the lines that read a clock of the standard library, or import the means to do so by name."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and node.attr in CLOCKS.get(_last_name(node.value), set()):
            found.add(node.lineno)
        if isinstance(node, ast.ImportFrom) and node.module == "time" and {a.name for a in node.names} & CLOCKS["time"]:
            found.add(node.lineno)
    return found


def _last_name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def name(path: Path) -> str:
    return path.relative_to(SOURCE).as_posix()


def test_there_is_something_to_scan() -> None:
    assert {"clock.py", "storage/sqlite/store.py"} <= {name(path) for path in PYTHON_FILES}
    assert "storage/sqlite/queries.sql" in {name(path) for path in SQL_FILES}


@pytest.mark.parametrize("path", PYTHON_FILES, ids=name)
def test_sql_stands_in_sql_files(path: Path) -> None:
    assert sql_in(path.read_text(encoding="utf-8")) == set()


@pytest.mark.parametrize("path", [path for path in PYTHON_FILES if name(path) != "clock.py"], ids=name)
def test_only_the_clock_reads_the_time(path: Path) -> None:
    assert clocks_in(path.read_text(encoding="utf-8")) == set()


@pytest.mark.parametrize("path", [path for path in SQL_FILES if path.parent.name != "migrations"], ids=name)
def test_no_statement_reads_the_time(path: Path) -> None:
    """Only the defaults of a column and triggers may, for what others write."""
    assert not THE_TIME_IN_SQL.search(TRIGGER.sub("", path.read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    "line",
    [
        'execute("SELECT id FROM jobs")',
        'execute("""\nUPDATE jobs\nSET a = 1""")',
        'execute(f"DELETE FROM {table}")',
        'execute("INSERT " "INTO jobs VALUES (1)")',
        'execute("CREATE TABLE IF NOT EXISTS x (y)")',
        'execute("UPDATE OR IGNORE jobs SET a = 1")',
        'execute("SELECT EXISTS (SELECT 1)")',
    ],
)
def test_the_scan_finds_sql(line: str) -> None:
    assert sql_in(line)


@pytest.mark.parametrize(
    "line", ['"""SELECT a FROM b."""', 'say("select a file from the list")', 'execute("PRAGMA x")']
)
def test_the_scan_leaves_words_alone(line: str) -> None:
    assert not sql_in(line)


@pytest.mark.parametrize(
    "line",
    [
        "datetime.now(UTC)",
        "datetime.datetime.utcnow()",
        "time.monotonic()",
        "from time import perf_counter",
        "date.today()",
    ],
)
def test_the_scan_finds_clocks(line: str) -> None:
    assert clocks_in(line)


def test_the_scan_leaves_a_clock_that_is_given_alone() -> None:
    assert not clocks_in("clock.now(); self._clock.monotonic(); time.sleep(1)")
