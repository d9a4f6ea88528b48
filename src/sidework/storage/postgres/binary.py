"""Parameters in the binary form of PostgreSQL, for statements that are prepared by hand.

The driver's own adapters do the same, at several times the cost for each list.
"""

from __future__ import annotations

import struct
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_BIGINT: Final = struct.Struct("!q")
_SIZED_BIGINT: Final = struct.Struct("!iq")
_SIZE: Final = struct.Struct("!i")
_HEAD: Final = struct.Struct("!iiIii")
_EMPTY: Final = struct.Struct("!iiI")
_NULL: Final = _SIZE.pack(-1)


def scalar(value: object) -> bytes | None:
    """Return one value: text, bigint or timestamptz. Raises TypeError for any other."""
    match value:
        case None:
            return None
        case str():
            return value.encode()
        case int():
            return _BIGINT.pack(value)
        case datetime():
            return _BIGINT.pack(_microseconds(value))
        case _:
            raise TypeError(f"a column of jobs holds no {type(value).__name__}")


def array(kind: str, values: Sequence[Any]) -> bytes:
    """Return a list of values, or None among them, of the type that a statement names."""
    oid, element = _KINDS[kind]
    if not values:
        return _EMPTY.pack(0, 0, oid)
    parts = [_NULL if value is None else element(value) for value in values]
    return _HEAD.pack(1, 1, oid, len(parts), 1) + b"".join(parts)


def _text(value: str) -> bytes:
    encoded = value.encode()
    return _SIZE.pack(len(encoded)) + encoded


def _bigint(value: int) -> bytes:
    return _SIZED_BIGINT.pack(8, value)


def _timestamptz(value: datetime) -> bytes:
    return _SIZED_BIGINT.pack(8, _microseconds(value))


def _microseconds(moment: datetime) -> int:
    return (moment - _EPOCH) // _MICROSECOND


_KINDS: Final[Mapping[str, tuple[int, Callable[[Any], bytes]]]] = {
    "text": (25, _text),
    "bigint": (20, _bigint),
    "timestamptz": (1184, _timestamptz),
}
"""By the name of the type: its number in every PostgreSQL, and how an element is written."""
