"""`sidework bench`: every measurement runs with tiny sizes, and what it says adds up. Nothing here is timed."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.doors.shell import Shell

from sidework.cli.bench.command import NAMES
from sidework.cli.bench.figure import Figure, Goal, figure, percentile
from sidework.cli.bench.site import Site, take_turns

TINY = ("--runs", 1, "--jobs", 40, "--seconds", 0.1, "--rows", 50)
EXPECTED = {
    "pickup": {"p50", "p99", "idle", "resident"},
    "effects": {"jobs that write through db"},
    "enqueue": {"one by one", "8 threads", "enqueue_many"},
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
