"""sidework beside other queues on one database, on this machine, in this run; each at its documented fastest.

    python benchmarks/peers.py [NAME]... [--runs 3] [--jobs 5000] [--folder DISK] [--output benchmarks/peers.json]
    python benchmarks/peers.py --postgres [NAME]... [--output benchmarks/peers-postgres.json]

Run it with the Python of an environment in which sidework is installed. Each peer gets an environment of its own, made
with pip when it is first needed (--cache). How durable an enqueue to a file really is, is counted by strace: syncs per
job. A PostgreSQL server is started for the run, with every commit synced, and sees to that itself.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from msgspec import to_builtins

from sidework.cli.bench.machine import look_at

sys.path.insert(0, str(Path(__file__).parent))

from postgres_ground import create_database, synced_server

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "sidework-benchmarks"
SYNCED_JOBS = 50
"""How many jobs strace looks at."""
PICKUPS = 60
LONGEST_DRAIN = 60.0
LONGEST_RETURN = 20.0
"""Seconds after a kill -9 within which a job may be seen again."""


@dataclass(frozen=True, kw_only=True)
class Peer:
    """A library, as pip knows it, and the program that uses it."""

    name: str
    program: str
    packages: tuple[str, ...] = ()
    """Nothing: it is installed where this runs."""
    note: str = ""
    ends: bool = False
    """Whether its worker comes to an end when nothing is left; else the drain ends with the start of the last job."""
    drains: float = 0.2
    """How many jobs are drained, as a multiple of --jobs: the fast need more, beside their beginning and end."""
    python: str | None = None
    """The interpreter, where it does not work with the one that runs this."""


ON_SQLITE = (
    Peer(name="sidework", program="sidework_peer.py", note="default settings", ends=True, drains=10),
    Peer(name="huey", program="huey_peer.py", packages=("huey",), note="delays of 1 ms; tasks are not acknowledged"),
    Peer(name="persist-queue", program="persist_queue_peer.py", packages=("persist-queue",), note="a loop of our own"),
    Peer(name="litequeue", program="litequeue_peer.py", packages=("litequeue",), note="a loop of our own"),
    Peer(name="tinyjobs", program="tinyjobs_peer.py", packages=("tinyjobs",), note="64 at once, polls of 1 ms"),
    Peer(name="dbos", program="dbos_peer.py", packages=("dbos",), note="polls of 1 ms"),
)
ON_POSTGRES = (
    Peer(name="sidework", program="sidework_peer.py", note="default settings", ends=True, drains=6),
    Peer(
        name="pgqueuer", program="pgqueuer_peer.py", packages=("pgqueuer", "asyncpg", "uvloop"),
        note="asyncpg, uvloop, batches of 1,000", drains=6,
    ),
    Peer(
        name="procrastinate", program="procrastinate_peer.py", packages=("procrastinate", "psycopg[binary]"),
        note="30 at once",
    ),
    Peer(
        name="oban", program="oban_peer.py", packages=("oban", "psycopg[binary]"), note="100 at once", drains=1,
        python="python3.12",
    ),
    Peer(name="dbos", program="dbos_peer.py", packages=("dbos", "psycopg[binary]"), note="polls of 1 ms", drains=0.4),
    Peer(
        name="chancy", program="chancy_peer.py", packages=("chancy", "psycopg[binary]"),
        note="asyncio executor, eager polling, 100 at once", drains=1,
    ),
)  # fmt: skip


@dataclass(kw_only=True)
class Standing:
    """What was measured of one peer: lists have a value for each run, None is what it has no way to do."""

    name: str
    version: str
    note: str
    syncs_per_enqueue: float | None = None
    syncs_per_job: float | None = None
    """Of a worker that drains."""
    enqueue: list[float] = field(default_factory=list)
    """Jobs a second, one by one."""
    bulk: list[float] = field(default_factory=list)
    drain: list[float] = field(default_factory=list)
    pickup_p50: list[float] = field(default_factory=list)
    """Milliseconds."""
    pickup_p99: list[float] = field(default_factory=list)
    idle: list[float] = field(default_factory=list)
    """Percent of a core while the worker has nothing to do, with the settings that gave the pickup."""
    after_kill: float | None = None
    """Seconds from a kill -9 of the worker in a job until a new worker runs it again; None: not in LONGEST_RETURN."""


def main() -> None:
    """Measure, print, and write JSON."""
    wish = arguments()
    wish.cache.mkdir(parents=True, exist_ok=True)
    peers = ON_POSTGRES if wish.postgres else ON_SQLITE
    with ground(wish) as place:
        benches = [Bench(peer, python_of(peer, wish.cache), place) for peer in peers if chosen(peer, wish.names)]
        for run in range(wish.runs):
            for bench in benches[run % len(benches) :] + benches[: run % len(benches)]:
                print(f"run {run + 1}: {bench.peer.name}", file=sys.stderr, flush=True)
                bench.run_once(wish.jobs)
        for bench in benches:
            print(f"a closer look: {bench.peer.name}", file=sys.stderr, flush=True)
            bench.look_closely()
    report = {"machine": machine(), "jobs": wish.jobs, "peers": [asdict(bench.standing) for bench in benches]}
    output = wish.output or HERE / ("peers-postgres.json" if wish.postgres else "peers.json")
    output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    show(report)


def arguments() -> argparse.Namespace:
    """Return what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="some of: " + ", ".join(peer.name for peer in ON_SQLITE + ON_POSTGRES))
    parser.add_argument("--postgres", action="store_true", help="on PostgreSQL, on a server of this run's own")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=5000)
    parser.add_argument("--folder", type=Path, default=Path.cwd(), help="on the disk to measure")
    parser.add_argument("--cache", type=Path, default=CACHE, help="where the peers' environments are")
    parser.add_argument("--output", type=Path)
    return parser.parse_args()


def chosen(peer: Peer, names: list[str]) -> bool:
    """Whether a peer takes part; sidework always does."""
    return not names or not peer.packages or peer.name in names


def python_of(peer: Peer, cache: Path) -> Path:
    """Return the interpreter that has the peer, installing it if need be."""
    if not peer.packages:
        return Path(sys.executable)
    python = cache / peer.name / "bin" / "python"
    if not python.exists():
        print(f"installing {peer.name} ...", file=sys.stderr, flush=True)
        subprocess.run([peer.python or sys.executable, "-m", "venv", cache / peer.name], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *peer.packages], check=True)
    return python


@contextmanager
def ground(wish: argparse.Namespace) -> Iterator[Ground]:
    """Yield where it takes place; nothing of it is left afterwards."""
    with tempfile.TemporaryDirectory(prefix=".peers-", dir=wish.folder, ignore_cleanup_errors=True) as folder:
        if wish.postgres:
            with synced_server() as server:
                yield Ground(Path(folder), server)
        else:
            yield Ground(Path(folder), None)


class Ground:
    """A folder, and where databases are made: in it, or on a PostgreSQL server."""

    def __init__(self, folder: Path, server: str | None) -> None:
        """server: the URL of one on which databases may be created."""
        self.on_files = server is None
        self._folder = folder
        self._server = server
        self._numbers = itertools.count(1)

    def path(self) -> Path:
        """Return the path of a file that is not there yet."""
        return self._folder / f"file-{next(self._numbers)}"

    def database(self) -> str:
        """Return the address of an empty database."""
        if self._server is None:
            return str(self.path())
        return create_database(self._server, f"peers_{next(self._numbers)}")


class Bench:
    """Measures one peer."""

    def __init__(self, peer: Peer, python: Path, place: Ground) -> None:
        """Take the peer, its interpreter and where databases may be made."""
        self.peer = peer
        self._command = [str(python), str(HERE / "contestants" / peer.program)]
        self._place = place
        self.standing = Standing(name=peer.name, version=self._version(python), note=peer.note)

    def run_once(self, jobs: int) -> None:
        """Take each figure that depends on the machine once."""
        few = max(jobs // 3, 20)
        self._rate(self.standing.enqueue, "enqueue", few)
        self._rate(self.standing.bulk, "bulk", jobs)
        self._drain(max(int(jobs * self.peer.drains), 20))
        self._pickup()

    def look_closely(self) -> None:
        """Count syncs, and kill a worker."""
        self._count_syncs()
        self._kill()

    # ------------------------------------------------------------------------------------------------ figures

    def _rate(self, values: list[float], action: str, count: int) -> None:
        answer = self._say(action, self._place.database(), count)
        if answer["seconds"]:
            values.append(count / answer["seconds"])

    def _drain(self, count: int) -> None:
        database, output = self._place.database(), self._place.path()
        self._call("fill", database, count)
        with self._worker("drain", database, count, output):
            end = "over" if self.peer.ends else "last"
            times = Watched(output).wait_for(end, LONGEST_DRAIN)
        if end in times:
            self.standing.drain.append(count / (times[end] - times["first"]))

    def _pickup(self) -> None:
        database, output = self._place.database(), self._place.path()
        self._call("fill", database, 1)
        with self._worker("note", database, 0, output) as worker:
            Watched(output).wait_for("noted", LONGEST_DRAIN)
            begins = self._say("pickup", database, PICKUPS, output)["begins"]
            time.sleep(0.5)
            before = cpu_seconds(worker.pid)
            time.sleep(2)
            self.standing.idle.append((cpu_seconds(worker.pid) - before) / 2 * 100)
        lines = [line.split() for line in output.read_text().splitlines()]
        noted = {int(n): float(at) for word, n, at in lines[1:] if word == "noted"}
        waits = sorted((noted[n] - begin) * 1000 for n, begin in enumerate(begins, 1) if n in noted)
        self.standing.pickup_p50.append(waits[len(waits) // 2])
        self.standing.pickup_p99.append(waits[int(len(waits) * 0.99)])

    def _count_syncs(self) -> None:
        if shutil.which("strace") is None or not self._place.on_files:
            return
        few = self._syncs_of("enqueue", self._place.database(), 1)
        more = self._syncs_of("enqueue", self._place.database(), 1 + SYNCED_JOBS)
        self.standing.syncs_per_enqueue = (more - few) / SYNCED_JOBS
        database, output = self._place.database(), self._place.path()
        self._call("fill", database, SYNCED_JOBS)
        self.standing.syncs_per_job = self._syncs_of("drain", database, SYNCED_JOBS, output) / SYNCED_JOBS

    def _syncs_of(self, action: str, database: str, count: int, output: Path | None = None) -> int:
        trace = self._place.path()
        if output:
            output.touch()
        words = [*self._command, action, str(database), str(count), *([str(output)] if output else [])]
        process = subprocess.Popen(
            ["strace", "-f", "-qq", "-e", "trace=fsync,fdatasync", "-o", trace, *words],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            if output:
                Watched(output).wait_for("last", LONGEST_DRAIN)
                time.sleep(0.5)
            else:
                process.wait()
        finally:
            end_group(process)
        return sum("sync(" in line for line in trace.read_text().splitlines())

    def _kill(self) -> None:
        database, output = self._place.database(), self._place.path()
        self._call("fill", database, 1)
        with self._worker("hang", database, 1, output) as worker:
            Watched(output).wait_for("begun", LONGEST_DRAIN)
            worker.kill()
            worker.wait()
            killed = time.monotonic()
        with self._worker("hang", database, 1, output):
            again = Watched(output).wait_for("again", LONGEST_RETURN).get("again")
        self.standing.after_kill = again - killed if again else None

    # ---------------------------------------------------------------------------------------------- processes

    def _version(self, python: Path) -> str:
        code = f"from importlib.metadata import version; print(version({self.peer.name!r}))"
        return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()

    def _call(self, action: str, database: str, count: int, *more: Path) -> str:
        words = [*self._command, action, str(database), str(count), *map(str, more)]
        ended = subprocess.run(words, capture_output=True, text=True, check=False)
        if ended.returncode:
            raise SystemExit(f"{' '.join(words)} failed:\n{ended.stderr}")
        return ended.stdout

    def _say(self, action: str, database: str, count: int, *more: Path) -> dict[str, object]:
        return json.loads(self._call(action, database, count, *more).splitlines()[-1])

    @contextmanager
    def _worker(self, action: str, database: str, count: int, output: Path) -> Iterator[subprocess.Popen[bytes]]:
        output.touch()
        process = subprocess.Popen(
            [*self._command, action, str(database), str(count), str(output)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()


class Watched:
    """The lines that jobs have written."""

    def __init__(self, path: Path) -> None:
        """Take the file."""
        self._path = path

    def wait_for(self, word: str, longest: float) -> dict[str, float]:
        """Return the first time of each word as soon as this one is there, or after so many seconds."""
        deadline = time.monotonic() + longest
        while word not in (times := self._times()) and time.monotonic() < deadline:
            time.sleep(0.02)
        return times

    def _times(self) -> dict[str, float]:
        times: dict[str, float] = {}
        for line in self._path.read_text().splitlines():
            word, _, at = line.split()
            times.setdefault(word, float(at))
        return times


def end_group(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and its children, if they still run."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def cpu_seconds(pid: int) -> float:
    """Return the processor time of all threads of a process."""
    return sum(int(each.read_text().split()[0]) for each in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9


def machine() -> dict[str, object]:
    """Return what sidework says of this machine."""
    return to_builtins(look_at(Path.cwd()))


def show(report: dict[str, object]) -> None:
    """Print a table."""
    columns = ("enqueue", "bulk", "drain", "pickup_p50", "pickup_p99", "idle")
    print(f"{'':24}{'sync/enq':>9}{'sync/job':>9}" + "".join(f"{name:>12}" for name in columns) + "  after kill -9")
    for peer in report["peers"]:
        syncs = "".join(
            f"{'-' if peer[name] is None else round(peer[name], 2):>9}"
            for name in ("syncs_per_enqueue", "syncs_per_job")
        )
        values = "".join(f"{number(peer[name]):>12}" for name in columns)
        after = "not seen again" if peer["after_kill"] is None else f"{peer['after_kill']:.2f} s"
        print(f"{peer['name'] + ' ' + peer['version']:24}{syncs}{values}  {after}")


def number(values: list[float]) -> str:
    """Return the median, as short as it makes sense."""
    if not values:
        return "-"
    middle = median(values)
    return f"{middle:,.0f}" if middle >= 100 else f"{middle:.2g}"


if __name__ == "__main__":
    main()
