"""`Turnstile`: a lock of this process that is handed on in the order of arrival."""

from __future__ import annotations

import threading
from collections import deque


class Turnstile:
    """A lock that is handed on in the order of arrival, so that nobody overtakes and nobody starves."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._tickets: deque[threading.Lock] = deque()
        self.taken = False
        self.owner: int | None = None
        """The thread that took it; another one may give it back."""

    def take_if_free(self) -> bool:
        with self._mutex:
            if self.taken:
                return False
            self.taken = True
        self.owner = threading.get_ident()
        return True

    def take(self, timeout: float = -1) -> bool:
        """Wait for our turn, at most `timeout` seconds (-1: for ever). False: time ran out."""
        ticket = threading.Lock()
        with self._mutex:
            if self.taken:
                ticket.acquire()
                self._tickets.append(ticket)
            self.taken = True
        try:
            in_time = ticket.acquire(timeout=timeout)
        except BaseException:
            if not self._withdraw(ticket):
                self.give()
            raise
        if not in_time and self._withdraw(ticket):
            return False
        self.owner = threading.get_ident()
        return True

    def give(self) -> None:
        """Hand it to whoever has waited longest."""
        self.owner = None
        with self._mutex:
            if self._tickets:
                self._tickets.popleft().release()
            else:
                self.taken = False

    def _withdraw(self, ticket: threading.Lock) -> bool:
        """Leave the queue. False: the turn was handed to this ticket meanwhile, and is ours."""
        with self._mutex:
            try:
                self._tickets.remove(ticket)
            except ValueError:
                return False
        return True
