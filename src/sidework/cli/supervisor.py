"""Several `sidework run` processes as one: start, start again, pass signals on, end together."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from sidework.cli.failures import ExitCode
from sidework.cli.output import complain
from sidework.clock import SystemClock

TICK = 0.1
LIFELINE = "SIDEWORK_LIFELINE"
"""Names, for a child, the descriptor that tells when its supervisor is gone."""
REST_AFTER_A_DEATH = 1.0
"""Seconds before a process that died by itself is started again: one that dies at once must not spin."""
HOPELESS = frozenset({ExitCode.USAGE, ExitCode.DATABASE})
"""Exit codes after which starting again would only repeat them."""


class Supervisor:
    """Keeps `count` processes of one command running until it is told to stop, or until all have ended well."""

    def __init__(self, command: Sequence[str], *, count: int, restart_on_change: Path | None) -> None:
        """Take the command; restart_on_change: a folder whose .py files are watched."""
        self._command = command
        self._count = count
        self._watched = restart_on_change
        self._clock = SystemClock()
        self._running: list[subprocess.Popen[bytes]] = []
        self._codes: list[int] = []
        self._stopping = False
        self._next_start = 0.0
        # The other end is ours alone: the kernel closes it when this process is gone, however that comes about.
        self._lifeline, self._our_end = os.pipe()
        self._environment = {**os.environ, LIFELINE: str(self._lifeline)}

    def run(self) -> int:
        """Return the exit code for all of them: the gravest of theirs."""
        with self._signals_passed_on():
            self._start(self._count)
            seen = self._snapshot()
            while self._running or not self._stopping:
                time.sleep(TICK)
                self._bury_the_ended()
                if not self._stopping and (now := self._snapshot()) != seen:
                    seen = now
                    self._start_all_again()
        return max(self._codes, default=ExitCode.DONE)

    def _bury_the_ended(self) -> None:
        for process in [process for process in self._running if process.poll() is not None]:
            self._running.remove(process)
            self._judge(process)
        missing = self._count - len(self._running)
        if missing and not self._stopping and self._clock.monotonic() >= self._next_start:
            self._start(missing)

    def _judge(self, process: subprocess.Popen[bytes]) -> None:
        """Decide what follows from the end of a process."""
        code = process.returncode
        if self._stopping:
            self._codes.append(_code_at_a_stop(code))
        elif code < 0:
            complain(f"sidework: process {process.pid} was ended by signal {-code}; starting another")
            self._next_start = self._clock.monotonic() + REST_AFTER_A_DEATH
        elif self._watched is not None and code != ExitCode.DONE:
            complain("sidework: waiting for a file to change")  # somebody is at work on it
            self._next_start = math.inf
        else:
            self._codes.append(code)
            self._count -= 1
            if code in HOPELESS or not self._count:
                self._stop()

    def _start(self, number: int) -> None:
        for _ in range(number):
            # A session of its own: Ctrl-C reaches this process alone, which passes it on once.
            child = subprocess.Popen(
                self._command, start_new_session=True, pass_fds=[self._lifeline], env=self._environment
            )
            self._running.append(child)

    def _start_all_again(self) -> None:
        complain("sidework: a file has changed; starting again")
        for process in self._running:
            process.terminate()
        for process in self._running:
            process.wait()
        self._running.clear()
        self._next_start = 0.0
        self._start(self._count)

    def _stop(self) -> None:
        self._stopping = True
        for process in self._running:
            process.terminate()

    @contextmanager
    def _signals_passed_on(self) -> Iterator[None]:
        def pass_on(_number: int, _frame: FrameType | None) -> None:
            self._stop()

        before = {number: signal.signal(number, pass_on) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _snapshot(self) -> dict[Path, int]:
        """Return the times of the watched files; empty where none are watched."""
        if self._watched is None:
            return {}
        found: dict[Path, int] = {}
        for path in self._watched.rglob("*.py"):
            if not any(part.startswith(".") for part in path.relative_to(self._watched).parts):
                try:
                    found[path] = path.stat().st_mtime_ns
                except FileNotFoundError:
                    continue  # gone between listing and looking: the next look sees it
        return found


def _code_at_a_stop(code: int) -> int:
    """Return what the end of a process means that was told to stop; negative: a signal ended it."""
    if code == -signal.SIGTERM:
        return ExitCode.DONE  # it was only just starting, and held nothing
    return code if code >= 0 else ExitCode.NO


def end_with_the_supervisor() -> None:
    """In one of several processes: end as by SIGTERM when the process that looks after them is gone."""
    if (descriptor := os.environ.pop(LIFELINE, None)) is not None:
        os.set_inheritable(int(descriptor), False)  # noqa: FBT003 - it knows no keywords
        threading.Thread(target=_end_at, args=(int(descriptor),), name="sidework-lifeline", daemon=True).start()


def _end_at(lifeline: int) -> None:
    os.read(lifeline, 1)  # nothing is ever written: this returns when the other end is closed
    complain("sidework: the process that started this one is gone; stopping")
    os.kill(os.getpid(), signal.SIGTERM)


def command_again(arguments: Sequence[str]) -> list[str]:
    """Return the command line of a `sidework` process of this interpreter."""
    return [sys.executable, "-m", "sidework", *arguments]
