"""Children of a campaign: forked from a process that has imported everything and opened no database.

What the library imports when it is first needed is imported here: a child lives for a tenth of a second.
"""

from __future__ import annotations

import ctypes
import email.parser  # noqa: F401
import importlib.readers  # noqa: F401
import logging
import os
import signal
import sys
import time
import traceback
from typing import TYPE_CHECKING, Final

import sidework.service
import sidework.storage.sqlite.store  # noqa: F401

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_PR_SET_PDEATHSIG: Final = 1


def now() -> float:
    """Return seconds of the monotonic clock, which all processes share."""
    return time.monotonic()  # noqa: TID251 - real time passes here


def fork(be: Callable[[], None], errors: Path) -> int:
    """Return the process of a child that is what `be` does; what it says of errors goes to a file."""
    parent = os.getpid()
    process = os.fork()
    if process:
        return process
    try:
        descriptor = os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(descriptor, 2)
        os.dup2(descriptor, 1)  # a child that is left over must not keep a reader of the campaign waiting
        _die_with(parent)
        logging.basicConfig(level=logging.WARNING, force=True)
        be()
        sys.stdout.flush()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)


def _die_with(parent: int) -> None:
    """Let the kernel kill this child when its campaign is gone, however that ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
    if os.getppid() != parent:
        os._exit(1)


def wait_for(process: int, seconds: float) -> int | None:
    """Return the exit status of a child, or None: it did not end in time, and was killed."""
    until = now() + seconds
    while now() < until:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.001)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return None


def last_words(errors: Path) -> str:
    """Return the end of what a child said of errors."""
    return errors.read_text(errors="replace")[-1500:] if errors.exists() else ""
