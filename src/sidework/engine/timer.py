"""When real seconds must pass, they pass here: timeouts of handlers and the grace period. Tests ring by hand."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable


class Alarm(Protocol):
    """An alarm that was set."""

    def cancel(self) -> None: ...


class Timer(Protocol):
    """Calls back on the event loop after some seconds."""

    def call_later(self, seconds: float, callback: Callable[..., object], *args: object) -> Alarm: ...


class LoopTimer:
    """The running event loop's own timer."""

    def call_later(self, seconds: float, callback: Callable[..., object], *args: object) -> Alarm:
        """Call back after so many seconds, unless cancelled."""
        return asyncio.get_running_loop().call_later(seconds, callback, *args)
