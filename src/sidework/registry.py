"""The handlers of one service, by key, and the decorator that fills them in."""

from __future__ import annotations

import difflib
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, TypeVar, Unpack, cast, overload

from sidework.errors import DuplicateJobKey, InvalidHandler, UnknownJobKey
from sidework.model.handler import HandlerOptions, JobHandler, Sender
from sidework.model.options import HandlerKeywords, check_key, handler_options

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sidework.engine.context import JobContext

P = ParamSpec("P")
R = TypeVar("R")


class Connection(Protocol):
    """A database connection, sync or async, of whatever driver.

    Structural, so that a driver that is not installed never turns into Any (and then matches everything).
    """

    @property
    def execute(self) -> Callable[..., Any]: ...
    @property
    def cursor(self) -> Callable[..., Any]: ...
    @property
    def commit(self) -> Callable[..., Any]: ...
    @property
    def rollback(self) -> Callable[..., Any]: ...


class Service(Protocol):
    """The BackgroundService, which stands above this file and cannot be named in it."""

    @property
    def register_job_handler(self) -> Callable[..., Any]: ...
    @property
    def run_until_idle(self) -> Callable[..., Any]: ...
    @property
    def is_running(self) -> Callable[..., Any]: ...


Db = TypeVar("Db", bound=Connection)
ServiceT = TypeVar("ServiceT", bound=Service)


class Register(Protocol):
    """`@service.handler`, `@service.handler()`, `@service.handler("key", max_attempts=5)`.

    The leading parameters that the service gives are taken off; what is left, P, is the payload.
    """

    @overload
    def __call__(self, function: Callable[Concatenate[ServiceT, P], R], /) -> JobHandler[..., R]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[JobContext, Db, P], R], /) -> JobHandler[P, R]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[JobContext, P], R], /) -> JobHandler[P, R]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[Db, JobContext, P], R], /) -> JobHandler[P, R]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[Db, P], R], /) -> JobHandler[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> JobHandler[P, R]: ...
    @overload
    def __call__(self, key: str | None = None, /, **options: Unpack[HandlerKeywords]) -> Register: ...


class Registry:
    """Key -> handler. The same function registered again replaces itself; another one under its key is refused."""

    def __init__(self, sender: Sender) -> None:
        """Keep where the handlers send their jobs."""
        self._sender = sender
        self._handlers: dict[str, JobHandler[..., Any]] = {}
        self.by_key: Mapping[str, JobHandler[..., Any]] = MappingProxyType(self._handlers)
        """A live view of the handlers."""

    @property
    def decorator(self) -> Register:
        """`@decorator`, `@decorator()` or `@decorator("key", **options)`; the key defaults to the function's name."""

        def decorate(first: Callable[..., Any] | str | None = None, /, **options: Any) -> Any:
            if callable(first):
                return self.register(None, first, options)
            return lambda function: self.register(first, function, options)

        return cast("Register", decorate)

    def register(
        self, key: str | None, function: Callable[..., Any], options: Mapping[str, object]
    ) -> JobHandler[..., Any]:
        """Check the function and its options, and keep it under the key (None: its name).

        Raises InvalidHandler; DuplicateJobKey if another function has the key.
        """
        function = _bare(function)
        name = check_key(_name_of(function) if key is None else key)
        self._refuse_duplicate(name, function)
        handler: JobHandler[..., Any] = _explained(name, function, options, self._sender)
        self._handlers[name] = handler
        return handler

    def declare(self, key: str) -> JobHandler[..., Any]:
        """Return a handle to a handler of another program: the same verbs, its payload unchecked."""
        return JobHandler(check_key(key), None, HandlerOptions(), self._sender)

    def get(self, key: str) -> JobHandler[..., Any]:
        """Return the handler of a key. Raises UnknownJobKey with the keys nearest to it."""
        if handler := self._handlers.get(key):
            return handler
        raise UnknownJobKey(key, difflib.get_close_matches(key, self._handlers))

    def find(self, key: str) -> JobHandler[..., Any] | None:
        """Return the handler of a key, or None."""
        return self._handlers.get(key)

    def keys(self) -> frozenset[str]:
        """Return the keys of all handlers."""
        return frozenset(self._handlers)

    def handlers(self) -> tuple[JobHandler[..., Any], ...]:
        """Return all handlers in the order of their registration."""
        return tuple(self._handlers.values())

    def _refuse_duplicate(self, key: str, function: Callable[..., Any]) -> None:
        other = self._handlers.get(key)
        if other is not None and _place(other.function) != _place(function):
            raise DuplicateJobKey(
                f"{key!r} is the key of {_place(other.function)} already, and {_place(function)} is another function; "
                "give one of them a key of its own: @service.handler('another_key')"
            )


def _bare(function: Callable[..., Any]) -> Callable[..., Any]:
    """Take a function out of its handler, so that one function can be registered under two keys."""
    if isinstance(function, JobHandler) and function.function is not None:
        return function.function
    if not callable(function):
        raise InvalidHandler(f"{function!r} is not a function")
    return function


def _explained(
    key: str, function: Callable[..., Any], options: Mapping[str, object], sender: Sender
) -> JobHandler[..., Any]:
    try:
        return JobHandler(key, function, handler_options(options), sender)
    except InvalidHandler as error:
        raise InvalidHandler(f"{_place(function)} cannot be the handler of {key!r}: {error}") from error


def _name_of(function: Callable[..., Any]) -> str:
    name = getattr(function, "__name__", None)
    if name is None or name == "<lambda>":
        raise InvalidHandler(f"{function!r} has no name of its own; give its key: service.handler('some_key')(...)")
    return str(name)


def _place(function: object) -> str:
    """Name a function by module and qualified name: the same after a reload or a notebook cell run again."""
    return f"{getattr(function, '__module__', '?')}.{getattr(function, '__qualname__', repr(function))}"
