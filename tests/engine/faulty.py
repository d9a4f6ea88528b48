"""A storage with faults: the real one, except for what a test puts in its way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidework.storage.contract import Storage


class Faulty:
    """Passes everything on; `before[name]` is called first and may raise, `instead[name]` is called in its place."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self.before: dict[str, Callable[[], object]] = {}
        self.instead: dict[str, Callable[..., Any]] = {}
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._storage, name)
        if not callable(real):
            return real

        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls.append(name)
            if name in self.before:
                self.before[name]()
            return self.instead.get(name, real)(*args, **kwargs)

        return call


def failing(times: int, error: Exception) -> Callable[[], None]:
    """Raise so many times, then do nothing."""
    left = iter(range(times))

    def raise_it() -> None:
        if next(left, None) is not None:
            raise error

    return raise_it
