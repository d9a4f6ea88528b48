"""How a payload binds to a function: every type there and back, and what is refused with which words."""

from __future__ import annotations

import collections
import dataclasses
import functools
import sqlite3
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, NotRequired, Optional, TypedDict
from uuid import UUID

import aiosqlite
import msgspec
import pytest
from pydantic import BaseModel

from sidework.errors import InvalidHandler, InvalidPayload
from sidework.model.signature import read_signature

if TYPE_CHECKING:
    from sidework.nowhere import Missing  # type: ignore[import-not-found]

    from sidework import BackgroundService, JobContext


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Level(IntEnum):
    LOW = 1


class Size(StrEnum):
    XL = "xl"


class Mixed(Enum):
    A = 1
    B = "b"


@dataclasses.dataclass
class Address:
    city: str
    zip_code: str | None = None


@dataclasses.dataclass
class User:
    id: UUID
    address: Address
    tags: list[str] = dataclasses.field(default_factory=list)


class Point(msgspec.Struct):
    x: float
    y: float = 0.0


class Tree(msgspec.Struct):
    name: str
    branches: list[Tree] = []


class Options(TypedDict):
    depth: int
    name: NotRequired[str]


class Pair(NamedTuple):
    left: int
    right: str


class Model(BaseModel):
    x: int
    points: list[int] = []
    when: datetime | None = None


class Plain:
    pass


NO_JSON = Plain()


WHEN = datetime(2026, 11, 24, 8, 30, 0, 123456, tzinfo=UTC)
ID = UUID(int=7)
ADA = User(ID, Address("London", "NW1"), ["a", "b"])

ROUND_TRIPS: list[tuple[Any, Any]] = [
    (str, "é"),
    (int, 2**70),
    (float, 1.5),
    (bool, True),
    (bytes, b"\0\xff"),
    (None, None),
    (Any, {"free": [1, None]}),
    (object, "anything"),
    (datetime, WHEN),
    (datetime, WHEN.replace(tzinfo=None)),
    (date, WHEN.date()),
    (time, time(8, 30)),
    (timedelta, timedelta(days=1, microseconds=3)),
    (Decimal, Decimal("1.10")),
    (UUID, ID),
    (Path, Path("/tmp/a b")),
    (PurePosixPath, PurePosixPath("a/b")),
    (Colour, Colour.BLUE),
    (Level, Level.LOW),
    (Size, Size.XL),
    (Literal["a", 1], 1),
    (Address, Address("Paris")),
    (User, ADA),
    (Point, Point(1.0, 2.0)),
    (Tree, Tree("root", [Tree("leaf")])),
    (Options, {"depth": 1, "name": "x"}),
    (Pair, Pair(1, "b")),
    (Model, Model(x=1, points=[2], when=WHEN)),
    (list[int], [1, 2]),
    (tuple[int, ...], (1, 2)),
    (tuple[int, str], (1, "b")),
    (set[str], {"a", "b"}),
    (frozenset[int], frozenset({1})),
    (dict[str, list[date]], {"a": [WHEN.date()]}),
    (dict[int, str], {1: "a"}),
    (dict[UUID, Point], {ID: Point(1.0)}),
    (Mapping[str, int], {"a": 1}),
    (list[Path], [Path("a")]),
    (dict[str, Model], {"m": Model(x=1)}),
    (list[tuple[Colour, UUID]], [(Colour.RED, ID)]),
    (Annotated[int, msgspec.Meta(ge=0)], 3),
    (int | str, "x"),
    (User | None, None),
]


def taking(annotation: Any) -> Callable[..., None]:
    def handler(value): ...

    handler.__annotations__ = {"value": annotation}
    return handler


def there_and_back(annotation: Any, value: Any) -> Any:
    binding = read_signature(taking(annotation)).binding
    return binding.arguments(binding.encode((), {"value": value}))["value"]


@pytest.mark.parametrize(("annotation", "value"), ROUND_TRIPS)
def test_every_type_comes_back_as_it_went(annotation: Any, value: Any) -> None:
    back = there_and_back(annotation, value)
    assert back == value
    assert type(back) is type(value)


@pytest.mark.parametrize(("annotation", "value"), [pair for pair in ROUND_TRIPS if pair[0] not in (Any, object, None)])
def test_every_type_can_be_optional(annotation: Any, value: Any) -> None:
    optional = Optional[annotation]  # noqa: UP045 - the annotation is a variable
    assert there_and_back(optional, value) == value
    assert there_and_back(optional, None) is None


@pytest.mark.parametrize(("annotation", "value"), [pair for pair in ROUND_TRIPS if pair[0] is not None])
def test_every_type_can_stand_in_a_list_in_a_dict(annotation: Any, value: Any) -> None:
    nested = {"k": [value, value]}
    assert there_and_back(dict[str, list[annotation]], nested) == nested


@pytest.mark.parametrize(
    ("annotation", "value", "field", "words"),
    [
        (int, "5", "value", "Expected `int`, got `str`"),
        (int, 1.5, "value", "Expected `int`, got `float`"),
        (int, True, "value", "Expected `int`, got `bool`"),
        (str, 5, "value", "Expected `str`, got `int`"),
        (bool, 1, "value", "Expected `bool`, got `int`"),
        (str, None, "value", "Expected `str`, got `null`"),
        (datetime, "yesterday", "value", "Invalid RFC3339"),
        (timedelta, "an hour", "value", "Invalid ISO8601 duration"),
        (UUID, "123", "value", "Invalid UUID"),
        (Decimal, "much", "value", "Invalid decimal"),
        (bytes, "%", "value", "Invalid base64"),
        (Path, 5, "value", "Expected `str`, got `int`"),
        (Colour, "green", "value", "Invalid enum value 'green'"),
        (Literal["a", "b"], "c", "value", "Invalid enum value 'c'"),
        (Address, {}, "value.city", "is missing"),
        (User, {"id": str(ID), "address": {"city": 5}}, "value.address.city", "Expected `str`"),
        (Point, {"x": "left"}, "value.x", "Expected `float`"),
        (Tree, {"name": "a", "branches": [{"name": "b"}, {}]}, "value.branches[1].name", "is missing"),
        (Options, {"name": "x"}, "value.depth", "is missing"),
        (Model, {"points": []}, "value.x", "Field required"),
        (list[Model], [{"x": 1}, {"x": 1, "points": [1, "b"]}], "value[1].points[1]", "valid integer"),
        (list[int], [1, 2, "c"], "value[2]", "Expected `int`"),
        (list[Path], ["a", 1], "value[1]", "Expected `str`"),
        (dict[str, int], {"a": "b"}, "value[...]", "Expected `int`"),
        (dict[int, str], {"x": "y"}, "value", "Expected `int`, got `str`"),
        (tuple[int, str], [1], "value", "length 2"),
        (Annotated[int, msgspec.Meta(ge=0)], -1, "value", ">= 0"),
        (User | None, 5, "value", "Expected `object | null`"),
    ],
)
def test_a_value_of_another_type_is_refused_at_enqueue_and_at_run_time(
    annotation: Any, value: Any, field: str, words: str
) -> None:
    binding = read_signature(taking(annotation)).binding
    with pytest.raises(InvalidPayload) as at_enqueue:
        binding.encode((), {"value": value})
    with pytest.raises(InvalidPayload) as at_run_time:
        binding.arguments(msgspec.json.encode({"value": value}).decode())
    for caught in (at_enqueue, at_run_time):
        assert caught.value.field == field
        assert words in str(caught.value)
        assert not caught.value.not_json


def test_what_the_payload_leaves_out_is_left_to_the_defaults_of_the_function() -> None:
    shared: list[int] = []

    def handler(a: int, b: list[int] = shared, *, c: Path = Path("x"), d: Plain = NO_JSON): ...

    handler.__annotations__.pop("d")
    binding = read_signature(handler).binding
    text = binding.encode((), {"a": 1})
    assert text == '{"a":1}'
    assert binding.arguments(text) == {"a": 1}
    assert binding.arguments('{"a":1,"b":[2]}') == {"a": 1, "b": [2]}


def test_arguments_bind_by_position_as_in_a_call() -> None:
    def handler(job: JobContext, a: int, db: sqlite3.Connection, b: str = "x", *, c: int = 0): ...

    binding = read_signature(handler).binding
    assert binding.encode((1, "b"), {"c": 2}) == '{"a":1,"b":"b","c":2}'


@pytest.mark.parametrize(
    ("args", "kwargs", "field", "words"),
    [
        ((), {}, "user_id", "is missing"),
        ((), {"user_ID": "1"}, "user_ID", "did you mean 'user_id'?"),
        ((), {"user_id": "1", "colour": 1}, "colour", "there are: force, user_id"),
        (("1", True, 3), {}, None, "3 positional arguments"),
        (("1",), {"user_id": "2"}, "user_id", "given twice"),
        ((), {"user_id": "1", "db": None}, "db", ".using(db=...)"),
        ((), {"user_id": "1", "job": 1}, "job", "given by the service"),
    ],
)
def test_a_call_that_does_not_fit_names_the_parameter(
    args: tuple[Any, ...], kwargs: dict[str, Any], field: str | None, words: str
) -> None:
    def handler(db, job, user_id: str, force: bool = False): ...

    with pytest.raises(InvalidPayload) as caught:
        read_signature(handler).binding.encode(args, kwargs)
    assert caught.value.field == field
    assert words in str(caught.value)


def test_a_whole_dict_is_held_to_the_same() -> None:
    def handler(user_id: str, force: bool = False): ...

    binding = read_signature(handler).binding
    assert binding.encode_whole({"user_id": "1"}) == '{"user_id":"1"}'
    for payload, field in ((None, "user_id"), ({"user_id": 1}, "user_id"), ({"user_id": "1", "forse": 1}, "forse")):
        with pytest.raises(InvalidPayload) as caught:
            binding.encode_whole(payload)
        assert caught.value.field == field
    with pytest.raises(InvalidPayload, match="give the payload as a dict"):
        binding.encode_whole(["1"])


def test_fields_of_another_version_of_the_program_are_ignored_at_run_time() -> None:
    binding = read_signature(taking(int)).binding
    assert binding.arguments('{"value":1,"added_later":true}') == {"value": 1}


@pytest.mark.parametrize("text", ["nope", "[1]", '"x"', "{"])
def test_a_text_that_is_no_object_is_told_apart_from_one_that_does_not_fit(text: str) -> None:
    def without(job): ...

    for function in (taking(int), taking_whole(User), taking_whole(dict), without):
        with pytest.raises(InvalidPayload) as caught:
            read_signature(function).binding.arguments(text)
        assert caught.value.not_json


def test_a_handler_without_payload_has_none() -> None:
    def handler(db, job): ...

    binding = read_signature(handler).binding
    assert binding.encode((), {}) is None
    assert binding.arguments(None) == {}
    assert binding.arguments('{"left": "over"}') == {}
    with pytest.raises(InvalidPayload, match="no fields"):
        binding.encode((), {"x": 1})


# -------------------------------------------------------------------------------------------- payload as a whole


def taking_whole(annotation: Any) -> Callable[..., None]:
    def handler(payload, db): ...

    handler.__annotations__ = {"payload": annotation}
    return handler


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (User, ADA),
        (Point, Point(1.0)),
        (Options, {"depth": 1}),
        (Model, Model(x=1)),
        (User | None, ADA),
        (dict[str, int], {"a": 1}),
        (dict[int, date], {1: WHEN.date()}),
    ],
)
def test_a_typed_payload_is_decoded_whole(annotation: Any, value: Any) -> None:
    binding = read_signature(taking_whole(annotation)).binding
    for text in (binding.encode((value,), {}), binding.encode((), {"payload": value}), binding.encode_whole(value)):
        assert binding.arguments(text) == {"payload": value}


def test_a_typed_payload_may_be_given_as_a_dict_that_fits() -> None:
    binding = read_signature(taking_whole(Point)).binding
    assert binding.arguments(binding.encode_whole({"x": 1.0})) == {"payload": Point(1.0)}
    for payload, field in (({"x": "a"}, "x"), ({"x": 1.0, "z": 1}, "z"), ({}, "x"), (None, "x")):
        with pytest.raises(InvalidPayload) as caught:
            binding.encode_whole(payload)
        assert caught.value.field == field


def test_a_typed_payload_is_one_object() -> None:
    binding = read_signature(taking_whole(Point)).binding
    for args, kwargs in (((1, 2), {}), ((), {"x": 1.0}), ((Point(1.0),), {"y": 1})):
        with pytest.raises(InvalidPayload, match="as one object"):
            binding.encode(args, kwargs)


def test_an_optional_payload_may_be_missing() -> None:
    binding = read_signature(taking_whole(Point | None)).binding
    assert binding.encode((), {}) is None
    assert binding.arguments(None) == {"payload": None}


SEED_STYLES = [Any, object, dict, Mapping, dict[str, Any], dict[str, object], Mapping[str, Any] | None, dict | None]


@pytest.mark.parametrize("annotation", SEED_STYLES)
def test_a_plain_payload_is_the_dict_or_none(annotation: Any) -> None:
    binding = read_signature(taking_whole(annotation)).binding
    assert binding.arguments('{"a":{"b":[1]}}') == {"payload": {"a": {"b": [1]}}}
    assert binding.arguments(None) == {"payload": None}


def test_the_seeds_own_handler_binds_as_it_stands() -> None:
    def handle(service, payload, db): ...

    signature = read_signature(handle)
    assert signature.given == {"service", "payload", "db"}
    binding = signature.binding
    assert binding.encode((), {"userId": "1"}) == '{"userId":"1"}'
    assert binding.encode(({"userId": "1"},), {}) == '{"userId":"1"}'
    assert binding.encode((), {"payload": {"userId": "1"}}) == '{"userId":"1"}'
    assert binding.encode((), {"payload": "a field of this name"}) == '{"payload":"a field of this name"}'
    assert binding.encode((), {}) is None
    with pytest.raises(InvalidPayload, match="as one object"):
        binding.encode(({"a": 1}, {"b": 2}), {})


def test_a_plain_payload_may_stand_beside_parameters_taken_out_of_it() -> None:
    def handler(payload: dict[str, Any], user_id: str): ...

    binding = read_signature(handler).binding
    text = binding.encode((), {"user_id": "1", "extra": 2})
    assert binding.arguments(text) == {"payload": {"user_id": "1", "extra": 2}, "user_id": "1"}
    with pytest.raises(InvalidPayload) as caught:
        binding.encode((), {"extra": 2})
    assert caught.value.field == "user_id"


# ----------------------------------------------------------------------------------------------- what is refused


def star(*numbers: int) -> None: ...
def double_star(**fields: int) -> None: ...
def positional_only(x: int, /) -> None: ...
def foreign_job(job: str) -> None: ...
def foreign_service(service: Address) -> None: ...
def foreign_db(db: int) -> None: ...
def foreign_payload(payload: list[int]) -> None: ...
def unknown_name(x: Missing) -> None: ...
def unknown_payload(payload: Missing) -> None: ...
def unknown_result() -> Missing: ...
def no_json(x: Plain) -> None: ...
def no_json_inside(x: dict[str, list[Plain]]) -> None: ...
def connection_by_another_name(conn: sqlite3.Connection) -> None: ...
def callable_parameter(x: Callable[[], int]) -> None: ...
def path_or_int(x: Path | int) -> None: ...
def mixed_enum(x: Mixed) -> None: ...
def typed_payload_and_more(payload: Point, x: int) -> None: ...
def generator() -> Any:
    yield 1


async def async_generator() -> Any:
    yield 1


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (star, "*numbers cannot be filled from a payload; name each parameter"),
        (double_star, "**fields cannot be filled from a payload"),
        (positional_only, "'x' is positional-only"),
        (foreign_job, "'job' is given by the service: the JobContext, and cannot be str; rename it"),
        (foreign_service, "'service' is given by the service: the BackgroundService, and cannot be Address"),
        (foreign_db, "'db' is given by the service: a connection"),
        (foreign_payload, "'payload' is given by the service: the whole payload"),
        (unknown_name, "the annotation 'Missing' of 'x' cannot be resolved"),
        (unknown_payload, "outside `if TYPE_CHECKING:`"),
        (unknown_result, "the annotation 'Missing' of 'return' cannot be resolved"),
        (no_json, "'x' holds <class"),
        (no_json_inside, "take an id or plain values"),
        (connection_by_another_name, "'conn' holds <class 'sqlite3.Connection'>"),
        (callable_parameter, "cannot be made from JSON"),
        (path_or_int, "cannot be filled from JSON: Type unions containing a custom type"),
        (mixed_enum, "Enums must contain either all str or all int values"),
        (typed_payload_and_more, "either a typed payload or parameters of their own (x), not both"),
        (generator, "a generator cannot be a handler"),
        (async_generator, "a generator cannot be a handler"),
        (dict.fromkeys, "positional-only"),
        (iter, "cannot be a handler"),
    ],
)
def test_a_function_that_cannot_be_bound_is_refused_with_the_way_out(function: Callable[..., Any], words: str) -> None:
    with pytest.raises(InvalidHandler) as caught:
        read_signature(function)
    assert words in str(caught.value)


def reserved_under_type_checking(service: BackgroundService, job: JobContext, db: sqlite3.Connection) -> None: ...
def reserved_optional(job: JobContext | None, db: aiosqlite.Connection | None) -> None: ...
def reserved_anything(service: Any, job: object, db: Any) -> None: ...
def either_connection(db: sqlite3.Connection | aiosqlite.Connection) -> None: ...


@pytest.mark.parametrize("function", [reserved_under_type_checking, reserved_anything, either_connection])
def test_reserved_names_take_their_own_types(function: Callable[..., Any]) -> None:
    assert read_signature(function).given == set(function.__annotations__) - {"return"}


def test_any_order_of_parameters_works() -> None:
    def handler(x: int, db: sqlite3.Connection, y: str, job: Any): ...

    signature = read_signature(handler)
    assert signature.given == {"db", "job"}
    assert signature.binding.arguments('{"x":1,"y":"b"}') == {"x": 1, "y": "b"}


# ------------------------------------------------------------------------------------------- kinds of functions


class Mailer:
    def send(self, to: str) -> int: ...  # type: ignore[empty-body]
    async def __call__(self, to: str) -> int: ...  # type: ignore[empty-body]


def logged(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


@logged
def decorated(to: str) -> Colour: ...  # type: ignore[empty-body]


@pytest.mark.parametrize(
    ("function", "is_async", "result"),
    [
        (Mailer().send, False, int),
        (Mailer(), True, int),
        (decorated, False, Colour),
        (functools.partial(decorated), False, Colour),
        (lambda to: to, False, Any),
    ],
)
def test_anything_callable_can_be_a_handler(function: Callable[..., Any], is_async: bool, result: Any) -> None:
    signature = read_signature(function)
    assert signature.binding.arguments('{"to":"ada"}') == {"to": "ada"}
    assert (signature.is_async, signature.result) == (is_async, result)


def test_a_function_inside_another_sees_what_it_closes_over_and_itself_not_yet() -> None:
    @dataclasses.dataclass
    class Local:
        x: int

    signatures = []

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        signatures.append(read_signature(function))
        return function

    @register
    def handler(x: Local) -> None:
        handler(Local(1))

    assert signatures[0].binding.arguments('{"x":{"x":1}}') == {"x": Local(1)}


def test_a_subclass_of_a_dict_keeps_as_a_dict() -> None:
    counted = collections.Counter(a=2)
    assert there_and_back(dict[str, int], counted) == {"a": 2}
