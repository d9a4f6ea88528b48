"""A pgbouncer in transaction mode before a server of the tests: started and removed by them, where it is installed."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

import psycopg
from tests.postgres_server import _as_somebody_else, _free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

STARTING = 20.0
CONFIGURATION = """
[databases]
* = host={host} port={server_port} user={user}

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 8
max_client_conn = 200
"""
"""A pool that is smaller than the number of clients: who comes next gets a server process that another one has used."""


def program() -> str | None:
    """Return the path of pgbouncer, or None."""
    return shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")


@contextmanager
def pooler(database: str) -> Iterator[str]:
    """Yield the URL of a database that is reached through a pooler."""
    found = program()
    assert found is not None
    parts = urlsplit(database)
    port = _free_port()
    with tempfile.TemporaryDirectory(prefix="sidework-pgbouncer-") as folder:
        path = Path(folder) / "pgbouncer.ini"
        path.write_text(
            CONFIGURATION.format(host=parts.hostname, server_port=parts.port or 5432, user=parts.username, port=port)
        )
        Path(folder).chmod(0o755)
        process = subprocess.Popen(
            [*_as_somebody_else(), found, "-q", str(path)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            url = urlunsplit(parts._replace(netloc=f"{parts.username}@127.0.0.1:{port}"))
            _wait(process, url)
            yield url
        finally:
            process.terminate()
            process.wait(20)


def _wait(process: subprocess.Popen[bytes], url: str) -> None:
    for _ in range(int(STARTING * 20)):
        with suppress(psycopg.OperationalError), closing(psycopg.connect(url, connect_timeout=5)):
            return
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.05)
            break
    raise RuntimeError("pgbouncer did not start")
