"""What a PostgreSQL database can say about itself: server, settings, schema, dead rows and who pins them, clocks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sidework.clock import SystemClock
from sidework.errors import NotOurTable, SchemaTooNew, SideworkError
from sidework.model.health import Examination, Finding, Level, RunningJob
from sidework.storage.postgres import migrate
from sidework.storage.postgres.rows import to_moment
from sidework.storage.statements import load

if TYPE_CHECKING:
    from collections.abc import Iterator

    from psycopg import Connection

_SQL: Final = load(Path(__file__).with_name("examine.sql"))

OLDEST_SUPPORTED: Final = 130_000
MANY_DEAD_ROWS: Final = 200_000
LONG_TRANSACTION: Final = 60.0
"""Seconds from which an open transaction is worth a notice."""
LARGE_SKEW: Final = 2.0
"""Seconds by which the clocks of this machine and the server may differ."""
_SHOWN: Final = 80

INDEXES: Final = frozenset(
    {
        "background_service_jobs_pkey",
        "idx_background_jobs_status_priority",
        "background_service_jobs_suspects",
        "background_service_jobs_due",
        "background_service_jobs_running",
        "background_service_jobs_unique",
    }
)


def examine(connection: Connection[Any], name: str) -> Examination:
    """Look at the server and its tables."""
    findings = [*_about_server(connection), _about_clock(connection), _about_schema(connection, name)]
    if findings[-1].level is Level.ILL:
        return Examination(findings=findings, usable=False)
    findings += [_about_indexes(connection), _about_dead_rows(connection), _about_transactions(connection)]
    return Examination(
        findings=findings,
        ready=dict(_rows(connection, "ready_by_key")),
        oldest_running=_oldest_running(connection),
    )


def _about_server(connection: Connection[Any]) -> Iterator[Finding]:
    version, number, encoding, commit, fsync, pages, replica = _rows(connection, "server")[0]
    old = number < OLDEST_SUPPORTED
    yield Finding(
        subject="server",
        level=Level.ILL if old else Level.WELL,
        text=f"PostgreSQL {version}",
        remedy="sidework needs PostgreSQL 13 or newer" if old else None,
    )
    if replica:
        yield Finding(
            subject="role",
            level=Level.ILL,
            text="this server is a replica: it only reads, and later than the primary",
            remedy="name the primary (target_session_attrs=read-write in the URL finds it)",
        )
    if encoding != "UTF8":
        yield Finding(
            subject="encoding",
            level=Level.ILL,
            text=f"the database is in {encoding}: payloads with other characters are refused",
            remedy="create a database with ENCODING 'UTF8'",
        )
    yield _about_durability(commit, fsync, pages)


def _about_durability(commit: str, fsync: str, pages: str) -> Finding:
    text = f"synchronous_commit={commit}, fsync={fsync}, full_page_writes={pages}"
    if fsync != "on" or pages != "on":
        remedy = "a crash may lose or damage what was acknowledged; set them on where that matters"
        return Finding(subject="durability", level=Level.ILL, text=text, remedy=remedy)
    if commit == "off":
        remedy = "the application's own transactions may be lost in a crash, and the jobs that they enqueued with them"
        return Finding(subject="durability", level=Level.NOTICE, text=text, remedy=remedy)
    return Finding(subject="durability", level=Level.WELL, text=text)


def _about_clock(connection: Connection[Any]) -> Finding:
    before = SystemClock().now()
    ((server,),) = _rows(connection, "time")
    after = SystemClock().now()
    skew = (server - before - (after - before) / 2).total_seconds()
    text = f"the server is {abs(skew):.1f} s {'ahead of' if skew > 0 else 'behind'} this machine"
    if abs(skew) < LARGE_SKEW:
        return Finding(subject="clock", level=Level.WELL, text=text)
    return Finding(subject="clock", level=Level.NOTICE, text=text, remedy="let both keep time by NTP")


def _about_schema(connection: Connection[Any], name: str) -> Finding:
    try:
        migrate.check(connection, name)
    except SideworkError as error:
        return Finding(subject="tables", level=Level.ILL, text=str(error), remedy=_remedy_for(error))
    return Finding(subject="tables", level=Level.WELL, text=f"version {migrate.VERSION}, as this code wants them")


def _remedy_for(error: SideworkError) -> str:
    match error:
        case SchemaTooNew():
            return "update sidework here"
        case NotOurTable():
            return "name another database or schema"
        case _:
            return "run `sidework migrate`, or start a service: it does it by itself"


def _about_indexes(connection: Connection[Any]) -> Finding:
    valid = {index for index, is_valid in _rows(connection, "indexes") if is_valid}
    if missing := INDEXES - valid:
        return Finding(
            subject="indexes",
            level=Level.ILL,
            text=f"missing or invalid: {', '.join(sorted(missing))}; claims walk the whole table without them",
            remedy="create them as in sidework/storage/postgres/migrations (REINDEX for an invalid one)",
        )
    return Finding(subject="indexes", level=Level.WELL, text="all there")


def _about_dead_rows(connection: Connection[Any]) -> Finding:
    live, dead, size = (_rows(connection, "dead_rows") or [(0, 0, 0)])[0]
    text = f"{dead:,} beside {live:,} live ones, {size / 1024**2:,.0f} MiB with indexes"
    if dead > MANY_DEAD_ROWS and dead > live:
        remedy = "see the oldest transaction below; if there is none, autovacuum is off or cannot follow"
        return Finding(subject="dead rows", level=Level.NOTICE, text=text, remedy=remedy)
    return Finding(subject="dead rows", level=Level.WELL, text=text)


def _about_transactions(connection: Connection[Any]) -> Finding:
    found = _rows(connection, "oldest_transaction")
    if not found or found[0][3] < LONG_TRANSACTION:
        return Finding(subject="oldest transaction", level=Level.WELL, text="none is open for long")
    pid, user, state, seconds, query = found[0]
    return Finding(
        subject="oldest transaction",
        level=Level.NOTICE,
        text=f"process {pid} of {user} ({state}) has one open for {seconds:,.0f} s: {_shown(query)}. Until it ends, no "
        "dead row can be removed and claims get slower",
        remedy=f"end process {pid} by pg_terminate_backend; idle_in_transaction_session_timeout keeps others from it",
    )


def _shown(query: str) -> str:
    line = " ".join(query.split())
    return line if len(line) <= _SHOWN else line[:_SHOWN] + "…"


def _oldest_running(connection: Connection[Any]) -> RunningJob | None:
    found = _rows(connection, "oldest_running")
    return RunningJob(id=found[0][0], key=found[0][1], since=to_moment(found[0][2])) if found else None


def _rows(connection: Connection[Any], statement: str) -> list[tuple[Any, ...]]:
    return connection.execute(_SQL[statement]).fetchall()
