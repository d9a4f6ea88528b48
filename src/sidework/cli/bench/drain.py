"""How many no-op jobs one service with default settings ends in a second."""

from __future__ import annotations

from pathlib import Path

from sidework.cli.bench import raw
from sidework.cli.bench.figure import Figure, Goal, figure
from sidework.cli.bench.handlers import build_service
from sidework.cli.bench.processes import drain
from sidework.cli.bench.site import Site, remove, take_turns


def measure(site: Site) -> list[Figure]:
    """Measure a drain, from the start of the service to its end with nothing left."""
    ours, raws = take_turns(
        site.runs, lambda: drained_per_second(site), lambda: raw.drained_per_second(site, 5 * site.jobs)
    )
    return [
        figure(
            "drain",
            "no-op jobs, one service",
            "jobs/s",
            ours,
            raws=raws,
            against="complete and claim 1,000 rows a transaction",
            goal=Goal(of="ratio", at_least=0.25),
        )
    ]


def drained_per_second(site: Site) -> float:
    """Fill a fresh database and drain it in another process."""
    database = site.fresh()
    fill(database, "nothing", site.jobs)
    [drained] = drain(database)
    remove(database)
    return site.jobs / (drained.ended - drained.began)


def fill(database: Path, key: str, count: int) -> None:
    """Enqueue jobs of one key."""
    service = build_service(database)
    service.enqueue_many([(key, {"n": n}) for n in range(count)])
    service.close()
