"""`Stopping`: a worker's way to its end: asked for, begun with a grace period, hastened, and at last not waited for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidework.engine.attempt import Stop
from sidework.engine.events import WorkerStopping

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidework.engine.bench import Bench
    from sidework.engine.events import Announcer
    from sidework.engine.reporter import Reporter
    from sidework.engine.runner import Runner
    from sidework.engine.timer import Alarm, Timer

LAST_WAIT = 2.0
"""Seconds that handlers get to end after they were told to, when the worker stops."""


class Stopping:
    """Knows whether a worker stops, and what is still waited for. On the loop, but for `ask`."""

    def __init__(
        self,
        bench: Bench,
        reporter: Reporter,
        *,
        grace: float,
        timer: Timer,
        announce: Announcer,
        wake: Callable[[], object],
    ) -> None:
        """bench, reporter: where what is waited for can be seen. grace: seconds. wake: asks for another turn."""
        self._bench = bench
        self._reporter = reporter
        self._grace = grace
        self._timer = timer
        self._announce = announce
        self._wake = wake
        self._asked: bool | None = None
        """None: nobody has asked; True: now; False: within the grace period."""
        self._noticed: bool | None = None
        self._waits_no_more = False
        self._alarm: Alarm | None = None

    @property
    def begun(self) -> bool:
        """Whether nothing is claimed or started any more."""
        return self._noticed is not None

    @property
    def done(self) -> bool:
        """Whether it was begun and nothing is waited for any more."""
        return self.begun and (self._waits_no_more or not self._is_something_left())

    def ask(self, *, now: bool = False) -> None:
        """Stop at the next turn. From any thread. now: do not wait for what runs."""
        self._asked = now or bool(self._asked)

    def notice(self, worker: int, runner: Runner) -> None:
        """Begin to stop, or go on without waiting, if that was asked for since the last call."""
        if self._asked is None or self._noticed is self._asked:
            return
        first_time = not self.begun
        self._noticed = now = self._asked
        self._announce(WorkerStopping(worker=worker, now=now, running=len(self._bench.running)))
        if now:
            self._end_what_runs(runner)
        elif first_time:
            self._alarm = self._timer.call_later(self._grace, self._end_the_grace)

    def close(self) -> None:
        """Let the grace period end unheard."""
        if self._alarm is not None:
            self._alarm.cancel()

    def _is_something_left(self) -> bool:
        return bool(self._bench.running) or self._bench.has_ended or self._reporter.has_last_words

    def _end_the_grace(self) -> None:
        self.ask(now=True)
        self._wake()

    def _end_what_runs(self, runner: Runner) -> None:
        for attempt in list(self._bench.running.values()):
            runner.stop(attempt, Stop.GIVE_BACK)
        self._timer.call_later(LAST_WAIT, self._wait_no_more)

    def _wait_no_more(self) -> None:
        self._waits_no_more = True
        self._wake()
