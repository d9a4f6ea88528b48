"""A line to a server that can be cut, slowed, or let go silent: a TCP proxy on a loopback address of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Literal, TypeVar
from urllib.parse import urlsplit, urlunsplit

if TYPE_CHECKING:
    from asyncio import StreamReader, StreamWriter

T = TypeVar("T")

Direction = Literal["up", "down"]
"""To the server, or from it."""

ANY_ADDRESS = "127.0.0.1"


class Line:
    """One connection through the proxy."""

    def __init__(self, client: StreamWriter, server: StreamWriter) -> None:
        self.client = client
        self.server = server
        self.silent = False
        """Half open: what is sent is taken and thrown away."""

    def cut(self) -> None:
        """End it on both sides, whatever is still under way."""
        self.client.transport.abort()
        self.server.transport.abort()


class Proxy:
    """Passes everything on, until told otherwise. From any thread."""

    def __init__(self, target: str, *, at: str = ANY_ADDRESS) -> None:
        """target: the URL of the server. at: the loopback address to listen on."""
        self._target = urlsplit(target)
        self._at = at
        self._lines: set[Line] = set()
        self._left: dict[Direction, int | None] = {"up": None, "down": None}
        self._passed: dict[Direction, int] = {"up": 0, "down": 0}
        self._delay = 0.0
        self._refuses = self._swallows = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"proxy at {at}", daemon=True)
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(asyncio.start_server(self._serve, at, 0), self._loop).result()
        port: int = self._server.sockets[0].getsockname()[1]
        self.url = urlunsplit(self._target._replace(netloc=f"{self._target.username}@{at}:{port}"))
        """Leads to the target through this proxy."""

    def cut(self) -> None:
        """End every connection, and pass on those that come."""
        self._on_loop(self._cut)

    def refuse(self) -> None:
        """End every connection, and let none come."""
        self._on_loop(self._refuse)

    def go_silent(self) -> None:
        """Leave every connection half open, and those that come too."""
        self._on_loop(self._swallow)

    def silence_those_that_are(self) -> None:
        """Leave every connection half open, for ever; new ones are passed on."""
        self._on_loop(self._silence)

    def slow_down(self, seconds: float) -> None:
        """Let each packet wait."""
        self._on_loop(lambda: setattr(self, "_delay", seconds))

    def cut_after(self, number: int, direction: Direction) -> None:
        """Cut every connection when so many more bytes have passed in a direction, and nothing of what follows."""
        self._on_loop(lambda: self._left.update({direction: number}))

    def heal(self) -> None:
        """Pass everything on again; what is half open stays so."""
        self._on_loop(self._heal)

    def passed(self, direction: Direction) -> int:
        """Return how many bytes have passed in a direction since this was asked last."""
        return self._on_loop(lambda: self._read_meter(direction))

    def close(self) -> None:
        """End it."""
        self.refuse()
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        self._server.close()
        await asyncio.sleep(0)  # who was let in just now gets a transport: only that can be closed
        mine = asyncio.current_task()
        others = [task for task in asyncio.all_tasks() if task is not mine]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def _on_loop(self, act: Callable[[], T]) -> T:
        async def run() -> T:
            return act()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result()

    def _read_meter(self, direction: Direction) -> int:
        number, self._passed[direction] = self._passed[direction], 0
        return number

    def _refuse(self) -> None:
        self._refuses = True
        self._cut()

    def _swallow(self) -> None:
        self._swallows = True
        self._silence()

    def _cut(self) -> None:
        for line in self._lines:
            line.cut()

    def _silence(self) -> None:
        for line in self._lines:
            line.silent = True

    def _heal(self) -> None:
        self._refuses = self._swallows = False
        self._delay = 0.0
        self._left = {"up": None, "down": None}

    async def _serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        try:
            if not self._refuses:
                await self._connect(reader, writer)
        finally:
            writer.transport.abort()

    async def _connect(self, reader: StreamReader, writer: StreamWriter) -> None:
        there, back = await asyncio.open_connection(self._target.hostname, self._target.port)
        line = Line(writer, back)
        line.silent = self._swallows
        self._lines.add(line)
        with suppress(asyncio.CancelledError):  # at the end of the proxy
            await asyncio.gather(
                self._pass_on(line, reader, line.server, "up"), self._pass_on(line, there, line.client, "down")
            )
        self._lines.discard(line)

    async def _pass_on(self, line: Line, reader: StreamReader, writer: StreamWriter, direction: Direction) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                if self._delay:
                    await asyncio.sleep(self._delay)
                if line.silent:
                    continue
                passes = self._what_passes(data, direction)
                writer.write(passes)
                if len(passes) < len(data):
                    self._cut()
        if not line.silent:  # a half open line does not tell one side that the other has gone
            line.cut()

    def _what_passes(self, data: bytes, direction: Direction) -> bytes:
        left = self._left[direction]
        part = data if left is None else data[:left]
        self._passed[direction] += len(part)
        if left is not None:
            self._left[direction] = left - len(part)
        return part


@contextmanager
def proxied(target: str, *, at: str = ANY_ADDRESS) -> Iterator[Proxy]:
    """Yield a proxy to a server, which ends with the test."""
    proxy = Proxy(target, at=at)
    try:
        yield proxy
    finally:
        proxy.close()
