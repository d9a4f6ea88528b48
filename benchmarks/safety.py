"""What safety costs: the same work as it is done, without the protection against the dead, and without the sync.

    python benchmarks/safety.py [--runs N] [--jobs N]

Nobody can switch off what keeps jobs from being done twice. The control that can stands here and nowhere else: fence,
check of the worker's row, marks in the lock file and the look at the file's place are taken out of a process of its
own. Durability can be relaxed by the user, and then a power cut loses the last jobs.
"""

from __future__ import annotations

import argparse
import json
import re
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from sidework import BackgroundService
from sidework.storage.sqlite import pool, store, turn
from sidework.storage.sqlite.place import Place
from sidework.storage.sqlite.pool import GuardedConnection
from sidework.storage.sqlite.store import SqliteMembership, SqliteStorage

SAFE, UNPROTECTED, RELAXED = "as it is", "no fence, no liveness", "durability relaxed"
WAYS = (SAFE, UNPROTECTED, RELAXED)
MEASURED = ("drain", "effects", "enqueue")
GOAL = 0.9
"""Safety is to leave this share of what would be reached without it."""
FENCE = re.compile(r"\s+AND \+?(?:[a-z_]+\.)?(?:claims = [a-z.:]*(?:claims|value)|status = 'RUNNING')")
NOBODY = "SELECT 0, 0 WHERE 0"
"""In place of the statement that finds who was superseded."""

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Rates = dict[str, float]


def main() -> None:
    """Measure all ways in turn, in processes of their own, and print one table; exit with 1 if it costs too much."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--jobs", type=int, default=30_000, help="no-op jobs a run; a tenth of it with effects")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.way:
        print(json.dumps(rates(chosen.way, chosen.jobs)))
        return
    runs = [measured_by_turns(run, chosen.jobs) for run in range(chosen.runs)]
    print("\n".join(table(runs)))
    sys.exit(0 if all(ratio(runs, what, UNPROTECTED) >= GOAL for what in MEASURED) else 1)


def measured_by_turns(run: int, jobs: int) -> dict[str, Rates]:
    """Measure every way once, close together and in another order each time: a slow moment meets them all."""
    turned = WAYS[run % len(WAYS) :] + WAYS[: run % len(WAYS)]
    return {way: measured_apart(way, jobs) for way in turned}


def measured_apart(way: str, jobs: int) -> Rates:
    """Measure one way in a process of its own."""
    command = [sys.executable, __file__, "--way", way, "--jobs", str(jobs)]
    found: Rates = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return found


def table(runs: list[dict[str, Rates]]) -> Iterator[str]:
    """Yield the lines of the table: medians a second, and the median ratio of the pairs."""
    yield "| | as it is | without fence and liveness | ratio | relaxed | ratio |"
    yield "|---|---|---|---|---|---|"
    for what in MEASURED:
        rate = {way: f"{median(run[way][what] for run in runs):,.0f}/s" for way in WAYS}
        ratios = [f"{ratio(runs, what, way):.2f}" for way in (UNPROTECTED, RELAXED)]
        yield f"| {what} | {rate[SAFE]} | {rate[UNPROTECTED]} | {ratios[0]} | {rate[RELAXED]} | {ratios[1]} |"


def ratio(runs: list[dict[str, Rates]], what: str, way: str) -> float:
    """Return what is left of another way's rate when the work is done safely."""
    return median(run[SAFE][what] / run[way][what] for run in runs)


# ------------------------------------------------------------------------------------------------------ one process


def rates(way: str, jobs: int) -> Rates:
    """Return how many jobs a second are drained, drained with effects, and enqueued one by one."""
    if way == UNPROTECTED:
        take_protection_away()
    with tempfile.TemporaryDirectory(prefix=".sidework-safety-", dir=Path.cwd()) as folder:
        return {
            "drain": drained_per_second(service_in(folder, "drain", way), "nothing", jobs),
            "effects": drained_per_second(service_in(folder, "effects", way), "effect", jobs // 10),
            "enqueue": enqueued_per_second(service_in(folder, "enqueue", way), jobs // 10),
        }


def service_in(folder: str, name: str, way: str) -> BackgroundService:
    """Return a service on a fresh database."""
    durability = "relaxed" if way == RELAXED else "full"
    service = BackgroundService(Path(folder) / f"{name}.db", durability=durability, listeners=())

    @service.handler
    async def nothing(n: int) -> None:
        """Do nothing."""

    @service.handler
    def effect(db: sqlite3.Connection, n: int) -> None:
        db.execute("INSERT INTO effects VALUES (?)", (n,))

    service.migrate()
    with closing(sqlite3.connect(Path(folder) / f"{name}.db")) as connection:
        connection.execute("CREATE TABLE effects (n)")
    return service


def drained_per_second(service: BackgroundService, key: str, jobs: int) -> float:
    """Enqueue jobs, and measure from the start of the service until none is left."""
    service.enqueue_many([(key, {"n": n}) for n in range(jobs)])
    rate = jobs / seconds_of(service.run_until_idle)
    if (done := service.jobs.count(status="COMPLETED")) != jobs:
        sys.exit(f"{done} of {jobs} jobs are completed")
    service.close()
    return rate


def enqueued_per_second(service: BackgroundService, jobs: int) -> float:
    """Enqueue one job after the other."""

    def enqueue_all() -> None:
        for n in range(jobs):
            service.enqueue("nothing", {"n": n})

    rate = jobs / seconds_of(enqueue_all)
    service.close()
    return rate


def seconds_of(work: Callable[[], object]) -> float:
    """Return how long something takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def take_protection_away() -> None:
    """Take out of this process what keeps a job from being done twice. Exits if the code is not as it was."""
    load = store.load
    store.load = lambda source: unfenced(load(source))  # type: ignore[attr-defined]
    pool.SQL.update(unfenced(dict(pool.SQL)))
    GuardedConnection.holds = lambda *_: True  # type: ignore[method-assign]
    turn.Turning.check_worker = lambda *_: None  # type: ignore[method-assign]
    SqliteMembership.begun = lambda *_: None  # type: ignore[method-assign]
    SqliteMembership.ended = lambda *_, **__: None  # type: ignore[method-assign]
    SqliteStorage._in_its_place = lambda _, act, connection: act(connection)  # type: ignore[method-assign]  # noqa: SLF001
    Place.check = lambda _: None  # type: ignore[method-assign]


def unfenced(sql: dict[str, str]) -> dict[str, str]:
    """Return the statements without a look at the number of the claim. Exits if there is no such look."""
    bare = {name: FENCE.sub("", text) for name, text in sql.items() if name.startswith("settle")}
    same = [name for name, text in bare.items() if text == sql[name] or "claims =" in text]
    if same or not bare:
        sys.exit(f"the fence was not found in {same or 'any statement'}: this control is out of date")
    if "refused" in sql:
        bare["refused"] = NOBODY
    return {**sql, **bare}


if __name__ == "__main__":
    main()
