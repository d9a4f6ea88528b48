"""`sidework bench`: its options, and how it prints what was measured."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import click
from click.exceptions import Exit

from sidework.cli import options
from sidework.cli.failures import UsageError
from sidework.cli.grammar import argument, command, option
from sidework.cli.output import complain, print_json, print_table, say

if TYPE_CHECKING:
    from sidework.cli.bench.figure import Figure, Goal
    from sidework.cli.bench.machine import Machine

NAMES = ("pickup", "effects", "enqueue", "beside", "drain", "sharing", "growth", "waiting", "startup")
HUNDRED = 100


@command
@argument("names", metavar="[NAME]...", nargs=-1, help=f"Some of: {', '.join(NAMES)}.")
@option("--runs", metavar="N", type=click.IntRange(min=1), default=3, help="Take each figure so often.")
@option(
    "--jobs",
    metavar="N",
    type=click.IntRange(min=10),
    default=50_000,
    help="No-op jobs in a run; slower ones take a part of it.",
)
@option(
    "--seconds",
    metavar="S",
    type=click.FloatRange(min=0.1),
    default=3.0,
    help="How long idleness and disturbance last.",
)
@option(
    "--rows", metavar="N", type=click.IntRange(min=0), default=1_000_000, help="Finished and future rows of growth."
)
@option("--folder", metavar="FOLDER", type=click.Path(path_type=Path), help="On the disk to measure; the current one.")
@option(
    "--slow-fsync",
    metavar="MS",
    type=click.FloatRange(min=0),
    default=0.0,
    help="Let each fsync take so much longer.",
)
@options.as_json
def bench(
    *,
    names: tuple[str, ...],
    runs: int,
    jobs: int,
    seconds: float,
    rows: int,
    folder: Path | None,
    slow_fsync: float,
    as_json: bool,
) -> None:
    """Measure what this machine reaches, beside what plain sqlite3 reaches in the same run.

    Each figure is the median of the runs, and `ratio` that of the pairs measured one after the other.
    """
    chosen = _chosen(names)
    if slow_fsync:
        words = _words(chosen, runs=runs, jobs=jobs, seconds=seconds, rows=rows, folder=folder, as_json=as_json)
        raise Exit(_run_again(words, slow_fsync))
    with _workplace(folder) as place:
        _measure(chosen, place, runs=runs, jobs=jobs, seconds=seconds, rows=rows, as_json=as_json)


def _chosen(names: tuple[str, ...]) -> list[str]:
    unknown = set(names) - set(NAMES)
    if unknown:
        raise UsageError(f"there is no benchmark {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    return [name for name in NAMES if not names or name in names]


def _words(
    names: list[str], *, runs: int, jobs: int, seconds: float, rows: int, folder: Path | None, as_json: bool
) -> list[str]:
    """Return the command line that measures the same."""
    return [
        "bench",
        *names,
        f"--runs={runs}",
        f"--jobs={jobs}",
        f"--seconds={seconds}",
        f"--rows={rows}",
        *([f"--folder={folder}"] if folder else []),
        *(["--json"] if as_json else []),
    ]


def _run_again(words: list[str], milliseconds: float) -> int:
    from sidework.cli.bench.slow import run_again

    return run_again(words, milliseconds=milliseconds)


@contextmanager
def _workplace(folder: Path | None) -> Iterator[Path]:
    """Make a folder to work in, and remove it afterwards. Beside the user's files: /tmp is often no disk at all."""
    try:
        place = TemporaryDirectory(prefix=".sidework-bench-", dir=folder or Path.cwd())
    except OSError as error:
        raise UsageError(f"--folder {folder or Path.cwd()}: {error.strerror}") from error
    with place as path:
        yield Path(path)


def _measure(names: list[str], place: Path, *, runs: int, jobs: int, seconds: float, rows: int, as_json: bool) -> None:
    from sidework.cli.bench.machine import look_at
    from sidework.cli.bench.site import Site

    machine = look_at(place)
    site = Site(place, runs=runs, jobs=jobs, seconds=seconds, rows=rows)
    figures: list[Figure] = []
    for name in names:
        complain(f"measuring {name} ...")
        figures += importlib.import_module(f"sidework.cli.bench.{name}").measure(site)
    if as_json:
        print_json({"machine": machine, "figures": [_facts(each) for each in figures]})
    else:
        _print(machine, figures)


def _facts(figure: Figure) -> dict[str, object]:
    import msgspec

    return {**msgspec.structs.asdict(figure), "met": figure.met}


def _print(machine: Machine, figures: list[Figure]) -> None:
    print_table(
        ["", "", "median", "min - max", "raw", "ratio", "goal", "met", "raw is"],
        (
            [
                each.bench,
                each.name,
                f"{_number(each.value)} {each.unit}",
                f"{_number(each.low)} - {_number(each.high)}",
                _number(each.raw),
                _number(each.ratio),
                _goal(each.goal, each.unit),
                each.met,
                each.against,
            ]
            for each in figures
        ),
    )
    say(machine.in_words())


def _number(value: float | None) -> str | None:
    if value is None:
        return None
    return f"{value:,.0f}" if abs(value) >= HUNDRED else f"{value:.3g}"


def _goal(goal: Goal | None, unit: str) -> str | None:
    if goal is None:
        return None
    sign, bound = (">=", goal.at_least) if goal.at_least is not None else ("<=", goal.at_most)
    return f"{sign} {bound:g} {'x raw' if goal.of == 'ratio' else unit}"
