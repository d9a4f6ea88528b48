"""How a payload binds to the parameters of a function.

Parameters named service, job, payload and db are given by the service; every other one is filled from the payload by
name. The annotations are read once, at registration, into one prepared decoder.
"""

from __future__ import annotations

import contextlib
import difflib
import inspect
import types
import typing
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, NoReturn, Protocol

import msgspec

from sidework.errors import InvalidHandler, InvalidPayload
from sidework.model.payload import can_be_made, decode, decode_payload, decoder_for, encode_payload, is_model

RESERVED = frozenset({"service", "job", "payload", "db"})
"""Given by the service, recognised by name; this set is closed for ever."""

_CONNECTION = ("execute", "cursor", "commit", "rollback")
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


class Signature(msgspec.Struct, frozen=True, kw_only=True):
    """What is known about a function after registration."""

    given: frozenset[str]
    binding: Binding
    result: Any
    is_async: bool


def read_signature(function: Callable[..., Any]) -> Signature:
    """Read the parameters of a function. Raises InvalidHandler with the way out for what cannot be bound."""
    target = _code_of(function)
    _refuse_generators(target)
    annotations = _Annotations(target)
    parameters = [_checked(parameter) for parameter in _parameters(function)]
    given = [parameter for parameter in parameters if parameter.name in RESERVED]
    filled = [parameter for parameter in parameters if parameter.name not in RESERVED]
    return Signature(
        given=frozenset(parameter.name for parameter in given),
        binding=_binding({p.name: annotations.of_reserved(p) for p in given}, filled, annotations),
        result=annotations.resolve("return", inspect.signature(function).return_annotation),
        is_async=inspect.iscoroutinefunction(target),
    )


def _binding(given: dict[str, Any], filled: list[inspect.Parameter], annotations: _Annotations) -> Binding:
    for name, annotation in given.items():
        _refuse_foreign(name, annotation)
    if "payload" not in given:
        return ByName(filled, annotations)
    if _is_plain_payload(given["payload"]):
        return Plain(ByName(filled, annotations) if filled else None)
    if filled:
        names = ", ".join(parameter.name for parameter in filled)
        raise InvalidHandler(f"take either a typed payload or parameters of their own ({names}), not both")
    return Whole(given["payload"])


class ByName:
    """Each parameter is a field of the payload."""

    def __init__(self, parameters: list[inspect.Parameter], annotations: _Annotations) -> None:
        """Prepare one struct with a field per parameter; raises InvalidHandler for a type that has no JSON form."""
        fields = [_Field(parameter, annotations) for parameter in parameters]
        self.names = tuple(field.name for field in fields)
        self._positional = tuple(p.name for p in parameters if p.kind is not inspect.Parameter.KEYWORD_ONLY)
        self._any_keys = any(field.any_keys for field in fields)
        struct = msgspec.defstruct("Payload", [field.definition() for field in fields], kw_only=True)
        self._decoder = decoder_for(struct)

    def encode(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> str | None:
        """Bind like a call, then encode."""
        return self._encode(self._with_positional(args, kwargs) if args else kwargs)

    def encode_whole(self, payload: object) -> str | None:
        """Encode a dict of fields."""
        if payload is None:
            payload = {}
        if not isinstance(payload, Mapping):
            raise InvalidPayload(f"give the payload as a dict with the fields {_listed(self.names)}, or None")
        return self._encode(payload)

    def arguments(self, text: str | None) -> dict[str, Any]:
        """Decode, and leave out what the payload does not have. Fields that no parameter takes are not looked at."""
        values = decode(self._decoder, "{}" if text is None or text == "null" else text)
        return {name: value for name in self.names if (value := getattr(values, name)) is not _ABSENT}

    def _encode(self, fields: Mapping[str, object]) -> str | None:
        for name in fields:
            if name not in self.names:
                _refuse_unknown(name, self.names)
        if not self.names:
            return None
        text = encode_payload(fields, any_keys=self._any_keys)
        self.arguments(text)
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
        self._optional = type(None) in _arms(annotation)

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
        if text is None:
            text = "null" if self._optional else "{}"
        return {"payload": decode(self._decoder, text)}


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


class _Field:
    """A parameter that is filled from the payload."""

    def __init__(self, parameter: inspect.Parameter, annotations: _Annotations) -> None:
        self.name = parameter.name
        self._type = annotations.resolve(parameter.name, parameter.annotation)
        self._required = parameter.default is inspect.Parameter.empty
        self.any_keys = _look_through(parameter.name, self._type)

    def definition(self) -> tuple[str, Any] | tuple[str, Any, Any]:
        return (self.name, self._type) if self._required else (self.name, self._type, _ABSENT)


class _Annotations:
    """Resolves the annotations of one function, each by itself: one that is unknown need not spoil the others."""

    def __init__(self, target: Callable[..., Any]) -> None:
        self._globals = getattr(target, "__globals__", {})
        self._locals = dict(_closure(target))

    def resolve(self, name: str, annotation: Any) -> Any:
        """Return the type, Any for none. Raises InvalidHandler."""
        if annotation is inspect.Parameter.empty:
            return Any
        try:
            return self._evaluated(name, annotation)
        except Exception as error:
            raise InvalidHandler(
                f"the annotation {annotation!r} of {name!r} cannot be resolved ({error}); import its names at the top "
                "of the module, outside `if TYPE_CHECKING:`, and define its classes there and not in a function"
            ) from error

    def of_reserved(self, parameter: inspect.Parameter) -> Any:
        """Return the type, or its name where it is only imported for type checkers."""
        try:
            return self.resolve(parameter.name, parameter.annotation)
        except InvalidHandler:
            if parameter.name == "payload" or not isinstance(parameter.annotation, str):
                raise
            return parameter.annotation

    def _evaluated(self, name: str, annotation: Any) -> Any:
        holder = types.SimpleNamespace(__annotations__={name: annotation})
        return typing.get_type_hints(holder, self._globals, self._locals, include_extras=True)[name]


def _closure(target: Callable[..., Any]) -> Iterator[tuple[str, Any]]:
    """Yield what a function defined inside another one can see of it by now."""
    code, cells = getattr(target, "__code__", None), getattr(target, "__closure__", None)
    for name, cell in zip(code.co_freevars if code else (), cells or (), strict=True):
        with contextlib.suppress(ValueError):  # empty: assigned later, such as the function's own name
            yield name, cell.cell_contents


def _code_of(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function that runs in the end, whose module knows the annotations."""
    while True:
        unwrapped = inspect.unwrap(getattr(function, "func", function))
        unwrapped = getattr(unwrapped, "__func__", unwrapped)
        if unwrapped is function:
            break
        function = unwrapped
    return function if hasattr(function, "__globals__") else type(function).__call__


def _parameters(function: Callable[..., Any]) -> Iterator[inspect.Parameter]:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError) as error:
        raise InvalidHandler(f"{function!r} cannot be a handler: its parameters are not known ({error})") from error
    yield from signature.parameters.values()


def _refuse_generators(target: Callable[..., Any]) -> None:
    if inspect.isgeneratorfunction(target) or inspect.isasyncgenfunction(target):
        raise InvalidHandler(
            "a generator cannot be a handler, its body would never run; return a value instead of yield"
        )


def _checked(parameter: inspect.Parameter) -> inspect.Parameter:
    match parameter.kind:
        case inspect.Parameter.VAR_POSITIONAL | inspect.Parameter.VAR_KEYWORD:
            star = "*" if parameter.kind is inspect.Parameter.VAR_POSITIONAL else "**"
            raise InvalidHandler(
                f"{star}{parameter.name} cannot be filled from a payload; name each parameter, or take `payload: dict`"
            )
        case inspect.Parameter.POSITIONAL_ONLY:
            raise InvalidHandler(f"{parameter.name!r} is positional-only; handlers are called by name, remove the `/`")
        case _:
            return parameter


def _refuse_foreign(name: str, annotation: Any) -> None:
    expected, fits = _RESERVED_TYPES[name]
    if not all(fits(arm) for arm in _arms(annotation) if arm is not type(None)):
        shown = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", repr(annotation))
        raise InvalidHandler(
            f"the parameter {name!r} is given by the service: {expected}, and cannot be {shown}; "
            f"rename it if it should come from the payload (service, job, payload and db are reserved)"
        )


def _arms(annotation: Any) -> tuple[Any, ...]:
    """Return the members of a union, or the annotation alone."""
    if typing.get_origin(annotation) is typing.Annotated:
        return _arms(annotation.__origin__)
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return tuple(arm for member in typing.get_args(annotation) for arm in _arms(member))
    return (annotation,)


def _is_called(class_name: str) -> Callable[[Any], bool]:
    def fits(annotation: Any) -> bool:
        if isinstance(annotation, str):
            return annotation.rpartition(".")[2].strip("'\"") == class_name
        return _is_anything(annotation) or any(c.__name__ == class_name for c in getattr(annotation, "__mro__", ()))

    return fits


def _is_connection(annotation: Any) -> bool:
    if isinstance(annotation, str):
        return annotation.partition("[")[0].endswith("Connection")
    connection = typing.get_origin(annotation) or annotation
    return _is_anything(connection) or all(hasattr(connection, name) for name in _CONNECTION)


def _is_anything(annotation: Any) -> bool:
    return annotation is Any or annotation is object


def _is_payload(annotation: Any) -> bool:
    kind = typing.get_origin(annotation) or annotation
    return (
        _is_anything(kind)
        or (isinstance(kind, type) and issubclass(kind, (Mapping, msgspec.Struct)))
        or hasattr(kind, "__dataclass_fields__")
        or hasattr(kind, "__attrs_attrs__")
        or is_model(kind)
    )


def _is_plain_payload(annotation: Any) -> bool:
    """Whether the payload is handed over as it is, the seed's way."""
    return all(_is_plain(arm) for arm in _arms(annotation) if arm is not type(None))


def _is_plain(annotation: Any) -> bool:
    kind = typing.get_origin(annotation) or annotation
    if typing.is_typeddict(kind):
        return False
    values = typing.get_args(annotation)[1:]
    return _is_anything(kind) or (kind in _PLAIN_KINDS and all(map(_is_anything, values)))


_PLAIN_KINDS = frozenset({dict, Mapping, types.MappingProxyType})
_RESERVED_TYPES: Mapping[str, tuple[str, Callable[[Any], bool]]] = types.MappingProxyType(
    {
        "service": ("the BackgroundService", _is_called("BackgroundService")),
        "job": ("the JobContext", _is_called("JobContext")),
        "db": ("a connection to the service's database", _is_connection),
        "payload": ("the whole payload, a dict or a struct, dataclass, TypedDict or model", _is_payload),
    }
)


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
