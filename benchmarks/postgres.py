"""sidework on PostgreSQL beside what psycopg alone reaches, on a server of this run's own, every commit synced.

    python benchmarks/postgres.py [NAME]... [--runs 3] [--jobs 20000] [--output benchmarks/postgres.json]

Run it with the Python of an environment in which sidework[postgres] and its tests are installed. `--server URL` names
another server, on which databases may be created.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
from msgspec import to_builtins

from sidework.cli.bench.figure import Figure, Goal, figure, percentile
from sidework.cli.bench.handlers import build_service
from sidework.cli.bench.machine import look_at
from sidework.cli.bench.processes import Process, drain, running_service
from sidework.cli.bench.site import seconds_of, take_turns
from sidework.clock import SystemClock
from sidework.storage.statements import load

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from sidework import BackgroundService

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from postgres_ground import synced_server  # noqa: E402 - it lies beside this file, in no package
from tests.postgres_server import new_database  # noqa: E402 - `postgres_ground` knows where the tests are

SQL = load(HERE / "postgres.sql")
BATCH = 1000
THREADS = 4
PAUSE = 0.03
"""Seconds between two jobs of `pickup`, so that the service is idle before each."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """A server, and how much is measured there."""

    server: str
    runs: int
    jobs: int

    def fresh(self) -> Any:
        """Return a context that yields the URL of an empty database."""
        return new_database(self.server)


def main() -> None:
    """Measure, print, and write JSON."""
    wish = arguments()
    with synced_server(wish.server) as url:
        place = Place(server=url, runs=wish.runs, jobs=wish.jobs)
        figures: list[Figure] = []
        for name in wish.names or MEASUREMENTS:
            print(f"measuring {name} ...", file=sys.stderr, flush=True)
            figures += MEASUREMENTS[name](place)
        report = {"machine": to_builtins(look_at(Path.cwd())), "server": settings_of(url), "jobs": wish.jobs}
    report["figures"] = [{**to_builtins(each), "met": each.met} for each in figures]
    wish.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    show(figures)


def arguments() -> argparse.Namespace:
    """Return what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*MEASUREMENTS, []], help="some of: " + ", ".join(MEASUREMENTS))
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=20_000)
    parser.add_argument("--server", help="the URL of a server to use instead of one of this run's own")
    parser.add_argument("--output", type=Path, default=HERE / "postgres.json")
    return parser.parse_args()


def settings_of(url: str) -> dict[str, str]:
    """Return what the server says of itself."""
    names = ("server_version", "synchronous_commit", "fsync", "full_page_writes", "shared_buffers")
    with closing(psycopg.connect(url)) as connection:
        return {name: str(connection.execute("SELECT current_setting(%s)", [name]).fetchone()[0]) for name in names}


# --------------------------------------------------------------------------------------------------- measurements


def measure_drain(place: Place) -> list[Figure]:
    """One service with default settings, beside the life of rows in batches of a thousand."""
    ours, raws = take_turns(place.runs, lambda: drained_per_second(place, 1), lambda: lives_per_second(place))
    against = "insert, claim and complete 1,000 rows a commit"
    goal = Goal(of="ratio", at_least=0.5)
    return [figure("drain", "no-op jobs, one service", "jobs/s", ours, raws=raws, against=against, goal=goal)]


def measure_hosts(place: Place) -> list[Figure]:
    """Two services, as on two hosts, beside one."""
    both, one = take_turns(place.runs, lambda: drained_per_second(place, 2), lambda: drained_per_second(place, 1))
    goal = Goal(of="ratio", at_least=1)
    return [figure("hosts", "two services, together", "jobs/s", both, raws=one, against="one service", goal=goal)]


def measure_enqueue(place: Place) -> list[Figure]:
    """Single enqueues beside single rows; all at once beside COPY."""
    count = place.jobs // 10
    single, rows = take_turns(place.runs, lambda: enqueued(place, one_by_one, count), lambda: inserted(place, count))
    bulk, copies = take_turns(place.runs, lambda: enqueued(place, at_once, place.jobs), lambda: copied(place))
    return [
        figure(
            "enqueue", "one by one", "jobs/s", single, raws=rows, against="one INSERT a commit",
            goal=Goal(of="ratio", at_least=0.8),
        ),
        figure(
            "enqueue", "enqueue_many", "jobs/s", bulk, raws=copies, against="COPY",
            goal=Goal(of="ratio", at_least=0.4),
        ),
    ]  # fmt: skip


def measure_notify(place: Place) -> list[Figure]:
    """What ringing costs those who enqueue: four threads, in transactions of their own and in the application's."""
    count = place.jobs // 10
    figures = []
    for name, work in (("own transactions", one_by_one), ("the application's transactions", in_transactions)):
        on, off = take_turns(
            place.runs,
            partial(enqueued, place, partial(by_threads, work), count, notify=True),
            partial(enqueued, place, partial(by_threads, work), count, notify=False),
        )
        figures.append(figure("notify", name, "jobs/s", on, raws=off, against="notify=False"))
    return figures


def measure_pickup(place: Place) -> list[Figure]:
    """From before the enqueue to the start of the handler in an idle service."""
    waits = [pickups(place) for _ in range(place.runs)]
    raws = [raw_pickups(place) for _ in range(place.runs)]
    return [
        figure(
            "pickup", name, "ms", [percentile(each, share) for each in waits],
            raws=[percentile(each, share) for each in raws], against="INSERT, NOTIFY and a claim by a waiting thread",
            goal=goal,
        )
        for name, share, goal in (("p50", 0.5, Goal(of="value", at_most=2)), ("p99", 0.99, None))
    ]  # fmt: skip


MEASUREMENTS: dict[str, Callable[[Place], list[Figure]]] = {
    "drain": measure_drain,
    "hosts": measure_hosts,
    "enqueue": measure_enqueue,
    "notify": measure_notify,
    "pickup": measure_pickup,
}

# ----------------------------------------------------------------------------------------------------------- ours


def drained_per_second(place: Place, services: int) -> float:
    """Fill a fresh database and drain it by so many processes."""
    with place.fresh() as url:
        service = build_service(url)
        service.enqueue_many([("nothing", {"n": n}) for n in range(place.jobs)])
        service.close()
        drained = drain(url, count=services)
    return place.jobs / (max(each.ended for each in drained) - min(each.began for each in drained))


def enqueued(
    place: Place, work: Callable[[str, BackgroundService, int], object], count: int, *, notify: bool = True
) -> float:
    """Return how many jobs a second the work enqueues on a fresh database that is open already."""
    with place.fresh() as url:
        service = build_service(url, notify=notify)
        service.enqueue("nothing", {"n": 0})
        seconds = seconds_of(lambda: work(url, service, count))
        service.close()
    return count / seconds


def one_by_one(_url: str, service: BackgroundService, count: int) -> None:
    """Commit each job."""
    for n in range(count):
        service.enqueue("nothing", {"n": n})


def at_once(_url: str, service: BackgroundService, count: int) -> None:
    """Commit all jobs at once."""
    service.enqueue_many([("nothing", {"n": n}) for n in range(count)])


def in_transactions(url: str, service: BackgroundService, count: int) -> None:
    """Commit each job in a transaction of the application's own."""
    with closing(psycopg.connect(url)) as connection:
        for n in range(count):
            service.enqueue("nothing", {"n": n}, db=connection)
            connection.commit()


def by_threads(
    work: Callable[[str, BackgroundService, int], object], url: str, service: BackgroundService, count: int
) -> None:
    """Let threads share the work."""
    with ThreadPoolExecutor(THREADS) as threads:
        for each in [threads.submit(work, url, service, count // THREADS) for _ in range(THREADS)]:
            each.result()


def pickups(place: Place) -> list[float]:
    """Return the milliseconds that jobs waited for an idle service."""
    with place.fresh() as url:
        service = build_service(url)
        service.migrate()
        with running_service(url) as process:
            waits = [wait_of(process, lambda: service.enqueue("note", {"n": 0})) for _ in range(place.jobs // 200 + 1)]
        service.close()
    return waits[1:]  # the first one opened the connections


def wait_of(process: Process, send: Callable[[], object]) -> float:
    """Return how many milliseconds after the beginning of `send` the process notes what was sent."""
    threading.Event().wait(PAUSE)
    before = SystemClock().monotonic()
    send()
    return (float(process.hear("noted")) - before) * 1000


# ------------------------------------------------------------------------------------------------------ the limit


@contextmanager
def table(place: Place) -> Iterator[tuple[str, psycopg.Connection[Any]]]:
    """Make the plain table in a fresh database; yield the URL and a connection."""
    with place.fresh() as url, closing(psycopg.connect(url, autocommit=True)) as connection:
        connection.execute(SQL["jobs"])
        connection.execute(SQL["ready"])
        yield url, connection


def lives_per_second(place: Place) -> float:
    """Insert, claim and complete rows, a thousand in each commit."""
    with table(place) as (_url, connection):
        return place.jobs / seconds_of(lambda: live(connection, place.jobs))


def live(connection: psycopg.Connection[Any], count: int) -> None:
    """Take rows through their whole life."""
    payloads = [f'{{"n":{n}}}' for n in range(BATCH)]
    for _ in range(count // BATCH):
        connection.execute(SQL["insert_many"], {"payloads": payloads}, prepare=True)
    while claimed := connection.execute(SQL["claim"], {"most": BATCH}, prepare=True).fetchall():
        connection.execute(SQL["complete"], {"ids": [row[0] for row in claimed]}, prepare=True)


def inserted(place: Place, count: int) -> float:
    """Commit row by row."""
    with table(place) as (_url, connection):

        def work() -> None:
            for n in range(count):
                connection.execute(SQL["insert"], {"payload": f'{{"n":{n}}}'}, prepare=True).fetchone()

        return count / seconds_of(work)


def copied(place: Place) -> float:
    """Copy all rows in one commit."""
    with table(place) as (_url, connection):

        def work() -> None:
            with connection.cursor().copy(SQL["copy"]) as copy:
                for n in range(place.jobs):
                    copy.write_row(("nothing", f'{{"n":{n}}}'))

        return place.jobs / seconds_of(work)


def raw_pickups(place: Place) -> list[float]:
    """Return the milliseconds from a row to its claim by a thread that listens."""
    clock = SystemClock()
    waits: list[float] = []
    claimed = threading.Event()
    with (
        table(place) as (url, connection),
        closing(psycopg.connect(url, autocommit=True)) as other,
        closing(psycopg.connect(url, autocommit=True)) as listener,
    ):
        listener.execute(SQL["listen"])
        count = place.jobs // 200

        def claim() -> None:
            for _ in itertools.islice(listener.notifies(), count):
                other.execute(SQL["claim"], {"most": 10}, prepare=True).fetchall()
                waits.append(clock.monotonic())
                claimed.set()

        thread = threading.Thread(target=claim)
        thread.start()
        begins = []
        for n in range(count):
            threading.Event().wait(PAUSE)
            begins.append(clock.monotonic())
            connection.execute(SQL["insert"], {"payload": f'{{"n":{n}}}'}, prepare=True)
            connection.execute(SQL["notify"])
            claimed.wait()
            claimed.clear()
        thread.join()
    return [(end - begin) * 1000 for begin, end in zip(begins, waits, strict=True)]


# ---------------------------------------------------------------------------------------------------------- words


def show(figures: Sequence[Figure]) -> None:
    """Print a table; a goal that is missed is called lost."""
    for each in figures:
        met = {None: "", True: "won", False: "LOST"}[each.met]
        raw = "" if each.raw is None else f"{each.raw:>12,.5g}  {each.ratio:.2f} x {each.against}"
        print(f"{each.bench:8}{each.name:32}{each.value:>12,.5g} {each.unit:7}{raw:64}{met}")


if __name__ == "__main__":
    main()
