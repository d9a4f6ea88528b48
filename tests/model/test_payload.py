"""Payloads, results and error texts: what is kept, what is refused and which field is named."""

from __future__ import annotations

import dataclasses
import math
import os
from collections import OrderedDict
from decimal import Decimal
from enum import Enum
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidework.errors import InvalidPayload
from sidework.model.payload import (
    MAX_DEPTH,
    MAX_ERROR_BYTES,
    MAX_HEAD_BYTES,
    MAX_PAYLOAD_BYTES,
    canonical,
    check_payload_text,
    clean_text,
    decode_payload,
    decode_result,
    encode_payload,
    encode_result,
    error_text,
)


@dataclasses.dataclass
class User:
    name: str
    score: float = 0.0


class Point(msgspec.Struct, rename={"x": "left"}):
    x: float


class Odd(Enum):
    NUMBER = math.inf
    TEXT = "a\0b"


class Text(str):
    """As frameworks mark text that is safe to show."""

    __slots__ = ()


def nested(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(levels - 1):
        value = {"a": value}
    return value


def refused(value: object) -> InvalidPayload:
    with pytest.raises(InvalidPayload) as caught:
        encode_payload(value)
    return caught.value


@pytest.mark.parametrize(
    ("payload", "field", "words"),
    [
        ({"a": math.nan}, "a", "no number nan"),
        ({"a": -math.inf}, "a", "no number -inf"),
        ({"user": {"tags": ["x", "y", math.nan]}}, "user.tags[2]", "no number nan"),
        ({"user": User("ada", math.nan)}, "user.score", "no number nan"),
        ({"point": Point(math.nan)}, "point.left", "no number nan"),
        ({"odd": Odd.NUMBER}, "odd", "no number inf"),
        ({"pairs": (1, {2: "b"})}, "pairs[1][2]", "strings as keys"),
        ({"a": "x\0y"}, "a", "NUL"),
        ({"a": [["\0"]]}, "a[0][0]", "NUL"),
        ({"a": {"k\0": 1}}, "a.k\\x00", "NUL"),
        ({"odd": Odd.TEXT}, "odd", "NUL"),
        ({"a": "caf\udce9"}, "a", "surrogate"),
        ({"a": {"b": os.fsdecode(b"caf\xe9.txt")}}, "a.b", "surrogate"),
        ({"\ud800": 1}, "\\ud800", "surrogate"),
        ({"file": Path(os.fsdecode(b"caf\xe9.txt"))}, "file", "surrogate"),
        ({1: "a"}, "[1]", "strings as keys"),
        ({"a": {None: 1}}, "a.None", "strings as keys"),
        ({"a": {(1, 2): 1}}, "a.(1, 2)", "strings as keys"),
        ({"a": {"b": object()}}, "a.b", "type object"),
        ({"a": 1j}, "a", "type complex"),
        ({"a": print}, "a", "builtin_function_or_method"),
    ],
)
def test_what_json_does_not_allow_is_refused_and_the_field_named(payload: object, field: str, words: str) -> None:
    error = refused(payload)
    assert error.field == field
    assert words in str(error)
    assert repr(field) in str(error)


@pytest.mark.parametrize("payload", [[1], "text", 7, (1, 2), {1, 2}, True])
def test_only_an_object_is_a_payload(payload: object) -> None:
    assert "JSON object" in str(refused(payload))


def test_a_payload_of_64_levels_is_kept_and_one_of_65_is_not() -> None:
    assert encode_payload(nested(MAX_DEPTH)) is not None
    error = refused(nested(MAX_DEPTH + 1))
    assert "64 levels" in str(error)
    assert error.field == ".".join(["a"] * MAX_DEPTH)


def test_a_payload_that_holds_itself_is_refused_not_a_crash() -> None:
    loop: dict[str, object] = {}
    loop["again"] = loop
    assert "64 levels" in str(refused(loop))


def test_one_mebibyte_is_kept_and_one_byte_more_is_not() -> None:
    room = MAX_PAYLOAD_BYTES - len('{"a":""}')
    assert len(encode_payload({"a": "x" * room}) or "") == MAX_PAYLOAD_BYTES
    assert "1,048,577 bytes" in str(refused({"a": "x" * (room + 1)}))


def test_the_limit_counts_bytes_and_not_characters() -> None:
    assert "the limit is" in str(refused({"a": "é" * (MAX_PAYLOAD_BYTES // 2)}))


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        (None, None),
        ({}, "{}"),
        ({"a": None, "null": "null"}, '{"a":null,"null":"null"}'),
        ({"a": "\\u0000"}, '{"a":"\\\\u0000"}'),
        ({"big": 2**70}, '{"big":1180591620717411303424}'),
        (OrderedDict(a=1), '{"a":1}'),
        (MappingProxyType({"a": 1}), '{"a":1}'),
        ({"a": Text("x")}, '{"a":"x"}'),
        ({"inner": MappingProxyType({"a": (1, 2)})}, '{"inner":{"a":[1,2]}}'),
        (User("ada"), '{"name":"ada","score":0.0}'),
        (Point(1.5), '{"left":1.5}'),
        ({"price": Decimal("1.10"), "raw": b"\0\xff"}, '{"price":"1.10","raw":"AP8="}'),
    ],
)
def test_what_is_kept(payload: object, text: str | None) -> None:
    assert encode_payload(payload) == text


def test_number_keys_pass_only_for_who_knows_how_to_read_them_back() -> None:
    assert encode_payload({"a": {1: "x"}}, any_keys=True) == '{"a":{"1":"x"}}'
    with pytest.raises(InvalidPayload) as caught:
        encode_payload({"a": {(1, 2): "x"}}, any_keys=True)
    assert caught.value.field == "a.(1, 2)"


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text('ab\\u0é\n"'),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", max_size=3), inner, max_size=3),
    max_leaves=12,
)


@given(st.dictionaries(st.text("ab", max_size=3), json_values, max_size=4))
def test_what_is_kept_comes_back_equal(payload: dict[str, Any]) -> None:
    assert decode_payload(encode_payload(payload)) == payload


@given(st.dictionaries(st.text("ab", max_size=2), json_values, max_size=3), st.sampled_from([math.nan, "\0", "\ud800"]))
def test_one_bad_value_is_found_wherever_it_stands(payload: dict[str, Any], bad: object) -> None:
    payload["x"] = {"y": [payload.copy(), bad]}
    assert refused(payload).field == "x.y[1]"


@pytest.mark.parametrize(("text", "payload"), [(None, None), ("null", None), ("{}", {}), ('{"a":[1]}', {"a": [1]})])
def test_a_kept_text_becomes_a_dict_or_none(text: str | None, payload: object) -> None:
    assert decode_payload(text) == payload


@pytest.mark.parametrize(
    "text", ["", "nope", "{'a': 1}", "[1]", '"text"', "7", '{"a":NaN}', '{"a":1} x', '{"a":"\ud800"}']
)
def test_a_kept_text_that_is_no_json_object_says_so(text: str) -> None:
    with pytest.raises(InvalidPayload) as caught:
        decode_payload(text)
    assert caught.value.not_json
    assert caught.value.field is None


def test_a_kept_text_too_deep_for_the_reader_is_an_error_like_any_other() -> None:
    with pytest.raises(InvalidPayload) as caught:
        decode_payload('{"a":' + "[" * 100_000 + "]" * 100_000 + "}")
    assert caught.value.not_json


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ('{"a":"\\u0000"}', "a"),
        ('{"a":' * 65 + "{}" + "}" * 65, ".".join(["a"] * 64)),
        ("nope", None),
        ("[]", None),
        ('{"a":"' + "x" * MAX_PAYLOAD_BYTES + '"}', None),
    ],
)
def test_a_text_from_outside_is_held_to_the_same_limits(text: str, field: str | None) -> None:
    with pytest.raises(InvalidPayload) as caught:
        check_payload_text(text)
    assert caught.value.field == field


def test_a_text_from_outside_within_the_limits_passes() -> None:
    check_payload_text('{"a": {"b": [1, 2.5, null, "é"]}}')


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, None), (0, "0"), ("", '""'), ({1: "a"}, '{"1":"a"}'), (User("ada"), '{"name":"ada","score":0.0}')],
)
def test_a_result_is_kept_as_json(value: object, text: str | None) -> None:
    assert encode_result(value) == text


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (math.nan, "the result: JSON has no number nan"),
        ({"a": object()}, "result field 'a'"),
        ("x" * 2**20, "the result is"),
    ],
)
def test_a_result_that_cannot_be_kept_is_refused(value: object, words: str) -> None:
    with pytest.raises(InvalidPayload, match=words):
        encode_result(value)


def test_a_result_comes_back_as_its_type() -> None:
    assert decode_result('{"name":"ada"}', User) == User("ada")
    assert decode_result('{"1":2}', dict[int, int]) == {1: 2}
    assert decode_result(None, User) is None
    assert decode_result('{"a":1}') == {"a": 1}


def test_a_result_that_does_not_fit_its_type_names_the_field() -> None:
    with pytest.raises(InvalidPayload, match="result field 'name'") as caught:
        decode_result('{"name":7}', User)
    assert caught.value.field == "name"


def test_equal_payloads_have_one_canonical_form() -> None:
    assert canonical('{"a": 1, "b": {"d": 2, "c": 3}}') == canonical('{"b":{"c":3,"d":2},"a":1}')
    assert canonical('{"a": 1}') != canonical('{"a": 2}')
    assert canonical(None) == canonical("null")


def test_cleaned_text_is_what_any_database_takes() -> None:
    assert clean_text("a\0b\ud800é", 100) == "a\\x00b\\ud800é"


def test_cleaned_text_is_cut_between_characters() -> None:
    assert clean_text("aé" * 10, 5) == "aéa"
    assert clean_text("é" * 10, 3) == "é"


def failing(depth: int) -> None:
    if depth:
        failing(depth - 1)
    raise ValueError("the cause")


def raised(call: Any, *args: object) -> BaseException:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - whatever it raises is the example
        call(*args)
    return caught.value


def test_an_error_text_is_head_and_traceback() -> None:
    text = error_text(raised(failing, 0))
    assert text.startswith("ValueError: the cause\n\nTraceback (most recent call last):\n")
    assert "in failing" in text
    assert text.endswith("ValueError: the cause")


def test_a_long_error_text_keeps_its_head_and_its_end() -> None:
    def talkative() -> None:
        raise ValueError("start " + "é" * MAX_ERROR_BYTES + " the very end")

    text = error_text(raised(talkative))
    assert len(text.encode()) <= MAX_ERROR_BYTES
    assert text.startswith("ValueError: start é")
    assert text.endswith("é the very end")
    assert "\n\n[...] é" in text
    assert len(text.partition("\n\n")[0].encode()) <= MAX_HEAD_BYTES


def test_an_error_text_has_nothing_a_database_would_refuse() -> None:
    text = error_text(ValueError("a\0b\udce9"))
    assert text.startswith("ValueError: a\\x00b\\udce9")
    assert "\0" not in text
    text.encode()


class BrokenError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


def test_an_exception_that_cannot_be_read_still_has_a_text() -> None:
    assert error_text(BrokenError()).startswith("BrokenError: (its message cannot be read: RuntimeError)")
