"""Payloads, results and error texts: from values to the text that the database keeps, and back.

A payload is a JSON object or None. Values of the usual types (datetime, UUID, Path, Enum, Decimal, timedelta, bytes,
sets, dataclasses, structs, TypedDicts, pydantic models) are written as JSON strings, numbers, arrays and objects; a
handler's annotations turn them back. A naive datetime is kept as it is, without an offset.
"""

from __future__ import annotations

import dataclasses
import math
import traceback
from collections.abc import Iterable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from types import NoneType
from typing import Any, Protocol, TypeVar
from uuid import UUID

import msgspec

from sidework.errors import InvalidPayload

MAX_PAYLOAD_BYTES = 1024 * 1024
MAX_DEPTH = 64
MAX_ERROR_BYTES = 64 * 1024
MAX_HEAD_BYTES = 4 * 1024

_TEXT = frozenset({str})
_FLAT = frozenset({str, int, float, bool, date, datetime, time, timedelta, UUID, Decimal})
_HARMLESS = (int, NoneType, date, time, timedelta, UUID, Decimal, bytes, bytearray, memoryview)
_KEYS = (str, int, float, Enum, date, time, timedelta, UUID, Decimal)

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class TextDecoder(Protocol[T_co]):
    """A prepared `msgspec.json.Decoder`."""

    def decode(self, text: str, /) -> T_co: ...


def encode_payload(value: object, *, any_keys: bool = False) -> str | None:
    """Return the JSON object text of a mapping, struct, dataclass or model; None stays None.

    any_keys: let through keys that are numbers, dates and the like. JSON turns them into strings, so only who knows
        the type to read them back with may ask for this.

    Raises InvalidPayload, naming the field, for what JSON or the limits do not allow.
    """
    if value is None:
        return None
    encoded = _encode(value, any_keys=any_keys)
    if not encoded.startswith(b"{"):
        raise InvalidPayload(f"a payload is a JSON object (a dict) or None, not {_kind(value)}")
    return encoded.decode()


def decode_payload(text: str | None) -> dict[str, Any] | None:
    """Return the object in a payload text, or None for none. Raises InvalidPayload (`not_json`) for anything else."""
    if text is None or text == "null":
        return None
    return decode(_object_decoder, text)


def check_payload_text(text: str) -> None:
    """Raise InvalidPayload unless the text is a JSON object within the limits."""
    _check_size(len(text.encode(errors="surrogatepass")), "payload")
    _inspect(decode(_object_decoder, text), any_keys=False)


def encode_result(value: object) -> str | None:
    """Return the JSON text of what a handler returned; None stays None. Raises InvalidPayload as for a payload."""
    return None if value is None else _encode(value, any_keys=True, what="result").decode()


def decode_result(text: str | None, into: Any = Any) -> Any:
    """Return a kept result as a value of the type `into`. Raises InvalidPayload if it does not fit."""
    return None if text is None else decode(decoder_for(into), text, what="result")


def decoder_for(annotation: Any) -> msgspec.json.Decoder[Any]:
    """Return a strict decoder into this type. Raises TypeError or NameError for a type that cannot be decoded into."""
    return msgspec.json.Decoder(annotation, dec_hook=_from_plain)


def decode(decoder: TextDecoder[T], text: str, *, what: str = "payload") -> T:
    """Decode, and turn what msgspec says into an InvalidPayload that names the field."""
    try:
        return decoder.decode(text)
    except msgspec.ValidationError as error:
        raise _misfit(error, what) from error
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError) as error:
        raise InvalidPayload(f"the {what} is not JSON: {error}", not_json=True) from error


def canonical(text: str | None) -> bytes:
    """Return the same bytes for equal payloads, whatever the order of their keys."""
    return _canonical_encoder.encode(decode_payload(text))


def clean_text(text: str, limit_bytes: int) -> str:
    """Return the text as any database takes it: lone surrogates and NUL written out, cut to so many bytes of UTF-8."""
    safe = text.replace("\0", "\\x00").encode("utf-8", "backslashreplace")
    return safe[:limit_bytes].decode("utf-8", "ignore")


def error_text(exception: BaseException) -> str:
    """Return "Type: message" and the traceback, cut to 64 KiB in the middle: its end tells where it happened."""
    head = clean_text(f"{type(exception).__qualname__}: {_message(exception)}", MAX_HEAD_BYTES)
    room = MAX_ERROR_BYTES - len(head.encode()) - 2
    return f"{head}\n\n{_end_of(''.join(_traceback(exception)).rstrip(), room)}"


def _end_of(text: str, limit_bytes: int) -> str:
    end = clean_text(text[-limit_bytes:], 4 * limit_bytes).encode()
    if len(text) <= limit_bytes and len(end) <= limit_bytes:
        return end.decode()
    return "[...] " + end[6 - limit_bytes :].decode("utf-8", "ignore")


def _message(exception: BaseException) -> str:
    try:
        return str(exception)
    except Exception as broken:  # noqa: BLE001 - the user's own __str__ may raise anything
        return f"(its message cannot be read: {type(broken).__qualname__})"


def _traceback(exception: BaseException) -> list[str]:
    try:
        return traceback.format_exception(exception)
    except Exception:  # noqa: BLE001 - formatting calls code of the user's too
        return traceback.format_tb(exception.__traceback__)


def _encode(value: object, *, any_keys: bool, what: str = "payload") -> bytes:
    try:
        encoded = _encoder.encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        _inspect(value, any_keys=any_keys, what=what)
        raise InvalidPayload(f"the {what} cannot be written as JSON: {error}") from error
    if _may_be_at_fault(value, encoded):
        _inspect(value, any_keys=any_keys, what=what)
    _check_size(len(encoded), what)
    return encoded


def _may_be_at_fault(value: object, encoded: bytes) -> bool:
    """Whether a look at every value is needed: msgspec writes NaN as null, and NUL and number keys without a word."""
    return not _is_flat(value) or b"null" in encoded or b"\\u0000" in encoded


def _is_flat(value: object) -> bool:
    return type(value) is dict and _FLAT.issuperset(map(type, value.values())) and _TEXT.issuperset(map(type, value))


def _check_size(size: int, what: str) -> None:
    if size > MAX_PAYLOAD_BYTES:
        raise InvalidPayload(
            f"the {what} is {size:,} bytes of JSON, the limit is {MAX_PAYLOAD_BYTES:,}: "
            "keep large data in a table or file of your own and pass its id or path"
        )


class _Fault(Exception):  # noqa: N818 - no error but the way to a value; never leaves this module
    """A value that cannot be kept; each level on the way up adds its step in front."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.path = ""

    def within(self, step: object) -> _Fault:
        """Add the list index or key under which the value stands."""
        self.path = _joined(f"[{step}]" if isinstance(step, int) else str(step), self.path)
        return self


def _inspect(value: object, *, any_keys: bool, what: str = "payload") -> None:
    """Look at every value inside, and raise InvalidPayload naming the first that cannot be kept."""
    try:
        _look(value, 1, any_keys=any_keys)
    except _Fault as fault:
        field = clean_text(fault.path, 200) or None
        place = f"{what} field {field!r}" if field else f"the {what}"
        raise InvalidPayload(f"{place}: {fault.reason}", field=field) from None


def _look(value: object, depth: int, *, any_keys: bool) -> None:
    if isinstance(value, Enum):
        _look(value.value, depth, any_keys=any_keys)
    elif isinstance(value, str):
        _look_at_text(value)
    elif isinstance(value, float):
        _look_at_number(value)
    elif not isinstance(value, _HARMLESS):
        _look_inside(value, depth, any_keys=any_keys)


def _look_at_text(text: str) -> None:
    if "\0" in text:
        raise _Fault("text with a NUL character cannot be kept; remove it, or pass bytes")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            reason = "text with a lone surrogate is not Unicode (a file name that is not UTF-8?); pass os.fsencode(...)"
            raise _Fault(reason) from None


def _look_at_number(number: float) -> None:
    if not math.isfinite(number):
        raise _Fault(f"JSON has no number {number}; pass None or a string instead")


def _look_inside(value: object, depth: int, *, any_keys: bool) -> None:
    if depth > MAX_DEPTH:
        raise _Fault(f"nested deeper than {MAX_DEPTH} levels")
    if isinstance(value, Mapping):
        _look_at_items(value.items(), depth, any_keys=any_keys)
    elif isinstance(value, (list, tuple, set, frozenset)):
        _look_at_elements(value, depth, any_keys=any_keys)
    elif (members := _members(value)) is not None:
        _look_at_items(members, depth, any_keys=any_keys)
    else:
        _look(_converted(value), depth, any_keys=any_keys)


def _look_at_items(items: Iterable[tuple[object, object]], depth: int, *, any_keys: bool) -> None:
    for key, item in items:
        try:
            _look_at_key(key, any_keys=any_keys)
            _look(item, depth + 1, any_keys=any_keys)
        except _Fault as fault:
            raise fault.within(key) from None


def _look_at_elements(elements: Iterable[object], depth: int, *, any_keys: bool) -> None:
    for index, element in enumerate(elements):
        try:
            _look(element, depth + 1, any_keys=any_keys)
        except _Fault as fault:
            raise fault.within(index) from None


def _look_at_key(key: object, *, any_keys: bool) -> None:
    if isinstance(key, str):
        _look_at_text(key)
    elif not (any_keys and isinstance(key, _KEYS)):
        raise _Fault(f"a JSON object has strings as keys, and {clean_text(repr(key), 100)} is {_kind(key)}")


def _members(value: object) -> Iterable[tuple[str, object]] | None:
    """Return the fields of a struct, dataclass or attrs object, or None for another kind of thing."""
    if isinstance(value, msgspec.Struct):
        return zip(value.__struct_encode_fields__, msgspec.structs.astuple(value), strict=True)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
    attributes = getattr(type(value), "__attrs_attrs__", None)
    return None if attributes is None else [(field.name, getattr(value, field.name)) for field in attributes]


def _converted(value: object) -> object:
    try:
        return _to_plain(value)
    except TypeError as error:
        raise _Fault(str(error)) from None


def _to_plain(value: Any) -> Any:
    """Turn what msgspec does not know into something that it does. Raises TypeError for what is no data."""
    if isinstance(value, PurePath):
        return str(value)
    for plain in (str, int, float):
        if isinstance(value, plain):  # a subclass, such as Django's SafeString or numpy's float64
            return plain(value)
    if isinstance(value, Mapping):
        return dict(value)
    if is_model(type(value)):
        return value.model_dump(mode="json")
    raise TypeError(f"{_kind(value)} cannot be kept as JSON; pass an id, a string, or a dict of plain values")


def _from_plain(into: Any, value: Any) -> Any:
    """Make a value of a type that msgspec does not know."""
    if into is object:
        return value
    if _is_path(into):
        if not isinstance(value, str):
            raise TypeError(f"Expected `str`, got `{type(value).__name__}`")
        return into(value)
    if is_model(into):
        return _model(into, value)
    raise TypeError(f"values of {into!r} cannot be made from JSON")


def can_be_made(annotation: object) -> bool:
    """Whether a type that msgspec does not know can be made from JSON all the same."""
    return annotation is object or _is_path(annotation) or is_model(annotation)


def _is_path(annotation: object) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, PurePath)


def is_model(annotation: object) -> bool:
    """Whether this is a pydantic model, or behaves like one."""
    return isinstance(annotation, type) and hasattr(annotation, "model_validate") and hasattr(annotation, "model_dump")


class _ModelMisfitError(ValueError):
    """A model's own validation, with the path of its first complaint."""

    def __init__(self, message: str, path: str) -> None:
        super().__init__(message)
        self.path = path


def _model(into: Any, value: Any) -> Any:
    try:
        return into.model_validate(value)
    except ValueError as error:
        complaints: list[dict[str, Any]] = getattr(error, "errors", list)()
        if not complaints:
            raise
        raise _ModelMisfitError(complaints[0]["msg"], _dotted(complaints[0]["loc"])) from error


def _dotted(steps: Iterable[object]) -> str:
    path = ""
    for step in steps:
        path = _joined(path, f"[{step}]" if isinstance(step, int) else str(step))
    return path


def _misfit(error: msgspec.ValidationError, what: str) -> InvalidPayload:
    """Read the path out of msgspec's message: "Expected `int`, got `str` - at `$.user.tags[2]`"."""
    reason, _, place = str(error).rpartition(" - at ") if " - at " in str(error) else (str(error), "", "")
    field = place.removeprefix("`key` in ").strip("`").removeprefix("$").removeprefix(".")
    if reason.startswith("Object missing required field `"):
        field, reason = _joined(field, reason.split("`")[1]), "is missing"
    elif isinstance(error.__cause__, _ModelMisfitError):
        field = _joined(field, error.__cause__.path)
    if not field:
        not_json = reason.startswith("Expected `object")
        return InvalidPayload(f"the {what} does not fit: {reason}", not_json=not_json)
    return InvalidPayload(f"{what} field {field!r}: {reason}", field=field)


def _joined(outer: str, inner: str) -> str:
    return f"{outer}{'.' if outer and inner and not inner.startswith('[') else ''}{inner}"


def _kind(value: object) -> str:
    return "None" if value is None else f"a value of type {type(value).__qualname__}"


_encoder = msgspec.json.Encoder(enc_hook=_to_plain)
_canonical_encoder = msgspec.json.Encoder(order="deterministic")
_object_decoder: msgspec.json.Decoder[dict[str, Any]] = msgspec.json.Decoder(dict[str, Any])
