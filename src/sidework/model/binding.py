"""How a payload binds to the parameters of a function.

Parameters named service, job, payload and db are given by the service; every other one is filled from the payload by
name. The annotations are read once, at registration, into one prepared decoder.
"""

from __future__ import annotations

import difflib
import types
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NoReturn, Protocol

import msgspec

from sidework.errors import InvalidHandler, InvalidPayload
from sidework.model.payload import can_be_made, decode, decode_payload, decoder_for, encode_payload

RESERVED = frozenset({"service", "job", "payload", "db"})
"""Given by the service, recognised by name; this set is closed for ever."""


_ABSENT = object()
"""Stands for a field that the payload does not have, so that the function's own default counts."""


class Binding(Protocol):
    """One way in which a payload meets a function."""

    def encode(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> str | None:
        """Return the payload text for a call, known to fit. Raises InvalidPayload."""

    def encode_whole(self, payload: object) -> str | None:
        """Return the payload text for a whole payload (dict, struct, None), known to fit. Raises InvalidPayload."""

    def arguments(self, text: str | None) -> dict[str, Any]:
        """Return what the function takes from a payload text. Raises InvalidPayload."""


class Field(msgspec.Struct, frozen=True, kw_only=True):
    """A parameter that is filled from the payload."""

    name: str
    type: Any
    required: bool
    by_position: bool

    @property
    def definition(self) -> tuple[str, Any] | tuple[str, Any, Any]:
        """The field of the struct that payloads are decoded into."""
        return (self.name, self.type) if self.required else (self.name, self.type, _ABSENT)


class ByName:
    """Each parameter is a field of the payload."""

    def __init__(self, fields: list[Field]) -> None:
        """Prepare one struct with a field per parameter; raises InvalidHandler for a type that has no JSON form."""
        self.names = tuple(field.name for field in fields)
        self._known = frozenset(self.names)
        self._positional = tuple(field.name for field in fields if field.by_position)
        looks = [_look_through(field.name, field.type) for field in fields]
        self._any_keys = any(looks)
        struct = msgspec.defstruct("Payload", [field.definition for field in fields], kw_only=True)
        self._decoder = decoder_for(struct)

    def encode(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> str | None:
        """Bind like a call, then encode."""
        return self._encode(self._with_positional(args, kwargs) if args else kwargs)

    def encode_whole(self, payload: object) -> str | None:
        """Encode a dict of fields."""
        if payload is None:
            payload = {}
        if type(payload) is not dict and not isinstance(payload, Mapping):  # the second alone takes ten times as long
            raise InvalidPayload(f"give the payload as a dict with the fields {_listed(self.names)}, or None")
        return self._encode(payload)

    def arguments(self, text: str | None) -> dict[str, Any]:
        """Decode, and leave out what the payload does not have. Fields that no parameter takes are not looked at."""
        values = decode(self._decoder, "{}" if text is None or text == "null" else text)
        return {name: value for name in self.names if (value := getattr(values, name)) is not _ABSENT}

    def _encode(self, fields: Mapping[str, object]) -> str | None:
        if not self._known.issuperset(fields):
            _refuse_unknown(next(name for name in fields if name not in self._known), self.names)
        if not self.names:
            return None
        text = encode_payload(fields, any_keys=self._any_keys)
        if text is not None:
            decode(self._decoder, text)
        return text

    def _with_positional(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> dict[str, object]:
        if len(args) > len(self._positional):
            raise InvalidPayload(
                f"{len(args)} positional arguments were given, and the payload has {_listed(self.names)}"
            )
        fields = dict(zip(self._positional, args, strict=False))
        for name in fields.keys() & kwargs.keys():
            raise InvalidPayload(f"payload field {name!r} was given twice", field=name)
        return {**fields, **kwargs}


class Whole:
    """The parameter `payload` is the whole payload, as a struct, dataclass, TypedDict or model."""

    def __init__(self, annotation: Any) -> None:
        """Prepare the decoder; raises InvalidHandler for a type that has no JSON form."""
        self._any_keys = _look_through("payload", annotation)
        self._names = _field_names(msgspec.inspect.type_info(annotation))
        self._decoder = decoder_for(annotation)
        self._when_missing = "null" if _takes_none(annotation) else "{}"

    def encode(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> str | None:
        """Take one payload, by position or as `payload=`."""
        return self.encode_whole(_only_payload(args, kwargs))

    def encode_whole(self, payload: object) -> str | None:
        """Encode an object of the annotated type, or a dict that fits it."""
        if isinstance(payload, Mapping) and self._names:
            for name in payload.keys() - self._names:
                _refuse_unknown(name, self._names)
        text = encode_payload(payload, any_keys=self._any_keys)
        self.arguments(text)
        return text

    def arguments(self, text: str | None) -> dict[str, Any]:
        """Decode into the annotated type; no payload is None where the annotation allows it, else an empty object."""
        return {"payload": decode(self._decoder, self._when_missing if text is None or text == "null" else text)}


class Plain:
    """The parameter `payload` is the dict as it is, or None; other parameters may take fields out of it."""

    def __init__(self, by_name: ByName | None) -> None:
        """Keep the binding of the other parameters, if there are any."""
        self._by_name = by_name

    def encode(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> str | None:
        """Take a whole payload, by position or as the only keyword `payload=`; or keywords as its fields."""
        whole = args or (kwargs.keys() == {"payload"} and isinstance(kwargs["payload"], (Mapping, types.NoneType)))
        return self.encode_whole(_only_payload(args, kwargs) if whole else (kwargs or None))

    def encode_whole(self, payload: object) -> str | None:
        """Encode a dict or None."""
        text = encode_payload(payload)
        if self._by_name:
            self._by_name.arguments(text)
        return text

    def arguments(self, text: str | None) -> dict[str, Any]:
        """Decode into a dict or None."""
        return {"payload": decode_payload(text), **(self._by_name.arguments(text) if self._by_name else {})}


class Unchecked(Plain):
    """A handler that lives in another program: what it takes is not known here."""

    def __init__(self) -> None:
        """Nothing is known."""
        super().__init__(None)


def _only_payload(args: tuple[object, ...], kwargs: Mapping[str, object]) -> object:
    if len(args) == 1 and not kwargs:
        return args[0]
    if not args and kwargs.keys() <= {"payload"}:
        return kwargs.get("payload")
    raise InvalidPayload(
        "this handler takes its payload as one object: enqueue(payload)", field=next(iter(kwargs), None)
    )


def _refuse_unknown(name: object, known: Collection[str]) -> NoReturn:
    if name in RESERVED:
        way_out = " (a database connection goes into .using(db=...))" if name == "db" else ""
        raise InvalidPayload(
            f"{name!r} is given by the service and is no part of the payload{way_out}", field=str(name)
        )
    near = difflib.get_close_matches(str(name), known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are: {_listed(known)}"
    raise InvalidPayload(f"payload field {name!r:.100}: the handler does not take it; {hint}", field=str(name))


def _listed(names: Collection[str]) -> str:
    return ", ".join(sorted(names)) or "no fields"


def _look_through(name: str, annotation: Any) -> bool:
    """Refuse a type that JSON cannot be decoded into; return whether it has dicts whose keys are no strings."""
    try:
        decoder_for(annotation)
        parts = list(_parts(msgspec.inspect.type_info(annotation), set()))
    except Exception as error:
        raise InvalidHandler(f"the annotation of {name!r} cannot be filled from JSON: {error}") from error
    for part in parts:
        if isinstance(part, msgspec.inspect.CustomType) and not can_be_made(part.cls):
            raise InvalidHandler(
                f"the annotation of {name!r} holds {part.cls!r}, which cannot be made from JSON; "
                "take an id or plain values, a dataclass, a struct or a pydantic model"
            )
    return any(isinstance(part, msgspec.inspect.DictType) and not _is_text(part.key_type) for part in parts)


def _takes_none(annotation: Any) -> bool:
    info = msgspec.inspect.type_info(annotation)
    return isinstance(info, msgspec.inspect.UnionType) and info.includes_none


def _field_names(info: object) -> frozenset[str]:
    """Return the fields that a payload of this type may have; an empty set: not known."""
    if isinstance(info, msgspec.inspect.UnionType):
        return frozenset().union(*map(_field_names, info.types))
    fields = getattr(info, "fields", ())
    return frozenset(field.encode_name for field in fields)


def _is_text(info: msgspec.inspect.Type) -> bool:
    return isinstance(info, (msgspec.inspect.StrType, msgspec.inspect.AnyType))


def _parts(info: object, seen: set[int]) -> Iterator[object]:
    """Yield a type and all that it is made of."""
    if id(info) in seen:
        return
    seen.add(id(info))
    yield info
    inner = info if isinstance(info, tuple) else getattr(info, "__struct_fields__", ())
    for member in inner:
        value = member if isinstance(info, tuple) else getattr(info, member)
        if isinstance(value, (msgspec.inspect.Type, msgspec.inspect.Field, tuple)):
            yield from _parts(value, seen)
