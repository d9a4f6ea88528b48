"""A timer of the Linux kernel that an event loop can wait for: asyncio's own timers are rounded up to a millisecond."""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Final

_CLOCK_MONOTONIC: Final = 1


class _Time(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Setting(ctypes.Structure):
    _fields_ = (("interval", _Time), ("value", _Time))


class Alarm:
    """A file descriptor that becomes readable when the time is up."""

    def __init__(self) -> None:
        """Take a timer from the kernel. Raises OSError where there is none."""
        if sys.platform != "linux":
            raise OSError("timerfd is a call of Linux")
        self._libc = ctypes.CDLL(None, use_errno=True)
        # The flags of timerfd are, by its manual page, those of open().
        self._descriptor: int = self._libc.timerfd_create(_CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._descriptor < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")

    def fileno(self) -> int:
        """Return the file descriptor."""
        return self._descriptor

    def set(self, seconds: float) -> None:
        """Go off in so many seconds, whatever was set before."""
        whole, rest = divmod(max(round(seconds * 1_000_000_000), 1), 1_000_000_000)  # zero would mean never
        setting = _Setting(_Time(0, 0), _Time(whole, rest))
        if self._libc.timerfd_settime(self._descriptor, 0, ctypes.byref(setting), None) < 0:
            raise OSError(ctypes.get_errno(), "timerfd_settime")

    def close(self) -> None:
        """Give the timer back."""
        os.close(self._descriptor)
