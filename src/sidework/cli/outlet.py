"""Standard output whose reader may leave early, as `head` does: the command then ends quietly, and is done."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from sidework.cli.failures import ExitCode


class Outlet(io.TextIOWrapper):
    """A text stream that ends the program when nobody reads it any more."""

    def write(self, text: str, /) -> int:
        """Write; the reader may have left."""
        with _ended_quietly(self):
            return super().write(text)

    def flush(self) -> None:
        """Flush; the reader may have left."""
        with _ended_quietly(self):
            super().flush()


def open_outlet() -> None:
    """Let everything that is printed from now on go through an outlet."""
    given = sys.stdout
    if isinstance(given, io.TextIOWrapper):
        encoding, errors, by_line = given.encoding, given.errors, given.line_buffering
        through = given.write_through
        sys.stdout = Outlet(
            given.detach(), encoding=encoding, errors=errors, line_buffering=by_line, write_through=through
        )


@contextmanager
def _ended_quietly(stream: io.TextIOWrapper) -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        # What is still in the buffers is written at the end of the process: it must go somewhere.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
        raise SystemExit(ExitCode.DONE) from None
