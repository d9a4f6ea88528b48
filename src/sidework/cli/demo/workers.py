"""The worker processes of the demo, and the one who kills them."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO

import msgspec

from sidework.cli.demo.work import Settings
from sidework.errors import SideworkError

LONGEST_STOP = 30.0
UNEXPECTED_ENDS = 3
REST_BEFORE_A_KILL = (0.1, 0.6)
"""Seconds, drawn evenly, that all workers have been back before one of them is killed."""


class Workers:
    """A fixed number of worker processes; those that end are started again."""

    def __init__(self, settings: Settings, *, count: int, log: Path) -> None:
        """Take what the processes are told, and the file that their words go to."""
        self._settings = msgspec.json.encode(settings).decode()
        self._count = count
        self._log_path = log
        self._log: IO[bytes] | None = None
        self._running: list[subprocess.Popen[bytes]] = []
        self._unexpected = 0
        self.kills = 0

    @property
    def pids(self) -> frozenset[int]:
        """The processes that were started and not yet seen to end."""
        return frozenset(process.pid for process in self._running)

    def keep_up(self) -> None:
        """Start what is missing. Raises SideworkError if workers end by themselves again and again."""
        ended = [process for process in self._running if process.poll() is not None]
        for process in ended:
            self._running.remove(process)
            self._close_pipe(process)
            self._unexpected += process.returncode != -signal.SIGKILL
        if self._unexpected >= UNEXPECTED_ENDS:
            raise SideworkError(f"the workers of the demo end by themselves; see {self._log_path}")
        while len(self._running) < self._count:
            self._running.append(self._start())

    def kill_one(self, chance: random.Random) -> None:
        """End one of them as a power cut would."""
        chance.choice(self._running).kill()
        self.kills += 1

    def stop(self) -> None:
        """Let them finish what they are doing; what does not end in time is killed."""
        for process in self._running:
            process.terminate()
        for process in self._running:
            try:
                process.wait(LONGEST_STOP)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            self._close_pipe(process)
        self._running.clear()
        if self._log:
            self._log.close()

    def _start(self) -> subprocess.Popen[bytes]:
        self._log = self._log or self._log_path.open("ab")
        return subprocess.Popen(
            [sys.executable, "-m", "sidework.cli.demo.worker", self._settings],
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,  # Ctrl-C is for the parent, who tells the workers
        )

    @staticmethod
    def _close_pipe(process: subprocess.Popen[bytes]) -> None:
        if process.stdin:
            process.stdin.close()


class Killer:
    """Kills a worker soon after all of them are back: as often as they come back, and work still goes on."""

    def __init__(self, workers: Workers, chance: random.Random) -> None:
        """Take the victims and where chance comes from."""
        self._workers = workers
        self._chance = chance
        self._due: float | None = None

    def step(self, at_work: frozenset[int], now: float) -> None:
        """Kill, if it is time. `at_work`: the processes that the database knows as living workers."""
        if not self._workers.pids <= at_work:
            self._due = None
        elif self._due is None:
            self._due = now + self._chance.uniform(*REST_BEFORE_A_KILL)
        elif now >= self._due:
            self._workers.kill_one(self._chance)
            self._due = None
