"""What a large table, and many jobs at once, cost."""

from __future__ import annotations

from contextlib import closing
from datetime import timedelta
from pathlib import Path

from sidework.cli.bench import raw
from sidework.cli.bench.drain import fill
from sidework.cli.bench.figure import Figure, Goal, figure
from sidework.cli.bench.handlers import build_service
from sidework.cli.bench.processes import drain
from sidework.cli.bench.site import Site, remove, take_turns
from sidework.clock import SystemClock

CONCURRENCIES = (1, 1000)


def measure(site: Site) -> list[Figure]:
    """Drain beside many finished and future rows; then with few and with many jobs at once."""
    return [_beside_rows(site), _with_concurrency(site)]


def _beside_rows(site: Site) -> Figure:
    large, small = site.fresh(), site.fresh()
    prepare(large, site.rows)
    prepare(small, 0)
    many, none = take_turns(site.runs, lambda: _rate(large, site.jobs), lambda: _rate(small, site.jobs))
    remove(large)
    remove(small)
    return figure(
        "growth",
        f"{site.rows:,} finished rows and as many future jobs of higher priority",
        "jobs/s",
        many,
        raws=none,
        against="an empty table",
        goal=Goal(of="ratio", at_least=0.9),
    )


def _with_concurrency(site: Site) -> Figure:
    few, many = CONCURRENCIES
    dear, cheap = take_turns(site.runs, lambda: _cpu_a_job(site, many), lambda: _cpu_a_job(site, few))
    return figure(
        "growth",
        f"processor time of a job with concurrency {many:,}",
        "µs",
        dear,
        raws=cheap,
        against=f"concurrency {few}",
        goal=Goal(of="ratio", at_most=1.1),
    )


def prepare(database: Path, rows: int) -> None:
    """Fill a database with finished rows and as many future ones."""
    service = build_service(database)
    service.migrate()
    service.close()
    now = SystemClock().now()
    due = now + timedelta(days=365)
    with closing(raw.connect(database)) as connection:
        for name, times in (("finished_rows", {"now": _text(now)}), ("future_rows", {"due": _text(due)})):
            connection.execute(raw.statements()[name], {"rows": rows, **times})


def _text(at: object) -> str:
    return f"{at:%Y-%m-%dT%H:%M:%S.000Z}"


def _rate(database: Path, count: int) -> float:
    fill(database, "nothing", count)
    [drained] = drain(database)
    return count / (drained.ended - drained.began)


def _cpu_a_job(site: Site, concurrency: int) -> float:
    """Return microseconds of processor time."""
    database = site.fresh()
    fill(database, "nothing", site.jobs)
    [drained] = drain(database, concurrency=concurrency)
    remove(database)
    return drained.cpu / site.jobs * 1e6
