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
    ) -> None:
        """longest: seconds between two looks at the bell. on_commit: looks soon and returns True, or is busy."""
        self._storage = storage
        self._bridge = bridge
        self._longest = longest
        self._on_commit = on_commit
        self._on_death = on_death
        self._looked = asyncio.Event()
        self._doorbell: Doorbell | None = None
        self._listening: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Begin to listen."""
        try:
            self._doorbell = await self._bridge.call(self._storage.doorbell)
        except Exception:  # noqa: BLE001 - it is told, and nothing depends on it
            logger.exception("there is no doorbell; jobs are found within a second all the same")
            return
        self._listening = asyncio.create_task(self._listen(self._doorbell))

    async def close(self) -> None:
        """Listen no more."""
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.gather(self._listening, return_exceptions=True)
        if self._doorbell is not None:
            self._doorbell.close()

    def looked(self) -> None:
        """Say that somebody has looked: our own turns ring the bell too, and one ring needs one look."""
        self._looked.set()

    async def _listen(self, doorbell: Doorbell) -> None:
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
