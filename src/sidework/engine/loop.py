"""`Loop`: call step(), sleep as long as it says, wake early, end cleanly. The one loop of everything that repeats."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


class Loop:
    """Repeats a step until it returns None or somebody says stop."""

    def __init__(self, step: Callable[[], Awaitable[float | None]]) -> None:
        """Take the step; it returns the seconds after which it wants to be called again, None: never."""
        self._step = step
        self._woken = asyncio.Event()
        self._stopped = False

    async def run(self) -> None:
        """Repeat the step. A wake-up that comes while the step runs is not lost: the step runs once more."""
        while not self._stopped:
            self._woken.clear()
            pause = await self._step()
            if pause is None:
                return
            await self._sleep(pause)

    def wake(self) -> None:
        """End the sleep. Only from the event loop's own thread."""
        self._woken.set()

    def stop(self) -> None:
        """Let the step that runs come to its end, and begin no other."""
        self._stopped = True
        self._woken.set()

    async def _sleep(self, pause: float) -> None:
        if self._woken.is_set() or pause <= 0:
            await asyncio.sleep(0)  # whoever became ready meanwhile gets a turn, even if we are always in a hurry
            return
        alarm = asyncio.get_running_loop().call_later(pause, self._woken.set)
        try:
            await self._woken.wait()
        finally:
            alarm.cancel()
