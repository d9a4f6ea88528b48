"""A move, or a way back, that is killed after every statement, and what is found then.

`python -m tests.faults.child moves` kills after every statement once. Each child moves a copy of one file to a schema
of its own and is ended, as by `kill -9`, after the so-manieth statement; then another one is to finish what it began.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import sqlite3
import tempfile
from collections import Counter
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import psycopg
from tests.faults.observed import SPY
from tests.faults.points import ENDED_BY_ITSELF
from tests.faults.processes import fork, last_words, now, wait_for
from tests.postgres_server import Server
from tests.service.moves import all_of, fill

from sidework import BackgroundJobManager, DatabaseUnavailable
from sidework.moving import Move, move_from

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_PATIENCE: Final = 60.0


class Walker:
    """Counts the statements of this process on both sides, and ends it after one of them."""

    def __init__(self, stop_after: int | None) -> None:
        self._stop_after = stop_after
        self.passed: list[str] = []

    def watch(self) -> None:
        """Begin."""
        SPY.after = lambda who, what, _with: self.note(what) if isinstance(who, sqlite3.Connection) else None
        _observe(psycopg.Connection, "execute", self.note)
        _observe(psycopg.Copy, "write", lambda _data: self.note("COPY data"))
        _observe(psycopg.Copy, "__exit__", lambda *_: self.note("COPY end"))
        _observe(psycopg.Transaction, "__exit__", lambda *_: self.note("COMMIT on the server"))

    def note(self, what: object, *_more: object) -> None:
        """Pass a point."""
        self.passed.append(" ".join(re.findall(r"[\w-]+", str(what))[:5]))
        if len(self.passed) == self._stop_after:
            os._exit(ENDED_BY_ITSELF)


def _observe(kind: Any, method: str, note: Callable[..., None]) -> None:
    real = getattr(kind, method)

    def observed(self: Any, *arguments: Any, **named: Any) -> Any:
        result = real(self, *arguments, **named)
        note(*arguments)
        return result

    setattr(kind, method, observed)


class Stage:
    """One copy of the file and one schema, for one kill and what comes after it."""

    def __init__(self, server: str, template: Path, number: int) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="sidework-move-"))
        self.path = self.folder / "app.db"
        shutil.copy(template, self.path)
        self._server = server
        self._schema = f"kill_{os.getpid()}_{number}"
        self._on_server(f"CREATE SCHEMA {self._schema}")
        self.target = f"{server}?options=-csearch_path%3D{self._schema}"

    def close(self) -> None:
        """Remove both."""
        self._on_server(f"DROP SCHEMA {self._schema} CASCADE")
        shutil.rmtree(self.folder)

    def _on_server(self, statement: str) -> None:
        with closing(psycopg.connect(self._server, autocommit=True)) as connection:
            connection.execute("SET client_min_messages = 'error'")
            connection.execute(statement)

    def act(self, *, back: bool, stop_after: int | None, points: Path | None = None) -> int | None:
        """Move, or go back, in a child; return its exit status."""

        def be() -> None:
            walker = Walker(stop_after)
            walker.watch()
            move = move_from(self.path, self.target)
            if back:
                move.abort()
            else:
                move.run()
            move.close()
            if points is not None:
                points.write_text(json.dumps(walker.passed))

        return wait_for(fork(be, self.folder / "errors"), _PATIENCE)

    def where(self) -> tuple[bool, int]:
        """Return whether the old place takes jobs, and how many jobs the new one shows."""
        return self._takes_jobs(), self._shown()

    def _takes_jobs(self) -> bool:
        manager = BackgroundJobManager(self.path)
        try:
            manager.counts()
        except DatabaseUnavailable:
            return False
        finally:
            manager._storage.close()
        return True

    def _shown(self) -> int:
        manager = BackgroundJobManager(self.target)
        try:
            return sum(manager.counts().values())
        except DatabaseUnavailable:
            return 0
        finally:
            manager._storage.close()


class Campaign:
    """Kills after every statement of one act, in the order of the statements."""

    def __init__(self, server: str, template: Path, *, back: bool, every: int, always_back: bool) -> None:
        """back: kill who goes back after a whole move; every: only after each so-manieth statement.

        always_back: let nobody finish what was begun, but go back from everywhere.
        """
        self._server, self._template, self._back, self._every = server, template, back, every
        self._always_back = always_back
        self._before = _seen(template)
        self._stages = 0
        self.kills = self.statements = 0
        self.points: set[str] = set()
        self.lost = self.doubled = 0
        """Jobs that were nowhere at the end; jobs that were in two places, or more often at the end than before."""
        self.wrongs: list[str] = []
        self.states: dict[str, int] = {}
        """Where the jobs were after a kill -> how often."""

    def run(self, chance: random.Random, until: float) -> None:
        """Kill once after each statement, in an order of chance, for as long as there is time."""
        names = self._statements()
        numbers = [*range(1, len(names) + 1, self._every)]
        self.statements = len(numbers)
        for number in chance.sample(numbers, len(numbers)):
            if now() > until:
                break
            self.points.add(names[number - 1])
            self._kill(number, names[number - 1])

    def _statements(self) -> Sequence[str]:
        stage = self._stage()
        points = stage.folder / "points"
        if self._back:
            stage.act(back=False, stop_after=None)
        ended = stage.act(back=self._back, stop_after=None, points=points)
        assert ended == 0, last_words(stage.folder / "errors")
        names: list[str] = json.loads(points.read_text())
        stage.close()
        return names

    def _stage(self) -> Stage:
        self._stages += 1
        return Stage(self._server, self._template, self._stages + (1000 if self._back else 0))

    def _kill(self, number: int, name: str) -> None:
        stage = self._stage()
        if self._back:
            stage.act(back=False, stop_after=None)
        ended = stage.act(back=self._back, stop_after=number)
        if ended == ENDED_BY_ITSELF:
            self.kills += 1
            for wrong in self._wrongs(stage, number):
                self.wrongs.append(f"killed after {number} ({name}): {wrong} {last_words(stage.folder / 'errors')}")
        elif ended != 0:
            self.wrongs.append(f"killed after {number} ({name}): ended with {ended}")
        stage.close()

    def _wrongs(self, stage: Stage, number: int) -> list[str]:
        takes_jobs, shown = stage.where()
        state = f"old place {'open' if takes_jobs else 'closed'}, {shown} jobs at the new one"
        self.states[state] = self.states.get(state, 0) + 1
        found = [f"both places at once: {state}"] if takes_jobs and shown else []
        self.doubled += shown if takes_jobs else 0
        go_back = self._always_back or self._back != (number % 3 == 0)  # each third the other way round
        if takes_jobs and go_back:
            return found + self._differences(stage.path)
        if stage.act(back=go_back, stop_after=None) != 0:
            return [*found, f"could not be finished {'back' if go_back else 'there'}: {state}"]
        takes_jobs, shown = stage.where()
        if takes_jobs != go_back or bool(shown) == go_back:
            found.append(f"finished {'back' if go_back else 'there'}, but takes jobs: {takes_jobs}, shown: {shown}")
            self.doubled += shown if takes_jobs else 0
        return found + self._differences(stage.path if go_back else stage.target)

    def _differences(self, place: str | Path) -> list[str]:
        there = all_of(place)
        if there == self._before:
            return []
        before, after = (Counter(job["id"] for job in found["jobs"]) for found in (self._before, there))
        self.lost += (before - after).total()
        self.doubled += (after - before).total()
        return ["what is there is not what was there before"]


def _seen(path: Path) -> dict[str, Any]:
    """Look in a child: this process must open no database before it forks."""
    answer = path.with_suffix(".json")
    errors = path.with_suffix(".errors")
    fork_and_wait(lambda: answer.write_text(json.dumps(all_of(path))), errors)
    found: dict[str, Any] = json.loads(answer.read_text())
    return {**found, "logs": {int(job): lines for job, lines in found["logs"].items()}}


def fork_and_wait(be: Callable[[], object], errors: Path) -> None:
    """Let a child do something that must succeed."""

    def act() -> None:
        be()

    ended = wait_for(fork(act, errors), _PATIENCE)
    assert ended == 0, last_words(errors)


@contextmanager
def _server(named: str | None) -> Iterator[str]:
    """Yield the URL of a server: that which is named, or one of our own."""
    if named is not None:
        yield named
        return
    server = Server()
    try:
        server.start()
        yield server.url
    finally:
        server.remove()


def main(words: list[str]) -> None:
    """Run both campaigns and print their figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--server", help="its URL; else one is started")
    parser.add_argument("--every", type=int, default=1, help="kill only after each so-manieth statement")
    parser.add_argument("--seconds", type=float, default=3600.0, help="for so long at most, for both acts together")
    parser.add_argument("--seed", type=int, default=1, help="which statements come first")
    parser.add_argument("--careless", action="store_true", help="the control: go back without asking the new place")
    options = parser.parse_args(words)
    if options.careless:
        setattr(Move, "_give_up_there", lambda _self, _mark: None)  # noqa: B010 - mypy knows it is a method
    folder = Path(tempfile.mkdtemp(prefix="sidework-moves-"))
    template = folder / "template.db"
    fork_and_wait(lambda: fill(template).close(), folder / "errors")
    with _server(options.server) as server:
        figures = _both(server, template, options)
    shutil.rmtree(folder)
    print(json.dumps(figures))


def _both(server: str, template: Path, options: argparse.Namespace) -> dict[str, object]:
    """Kill movers, then those who go back: they pass fewer statements and get a quarter of the time."""
    chance, began = random.Random(options.seed), now()
    figures: dict[str, object] = {}
    for name, back, share in (("there", False, 0.75), ("back", True, 1.0)):
        campaign = Campaign(server, template, back=back, every=options.every, always_back=options.careless)
        campaign.run(chance, began + options.seconds * share)
        figures[name] = {
            "kills": campaign.kills,
            "statements": campaign.statements,
            "points": sorted(campaign.points),
            "states": campaign.states,
            "lost": campaign.lost,
            "doubled": campaign.doubled,
            "wrongs": campaign.wrongs,
        }
    return figures
