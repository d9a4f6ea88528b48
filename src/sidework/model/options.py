"""What can be set for a handler and for one job: names, units and what is allowed.

Times are given as seconds or a timedelta, and kept as seconds.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Literal, TypedDict

import msgspec

from sidework.errors import InvalidHandler
from sidework.model.lifecycle import MAX_CRASHES

MAX_NAME = 200
MAX_UNIQUE_KEY = 1000
_INT64 = range(-(2**63), 2**63)
_LONGEST_SECONDS = timedelta(days=365_000).total_seconds()
_FIRST_MOMENT, _LAST_MOMENT = datetime(1, 1, 3, tzinfo=UTC), datetime(9999, 12, 29, tzinfo=UTC)
"""Every time zone can tell what lies between them."""


class HandlerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The options of a handler, checked; times in seconds."""

    queue: str = "default"
    priority: int = 0
    max_attempts: int = 3
    timeout: float | None = None
    backoff: float | tuple[float, ...] | None = None
    max_crashes: int = MAX_CRASHES
    unique: bool = False
    executor: Literal["thread", "loop"] | None = None
    """Where it runs; None: coroutine functions on the loop, others in a thread."""
    retention: float | None = None


class HandlerKeywords(TypedDict, total=False):
    """What `@service.handler(key, ...)` takes."""

    queue: str
    priority: int
    max_attempts: int
    timeout: float | timedelta
    backoff: float | timedelta | Sequence[float | timedelta]
    max_crashes: int
    unique: bool
    executor: Literal["thread", "loop"]
    retention: float | timedelta


class JobKeywords(TypedDict, total=False):
    """What `handler.using(...)` and `service.enqueue(..., ...)` take for one job."""

    db: object
    queue: str
    priority: int
    max_attempts: int
    delay: float | timedelta
    run_at: datetime
    unique_key: str
    unique: bool
    timeout: float | timedelta
    backoff: float | timedelta | Sequence[float | timedelta]
    max_crashes: int
    executor: Literal["thread", "loop"]
    retention: float | timedelta


def handler_options(given: Mapping[str, object]) -> HandlerOptions:
    """Check the options of a handler. Raises InvalidHandler, naming the option."""
    return HandlerOptions(**_checked(given, HandlerKeywords.__annotations__))  # type: ignore[arg-type]


def job_options(given: Mapping[str, object]) -> dict[str, object]:
    """Check what one job overrides; times become seconds, `run_at` UTC. Raises InvalidHandler, naming the option."""
    checked = _checked(given, JobKeywords.__annotations__)
    if "delay" in checked and "run_at" in checked:
        raise InvalidHandler("give delay= or run_at=, not both")
    return checked


def check_key(key: object) -> str:
    """Return the key of a handler if it can be one. Raises InvalidHandler."""
    return _name("key", key)


def _checked(given: Mapping[str, object], known: Mapping[str, object]) -> dict[str, object]:
    for name in given.keys() - known.keys():
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(known)}"
        raise InvalidHandler(f"unknown option {name!r}; {hint}")
    return {name: _CHECKS[name](name, value) for name, value in given.items() if value is not None}


def _anything(_: str, value: object) -> object:
    return value


def _name(option: str, value: object) -> str:
    return _printable(option, value, MAX_NAME)


def _unique_key(option: str, value: object) -> str:
    return _printable(option, value, MAX_UNIQUE_KEY)


def _printable(option: str, value: object, limit: int) -> str:
    if not isinstance(value, str) or not value.isprintable() or not 0 < len(value) <= limit:
        raise InvalidHandler(
            f"{option}={value!r:.100} must be text of 1 to {limit} characters without control characters"
        )
    return value


def _flag(option: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise InvalidHandler(f"{option}={value!r:.100} must be True or False")
    return value


def _integer(option: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value not in _INT64:
        raise InvalidHandler(f"{option}={value!r:.100} must be a whole number of at most 64 bits")
    return value


def _at_least_one(option: str, value: object) -> int:
    if (number := _integer(option, value)) < 1:
        raise InvalidHandler(f"{option}={number} must be at least 1")
    return number


def _seconds(option: str, value: object) -> float:
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if not isinstance(seconds, (int, float)) or isinstance(seconds, bool) or not 0 <= seconds <= _LONGEST_SECONDS:
        raise InvalidHandler(f"{option}={value!r:.100} must be seconds or a timedelta, not negative and not infinite")
    return float(seconds)


def _positive_seconds(option: str, value: object) -> float:
    if (seconds := _seconds(option, value)) == 0:
        raise InvalidHandler(f"{option}={value!r:.100} must be longer than zero")
    return seconds


def _backoff(option: str, value: object) -> float | tuple[float, ...]:
    if not isinstance(value, Sequence) or isinstance(value, str):
        return _seconds(option, value)
    if not value:
        raise InvalidHandler(f"{option}={value!r} must hold at least one delay")
    return tuple(_seconds(option, delay) for delay in value)


def _executor(option: str, value: object) -> str:
    if value not in ("thread", "loop"):
        raise InvalidHandler(f"{option}={value!r:.100} must be 'thread' or 'loop'")
    return str(value)


def _moment(option: str, value: object) -> datetime:
    if not isinstance(value, datetime):
        raise InvalidHandler(f"{option}={value!r:.100} must be a datetime with a time zone")
    if value.utcoffset() is None:
        raise InvalidHandler(
            f"{option}={value!r} has no time zone; give an aware datetime: datetime.now(UTC) + timedelta(hours=1)"
        )
    if not _FIRST_MOMENT <= value <= _LAST_MOMENT:
        raise InvalidHandler(f"{option}={value} must lie between {_FIRST_MOMENT:%Y-%m-%d} and {_LAST_MOMENT:%Y-%m-%d}")
    return value.astimezone(UTC)


_CHECKS: Mapping[str, Callable[[str, object], object]] = MappingProxyType(
    {
        "db": _anything,
        "queue": _name,
        "priority": _integer,
        "max_attempts": _at_least_one,
        "delay": _seconds,
        "run_at": _moment,
        "unique_key": _unique_key,
        "unique": _flag,
        "timeout": _positive_seconds,
        "backoff": _backoff,
        "max_crashes": _at_least_one,
        "executor": _executor,
        "retention": _seconds,
    }
)
