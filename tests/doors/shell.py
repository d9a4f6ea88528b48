"""The `sidework` command as people have it: a real process, in a folder of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

LONGEST = 60.0
"""Seconds that any command of a test may take."""

SHOP = """
import sqlite3, threading, time
from pathlib import Path
from sidework import BackgroundService, JobContext

service = BackgroundService("app.db", grace={grace})

@service.handler
def greet(name: str, times: int = 1) -> str:
    return " ".join([f"hello {{name}}"] * times)

@service.handler("fail_often", max_attempts=1)
def fail(token: str = "") -> None:
    raise ValueError("it cannot work")

@service.handler
def wait_for(file: str) -> str:
    Path(file + ".begun").touch()
    while not Path(file).exists():
        threading.Event().wait(0.01)
    return "seen"

@service.handler
def count_up(job: JobContext) -> None:
    job.log("counting")
    job.progress(3, 4, "nearly")
"""


class Shell:
    """Runs commands in a folder, with an environment that holds nothing of sidework's own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write_shop(self, *, grace: float = 25.0) -> None:
        """Write `shop.py`, an app with a few handlers on `app.db`."""
        (self.folder / "shop.py").write_text(SHOP.format(grace=grace))

    def run(self, *words: object, given: str | None = None, **env: str) -> subprocess.CompletedProcess[str]:
        """Run `sidework WORDS` to its end."""
        return subprocess.run(
            self.command(words),
            cwd=self.folder,
            env=self.environment(env),
            input=given if given is not None else "",
            capture_output=True,
            text=True,
            timeout=LONGEST,
            check=False,
        )

    def out(self, *words: object, given: str | None = None, **env: str) -> str:
        """Run a command that must succeed; return what it printed."""
        ended = self.run(*words, given=given, **env)
        assert ended.returncode == 0, ended
        return ended.stdout.strip()

    def json(self, *words: object, **env: str) -> Any:
        """Run a command that must succeed; return the one object that it printed."""
        return json.loads(self.out(*words, "--json", **env))

    def lines(self, *words: object, **env: str) -> list[Any]:
        """Run a command that must succeed; return the JSON Lines that it printed."""
        return [json.loads(line) for line in self.out(*words, "--json", **env).splitlines()]

    @contextmanager
    def running(self, *words: object, **env: str) -> Iterator[Running]:
        """Run a command in the background; it is killed at the end of the block if it has not ended."""
        process = subprocess.Popen(
            self.command(words),
            cwd=self.folder,
            env=self.environment(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            yield Running(process)
        finally:
            process.kill()
            process.wait(LONGEST)
            if process.stdout:
                process.stdout.close()

    @staticmethod
    def command(words: tuple[object, ...]) -> list[str]:
        return [sys.executable, "-m", "sidework", *map(str, words)]

    @staticmethod
    def environment(more: Mapping[str, str]) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("SIDEWORK_")}
        return {**kept, "COLUMNS": "200", "PYTHONUNBUFFERED": "1", **more}


class Running:
    """A command that is under way."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.said: list[str] = []

    def hear(self, words: str) -> str:
        """Read its output up to the line that holds these words; return that line."""
        with self._deadline():
            for line in self.process.stdout or ():
                self.said.append(line)
                if words in line:
                    return line
        raise AssertionError(f"it never said {words!r}, but: {''.join(self.said)}")

    def end(self) -> tuple[int, str]:
        """Wait for its end; return its exit code and all it has said."""
        with self._deadline():
            self.said += list(self.process.stdout or ())
            return self.process.wait(LONGEST), "".join(self.said)

    @contextmanager
    def _deadline(self) -> Iterator[None]:
        """Kill the process if the block takes too long: its output then ends, and the test fails."""
        timer = threading.Timer(LONGEST, self.process.kill)
        timer.start()
        try:
            yield
        finally:
            timer.cancel()


def wait_until(path: Path) -> None:
    """Wait for a file to be there."""
    for _ in range(int(LONGEST / 0.01)):
        if path.exists():
            return
        threading.Event().wait(0.01)
    raise AssertionError(f"{path} never came")
