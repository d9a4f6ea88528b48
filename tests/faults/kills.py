"""F1, F2: workers and enqueuers killed at random moments and at every named point of the code.

The campaign is a process that never opens a database while children live: it forks each worker from itself, so that a
kill costs a few milliseconds and not the start of an interpreter.
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import shutil
import signal
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
from tests.faults import history
from tests.faults.audit import Findings, audit
from tests.faults.points import ENDED_BY_ITSELF, Walker
from tests.faults.processes import fork, last_words, now, wait_for
from tests.faults.slots import INSIDE, Slots
from tests.faults.workload import LIMIT, LIMITED, Workload

from sidework.engine import runner
from sidework.model.pace import QUICK_RUNS, Pace

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

WORKER, ENQUEUER, SURVIVOR = "worker", "enqueuer", "survivor"
PLACES: Final = (SURVIVOR, WORKER, WORKER, WORKER, ENQUEUER, ENQUEUER)
"""Who is at work at once; the survivor is never killed, and sees the deaths of the others."""
DWELL: Final = 0.004
KILLS_PER_DATABASE: Final = 250
PATIENCE: Final = 0.6
"""Seconds after which a victim that did not come to its point is killed where it is."""
REST_BETWEEN_BIRTHS: Final = 0.045
"""Seconds: some twenty deaths a second. More of them would measure how fast this machine starts interpreters."""
FOUNDERS: Final = 6
"""Processes that die while they make the tables, in each database."""
LONG_PATIENCE: Final = 5.0
AT_POINTS, INSIDE_A_JOB = 0.35, 0.55
"""Shares of the victims; the rest is killed at random."""
IN_COMPANY = 0.3
"""Of all victims, at most so many are hit while jobs wait for a commit that they share."""
LONGEST_DRAIN: Final = 60.0


class KillFigures(msgspec.Struct, kw_only=True):
    """What came of a campaign."""

    seed: int = 0
    kills: int = 0
    workers: int = 0
    enqueuers: int = 0
    inside: int = 0
    """Kills that hit between a first write and its commit."""
    handlers: int = 0
    """Of those, how many hit the handler of a job."""
    sharing: int = 0
    """Of the kills, how many hit while jobs that had ended waited for a commit that they share."""
    in_commit: int = 0
    at_points: int = 0
    points: dict[str, int] = {}
    """Named point -> how often somebody ended there."""
    missed: list[str] = []
    """Points that were passed in the census, and at which nobody ended."""
    recoveries: list[float] = []
    """Seconds from the kill of a worker inside a job to the next run of that job."""
    strange: list[str] = []
    """Children that ended by themselves, with the end of what they said."""
    findings: Findings = msgspec.field(default_factory=Findings)
    seconds: float = 0.0


@dataclass
class Child:
    """A process at its place, and how it is to end."""

    role: str
    process: int
    born: float
    kill_at: float | None
    wants_inside: bool
    errors: Path
    wants_company: bool = False
    """Whether it is to be hit while jobs that ended wait for a commit, if that comes to be in time."""
    point: str | None = None
    """Where it is to end itself."""
    killed_at: float | None = None


class Campaign:
    """Kills until it has killed so many, or time is over."""

    def __init__(self, *, seed: int, kills: int, seconds: float, apart: bool, folder: Path) -> None:
        self._random = random.Random(seed)
        self._wanted = kills
        self._deadline = now() + seconds
        self._apart = apart
        self._folder = folder
        self._slots = Slots(len(PLACES) + 1)
        self._points: dict[str, dict[str, int]] = {}
        self._tries: dict[str, int] = {}
        """Point -> how many were to end there."""
        self._next_birth = 0.0
        self._numbers: list[str] = []
        self._deaths: list[tuple[int, float]] = []
        self.figures = KillFigures(seed=seed)

    def run(self) -> KillFigures:
        """Learn the points, then kill on one database after the other."""
        began = now()
        founding = self._census(ENQUEUER, "a new database")
        for role in (WORKER, ENQUEUER):
            self._points[role] = self._census(role, "a new database")
        self._numbers = sorted(founding.keys() | self._points[WORKER].keys() | self._points[ENQUEUER].keys())
        # In the order in which they are passed: who dies early leaves the tables for the next one to make.
        self._founding = [p for p in founding if p not in self._points[ENQUEUER] and p not in self._points[WORKER]]
        number = 0
        while self.figures.kills < self._wanted and now() < self._deadline:
            number += 1
            self._use_one_database(self._folder / f"{number}")
        self.figures.missed = [point for point in self._numbers if point not in self.figures.points]
        self.figures.seconds = now() - began
        return self.figures

    # ------------------------------------------------------------------------------------------------- database

    def _workload(self, folder: Path, log: history.Log, **options: Any) -> Any:
        """Return one process's view of the database of a folder."""
        return Workload(folder / "app.db", log, **options)

    def _audit(self, folder: Path) -> Findings:
        return audit(folder / "app.db", folder / "log", limits={LIMITED: LIMIT})

    # --------------------------------------------------------------------------------------------------- census

    def _census(self, role: str, database: str) -> dict[str, int]:
        """Return the points that a process of this role passes, and how often, in half a second of peace."""
        folder = self._folder / database
        folder.mkdir(exist_ok=True)
        found = folder / "points.json"
        log = history.Log(folder / "log")

        def be() -> None:
            walker = Walker(self._slots, 0)
            walker.watch()
            workload = self._workload(folder, log, enter=walker.enter, seed=1)
            workload.prepare()
            signal.signal(signal.SIGALRM, lambda *_: self._write_census(found, walker))
            signal.setitimer(signal.ITIMER_REAL, 0.5)
            if role == ENQUEUER:
                workload.place_orders()
            else:
                workload.enqueue_some()
                take_all_for_quick()
                workload.work()

        os.waitpid(fork(be, folder / "errors"), 0)
        log.close()
        return msgspec.json.decode(found.read_bytes(), type=dict[str, int])

    @staticmethod
    def _write_census(found: Path, walker: Walker) -> None:
        found.write_bytes(msgspec.json.encode(dict(walker.seen)))
        os._exit(0)

    # ------------------------------------------------------------------------------------------- one database

    def _use_one_database(self, folder: Path) -> None:
        folder.mkdir()
        self._deaths = []
        log = history.Log(folder / "log")
        kills_before = self.figures.kills
        self._found(folder, log)
        children = {place: self._start(place, folder, log) for place in range(len(PLACES))}
        until = min(self._deadline, now() + KILLS_PER_DATABASE / 5)
        while self.figures.kills - kills_before < KILLS_PER_DATABASE and now() < until:
            self._bring_one_in(children, folder, log)
            for place, child in list(children.items()):
                if self._look_after(place, child, log):
                    del children[place]
            time.sleep(0.0003)
        self._end(children, log)
        self._drain(folder, log)
        log.close()
        self._judge(folder)

    def _bring_one_in(self, children: dict[int, Child], folder: Path, log: history.Log) -> None:
        """Start a child at a place that is empty, if the last one was started long enough ago."""
        empty = [place for place in range(len(PLACES)) if place not in children]
        if empty and now() >= self._next_birth:
            self._next_birth = now() + REST_BETWEEN_BIRTHS
            place = self._random.choice(empty)
            children[place] = self._start(place, folder, log)

    def _found(self, folder: Path, log: history.Log) -> None:
        """Let those who make the tables die at points that nobody passes later."""
        last = len(PLACES) - 1
        for point in sorted(self._rarest(self._founding, FOUNDERS), key=self._founding.index):
            child = self._start(last, folder, log, point=point)
            while not self._look_after(last, child, log):
                time.sleep(0.0003)

    def _judge(self, folder: Path) -> None:
        findings = self._audit(folder)
        self.figures.findings.add(findings)
        self.figures.recoveries += recoveries(history.read(folder / "log"), self._deaths)
        if not findings.wrongs:
            shutil.rmtree(folder)

    def _start(self, place: int, folder: Path, log: history.Log, *, point: str | None = None) -> Child:
        role, seed = PLACES[place], self._random.randrange(1 << 30)
        self._slots.clear(place)
        chance = self._random.random()
        victim = role != SURVIVOR
        if point is None and victim and chance < AT_POINTS and not self._too_few_inside(role):
            [point] = self._rarest(self._points[role], 1)
        wants_inside = victim and point is None and (chance > 1 - INSIDE_A_JOB or self._too_few_inside(role))
        kill_at = now() + self._random.random() * 0.1 if victim and point is None and not wants_inside else None

        def be() -> None:
            walker = Walker(self._slots, place)
            if point is not None:
                often = self._points[role].get(point, 1) if self.figures.points.get(point) else 1
                passing = random.Random(seed).randint(1, max(1, min(often, 3)))
                walker.choose(point, self._numbers.index(point), passing)
            walker.watch()
            dwell = 0.0005 if role == SURVIVOR else DWELL
            workload = self._workload(folder, log, enter=walker.enter, dwell=dwell, apart=self._apart, seed=seed)
            workload.prepare()
            take_all_for_quick()
            workload.place_orders() if role == ENQUEUER else workload.work()

        errors = folder / f"errors of {place} {seed}"
        process = fork(be, errors)
        wants_company = wants_inside and role == WORKER and chance > 1 - IN_COMPANY
        return Child(role, process, now(), kill_at, wants_inside, errors, wants_company, point)

    def _too_few_inside(self, role: str) -> bool:
        """Whether the next victim must be hit between a first write and its commit."""
        figures = self.figures
        if role == WORKER:
            return figures.handlers < INSIDE_A_JOB * figures.workers
        return figures.inside - figures.handlers < INSIDE_A_JOB * figures.enqueuers

    def _rarest(self, points: Iterable[str], number: int) -> list[str]:
        """Return the points at which the fewest have ended, or tried to; which of these, chance decides."""
        found = sorted(points, key=lambda point: (self._tries.get(point, 0), self._random.random()))[:number]
        for point in found:
            self._tries[point] = self._tries.get(point, 0) + 1
        return found

    def _look_after(self, place: int, child: Child, log: history.Log) -> bool:
        """Kill a child if it is time; return whether it is dead and buried."""
        process, status = os.waitpid(child.process, os.WNOHANG)
        if process:
            self._bury(place, child, status, log)
            return True
        if child.role == SURVIVOR or child.killed_at is not None:
            return False
        state, _job, _time, _point = self._slots.read(place)
        is_new = child.point is not None and not self.figures.points.get(child.point)
        overdue = now() - child.born > (LONG_PATIENCE if child.wants_inside or is_new else PATIENCE)
        is_inside = state == INSIDE and (
            not child.wants_company or self._slots.waiting(place) > 0 or now() - child.born > PATIENCE
        )
        if overdue or (child.wants_inside and is_inside) or (child.kill_at is not None and now() > child.kill_at):
            log.write_death(child.process)
            child.killed_at = now()
            os.kill(child.process, signal.SIGKILL)
        return False

    def _bury(self, place: int, child: Child, status: int, log: history.Log) -> None:
        state, job, died_at, point = self._slots.read(place)
        by_itself = os.WIFEXITED(status) and os.WEXITSTATUS(status) == ENDED_BY_ITSELF
        if by_itself:
            log.write_death(child.process, at=died_at)
            self.figures.at_points += 1
            self.figures.points[self._numbers[point]] = self.figures.points.get(self._numbers[point], 0) + 1
        elif child.killed_at is None:
            self.figures.strange.append(f"{child.role} ended with {status}: {last_words(child.errors)}")
            return
        self.figures.kills += 1
        self.figures.inside += state == INSIDE
        self.figures.handlers += state == INSIDE and child.role == WORKER
        self.figures.sharing += child.role == WORKER and self._slots.waiting(place) > 0
        self.figures.in_commit += state not in (INSIDE, 0)
        self.figures.workers += child.role == WORKER
        self.figures.enqueuers += child.role == ENQUEUER
        if state == INSIDE and child.role == WORKER:
            self._deaths.append((job, died_at if by_itself else child.killed_at or 0.0))
        child.errors.unlink(missing_ok=True)

    def _end(self, children: dict[int, Child], log: history.Log) -> None:
        for child in children.values():
            log.write_death(child.process)
            os.kill(child.process, signal.SIGKILL)
            os.waitpid(child.process, 0)

    def _drain(self, folder: Path, log: history.Log) -> None:
        def be() -> None:
            self._workload(folder, log, apart=self._apart, concurrency=10).drain()

        process = fork(be, folder / "errors of the last")
        if (status := wait_for(process, LONGEST_DRAIN)) != 0:
            said = last_words(folder / "errors of the last")
            self.figures.findings.wrongs = [*self.figures.findings.wrongs, f"the last worker: {status}, {said}"]


def take_all_for_quick() -> None:
    """Let handlers share commits from their first run on: most of these workers do not live for twenty."""
    runner.UNKNOWN = Pace(quick_runs=QUICK_RUNS)  # type: ignore[attr-defined]


def recoveries(events: Sequence[history.Event], deaths: Sequence[tuple[int, float]]) -> list[float]:
    """Return, for each (job, time of its worker's death), the seconds until the job was run again."""
    runs: dict[int, list[float]] = {}
    for event in events:
        if event.kind == history.INVOKED:
            runs.setdefault(event.job, []).append(event.time)
    again = [min((t - at for t in runs.get(job, ()) if t > at), default=None) for job, at in deaths]
    return [seconds for seconds in again if seconds is not None]


def main(arguments: Sequence[str]) -> None:
    """Run a campaign and print its figures as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--apart", action="store_true")
    chosen = parser.parse_args(arguments)
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        gc.freeze()
        campaign = Campaign(
            seed=chosen.seed, kills=chosen.kills, seconds=chosen.seconds, apart=chosen.apart, folder=Path(folder)
        )
        print(msgspec.json.encode(campaign.run()).decode())
