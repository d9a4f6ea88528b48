"""Reading a function: what the service gives it, what the payload fills, whether it is async, what it returns.

Parameters named service, job, payload and db are given by the service. An annotation of theirs may be imported under
`if TYPE_CHECKING:` only; then its name decides.
"""

from __future__ import annotations

import contextlib
import inspect
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec

from sidework.errors import InvalidHandler
from sidework.model.binding import RESERVED, Binding, ByName, Field, Plain, Whole
from sidework.model.payload import is_model

_CONNECTION = ("execute", "cursor", "commit", "rollback")


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
    given = {p.name: annotations.of_reserved(p) for p in parameters if p.name in RESERVED}
    filled = [_field(p, annotations) for p in parameters if p.name not in RESERVED]
    return Signature(
        given=frozenset(given),
        binding=_binding(given, filled),
        result=annotations.resolve("return", inspect.signature(function).return_annotation),
        is_async=inspect.iscoroutinefunction(target),
    )


def _field(parameter: inspect.Parameter, annotations: _Annotations) -> Field:
    return Field(
        name=parameter.name,
        type=annotations.resolve(parameter.name, parameter.annotation),
        required=parameter.default is inspect.Parameter.empty,
        by_position=parameter.kind is not inspect.Parameter.KEYWORD_ONLY,
    )


def _binding(given: dict[str, Any], filled: list[Field]) -> Binding:
    for name, annotation in given.items():
        _refuse_foreign(name, annotation)
    if "payload" not in given:
        return ByName(filled)
    if _is_plain_payload(given["payload"]):
        return Plain(ByName(filled) if filled else None)
    if filled:
        names = ", ".join(field.name for field in filled)
        raise InvalidHandler(f"take either a typed payload or parameters of their own ({names}), not both")
    return Whole(given["payload"])


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
