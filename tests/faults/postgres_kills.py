"""F1, F2 on PostgreSQL: workers and enqueuers killed at random and at every named point, beside one that sees them die.

The campaign of `kills`, with a database of the server for each folder. All processes are on one machine, where a death
is seen at once; what a lease does on several is the matter of `partitions`.
"""

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

import msgspec
import psycopg
from psycopg._connection_base import BaseConnection
from tests.faults import kills
from tests.faults.audit import audit_postgres
from tests.faults.observed import SPY
from tests.faults.postgres_workload import LIMIT, LIMITED, PostgresWorkload
from tests.postgres_server import Server

from sidework.storage.postgres.lines import _Psycopg
from sidework.storage.postgres.session import Session

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence

    from tests.faults.audit import Findings
    from tests.faults.history import Log


class OnPostgres:
    """Stands for the connection of a handler or of the application, where its transaction begins and ends."""


def observe() -> None:
    """Let every named statement, and each begin and end of a handler's transaction, be a point."""
    send, command, insert = Session.send, BaseConnection._exec_command, _Psycopg.send
    jobs = OnPostgres()

    def observed_send(
        self: Session, connection: Any, statement: str, parameters: Mapping[str, object] | None = None
    ) -> Any:
        SPY.before(None, statement, ())
        cursor = send(self, connection, statement, parameters)
        SPY.after(None, statement, ())
        return cursor

    def observed_command(self: Any, text: Any, *arguments: Any) -> Generator[Any, Any, Any]:
        words = bytes(text).decode() if isinstance(text, bytes) else str(text)
        words = words.partition(" ")[0] + " of a job's own transaction"
        SPY.before(jobs, words, ())
        result = yield from command(self, text, *arguments)
        SPY.after(jobs, words, ())
        return result

    def observed_insert(self: _Psycopg, sql: str, parameters: Mapping[str, Any]) -> Any:
        words = " ".join(sql.split()[:3])
        SPY.before(None, words, ())
        rows = insert(self, sql, parameters)
        SPY.after(None, words, ())
        return rows

    _Psycopg.send = observed_insert  # type: ignore[method-assign]
    Session.send = observed_send  # type: ignore[method-assign]
    BaseConnection._exec_command = observed_command  # type: ignore[method-assign, assignment]


class Campaign(kills.Campaign):
    """Kills on one database of a server after the other."""

    server: str
    _counted = 0

    def _census(self, role: str, database: str) -> dict[str, int]:
        """Each on a database of its own: beside what the one before has left, an enqueuer would wait."""
        self._counted += 1
        own = f"{database} {self._counted}"
        self._create(self._folder / own)
        return super()._census(role, own)

    def _use_one_database(self, folder: Path) -> None:
        self._create(folder)
        super()._use_one_database(folder)

    def _create(self, folder: Path) -> None:
        """Make the database of a folder; no connection is left for children to inherit."""
        with closing(psycopg.connect(self.server, autocommit=True)) as connection:
            connection.execute(f"CREATE DATABASE {_name(folder)}")

    def _workload(self, folder: Path, log: Log, **options: Any) -> PostgresWorkload:
        return PostgresWorkload(self._url(folder), log, **options)

    def _audit(self, folder: Path) -> Findings:
        return audit_postgres(self._url(folder), folder / "log", limits={LIMITED: LIMIT})

    def _url(self, folder: Path) -> str:
        return urlunsplit(urlsplit(self.server)._replace(path=f"/{_name(folder)}"))


def _name(folder: Path) -> str:
    return "kills_" + "".join(each for each in folder.name if each.isalnum())


def main(arguments: Sequence[str]) -> None:
    """Run a campaign and print its figures as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--apart", action="store_true")
    chosen = parser.parse_args(arguments)
    server = Server()
    try:
        server.start()
        observe()
        with tempfile.TemporaryDirectory() as folder:
            gc.freeze()
            campaign = Campaign(
                seed=chosen.seed, kills=chosen.kills, seconds=chosen.seconds, apart=chosen.apart, folder=Path(folder)
            )
            campaign.server = server.url
            figures = campaign.run()
    finally:
        server.remove()
    sys.stdout.write(msgspec.json.encode(figures).decode() + "\n")
