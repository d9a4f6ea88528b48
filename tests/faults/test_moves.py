"""A move that is killed anywhere, on either side, can be finished or undone: all jobs are in one place.

`python -m tests.faults.child moves` kills after every statement; here it is after every fifth.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from tests.faults.running import campaign
from tests.postgres_server import Server
from tests.service.moves import all_of, fill

from sidework import DatabaseUnavailable
from sidework.moving import Step, move_from

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


def test_a_mover_that_is_killed_loses_and_doubles_nothing(postgres_server: str, figures: Callable[[str], None]) -> None:
    found = campaign("moves", "--server", postgres_server, "--every", 5)
    there, back = found["there"], found["back"]
    figures(
        f"moves: {there['kills']} kills of a mover and {back['kills']} of one that goes back, after "
        f"{len({*there['points'], *back['points']})} different statements; lost, doubled or in two places: "
        f"{len(there['wrongs'] + back['wrongs'])}; {there['states']}"
    )
    assert there["wrongs"] + back["wrongs"] == []
    assert there["kills"] >= 50
    assert back["kills"] >= 15
    assert len(there["states"]) == 3, "kills must hit before, within and after the copy"


def test_going_back_without_asking_the_new_place_puts_jobs_in_both(postgres_server: str) -> None:
    """The control: a campaign that finds nothing here could find nothing anywhere."""
    found = campaign("moves", "--server", postgres_server, "--every", 15, "--careless")
    assert any("finished back" in wrong for wrong in found["there"]["wrongs"])


@pytest.fixture
def server() -> Iterator[Server]:
    """A server of this test's own, which keeps what it acknowledged."""
    server = Server(fsync="on", full_page_writes="on")
    server.start()
    yield server
    server.remove()


@pytest.mark.parametrize("moment", ["while it copies", "before it commits", "after it has committed"])
def test_a_server_that_crashes_loses_and_doubles_nothing(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    path = tmp_path / "app.db"
    fill(path).close()
    before = all_of(path)
    crash = Crash(server)

    def hear(progress: Any) -> None:
        if progress.step is Step.COPYING:
            crash.copying = True
            if moment == "while it copies":
                crash.happen()

    real = psycopg.Transaction.__exit__

    def commit(self: psycopg.Transaction, *error: Any) -> Any:
        if crash.copying and moment == "before it commits":
            crash.happen()
        result = real(self, *error)
        if crash.copying and not crash.happened and moment == "after it has committed":
            crash.happen()
            raise psycopg.OperationalError("the answer was not heard")
        return result

    monkeypatch.setattr(psycopg.Transaction, "__exit__", commit)
    move = move_from(path, server.url, tell=hear)
    with pytest.raises(DatabaseUnavailable) as raised:
        move.run()
    assert "which stays closed: run the same command again" in raised.value.__notes__[0]
    assert crash.happened
    server.start()
    assert not move.run().already
    move.close()
    assert all_of(server.url) == before


class Crash:
    """Ends the server at once, a single time."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.copying = self.happened = False

    def happen(self) -> None:
        if not self.happened:
            self.happened = True
            self._server.kill()
