"""F3: the power is cut. Replays recorded transactions on a disk that forgets what was not synced.

Runs in a process of its own, without the library: apsw brings a second SQLite. Its file system keeps, for each file,
what is durable and what was written since the last sync. An image of a cut is the durable part, and of the rest any
part, in any order, the last of them torn at a sector. The images are opened by the standard library's sqlite3.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import shutil
import sqlite3
import tempfile
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import apsw

if TYPE_CHECKING:
    from collections.abc import Iterator

SECTOR: Final = 512
QUESTIONS: Final = (
    "SELECT id, status, claims, attempts, crashes, payload, result FROM background_service_jobs ORDER BY id",
    "SELECT id, length(document) FROM orders ORDER BY id",
    "SELECT job, claim FROM effects ORDER BY rowid",
    "SELECT n FROM totals",
)
NOTHING_YET: Final = "nothing yet"


@dataclass
class Disk:
    """What happened to the files, in order."""

    happened: list[tuple[str, str, int, bytes]] = field(default_factory=list)
    """What, file, offset, data: 'write', 'truncate' (to the offset), 'sync', 'delete', or 'commit' with its number."""


class ForgetfulFiles(apsw.VFS):
    """A file system that writes down what is asked of it, and does it."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        super().__init__("forgetful", "unix")

    def xOpen(self, name: Any, flags: Any) -> Any:  # noqa: N802 - SQLite's name
        return ForgetfulFile(self._disk, name, flags)

    def xDelete(self, name: str, sync: bool) -> None:  # noqa: N802
        super().xDelete(name, sync)
        self._disk.happened.append(("delete", Path(name).name, 0, b""))


class ForgetfulFile(apsw.VFSFile):
    """One file of it."""

    def __init__(self, disk: Disk, name: Any, flags: Any) -> None:
        self._disk = disk
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        self._name = Path(path).name if path else ""
        super().__init__("unix", name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        super().xWrite(data, offset)
        self._disk.happened.append(("write", self._name, offset, bytes(data)))

    def xTruncate(self, size: int) -> None:  # noqa: N802
        super().xTruncate(size)
        self._disk.happened.append(("truncate", self._name, size, b""))

    def xSync(self, flags: int) -> None:  # noqa: N802
        super().xSync(flags)
        self._disk.happened.append(("sync", self._name, 0, b""))


class File:
    """A file as it stands on the disk, and what it may lose."""

    def __init__(self) -> None:
        self.durable = bytearray()
        self.exists = False
        self.pending: list[tuple[str, int, bytes]] = []

    def sync(self) -> None:
        self.exists = True
        for what, offset, data in self.pending:
            _apply(self.durable, what, offset, data)
        self.pending.clear()

    def after_a_cut(self, chance: random.Random) -> bytes | None:
        """Return what is found after the cut, or None: no such file."""
        share = chance.choice((0.0, 0.5, 0.9, 1.0))
        kept = [each for each in self.pending if chance.random() < share]
        if not self.exists and not kept:
            return None
        if chance.random() < 0.5:
            chance.shuffle(kept)
        content = bytearray(self.durable)
        for what, offset, data in kept:
            whole = len(data) // SECTOR
            torn = data[: SECTOR * chance.randint(0, whole)] if what == "write" and chance.random() < 0.2 else data
            _apply(content, what, offset, torn)
        return bytes(content)


def _apply(content: bytearray, what: str, offset: int, data: bytes) -> None:
    if what == "truncate":
        del content[offset:]
        return
    if len(content) < offset + len(data):
        content.extend(bytes(offset + len(data) - len(content)))
    content[offset : offset + len(data)] = data


@dataclass
class Replay:
    """A replayed recording: what the disk saw, and what the database was after each commit."""

    disk: Disk
    commits: int
    numbers: dict[str, int]
    """Digest of the content -> number of the last commit that left it so."""


def replay(recording: dict[str, Any], synchronous: str, folder: Path) -> Replay:
    """Carry the transactions out, one after the other, on a forgetful disk."""
    disk = Disk()
    files = ForgetfulFiles(disk)
    with closing(apsw.Connection(str(folder / "app.db"), vfs="forgetful")) as connection:
        connection.execute(synchronous).fetchall()
        for setting in recording["settings"]:
            connection.execute(setting).fetchall()
        numbers = {NOTHING_YET: 0}
        for number, transaction in enumerate(recording["transactions"], 1):
            connection.execute("BEGIN IMMEDIATE")
            for sql, parameters in transaction:
                connection.execute(sql, parameters or None).fetchall()
            connection.execute("COMMIT")
            disk.happened.append(("commit", "", number, b""))
            numbers[digest(connection)] = number
        happened = len(disk.happened)
    del files, disk.happened[happened:]  # the end of the connection is no part of it
    return Replay(disk, len(recording["transactions"]), numbers)


def digest(connection: Any) -> str:
    """Return a digest of all that the application and its jobs are."""
    found = hashlib.sha256()
    for question in QUESTIONS:
        try:
            found.update(repr([tuple(row) for row in connection.execute(question)]).encode())
        except (apsw.SQLError, sqlite3.OperationalError) as error:
            if "no such table" not in str(error):
                raise
            return NOTHING_YET
    return found.hexdigest()


def cuts(disk: Disk, number: int, chance: random.Random) -> Iterator[tuple[int, dict[str, bytes]]]:
    """Yield, for cuts at random moments, the number of the last commit acknowledged, and the files found after it."""
    moments = sorted(chance.randrange(len(disk.happened) + 1) for _ in range(number))
    files: dict[str, File] = {}
    acknowledged, position = 0, 0
    for moment in moments:
        for what, name, offset, data in disk.happened[position:moment]:
            file = files.setdefault(name, File())
            if what == "commit":
                acknowledged = offset
            elif what == "sync":
                file.sync()
            elif what == "delete":
                files.pop(name)
            else:
                file.pending.append((what, offset, data))
        position = moment
        found = {name: file.after_a_cut(chance) for name, file in files.items() if name and not name.endswith("-shm")}
        yield acknowledged, {name: content for name, content in found.items() if content is not None}


@dataclass
class Figures:
    """What came of it."""

    images: int = 0
    transactions: int = 0
    bytes_of_log: int = 0
    images_with_losses: int = 0
    most_lost: int = 0
    damaged: int = 0
    """Images whose integrity check fails, or that hold what the database never was."""
    examples: list[str] = field(default_factory=list)

    def judge(self, replay: Replay, acknowledged: int, files: dict[str, bytes], folder: Path) -> None:
        """Open one image and compare."""
        self.images += 1
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for name, content in files.items():
            (folder / name).write_bytes(content)
        try:
            with closing(sqlite3.connect(folder / "app.db")) as connection:
                lines = [line for (line,) in connection.execute("PRAGMA integrity_check")]
                number = replay.numbers.get(digest(connection))
        except sqlite3.DatabaseError as error:
            lines, number = [str(error)], None
        if lines != ["ok"] or number is None:
            self.damaged += 1
            self.examples += [f"image {self.images}: {lines[:2]}, commit {number}"][: 5 - len(self.examples)]
        elif number < acknowledged:
            self.images_with_losses += 1
            self.most_lost = max(self.most_lost, acknowledged - number)


def main() -> None:
    """Cut the power and print the figures as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("recording", type=Path)
    parser.add_argument("--durability", choices=("full", "relaxed", "off"), default="full")
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    recording = json.loads(chosen.recording.read_bytes())
    synchronous = {**recording["durabilities"], "off": "PRAGMA synchronous = OFF"}[chosen.durability]
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        replayed = replay(recording, synchronous, Path(folder))
        figures = Figures(transactions=replayed.commits)
        figures.bytes_of_log = sum(len(data) for _, name, _, data in replayed.disk.happened if name.endswith("-wal"))
        for acknowledged, files in cuts(replayed.disk, chosen.images, random.Random(chosen.seed)):
            figures.judge(replayed, acknowledged, files, Path(folder) / "image")
    print(json.dumps(figures.__dict__))


if __name__ == "__main__":
    main()
