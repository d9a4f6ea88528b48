"""Threads for handlers that write: no more at once than are of use, and nobody waits for one that is stuck."""

from __future__ import annotations

import asyncio
import threading

from sidework.clock import SystemClock
from sidework.engine.writers import TOLD_AT_ONCE, Writers

DEADLINE = 10


class Bell:
    """Told that calls have ended; counts."""

    def __init__(self):
        self.rung = 0

    def __call__(self):
        self.rung += 1


def with_writers(act):
    async def main():
        writers = Writers(asyncio.get_running_loop(), SystemClock().monotonic, Bell())
        try:
            await asyncio.wait_for(act(writers), DEADLINE)
        finally:
            writers.close()

    asyncio.run(main())


async def finished(event):
    await asyncio.to_thread(event.wait, DEADLINE)
    assert event.is_set()


def only_writes(writers):
    """Teach that handlers do nothing outside their transactions."""
    writers.measured(outside=0.0, locked=0.001)


def test_at_first_every_call_gets_a_thread_at_once():
    async def act(writers):
        together = threading.Barrier(4)
        for _ in range(3):
            writers.start(lambda _: together.wait())
        await asyncio.to_thread(together.wait, DEADLINE)

    with_writers(act)


def test_handlers_that_only_write_share_one_thread_and_run_in_order():
    async def act(writers):
        only_writes(writers)
        threads, order, done = set(), [], threading.Event()
        for number in range(50):

            def call(_together, number=number):
                threads.add(threading.get_ident())
                order.append(number)

            writers.start(call)
        writers.start(lambda _: done.set())
        await finished(done)
        assert order == list(range(50))
        assert len(threads) == 1

    with_writers(act)


def test_handlers_that_mostly_do_something_else_get_as_many_threads_as_keep_the_lock_busy():
    async def act(writers):
        for _ in range(200):
            writers.measured(outside=0.003, locked=0.001)
        together = threading.Barrier(4)
        for _ in range(4):
            writers.start(lambda _: together.wait(DEADLINE))
        ended = threading.Event()
        writers.start(lambda _: ended.set())
        await finished(ended)

    with_writers(act)


def test_handlers_that_never_write_are_not_held_back():
    async def act(writers):
        for _ in range(2000):
            writers.measured(outside=0.003, locked=0.0)
        together = threading.Barrier(9)
        for _ in range(8):
            writers.start(lambda _: together.wait(DEADLINE))
        await asyncio.to_thread(together.wait, DEADLINE)

    with_writers(act)


def test_a_call_that_takes_long_keeps_nobody_waiting():
    async def act(writers):
        only_writes(writers)
        stuck, ended = threading.Event(), threading.Event()
        writers.start(lambda _: stuck.wait(DEADLINE))
        writers.start(lambda _: stuck.wait(DEADLINE))
        writers.start(lambda _: ended.set())
        await finished(ended)
        assert not stuck.is_set()
        stuck.set()

    with_writers(act)


def test_ends_are_told_in_handfuls_while_others_wait():
    async def act(writers):
        only_writes(writers)
        begin, done = threading.Event(), threading.Event()
        writers.start(lambda _: begin.wait(DEADLINE))
        rung = []
        for _ in range(TOLD_AT_ONCE + 1):
            writers.start(lambda _: rung.append(writers._tell.rung))
        writers.start(lambda _: done.set())
        begin.set()
        await finished(done)
        # Not once per end while others wait (the look for slow calls may ring besides).
        assert len(set(rung)) < TOLD_AT_ONCE

    with_writers(act)


def test_closing_ends_threads_that_wait_and_those_that_are_done():
    async def act(writers):
        names = {thread.name for thread in threading.enumerate()}
        go_on, entered = threading.Event(), threading.Event()
        writers.start(lambda _: entered.set())
        await finished(entered)
        entered.clear()

        def enter_and_wait(_together):
            entered.set()
            go_on.wait(DEADLINE)

        writers.start(enter_and_wait)
        await finished(entered)
        mine = [t for t in threading.enumerate() if t.name.startswith("sidework-writer") and t.name not in names]
        assert mine
        writers.close()
        go_on.set()
        for thread in mine:
            await asyncio.to_thread(thread.join, DEADLINE)
            assert not thread.is_alive()

    with_writers(act)
