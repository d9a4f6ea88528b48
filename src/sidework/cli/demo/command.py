"""`sidework demo`: its options, and what it says."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.exceptions import Exit

from sidework.cli import options
from sidework.cli.failures import ExitCode, UsageError
from sidework.cli.grammar import argument, command, flag, option
from sidework.cli.output import complain, print_json, print_table, say

if TYPE_CHECKING:
    from sidework.cli.demo.index import Run
    from sidework.cli.demo.place import Place
    from sidework.cli.demo.stage import Ending
    from sidework.cli.demo.work import Settings

DEFAULT_PACE = 0.01
SHOWN_REASONS = 5
SHOWN_HITS = 3


@command
@argument(
    "folder",
    metavar="[FOLDER]",
    type=click.Path(path_type=Path),
    required=False,
    help="Read the files in here, not Python's own library.",
)
@flag("--calm", help="Kill nobody.")
@flag("--without-fence", help="The control: effects committed apart from their job.")
@option(
    "--pace",
    metavar="SECONDS",
    type=click.FloatRange(min=0),
    default=DEFAULT_PACE,
    help="How long each job waits beyond its work.",
)
@option("--search", metavar="WORD", default="sqlite3", help="What to look up at the end.")
@option("--database", metavar="PATH", help="Keep the run here; the file stays afterwards.")
@flag("--fresh", help="Begin anew, even where a run was interrupted.")
@options.as_json
def demo(
    *,
    folder: Path | None,
    calm: bool,
    without_fence: bool,
    pace: float,
    search: str,
    database: str | None,
    fresh: bool,
    as_json: bool,
) -> None:
    """Index Python's own library (or FOLDER) with two workers, kill them at random, and compare with a plain count.

    Each job reads one file, indexes its words, adds to running totals and enqueues the modules that the file imports:
    one commit. At the end a plain pass counts again. Exit code 1: the totals are not equal. Ctrl-C, and running it
    again, goes on.
    """
    from sidework.cli.demo import place as places

    where = str(_existing(folder)) if folder else None
    place = places.choose_place(database, where, fenced=not without_fence)
    wish = _wish(str(place.database), where, fenced=not without_fence, pace=pace)
    with places.alone_in(place):
        ending = _perform(wish, place, calm=calm, fresh=fresh, word=search, quiet=as_json)
        _report(ending, wish, as_json=as_json)
        places.remove(place)
    raise Exit(ExitCode.DONE if ending.equal else ExitCode.NO)


def _existing(folder: Path) -> Path:
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder")
    return folder.resolve()


def _wish(database: str, folder: str | None, *, fenced: bool, pace: float) -> Settings:
    from sidework.cli.demo.work import Settings

    return Settings(database=database, folder=folder, fenced=fenced, pace=pace)


def _perform(wish: Settings, place: Place, *, calm: bool, fresh: bool, word: str, quiet: bool) -> Ending:
    from sidework.cli.demo.stage import Performance

    try:
        run = _begin_or_go_on(wish, place, fresh=fresh, quiet=quiet)
        performance = Performance(wish, place, run, calm=calm)
        performance.play(show_bar=not quiet)
    except KeyboardInterrupt:
        complain(f"interrupted; the same command goes on with {place.database}, --fresh begins anew")
        raise Exit(ExitCode.INTERRUPTED) from None
    return performance.finish(word, show_bar=not quiet)


def _begin_or_go_on(wish: Settings, place: Place, *, fresh: bool, quiet: bool) -> Run:
    from sidework.cli.demo import place as places
    from sidework.cli.demo.stage import begin, same_run

    run = places.run_in(place)
    if run is not None and not run.finished and not fresh:
        if not same_run(run, wish):
            raise UsageError(f"{place.database} holds another run of the demo; --fresh begins anew")
        _tell(f"going on with the run in {place.database}", quiet=quiet)
        return run
    if run is not None:
        places.clear(place)
    _tell(f"database: {place.database} (Ctrl-C, and the same command again, goes on)", quiet=quiet)
    return begin(wish)


def _tell(text: str, *, quiet: bool) -> None:
    if not quiet:
        say(text)


def _report(ending: Ending, settings: Settings, *, as_json: bool) -> None:
    if as_json:
        print_json(_facts(ending))
        return
    _print_totals(ending)
    _print_course(ending, settings)
    _print_unread(ending)
    shown = ", ".join(ending.hits[:SHOWN_HITS]) + (", ..." if len(ending.hits) > SHOWN_HITS else "")
    say(f"search for {ending.word!r} in the index: {len(ending.hits)} files{': ' if ending.hits else ''}{shown}")
    say(_verdict(ending))


def _facts(ending: Ending) -> dict[str, object]:
    import msgspec

    facts = msgspec.to_builtins(ending)
    return {"equal": ending.equal, **facts, "hits": len(ending.hits)}


def _print_totals(ending: Ending) -> None:
    import msgspec

    jobs, plain = msgspec.structs.asdict(ending.by_jobs), msgspec.structs.asdict(ending.recounted)
    rows = ([name, f"{jobs[name]:,}", f"{plain[name]:,}", f"{jobs[name] - plain[name]:+,}"] for name in jobs)
    print_table(["", "by the jobs", "recounted", "difference"], rows)


def _print_course(ending: Ending, settings: Settings) -> None:
    say(
        f"{ending.jobs:,} jobs in {ending.seconds:.1f} s ({ending.jobs / ending.seconds:,.0f} a second, "
        f"{settings.pace * 1000:.0f} ms of each only waited), "
        f"{ending.kills} kills of a worker, {ending.crashes} jobs cut short by them and run again"
    )


def _print_unread(ending: Ending) -> None:
    if ending.failed:
        say(f"{len(ending.failed)} files could not be read and say why:")
    for name, reason in ending.failed[:SHOWN_REASONS]:
        say(f"  {name}: {reason}")
    if len(ending.failed) > SHOWN_REASONS:
        say(f"  and {len(ending.failed) - SHOWN_REASONS} more")


def _verdict(ending: Ending) -> str:
    if ending.equal:
        return "equal to the last word: every file counted exactly once"
    surplus = ending.by_jobs.files - ending.recounted.files
    return f"NOT EQUAL: files were counted {abs(surplus):,} times too {'often' if surplus > 0 else 'rarely'}"
