"""Two services on one file: what they do together, and whether each gets its share."""

from __future__ import annotations

from sidework.cli.bench.drain import fill
from sidework.cli.bench.figure import Figure, Goal, figure
from sidework.cli.bench.processes import drain
from sidework.cli.bench.site import Site, remove, take_turns


def measure(site: Site) -> list[Figure]:
    """Drain the same number of jobs by one process and by two."""
    shares: list[float] = []
    both, one = take_turns(site.runs, lambda: _rate(site, 2, shares), lambda: _rate(site, 1, []))
    return [
        figure(
            "sharing",
            "two services on one file, together",
            "jobs/s",
            both,
            raws=one,
            against="one service",
            goal=Goal(of="ratio", at_least=1),
        ),
        figure("sharing", "the smaller share", "%", shares, goal=Goal(of="value", at_least=25)),
    ]


def _rate(site: Site, services: int, shares: list[float]) -> float:
    """Return how many jobs a second they end together; note the share of the one that got fewer, in percent."""
    database = site.fresh()
    fill(database, "count", site.jobs)
    drained = drain(database, count=services)
    remove(database)
    shares.append(100 * min(each.counted for each in drained) / site.jobs)
    return site.jobs / (max(each.ended for each in drained) - min(each.began for each in drained))
