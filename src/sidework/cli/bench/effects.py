"""How many jobs a second commit their own write together with their completion."""

from __future__ import annotations

from contextlib import closing

from sidework.cli.bench import raw
from sidework.cli.bench.drain import fill
from sidework.cli.bench.figure import Figure, Goal, figure
from sidework.cli.bench.processes import drain
from sidework.cli.bench.site import Site, remove, take_turns
from sidework.errors import SideworkError


def measure(site: Site) -> list[Figure]:
    """Measure a handler that writes one row through `db`: one transaction a job."""
    count = site.part_of_jobs(10)
    ours, raws = take_turns(
        site.runs, lambda: _effects_per_second(site, count), lambda: raw.effects_per_second(site, count)
    )
    return [
        figure(
            "effects",
            "jobs that write through db",
            "jobs/s",
            ours,
            raws=raws,
            against="BEGIN IMMEDIATE, INSERT, UPDATE, COMMIT",
            goal=Goal(of="ratio", at_least=0.8),
        )
    ]


def _effects_per_second(site: Site, count: int) -> float:
    database, sql = site.fresh(), raw.statements()
    with closing(raw.connect(database)) as connection:
        connection.execute(sql["effects"])
        fill(database, "effect", count)
        [drained] = drain(database)
        [(written,)] = connection.execute(sql["count_effects"])
    if written != count:
        raise SideworkError(f"{count} jobs wrote {written} rows")
    remove(database)
    return count / (drained.ended - drained.began)
