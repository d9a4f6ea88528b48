"""`Ear`: listens to the doorbell, which is a hint: without it everything is found within a second all the same."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from sidework.engine.events import logger

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidework.engine.bridge import Bridge
    from sidework.storage.contract import Doorbell, Storage


REST_WHILE_BUSY = 0.005
"""Seconds between two rings that reach a worker which has jobs at hand for every place."""

TRY_AGAIN = 1.0
"""Seconds, with jitter, until it is tried again to get a doorbell."""


class Ear:
    """Hears commits and deaths, and wakes whoever is to look."""

    def __init__(
        self,
        storage: Storage,
        bridge: Bridge,
        *,
        longest: float,
        on_commit: Callable[[], bool],
        on_death: Callable[[], object],
        chance: Callable[[], float],
        again_after: float = TRY_AGAIN,
    ) -> None:
        """longest: seconds between two looks at the bell. on_commit: looks soon and returns True, or is busy.

        chance: returns numbers in [0, 1). again_after: seconds, with jitter, until a bell that failed is tried again.
        """
        self._storage = storage
        self._bridge = bridge
        self._longest = longest
        self._on_commit = on_commit
        self._on_death = on_death
        self._looked = asyncio.Event()
        self._chance = chance
        self._again_after = again_after
        self._told = self._closed = False
        self._doorbell: Doorbell | None = None
        self._listening: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Begin to listen; where that fails, try again now and then."""
        await self._open()
        self._listening = asyncio.create_task(self._listen())

    async def close(self) -> None:
        """Listen no more."""
        self._closed = True
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.gather(self._listening, return_exceptions=True)
        if self._doorbell is not None:
            self._doorbell.close()

    def looked(self) -> None:
        """Say that somebody has looked: our own turns ring the bell too, and one ring needs one look."""
        self._looked.set()

    async def _open(self) -> None:
        try:
            await self._bridge.call(self._take_a_doorbell)
        except Exception:  # noqa: BLE001 - it is told, and nothing depends on it
            if not self._told:
                logger.exception("there is no doorbell yet; jobs are found within a second all the same")
            self._told = True

    def _take_a_doorbell(self) -> None:
        """Get one, in a thread that goes on when it has been given up; then nobody else would close it."""
        doorbell = self._doorbell = self._storage.doorbell()
        if self._closed:
            doorbell.close()

    async def _listen(self) -> None:
        while (doorbell := self._doorbell) is None:
            await asyncio.sleep(self._again_after * (0.5 + self._chance()))  # not all of those who lost it at once
            await self._open()
        while True:
            rung = await doorbell.wait(self._longest)
            if doorbell.died():
                self._on_death()
            if rung:
                await self._answer()

    async def _answer(self) -> None:
        """Have it looked at: at once, or a little later by whoever is busy. Our own commits ring too, all the time."""
        self._looked.clear()
        while not self._on_commit():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._looked.wait(), REST_WHILE_BUSY)
                return
        await self._looked.wait()
