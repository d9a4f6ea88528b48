"""How many jobs a second can be enqueued: one by one, by threads at once, and in bulk."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from sidework import BackgroundService
from sidework.cli.bench import raw
from sidework.cli.bench.figure import Figure, Goal, figure
from sidework.cli.bench.handlers import build_service
from sidework.cli.bench.site import Site, remove, seconds_of, take_turns

THREADS = 8


def measure(site: Site) -> list[Figure]:
    """Measure each way, every job durable when its call returns."""
    return [_one_by_one(site), _our_table(site), _by_threads(site), _in_bulk(site)]


def _one_by_one(site: Site) -> Figure:
    count = site.part_of_jobs(10)
    ours, raws = take_turns(
        site.runs,
        lambda: _rate(site, count, lambda service: _send(service, count)),
        lambda: raw.inserts_per_second(site, count),
    )
    return figure(
        "enqueue",
        "one by one",
        "jobs/s",
        ours,
        raws=raws,
        against="one INSERT a commit into the seed's table, with one index",
        goal=Goal(of="ratio", at_least=0.8),
    )


def _our_table(site: Site) -> Figure:
    """Tell what our columns, checks and indexes cost by themselves: none of it is our code."""
    count = site.part_of_jobs(10)
    ours, raws = take_turns(
        site.runs,
        lambda: raw.inserts_into_our_table_per_second(site, count),
        lambda: raw.inserts_per_second(site, count),
    )
    return figure(
        "enqueue",
        "bare INSERTs into our table",
        "jobs/s",
        ours,
        raws=raws,
        against="the same into the seed's table, with one index",
    )


def _by_threads(site: Site) -> Figure:
    count = site.part_of_jobs(10)
    ours, raws = take_turns(
        site.runs,
        lambda: _rate(site, THREADS * count, lambda service: _send_by_threads(service, count)),
        lambda: _rate(site, count, lambda service: _send(service, count)),
    )
    return figure(
        "enqueue",
        f"{THREADS} threads",
        "jobs/s",
        ours,
        raws=raws,
        against="one thread",
        goal=Goal(of="ratio", at_least=4),
    )


def _in_bulk(site: Site) -> Figure:
    jobs = [("nothing", {"n": n}) for n in range(site.jobs)]
    ours, raws = take_turns(
        site.runs,
        lambda: _rate(site, len(jobs), lambda service: service.enqueue_many(jobs)),
        lambda: raw.bulk_per_second(site, len(jobs)),
    )
    return figure(
        "enqueue",
        "enqueue_many",
        "jobs/s",
        ours,
        raws=raws,
        against="executemany",
        goal=Goal(of="ratio", at_least=0.4),
    )


def _rate(site: Site, count: int, work: Callable[[BackgroundService], object]) -> float:
    """Return how many jobs a second the work enqueues on a fresh database that is open already."""
    database = site.fresh()
    service = build_service(database)
    service.enqueue("nothing", {"n": 0})
    seconds = seconds_of(lambda: work(service))
    service.close()
    remove(database)
    return count / seconds


def _send(service: BackgroundService, count: int) -> None:
    nothing = service.handlers["nothing"]
    for n in range(count):
        nothing.enqueue(n=n)


def _send_by_threads(service: BackgroundService, count: int) -> None:
    with ThreadPoolExecutor(THREADS) as threads:
        for sent in [threads.submit(_send, service, count) for _ in range(THREADS)]:
            sent.result()
