"""`sidework bench`: every measurement runs with tiny sizes, and what it says adds up. Nothing here is timed."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from tests.doors.shell import Shell

from sidework.cli.bench import raw
from sidework.cli.bench.command import NAMES
from sidework.cli.bench.figure import Figure, Goal, figure, percentile
from sidework.cli.bench.site import Site, take_turns

TINY = ("--runs", 1, "--jobs", 40, "--seconds", 0.1, "--rows", 50)
EXPECTED = {
    "pickup": {"p50", "p99", "idle", "resident"},
    "effects": {"jobs that write through db"},
    "enqueue": {"one by one", "bare INSERTs into our table", "8 threads", "enqueue_many"},
    "beside": {"enqueue beside a drain, p50", "enqueue beside a drain, p99", "enqueue beside a drain, longest"},
    "drain": {"no-op jobs, one service"},
    "sharing": {"two services on one file, together", "the smaller share"},
    "growth": {
        "50 finished rows and as many future jobs of higher priority",
        "processor time of a job with concurrency 1,000",
    },
    "waiting": {"1 ms of waiting, 100 at once"},
    "startup": {"first job", "--help", "heavy modules that --help loads"},
}


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


def reach(name: str, value: float, **limits: Any) -> Figure:
    return figure("bench", name, "ms", [value], goal=Goal(of="value", **limits))


def test_every_benchmark_is_tried_here() -> None:
    assert set(EXPECTED) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_benchmark_measures_what_it_is_for(name: str, shell: Shell) -> None:
    report = shell.json("bench", name, *TINY)
    assert {each["name"] for each in report["figures"]} == EXPECTED[name]
    for each in report["figures"]:
        assert each["bench"] == name
        assert each["low"] <= each["value"] <= each["high"]
        assert (each["ratio"] is None) == (each["raw"] is None) == (each["against"] is None)
        assert (each["met"] is None) == (each["goal"] is None)
    assert list(shell.folder.iterdir()) == []


def test_the_machine_is_named(shell: Shell) -> None:
    machine = shell.json("bench", "enqueue", *TINY)["machine"]
    assert machine["cores"] >= 1
    assert machine["fsync_ms"] > 0
    assert machine["sqlite"].startswith("3.")


def test_people_see_the_goal_beside_the_figure(shell: Shell) -> None:
    said = shell.out("bench", "effects", *TINY)
    assert "jobs that write through db" in said
    assert ">= 0.8 x raw" in said
    assert "BEGIN IMMEDIATE, INSERT, UPDATE, COMMIT" in said


def test_an_unknown_benchmark_is_named(shell: Shell) -> None:
    ended = shell.run("bench", "speed")
    assert ended.returncode == 2
    assert "there is no benchmark speed" in ended.stderr


def test_a_folder_that_is_not_there_is_named(shell: Shell) -> None:
    ended = shell.run("bench", "drain", "--folder", shell.folder / "nowhere")
    assert ended.returncode == 2
    assert "nowhere" in ended.stderr


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
def test_a_slow_fsync_is_as_slow_as_was_asked_for(shell: Shell) -> None:
    assert shell.json("bench", "enqueue", *TINY, "--slow-fsync", 3)["machine"]["fsync_ms"] >= 3


def test_a_slow_fsync_without_a_compiler_is_refused(shell: Shell) -> None:
    ended = shell.run("bench", "enqueue", *TINY, "--slow-fsync", 3, PATH="/nowhere")
    assert ended.returncode == 2
    assert "needs Linux and a C compiler" in ended.stderr


def test_the_ratio_is_that_of_the_pairs() -> None:
    """The median of the ratios, not the ratio of the medians: 10/20, 90/30 and 20/100 are 0.5, 3 and 0.2."""
    measured = figure("bench", "name", "jobs/s", [10, 90, 20], raws=[20, 30, 100], against="raw")
    assert (measured.value, measured.raw, measured.ratio) == (20, 30, 0.5)
    assert (measured.low, measured.high, measured.runs) == (10, 90, 3)


@pytest.mark.parametrize(
    ("figure_", "met"),
    [
        (reach("below", 1.0, at_most=1), True),
        (reach("above", 1.1, at_most=1), False),
        (reach("enough", 25.0, at_least=25), True),
        (reach("too little", 24.9, at_least=25), False),
        (figure("bench", "ratio", "jobs/s", [8.0], raws=[10.0], goal=Goal(of="ratio", at_least=0.8)), True),
        (figure("bench", "ratio", "jobs/s", [7.9], raws=[10.0], goal=Goal(of="ratio", at_least=0.8)), False),
        (figure("bench", "no raw", "jobs/s", [8.0], goal=Goal(of="ratio", at_least=0.8)), False),
        (figure("bench", "no goal", "jobs/s", [8.0]), None),
    ],
    ids=lambda value: value.name if isinstance(value, Figure) else None,
)
def test_a_goal_is_met_at_its_bound(figure_: Figure, met: bool | None) -> None:
    assert figure_.met is met


def test_a_percentile_is_one_of_the_values() -> None:
    values = [float(n) for n in range(100, 0, -1)]
    assert (percentile(values, 0.5), percentile(values, 0.99), percentile([7.0], 0.99)) == (51, 100, 7)


def test_who_begins_changes_with_each_run() -> None:
    order: list[str] = []

    def note(name: str, value: float) -> float:
        order.append(name)
        return value

    assert take_turns(3, lambda: note("ours", 1), lambda: note("raw", 2)) == ([1, 1, 1], [2, 2, 2])
    assert order == ["raw", "ours", "ours", "raw", "raw", "ours"]


def test_a_slow_measurement_takes_a_part_of_the_jobs(tmp_path: Path) -> None:
    site = Site(tmp_path, runs=1, jobs=1000, seconds=1, rows=0)
    assert (site.part_of_jobs(10), site.part_of_jobs(1000)) == (100, 10)
    assert site.fresh() != site.fresh()


def test_the_raw_drain_completes_every_row_and_syncs_each_commit(tmp_path: Path) -> None:
    site = Site(tmp_path, runs=1, jobs=10, seconds=1, rows=0)
    with raw.table(site) as (connection, sql, _database):
        raw._insert_all(connection, sql, raw.BATCH + 1)
        raw._drain(connection, sql)
        states = connection.execute("SELECT status, COUNT(*), MAX(attempts) FROM raw_jobs GROUP BY status").fetchall()
        assert states == [("COMPLETED", raw.BATCH + 1, 1)]
        assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


# ------------------------------------------------------------------------------------- the README's table and the chart


@pytest.fixture(scope="module")
def table() -> ModuleType:
    """The program that makes the documents' tables."""
    path = Path(__file__).parents[2] / "benchmarks" / "table.py"
    spec = importlib.util.spec_from_file_location("table", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def peer(
    name: str, *, syncs: float, enqueue: float, drain: float, pickup: float, after: float | None
) -> dict[str, Any]:
    return {
        "name": name, "version": "1.0", "note": "", "syncs_per_enqueue": syncs, "syncs_per_job": syncs,
        "enqueue": [enqueue], "bulk": [], "drain": [drain], "pickup_p50": [pickup], "pickup_p99": [pickup],
        "idle": [1.0], "after_kill": after,
    }  # fmt: skip


PEERS = [
    peer("sidework", syncs=1, enqueue=4000, drain=50_000, pickup=0.9, after=0.4),
    peer("durable", syncs=1, enqueue=3000, drain=4000, pickup=4, after=None),
    peer("hasty", syncs=0, enqueue=14_000, drain=60_000, pickup=6, after=2),
]
MACHINE = {
    "cpu": "a processor", "cores": 2, "kernel": "Linux", "python": "3.11", "sqlite": "3.40.1", "file_system": "ext4",
    "fsync_ms": 0.2, "load": 0.1,
}  # fmt: skip


def own_figures() -> list[dict[str, Any]]:
    names = [("pickup", "p50"), ("pickup", "p99"), ("pickup", "idle"), ("effects", "jobs that write through db"),
             ("drain", "no-op jobs, one service"), ("enqueue", "one by one")]  # fmt: skip
    return [
        {"bench": bench, "name": name, "unit": "jobs/s", "value": 800.0, "low": 700.0, "high": 900.0, "raw": 1000.0,
         "against": "raw", "ratio": 0.8, "goal": {"of": "ratio", "at_least": 0.9, "at_most": None}, "met": False}
        for bench, name in names
    ]  # fmt: skip


def test_the_readme_gets_at_most_ten_rows_each_with_its_command(table: ModuleType) -> None:
    text = table.readme_table({"machine": MACHINE, "figures": own_figures()}, PEERS)
    rows = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith("| |")]
    assert 5 <= len(rows) <= 10
    assert all(row.endswith("` |") for row in rows)


def test_only_a_peer_that_syncs_is_called_durable(table: ModuleType) -> None:
    rows = list(table.rows_beside_peers(PEERS))
    assert "durable 4,000/s" in rows[0]


def test_a_row_that_is_lost_says_so(table: ModuleType) -> None:
    quicker = peer("quicker", syncs=1, enqueue=5000, drain=4000, pickup=0.5, after=0.1)
    drain, enqueue, pickup, after = table.rows_beside_peers([*PEERS, quicker])
    assert "**lost**" not in drain
    assert "**lost**" in enqueue
    assert "quicker 5,000/s" in enqueue
    assert "**lost**" in pickup
    assert "**lost**" in after


def test_nothing_is_called_lost_that_is_won(table: ModuleType) -> None:
    assert not any("**lost**" in row for row in table.rows_beside_peers(PEERS))


def test_a_goal_that_is_missed_stands_out(table: ModuleType) -> None:
    text = table.bench_table({"machine": MACHINE, "figures": own_figures()})
    assert text.count("| ≥ 0.9 of raw | **no** |") == len(own_figures())


def test_what_is_lost_on_postgresql_says_so(table: ModuleType) -> None:
    ours = peer("sidework", syncs=1, enqueue=1, drain=10_000, pickup=1, after=1)
    best = peer("pgqueuer", syncs=1, enqueue=1, drain=8000, pickup=0.5, after=1)
    slow = peer("oban", syncs=1, enqueue=1, drain=2000, pickup=1, after=1)
    assert list(table.goals_beside_peers([ours, best, slow])) == [
        "* **lost**: drain beside pgqueuer: 1.2 times, wanted 1.5",
        "* drain beside oban: 5 times, wanted 5",
        "* **lost**: pickup beside pgqueuer: p50 1 ms, its 0.5 ms",
    ]


def test_the_page_has_a_place_for_each_table_of_postgresql(table: ModuleType, tmp_path: Path) -> None:
    server = {"server_version": "15", "synchronous_commit": "on", "fsync": "on", "full_page_writes": "on"}
    figures = table.postgres_table({"machine": MACHINE, "server": server, "figures": own_figures()})
    assert "PostgreSQL 15 (synchronous_commit=on" in figures
    peers = table.postgres_peers_table({"machine": MACHINE, "peers": PEERS})
    assert sum(line.startswith("| ") for line in peers.splitlines()) == 1 + len(PEERS)
    page = tmp_path / "page.md"
    page.write_text("\n".join(["before", *table.ON_POSTGRES, "after\n"]))
    table.place(page, figures, table.ON_POSTGRES)
    assert figures in page.read_text()


def test_the_chart_has_a_bar_for_each_peer_and_marks_what_is_not_synced(table: ModuleType) -> None:
    drawn = ET.fromstring(table.chart(PEERS))
    texts = ["".join(text.itertext()) for text in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert texts[1:] == ["hasty", "60,000  (not synced)", "sidework", "50,000", "durable", "4,000"]
    widths = [float(bar.attrib["width"]) for bar in drawn.iter("{http://www.w3.org/2000/svg}rect")][1:]
    assert widths == sorted(widths, reverse=True)


def test_a_document_keeps_what_stands_outside_the_markers(table: ModuleType, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n")
    table.place(page, "new")
    assert page.read_text() == f"before\n{table.BEGIN}\nnew\n{table.END}\nafter\n"


def test_a_document_without_markers_is_left_alone(table: ModuleType, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("nothing to replace\n")
    with pytest.raises(SystemExit, match="lacks the lines"):
        table.place(page, "new")
    assert page.read_text() == "nothing to replace\n"
