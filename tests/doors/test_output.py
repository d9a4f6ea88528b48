"""What is printed: no control characters, no secrets, values in words."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidework.cli.output import HIDDEN, clean, duration, hide_secrets, in_words


@given(st.text())
def test_clean_text_holds_no_control_character_but_line_ends_and_tabs(text: str) -> None:
    assert all(letter.isprintable() or letter in "\n\t" or ord(letter) > 0x9F for letter in clean(text))


@pytest.mark.parametrize("nasty", ["\x1b[2Jgone", "a\rb", "\x9b31m", "\u202eoops", "\x00", "\x07"])
def test_clean_text_cannot_steer_a_terminal(nasty: str) -> None:
    assert not set(clean(nasty)) & set("\x1b\r\x9b\u202e\x00\x07")


def test_clean_text_keeps_what_people_write() -> None:
    assert clean("Grüße, 東京\n\tzwei") == "Grüße, 東京\n\tzwei"


@pytest.mark.parametrize(
    "name",
    [
        "password",
        "Password",
        "db_passwd",
        "API-Key",
        "apiKey",
        "access_token",
        "Authorization",
        "client_secret",
        "set-cookie",
    ],
)
def test_what_stands_under_the_name_of_a_secret_is_hidden(name: str) -> None:
    assert hide_secrets({"deep": [{name: "hunter2", "user": "ada"}]}) == {"deep": [{name: HIDDEN, "user": "ada"}]}


def test_what_is_no_secret_stays() -> None:
    value = {"user": "ada", "tags": ["a", None, 1.5], "keys": {"monkey": True}}
    assert hide_secrets(value) == value


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "-"),
        (True, "yes"),
        (False, "no"),
        (0, "0"),
        (3.0, "3"),
        ({"a": [1]}, '{"a": [1]}'),
        (frozenset({"b", "a"}), "a, b"),
        (datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC), "2026-01-02 03:04:05Z"),
    ],
)
def test_values_are_said_as_people_read_them(value: object, words: str) -> None:
    assert in_words(value) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "0 s"), (59, "59 s"), (119, "119 s"), (300, "5 min"), (7200, "2 h"), (86_400, "24 h"), (172_800, "2 d")],
)
def test_lengths_of_time_are_said_in_the_largest_sensible_unit(seconds: float, words: str) -> None:
    assert duration(timedelta(seconds=seconds)) == words
