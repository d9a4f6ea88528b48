"""Connections of our own that give up a server from which nothing comes any more.

TCP notices a cable that was cut. It does not notice a pooler, a proxy or a server that still takes what is sent and
never answers: a thread that waited for that would wait for ever, and its worker with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import psycopg

from sidework.clock import SystemClock

if TYPE_CHECKING:
    from collections.abc import Generator

SILENCE: Final = 40.0
"""Seconds without a word from the server after which a connection is given up: longer than a lock is waited for, and
short enough for a worker to find another connection before its lease ends."""


class ServerSilent(psycopg.OperationalError):
    """The server took what was sent, and has said nothing since."""


class PatientConnection(psycopg.Connection[Any]):
    """A connection that waits as long as its patience lasts; it is closed then."""

    patience: float | None = SILENCE
    """Seconds without a word from the server; None: for as long as it takes."""
    owes_an_answer = False
    """Whether the answer to what was sent last is still to be taken in (`wire.finish`), by whoever uses it next."""

    def wait(self, gen: Any, *arguments: Any, **options: Any) -> Any:
        """Do as psycopg does, but not for ever."""
        if self.patience is None:
            return super().wait(gen, *arguments, **options)
        try:
            return super().wait(unless_silent(gen, self.patience), *arguments, **options)
        except ServerSilent:
            self.pgconn.finish()  # what is waited for next on this connection would not come either
            raise


def unless_silent(gen: Generator[Any, Any, Any], patience: float) -> Generator[Any, Any, Any]:
    """Let psycopg's generator run, and raise ServerSilent when nothing has come for so many seconds.

    Whoever drives it says several times a second that nothing has come.
    """
    clock = SystemClock()
    heard_at = clock.monotonic()
    ready: Any = None
    while True:
        try:
            wanted = gen.send(ready)
        except StopIteration as end:
            return end.value
        ready = yield wanted
        if ready:
            heard_at = clock.monotonic()
        elif clock.monotonic() - heard_at > patience:
            gen.close()
            raise ServerSilent(f"the server has not answered for {patience:g} s")
