"""F14: three machines and one server; in each round one machine is cut off, a worker of another one is killed, and one
of the third is stopped, all for longer than a lease. What they held is run again elsewhere, and nothing twice.
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import signal
import sys
import tempfile
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
import psycopg
from tests.faults import history
from tests.faults.audit import Findings, audit_postgres
from tests.faults.hosts import COUNT, Hosts, connected, may_make_namespaces, network, switch_address
from tests.faults.postgres_workload import (
    LIMIT,
    LIMITED,
    PostgresWorkload,
    shorten_the_lease,
    take_the_fence_away,
)
from tests.faults.processes import fork, last_words, now
from tests.faults.slots import INSIDE, Slots
from tests.postgres_server import Server

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

PLACES: Final = (0, 1, 2, 2)
"""The machine of each worker: four workers on three machines."""
DWELL: Final = 0.1
PATIENCE: Final = 1.0
"""Seconds to wait for a worker to be between the first write and the commit of a job."""
LONGEST_DRAIN: Final = 90.0
MOST_CROWDS: Final = 5


class PartitionFigures(msgspec.Struct, kw_only=True):
    """What came of it."""

    seed: int = 0
    kind: str = ""
    lease: float = 0.0
    rounds: int = 0
    cut: int = 0
    killed: int = 0
    paused: int = 0
    inside: int = 0
    """Of the workers that were killed, stopped or cut off, how many were between a first write and its commit."""
    after_kills: list[float] = []
    """Seconds from the kill of a worker to the next run of each job that it had."""
    after_cuts: list[float] = []
    limited_at_most: int = 0
    crowds: list[str] = []
    """Who ran more jobs of the limited queue than may be."""
    strange: list[str] = []
    findings: Findings = msgspec.field(default_factory=Findings)


@dataclass
class Worker:
    """A process on a machine."""

    number: int
    host: int
    process: int


class Campaign:
    """Rounds on one database."""

    def __init__(self, hosts: Hosts, folder: Path, chosen: argparse.Namespace) -> None:
        self._hosts = hosts
        self._chosen = chosen
        self._errors = folder / "errors"
        self._log_file = folder / "log"
        self._log = history.Log(self._log_file)
        self._random = random.Random(chosen.seed)
        self._slots = Slots(len(PLACES) + 1)
        self._fallen: list[tuple[int, float, list[float]]] = []
        self.figures = PartitionFigures(seed=chosen.seed, kind=hosts.kind, lease=chosen.lease)

    def run(self) -> PartitionFigures:
        """Work, break, mend, drain, look."""
        os.waitpid(fork(self._prepare, self._errors), 0)
        self._workers = [self._hire(number) for number in range(len(PLACES))]
        self._customer = fork(self._place_orders, self._errors)
        self._wait(self._chosen.lease / 2)
        for _ in range(self._chosen.rounds):
            self._round()
        os.kill(self._customer, signal.SIGKILL)
        os.waitpid(self._customer, 0)
        self._drain()
        self._end()
        self._judge()
        return self.figures

    # --------------------------------------------------------------------------------------------- the processes

    def _workload(self, host: int, **options: object) -> PostgresWorkload:
        shorten_the_lease(self._chosen.lease)
        self._hosts.enter(host)
        milliseconds = int(self._chosen.lease / 3 * 1000)
        url = f"{self._hosts.url(host)}?connect_timeout=2&tcp_user_timeout={milliseconds}"
        workload = PostgresWorkload(url, self._log, **options)  # type: ignore[arg-type]
        if self._chosen.without_fence:
            take_the_fence_away(workload.service)
        return workload

    def _prepare(self) -> None:
        self._workload(0).prepare()

    def _hire(self, number: int) -> Worker:
        host = PLACES[number]
        self._slots.clear(number)

        def be() -> None:
            def enter(state: int, job: int) -> None:
                self._slots.enter(number, state, job)

            self._workload(host, enter=enter, dwell=DWELL, seed=number, concurrency=3, grace=0.5).work()

        return Worker(number, host, fork(be, self._errors))

    def _place_orders(self) -> None:
        self._workload(0, seed=self._chosen.seed).place_orders()

    # ------------------------------------------------------------------------------------------------- the faults

    def _round(self) -> None:
        """Break one thing on each machine, for longer than a lease; then mend."""
        cut_off, other = self._random.sample(range(COUNT - 1), COUNT - 1)  # the last machine has a worker that survives
        hit, stopped = self._random.sample([other, COUNT - 1], 2)
        paused = self._one_of(stopped)
        self._pause(paused)
        if not self._chosen.pauses_only:
            self._kill(self._one_of(hit))
            self._cut(cut_off)
        self._wait(self._chosen.lease * 1.6)
        os.kill(paused.process, signal.SIGCONT)
        self._hosts.heal(cut_off)
        self._workers = [self._hire(each.number) if each.process == 0 else each for each in self._workers]
        self._wait(self._chosen.lease / 2)
        os.kill(paused.process, signal.SIGKILL)  # and another one takes its place, which counts again
        os.waitpid(paused.process, 0)
        paused.process = self._hire(paused.number).process
        self.figures.rounds += 1

    def _one_of(self, host: int) -> Worker:
        return self._random.choice([worker for worker in self._workers if worker.host == host])

    def _cut(self, host: int) -> None:
        workers = [worker for worker in self._workers if worker.host == host]
        self._wait_until_inside(workers[0])
        self.figures.inside += self._is_inside(workers[0])
        self._hosts.cut(host)
        self.figures.cut += 1
        for worker in workers:
            self._note_fall(worker, self.figures.after_cuts)

    def _kill(self, worker: Worker) -> None:
        self._wait_until_inside(worker)
        self.figures.inside += self._is_inside(worker)
        self._log.write_death(worker.process)
        os.kill(worker.process, signal.SIGKILL)
        os.waitpid(worker.process, 0)
        self._note_fall(worker, self.figures.after_kills)
        worker.process = 0
        self.figures.killed += 1

    def _pause(self, worker: Worker) -> None:
        self._wait_until_inside(worker)
        self.figures.inside += self._is_inside(worker)
        os.kill(worker.process, signal.SIGSTOP)
        os.waitpid(worker.process, os.WUNTRACED)
        self._log.write_death(worker.process)  # what it goes on with until it notices does not count against limits
        self.figures.paused += 1

    def _note_fall(self, worker: Worker, times: list[float]) -> None:
        self._fallen.append((worker.process, now(), times))

    def _is_inside(self, worker: Worker) -> bool:
        return self._slots.read(worker.number)[0] == INSIDE

    def _wait_until_inside(self, worker: Worker) -> None:
        until = now() + PATIENCE
        while not self._is_inside(worker) and now() < until:
            time.sleep(0.0005)

    def _wait(self, seconds: float) -> None:
        """Let time pass; whoever ends by himself meanwhile is written down and replaced."""
        until = now() + seconds
        while now() < until:
            for worker in self._workers:
                if worker.process and os.waitpid(worker.process, os.WNOHANG)[0]:
                    self.figures.strange = [*self.figures.strange, last_words(self._errors)]
                    worker.process = self._hire(worker.number).process
            time.sleep(0.02)

    # ---------------------------------------------------------------------------------------------------- the end

    def _drain(self) -> None:
        until = now() + LONGEST_DRAIN
        question = "SELECT 1 FROM background_service_jobs WHERE status IN ('PENDING', 'SCHEDULED', 'RUNNING') LIMIT 1"
        while now() < until:
            with closing(psycopg.connect(self._chosen.server, autocommit=True)) as connection:
                if not connection.execute(question).fetchall():
                    return
            self._wait(0.1)
        self.figures.strange = [*self.figures.strange, f"not drained: {last_words(self._errors)}"]

    def _end(self) -> None:
        for worker in self._workers:
            os.kill(worker.process, signal.SIGKILL)
            os.waitpid(worker.process, 0)

    def _judge(self) -> None:
        self.figures.findings = audit_postgres(self._chosen.server, self._log_file, limits={LIMITED: LIMIT})
        events = history.read(self._log_file)
        for process, at, times in self._fallen:
            times.extend(recoveries(events, process, at))
        self.figures.limited_at_most, self.figures.crowds = most_at_once(events, LIMITED)


def recoveries(events: Sequence[history.Event], process: int, at: float) -> list[float]:
    """Return, for each job that a process had at a moment, the seconds until another one ran it again."""
    open_then: set[int] = set()
    for event in events:
        if event.process == process and event.time <= at:
            if event.kind == history.INVOKED:
                open_then.add(event.job)
            elif event.kind == history.RETURNED:
                open_then.discard(event.job)
    again: dict[int, float] = {}
    for event in events:
        elsewhere = event.kind == history.INVOKED and event.process != process
        if elsewhere and event.time > at and event.job in open_then:
            again.setdefault(event.job, event.time - at)
    return list(again.values())


def most_at_once(events: Iterable[history.Event], queue: str) -> tuple[int, list[str]]:
    """Return how many jobs of a queue ran at once at most; and where it was too many, which, and when they began."""
    running: dict[tuple[int, int, int], float] = {}
    most, crowds, dead = 0, list[str](), set[int]()
    for event in events:
        if event.kind == history.DIED:
            dead.add(event.process)
            running = {each: at for each, at in running.items() if each[0] != event.process}
        elif event.queue == queue and event.kind == history.INVOKED and event.process not in dead:
            running[event.process, event.job, event.number] = event.time
            if len(running) > LIMIT and len(crowds) < MOST_CROWDS:
                crowds.append(
                    ", ".join(f"{process} {event.time - at:.3f} s" for (process, _, _), at in running.items())
                )
        elif event.queue == queue and event.kind == history.RETURNED:
            running.pop((event.process, event.job, event.number), None)
        most = max(most, len(running))
    return most, crowds


def _server(*, namespaces: bool) -> Server:
    if not namespaces:
        return Server()
    return Server(listen_addresses=f"127.0.0.1,{switch_address()}", trusted=network())


def main(arguments: Sequence[str]) -> None:
    """Run a campaign and print its figures as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--lease", type=float, default=3.0)
    parser.add_argument("--proxies", action="store_true", help="even where namespaces are permitted")
    parser.add_argument("--pauses-only", action="store_true")
    parser.add_argument("--without-fence", action="store_true")
    chosen = parser.parse_args(arguments)
    namespaces = not chosen.proxies and may_make_namespaces()
    server = _server(namespaces=namespaces)
    chosen.server = server.url
    with tempfile.TemporaryDirectory() as folder, connected(server.url, namespaces=namespaces) as hosts:
        try:
            server.start()  # when the machines are there, for it listens on their switch
            gc.freeze()
            figures = Campaign(hosts, Path(folder), chosen).run()
        finally:
            server.remove()
    sys.stdout.write(msgspec.json.encode(figures).decode() + "\n")
