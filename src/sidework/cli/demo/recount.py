"""The plain pass over the same files: no jobs, no database, nobody is killed."""

from __future__ import annotations

import multiprocessing
import signal
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from sidework.cli.demo.source import Reading, Source, Totals, UnreadableError, first_sources, next_sources, read

PROCESSES = 2
FEW = 16
"""Files of one message to a process."""


def recount(folder: str | None, seen_one: Callable[[], None]) -> Totals:
    """Read every file once, follow imports as the jobs did, and return the sums."""
    sums = Totals()
    seen: set[str] = set()
    front = first_sources(Path(folder) if folder else None)
    afresh = multiprocessing.get_context("spawn")  # the parent has a database open: no fork
    with ProcessPoolExecutor(PROCESSES, mp_context=afresh, initializer=_be_quiet) as pool:
        while front:
            seen.update(source.name for source in front)
            found: dict[str, Source] = {}
            for reading, following in pool.map(_measure, front, [folder is None] * len(front), chunksize=FEW):
                seen_one()
                if reading is not None:
                    sums = sums.plus(reading)
                found |= {source.name: source for source in following}
            front = [source for name, source in found.items() if name not in seen]
    return sums


def _measure(source: Source, follow: bool) -> tuple[Reading | None, list[Source]]:  # noqa: FBT001 - called by `map`
    try:
        reading = read(source)
    except UnreadableError:
        return None, []
    without_text = Reading(text="", lines=reading.lines, words=reading.words, imports=reading.imports)
    return without_text, next_sources(source, reading) if follow else []


def _be_quiet() -> None:
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
