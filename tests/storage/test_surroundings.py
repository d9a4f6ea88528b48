"""What doctor says of what surrounds a database."""

from __future__ import annotations

import logging
import os
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from sidework.model.health import Level
from sidework.storage.sqlite import store as store_module
from sidework.storage.sqlite import surroundings
from sidework.storage.sqlite.store import SqliteStorage

if TYPE_CHECKING:
    from pathlib import Path

MOUNTS = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:40 / /srv/my\\040data rw shared:5 - nfs4 server:/export rw
31 22 0:41 / /srv/my\\040data/local rw - xfs /dev/sdb1 rw
32 22 0:42 / /home/me/far rw - fuse.sshfs me@there:/ rw
broken line
"""


@pytest.mark.parametrize(
    ("path", "kind", "network"),
    [
        ("/var/app.db", "ext4", False),
        ("/srv/my data/app.db", "nfs4", True),
        ("/srv/my data/local/app.db", "xfs", False),
        ("/srv/my database.db", "ext4", False),
        ("/home/me/far/app.db", "fuse.sshfs", True),
    ],
)
def test_the_file_system_is_that_of_the_nearest_mount(path: str, kind: str, network: bool) -> None:
    assert surroundings.file_system_of(path, MOUNTS) == kind
    finding = surroundings.about_file_system(path, MOUNTS)
    assert finding.level is (Level.ILL if network else Level.WELL)
    assert kind in finding.text


def test_where_nothing_is_known_of_mounts_nobody_is_alarmed() -> None:
    assert surroundings.about_file_system("/app.db", "").level is Level.WELL


def test_a_service_on_a_network_file_system_is_warned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(store_module, "read", lambda _name: "1 0 0:1 / / rw - nfs4 server:/ rw")
    with caplog.at_level(logging.WARNING, "sidework"):
        SqliteStorage(tmp_path / "app.db").migrate()
    assert "network file system" in caplog.text


def test_a_file_that_everybody_may_change_is_worth_a_notice(tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    path.touch(0o600)
    assert surroundings.about_permissions(str(path)).level is Level.WELL
    path.chmod(0o666)
    finding = surroundings.about_permissions(str(path))
    assert (finding.level, finding.remedy) == (Level.NOTICE, f"chmod o-w {path} {tmp_path}")
    path.chmod(0o600)
    tmp_path.chmod(0o777)
    assert surroundings.about_permissions(str(path)).level is Level.NOTICE


def test_a_file_that_we_may_not_write_is_ill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "app.db"
    path.touch()
    monkeypatch.setattr(os, "access", lambda _path, _mode: False)
    assert surroundings.about_permissions(str(path)).level is Level.ILL


def test_who_holds_the_write_lock_is_named(tmp_path: Path) -> None:
    store = SqliteStorage(tmp_path / "app.db")
    store.migrate()
    store.counts()
    assert surroundings.about_write_lock(store.name).text == "free"
    with closing(sqlite3.connect(store.name, isolation_level=None)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        finding = surroundings.about_write_lock(store.name)
    store.close()
    assert finding.level is Level.NOTICE
    assert f"process {os.getpid()} (" in finding.text


def test_two_sqlite_libraries_in_one_process_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    line = "7f00-7f01 r-xp 00000000 08:01 1234   /usr/lib/{}"
    one, two = line.format("libsqlite3.so.0.8.6"), line.format("python3/apsw/__init__.cpython-311.so")
    monkeypatch.setattr(surroundings, "read", lambda _name, process: {1: one, 2: f"{one}\n{two}\n{two}"}[process])
    [finding] = surroundings.about_libraries([1, 2])
    assert finding.text == "process 2 has loaded apsw and libsqlite3"


def test_a_process_that_may_not_be_read_tells_nothing() -> None:
    assert surroundings.read("maps", 2**22 + 1) == ""
